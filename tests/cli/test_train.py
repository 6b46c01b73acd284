"""`aes train` as a person types it: a CSV and a folder in, a checkpoint out, and one line for every mistake."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from aescli.cli import main

SMALL = [
    "train.validation=0.1",
    "model.encoder={name: mobilenetv1, levels: [2, 4], image_size: 32}",
    "model.width=8",
    "model.dem={d_state: 2, expand: 1, sub_blocks: 2}",
    "model.same={states: 3, experts: 2, rank_min: 2, rank_step: 1, task_rank: 2, heads: 2}",
    "preprocessing.faces=false",
    "train.epochs=1",
    "train.batch_size=8",
    "train.frozen_blocks=2",
    "train.views=1",
]
PRESET = ["--preset", "momamba-lite", *(word for change in SMALL for word in ("--set", change))]


def _aes(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code or 0


@pytest.fixture
def table(tmp_path, monkeypatch):
    """24 pictures with a score in a CSV of one's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "rating"])
        for i in range(24):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) // 2 + 5 * i
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
            writer.writerow([f"{i}.png", round(1 + i / 6, 3)])
    return tmp_path


def test_a_csv_and_a_folder_become_a_checkpoint_that_scores(table, capsys):
    words = [
        "train",
        *PRESET,
        "--data",
        table / "labels.csv",
        "--images",
        table / "pictures",
        "--label-scale",
        "1,5",
    ]
    assert _aes(*words, "--out", table / "run") == 0
    captured = capsys.readouterr()
    assert "test (5 images), score: PLCC" in captured.out
    assert (table / "run" / "checkpoint" / "model.safetensors").is_file()
    assert not (table / "run" / "features").exists()
    assert json.loads((table / "run" / "run.json").read_text())["preset"]["train"]["epochs"] == 1
    assert "starts from random weights. (--init FILE" in captured.err
    card = json.loads((table / "run" / "checkpoint" / "card.json").read_text())
    assert card["origin"] == "The encoder mobilenetv1 starts from random weights."
    assert ". Changed: model.dem, model.encoder, model.same, model.width=8." in card["description"]
    assert _aes("score", table / "pictures", "--model", table / "run", "--faces", "none", "--quiet") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 24
    assert all(row["score"] and not row["error"] for row in rows)
    assert _aes(*words, "--out", table / "run") == 1
    assert "holds a finished run" in capsys.readouterr().err
    kept = (table / "run" / "run.json").read_bytes()
    assert _aes(*words, "--out", table / "run", "--resume", "--set", "train.lr=0.1") == 0
    assert "this run is finished" in capsys.readouterr().err
    assert (table / "run" / "run.json").read_bytes() == kept


def test_dry_run_needs_no_data_for_the_parameter_count(capsys):
    assert _aes("train", *PRESET, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "parameters " in out
    assert "multiply" in out


def test_the_layout_can_be_named(table, capsys):
    words = ["train", *PRESET, "--data", table / "labels.csv", "--images", table / "pictures", "--dry-run"]
    assert _aes(*words, "--layout", "aadb") == 1
    assert "has no column 'name'" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["aesmamba-m-ava", "aesmamba-p-para"])
def test_dry_run_of_a_model_that_reads_text_fetches_nothing(capsys, monkeypatch, preset):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _aes("train", "--preset", preset, "--dry-run") == 0
    assert "text 109,482,240" in capsys.readouterr().out


def test_one_label_is_too_few(table, capsys):
    (table / "one.csv").write_text("file,rating\n0.png,3\n")
    words = ["train", *PRESET, "--data", table / "one.csv", "--images", table / "pictures", "--dry-run"]
    assert _aes(*words) == 1
    err = capsys.readouterr().err
    assert "1 images in 1 groups of near-duplicates cannot be split into 2 parts" in err
    assert "fault of aes" not in err


def test_the_assumed_scale_names_the_option_that_declares_it(table, capsys):
    words = ["train", *PRESET, "--data", table / "labels.csv", "--images", table / "pictures", "--dry-run"]
    assert _aes(*words) == 0
    option = re.search(r"assumed from the scores; declare it with (\S+)", capsys.readouterr().out)[1]
    for command in ("train", "eval"):
        assert _aes(command, "--help") == 0
        assert f"{option} LOW,HIGH " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("preset", "why"),
    [
        ("aesmamba-v-ava", "no training picture says how many votes"),
        ("aesmamba-f-para", "no training picture has a score for 'quality'"),
    ],
)
def test_dry_run_refuses_what_the_run_would_refuse(table, capsys, preset, why):
    small = ["--set", "model.encoder={name: mobilenetv1, levels: [4], image_size: 32}"]
    words = [
        "train",
        "--preset",
        preset,
        *small,
        "--data",
        table / "labels.csv",
        "--images",
        table / "pictures",
    ]
    for more in (["--dry-run"], ["--out", table / "refused", "--features", table / "features"]):
        assert _aes(*words, "--label-scale", "1,10", *more) == 2
        assert why in capsys.readouterr().err
    assert not (table / "refused").exists()


def test_dry_run_with_data_counts_without_training(table, capsys):
    words = ["train", *PRESET, "--data", table / "labels.csv", "--images", table / "pictures", "--dry-run"]
    assert _aes(*words) == 0
    out, err = capsys.readouterr()
    assert "24 label rows" in out
    assert "scores mapped linearly from" not in err
    assert _aes(*words, "--label-scale", "0,10") == 0
    assert "scores mapped linearly from 0–10 to the model's 1–5" in capsys.readouterr().err
    assert re.search(r"training 17, validation 2, test \S+ 5 images", out), out
    assert not (table / "run").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--preset", "momamba-light", "--dry-run"], 2, "did you mean 'momamba-lite'"),
        (["--preset", "momamba-lite"], 2, "--data is needed"),
        (["--preset", "momamba-lite", "--data", "absent", "--out", "x"], 1, "absent does not exist"),
        ([*PRESET, "--data", "DATA", "--fold", "9", "--out", "x"], 2, " are 1 to 5"),
        ([*PRESET, "--set", "train.epoch=3", "--dry-run"], 2, "did you mean train.epochs"),
        ([*PRESET, "--init", "absent.safetensors", "--data", "DATA", "--out", "x"], 1, "no such file"),
        ([*PRESET, "--init", "absent.safetensors", "--dry-run"], 1, "no such file"),
        ([*PRESET, "--data", "DATA", "--label-scale", "5,1", "--out", "x"], 2, "--label-scale 5,1: give the"),
        ([*PRESET, "--data", "DATA", "--all-data", "--fold", "1", "--out", "x"], 2, "leave out --fold"),
    ],
)
def test_mistakes_get_one_line(table, words, code, message, capsys, monkeypatch):
    monkeypatch.chdir(table)
    words = [str(table / "labels.csv") if word == "DATA" else word for word in words]
    if "--init" in words or "--fold" in words:
        words += ["--images", str(table / "pictures")]
    assert _aes("train", *words) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (table / "x").exists()
