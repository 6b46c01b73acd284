import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import save_file
from sklearn.linear_model import Ridge

sys.path.insert(0, str(Path(__file__).parent))

from taste import SCALE, ratings, world

from aescli.errors import AesError
from aescli.personalization.adapter import (
    fit_adapter,
    load_adapter,
    personal_scores,
    save_adapter,
    within,
)
from aescli.personalization.folder import CARD, WEIGHTS, home_of, require_base, safe_name
from aescli.personalization.prior import standardise


def test_it_is_ridge_regression_towards_the_prior_mean():
    features, generic, prior = world()
    y = ratings(np.random.default_rng(1), prior, features, generic)[:12]
    got = personal_scores(features, generic, fit_adapter(prior, features[:12], generic[:12], y, SCALE))
    # With whitened regressors the posterior mean is a ridge solution of the residual.
    root = np.linalg.cholesky(prior.covariance)
    a = prior.design(features, generic)
    z, factor = standardise(y, 3.0, prior.spread)
    ridge = Ridge(alpha=prior.noise, fit_intercept=False).fit(a[:12] @ root, z - a[:12] @ prior.mean)
    wanted = 3.0 + factor * (a @ prior.mean + ridge.predict(a @ root))
    inside = (wanted > 1.4) & (wanted < 4.6)
    assert inside.sum() > 30
    np.testing.assert_allclose(got[inside], wanted[inside], atol=1e-5)
    np.testing.assert_array_equal(got.argsort(), wanted.argsort())


@given(st.lists(st.floats(-20, 30, width=32), min_size=2, max_size=20, unique=True))
def test_scores_beyond_the_scale_bend_into_it_and_keep_their_order(scores):
    scores = np.sort(np.array(scores))
    got = within(scores, (1.0, 5.0))
    assert got.min() >= 1
    assert got.max() <= 5
    assert (np.diff(got) >= 0).all()
    apart = (np.diff(scores) > 1e-3) & (scores[1:] < 12) & (scores[:-1] > -6)
    assert (np.diff(got)[apart] > 0).all()
    inside = (scores >= 1.4) & (scores <= 4.6)
    np.testing.assert_array_equal(got[inside], scores[inside])


def test_many_ratings_teach_the_persons_taste_and_few_already_help():
    features, generic, prior = world(images=400)
    gains = []
    for seed in range(30):
        y = ratings(np.random.default_rng(seed), prior, features, generic)
        errors = []
        for k in (10, 300):
            adapter = fit_adapter(prior, features[:k], generic[:k], y[:k], SCALE)
            errors.append(np.corrcoef(personal_scores(features[300:], generic[300:], adapter), y[300:])[0, 1])
        gains.append((*errors, np.corrcoef(generic[300:], y[300:])[0, 1]))
    ten, many, none = np.mean(gains, 0)
    assert none + 0.05 < ten < many - 0.02


@settings(max_examples=25, deadline=None)
@given(low=st.floats(-50, 50), width=st.floats(0.5, 200), order=st.randoms())
def test_the_users_scale_and_the_order_of_the_ratings_do_not_matter(low, width, order):
    features, generic, prior = world()
    y = ratings(np.random.default_rng(2), prior, features, generic)[:10]
    wanted = personal_scores(features, generic, fit_adapter(prior, features[:10], generic[:10], y, SCALE))
    rows = list(range(10))
    order.shuffle(rows)
    scale = (low, low + width)
    mine = low + (y[rows] - 1) / 4 * width
    adapter = fit_adapter(prior, features[rows], generic[rows], mine, scale)
    got = personal_scores(features, generic, adapter)
    np.testing.assert_allclose(got, low + (wanted - 1) / 4 * width, atol=2e-5 * width)
    assert got.min() >= scale[0]
    assert got.max() <= scale[1]


def test_without_evidence_the_generic_order_stays():
    features, generic, prior = world()
    sure = replace(prior, covariance=prior.covariance * 1e-9)
    adapter = fit_adapter(sure, features[:5], generic[:5], np.array([1, 5, 2, 4, 3.0]), SCALE)
    np.testing.assert_array_equal(personal_scores(features, generic, adapter).argsort(), generic.argsort())


def test_an_adapter_comes_back_as_it_was_saved_and_is_small(tmp_path):
    features, generic, prior = world()
    adapter = fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, (0.0, 10.0), "Ännchen")
    save_adapter(adapter, tmp_path / "users" / "a")
    save_adapter(adapter, tmp_path / "users" / "a")  # again, over itself
    got = load_adapter(tmp_path / "users" / "a")
    np.testing.assert_array_equal(got.weights, adapter.weights)
    assert replace(got, weights=0) == replace(adapter, weights=0)
    assert [p.name for p in (tmp_path / "users").iterdir()] == ["a"]
    assert sum(p.stat().st_size for p in (tmp_path / "users" / "a").iterdir()) < 1_000_000


