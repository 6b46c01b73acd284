"""One person's taste: a linear correction of the generic score, fitted to a few ratings in closed form.

It knows features, generic scores and ratings as arrays, and the small file an adapter is kept in. It knows nothing
about images, profiles or where the prior comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aescli.data.labels import map_scale
from aescli.errors import AesError
from aescli.folders import whole_folder
from aescli.personalization.prior import TastePrior

WEIGHTS, CARD = "adapter.safetensors", "user.json"
CHANGES = "tuned.safetensors"
"""In the place of WEIGHTS where a whole model was tuned to the person."""
USERS = Path("users")
"""Where personal models lie unless said otherwise, a folder for each user."""


@dataclass(frozen=True)
class Adapter:
    """personal score = bias + slope · generic score + features · weights, on the user's scale.

    base: digest of the model that features and generic scores must come from. weights: (d,) float32.
    notes: what is written beside it for people (ratings used, agreement, origin of the prior).
    """

    user: str
    base: str
    scale: tuple[float, float]
    bias: float
    slope: float
    weights: np.ndarray
    notes: dict[str, Any] = field(default_factory=dict)


class _Personal(Protocol):
    user: str
    base: str


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


def leave_one_out(
    prior: TastePrior,
    features: np.ndarray,
    generic: np.ndarray,
    ratings: np.ndarray,
    scale: tuple[float, float],
) -> np.ndarray:
    """(k,) what the person's model says of each rated image when that rating is left out; k ≥ 2."""
    answers = np.empty(len(ratings))
    for i in range(len(ratings)):
        rest = np.arange(len(ratings)) != i
        adapter = fit_adapter(prior, features[rest], generic[rest], ratings[rest], scale)
        answers[i] = personal_scores(features[i : i + 1], generic[i : i + 1], adapter)[0]
    return answers


def require_base(personal: _Personal, digest: str) -> None:
    """AesError unless the personal model was made from the model with this digest."""
    if personal.base != digest:
        raise AesError(
            f"the profile of {personal.user} belongs to the model {personal.base}, not to {digest}; "
            "score with that model, or personalise again with this one"
        )


def safe_name(user: str) -> str:
    """A folder name for a user's name: letters, digits, dot, dash and underscore, others as underscore."""
    return re.sub(r"[^\w.-]+", "_", user).strip("._") or "user"


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the folder so that it is either the old one or the new one, complete (a few KB)."""
    from safetensors.numpy import save_file

    weights = {"weights": np.ascontiguousarray(adapter.weights, np.float32)}
    card = {key: value for key, value in asdict(adapter).items() if key != "weights"}
    write_folder(folder, lambda staging: save_file(weights, staging / WEIGHTS), card)


def write_folder(folder: Path, write: Callable[[Path], None], card: dict[str, Any]) -> None:
    """A personal model's folder from what `write` puts into an empty one and the card; AesError where another thing
    lies in its place."""
    if folder.exists() and not (folder / CARD).is_file() and any(folder.iterdir()):
        raise AesError(f"{folder} exists and is not a personal profile; give another --out")
    with whole_folder(folder) as staging:
        write(staging)
        text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
        (staging / CARD).write_text(text, encoding="utf-8")


def load_adapter(folder: Path) -> Adapter:
    """Raises AesError where there is none, or its files are damaged or disagree."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / CARD).is_file():
        raise AesError(f"{folder}: no personal profile there (no {CARD}); aes personalize makes one")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)["weights"]
        adapter = Adapter(**{**card, "scale": tuple(map(float, card["scale"]))}, weights=weights)
        numbers = [*adapter.scale, adapter.bias, adapter.slope]
        if len(adapter.scale) != 2 or weights.ndim != 1 or not np.isfinite([*numbers, *weights]).all():
            raise ValueError("numbers are missing or not finite")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise AesError(f"{folder}: damaged ({error}); run aes personalize again") from None
    return adapter
