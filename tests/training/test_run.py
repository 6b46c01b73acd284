"""A whole training run on a few made-up pictures: it learns, resumes exactly, and never looks at the test labels."""

import csv
import json
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import make_faces
from PIL import Image

from aescli.data.splits import holdout, kfold
from aescli.errors import AesError, UsageError
from aescli.models.checkpoint import load_checkpoint
from aescli.presets import load_preset
from aescli.training.distributed import Group
from aescli.training.run import read_training_data, repeated, split_data, train_model
from aescli.training.trainer import STATE, Trainer

SMALL = [
    "model.encoder={name: mobilenetv1, levels: [4, 6], image_size: 32}",
    "model.width=8",
    "model.dem={d_state: 2, expand: 1, sub_blocks: 2}",
    "model.same={states: 3, experts: 2, rank_min: 2, rank_step: 1, task_rank: 2, heads: 2}",
    "model.score_heads=['']",
    "model.score_weights=null",
    "preprocessing.faces=false",
    "train.epochs=3",
    "train.batch_size=8",
    "train.frozen_blocks=3",
    "train.views=2",
    "train.validation=0.2",
    "train.augment={flip: 0.5}",
    "train.lr=3e-3",
    "train.probe=false",  # sensible beside pretrained features only; these encoders are random
]


