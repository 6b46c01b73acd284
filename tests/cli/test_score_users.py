"""`aes score --user`: a column for each person, from personal models of a stand-in whose features are mean colours."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_personalize import Colours

from aescli.cli import main
from aescli.personalization.adapter import Adapter, save_adapter
from aescli.personalization.folder import safe_name


@pytest.fixture
def model(monkeypatch):
    """The stand-in that every command of the test gets; `calls` counts its forward passes."""

    class Counted(Colours):
        calls = 0

        def predict(self, images, texts=()):
            self.calls += 1
            return super().predict(images, texts)

    model = Counted()
    monkeypatch.setattr("aescli.scoring.predictor.load_predictor", lambda *args, **options: model)
    return model


@pytest.fixture
def aes(model, monkeypatch, capsys, tmp_path):
    """Run `aes score photos` with further words in a folder of photos and users: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, colour in (("red", (250, 10, 10)), ("green", (10, 250, 10)), ("blue", (10, 10, 250))):
        Image.new("RGB", (20, 20), colour).save(tmp_path / "photos" / f"{name}.png")

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(["score", "photos", *map(str, words)])
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return run


def person(name, weights, folder=None, scale=(0.0, 10.0), base="colours-1", task="fbp", model="colours"):
    """A personal model in users/NAME that likes colours by these weights."""
    adapter = Adapter(name, base, scale, 5.0, 0.0, np.array(weights, np.float32), task, model)
    save_adapter(adapter, Path(folder or f"users/{name}"))


def table(text):
    return {Path(row["path"]).stem: row for row in csv.DictReader(io.StringIO(text))}


def test_a_column_for_each_user_beside_the_generic_score(aes, model):
    person("alice", [3, 0, 0])
    person("bob", [-20, -1, 0], scale=(1.0, 7.0))
    generic = table(aes("-f", "csv")[1])
    before = model.calls
    code, out, err = aes("-f", "csv", "--user", "bob", "--user", "alice")
    assert code == 0, err
    assert model.calls - before == before  # one pass over the images for all users
    found = table(out)
    assert out.splitlines()[0].endswith("class,class_prob,score_bob,score_alice,error")
    for name, red, green in (("red", 250, 10), ("green", 10, 250), ("blue", 10, 10)):
        assert found[name]["score"] == generic[name]["score"]
        assert float(found[name]["score_alice"]) == pytest.approx(5 + 3 * red / 255, abs=1e-4)
        if name != "red":
            wanted = 5 - 20 * red / 255 - green / 255
            assert float(found[name]["score_bob"]) == pytest.approx(wanted, abs=1e-4)
    assert 1 <= float(found["red"]["score_bob"]) < 1.1  # 5 − 19.6 lies below bob's scale


@pytest.mark.parametrize("given", ["alice", "users/alice", "alice.yaml", "users/*", "al*", "users/[a]*"])
def test_the_ways_to_name_a_user(aes, given):
    person("alice", [3, 0, 0])
    Path("users/notes.txt").write_text("no user")
    Path("users/new").mkdir()
    # Only the name is read: the photos that were rated may be gone.
    Path("alice.yaml").write_text("user: alice\nscale: [0, 10]\nratings: gone.csv\n")
    code, out, err = aes("-f", "csv", "--user", given, "--user", "users/alice")
    assert code == 0, err
    assert float(table(out)["red"]["score_alice"]) == pytest.approx(5 + 3 * 250 / 255, abs=1e-4)


def test_users_pick_rows_and_fill_every_format(aes):
    person("Ann-Marie 2", [3, 0, 0])
    code, out, _ = aes("-f", "jsonl", "--user", "users/*", "--where", "score_Ann_Marie_2 > 6")
    assert code == 0
    (row,) = map(json.loads, out.splitlines())
    assert Path(row["path"]).stem == "red"
    assert row["score_Ann_Marie_2"] == pytest.approx(5 + 3 * 250 / 255, abs=1e-4)


