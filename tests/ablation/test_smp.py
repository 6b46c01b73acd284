"""The study of subject characters on ratings in PARA's layout: unseen images only, kept user by user."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from aescli.ablation import smp
from aescli.ablation.run import Settings
from aescli.ablation.smp import Protocol, draw, mean_figures, prompt_of, run_smp
from aescli.ablation.studies import STUDIES
from aescli.data.datasets.ratings import UserCharacters, read_ratings
from aescli.data.datasets.scored import ATTRIBUTES
from aescli.errors import AesError, UsageError

PROTOCOL = Protocol(users=2, shots=4, tests=6)
PEOPLE = {"a": ("expert", 9), "b": ("beginner", 2), "c": ("proficient", 5)}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def para(tmp_path_factory):
    """32 pictures, the last 16 the official test part; three described people who rated all, a fourth undescribed."""
    root, rng = tmp_path_factory.mktemp("para"), np.random.default_rng(0)
    (root / "imgs" / "s").mkdir(parents=True)
    means, ratings = [], []
    for i in range(32):
        level = rng.uniform(0.1, 0.9)
        pixels = (255 * level + rng.normal(0, 10, (40, 49, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "imgs" / "s" / f"iaa_pub{i}_.jpg")
        row = {"sessionId": "s", "imageName": f"iaa_pub{i}_.jpg"}
        means.append(row | {f"{ATTRIBUTES[name]}_mean": round(1 + 4 * level, 3) for name in ATTRIBUTES})
        for user in (*PEOPLE, "d"):
            scores = np.clip(1 + 4 * level + rng.normal(0, 0.5, len(ATTRIBUTES)), 1, 5).round(1)
            given = dict(zip(ATTRIBUTES.values(), scores.tolist(), strict=True))
            ratings.append({"userId": user, **row, **given})
    _write(root / "PARA-GiaaTrain.csv", means[:16])
    _write(root / "PARA-GiaaTest.csv", means[16:])
    _write(root / "PARA-Images.csv", ratings)
    people = [
        {"userId": user, "artExperience": level, "photographyExperience": level,
         **{f"personality-{x}": trait for x in "OCEAN"}}
        for user, (level, trait) in PEOPLE.items()
    ]  # fmt: skip
    _write(root / "PARA-UserInfo.csv", people)
    return root


def _write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _settings(para, out, text):
    changes = (
        "model.encoder={name: mobilenetv1, levels: [6], image_size: 32}",
        "model.hidden=16",
        "model.heads=2",
        "model.head_dim=8",
        f"model.text={{name: {text.name}, max_tokens: 40}}",
        "train.epochs=2",
        "train.batch_size=4",
        "train.lr=1e-3",
        "train.augment={flip: 0.5, crop_from: 36}",
    )
    return Settings("aesmamba-p-para", changes, (para,), None, out, folds=(1,))


def test_every_row_is_measured_on_unseen_images_and_kept(para, tmp_path, tiny_text, monkeypatch):
    settings, lines = _settings(para, tmp_path / "out", tiny_text), []
    rows = run_smp(STUDIES["smp"], settings, log=lines.append, protocol=PROTOCOL)
    assert [row.label for row in rows] == STUDIES["smp"].rows
    users = {}
    for variant in STUDIES["smp"].variants:
        kept = json.loads((tmp_path / "out" / variant.name / "fold1" / "users.json").read_text())["users"]
        users[variant.name] = kept
        assert len(kept) == 2
        row = next(row for row in rows if row.label == variant.row)
        expected = np.mean([figures["SRCC dof"] for figures in kept.values()])
        assert row.folds["1"]["SRCC dof"] == pytest.approx(expected)
    assert users["shots"] != users["generic"], "tuning changes the answers"
    assert users["personality"] != users["shots"], "the prompt changes the answers"
    assert (tmp_path / "out" / "table.md").is_file()

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(smp, "_measure", never)
    again = run_smp(STUDIES["smp"], settings, log=lines.append, protocol=PROTOCOL)
    assert [row.folds for row in again] == [row.folds for row in rows]


def test_an_interruption_loses_one_user_at_most(para, tmp_path, tiny_text, monkeypatch):
    real, calls = smp._measure, []

    def once(*words, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*words, **options)

    settings = _settings(para, tmp_path / "out", tiny_text)
    monkeypatch.setattr(smp, "_measure", once)
    with pytest.raises(KeyboardInterrupt):
        run_smp(STUDIES["smp"], settings, log=lambda _: None, protocol=PROTOCOL)
    kept = json.loads((tmp_path / "out" / "generic" / "fold1" / "users.json").read_text())["users"]
    assert len(kept) == 1


def test_shots_and_tests_are_apart_and_unseen_by_the_generic_model(para):
    ratings = read_ratings("auto", para)
    unseen = {path.resolve() for path in ratings.paths if int("".join(filter(str.isdigit, path.name))) >= 16}
    assert len(unseen) == 16
    for repeat in (1, 2):
        people = draw(ratings, unseen, PROTOCOL, repeat)
        assert len(people) == 2
        assert {person.name for person in people} <= set(PEOPLE)  # d is not described
        for person in people:
            paths = [sample.path.resolve() for sample in person.ratings.samples]
            assert len(set(paths)) == 10
            assert set(paths) <= unseen
    with pytest.raises(AesError, match="no user with art, photo and traits has 30"):
        draw(ratings, unseen, Protocol(shots=10, tests=20), 1)


def test_prompts_hold_the_characters_asked_for():
    who = UserCharacters({"art": "expert", "photo": "beginner"}, {"openness": 7.0}, {"age": "30"})
    assert prompt_of(who, ()) == ""
    assert prompt_of(who, ("photo",)) == "My Photographic experience is beginner."
    every = prompt_of(who, ("art", "photo", "traits"))
    assert "artistic experience is expert" in every
    assert "openness score is 7" in every
    assert "30" not in every


def test_means_leave_out_users_for_whom_nothing_is_defined():
    found = mean_figures({"a": {"PLCC x": 0.5, "SRCC x": 0.4, "SRCC y": 0.2}, "b": {"PLCC x": 0.7}})
    assert found["PLCC x"] == pytest.approx(0.6)
    assert found["SRCC x"] == 0.4
    assert found["SRCC_mean"] == pytest.approx(0.3)


def test_a_preset_that_reads_no_prompt_is_refused(para, tmp_path):
    settings = Settings("aesmamba-f-para", (), (para,), None, tmp_path)
    with pytest.raises(UsageError, match="needs a model that reads a prompt"):
        run_smp(STUDIES["smp"], settings)