def _preset(*changes):
    return load_preset("momamba-lite", [*SMALL, *changes])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 pictures whose score is their brightness, 1..5, in five official folds."""
    return make_faces(tmp_path_factory.mktemp("data") / "faces")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _run(folder, out, *changes, resume=False, **options):
    preset = _preset(*changes)
    data = read_training_data(preset, [folder])
    parts = split_data(data, preset, 1)
    return train_model(
        preset, data, parts, out, features=out / "features", resume=resume, log=lambda _: None, **options
    )


def test_a_run_learns_and_leaves_a_whole_checkpoint(folder, tmp_path):
    metrics = _run(folder, tmp_path / "run", "train.epochs=25", "train.lr=5e-3")
    assert metrics["scut-fbp5500"]["score"]["SRCC"] > 0.6
    assert metrics["scut-fbp5500"]["n"] == 8
    loaded = load_checkpoint(tmp_path / "run")
    assert len(loaded.training_hashes) == 32
    assert loaded.card.score_range == (1, 5)
    assert loaded.preprocessing.size == 32
    assert not (tmp_path / "run" / STATE).exists()
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["train"] + run["validation"] == 32


def test_the_linear_start_already_predicts(folder, tmp_path):
    frozen = ["train.frozen_blocks=6", "train.probe=true", "train.epochs=1", "train.lr=1e-9"]
    metrics = _run(folder, tmp_path / "run", *frozen)
    assert metrics["scut-fbp5500"]["score"]["SRCC"] > 0.8
    assert metrics["scut-fbp5500"]["classes"]["ACC"] > 0.4


def test_the_closing_ridge_alone_predicts_too(folder, tmp_path):
    """With all of the score its, and nothing learnt before."""
    closing = ["train.refit=1", "train.epochs=1", "train.lr=1e-9"]
    metrics = _run(folder, tmp_path / "run", *closing)
    assert metrics["scut-fbp5500"]["score"]["SRCC"] > 0.8
    untaught = _run(folder, tmp_path / "other", "train.refit=0", *closing[1:])
    assert untaught["scut-fbp5500"]["score"]["SRCC"] < metrics["scut-fbp5500"]["score"]["SRCC"]


def test_the_saved_model_gives_the_reported_predictions(folder, tmp_path):
    _run(folder, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "test_scut-fbp5500.json").read_text())
    loaded = load_checkpoint(tmp_path / "run")
    preset = _preset()
    data = read_training_data(preset, [folder])
    data.pictures.preprocessing = loaded.preprocessing
    by_name = {s.name: i for i, s in enumerate(data.pictures.samples)}
    from aescli.training.features import to_input

    crops = [data.pictures.clean(by_name[row["name"]]) for row in rows]
    with torch.inference_mode():
        score = loaded.model(to_input(crops, loaded.preprocessing, torch.device("cpu"))).score
    # The reported ones went through float16 features.
    np.testing.assert_allclose(score.numpy(), [np.mean(row["heads"]) for row in rows], atol=5e-3)


def test_resuming_equals_an_unbroken_run(folder, tmp_path, monkeypatch):
    whole = _run(folder, tmp_path / "whole", "train.ema=0.9")
    real, calls = Trainer._save, []

    def save_then_die(self, record):
        real(self, record)
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        _run(folder, tmp_path / "broken", "train.ema=0.9")
    began = (tmp_path / "broken" / "run.json").read_bytes()
    with pytest.raises(UsageError, match=r"train\.ema 0\.5 instead of 0\.9; ask for the same"):
        _run(folder, tmp_path / "broken", "train.ema=0.5", resume=True)
    assert (tmp_path / "broken" / "run.json").read_bytes() == began
    resumed = _run(folder, tmp_path / "broken", "train.ema=0.9", resume=True)
    assert resumed["scut-fbp5500"] == whole["scut-fbp5500"]
    a, b = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("whole", "broken"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=0, rtol=0)


def test_shuffled_test_labels_change_no_prediction(folder, tmp_path):
    _run(folder, tmp_path / "a")
    other = tmp_path / "shuffled"
    other.mkdir()
    (other / "images").symlink_to(folder / "images")
    with (folder / "labels.csv").open() as file:
        header, *rows = list(csv.reader(file))
    test = [row for row in rows if row[3] == "1"]
    scores = [row[1] for row in test]
    for row, score in zip(test, scores[3:] + scores[:3], strict=True):
        row[1] = score
    with (other / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    _run(other, tmp_path / "b")
    a, b = (json.loads((tmp_path / n / "test_scut-fbp5500.json").read_text()) for n in "ab")
    assert [row["heads"] for row in a] == [row["heads"] for row in b]
    assert [row["score"] for row in a] != [row["score"] for row in b]


def test_live_and_cached_clean_features_agree(folder, tmp_path):
    # A cache rounds to fp16, a live frozen part to bf16 where the machine has it; what is left out here enlarges that.
    same = (
        "train.augment={flip: 0}",
        "train.dtype=fp32",
        "train.mixup=0",
        "train.loss.teacher=0",
        "train.refit=0",
    )
    cached = _run(folder, tmp_path / "cached", *same)
    live = _run(folder, tmp_path / "live", *same, "train.views=0")
    a, b = cached["scut-fbp5500"]["score"], live["scut-fbp5500"]["score"]
    assert a["MAE"] == pytest.approx(b["MAE"], abs=0.05)


def test_near_duplicates_of_test_images_leave_the_training_part(folder, tmp_path):
    copied = tmp_path / "copied"
    (copied / "images").mkdir(parents=True)
    with (folder / "labels.csv").open() as file:
        header, *rows = list(csv.reader(file))
    for row in rows:
        (copied / "images" / row[0]).write_bytes((folder / "images" / row[0]).read_bytes())
    test, train = next(r for r in rows if r[3] == "1"), next(r for r in rows if r[3] == "2")
    (copied / "images" / train[0]).write_bytes((folder / "images" / test[0]).read_bytes())
    with (copied / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    preset = _preset()
    data = read_training_data(preset, [copied])
    parts = split_data(data, preset, 1)
    names = [s.name for s in data.pictures.samples]
    assert test[0] in {names[i] for i in parts.test["scut-fbp5500"]}
    assert train[0] not in {names[i] for i in [*parts.train, *parts.validation]}
    assert [names[i] for i in parts.left_out] == [train[0]]
    train_model(preset, data, parts, tmp_path / "run", features=tmp_path / "features", log=lambda _: None)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["left_out"] == [train[0]]


def test_a_seeded_split_is_saved_and_used_again(folder, tmp_path):
    preset = _preset()
    data = read_training_data(preset, [folder])
    parts = split_data(data, preset, None)
    assert len(parts.test["scut-fbp5500"]) == 8
    parts.splits[0].save(tmp_path / "split.json")
    again = split_data(data, preset, None, [tmp_path / "split.json"])
    np.testing.assert_array_equal(parts.train, again.train)
    np.testing.assert_array_equal(parts.test["scut-fbp5500"], again.test["scut-fbp5500"])


@pytest.mark.parametrize("fold", [1, None], ids=["fold", "8:2"])
def test_drawn_splits_give_every_part_its_share_of_each_stratum(tmp_path, fold):
    """Only where the data set states one: other partitions stay as published."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = ["file,db,mos,n,count_1,count_2,count_3,count_4,count_5"]
    for i in range(60):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{'abc'[i % 3]},{3 - 1e-4 * i:.4f},2,0,1,0,1,0")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    preset = _preset("train.validation=0.25", "model.score_heads=['']")
    data = read_training_data(preset, [tmp_path])
    parts = split_data(data, preset, fold)
    strata = np.array(data.datasets[0].strata)
    for part, share in ((parts.test["sophoappeal"], 4), (parts.validation, 4), (parts.train, 12)):
        assert [np.sum(strata[part] == db) for db in "abc"] == [share] * 3
    assert parts.splits[0].rule.endswith("stratified by stratum and score, near-duplicates kept together")

    data.datasets[0] = replace(data.datasets[0], stratum="")
    plain = split_data(data, preset, fold).splits[0]
    scores_only = kfold if fold else holdout
    unstratified = scores_only(data.datasets[0], groups=data.groups, content=data.content)
    assert plain == unstratified != parts.splits[0]


