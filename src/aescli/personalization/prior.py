"""What many raters teach about a new one: how people's tastes differ, as a Gaussian over linear models of features.

It knows image features, generic scores and ratings as arrays, and how the learned numbers are stored beside their base
model. It knows nothing about images, profiles or one person's adapter.

The model: a person's rating of an image, on the base model's scale and divided by how widely the person spreads the
ratings, is β·(1, generic score, components of the features) + noise, and β ~ N(mean, covariance). Mean and covariance
are learned from other raters by expectation maximisation (Laird and Ware 1982); ten ratings then move β only in the
directions in which people are known to differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aescli.errors import AesError

FILE = "taste.safetensors"
COMPONENTS = 64
TEMPER = 0.35
"""Share of the learned variance that the prior keeps. With all of it ten ratings are trusted too much: a rating's
error is not as independent as the model says. Chosen on raters other than those it was then measured on."""

_SPREAD_WEIGHT = 5
"""The usual spread counts as much as this many ratings when a person's own is estimated."""
_DEVIATION_FLOOR = 0.05
_COVARIANCE_WEIGHT, _NOISE_WEIGHT = 30, 20
_MINIMUM = 8
"""Raters with fewer ratings teach nothing about covariances."""


@dataclass(frozen=True)
class TastePrior:
    """base: digest of the model whose features and scores these are. scale: that model's.

    centre (d,), projection (d, p): components = (features − centre) @ projection. mean (2 + p,), covariance
    (2 + p, 2 + p): of β. noise: variance of a rating about the linear model. spread: the usual standard deviation of
    a person's ratings. All on the base model's scale.
    """

    base: str
    scale: tuple[float, float]
    centre: np.ndarray
    projection: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    noise: float
    spread: float
    origin: str = ""

    def design(self, features: np.ndarray, generic: np.ndarray) -> np.ndarray:
        """features (n, d), generic scores (n,) → (n, 2 + p) float64 regressors: 1, score, components."""
        generic = np.asarray(generic, np.float64) - sum(self.scale) / 2
        components = (np.asarray(features, np.float64) - self.centre) @ self.projection
        return np.column_stack([np.ones(len(generic)), generic, components])

    def standardised(self, ratings: np.ndarray) -> tuple[np.ndarray, float]:
        """ratings (k,) on the model's scale → (ratings as β explains them, the person's spread over the usual)."""
        return standardise(ratings, sum(self.scale) / 2, self.spread)


def standardise(ratings: np.ndarray, middle: float, spread: float) -> tuple[np.ndarray, float]:
    """(ratings − middle) / factor, factor = the person's spread, drawn to the usual one, over the usual one."""
    ratings = np.asarray(ratings, np.float64)
    squares = ((ratings - ratings.mean()) ** 2).sum()
    variance = (squares + _SPREAD_WEIGHT * spread**2) / (len(ratings) - 1 + _SPREAD_WEIGHT)
    factor = float(np.sqrt(variance)) / spread
    return (ratings - middle) / factor, factor


