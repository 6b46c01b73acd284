"""What a personal model gains over the generic one, measured on the person's own few ratings.

It knows ratings, features and a prior as arrays. It knows nothing about profiles, files or how the gain is told.

Where no rating is held back, each is predicted from the others. Correlations of such predictions are biased downwards:
without a high rating the others' mean is low, so predictions move against the ratings that they are compared with.
Pairs are free of that: both of their ratings are left out of one fit, whose mean does not matter to their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aescli.data.labels import map_scale
from aescli.personalization.adapter import within
from aescli.personalization.prior import TastePrior, spread_factor

LEAST_TESTED = 5
"""Fewer ratings give no figure worth printing."""
_MOST_PAIRS = 20_000


@dataclass(frozen=True)
class PairOrder:
    """Of `pairs` pairs of differently rated images, the share that each model puts in the person's order.

    Two equal scores count as half a pair in order.
    """

    pairs: int
    personal: float
    generic: float


def agreement_of(
    personal: np.ndarray, generic: np.ndarray, ratings: np.ndarray
) -> dict[str, tuple[float, float]]:
    """metric → (personal, generic); empty where there is too little to compare."""
    from aescli.evaluation.metrics import regression_metrics

    if len(ratings) < LEAST_TESTED or min(map(np.ptp, (personal, generic, ratings))) == 0:
        return {}
    mine, others = regression_metrics(personal, ratings), regression_metrics(generic, ratings)
    return {name: (mine[name], others[name]) for name in ("PLCC", "SRCC")}


def pairs_in_order(
    prior: TastePrior,
    features: np.ndarray,
    generic: np.ndarray,
    ratings: np.ndarray,
    scale: tuple[float, float],
    seed: int = 0,
) -> PairOrder | None:
    """Leave-pair-out: the order of each pair by the model that learned from all ratings but these two.

    features (k, d), generic (k,), ratings (k,) on `scale`. Of very many pairs a seeded sample; None for fewer than
    LEAST_TESTED ratings or ratings that are all equal.
    """
    if len(ratings) < LEAST_TESTED or np.ptp(ratings) == 0:
        return None
    pairs = _pairs(len(ratings), seed)
    pairs = pairs[ratings[pairs[:, 0]] != ratings[pairs[:, 1]]]
    personal = predicted_without(pairs, prior, features, generic, ratings, scale)
    wanted = np.sign(ratings[pairs] @ [1, -1])
    shares = [
        float(((np.sign(scores @ [1, -1]) * wanted + 1) / 2).mean()) for scores in (personal, generic[pairs])
    ]
    return PairOrder(len(pairs), *shares)


def _pairs(count: int, seed: int) -> np.ndarray:
    """(m, 2) different positions: all pairs, or a sample where there are too many."""
    if count * (count - 1) // 2 <= _MOST_PAIRS:
        return np.column_stack(np.triu_indices(count, 1))
    rng = np.random.default_rng(seed)
    first = rng.integers(count, size=_MOST_PAIRS)
    return np.column_stack([first, (first + rng.integers(1, count, _MOST_PAIRS)) % count])


def predicted_without(
    groups: np.ndarray,
    prior: TastePrior,
    features: np.ndarray,
    generic: np.ndarray,
    ratings: np.ndarray,
    scale: tuple[float, float],
) -> np.ndarray:
    """groups (m, b): positions of images → (m, b) what `fit_adapter` would say of them without the group's ratings.

    One factorisation serves all: with Q the inverse covariance of the ratings t, the others predict a group as
    t − Q_gg⁻¹ (Q t)_g (Rasmussen and Williams 2006, §5.4.2, for blocks).
    """
    y = map_scale(ratings, scale, prior.scale)
    middle = sum(prior.scale) / 2
    a = prior.design(features, generic)
    # Q = (1 − v vᵀ) / noise, by Woodbury's identity: the prior has fewer dimensions than many ratings have.
    values, directions = np.linalg.eigh(prior.covariance)
    u = a @ (directions * np.sqrt(np.maximum(values, 0)))
    v = np.linalg.solve(np.linalg.cholesky(u.T @ u + prior.noise * np.eye(u.shape[1])), u.T).T

    # Each group's own spread of the other ratings, by which they are standardised.
    centred = y - y.mean()
    left, squares = centred[groups].sum(1), (centred[groups] ** 2).sum(1)
    others = len(y) - groups.shape[1]
    squares = np.maximum((centred**2).sum() - squares - left**2 / max(others, 1), 0)
    factor = spread_factor(squares, others, prior.spread)[:, None]

    given, expected = y - middle, a @ prior.mean
    part = v[groups]  # (m, b, q)
    block = np.eye(groups.shape[1]) - part @ part.transpose(0, 2, 1)
    target = given[groups] / factor - expected[groups]
    pull = target - (part @ (given @ v)[:, None])[..., 0] / factor + part @ (expected @ v)
    standard = given[groups] / factor - np.linalg.solve(block, pull[..., None])[..., 0]
    return within(map_scale(middle + standard * factor, prior.scale, scale), scale)