def test_all_data_keeps_no_test_part(folder):
    preset = _preset("train.validation=0.0")
    data = read_training_data(preset, [folder])
    parts = split_data(data, preset, None, train_on_all=True)
    assert len(parts.train) == 40
    assert not parts.test


def test_a_data_set_without_a_head_is_refused(folder):
    preset = _preset("model.score_heads=[mebeauty, other]")
    with pytest.raises(UsageError, match="no score head"):
        read_training_data(preset, [folder])


def test_a_diverging_run_says_so(folder, tmp_path):
    with pytest.raises(AesError, match="not finite"):
        _run(folder, tmp_path / "run", "train.lr=1e12", "train.epochs=4", "train.warmup=0")


@pytest.mark.parametrize("modules", ["B", "B+S"])
@pytest.mark.parametrize("tasks", ["[classification]", "[regression]"])
def test_ablations_train(folder, tmp_path, modules, tasks):
    metrics = _run(
        folder, tmp_path / "run", f"model.modules={modules}", f"model.tasks={tasks}", "train.epochs=1"
    )
    assert ("score" in metrics["scut-fbp5500"]) == ("regression" in tasks)
    assert ("classes" in metrics["scut-fbp5500"]) == ("classification" in tasks)


def test_other_encoders_train_from_live_pictures(folder, tmp_path):
    metrics = _run(
        folder,
        tmp_path / "run",
        "model.encoder={name: vit_tiny_patch16_224, image_size: 32, levels: [1, 2]}",
        "model.mirror_scale=1",
        "train.frozen_blocks=0",
        "train.epochs=1",
        "train.layer_decay=0.8",
    )
    assert np.isfinite(metrics["scut-fbp5500"]["score"]["MAE"])


