"""Whether an exported model agrees with its checkpoint, on real pictures and through the path that scoring takes.

It knows predictors and how pictures become crops. It knows nothing about how files are written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aescli.data.finding import find_images
from aescli.errors import AesError
from aescli.models.checkpoint import Preprocessing
from aescli.scoring.predictor import Prediction, Predictor
from aescli.scoring.prepare import Preparer

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-3}
"""Largest difference of a score from the checkpoint's, as a share of the score range, and of what else it says."""

MIN_SRCC = 0.99
"""Rank correlation of an int8 model's scores with the checkpoint's, on images that did not calibrate it."""

TEXTS = (
    "Great light, and I like the composition.",
    "",
    "The horizon is crooked and the colours look dull to me, but the subject is well placed; "
    "a little more contrast in the sky would help.",
    "nice",
)
"""What a model that reads text is compared with: comments of several lengths, and none."""

_BATCH = 8


@dataclass(frozen=True)
class Parity:
    """How far an exported model's answers lie from the checkpoint's, over `images` pictures.

    score: the largest |Δscore| as a share of the range. probability: the largest |Δ|, None for a model without
    probabilities. attribute: the largest |Δ| as a share of the attribute's largest value, None without attributes.
    classes: share of the pictures that get another class. srcc: of the scores, None where undefined.
    speed: images per second of the exported model / of the reference, alternating in one run on one core.
    """

    images: int
    score: float
    probability: float | None
    attribute: float | None
    classes: float
    srcc: float | None
    speed: float

    @property
    def worst(self) -> tuple[str, float]:
        """What differs most, and by how much."""
        found = {"score": self.score, "probability": self.probability, "attribute": self.attribute}
        # A difference that is no number is the worst of all.
        known = {name: math.inf if math.isnan(d) else d for name, d in found.items() if d is not None}
        return max(known.items(), key=lambda item: item[1])


def sample_crops(preprocessing: Preprocessing, images: Sequence[str], most: int) -> tuple[np.ndarray, str]:
    """At most `most` crops (N, S, S, 3) uint8 for comparing, and words that say of what they are so many.

    images: files or folders of the user, of which evenly spaced ones are taken and prepared as in scoring; without
    any, parts of the two photographs that scikit-learn ships.
    """
    if images:
        found = [item for item in find_images(images) if not item.error]
        prepare = Preparer(preprocessing)
        crops: list[np.ndarray] = []
        # Spread over the whole set; more are tried where some have no face.
        order = sorted(range(len(found)), key=lambda k: (k * 0.6180339887498949) % 1)
        for k in order[: 4 * most]:
            crops += [crop.pixels for crop in prepare(found[k]).crops]
            if len(crops) >= most:
                break
        if not crops:
            raise AesError("--images: none of them can be scored (no image, or no face); give other ones")
        return np.stack(crops[:most]), "of your images"
    return _photo_parts(preprocessing.size, most), "parts of scikit-learn's two sample photos"


def _photo_parts(side: int, count: int) -> np.ndarray:
    import sklearn.datasets

    from aescli.data.framing import square_resize
    from aescli.data.images import load_image

    folder = Path(sklearn.datasets.__file__).parent / "images"
    photos = [load_image(folder / name, 10_000).pixels for name in ("china.jpg", "flower.jpg")]
    random = np.random.default_rng(0)
    parts = []
    for k in range(count):
        photo = photos[k % 2]
        edge = int(random.integers(min(photo.shape[:2]) // 3, min(photo.shape[:2])))
        top, left = (int(random.integers(0, n - edge + 1)) for n in photo.shape[:2])
        parts.append(square_resize(np.ascontiguousarray(photo[top : top + edge, left : left + edge]), side))
    return np.stack(parts)


def normalised(crops: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """(N, S, S, 3) uint8 → (N, 3, S, S) float32, as the exported graph takes them."""
    x = (crops.astype(np.float32) / 255 - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def compare(
    exported: Predictor, reference: Predictor, crops: np.ndarray, baseline: Predictor | None = None
) -> Parity:
    """Score the crops with both. baseline: what the speed is compared with, the reference by default."""
    baseline = baseline or reference
    texts = [TEXTS[k % len(TEXTS)] for k in range(len(crops))] if reference.reads_text else []
    seconds = {"exported": 0.0, "baseline": 0.0}
    ours, theirs = [], []
    for predictor in (exported, baseline):  # the first call prepares what the later ones use
        predictor.predict(crops[:_BATCH], texts[:_BATCH])
    for k in range(0, len(crops), _BATCH):
        part = crops[k : k + _BATCH], texts[k : k + _BATCH]
        start = time.perf_counter()
        ours.append(exported.predict(*part))
        middle = time.perf_counter()
        prediction = baseline.predict(*part)
        seconds["exported"] += middle - start
        seconds["baseline"] += time.perf_counter() - middle
        theirs.append(prediction if baseline is reference else reference.predict(*part))
    a, b = (Prediction(*map(np.concatenate, zip(*parts, strict=True))) for parts in (ours, theirs))
    low, high = reference.scale
    return Parity(
        images=len(crops),
        score=float(np.abs(a.scores - b.scores).max(initial=0) / (high - low)),
        probability=_largest(a.probabilities - b.probabilities),
        attribute=_largest((a.attributes - b.attributes) / np.abs(b.attributes).max(0, initial=1e-9)),
        classes=float((_classes(a, reference) != _classes(b, reference)).mean()),
        srcc=_rank_correlation(a.scores, b.scores),
        speed=seconds["baseline"] / max(seconds["exported"], 1e-9),
    )


def _largest(differences: np.ndarray) -> float | None:
    """(N, K) → the largest size, None where K is 0."""
    return float(np.abs(differences).max(initial=0)) if differences.shape[1] else None


def _classes(found: Prediction, predictor: Predictor) -> np.ndarray:
    """(N,) class of each picture, as a scoring run shows it."""
    if predictor.classes and not predictor.distribution:
        return found.probabilities.argmax(1)
    return np.searchsorted(predictor.cuts, found.scores, side="right")


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def check(parity: Parity, precision: str) -> None:
    """Raises AesError where the exported model is too far from its checkpoint."""
    if precision == "int8":
        if parity.srcc is None or parity.srcc < MIN_SRCC:
            got = "undefined" if parity.srcc is None else f"{parity.srcc:.4f}"
            raise AesError(
                f"the int8 model ranks {parity.images} images too differently: SRCC {got} against fp32, at least "
                f"{MIN_SRCC} is wanted; give more and more varied --images, or export fp16"
            )
        return
    name, difference = parity.worst
    if difference > TOLERANCE[precision]:
        share = (
            "" if name == "probability" else " of the range" if name == "score" else " of its largest value"
        )
        raise AesError(
            f"the exported model's answers differ too much, the {name} by {difference:.1e}{share}, more than "
            f"{TOLERANCE[precision]:.0e}; nothing was written"
        )
