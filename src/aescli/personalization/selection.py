"""Which photos a person should rate next: those whose ratings would tell most about all the others.

It knows a prior and features. It knows nothing about images, pages or profiles.
"""

from __future__ import annotations

import numpy as np

from aescli.personalization.prior import TastePrior


def most_informative(
    prior: TastePrior,
    features: np.ndarray,
    generic: np.ndarray,
    count: int,
    *,
    rated: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Positions of `count` (or all, if fewer) of the n images, the most telling first.

    features (n, d), generic (n,): of the candidates. rated: (features, generic) of images already rated.
    Greedy: each step takes the image whose rating would most reduce the summed variance of the personal scores of all
    candidates about their mean (V-optimal design). An image like one already taken tells little, an image whose rating
    is sure tells little: diversity and uncertainty are one criterion. Equal gains: the first image.
    """
    a = prior.design(features, generic)
    covariance = prior.covariance.copy()
    if rated is not None and len(rated[1]):
        known = prior.design(*rated)
        moved = known @ covariance
        covariance -= moved.T @ np.linalg.solve(moved @ known.T + prior.noise * np.eye(len(known)), moved)
    centred = a - a.mean(0)
    wanted = centred.T @ centred / len(a)
    free = np.ones(len(a), bool)
    chosen: list[int] = []
    for _ in range(min(count, len(a))):
        moved = a @ covariance  # (n, q)
        variance = np.einsum("nq,nq->n", moved, a) + prior.noise
        gain = np.einsum("nq,nq->n", moved @ wanted, moved) / variance
        best = int(np.where(free, gain, -np.inf).argmax())
        chosen.append(best)
        free[best] = False
        covariance -= np.outer(moved[best], moved[best]) / variance[best]
    return np.array(chosen, np.int64)
