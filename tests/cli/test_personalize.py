"""`aes personalize` as a person types it, with a stand-in for the model; once with the bundled one on real photos."""

import csv
import json
import os
from dataclasses import replace
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

    distribution, attributes, reads_text = False, (), False

    def predict(self, images, texts=()):
        features = images.reshape(len(images), -1, 3).mean(1) / 255
        nothing = np.empty((len(images), 0))
        return Prediction(1 + 4 * features.mean(1), nothing, nothing, features)


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


def test_all_ratings_are_measured_by_pairs_that_were_left_out(aes, alice, tmp_path):
    code, out, err = aes("--user", alice, "--out", tmp_path / "mine")
    assert code == 0
    assert out.strip() == str(tmp_path / "mine")
    notes = json.loads((tmp_path / "mine" / "user.json").read_text())["notes"]
    pairs = notes["pairs"]
    assert 700 < pairs["pairs"] <= 780
    assert pairs["personal"] > pairs["generic"] + 0.1
    assert (
        f"aes: {pairs['personal']:.1%} of {pairs['pairs']} pairs of photos in the right order, "
        f"{pairs['generic']:.1%} by the generic score (each by what the other ratings teach; 40 ratings"
        in err
    )
    assert "(leave-one-out over the 40 ratings)" in err
    assert "leave-one-out shows the personal model worse than it is; believe the pairs" in err
    assert err.index("pairs of photos") < err.index("leave-one-out")
    personal, generic = figures(err, "PLCC")
    assert notes["agreement"]["PLCC"] == pytest.approx([personal, generic], abs=5e-4)


def test_held_back_ratings_need_no_pairs_and_too_few_of_them_do(aes, alice):
    err = aes("--user", alice, "--shots", 30)[2]
    assert "10 held-back ratings" in err
    assert "pairs" not in err
    err = aes("--user", alice, "--shots", 37)[2]
    assert "learned from 37 ratings" in err
    assert "pairs of photos in the right order" in err


def test_the_model_says_what_it_was_made_from_and_another_task_goes_beside_it(aes, alice, monkeypatch):
    assert aes("--user", alice)[:2] == (0, "users/alice\n")
    card = json.loads(Path("users/alice/user.json").read_text())
    assert (card["task"], card["model"], card["base"]) == ("fbp", "momamba-lite", "colours-1")
    monkeypatch.setattr(Colours, "task", "viaa")
    assert aes("--user", alice, "--task", "viaa", "--model", "runs/m")[:2] == (0, "users/alice-viaa\n")
    card = json.loads(Path("users/alice-viaa/user.json").read_text())
    assert (card["task"], card["model"]) == ("viaa", "runs/m")
    code, out, err = aes("--user", alice, "--task", "viaa", "--out", "users/alice")
    assert (code, out) == (1, "")
    assert "users/alice is the model of alice for --task fbp; give another --out" in err


def test_people_whose_names_make_one_folder_do_not_replace_each_other(aes, alice):
    assert aes("--user", alice)[0] == 0
    before = Path("users/alice/user.json").read_bytes()
    Path("other.yaml").write_text(alice.read_text().replace("user: alice", "user: alice!"))
    code, out, err = aes("--user", "other.yaml")
    assert (code, out) == (1, "")
    assert "users/alice is the model of 'alice', not of 'alice!'; give another --out" in err
    assert Path("users/alice/user.json").read_bytes() == before
    assert aes("--user", "other.yaml", "--out", "users/other")[0] == 0


def test_photos_without_faces_are_counted_and_the_other_task_is_named(aes, alice, monkeypatch):
    from aescli.scoring.prepare import Preparer
    from aescli.scoring.rows import NO_FACE

    prepare = Preparer.__call__

    def faceless(self, found):
        prepared = prepare(self, found)
        return replace(prepared, error=NO_FACE, crops=[]) if int(Path(found.path).stem) < lost else prepared

    monkeypatch.setattr(Preparer, "__call__", faceless)
    lost = 15
    code, _, err = aes("--user", alice)
    assert code == 0
    assert f"aes: 15 ratings are left out: {NO_FACE}; the first: " in err
    assert err.count(NO_FACE) == 1
    assert "aes: --task viaa rates photos without faces" in err
    lost = 40
    code, _, err = aes("--user", alice)
    assert code == 1
    assert "0 of 40 rated images can be used, 2 are needed; --task viaa rates photos without faces" in err
    assert err.count(NO_FACE) == 1


