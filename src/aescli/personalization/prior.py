"""What many raters teach about a new one: how people's tastes differ, as a Gaussian over linear models of features.

It knows image features and generic scores as arrays, and how the learned numbers are stored beside their base model.
It knows nothing about images, profiles or one person's adapter; `aescli.personalization.learning` learns it.

The model: a person's rating of an image, on the base model's scale and divided by how widely the person spreads the
ratings, is β·(1, generic score, components of the features) + noise, and β ~ N(mean, covariance). Mean and covariance
are learned from other raters by expectation maximisation (Laird and Ware 1982); ten ratings then move β only in the
directions in which people are known to differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aescli.errors import AesError

FILE = "taste.safetensors"
COMPONENTS = 64
_SPREAD_WEIGHT = 5
"""The usual spread counts as much as this many ratings when a person's own is estimated."""
_DEVIATION_FLOOR = 0.05


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
    factor = float(spread_factor(((ratings - ratings.mean()) ** 2).sum(), len(ratings), spread))
    return (ratings - middle) / factor, factor


def spread_factor(squares: np.ndarray, count: int, spread: float) -> np.ndarray:
    """A person's spread over the usual one, from the summed squares of `count` ratings about their mean."""
    return np.sqrt((squares + _SPREAD_WEIGHT * spread**2) / (count - 1 + _SPREAD_WEIGHT)) / spread


def standardised_features(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(z (n, d), centre (d,), deviation (d,)), z = (features − centre) / deviation.

    A channel that hardly varies here is not blown up: its deviation counts as a twentieth of the mean one.
    """
    x = np.asarray(features, np.float64)
    centre = x.mean(0)
    deviation = x.std(0)
    deviation = np.maximum(deviation, _DEVIATION_FLOOR * deviation.mean() + 1e-6)
    return (x - centre) / deviation, centre, deviation


def principal_components(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(centre (d,), projection (d, count)): leading components of the standardised features.

    They keep their sizes relative to each other and are scaled so that an image's have a mean squared length of 1.
    count is cut to what n images allow.
    """
    z, centre, deviation = standardised_features(features)
    _, values, directions = np.linalg.svd(z, full_matrices=False)
    count = max(1, min(count, int((values > 1e-8 * max(values[0], 1e-12)).sum())))
    size = np.sqrt((values[:count] ** 2).sum() / len(z)) or 1.0
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
