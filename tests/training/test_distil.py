"""Targets made from a model's first answers, against an independent optimiser, and a run that learns both ways."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from aescli.training.distil import calibrated, tilted

BINS = torch.arange(1.0, 11.0)


def test_a_tilted_distribution_is_the_nearest_one_with_its_mean():
    p = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(10), 1))
    q = tilted(p, torch.tensor([6.0]), BINS).numpy()[0]
    start, bins = p.numpy()[0], BINS.numpy()
    best = minimize(
        lambda x: float((x * np.log(x / start)).sum()),
        start,
        constraints=[
            {"type": "eq", "fun": lambda x: x.sum() - 1},
            {"type": "eq", "fun": lambda x: x @ bins - 6.0},
        ],
        bounds=[(1e-9, 1)] * 10,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(q, best.x, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(2.0, 9.0))
def test_the_mean_is_met_and_rows_stay_distributions(seed, mean):
    p = torch.tensor(np.random.default_rng(seed).dirichlet(np.full(10, 2.0), 5))
    q = tilted(p, torch.full((5,), mean), BINS)
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(q @ BINS.double(), mean, atol=1e-8)


def test_the_own_mean_changes_nothing():
    p = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(10), 4))
    np.testing.assert_allclose(tilted(p, p @ BINS.double(), BINS), p, atol=1e-8)


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_ratings_get_the_answers_mean_and_deviation_and_keep_their_order(spread):
    rng = np.random.default_rng(2)
    answers = torch.tensor(rng.dirichlet(np.full(10, 3.0), 50))
    scores = torch.tensor(rng.normal(30, 7, 50))
    scores[40:] = torch.nan
    train = torch.arange(50) < 35
    targets = calibrated(scores, answers, train, BINS, spread)
    assert targets[40:].isnan().all()
    means, said = targets[:40] @ BINS.double(), answers[:35] @ BINS.double()
    np.testing.assert_allclose(means[:35].mean(), said.mean(), atol=1e-3)
    np.testing.assert_allclose(means[:35].std(), spread * said.std(), atol=1e-3)
    assert (means.argsort() == scores[:40].argsort()).all()
