"""The linear start: ridge regression against scikit-learn, and a strength that cross-validation chose."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from aescli.training.probe import STRENGTHS, ridge, ridge_cv


def _data(n=60, d=8, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 1, (n, d)) * np.linspace(0.5, 3, d)
    return x, x @ rng.normal(size=(d, 2)) + rng.normal(0, 0.5, (n, 2)) + 4


@pytest.mark.parametrize("strength", STRENGTHS)
def test_ridge_agrees_with_scikit_learn(strength):
    x, y = _data()
    ((beta, bias),) = ridge(x, y, np.ones(60), [strength])
    scaler = StandardScaler().fit(x)
    reference = Ridge(alpha=strength * 60).fit(scaler.transform(x), y)
    np.testing.assert_allclose(x @ beta.T + bias, reference.predict(scaler.transform(x)), atol=1e-9)


def test_weights_count_like_repetitions():
    x, y = _data()
    weight = np.random.default_rng(1).integers(1, 4, 60)
    ((a, b),) = ridge(x, y, weight.astype(float), [0.3])
    ((c, d),) = ridge(np.repeat(x, weight, 0), np.repeat(y, weight, 0), np.ones(weight.sum()), [0.3])
    np.testing.assert_allclose(a, c, atol=1e-9)
    np.testing.assert_allclose(b, d, atol=1e-9)


def test_cross_validation_prefers_weak_shrinkage_for_signal_and_strong_for_noise():
    x, y = _data(n=400)
    numbers = np.arange(400)
    assert ridge_cv(x, y, np.ones(400), numbers)[2] == min(STRENGTHS)
    noise = np.random.default_rng(2).normal(size=(400, 1))
    assert ridge_cv(x, noise, np.ones(400), numbers)[2] >= 1


def test_a_channel_that_is_dead_in_training_gets_no_huge_weight():
    x, y = _data()
    x[:, 0] = np.random.default_rng(3).normal(0, 1e-7, 60)
    ((beta, _),) = ridge(x, y, np.ones(60), [0.1])
    alive = x.copy()
    alive[:, 0] = 1.0
    assert np.abs((alive - x) @ beta.T).max() < 5 * y.std()
