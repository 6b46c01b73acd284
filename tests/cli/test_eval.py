"""`aes eval` from the command line: both forms, their equality, what is said and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from aescli import cli
from aescli.data.hashing import content_hash


class Brightness:
    """A model whose score is the picture's brightness."""

    task, scale, classes, digest = "fbp", (1.0, 5.0), 5, "brightness"
    cuts = (1.5, 2.5, 3.5, 4.5)
    distribution, attributes, reads_text = False, (), False
    preprocessing = SimpleNamespace(size=32, fit="pad", faces=True, eye_mouth=0.36, eye_y=0.39)
    concurrency, batch_size = 4, 4

    def predict(self, images, texts=()):
        from aescli.scoring.predictor import Prediction

        scores = 1 + 4 * images.reshape(len(images), -1).mean(1) / 255
        weights = np.exp(-np.abs(scores[:, None] - np.arange(1, 6)))
        nothing = np.empty((len(images), 0))
        return Prediction(scores, weights / weights.sum(1, keepdims=True), nothing, nothing)


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """30 grey pictures, labels that follow their brightness with noise, and a model that sees brightness."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    rows = ["image,score,group,fold,split6040"]
    for i in range(30):
        name = f"{'AF' if i % 2 else 'CM'}{i + 1}.png"
        level = 8 * i + 5
        Image.new("RGB", (40, 40), (level, level, level)).save(folder / name)
        score = float(np.clip(1 + 4 * level / 255 + rng.normal(0, 0.4), 1, 5))
        rows.append(f"{name},{score:.4f},{name[:2]},{i % 5 + 1},{'test' if i % 3 == 0 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.setattr("aescli.scoring.predictor.load_predictor", lambda *args, **options: Brightness())
    monkeypatch.setattr("aescli.models.checkpoint.resolve", lambda spec: model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def run(*args) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(arg) for arg in args])
    return caught.value.code or 0


def as_json(capsys, *args):
    capsys.readouterr()
    assert run("eval", *args, "--format", "json", "--resamples", 50) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def test_score_then_eval_equals_eval_of_the_model(faces, capsys):
    scores = faces / "scores.csv"
    images = faces / "images"
    assert run("score", images, "--faces", "none", "--probabilities", "--out", scores, "--quiet") == 0
    options = ("--data", faces / "labels.csv", "--group-by", "group")
    from_file, _ = as_json(capsys, "--predictions", scores, *options)
    from_model, _ = as_json(capsys, "--model", "m", "--faces", "none", "--images", images, *options)
    for key in ("subsets", "groups", "gaps", "scale", "class_cuts"):
        assert from_file[key] == from_model[key]
    metrics = from_model["subsets"][0]["metrics"]
    assert from_model["subsets"][0]["n"] == 30
    assert set(metrics) == {
        "ACC",
        "F1",
        "AP",
        "PLCC",
        "SRCC",
        "KRCC",
        "MAE",
        "RMSE",
        "R2",
        "F1_macro",
        "AP_macro",
    }
    assert all(m["low"] <= m["value"] <= m["high"] for m in metrics.values())
    assert {g["subset"]: g["n"] for g in from_model["groups"]} == {"group=AF": 15, "group=CM": 15}


def test_a_plain_scripts_file_gives_scipys_numbers(faces, capsys):
    table = [line.split(",") for line in (faces / "labels.csv").read_text().split()[1:]]
    true = np.array([float(row[1]) for row in table])
    pred = true + np.random.default_rng(1).normal(0, 0.5, 30)
    path = faces / "mine.csv"
    path.write_text(
        "file,rating\n" + "".join(f"{row[0]},{p!r}\n" for row, p in zip(table, pred.tolist(), strict=True))
    )
    result, err = as_json(capsys, "--predictions", path, "--data", faces / "labels.csv")
    metrics = result["subsets"][0]["metrics"]
    assert metrics["SRCC"]["value"] == pytest.approx(stats.spearmanr(pred, true)[0], abs=1e-12)
    assert metrics["PLCC"]["value"] == pytest.approx(stats.pearsonr(pred, true)[0], abs=1e-12)
    assert metrics["MAE"]["value"] == pytest.approx(np.abs(pred - true).mean(), abs=1e-12)
    assert "taken to be on the labels' scale 1–5" in err


def test_training_images_are_named(faces, capsys):
    images = faces / "images"
    hashes = [content_hash(images / name) for name in ("CM1.png", "AF4.png")]
    (faces / "model" / "training_images.txt").write_text("\n".join(hashes) + "\n")
    options = ("--data", faces / "labels.csv", "--images", images, "--faces", "none")
    result, err = as_json(capsys, *options)
    assert [(s["subset"], s["n"]) for s in result["subsets"]] == [("clean", 28), ("TRAINING DATA", 2)]
    assert set(result["subsets"][1]["images"]) == {"CM1.png", "AF4.png"}
    assert "TRAINING DATA: 2 images" in err
    (faces / "model" / "training_images.txt").write_text("zz\n")
    assert run("eval", *options) == 1
    assert "'zz' is not a hash" in capsys.readouterr().err
    (faces / "model" / "training_images.txt").unlink()
    result, err = as_json(capsys, *options)
    assert result["overlap_checked"] is False
    assert "lists no training images" in err


def test_folds_splits_and_saved_splits(faces, capsys):
    options = ("--data", faces / "labels.csv", "--images", faces / "images", "--faces", "none")
    assert as_json(capsys, *options, "--fold", 2)[0]["subsets"][0]["n"] == 6
    assert as_json(capsys, *options, "--split", "test")[0]["subsets"][0]["n"] == 10
    from aescli.data.datasets import read_dataset
    from aescli.data.splits import holdout

    holdout(read_dataset("auto", faces), seed=1).save(faces / "split.json")
    result, _ = as_json(capsys, *options, "--split", f"{faces / 'split.json'}:test")
    assert result["subsets"][0]["n"] == 6
    assert run("eval", *options, "--fold", 9) == 1
    assert "has no fold 9" in capsys.readouterr().err


def test_what_does_not_match_is_said(faces, capsys):
    (faces / "images" / "AF2.png").unlink()
    (faces / "images" / "CM3.png").write_bytes(b"broken")
    Image.new("RGB", (9, 9)).save(faces / "images" / "AM99.png")
    with (faces / "labels.csv").open("a") as file:
        file.write("CM1.png,3,CM,1,test\nCM5.png,9,CM,1,test\n")
    result, err = as_json(
        capsys, "--data", faces / "labels.csv", "--images", faces / "images", "--faces", "none"
    )
    assert result["subsets"][0]["n"] == 28
    labels = result["labels"]
    assert [len(labels[key]) for key in ("missing", "duplicates", "bad")] == [1, 2, 0]
    assert labels["unlabelled"] == ["AM99.png"]
    assert len(result["unscored"]) == 1
    for part in ("AF2.png", "CM3.png", "AM99.png", "already in line", "could not be scored"):
        assert part in err


def test_table_csv_and_file(faces, capsys):
    options = (
        "eval",
        "--data",
        faces / "labels.csv",
        "--images",
        faces / "images",
        "--faces",
        "none",
        "--resamples",
        50,
    )
    assert run(*options, "--quiet", "--group-by", "sex") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "all (n = 30)" in captured.out
    assert "sex=female" in captured.out
    out = faces / "result.csv"
    assert run(*options, "--format", "csv", "--out", out, "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert out.read_text().startswith("subset,n,metric,value,low,high\nall,30,ACC,")
    assert run(*options, "--out", faces / "no" / "where.csv") == 1
    assert "cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in faces.iterdir() if path.name.startswith("tmp")) == []


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--predictions", "p.csv", "--model", "m"], "exclude each other"),
        (["--scale", "1,5"], "--scale is for --predictions"),
        (["--fold", "1", "--split", "test"], "exclude each other"),
        (["--cuts", "3,2"], "must ascend"),
        (["--cuts", "a"], "give numbers"),
        (["--predictions", "p.csv", "--scale", "5,1"], "lowest and the highest"),
        (["--label-scale", "1"], "lowest and the highest"),
        (["--group-by", "height"], "choose from"),
    ],
)
def test_wrong_usage(faces, capsys, extra, message):
    assert (
        run("eval", "--data", faces / "labels.csv", "--images", faces / "images", "--faces", "none", *extra)
        == 2
    )
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_the_command_imports_nothing_heavy():
    heavy = "torch", "numpy", "scipy", "sklearn", "PIL"
    code = f"import sys, aescli.cli.eval; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