def test_a_wrong_base_other_features_and_damage_are_refused_in_words(tmp_path):
    features, generic, prior = world()
    adapter = fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, SCALE, "bo")
    adapter = replace(adapter, task="fbp", model="momamba-lite")
    folder = tmp_path / "bo"
    require_base(adapter, SimpleNamespace(digest="base-1", task="fbp"), folder)
    with pytest.raises(
        AesError, match=r"bo was made for --task fbp \(momamba-lite\); .*--model momamba-lite"
    ):
        require_base(adapter, SimpleNamespace(digest="base-2", task="fbp"), folder)
    with pytest.raises(AesError, match=r"this run is --task viaa: add --task fbp, or make one for it"):
        require_base(adapter, SimpleNamespace(digest="base-2", task="viaa"), folder)
    with pytest.raises(AesError, match="6 features, the model gives 5"):
        personal_scores(features[:, :5], generic, adapter)
    with pytest.raises(AesError, match="no personal profile there"):
        load_adapter(folder)
    save_adapter(adapter, folder)
    (folder / WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(AesError, match="damaged"):
        load_adapter(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slope": float("nan")}, "'slope' in user.json is not a finite number"),
        ({"bias": True}, "'bias' in user.json is not a finite number"),
        ({"scale": [10, 1]}, "'scale' in user.json is not two numbers, the lower one first"),
        ({"scale": [True, 5]}, "'scale' in user.json is not two numbers"),
        ({"scale": "15"}, "'scale' in user.json is not a list"),
        ({"user": ["a"]}, "'user' in user.json is not a text"),
        ({"extra": 1}, "has an unknown field 'extra'"),
        ({"base": None}, "lacks 'base'"),
        (None, "user.json is no mapping"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_card_that_was_tampered_with_is_refused_in_words(tmp_path, change, words):
    features, generic, prior = world()
    folder = tmp_path / "bo"
    save_adapter(fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, SCALE, "bo"), folder)
    card = json.loads((folder / CARD).read_text())
    if isinstance(change, dict):
        changed = {key: value for key, value in {**card, **change}.items() if value is not None}
        (folder / CARD).write_text(json.dumps(changed))
    else:
        (folder / CARD).write_text(change or "[]")
    with pytest.raises(AesError, match=words) as error:
        load_adapter(folder)
    assert str(error.value).startswith(f"{folder}: damaged (")


@pytest.mark.parametrize("arrays", [{"w": [1.0]}, {"weights": [[1.0]]}, {"weights": [np.inf]}])
def test_weights_that_are_none_are_refused(tmp_path, arrays):
    features, generic, prior = world()
    save_adapter(fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, SCALE, "bo"), tmp_path)
    arrays = {name: np.array(values, np.float32) for name, values in arrays.items()}
    save_file(arrays, tmp_path / WEIGHTS)
    with pytest.raises(AesError, match=r"damaged \(adapter.safetensors "):
        load_adapter(tmp_path)


def test_another_persons_model_and_one_for_another_task_are_not_overwritten(tmp_path):
    features, generic, prior = world()
    adapter = fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, SCALE, "alice!")
    adapter = replace(adapter, task="fbp")
    save_adapter(adapter, tmp_path)
    with pytest.raises(AesError, match="is the model of 'alice!', not of 'alice'; give another --out"):
        save_adapter(replace(adapter, user="alice"), tmp_path)
    with pytest.raises(AesError, match="is the model of alice! for --task fbp; give another --out"):
        save_adapter(replace(adapter, task="viaa"), tmp_path)
    assert load_adapter(tmp_path).notes == adapter.notes
    save_adapter(replace(adapter, slope=9.0), tmp_path)  # the same person's again
    assert load_adapter(tmp_path).slope == 9


def test_each_task_has_a_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features, generic, prior = world()
    adapter = fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, SCALE, "bo")
    assert home_of("bo", "viaa") == Path("users/bo")
    save_adapter(replace(adapter, task="viaa"), home_of("bo", "viaa"))
    assert home_of("bo", "viaa") == Path("users/bo")
    assert home_of("bo", "fbp") == Path("users/bo-fbp")
    assert home_of("bo!", "fbp") == Path("users/bo")  # taken by somebody else, which `require_room` says


def test_a_full_disk_is_told_with_the_path_and_leaves_the_old_model(tmp_path, monkeypatch):
    features, generic, prior = world()
    adapter = fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, SCALE, "bo")
    save_adapter(adapter, tmp_path / "bo")

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(AesError, match="bo cannot be written: I/O error: No space left"):
        save_adapter(replace(adapter, slope=9.0), tmp_path / "bo")
    monkeypatch.undo()

    def torn(self, *_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", torn)
        with pytest.raises(AesError, match="bo cannot be written: No space left on device; check the path"):
            save_adapter(replace(adapter, slope=9.0), tmp_path / "bo")
    assert load_adapter(tmp_path / "bo").slope == adapter.slope
    assert [path.name for path in tmp_path.iterdir()] == ["bo"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    features, generic, prior = world()
    adapter = fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, SCALE)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(AesError, match="not a personal profile"):
        save_adapter(adapter, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("user", "name"),
    [("alice", "alice"), ("../../etc", "etc"), ("Zoë B.", "Zoë_B"), ("//", "user"),
     ("Zoe\u0308", "Zoë"), ("สุดา", "สุดา"), ("सीता", "सीता"), ("a\nb", "a_b")],
)  # fmt: skip
def test_a_name_becomes_one_folder(user, name):
    assert safe_name(user) == name
