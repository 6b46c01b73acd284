"""Scores as classes and between scales.

Knows the class rules of the benchmarks (cuts) and the linear map from one declared scale to another.
Knows nothing about files, images or models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aescli.models.category_rules import CATEGORY_RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike

CLASS_CUTS: dict[str, tuple[float, ...]] = {
    # SCUT-FBP: the cuts that give the published 24/240/177/30/29 images (MoMamba, Section 4.1).
    "scut-fbp": (1.9, 2.6, 3.4, 4.2),
    # SCUT-FBP5500: the paper's rule is unpublished; these cuts are floor(score + 0.5) - 1, clipped to 0..4.
    "scut-fbp5500": (1.5, 2.5, 3.5, 4.5),
}
"""Class boundaries by data set, on the data set's own scale."""

GOOD_ABOVE: dict[str, float] = {"ava": 5.0, "photonet": 5.0, "tad66k": 5.0, "para": 3.0, "aadb": 0.5}
"""A score above this is "good": the two-class accuracy of the aesthetics benchmarks."""

# A mean of ratings that is a cut up to rounding (as float32, or printed with six decimals) lies on the cut.
_ON_THE_CUT = 1e-6


def score_to_class(scores: ArrayLike, cuts: Sequence[float]) -> np.ndarray:
    """Classes 0..len(cuts) of `scores` (any shape, on the scale of `cuts`): the number of cuts ≤ score.

    A score within 1e-6 of a cut counts as lying on it. Raises ValueError for cuts that do not ascend
    and for a score that is not a number (it has no class).
    """
    import numpy as np

    cuts = np.asarray(cuts, dtype=np.float64)
    if cuts.ndim != 1 or (np.diff(cuts) <= 0).any():
        raise ValueError(f"class cuts must ascend, got {cuts.tolist()}")
    scores = np.asarray(scores, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError("a score that is not a number has no class")
    return np.searchsorted(cuts, scores + _ON_THE_CUT, side="right").astype(np.int64)


def rated_class(scores: ArrayLike, cuts: Sequence[float]) -> np.ndarray:
    """The classes 0..len(cuts) that a model's or a label's score means.

    One cut is the threshold of good against bad, above which, not on which, an image is good (`is_good`); several are
    `score_to_class`'s.
    """
    import numpy as np

    return is_good(scores, cuts[0]).astype(np.int64) if len(cuts) == 1 else score_to_class(scores, cuts)


def class_cuts(dataset: str, scale: tuple[float, float]) -> tuple[float, ...]:
    """The data set's own cuts, or for one without: SCUT-FBP5500's, mapped from 1..5 to `scale`."""
    if dataset in CLASS_CUTS:
        return CLASS_CUTS[dataset]
    return tuple(float(cut) for cut in map_scale(CLASS_CUTS["scut-fbp5500"], (1.0, 5.0), scale))


def category_cuts(dataset: str, scale: tuple[float, float], categories: int = 5) -> tuple[float, ...]:
    """Boundaries of the data set's scale categories: its own, its class cuts, else bins of equal width."""
    rule = CATEGORY_RULES.get(dataset.removesuffix("-captions"))
    known = rule[1] if rule else CLASS_CUTS.get(dataset)
    width = (scale[1] - scale[0]) / categories
    return known or tuple(scale[0] + k * width for k in range(1, categories))


def good_above(dataset: str, scale: tuple[float, float]) -> float:
    """The score above which an image counts as good: the benchmark's, else the middle of the scale."""
    return GOOD_ABOVE.get(dataset.removesuffix("-captions"), (scale[0] + scale[1]) / 2)


def is_good(scores: ArrayLike, above: float) -> np.ndarray:
    """Which scores lie above the threshold (bool, any shape); one within 1e-6 of it lies on it."""
    import numpy as np

    return np.asarray(scores, dtype=np.float64) > above + _ON_THE_CUT


def map_scale(values: ArrayLike, source: tuple[float, float], target: tuple[float, float]) -> np.ndarray:
    """`values` (any shape) mapped linearly so that `source`'s ends meet `target`'s; nothing is clipped."""
    import numpy as np

    (low, high), (new_low, new_high) = source, target
    if not (high > low and new_high > new_low):
        raise ValueError(f"a scale needs low < high, got {source} and {target}")
    values = np.asarray(values, dtype=np.float64)
    if (low, high) == (new_low, new_high):
        return values.copy()
    return new_low + (values - low) * ((new_high - new_low) / (high - low))
