"""`aes train` then `aes eval` as a person types them: test labels decide nothing, training images are known again."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from aescli.cli import main

SMALL = [
    "train.validation=0.2",
    "model.encoder={name: mobilenetv1, levels: [2, 4], image_size: 32}",
    "model.width=8",
    "model.dem={d_state: 2, expand: 1, sub_blocks: 2}",
    "model.same={states: 3, experts: 3, rank_min: 2, rank_step: 1, top_k: 2, task_rank: 2, heads: 2}",
    "preprocessing.faces=false",
    "train.epochs=2",
    "train.lr=3e-3",
    "train.batch_size=8",
    "train.frozen_blocks=2",
    "train.views=1",
    "train.loss.teacher=0",
    "train.probe=false",  # sensible beside pretrained features only; these encoders are random
]
PRESET = ["--preset", "momamba-lite", *(word for change in SMALL for word in ("--set", change))]


def aes(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code or 0


def write_labels(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "score", "group", "fold", "split6040"), *rows])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """40 textured pictures whose score is their brightness, in five folds; one of fold 2 is a copy out of fold 1."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("aescli.runtime.available_cpus", lambda: 1)  # threads that wait for each other
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        level = rng.uniform(0.2, 0.8)
        coarse = (255 * level + rng.normal(0, 50, (5, 5, 3))).clip(0, 255).astype(np.uint8)
        name = f"{('AF', 'AM', 'CF', 'CM')[i % 4]}{i}.png"
        Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(root / "images" / name)
        rows.append((name, round(1 + 4 * level, 4), name[:2], i % 5 + 1, "train"))
    (root / "images" / rows[1][0]).write_bytes((root / "images" / rows[0][0]).read_bytes())
    write_labels(root / "labels.csv", rows)
    return root


def predictions(report):
    rows = list(csv.DictReader((report / "predictions.csv").open()))
    return {row["image"]: [row["score"], row["class"], *(row[f"p_{k}"] for k in range(1, 6))] for row in rows}


def test_shuffled_test_labels_change_no_prediction_of_train_and_eval(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the report extra (matplotlib) is not installed")
    other = tmp_path / "shuffled"
    other.mkdir()
    (other / "images").symlink_to(folder / "images")
    with (folder / "labels.csv").open() as file:
        _, *rows = list(csv.reader(file))
    test = [row for row in rows if row[3] == "1"]
    scores = [row[1] for row in test]
    for row, score in zip(test, scores[3:] + scores[:3], strict=True):
        row[1] = score
    write_labels(other / "labels.csv", rows)
    for name, data in (("a", folder), ("b", other)):
        run, report = tmp_path / name, tmp_path / f"report-{name}"
        assert aes("train", *PRESET, "--data", data, "--fold", 1, "--out", run, "--quiet") == 0
        words = ("eval", "--model", run, "--data", data, "--faces", "none", "--fold", 1, "--resamples", 50)
        assert aes(*words, "--report", report, "--quiet", "--format", "json") == 0
    capsys.readouterr()
    weights = [load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in "ab"]
    for key in weights[0]:
        np.testing.assert_array_equal(weights[0][key], weights[1][key], err_msg=key)
    first, second = (predictions(tmp_path / f"report-{name}") for name in "ab")
    assert len({row[0] for row in first.values()}) == 8
    assert first == second
    measured = [json.loads((tmp_path / f"report-{n}" / "metrics.json").read_text()) for n in "ab"]
    maes = [m["subsets"][0]["metrics"]["MAE"]["value"] for m in measured]
    assert maes[0] != maes[1], "the labels were shuffled indeed"
    assert measured[0]["experts"] == measured[1]["experts"]
    assert measured[0]["experts"]["regression"]["n"] == 8
    assert sum(measured[0]["experts"]["regression"]["kept"]) == pytest.approx(2)
    assert set(measured[0]["frequency_influence"]) == {"low", "high"}
    assert (tmp_path / "report-a" / "frequency.png").is_file()


def test_leaks_are_named_by_train_and_by_eval(folder, tmp_path, capsys):
    with (folder / "labels.csv").open() as file:
        names = [row["image"] for row in csv.DictReader(file)]
    copied = names[1]
    assert aes("train", *PRESET, "--data", folder, "--fold", 1, "--dry-run") == 0
    assert f"1 training images are copies or near-duplicates of test images and are left out ({copied})" in (
        capsys.readouterr().out
    )
    assert aes("train", *PRESET, "--data", folder, "--fold", 1, "--out", tmp_path / "run") == 0
    assert f"left out ({copied})" in capsys.readouterr().err
    words = ["eval", "--model", tmp_path / "run", "--data", folder, "--faces", "none", "--resamples", 0,
             "--format", "json"]  # fmt: skip
    assert aes(*words, "--fold", 1) == 0
    clean = json.loads(capsys.readouterr().out)
    assert [subset["subset"] for subset in clean["subsets"]] == ["all"], "fold 1 and its copy trained nothing"
    # Fold 3 trained it: the same bytes. And a re-compressed copy of one of its pictures under a new name.
    with Image.open(folder / "images" / names[2]) as picture:
        picture.save(folder / "images" / names[0], format="JPEG", quality=98, subsampling=0)
    assert aes(*words) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    training = next(subset for subset in found["subsets"] if subset["subset"] == "TRAINING DATA")
    assert set(names[2::5]) <= set(training["images"])
    assert names[0] in training["images"]
    assert copied not in training["images"]
    assert f"near-duplicates of training images ({names[0]})" in captured.err
