"""Learns a prior over tastes from many raters of the same images (see `aescli.personalization.prior`).

It knows ratings, features and generic scores as arrays. It knows nothing about one person's adapter or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aescli.errors import AesError
from aescli.personalization.prior import (
    COMPONENTS,
    TastePrior,
    principal_components,
    standardise,
    standardised_features,
)

TEMPER = 0.5
"""Share of the learned variance that the prior keeps. With all of it ten ratings are trusted too much: a rating's
error is not as independent as the model says. Of .15, .25, .35, .5, .7 it gained most on raters of MEBeauty at 10 shots
with at most 2.5 % of them losing more than .02 SRCC, in each of eight parts of the raters."""

_COVARIANCE_WEIGHT, _NOISE_WEIGHT = 30, 20
_MINIMUM = 8
"""Raters with fewer ratings teach nothing about covariances."""


def express(
    features: np.ndarray, wanted: np.ndarray, strength: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """(centre (d,), projection (d, e)) with (features − centre) @ projection ≈ wanted: kernel ridge regression.

    features (n, d), wanted (n, e) of mean 0. strength: ridge, in shares of an image's mean squared features.
    """
    z, centre, deviation = standardised_features(features)
    kernel = z @ z.T / z.shape[1]
    dual = np.linalg.solve(kernel + strength * np.eye(len(z)), wanted)
    return centre, z.T @ dual / z.shape[1] / deviation[:, None]


def guided_components(
    features: np.ndarray, guide: np.ndarray, guided: int = 48, plain: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """(centre (d,), projection (d, guided + plain)): what features (n, d) tell of the leading components of `guide`
    (n, e), beside their own leading components; each half with a mean squared length of about ½.

    guide: features of the same images in which tastes differ more, such as a face recogniser's before it was tuned to
    mean scores. Expressed in `features`, they need no second encoder any more.
    """
    guide_centre, guide_projection = principal_components(guide, guided)
    centre, from_guide = express(features, (guide - guide_centre) @ guide_projection)
    _, own = principal_components(features, plain)
    return centre, np.hstack([from_guide, own]) / np.sqrt(2)


@dataclass(frozen=True)
class RaterScores:
    """One rater of the images that a prior is learned from.

    positions (k,): rows of the features. scores (k,): on the base model's scale. generic (k,): what the others think
    of these images (their mean, where there are enough), free of this rater's own scores.
    """

    positions: np.ndarray
    scores: np.ndarray
    generic: np.ndarray


def beside_consensus(
    positions: np.ndarray, raters: np.ndarray, scores: np.ndarray, generic: np.ndarray, shrink: float = 3.0
) -> list[RaterScores]:
    """Ratings (k,) each: image row, rater, score on the model's scale → every rater beside what the others think.

    generic (n,): the model's scores of all images, which count as much as `shrink` more raters. A rater's own score is
    left out of the mean that stands beside it, and every rater's mean deviation is taken out of the others' scores, so
    that it does not matter who else rated an image. Raters come in the order of their sorted names.
    """
    names, rater = np.unique(raters, return_inverse=True)
    count = np.bincount(positions, minlength=len(generic))
    mean = np.bincount(positions, scores, len(generic)) / np.maximum(count, 1)
    deviation = np.bincount(rater, scores - mean[positions], len(names)) / np.bincount(rater)
    level = scores - deviation[rater]
    total = np.bincount(positions, level, len(generic))
    others = (total[positions] - level + shrink * generic[positions]) / (count[positions] - 1 + shrink)
    return [
        RaterScores(positions[own], scores[own], others[own])
        for own in (rater == i for i in range(len(names)))
    ]


def learn_prior(
    base: str,
    scale: tuple[float, float],
    features: np.ndarray,
    raters: Sequence[RaterScores],
    *,
    generic_error: float,
    reduction: tuple[np.ndarray, np.ndarray] | None = None,
    components: np.ndarray | None = None,
    iterations: int = 15,
    temper: float = TEMPER,
    start: float = 0.1,
    origin: str = "",
) -> TastePrior:
    """Fit mean (of intercept and slope only), covariance and noise to raters of the same images.

    features (n, d). reduction: as `principal_components` returns it (None = that of `features`). components (n, p):
    what the reduction makes of these images if it was learned without them, None to compute it. generic_error: mean
    squared difference between the model's scores and the raters' consensus; it is noise to a new person, for whom only
    the model's scores are known. start: variance at which the components start, towards which the covariance is drawn.
    The noise is one per rater with a common prior; its geometric mean is kept. Raises AesError with fewer than 10
    raters of at least 8 images.
    """
    centre, projection = reduction or principal_components(features, COMPONENTS)
    middle = sum(scale) / 2
    unit = ((scale[1] - scale[0]) / 4) ** 2
    useful = [r for r in raters if len(r.scores) >= _MINIMUM]
    if len(useful) < 10:
        raise AesError(
            f"a prior needs at least 10 raters of {_MINIMUM} images or more; there are {len(useful)}"
        )
    spread = float(np.median([r.scores.std(ddof=1) for r in useful]))
    x = (np.asarray(features, np.float64) - centre) @ projection if components is None else components
    moments = []
    for rater in useful:
        y, _ = standardise(rater.scores, middle, spread)
        a = np.column_stack([np.ones(len(y)), rater.generic - middle, x[rater.positions]])
        moments.append((a.T @ a, a.T @ y, y @ y, len(y)))
    size = x.shape[1] + 2
    target = np.diag(np.r_[0.3 * unit, 0.1, np.full(size - 2, start * unit)])
    mean, covariance = np.r_[0.0, 1.0, np.zeros(size - 2)], target
    usual_noise = 0.42 * unit
    noise = np.full(len(moments), usual_noise)
    for _ in range(iterations):
        precision = np.linalg.inv(covariance)
        pull = precision @ mean
        scatter, total = np.zeros_like(covariance), np.zeros(size)
        for i, (gram, product, square, count) in enumerate(moments):
            v = np.linalg.inv(gram / noise[i] + precision)
            beta = v @ (product / noise[i] + pull)
            scatter += v + np.outer(beta - mean, beta - mean)
            total += beta
            error = square - 2 * beta @ product + beta @ gram @ beta + np.einsum("ij,ji", v, gram)
            noise[i] = (error + _NOISE_WEIGHT * usual_noise) / (count + _NOISE_WEIGHT)
        covariance = (scatter + _COVARIANCE_WEIGHT * target) / (len(moments) + _COVARIANCE_WEIGHT)
        covariance = (covariance + covariance.T) / 2
        mean = np.r_[(total / len(moments))[:2], np.zeros(size - 2)]
        usual_noise = float(np.exp(np.log(noise).mean()))
    prior = TastePrior(
        base=base,
        scale=scale,
        centre=centre,
        projection=projection,
        # The slope on the raters' consensus is below 1 only because their mean is noisy too.
        mean=np.r_[mean[0], 1.0, np.zeros(size - 2)],
        covariance=covariance,
        noise=usual_noise + generic_error,
        spread=spread,
        origin=origin,
    )
    return tempered(prior, temper)


def tempered(prior: TastePrior, share: float) -> TastePrior:
    """The same prior with `share` of the variance of the components; intercept and slope keep theirs."""
    damp = np.r_[1.0, 1.0, np.full(len(prior.mean) - 2, np.sqrt(share))]
    return replace(prior, covariance=prior.covariance * damp * damp[:, None])
