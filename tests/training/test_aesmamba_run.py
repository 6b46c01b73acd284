"""AesMamba's training runs on made-up pictures: attributes, distributions and comments all the way to a scored CSV."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from aescli import cli
from aescli.data.datasets.scored import ATTRIBUTES
from aescli.data.splits import Split, holdout
from aescli.errors import AesError, UsageError
from aescli.models.aesmamba import PARA_ATTRIBUTES
from aescli.models.checkpoint import load_checkpoint
from aescli.presets import load_preset
from aescli.training.run import read_training_data, split_data, train_model
from aescli.training.trainer import Trainer

ENCODER = {"name": "mobilenetv1", "levels": [6], "image_size": 32}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _picture(rng, level, size=40):
    return Image.fromarray(
        (255 * level + rng.normal(0, 10, (size, size + 9, 3))).clip(0, 255).astype(np.uint8)
    )


def _preset(tmp_path, model, **train):
    values = {
        "architecture": "aesmamba",
        "task": "viaa",
        "model": {"encoder": ENCODER, "hidden": 16, **model},
        "preprocessing": {"faces": False, "fit": "stretch"},
        "data": {"class_cuts": [3.0]},
        "train": {"epochs": 12, "batch_size": 8, "lr": 3e-3, "validation": 0.2, "beta2": 0.99,
                  "augment": {"flip": 0.5, "crop_from": 36}, **train},
    }  # fmt: skip
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_preset(str(path))


def _train(preset, root, out):
    data = read_training_data(preset, [root])
    parts = split_data(data, preset, None)
    return train_model(preset, data, parts, out, log=lambda _: None), data, parts


@pytest.fixture
def para(tmp_path):
    """40 pictures in PARA's layout; every attribute follows the brightness, `dof` against it."""
    root, rng = tmp_path / "para", np.random.default_rng(0)
    rows = []
    for i in range(40):
        level, session = rng.uniform(0.1, 0.9), f"session{i % 3}"
        (root / "imgs" / session).mkdir(parents=True, exist_ok=True)
        _picture(rng, level).save(root / "imgs" / session / f"iaa_pub{i}_.jpg")
        scores = {name: 1 + 4 * (1 - level if name == "dof" else level) for name in ATTRIBUTES}
        row = {"sessionId": session, "imageName": f"iaa_pub{i}_.jpg", "semantic": "scene"}
        rows.append(row | {f"{ATTRIBUTES[name]}_mean": round(value, 4) for name, value in scores.items()})
    for name, part in (("PARA-GiaaTrain.csv", rows[:32]), ("PARA-GiaaTest.csv", rows[32:])):
        with (root / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(part)
    return root


def _para_model():
    attributes = [{"name": n, "scale": [1, 5], "categories": "para"} for n in PARA_ATTRIBUTES]
    return {"attributes": attributes}


def test_nine_attributes_are_learnt_on_the_official_split_and_scored(para, tmp_path):
    metrics, _, parts = _train(_preset(tmp_path, _para_model()), para, tmp_path / "run")
    assert {name: len(where) for name, where in parts.test.items()} == {"para": 8}
    assert metrics["para"]["score"]["SRCC"] > 0.8
    assert metrics["para"]["attributes"]["dof"]["SRCC"] > 0.8
    pictures = sorted((para / "imgs").rglob("*.jpg"))
    out = tmp_path / "scores.csv"
    with pytest.raises(SystemExit) as done:
        cli.main(
            [
                "score",
                str(para / "imgs"),
                "--model",
                str(tmp_path / "run"),
                "--task",
                "viaa",
                "--out",
                str(out),
            ]
        )
    assert not done.value.code
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-10:] == [*PARA_ATTRIBUTES, "error"]
    assert len(rows) == len(pictures)
    level = [np.asarray(Image.open(r["path"])).mean() for r in rows]
    assert np.corrcoef(level, [float(r["score"]) for r in rows])[0, 1] > 0.8
    assert np.corrcoef(level, [float(r["dof"]) for r in rows])[0, 1] < -0.8
    assert all(r["score"] == r["aesthetic"] for r in rows)
    assert all(r["class"] == ("2" if float(r["score"]) >= 3 else "1") for r in rows)


@pytest.fixture
def votes(tmp_path):
    """40 pictures in AVA-Captions' manner: ten counts and a comment; the comment, not the picture, tells the score."""
    root, rng = tmp_path / "ava", np.random.default_rng(1)
    (root / "images").mkdir(parents=True)
    rows = []
    for i in range(40):
        good = i % 2
        _picture(rng, 0.5).save(root / "images" / f"{i}.jpg")
        counts = rng.multinomial(100, np.eye(10)[7 if good else 2] * 0.6 + 0.04)
        comment = "a great light !" if good else "the bad photo ."
        rows.append((i, " ".join(map(str, counts)), comment))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("index", "label", "comment"), *rows])
    return root


