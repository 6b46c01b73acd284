import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

sys.path.insert(0, str(Path(__file__).parent))

from taste import SCALE, ratings, world

from aescli.errors import AesError
from aescli.personalization.adapter import (
    CARD,
    WEIGHTS,
    fit_adapter,
    leave_one_out,
    load_adapter,
    personal_scores,
    require_base,
    safe_name,
    save_adapter,
    within,
)
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


def test_leave_one_out_never_sees_the_rating_it_predicts():
    features, generic, prior = world()
    y = ratings(np.random.default_rng(3), prior, features, generic)[:8]
    before = leave_one_out(prior, features[:8], generic[:8], y, SCALE)
    changed = y.copy()
    changed[3] = 6 - changed[3]
    after = leave_one_out(prior, features[:8], generic[:8], changed, SCALE)
    assert after[3] == pytest.approx(before[3])
    assert np.abs(np.delete(after - before, 3)).max() > 1e-3


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
    require_base(adapter, "base-1")
    with pytest.raises(AesError, match="bo belongs to the model base-1, not to base-2"):
        require_base(adapter, "base-2")
    with pytest.raises(AesError, match="6 features, the model gives 5"):
        personal_scores(features[:, :5], generic, adapter)
    folder = tmp_path / "bo"
    with pytest.raises(AesError, match="no personal profile there"):
        load_adapter(folder)
    save_adapter(adapter, folder)
    (folder / WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(AesError, match="damaged"):
        load_adapter(folder)
    save_adapter(adapter, folder)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "slope": float("nan")}))
    with pytest.raises(AesError, match="damaged"):
        load_adapter(folder)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    features, generic, prior = world()
    adapter = fit_adapter(prior, features[:6], generic[:6], np.arange(6) / 2 + 1.5, SCALE)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(AesError, match="not a personal profile"):
        save_adapter(adapter, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("user", "name"), [("alice", "alice"), ("../../etc", "etc"), ("Zoë B.", "Zoë_B"), ("//", "user")]
)
def test_a_name_becomes_one_folder(user, name):
    assert safe_name(user) == name
