"""`aes eval` from the command line: both forms, their equality, what is said and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn import metrics as sk

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
    for key in ("subsets", "groups", "gaps", "categories", "scale", "class_cuts", "good_above"):
        assert from_file[key] == from_model[key]
    metrics = from_model["subsets"][0]["metrics"]
    assert from_model["subsets"][0]["n"] == 30
    assert set(metrics) == {
        "ACC",
        "F1",
        "AP",
        "ACC_good",
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
    # The classes of SCUT-FBP5500 in words: the score rounded to the nearest whole number, halves up.
    pred_class, true_class = (np.clip(np.floor(x + 0.5), 1, 5).astype(int) for x in (pred, true))
    for name, expected in {
        "SRCC": stats.spearmanr(pred, true)[0],
        "PLCC": stats.pearsonr(pred, true)[0],
        "KRCC": stats.kendalltau(pred, true)[0],
        "MAE": sk.mean_absolute_error(true, pred),
        "RMSE": sk.root_mean_squared_error(true, pred),
        "R2": sk.r2_score(true, pred),
        "ACC": sk.accuracy_score(true_class, pred_class),
        "F1": sk.f1_score(true_class, pred_class, average="weighted"),
        "F1_macro": sk.f1_score(true_class, pred_class, average="macro"),
        "ACC_good": sk.accuracy_score(true > 3, pred > 3),
    }.items():
        assert metrics[name]["value"] == pytest.approx(expected, abs=1e-12), name
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


def test_a_report_without_matplotlib_is_refused_before_the_model_works(faces, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(
        "aescli.scoring.predictor.load_predictor", lambda *a, **k: pytest.fail("the model worked")
    )
    options = ("--data", faces / "labels.csv", "--images", faces / "images", "--report", faces / "report")
    assert run("eval", *options) == 1
    assert "pip install 'aescli[report]'" in capsys.readouterr().err
    assert not (faces / "report").exists()


def test_a_report_of_a_predictions_file_says_what_it_lacks(faces, capsys):
    pytest.importorskip("matplotlib", reason="the report extra (matplotlib) is not installed")
    names = [line.split(",")[0] for line in (faces / "labels.csv").read_text().split()[1:]]
    (faces / "p.csv").write_text("file,rating\n" + "".join(f"{n},{1 + i % 5}\n" for i, n in enumerate(names)))
    options = ("--predictions", faces / "p.csv", "--data", faces / "labels.csv", "--report", faces / "report")
    result, err = as_json(capsys, *options)
    assert "no thumbnails" in err
    document = json.loads((faces / "report" / "metrics.json").read_text())
    assert {key: document[key] for key in result} == result, "the page's numbers are the command's"
    (faces / "file").write_text("")
    assert run("eval", *options[:-1], faces / "file" / "inside") == 1
    assert "cannot be made" in capsys.readouterr().err


def test_folds_splits_and_saved_splits(faces, capsys):
    options = ("--data", faces / "labels.csv", "--images", faces / "images", "--faces", "none")
    assert as_json(capsys, *options, "--fold", 2)[0]["subsets"][0]["n"] == 6
    assert as_json(capsys, *options, "--split", "test")[0]["subsets"][0]["n"] == 10
    from aescli.data.datasets import read_dataset
    from aescli.data.splits import holdout

    holdout(read_dataset("auto", faces), seed=1).save(faces / "split.json")
    result, _ = as_json(capsys, *options, "--split", f"{faces / 'split.json'}:test")
    assert result["subsets"][0]["n"] == 6
    assert run("eval", *options, "--fold", 9) == 2
    assert "has no fold 9" in capsys.readouterr().err


def test_columns_of_a_predictions_file_can_be_named(faces, capsys):
    path = faces / "mine.csv"
    names = [line.split(",")[0] for line in (faces / "labels.csv").read_text().split()[1:]]
    rows = [f"{name},{1 + i % 3},{1 + 4 * i / 29:.3f}" for i, name in enumerate(names)]
    path.write_text("picture,rating,second\n" + "\n".join(rows) + "\n")
    options = ("--predictions", path, "--data", faces / "labels.csv")
    guessed, _ = as_json(capsys, *options)
    named, _ = as_json(capsys, *options, "--prediction-columns", "picture,second")
    assert named["subsets"][0]["metrics"]["SRCC"]["value"] > 0.8
    assert guessed["subsets"][0]["metrics"]["SRCC"]["value"] < 0.5
    assert run("eval", *options, "--prediction-columns", "picture,third") == 1
    assert "third" in capsys.readouterr().err


def test_the_training_part_and_the_gap(faces, capsys):
    options = ("--data", faces / "labels.csv", "--images", faces / "images", "--faces", "none", "--fold", 2)
    result, _ = as_json(capsys, *options, "--train-part")
    assert (result["subsets"][0]["n"], result["train"]["n"]) == (6, 24)
    rest = as_json(capsys, *options[:-2])[0]["subsets"][0]["metrics"]["MAE"]["value"] * 30
    test = result["subsets"][0]["metrics"]["MAE"]["value"]
    train = result["train"]["metrics"]["MAE"]["value"]
    assert 24 * train + 6 * test == pytest.approx(rest), "the two parts are the whole"
    assert result["train_test_gap"]["MAE"]["value"] == pytest.approx(test - train)
    assert run("eval", *options, "--train-part", "--resamples", 20) == 0
    assert "gap (+ = worse)" in capsys.readouterr().out


def test_a_comparison_with_a_file_and_with_a_model(faces, capsys):
    images = faces / "images"
    scores = faces / "scores.csv"
    assert run("score", images, "--faces", "none", "--probabilities", "--out", scores, "--quiet") == 0
    lines = scores.read_text().splitlines()
    worse = [lines[0]]
    for i, line in enumerate(lines[1:]):
        cells = line.split(",")
        cells[3] = f"{1 + (float(cells[3]) - 1 + i % 4) % 4:.4f}"
        worse.append(",".join(cells))
    (faces / "worse.csv").write_text("\n".join(worse) + "\n")
    options = ("--data", faces / "labels.csv", "--images", images, "--faces", "none")
    result, _ = as_json(capsys, *options, "--against", faces / "worse.csv")
    found = result["comparison"]
    assert found["n"] == 30
    assert found["differences"]["PLCC"]["value"] > 0
    assert found["differences"]["PLCC"]["p"] < 0.05
    assert found["differences"]["ACC"]["value"] == 0, "the classes were left as they were"
    assert found["delta_m"] is None or found["delta_m"] > 0
    same, _ = as_json(capsys, *options, "--against", "another-model")
    assert same["comparison"]["differences"]["MAE"] == {
        **same["comparison"]["differences"]["MAE"], "value": 0, "low": 0, "high": 0, "p": 1,
    }  # fmt: skip
    assert same["comparison"]["delta_m"] == pytest.approx(0)
    assert run("eval", *options, "--against", faces / "worse.csv", "--resamples", 20) == 0
    assert "permutation test" in capsys.readouterr().out


def test_a_split_that_leaks_is_reported_for_a_predictions_file(faces, capsys):
    rng = np.random.default_rng(1)
    names = [line.split(",")[0] for line in (faces / "labels.csv").read_text().split()[1:]]
    for name in names:  # pictures with a structure, which a near-duplicate can share
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 60), Image.Resampling.BICUBIC).save(faces / "images" / name)
    options = ("--data", faces / "labels.csv", "--images", faces / "images", "--fold", 1)
    (faces / "p.csv").write_text(
        "file,rating\n" + "".join(f"{name},{1 + i % 5}\n" for i, name in enumerate(names))
    )
    _, err = as_json(capsys, "--predictions", faces / "p.csv", *options)
    assert "lists no training images" in err
    assert "LEAK" not in err
    inside, outside = (names[i] for i in (0, 1))  # folds 1 and 2
    Image.open(faces / "images" / inside).save(faces / "images" / "copy.jpg", quality=88)
    (faces / "images" / outside).write_bytes((faces / "images" / "copy.jpg").read_bytes())
    (faces / "images" / "copy.jpg").unlink()
    (faces / "images" / names[2]).write_bytes(b"broken")
    result, err = as_json(capsys, "--predictions", faces / "p.csv", *options)
    assert f"LEAK: 1 of 6 images are copies or near-duplicates of images outside the part ({inside})" in err
    assert any("LEAK" in line for line in result["notes"])


def test_what_is_not_known_of_a_model_is_in_the_json_too(faces, capsys):
    result, _ = as_json(
        capsys, "--data", faces / "labels.csv", "--images", faces / "images", "--faces", "none"
    )
    assert any("lists no training images" in line for line in result["notes"])


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
    assert out.read_text().startswith("subset,n,metric,value,low,high,p\nall,30,ACC,")
    assert sorted(path.name for path in faces.iterdir() if path.name.startswith("tmp")) == []


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--out", "no/where.csv", "there is no folder"),
        ("--out", "images", "is a folder; name a file in it"),
        ("--report", "images", "holds AF10.png, which is of no report of aes eval"),
        ("--repeat", "images", "holds no metrics.json"),
    ],
)
def test_outputs_that_cannot_be_are_said_before_the_model_works(
    faces, capsys, monkeypatch, option, value, message
):
    pytest.importorskip("matplotlib", reason="the report extra (matplotlib) is not installed")
    monkeypatch.setattr(
        "aescli.scoring.predictor.load_predictor", lambda *a, **k: pytest.fail("the model worked")
    )
    options = ["--data", faces / "labels.csv", "--images", faces / "images", option, faces / value]
    options += ["--report", faces / "report"] if option == "--repeat" else []
    before = sorted(faces.rglob("*"))
    assert run("eval", *options) == 1
    assert message in capsys.readouterr().err
    assert sorted(faces.rglob("*")) == before


def test_a_model_with_a_head_for_the_data_set_says_that_it_answers_as_a_mixture(faces, capsys):
    (faces / "model" / "config.json").write_text(
        json.dumps({"model": {"score_heads": ["other", "scut-fbp5500"]}})
    )
    options = ("--data", faces / "labels.csv", "--images", faces / "images", "--faces", "none")
    result, err = as_json(capsys, *options, "--model", "m")
    assert "mixture of all raters that m knows; --raters scut-fbp5500 measures" in err
    assert any("mixture of all raters" in note for note in result["notes"]), "the report says it too"
    assert "mixture" not in as_json(capsys, *options, "--model", "m", "--raters", "scut-fbp5500")[1]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--predictions", "p.csv", "--model", "m"], "exclude each other"),
        (["--predictions", "p.csv"], "--predictions needs no model; leave out --faces"),
        (["--predictions", "p.csv", "--raters", "mebeauty"], "leave out --raters"),
        (["--scale", "1,5"], "--scale is for --predictions"),
        (["--fold", "1", "--split", "test"], "exclude each other"),
        (["--cuts", "3,2"], "must ascend"),
        (["--cuts", "a"], "give numbers"),
        (["--predictions", "p.csv", "--faces", "auto", "--scale", "5,1"], "lowest and the highest"),
        (["--label-scale", "1"], "lowest and the highest"),
        (["--group-by", "height"], "choose from"),
        (["--train-part"], "--fold or --split"),
        (["--repeat", "r"], "give --report"),
        (["--predictions", "p.csv", "--faces", "auto", "--prediction-columns", "score"], "give two names"),
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


def test_results_take_the_place_of_nothing_that_is_read_or_shown(faces, capsys):
    scores = faces / "scores.csv"
    scores.write_text("path,score\nAF2.png,2\nCM1.png,1\nCM3.png,3\n")
    words = ["eval", "--predictions", scores, "--data", faces / "labels.csv", "--resamples", 0, "-f", "csv"]
    kept = {path: path.read_bytes() for path in (scores, faces / "labels.csv", faces / "images" / "CM1.png")}
    for path in kept:
        assert run(*words, "--out", path) == 2
        assert (
            "this file is read by the run" in (err := capsys.readouterr().err)
            or "an image is never replaced" in err
        )
    assert {path: path.read_bytes() for path in kept} == kept


def test_an_output_that_is_not_utf_8_gets_the_figures_all_the_same(faces):
    (faces / "scores.csv").write_text("path,score\nAF2.png,2\nCM1.png,1\nCM3.png,3\n")
    words = ["eval", "--predictions", faces / "scores.csv", "--data", faces / "labels.csv", "--resamples", 0]
    done = subprocess.run(
        [sys.executable, "-m", "aescli", *map(str, words)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"PLCC" in done.stdout


def test_lists_of_labels_are_not_replaced_either(faces, capsys):
    rows = (faces / "labels.csv").read_text().splitlines(keepends=True)
    (faces / "lists").mkdir()
    for part, chosen in (("train", rows[1:16]), ("test", rows[16:])):
        (faces / "lists" / f"{part}.csv").write_text("".join([rows[0], *chosen]))
    kept = (faces / "lists" / "test.csv").read_bytes()
    words = ["eval", "--data", faces / "lists", "--images", faces / "images", "--resamples", 0, "-f", "csv"]
    assert run(*words, "--score-column", "score", "--out", faces / "lists" / "test.csv") == 2
    assert "this file is read by the run" in capsys.readouterr().err
    assert (faces / "lists" / "test.csv").read_bytes() == kept
    (faces / "link.csv").symlink_to("nowhere/x.csv")
    assert run(*words, "--score-column", "score", "--out", faces / "link.csv") == 1
    assert "there is no folder" in capsys.readouterr().err


def test_nothing_is_written_into_a_models_folder(faces, capsys):
    (faces / "m").mkdir()
    (faces / "m" / "model.safetensors").write_bytes(b"weights")
    words = ["--model", faces / "m", "--out", faces / "m" / "model.safetensors", "-f", "csv"]
    for command in (
        ["eval", "--data", faces / "labels.csv", "--images", faces / "images"],
        ["score", faces / "images"],
        ["eval", "--data", faces / "images", "--personalized"],
    ):
        assert run(*command, *words) == 2
        assert "lies in the folder of a model" in capsys.readouterr().err
    assert (faces / "m" / "model.safetensors").read_bytes() == b"weights"