def test_comments_decide_where_the_pictures_say_nothing(votes, tmp_path, tiny_text):
    model = {
        "text": {"name": tiny_text.name, "max_tokens": 32},
        "heads": 2,
        "head_dim": 8,
        "attributes": [{"name": "aesthetic", "scale": [1, 10], "outputs": 10, "categories": "ava"}],
    }
    preset = _preset(tmp_path, model, epochs=40, lr=3e-3, selection="last")
    metrics, _, _ = _train(preset, votes, tmp_path / "run")
    assert metrics["ava-captions"]["score"]["SRCC"] > 0.7
    assert 0 < metrics["ava-captions"]["score"]["EMD"] < 0.2
    loaded = load_checkpoint(tmp_path / "run")
    tokens = loaded.tokenizer(["a great light !", "the bad photo ."])
    with torch.inference_mode():
        score = loaded.model(torch.zeros(2, 3, 32, 32), tokens).score
    assert score[0] > score[1] + 1


def test_the_report_counts_only_what_is_known(para, tmp_path):
    rows = list(csv.DictReader((para / "PARA-GiaaTest.csv").open()))
    for row in rows[:6]:
        row["dofScore_mean"] = ""
    with (para / "PARA-GiaaTest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    metrics, _, _ = _train(_preset(tmp_path, _para_model(), epochs=1), para, tmp_path / "run")
    assert np.isfinite(metrics["para"]["score"]["MAE"])
    tested = json.loads((tmp_path / "run" / "test_para.json").read_text())
    assert len(tested) == 8


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"attributes": [{"name": "aesthetic", "scale": [1, 5]}, {"name": "mood", "scale": [1, 5]}]},
            "'mood'",
        ),
        ({"attributes": [{"name": "aesthetic", "scale": [1, 5], "outputs": 10}]}, "how many votes"),
    ],
)
def test_what_the_data_set_does_not_have_is_said_before_training(para, tmp_path, model, message):
    with pytest.raises(UsageError, match=message):
        _train(_preset(tmp_path, model), para, tmp_path / "run")


@pytest.mark.parametrize("unit", [1, 25])
def test_a_tables_further_column_is_an_attribute_if_it_is_on_the_scores_scale(para, tmp_path, unit):
    pictures = sorted((para / "imgs").rglob("*.jpg"))
    lines = [f"{p.relative_to(para)},{1 + i % 5},{(5 - i % 5) * unit}\n" for i, p in enumerate(pictures)]
    (para / "mine.csv").write_text("image,score,mood\n" + "".join(lines))
    names = {"attributes": [{"name": n, "scale": [1, 5], "categories": "para"} for n in ("beauty", "mood")]}
    preset = _preset(tmp_path, names, epochs=1)
    if unit == 1:
        metrics, _, _ = _train(preset, para / "mine.csv", tmp_path / "run")
        assert np.isfinite(metrics["mine"]["attributes"]["mood"]["MAE"])
    else:
        with pytest.raises(UsageError, match="'mood' has training scores outside 1 to 5"):
            _train(preset, para / "mine.csv", tmp_path / "run")


def test_pictures_that_cannot_be_decoded_are_named_and_left_out(para, tmp_path):
    broken = [
        *sorted((para / "imgs" / "session0").glob("*.jpg"))[:2],
        para / "imgs" / "session1" / "iaa_pub1_.jpg",
    ]
    for path in broken[:2]:
        path.write_bytes(path.read_bytes()[:300])
    broken[2].write_bytes(b"")
    lines = []
    data = read_training_data(_preset(tmp_path, _para_model()), [para], log=lines.append)
    assert len(data.pictures.samples) == len(data.content) == len(data.datasets[0]) == 37
    assert not {s.path for s in data.pictures.samples} & set(broken)
    said = next(line for line in lines if "cannot be decoded" in line)
    assert said.startswith("para: 3 images cannot be decoded and are left out (")
    assert all(str(path) in said for path in broken)
    assert data.undecodable == sorted(map(str, broken))
    for path in para.rglob("*.jpg"):
        path.write_bytes(b"x")
    with pytest.raises(AesError, match="none of its 40 images can be decoded"):
        read_training_data(_preset(tmp_path, _para_model()), [para])


