import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from taste import SCALE, ratings, world

from aescli.personalization.adapter import fit_adapter, personal_scores
from aescli.personalization.gain import agreement_of, pairs_in_order, predicted_without


def refitted(groups, prior, features, generic, y, scale):
    """The same by as many fits."""
    answers = []
    for group in groups:
        rest = np.setdiff1d(np.arange(len(y)), group)
        adapter = fit_adapter(prior, features[rest], generic[rest], y[rest], scale)
        answers.append(personal_scores(features[group], generic[group], adapter))
    return np.array(answers)


@pytest.mark.parametrize(("count", "size"), [(9, 1), (9, 2), (40, 2), (3, 2), (12, 5)])
def test_leaving_ratings_out_in_closed_form_is_fitting_without_them(count, size):
    features, generic, prior = world(images=count)
    scale = (0.0, 100.0)
    y = (ratings(np.random.default_rng(1), prior, features, generic) - 1) * 25
    rng = np.random.default_rng(2)
    groups = np.array([rng.permutation(count)[:size] for _ in range(20)])
    got = predicted_without(groups, prior, features, generic, y, scale)
    np.testing.assert_allclose(got, refitted(groups, prior, features, generic, y, scale), atol=2e-4)


def test_a_prior_that_knows_some_things_for_sure_is_no_obstacle():
    features, generic, prior = world(images=10)
    y = ratings(np.random.default_rng(1), prior, features, generic)
    covariance = prior.covariance.copy()
    covariance[0] = covariance[:, 0] = 0
    sure = replace(prior, covariance=covariance)
    groups = np.arange(10)[:, None]
    got = predicted_without(groups, sure, features, generic, y, SCALE)
    np.testing.assert_allclose(got, refitted(groups, sure, features, generic, y, SCALE), atol=1e-4)


def in_order(scores, y):
    """The share of differently rated pairs in the right order, pair by pair."""
    right = [
        0.5 * (1 + np.sign(scores[i] - scores[j]) * np.sign(y[i] - y[j]))
        for i in range(len(y)) for j in range(i) if y[i] != y[j]
    ]  # fmt: skip
    return np.mean(right)


def test_pairs_measure_without_bias_what_leave_one_out_measures_too_low():
    """Many persons: the truth is the adapter on a hundred images that nobody rated."""
    features, generic, prior = world(images=110)
    found, alone, truth = [], [], []
    for seed in range(150):
        y = np.round(2 * ratings(np.random.default_rng(seed), prior, features, generic)) / 2
        k = slice(10)
        pairs = pairs_in_order(prior, features[k], generic[k], y[k], SCALE)
        assert pairs.pairs == sum(y[i] != y[j] for i in range(10) for j in range(i))
        assert pairs.generic == pytest.approx(in_order(generic[k], y[k]))
        one = predicted_without(np.arange(10)[:, None], prior, features[k], generic[k], y[k], SCALE)[:, 0]
        adapter = fit_adapter(prior, features[k], generic[k], y[k], SCALE)
        personal = personal_scores(features[10:], generic[10:], adapter)
        found.append(pairs.personal)
        alone.append(agreement_of(one, generic[k], y[k])["SRCC"][0])
        truth.append((in_order(personal, y[10:]), agreement_of(personal, generic[10:], y[10:])["SRCC"][0]))
    in_truth, srcc = np.mean(truth, 0)
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - in_truth) < 3 * error + 0.005  # two ratings fewer teach a little less
    assert error < 0.015
    assert np.mean(alone) < srcc - 0.05


def test_many_ratings_take_no_time_and_the_sample_is_the_seeds():
    features, generic, prior = world(images=3000, channels=100, components=80)
    y = ratings(np.random.default_rng(0), prior, features, generic)
    start = time.perf_counter()
    first = pairs_in_order(prior, features, generic, y, SCALE)
    assert time.perf_counter() - start < 10  # some 0.3 s on an idle core
    assert 8_000 < first.pairs <= 20_000  # many lie at the ends of the scale, as equals
    assert first == pairs_in_order(prior, features, generic, y, SCALE)
    assert first != pairs_in_order(prior, features, generic, y, SCALE, seed=1)
    assert first.generic == pytest.approx(in_order(generic[:600], y[:600]), abs=0.05)


def test_too_little_is_not_measured():
    features, generic, prior = world(images=4)
    assert pairs_in_order(prior, features, generic, np.array([1.0, 2, 3, 4]), SCALE) is None
    assert agreement_of(generic, generic, np.array([1.0, 2, 3, 4])) == {}
    features, generic, prior = world(images=8)
    assert pairs_in_order(prior, features, generic, np.full(8, 3.0), SCALE) is None


def test_equal_scores_are_half_in_order():
    features, _, prior = world(images=6)
    found = pairs_in_order(prior, features, np.full(6, 3.0), np.arange(1.0, 7) / 2, SCALE)
    assert found.generic == 0.5
