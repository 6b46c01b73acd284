"""`aes personalize` as a person types it, with a stand-in for the model; once with the bundled one on real photos."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from aescli.cli import main
from aescli.personalization.adapter import load_adapter, personal_scores
from aescli.scoring.predictor import Prediction


class Colours:
    """The generic score is the brightness; the features are the mean red, green and blue."""

    task, scale, classes, digest = "fbp", (1.0, 5.0), 5, "colours-1"
    preprocessing = SimpleNamespace(size=16, fit="pad", faces=False, eye_mouth=0.36, eye_y=0.39)
    cuts = (1.5, 2.5, 3.5, 4.5)
    concurrency, batch_size = 4, 4

    def predict(self, images):
        features = images.reshape(len(images), -1, 3).mean(1).astype(np.float32) / 255
        nothing = np.empty((len(images), 0))
        return Prediction(1 + 4 * features.mean(1).astype(np.float64), nothing, nothing, features)


@pytest.fixture
def aes(monkeypatch, capsys, tmp_path):
    """Run `aes personalize` in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.setattr("aescli.scoring.predictor.load_predictor", lambda *args, **options: Colours())
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(["personalize", *map(str, words)])
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return run


@pytest.fixture
def alice(tmp_path):
    """60 photos of which alice likes the red ones, 40 of them rated."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        red, green, blue = rng.integers(0, 256, 3)
        Image.new("RGB", (20, 20), (int(red), int(green), int(blue))).save(
            tmp_path / "photos" / f"{i:02d}.png"
        )
        rows.append(f"  - {{image: photos/{i:02d}.png, score: {round(float(red) / 255 * 10, 1)}}}")
    path = tmp_path / "alice.yaml"
    path.write_text("user: alice\nscale: [0, 10]\nratings:\n" + "\n".join(rows[:40]) + "\n")
    return path


def figures(text, metric):
    """(personal, generic) of a report line."""
    words = next(line for line in text.splitlines() if f"{metric} " in line).replace(",", "").split()
    return float(words[words.index(metric) + 1]), float(words[words.index("generic") - 1])


def test_shots_teach_and_the_held_back_ratings_show_it(aes, alice, tmp_path):
    before = alice.read_bytes()
    code, out, err = aes("--user", "alice.yaml", "--shots", 25)
    assert (code, out) == (0, "users/alice\n")
    assert "learned from 25 ratings" in err
    assert "15 held-back ratings" in err
    personal, generic = figures(err, "SRCC")
    assert personal > generic + 0.1
    assert alice.read_bytes() == before

    adapter = load_adapter(tmp_path / "users" / "alice")
    assert (adapter.base, adapter.scale, adapter.user) == ("colours-1", (0.0, 10.0), "alice")
    features = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]], np.float32)
    red, green = personal_scores(features, np.array([2.5, 2.5]), adapter)
    assert red > green + 1
    card = json.loads((tmp_path / "users" / "alice" / "user.json").read_text())
    assert card["notes"]["ratings"] == 25
    assert card["notes"]["agreement"]["SRCC"][0] == pytest.approx(personal, abs=5e-4)


def test_all_ratings_are_measured_by_leave_one_out(aes, alice, tmp_path):
    code, out, err = aes("--user", alice, "--out", tmp_path / "mine")
    assert code == 0
    assert "leave-one-out over the 40 ratings" in err
    assert out.strip() == str(tmp_path / "mine")
    personal, generic = figures(err, "PLCC")
    assert personal > generic


def test_the_seed_decides_the_shots(aes, alice, tmp_path):
    weights = []
    for number, words in enumerate(([], ["--seed", 1], ["--seed", 0], ["--select", "informative"])):
        assert aes("--user", alice, "--shots", 10, "--out", f"u{number}", "--quiet", *words)[0] == 0
        weights.append(load_adapter(tmp_path / f"u{number}").weights)
    np.testing.assert_array_equal(weights[0], weights[2])
    assert np.abs(weights[0] - weights[1]).max() > 1e-3
    assert np.abs(weights[0] - weights[3]).max() > 1e-3


def test_suggestions_become_a_table_and_a_page_and_the_table_a_profile(aes, alice, tmp_path):
    code, out, err = aes("--user", alice, "--suggest", 5, "--images", "photos")
    assert code == 0
    sheet, page = map(Path, out.split())
    assert (sheet.name, page.name) == ("alice-ratings.csv", "alice-ratings.html")
    assert "5 of 20 photos proposed" in err
    with sheet.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert {row["score"] for row in rows} == {""}
    names = [row["image"] for row in rows]
    assert all("photos/40.png" <= name <= "photos/59.png" for name in names)  # none that is rated already
    assert page.read_text().count("data:image/jpeg") == 5

    sheet.write_text("image,score\n" + "".join(f"{name},{i * 2}\n" for i, name in enumerate(names)))
    filled = sheet.read_bytes()
    code, again, _ = aes("--user", alice, "--suggest", 5, "--images", "photos")
    assert Path(again.split()[0]).name == "alice-ratings-2.csv"
    assert sheet.read_bytes() == filled
    (tmp_path / "bo.yaml").write_text("user: bo\nscale: [0, 10]\nratings: alice-ratings.csv\n")
    code, out, err = aes("--user", "bo.yaml")
    assert (code, out) == (0, "users/bo\n")
    assert "learned from 5 ratings" in err


def test_a_person_without_ratings_gets_suggestions(aes, alice, tmp_path):
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "new.yaml").write_text("user: new\nscale: [1, 5]\n")
    code, out, _ = aes("--user", "new", "--suggest", 3, "--images", "photos")
    assert code == 0
    with open(out.split()[0], newline="") as file:
        assert [row["image"].split("/")[:2] for row in csv.DictReader(file)] == [["..", "photos"]] * 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["--user", "alice.yaml", "--shots", 50],
            1,
            "40 ratings, 50 needed: 10 missing; --suggest 10 --images",
        ),
        (["--user", "bob"], 2, "--user bob: no such profile"),
        (["--user", "alice.yaml", "--suggest", 3], 2, "--suggest needs --images DIR"),
        (["--user", "alice.yaml", "--images", "none"], 2, "--images none: no such folder"),
        (["--user", "alice.yaml", "--select", "all", "--shots", 5], 2, "leave out --shots 5"),
        (
            ["--user", "alice.yaml", "--select", "random"],
            2,
            "needs --shots N below the number of ratings (40)",
        ),
        (["--user", "alice.yaml", "--out", "photos"], 1, "photos exists and is not a personal profile"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(aes, alice, words, code, message):
    got, out, err = aes(*words)
    assert (got, out) == (code, "")
    assert message in err
    assert err.strip().splitlines()[-1].startswith("aes: error: ")


def test_an_unreadable_photo_is_left_out_and_named(aes, alice, tmp_path):
    (tmp_path / "photos" / "03.png").write_bytes(b"torn")
    code, _, err = aes("--user", alice)
    assert code == 0
    assert "photos/03.png" in err
    assert "its rating is left out" in err
    assert "learned from 39 ratings" in err


def test_equal_ratings_and_photos_that_all_fail_are_refused(aes, alice, tmp_path):
    text = alice.read_text()
    (tmp_path / "same.yaml").write_text("".join(
        line.split("score:")[0] + "score: 4}\n" if "score:" in line else line + "\n" for line in text.splitlines()
    ))  # fmt: skip
    assert "all 40 ratings are 4" in aes("--user", "same.yaml")[2]
    for file in (tmp_path / "photos").iterdir():
        file.write_bytes(b"torn")
    code, _, err = aes("--user", alice)
    assert code == 1
    assert "0 of 40 rated images can be used" in err


@pytest.mark.realdata
@pytest.mark.skipif("AESCLI_DATA" not in os.environ, reason="AESCLI_DATA names no folder of data sets")
def test_the_bundled_model_from_a_folder_of_photos_to_personal_scores(monkeypatch, capsys, tmp_path):
    data = Path(os.environ["AESCLI_DATA"]) / "mebeauty"
    with (data / "ratings.csv").open(newline="") as file:
        mine = [row for row in csv.DictReader(file) if row["rater"] == "R020"]
    usable = [row for row in mine if (data / "crops" / row["file"]).is_file()][:60]
    rows = "".join(f"  - {{image: '{row['file']}', score: {row['score']}}}\n" for row in usable)
    (tmp_path / "r.yaml").write_text(f"user: r\nscale: [1, 10]\nratings:\n{rows}")
    monkeypatch.chdir(tmp_path)
    words = ["--user", "r.yaml", "--shots", "40", "--images", str(data / "crops")]
    with pytest.raises(SystemExit) as stop:
        main(["personalize", *words])
    assert not stop.value.code
    err = capsys.readouterr().err
    assert "20 held-back ratings" in err
    assert "no learned prior" not in err
    assert sum(f.stat().st_size for f in (tmp_path / "users" / "r").iterdir()) < 1_000_000