def _write_split(root, pictures, parts):
    rows = enumerate(zip(pictures, parts, strict=True))
    lines = [f"{p.relative_to(root)},{1 + i % 5},{part}\n" for i, (p, part) in rows]
    (root / "mine.csv").write_text("image,score,split\n" + "".join(lines))


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_the_official_validation_part_validates(para, tmp_path, share):
    pictures = sorted((para / "imgs").rglob("*.jpg"))
    parts = ["train"] * 24 + ["Validation"] * 8 + ["test"] * 8
    _write_split(para, pictures, parts)
    preset = _preset(tmp_path, {"attributes": [{"name": "a", "scale": [1, 5]}]}, validation=share)
    data = read_training_data(preset, [para / "mine.csv"])
    found = split_data(data, preset, None)
    assert found.test["mine"].tolist() == list(range(32, 40))
    assert found.validation.tolist() == (list(range(24, 32)) if share else [])
    assert len(found.train) == (24 if share else 32)


def test_copies_in_the_official_validation_part_do_not_train(para, tmp_path):
    pictures = sorted((para / "imgs").rglob("*.jpg"))
    pictures[30].write_bytes(pictures[3].read_bytes())  # validation, training
    parts = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    _write_split(para, pictures, parts)
    preset = _preset(tmp_path, {"attributes": [{"name": "a", "scale": [1, 5]}]})
    found = split_data(read_training_data(preset, [para / "mine.csv"]), preset, None)
    assert 3 not in found.train
    assert 30 in found.validation
    assert found.left_out.tolist() == [3]
    _write_split(para, pictures, ["val" if part == "train" else part for part in parts])
    found = split_data(read_training_data(preset, [para / "mine.csv"]), preset, None)
    assert len(found.train) + len(found.validation) == 32, "nothing but validation: it trains"
    assert len(found.train) > 20


@pytest.mark.parametrize(("width", "steps"), [(None, 3), (8, 2)], ids=["no BatchNorm", "BatchNorm"])
def test_a_last_batch_of_one_is_left_out_only_where_it_must_be(para, tmp_path, width, steps, monkeypatch):
    preset = _preset(
        tmp_path, {**_para_model(), "width": width}, epochs=1, batch_size=8, validation=0.0, freeze_norms=True
    )
    data = read_training_data(preset, [para])
    parts = split_data(data, preset, None)
    parts = replace(parts, train=parts.train[:17], validation=parts.validation[:0])
    sizes, plain = [], Trainer._step
    monkeypatch.setattr(
        Trainer, "_step", lambda self, batch, rows: sizes.append(len(rows)) or plain(self, batch, rows)
    )
    train_model(preset, data, parts, tmp_path / "run", log=lambda _: None)
    assert sizes == [8, 8, 1][:steps]


def test_a_name_that_is_not_utf_8_trains_and_is_written_down(para, tmp_path):
    pictures = sorted((para / "imgs").rglob("*.jpg"))
    odd = b"Zo\xc3\xab\xc3\xa9 \xff.jpg"
    os.rename(pictures[0], os.path.join(os.fsencode(para), b"imgs", odd))
    names = [odd, *(os.fsencode(p.relative_to(para)) for p in pictures[1:])]
    rows = b"".join(name + b",%d\n" % (1 + i % 5) for i, name in enumerate(names))
    (para / "mine.csv").write_bytes(b"image,score\n" + rows)
    preset = _preset(tmp_path, {"attributes": [{"name": "a", "scale": [1, 5]}]}, epochs=1)
    _, data, parts = _train(preset, para / "mine.csv", tmp_path / "run")
    assert len(data.datasets[0]) == 40
    parts.splits[0].save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json").digest == parts.splits[0].digest


def test_an_attribute_that_is_the_score_and_another_column_is_refused(para, tmp_path):
    pictures = sorted((para / "imgs").rglob("*.jpg"))
    lines = [f"{p.relative_to(para)},{1 + i % 5},{5 - i % 5}\n" for i, p in enumerate(pictures)]
    (para / "mine.csv").write_text("image,score,light\n" + "".join(lines))
    preset = _preset(tmp_path, {"attributes": [{"name": "light", "scale": [1, 5]}]})
    with pytest.raises(
        UsageError, match="'light' is the model's score, and --data has a column of this name"
    ):
        _train(preset, para / "mine.csv", tmp_path / "run")


def test_a_split_of_another_data_set_is_refused(para, tmp_path):
    preset = _preset(tmp_path, _para_model())
    data = read_training_data(preset, [para])
    holdout(replace(data.datasets[0], name="other"), seed=0).save(tmp_path / "other.json")
    with pytest.raises(UsageError, match="--split: made for the data set other; this run has para"):
        split_data(data, preset, None, [tmp_path / "other.json"])


def test_mixup_is_refused(para, tmp_path):
    with pytest.raises(UsageError, match=r"train\.mixup"):
        _train(_preset(tmp_path, _para_model(), mixup=0.4), para, tmp_path / "run")