def test_a_changed_personal_model_changes_scores_and_the_digest_that_resuming_compares(aes):
    person("alice", [3, 0, 0])
    assert aes("--out", "a.csv", "--user", "alice", "--quiet")[0] == 0
    first = Path("a.csv").read_text()
    from aescli.personalization.adapter import load_adapter
    from aescli.personalization.scoring import PersonalPredictor

    digests = [PersonalPredictor(Colours(), [Path("users/alice")]).digest]
    person("alice", [0, 3, 0])
    assert load_adapter(Path("users/alice")).weights[1] == 3
    digests.append(PersonalPredictor(Colours(), [Path("users/alice")]).digest)
    assert digests[0] != digests[1]
    assert aes("--out", "a.csv", "--user", "alice", "--quiet")[0] == 0
    assert Path("a.csv").read_text() != first


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--user", "bo"], 2, "--user bo: no personal model in bo or users/bo; aes personalize makes one"),
        (["--user", "bob"], 2, "--user bob: no personal model yet; aes personalize --user bob.yaml makes it"),
        (["--user", "a!.yaml"], 2, "a!.yaml: users/a is the model of 'a', not of 'a!'; aes personalize --user a!.yaml"),
        (["--user", "bob.yaml"], 2, "no personal model in users/bob yet; aes personalize --user bob.yaml"),
        (["--user", "photos"], 2, "--user photos: no personal model there (no user.json)"),
        (["--user", "x*"], 2, "--user x*: matches no personal model"),
        (["--user", "users/a", "users/other"], 2, "users/other is a personal model, not photos; quote a pattern"),
        (["--user", "other"], 1, "users/other was made for --task fbp (colours); this run's model is another"),
        (["--user", "views"], 1, "users/views was made for --task viaa (aesmamba-lite); this run is --task fbp: add"),
        (["--user", "users/v*"], 1, "users/views was made for --task viaa"),
        (["--user", "broken"], 1, "users/broken: damaged (user.json lacks"),
        (["--user", "a", "--user", "twin"], 2, "its column score_a is that of users/a already"),
        (["--user", "wide"], 1, "the profile of wide is for 2 features, the model gives 3"),
        (["--task", "piaa"], 2, "--task piaa scores as one person would; name whom with --user"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(aes, words, code, message):
    person("a", [3, 0, 0])
    person("a", [0, 3, 0], folder="users/twin")
    person("other", [0, 3, 0], base="elsewhere-9")
    person("wide", [0, 3])
    person("views", [1], base="v-1", task="viaa", model="aesmamba-lite")
    Path("users/broken").mkdir()
    Path("users/broken/user.json").write_text("{}")
    Path("a!.yaml").write_text("user: a!\nscale: [0, 10]\n")
    Path("bob.yaml").write_text("user: bob\nscale: [0, 10]\n")
    got, out, err = aes("-f", "csv", *words)
    assert (got, out.count("\n") < 2) == (code, True)
    assert message in err
    assert err.strip().splitlines()[-1].startswith("aes: error: ")


def test_one_person_has_a_model_for_each_task_and_patterns_take_the_fitting_ones(aes):
    person("alice", [9], base="v-1", task="viaa", model="aesmamba-lite")
    person("alice", [3, 0, 0], folder="users/alice-fbp")
    person("bo", [1, 1, 1])
    Path("alice.yaml").write_text("user: alice\nscale: [0, 10]\n")
    for given in ("alice", "alice.yaml", "users/alice-fbp", "alice-fbp"):
        code, out, err = aes("-f", "csv", "--user", given)
        assert code == 0, err
        assert float(table(out)["red"]["score_alice"]) == pytest.approx(5 + 3 * 250 / 255, abs=1e-4)
    code, out, err = aes("-f", "csv", "--user", "users/*")
    assert code == 0, err
    assert out.splitlines()[0].endswith("score_alice,score_bo,error")


@pytest.mark.parametrize("name", ["Zoë B.", "a/b", "สุดา"])
def test_a_person_is_found_by_the_name_they_gave(aes, name):
    person(name, [3, 0, 0], folder=f"users/{safe_name(name)}")
    assert aes("-f", "csv", "--user", name)[0] == 0
    assert aes("-f", "csv", "--user", f"{name}!")[0] == 2