@pytest.mark.parametrize("features", ["out / 'features'", "None"])
def test_two_processes_train_one_model(folder, tmp_path, features):
    """The same command under a launcher: each takes its share, both end with the same weights, one writes.

    Only the first asks the teacher and fits the linear start; the other has its answers.
    """
    script = tmp_path / "run.py"
    changes = ["train.epochs=2", "train.ema=0.5", "train.probe=true", "train.loss.teacher=1"]
    script.write_text(
        "import os, torch\nfrom pathlib import Path\nfrom aescli.presets import load_preset\n"
        "from aescli.training import momamba, run\nfrom aescli.training.trainer import Trainer\n"
        f"preset = load_preset('momamba-lite', {[*SMALL, *changes]!r})\n"
        f"out = Path({str(tmp_path)!r})\n"
        "real = Trainer.run\n"
        "def and_keep(self, resume=False):\n"
        "    real(self, resume)\n"
        "    kept = {**self.model.state_dict(), 'opinions': self.objective.targets.teacher}\n"
        "    torch.save(kept, out / f'rank{self.group.rank}.pt')\n"
        "Trainer.run = and_keep\n"
        "def asked(name, real):\n"
        "    (out / f'{name}{os.environ[\"RANK\"]}').touch()\n"
        "    return real\n"
        "for name in ('teach', 'fit_skips'):\n"
        "    real_one = getattr(momamba, name)\n"
        "    setattr(momamba, name, lambda *a, n=name, r=real_one: asked(n, r)(*a))\n"
        f"data = run.read_training_data(preset, [Path({str(folder)!r})])\n"
        "parts = run.split_data(data, preset, 1)\n"
        f"run.train_model(preset, data, parts, out / 'two', features={features}, log=lambda _: None)\n"
    )
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={_free_port()}",
    ]
    done = subprocess.run([*launch, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    a, b = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    for key in a:
        torch.testing.assert_close(a[key], b[key], equal_nan=True)
    assert (
        a["opinions"].isfinite().sum()
        == json.loads((tmp_path / "two" / "run.json").read_text())["train"]
        > 20
    )
    assert sorted(p.name for p in tmp_path.glob("[tf]*[01]")) == ["fit_skips0", "teach0"]
    metrics = json.loads((tmp_path / "two" / "checkpoint" / "metrics.json").read_text())
    assert metrics["scut-fbp5500"]["n"] == 8
    assert len(metrics["history"]) == 2


def test_shares_are_equally_long_and_cover_everything():
    order = np.arange(11)
    shares = []
    for rank in range(4):
        group = Group()
        group.size, group.rank = 4, rank
        shares.append(group.share(order))
    assert {len(share) for share in shares} == {3}
    assert set(np.concatenate(shares)) == set(range(11))


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_repeated_images_are_of_the_named_data_set_only(folder):
    preset = _preset("data.repeat={scut-fbp5500: 3}")
    data = read_training_data(preset, [folder])
    np.testing.assert_array_equal(repeated(np.array([4, 7]), data, preset), [4, 4, 4, 7, 7, 7])
    with pytest.raises(UsageError, match="no data set named mebeauty"):
        repeated(np.array([4]), data, _preset("data.repeat={mebeauty: 2}"))


def test_mixup_blends_within_a_score_head():
    trainer = SimpleNamespace(config=_preset("train.mixup=0.5").train)
    head = torch.tensor([0, 1, 0, 1, 0, 0, 1])
    torch.manual_seed(3)
    blend = Trainer._blender(trainer, head)
    shares = blend(torch.eye(7))  # row k: how much of each sample is in the k-th blend
    torch.testing.assert_close(shares.sum(1), torch.ones(7))
    assert (shares.diagonal() >= 0.5).all()
    assert (shares.diagonal() < 1).any()
    assert not shares[head[:, None] != head[None]].any()
    maps = torch.randn(7, 3, 2, 2)
    torch.testing.assert_close(blend(maps), torch.einsum("kj,jchw->kchw", shares, maps))


def test_mixup_and_a_teacher_learn_too(folder, tmp_path):
    lines = []
    changes = ["train.mixup=0.4", "train.loss.teacher=1", "train.epochs=25", "train.lr=5e-3"]
    preset = _preset(*changes)
    data = read_training_data(preset, [folder])
    parts = split_data(data, preset, 1)
    metrics = train_model(preset, data, parts, tmp_path, features=tmp_path / "features", log=lines.append)
    assert any("leave-one-out" in line for line in lines)
    assert metrics["scut-fbp5500"]["score"]["SRCC"] > 0.6
    assert metrics["history"][-1]["teacher"] < metrics["history"][0]["teacher"]
