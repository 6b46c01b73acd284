"""One person's taste: a linear correction of the generic score, fitted to a few ratings in closed form.

It knows features, generic scores and ratings as arrays, and the small file an adapter is kept in. It knows nothing
about images, profiles or where the prior comes from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aescli.data.labels import map_scale
from aescli.errors import AesError
from aescli.personalization.folder import CARD, WEIGHTS, damaged, read_card, write_folder
from aescli.personalization.prior import TastePrior


@dataclass(frozen=True)
class Adapter:
    """personal score = bias + slope · generic score + features · weights, on the user's scale.

    base: digest of the model that features and generic scores must come from. task, model: its task and its name, ""
    where it is not kept. weights: (d,) float32. notes: what is written beside it for people (ratings used, agreement,
    origin of the prior).
    """

    user: str
    base: str
    scale: tuple[float, float]
    bias: float
    slope: float
    weights: np.ndarray
    task: str = ""
    model: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


def fit_adapter(
    prior: TastePrior,
    features: np.ndarray,
    generic: np.ndarray,
    ratings: np.ndarray,
    scale: tuple[float, float],
    user: str = "",
) -> Adapter:
    """The posterior mean of the person's linear model, given k ≥ 1 ratings.

    features (k, d) and generic (k,): of the rated images, from the prior's base model. ratings (k,) on `scale`.
    """
    ratings = map_scale(ratings, scale, prior.scale)
    y, factor = prior.standardised(ratings)
    a = prior.design(features, generic)
    moved = a @ prior.covariance  # (k, q)
    gain = np.linalg.solve(moved @ a.T + prior.noise * np.eye(len(y)), y - a @ prior.mean)
    beta = (prior.mean + moved.T @ gain) * factor
    # From the prior's regressors to raw features and from the model's scale to the user's.
    unit = (scale[1] - scale[0]) / (prior.scale[1] - prior.scale[0])
    weights = prior.projection @ beta[2:]
    middle = sum(prior.scale) / 2
    bias = middle + beta[0] - beta[1] * middle - prior.centre @ weights
    return Adapter(
        user=user,
        base=prior.base,
        scale=(float(scale[0]), float(scale[1])),
        bias=float(scale[0] + (bias - prior.scale[0]) * unit),
        slope=float(beta[1] * unit),
        weights=(weights * unit).astype(np.float32),
        notes={"ratings": len(ratings), "prior": prior.origin},
    )


def personal_scores(features: np.ndarray, generic: np.ndarray, adapter: Adapter) -> np.ndarray:
    """features (n, d), generic (n,) of the adapter's base model → (n,) float64 scores on the user's scale."""
    if features.shape[1] != len(adapter.weights):
        raise AesError(
            f"the profile of {adapter.user} is for {len(adapter.weights)} features, the model gives "
            f"{features.shape[1]}; personalise again with this model"
        )
    scores = adapter.bias + adapter.slope * np.asarray(generic, np.float64)
    return within(scores + np.asarray(features, np.float64) @ adapter.weights, adapter.scale)


def within(scores: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """`scores` brought inside the scale without ties: unchanged but for the outer tenths, which bend.

    Cutting would give all the best photos of someone who uses the whole scale one score.
    """
    low, high = scale
    bend = (high - low) / 10
    above, below = np.maximum(scores - (high - bend), 0), np.maximum(low + bend - scores, 0)
    inner = np.clip(scores, low + bend, high - bend)
    bent = inner - bend * np.expm1(-above / bend) + bend * np.expm1(-below / bend)
    return np.clip(bent, low, high)  # rounding


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the folder so that it is either the old one or the new one, complete (a few KB)."""
    from safetensors.numpy import save_file

    weights = {"weights": np.ascontiguousarray(adapter.weights, np.float32)}
    card = {key: value for key, value in asdict(adapter).items() if key != "weights"}
    write_folder(folder, lambda staging: save_file(weights, staging / WEIGHTS), card)


def load_adapter(folder: Path) -> Adapter:
    """Raises AesError where there is none, or its files are damaged or disagree."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / CARD).is_file():
        raise AesError(f"{folder}: no personal profile there (no {CARD}); aes personalize makes one")
    try:
        card = read_card(folder, {"bias": float, "slope": float})
        weights = load_file(folder / WEIGHTS)["weights"]
        if weights.ndim != 1 or not np.isfinite(weights).all():
            raise ValueError(f"{WEIGHTS} does not hold a row of finite numbers")
    except KeyError as error:
        raise damaged(folder, ValueError(f"{WEIGHTS} lacks {error}")) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(folder, error) from None
    return Adapter(**card, weights=weights)
