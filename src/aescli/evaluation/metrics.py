"""How well predicted scores, classes and distributions agree with the truth, as single numbers.

Knows arrays of predictions and labels on one scale, nothing about files, models or data sets.
Confidence intervals are `aescli.evaluation.bootstrap`'s.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aescli.data.labels import is_good

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

REGRESSION = ("PLCC", "SRCC", "KRCC", "MAE", "RMSE", "R2")
CLASSIFICATION = ("ACC", "F1", "AP", "F1_macro", "AP_macro")
LOWER_IS_BETTER = frozenset({"MAE", "RMSE", "EMD"})


def regression_metrics(pred: ArrayLike, true: ArrayLike) -> dict[str, float]:
    """PLCC (the papers' PC), SRCC, KRCC (tau-b), MAE, RMSE and R² of (n,) scores on one scale.

    A correlation that is not defined (fewer than two images, or one side constant) and the R² of a constant
    truth are NaN. Raises ValueError for unequal lengths, no images, or values that are not finite.
    """
    import numpy as np
    from scipy import stats

    pred, true = _checked(pred, true)
    error = pred - true
    out = dict.fromkeys(REGRESSION, math.nan)
    out["MAE"] = float(np.abs(error).mean())
    out["RMSE"] = float(np.sqrt((error**2).mean()))
    if np.ptp(true) > 0:
        out["R2"] = float(1 - (error**2).sum() / ((true - true.mean()) ** 2).sum())
        if np.ptp(pred) > 0:
            with warnings.catch_warnings():
                # Nearly constant input: the coefficient is computed all the same.
                warnings.simplefilter("ignore")
                out["PLCC"] = float(stats.pearsonr(pred, true).statistic)
                out["SRCC"] = float(stats.spearmanr(pred, true).statistic)
                out["KRCC"] = float(stats.kendalltau(pred, true).statistic)
    return {name: out[name] for name in REGRESSION}


def classification_metrics(
    pred: ArrayLike, true: ArrayLike, probabilities: ArrayLike | None = None, classes: int = 5
) -> dict[str, float]:
    """ACC, F1 and AP weighted by support, and macro F1 and AP, as fractions.

    pred, true: (n,) classes 0..classes-1. probabilities: (n, classes) for the average precision (area under
    the precision-recall curve of one class against the rest, Σ (R_k − R_{k−1}) P_k); without them AP is NaN.
    Macro F1 averages the classes that occur in `true` or `pred`, macro AP those that occur in `true`.
    """
    import numpy as np
    from sklearn import metrics

    pred, true = _classes(pred, classes), _classes(true, classes)
    if pred.shape != true.shape or not len(true):
        raise ValueError(f"as many predictions as labels are needed, got {pred.shape} and {true.shape}")
    out = {
        "ACC": float(metrics.accuracy_score(true, pred)),
        "F1": float(metrics.f1_score(true, pred, average="weighted", zero_division=0)),
        "AP": math.nan,
        "F1_macro": float(metrics.f1_score(true, pred, average="macro", zero_division=0)),
        "AP_macro": math.nan,
    }
    if probabilities is not None:
        probabilities = np.asarray(probabilities, dtype=np.float64)
        if probabilities.shape != (len(true), classes) or not np.isfinite(probabilities).all():
            raise ValueError(f"probabilities must be {(len(true), classes)} finite numbers")
        present = np.unique(true)
        support = np.array([(true == c).sum() for c in present])
        average = np.array([metrics.average_precision_score(true == c, probabilities[:, c]) for c in present])
        out["AP"] = float(average @ support / len(true))
        out["AP_macro"] = float(average.mean())
    return out


def good_accuracy(pred: ArrayLike, true: ArrayLike, above: float) -> float:
    """Share of images for which prediction and truth agree whether the score lies above the threshold."""
    pred, true = _checked(pred, true)
    return float((is_good(pred, above) == is_good(true, above)).mean())


def distribution_distances(pred: ArrayLike, true: ArrayLike, r: float = 1.0) -> np.ndarray:
    """(n,) earth mover's distances of (n, K) rating distributions: (mean_k |CDF_p − CDF_q|^r)^(1/r).

    Rows are counts or probabilities; each is divided by its sum. In bins, not scores: 0 = equal, below 1.
    Source: Talebi & Milanfar, NIMA, eq. 1. Raises ValueError for shapes that differ or rows without weight.
    """
    import numpy as np

    pred, true = (np.asarray(x, dtype=np.float64) for x in (pred, true))
    if pred.shape != true.shape or pred.ndim != 2:
        raise ValueError(f"distributions must be two (n, K) arrays, got {pred.shape} and {true.shape}")
    for rows in (pred, true):
        if not np.isfinite(rows).all() or (rows < 0).any() or (rows.sum(axis=1) <= 0).any():
            raise ValueError("every distribution needs finite weights ≥ 0 with a positive sum")
    gap = np.cumsum(pred / pred.sum(1, keepdims=True), 1) - np.cumsum(true / true.sum(1, keepdims=True), 1)
    return (np.abs(gap) ** r).mean(axis=1) ** (1 / r)


def delta_m(multi: Mapping[str, float], single: Mapping[str, float]) -> float | None:
    """ΔM, the multi-task improvement in percent (MoMamba, Section 4.4).

    ½ (mean over ACC, F1, AP of (m/s − 1) + mean over PLCC, R2 of m/s − 1 and MAE, RMSE of s/m − 1), with m
    the multi-task and s the single-task value. None where a single-task value or a multi-task error is ≤ 0.
    """
    gains = (
        [_ratio(multi[name], single[name]) for name in ("ACC", "F1", "AP")],
        [_ratio(multi[name], single[name]) for name in ("PLCC", "R2")]
        + [_ratio(single[name], multi[name]) for name in ("MAE", "RMSE")],
    )
    positive = all(single[name] > 0 for name in ("ACC", "F1", "AP", "PLCC", "R2", "MAE", "RMSE"))
    if not positive or any(gain is None for side in gains for gain in side):
        return None
    return 100 * sum(sum(side) / len(side) - 1 for side in gains) / 2


def largest_gap(by_group: Mapping[str, float]) -> tuple[float, str, str] | None:
    """(gap ≥ 0, group with the largest value, group with the smallest) of one metric, or None."""
    known = {group: value for group, value in by_group.items() if not math.isnan(value)}
    if len(known) < 2:
        return None
    top, bottom = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    return known[top] - known[bottom], top, bottom


def confusion(pred: Sequence[int], true: Sequence[int], classes: int = 5) -> np.ndarray:
    """(classes, classes) counts: row = true class, column = predicted class."""
    import numpy as np

    pred, true = _classes(pred, classes), _classes(true, classes)
    return np.bincount(true * classes + pred, minlength=classes * classes).reshape(classes, classes)


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None


def _checked(pred: ArrayLike, true: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    pred, true = (np.asarray(x, dtype=np.float64) for x in (pred, true))
    # (n,) against (n, 1) would broadcast to n × n and give a plausible number.
    if pred.ndim != 1 or pred.shape != true.shape or not len(true):
        raise ValueError(f"as many predictions as labels are needed, got {pred.shape} and {true.shape}")
    if not (np.isfinite(pred).all() and np.isfinite(true).all()):
        raise ValueError("predictions and labels must be finite")
    return pred, true


def _classes(values: ArrayLike, classes: int) -> np.ndarray:
    import numpy as np

    values = np.asarray(values)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError("classes must be a list of whole numbers")
    if len(values) and not (values.min() >= 0 and values.max() < classes):
        raise ValueError(f"classes must lie in 0..{classes - 1}")
    return values.astype(np.int64)