def test_a_further_table_is_named_beside_those_the_profile_has(aes, alice, tmp_path):
    suggest = ("--suggest", 3, "--images", "photos")
    (tmp_path / "new.yaml").write_text("user: new\nscale: [0, 10]\n")
    assert (
        "and name the table in the profile: ratings: new-ratings.csv"
        in aes("--user", "new.yaml", *suggest)[2]
    )
    rows = [f"photos/{i:02d}.png,{i}" for i in range(8)]
    (tmp_path / "new-ratings.csv").write_text("\n".join(["image,score", *rows]) + "\n")
    (tmp_path / "new.yaml").write_text("user: new\nscale: [0, 10]\nratings: new-ratings.csv\n")
    err = aes("--user", "new.yaml", *suggest)[2]
    assert "in the profile: ratings: [new-ratings.csv, new-ratings-2.csv]" in err
    assert "one more line under ratings: - alice-ratings.csv" in aes("--user", alice, *suggest)[2]


def test_odd_file_names_are_left_out_or_found_again(aes, alice, tmp_path):
    (tmp_path / "odd").mkdir()
    picture = (tmp_path / "photos" / "50.png").read_bytes()
    for name in (b"\xff.png", b" space.png", b"good.png"):
        try:
            Path(os.fsdecode(os.fsencode(tmp_path / "odd") + b"/" + name)).write_bytes(picture)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "odd" / " x").mkdir()
    (tmp_path / " root.png").write_bytes((tmp_path / "photos" / "51.png").read_bytes())
    words = ("--user", alice, "--suggest", 5, "--images")
    code, out, err = aes(*words, "odd")
    assert code == 0
    assert "aes: 1 photos left out: their names are no UTF-8 text; rename them" in err
    sheet = Path(out.split()[0])
    with sheet.open(newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {"odd/ space.png", "odd/good.png"}
    (tmp_path / "odd" / "good.png").unlink()
    (tmp_path / "odd" / " space.png").unlink()
    code, out, err = aes(*words, "odd")
    assert (code, out) == (1, "")
    assert "1 photos left out" in err
    assert len(list(tmp_path.glob("alice-ratings*"))) == 2

    # A space at the very beginning survives the reading of the table.
    (tmp_path / "photos").rename(tmp_path / "rated")
    (tmp_path / "new.yaml").write_text("user: new\nscale: [0, 10]\n")
    assert aes("--user", "new.yaml", "--suggest", 99, "--images", ".")[0] == 0
    text = (tmp_path / "new-ratings.csv").read_text().splitlines()
    assert "./ root.png," in text
    filled = [text[0], *(f"{line}{i % 10}" for i, line in enumerate(text[1:]))]
    (tmp_path / "new-ratings.csv").write_text("\n".join(filled) + "\n")
    (tmp_path / "new.yaml").write_text("user: new\nscale: [0, 10]\nratings: new-ratings.csv\n")
    assert "learned from 61 ratings" in aes("--user", "new.yaml")[2]


def test_a_profile_is_found_by_its_persons_name_and_one_nearby_is_proposed(aes, alice, tmp_path):
    code, _, err = aes("--user", "alice")
    assert code == 2
    assert "--user alice: no such profile in users; did you mean --user alice.yaml?" in err
    (tmp_path / "users").mkdir()
    text = alice.read_text().replace("photos/", "../photos/").replace("user: alice", "user: Zoë B.")
    (tmp_path / "users" / "Zoë_B.yaml").write_text(text)
    assert aes("--user", "Zoë B.")[:2] == (0, "users/Zoë_B\n")


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
@pytest.mark.skipif(not os.environ.get("AESCLI_DATA"), reason="AESCLI_DATA names no folder of data sets")
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


def test_characters_that_a_model_cannot_read_are_said_to_be_unused(aes, alice):
    alice.write_text(
        alice.read_text().replace("scale:", "experience: {art: expert}\ntraits: {openness: 7}\nscale:")
    )
    code, _, err = aes("--user", alice)
    assert code == 0
    assert "aes: experience, traits: not used, this model reads images only; --task piaa reads them" in err
