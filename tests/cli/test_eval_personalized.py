"""`aes eval --personalized` on the three layouts of ratings, with a stand-in for the model."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import pearsonr, spearmanr
from test_personalize import Colours

from aescli.cli import main
from aescli.personalization.learning import learn_prior
from aescli.personalization.measuring import Plan, draw, prior_from_others, raters_in
from aescli.personalization.prior import unlearned_prior
from aescli.personalization.results import Measured, as_table

USERS, IMAGES = 30, 40
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (IMAGES, 3))
LIKES = RNG.normal(0, 1, (USERS, 3))
"""How much each user likes red, green and blue."""


def opinion(user, image):
    """0–1; the fourth decimal tells ratings of the same colours apart."""
    return float(1 / (1 + np.exp(-2 * (PIXELS[image] / 255 - 0.5) @ LIKES[user])))


def people(user):
    """The images that a user has rated: all, but for the last three users only few."""
    return range(IMAGES if user < USERS - 3 else 6)


def write_pictures(folder, names):
    for name, colour in zip(names, PIXELS, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), tuple(map(int, colour))).save(folder / name)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def mebeauty(root):
    names = [f"{i:02d}.png" for i in range(IMAGES)]
    write_pictures(root / "crops", names)
    rows = [
        {"file": names[i], "rater": f"R{u:02d}", "score": round(1 + 9 * opinion(u, i))}
        for u in range(USERS) for i in people(u)
    ]  # fmt: skip
    write_rows(root / "ratings.csv", rows)


def para(root):
    names = [f"s/iaa_{i:02d}.png" for i in range(IMAGES)]
    write_pictures(root / "imgs", names)
    rows = [
        {"sessionId": "s", "imageName": names[i][2:], "userId": f"U{u:02d}",
         "aestheticScore": round(1 + 8 * opinion(u, i)) / 2 + 0.5}
        for u in range(USERS) for i in people(u)
    ]  # fmt: skip
    write_rows(root / "annotation" / "PARA-Images.csv", rows)


def flickr(root):
    names = [f"{i:02d}.png" for i in range(IMAGES)]
    write_pictures(root / "40K", names)
    rows = [
        {"worker": f"W{u:02d}", "imagePair": names[i], "score": round(1 + 4 * opinion(u, i))}
        for u in range(USERS) for i in people(u)
    ]  # fmt: skip
    write_rows(root / "FLICKR-AES_image_labeled_by_each_worker.csv", rows)


@pytest.fixture
def aes(monkeypatch, capsys, tmp_path):
    """Run `aes eval --personalized` with the stand-in, which has no prior: (exit code, output, errors)."""
    monkeypatch.setattr("aescli.scoring.predictor.load_predictor", lambda *args, **options: Colours())
    monkeypatch.setattr("aescli.cli.personalized._trained_on", lambda *args, **options: set())
    monkeypatch.setattr("aescli.personalization.prior.load_prior", lambda *args: None)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(["eval", "--data", "set", *map(str, words)])
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return run


WORDS = ("--personalized", "--shots", "12", "--tests", "20", "--repeats", "3", "--users", "5")


@pytest.mark.parametrize("layout", [mebeauty, para, flickr])
def test_a_few_ratings_gain_on_every_layout(aes, tmp_path, layout):
    layout(tmp_path / "set")
    code, out, err = aes(*WORDS, "-f", "json")
    assert code == 0, err
    found = json.loads(out)
    assert found["protocol"] == {
        "shots": [12], "users": 5, "tests": 20, "repeats": 3, "select": "random", "seed": 0,
    }  # fmt: skip
    assert "learned from the 25 raters who are not tested" in found["method"]
    rows = {row["metric"]: row for row in found["results"]}
    assert rows["SRCC"]["users"] == 5
    # Brightness tells little of who likes which colour; three colours are learned from twelve ratings.
    assert rows["SRCC"]["personal"] > rows["SRCC"]["generic"] + 0.2
    assert rows["SRCC"]["difference"] == pytest.approx(rows["SRCC"]["personal"] - rows["SRCC"]["generic"])
    assert rows["PLCC"]["low"] < rows["PLCC"]["difference"] < rows["PLCC"]["high"]
    assert "images" in err


def test_the_generic_column_is_the_models_own_agreement(aes, tmp_path):
    """One repeat in which all other images are tested, against scipy."""
    mebeauty(tmp_path / "set")
    words = ("--personalized", "--shots", "2", "--tests", "all", "--repeats", "1", "--users", "all")
    code, out, err = aes(*words, "-f", "csv")
    assert code == 0, err
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(out))}
    assert rows["PLCC"]["users"] == str(USERS - 3)  # six ratings are not 2 + 5
    brightness = PIXELS.mean(1)
    each = []
    for user in range(USERS - 3):
        order = np.random.default_rng([0, 0, *f"R{user:02d}".encode()]).permutation(IMAGES)[2:]
        scores = [round(1 + 9 * opinion(user, i)) for i in order]
        each.append([pearsonr(brightness[order], scores)[0], spearmanr(brightness[order], scores)[0]])
    wanted = np.mean(each, axis=0)
    assert float(rows["PLCC"]["generic"]) == pytest.approx(wanted[0], abs=1e-9)
    assert float(rows["SRCC"]["generic"]) == pytest.approx(wanted[1], abs=1e-9)
    assert rows["PLCC"]["generic_sd"] == ""  # one repeat has no deviation


def test_the_table_says_how_it_was_measured(aes, tmp_path):
    para(tmp_path / "set")
    code, out, err = aes(*WORDS[:1], "--shots", "10,100", *WORDS[3:], "--select", "informative")
    assert code == 0, err
    assert "Colours" not in out
    assert "each user 3 times: telling shots, 20 images tested" in out
    assert "aes: 100 shots left out: no rater has 120 ratings (100 shots and 20 tests)" in err
    assert "published: AesMamba-P on PARA" in out
    (line,) = (line for line in out.splitlines() if line.split()[2:3] == ["SRCC"])
    assert line.rstrip().endswith(" 0.707")
    assert "[" in line
    assert "%" in line


@pytest.mark.parametrize("known", [4, 38])
def test_images_that_the_model_was_trained_on_are_not_tested_where_there_are_others(
    aes, tmp_path, monkeypatch, known
):
    mebeauty(tmp_path / "set")
    monkeypatch.setattr("aescli.cli.personalized._trained_on", lambda *args, **options: set(range(known)))
    code, out, err = aes(*WORDS, "-f", "json")
    assert code == 0, err
    left_out = "4 rated images that the model was trained on, or near-duplicates, are left out"
    assert (left_out in err) == (known == 4)
    assert json.loads(out)["tested_images_in_training_data"] == (0 if known == 4 else known)


def test_unreadable_images_are_left_out_and_named(aes, tmp_path):
    mebeauty(tmp_path / "set")
    (tmp_path / "set" / "crops" / "07.png").write_bytes(b"torn")
    code, _, err = aes(*WORDS)
    assert code == 0
    assert "1 of 40 images left out; the first: set/crops/07.png" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--personalized", "--fold", "1"], 2, "people's own ratings; leave out --fold"),
        (["--shots", "10"], 2, "without --personalized there is no use for --shots"),
        (["--personalized", "--shots", "ten"], 2, "--shots ten: give whole numbers of 2 or more"),
        (["--personalized", "--users", "few"], 2, "neither all nor a whole number above 0"),
        (["--personalized", "--tests", "all", "--select", "informative"], 2, "give --tests a number"),
        (["--personalized", "--layout", "ava"], 2, "--layout ava has no ratings by users"),
        (
            ["--personalized", "--shots", "30"],
            1,
            "no rater has 80 ratings (30 shots and 50 tests); take fewer",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(aes, tmp_path, words, code, message):
    mebeauty(tmp_path / "set")
    got, out, err = aes(*words)
    assert (got, out) == (code, "")
    assert message in " ".join(err.split())


class Table:
    """As much of a `RatingsTable` as the draw needs."""

    users, user = ["b", "a", "c"], np.array([0, 1, 0, 2, 1, 0])
    image, score = np.arange(6), np.array([1.0, 2, 3, 4, 5, 6])


def test_raters_of_a_table_and_who_is_drawn():
    raters = raters_in(Table)
    assert [rater.name for rater in raters] == ["a", "b", "c"]
    np.testing.assert_array_equal(raters[1].positions, [0, 2, 5])
    np.testing.assert_array_equal(raters[1].scores, [1, 3, 6])
    drawn = draw(raters, Plan(shots=(2, 9), users=None, tests=1))
    assert [rater.name for rater in drawn.by_shots[2]] == ["b"]
    assert [rater.name for rater in drawn.others] == ["a", "c"]
    assert set(drawn.missing) == {9}
    assert drawn.images(False) == [0, 2, 5]
    assert drawn.images(True) == [0, 1, 2, 3, 4, 5]


def test_nothing_of_a_tested_person_reaches_the_prior(monkeypatch):
    seen = {}

    def spy(base, scale, features, raters, **options):
        seen.update(scores=np.concatenate([r.scores for r in raters]), error=options["generic_error"])
        return learn_prior(base, scale, features, raters, **options)

    monkeypatch.setattr("aescli.personalization.measuring.learn_prior", spy)
    from aescli.personalization.images import ImageFeatures
    from aescli.personalization.protocol import Rater

    features = PIXELS / 255
    generic = 1 + 4 * features.mean(1)
    images = ImageFeatures(tuple(map(str, range(IMAGES))), features, generic, {})
    others = [
        Rater(f"u{u}", np.arange(IMAGES), np.array([9 * opinion(u, i) for i in range(IMAGES)]))
        for u in range(25)
    ]
    prior = prior_from_others("b", (1.0, 5.0), images, others, (0.0, 9.0))
    assert "25 raters" in prior.origin
    wanted = np.concatenate([1 + 4 * rater.scores / 9 for rater in others])
    np.testing.assert_allclose(np.sort(seen["scores"]), np.sort(wanted))
    mean = np.mean([1 + 4 * rater.scores / 9 for rater in others], axis=0)
    noise = np.var([1 + 4 * rater.scores / 9 for rater in others], axis=0, ddof=1).mean() / 25
    assert seen["error"] == pytest.approx(max(0.05, np.var(generic - mean) - noise))
    assert "not learned" in prior_from_others("b", (1.0, 5.0), images, others[:5], (0.0, 9.0)).origin


def test_training_data_is_named_in_the_table():
    from aescli.personalization.protocol import ProtocolResult

    values = {name: np.array([[0.5, 0.6], [0.4, 0.5]]) for name in ("PLCC", "SRCC")}
    result = ProtocolResult(10, ("a", "b"), values, {k: v - 0.1 for k, v in values.items()})
    text = as_table(Measured("mebeauty", "m", "adapter", Plan(), (result,), 12))
    assert "TRAINING DATA: the model was trained on 12 of these images" in text
    assert "their difference is not to be trusted" in text
    assert "prior" not in text
    assert "0.5000 ± 0.0707" in text  # over repeats of the users' mean
    assert "+0.1000" in text
    assert "published" not in text
    text = as_table(Measured("mebeauty", "m", "adapter", Plan(), (result,), 0, True))
    assert "TRAINING DATA: the prior over tastes was learned from the raters of mebeauty" in text


def test_a_prior_from_the_tested_raters_is_named(aes, tmp_path, monkeypatch):
    prior = unlearned_prior("colours-1", (1.0, 5.0), PIXELS / 255)
    for origin, taught in (
        ("learned from 30 raters of MEBeauty", True),
        ("learned from 30 raters of PARA", False),
    ):
        monkeypatch.setattr(
            "aescli.personalization.prior.load_prior", lambda *args, by=origin: replace(prior, origin=by)
        )
        mebeauty(tmp_path / "set")
        code, out, err = aes(*WORDS, "-f", "json")
        assert code == 0, err
        assert json.loads(out)["prior_learned_from_tested_raters"] is taught