def principal_components(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(centre (d,), projection (d, count)): leading components of the standardised features.

    They keep their sizes relative to each other and are scaled so that an image's have a mean squared length of 1.
    Channels that hardly vary are not blown up. count is cut to what n images allow.
    """
    x = np.asarray(features, np.float64)
    centre = x.mean(0)
    deviation = x.std(0)
    deviation = np.maximum(deviation, _DEVIATION_FLOOR * deviation.mean() + 1e-6)
    z = (x - centre) / deviation
    _, values, directions = np.linalg.svd(z, full_matrices=False)
    count = max(1, min(count, int((values > 1e-8 * max(values[0], 1e-12)).sum())))
    size = np.sqrt((values[:count] ** 2).sum() / len(x)) or 1.0
    return centre, (directions[:count] / deviation).T / size


def unlearned_prior(
    base: str, scale: tuple[float, float], features: np.ndarray, count: int = COMPONENTS
) -> TastePrior:
    """For a base model without a learned prior: tastes may differ in any direction, a little.

    features (n, d): of the images at hand. The variances are the typical ones of raters of portraits, in shares of
    the scale; 0.05 on a scale of length 4 for all components together gained at 10 shots and hurt hardly anybody.
    """
    unit = ((scale[1] - scale[0]) / 4) ** 2
    centre, projection = principal_components(features, count)
    components = projection.shape[1]
    return TastePrior(
        base=base,
        scale=scale,
        centre=centre,
        projection=projection,
        mean=np.r_[0.0, 1.0, np.zeros(components)],
        covariance=np.diag(np.r_[0.3 * unit, 0.1, np.full(components, 0.05 * unit)]),
        noise=0.42 * unit,
        spread=0.85 * float(np.sqrt(unit)),
        origin="not learned: no raters were known for this model",
    )


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
    components: int = COMPONENTS,
    iterations: int = 15,
    temper: float = TEMPER,
    start: float = 0.15,
    origin: str = "",
) -> TastePrior:
    """Fit mean (of intercept and slope only), covariance and noise to raters of the same images.

    features (n, d). generic_error: mean squared difference between the model's scores and the `generic` of the raters;
    it is noise to a new person, for whom only the model's scores are known. reduction: see `principal_components`
    (None = of `features`). start: variance at which the components start, towards which the covariance is drawn.
    The noise is one per rater with a common prior; its geometric mean is kept. Raises AesError with fewer than 10
    raters of at least 8 images.
    """
    centre, projection = reduction or principal_components(features, components)
    middle = sum(scale) / 2
    unit = ((scale[1] - scale[0]) / 4) ** 2
    useful = [r for r in raters if len(r.scores) >= _MINIMUM]
    if len(useful) < 10:
        raise AesError(
            f"a prior needs at least 10 raters of {_MINIMUM} images or more; there are {len(useful)}"
        )
    spread = float(np.median([r.scores.std(ddof=1) for r in useful]))
    x = (np.asarray(features, np.float64) - centre) @ projection
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
    damp = np.r_[1.0, 1.0, np.full(size - 2, np.sqrt(temper))]
    return TastePrior(
        base=base,
        scale=scale,
        centre=centre,
        projection=projection,
        # The slope on the raters' consensus is below 1 only because their mean is noisy too.
        mean=np.r_[mean[0], 1.0, np.zeros(size - 2)],
        covariance=covariance * damp * damp[:, None],
        noise=usual_noise + generic_error,
        spread=spread,
        origin=origin,
    )


_ARRAYS = ("centre", "projection", "mean", "covariance")


def save_prior(prior: TastePrior, folder: Path) -> Path:
    """Write `taste.safetensors` into the base model's folder; returns its path. The projection is stored as fp16."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(getattr(prior, name), np.float32) for name in _ARRAYS}
    scale = float(np.abs(arrays["projection"]).max()) or 1.0
    arrays["projection"] = (arrays["projection"] / scale).astype(np.float16)
    values = {
        "base": prior.base,
        "scale": list(prior.scale),
        "noise": prior.noise,
        "spread": prior.spread,
        "projection_scale": scale,
        "origin": prior.origin,
    }
    path = folder / FILE
    save_file(arrays, path, metadata={"taste": json.dumps(values)})
    path.chmod(0o644)
    return path


def load_prior(folder: Path, base: str) -> TastePrior | None:
    """The prior in a model's folder, None where there is none. AesError where it is damaged or another model's."""
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            values = json.loads(file.metadata()["taste"])
            arrays = {name: file.get_tensor(name).astype(np.float64) for name in _ARRAYS}
        arrays["projection"] *= values.pop("projection_scale")
        prior = TastePrior(**{**values, "scale": tuple(values["scale"])}, **arrays)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise AesError(f"{path}: cannot be read ({error}); remove it or install the model again") from None
    if prior.base != base:
        raise AesError(
            f"{path} was learned for the model {prior.base}, not for {base}; remove it or learn it again"
        )
    return prior
