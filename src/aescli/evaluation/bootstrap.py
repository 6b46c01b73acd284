"""Confidence intervals by resampling images with replacement, all resamples at once.

A resample is held as how often each image was drawn. Every metric is then a few sums over (n, resamples)
weights, ranks included: they are recomputed in each resample from cumulative weights, without sorting again.
Knows arrays only; single values are `aescli.evaluation.metrics`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from aescli.data.labels import is_good

RESAMPLES = 10_000
_CHUNK = 2_000_000  # weights held at once (16 MB)
_KENDALL_BUDGET = 4e11  # multiplications spent on Kendall's tau, about 10 s on one core

Metric = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Weights (n, r) → name → (r,) values."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What is predicted of n images, beside the truth. Scores share one scale; classes count from 0.

    probabilities: (n, K). distances: (n,) earth mover's distance of each image's predicted distribution.
    above: a score above this is "good" (for the two-class accuracy); None = not asked.
    """

    pred: np.ndarray
    true: np.ndarray
    pred_class: np.ndarray | None = None
    true_class: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    distances: np.ndarray | None = None
    classes: int = 5
    above: float | None = None

    def __len__(self) -> int:
        return len(self.true)

    def subset(self, keep: np.ndarray) -> Predictions:
        """The images at the given positions."""
        arrays = ("pred", "true", "pred_class", "true_class", "probabilities", "distances")
        picked = {name: getattr(self, name) for name in arrays}
        return Predictions(
            **{name: None if array is None else array[keep] for name, array in picked.items()},
            classes=self.classes,
            above=self.above,
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """values: metric → (R,) its value in each resample, NaN where it is not defined there."""

    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """The central percentile interval; NaNs if over 5 % of the resamples leave it undefined."""
        return percentile_interval(self.values[name], level)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of `values`; (NaN, NaN) if more than 5 % of them are NaN."""
    known = values[~np.isnan(values)]
    if len(known) < 0.95 * len(values) or not len(known):
        return math.nan, math.nan
    tail = 50 * (1 - level)
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap(data: Predictions, resamples: int = RESAMPLES, seed: int = 0) -> Samples:
    """All metrics in `resamples` resamples of the images. Equal n and seed draw the same resamples.

    Above about 4,000 images Kendall's tau uses fewer resamples (at least 200): its cost grows with n².
    """
    return Samples(weighted(data, draws(len(data), resamples, seed), len(data), resamples))


def weighted(
    data: Predictions, blocks: Iterable[np.ndarray], total: int, columns: int
) -> dict[str, np.ndarray]:
    """Every metric of `data` under whole-number weights of its images: metric → (columns,).

    blocks: (n, r) weights, together `columns` columns, each of which adds up to `total`.
    """
    metrics = _metrics(data, total)
    tau = _kendall(data.pred, data.true, total)
    tau_columns = min(columns, max(200, int(_KENDALL_BUDGET / len(data) ** 2)))
    found: dict[str, list[np.ndarray]] = {}
    done = 0
    for weights in blocks:
        for metric in metrics:
            for name, values in metric(weights).items():
                found.setdefault(name, []).append(values)
        left = tau_columns - done
        if left > 0:
            found.setdefault("KRCC", []).append(tau(weights[:, :left]))
        done += weights.shape[1]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (n, r) float64 blocks: how often each image was drawn in each of r resamples."""
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK // n)
    for start in range(0, resamples, block):
        columns = min(block, resamples - start)
        drawn = rng.integers(0, n, size=(columns, n), dtype=np.int64)
        drawn += np.arange(columns, dtype=np.int64)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=columns * n).reshape(columns, n)
        # An image's counts lie side by side: taking images in another order then copies whole rows.
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def _metrics(data: Predictions, total: int) -> list[Metric]:
    found = [_errors(data.pred, data.true, total), _spearman(data.pred, data.true, total)]
    if data.pred_class is not None and data.true_class is not None:
        found.append(_f1(data.pred_class, data.true_class, data.classes, total))
        if data.probabilities is not None:
            found.append(_average_precision(data.probabilities, data.true_class, total))
    if data.distances is not None:
        found.append(_mean("EMD", data.distances, total))
    if data.above is not None:
        agree = is_good(data.pred, data.above) == is_good(data.true, data.above)
        found.append(_mean("ACC_good", agree.astype(np.float64), total))
    return found


def _mean(name: str, values: np.ndarray, total: int) -> Metric:
    return lambda weights: {name: values @ weights / total}


def _errors(pred: np.ndarray, true: np.ndarray, total: int) -> Metric:
    """MAE, RMSE, R² and PLCC from weighted moments."""
    error = pred - true
    # Centred once, so that the moments lose no digits to a large mean.
    x, y = pred - pred.mean(), true - true.mean()
    moments = np.stack([np.abs(error), error**2, x, y, x * x, y * y, x * y])

    def metric(weights: np.ndarray) -> dict[str, np.ndarray]:
        mae, mse, mx, my, xx, yy, xy = moments @ weights / total
        var_x, var_y = _variance(xx, mx), _variance(yy, my)
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = 1 - mse / var_y
            return {
                "PLCC": _clip((xy - mx * my) / np.sqrt(var_x * var_y)),
                "MAE": mae,
                "RMSE": np.sqrt(mse),
                "R2": np.where(np.isfinite(r2), r2, np.nan),
            }

    return metric


def _spearman(pred: np.ndarray, true: np.ndarray, total: int) -> Metric:
    """SRCC: Pearson's coefficient of the ranks that the images have in the resample (ties: mean rank)."""
    ranks_x, ranks_y = _ranker(pred), _ranker(true)
    centre = (total + 1) / 2  # the mean rank of every resample

    def metric(weights: np.ndarray) -> dict[str, np.ndarray]:
        x, y = ranks_x(weights) - centre, ranks_y(weights) - centre
        weighted = weights * x
        xx, xy = np.einsum("nr,nr->r", weighted, x), np.einsum("nr,nr->r", weighted, y)
        np.multiply(weights, y, out=weighted)
        yy = np.einsum("nr,nr->r", weighted, y)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"SRCC": _clip(xy / np.sqrt(xx * yy))}

    return metric


@dataclass(frozen=True, slots=True)
class _Ties:
    """order: positions by ascending value. starts: where in it each of u distinct values starts.
    inverse: number of each position's distinct value."""

    order: np.ndarray
    starts: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> _Ties:
        order = np.argsort(values, kind="stable")
        _, inverse = np.unique(values, return_inverse=True)
        return cls(order, np.flatnonzero(np.diff(inverse[order], prepend=-1)), inverse)

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """(n, r) → (u, r): the weight of each distinct value."""
        taken = weights[self.order]
        return taken if len(self.starts) == len(taken) else np.add.reduceat(taken, self.starts, axis=0)


def _ranker(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Weights (n, r) → mean rank of each image's value in each resample (n, r)."""
    ties = _Ties.of(values)

    def ranks(weights: np.ndarray) -> np.ndarray:
        copies = ties.sums(weights)
        rank = np.cumsum(copies, axis=0)
        copies -= 1
        copies /= 2
        rank -= copies
        return rank[ties.inverse]

    return ranks


def _kendall(pred: np.ndarray, true: np.ndarray, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """KRCC (tau-b): Σ_ij w_i w_j sign(x_i − x_j) sign(y_i − y_j), as products of integer matrices."""
    n = len(true)
    ties = [_Ties.of(values) for values in (pred, true)]
    block = max(1, 8_000_000 // n)

    def metric(weights: np.ndarray) -> np.ndarray:
        # float32 is exact here: the entries of the product are whole numbers ≤ n < 2^24.
        narrow = weights.astype(np.float32)
        total = np.zeros(weights.shape[1])
        for start in range(0, n, block):
            rows = slice(start, start + block)
            signs = np.sign(pred[rows, None] - pred) * np.sign(true[rows, None] - true)
            product = signs.astype(np.float32) @ narrow
            total += np.einsum("nr,nr->r", product, weights[rows], dtype=np.float64)
        pairs = size * (size - 1) / 2
        free = []
        for tie in ties:
            copies = tie.sums(weights)
            free.append(pairs - (np.einsum("ur,ur->r", copies, copies) - size) / 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            return _clip(total / 2 / np.sqrt(free[0] * free[1]))

    return metric


def _f1(pred: np.ndarray, true: np.ndarray, classes: int, total: int) -> Metric:
    """ACC, F1 weighted by support, macro F1 over the classes that occur in the resample."""
    labels = np.arange(classes)[:, None]
    is_true, is_pred = (true == labels).astype(float), (pred == labels).astype(float)

    def metric(weights: np.ndarray) -> dict[str, np.ndarray]:
        support, predicted, hits = is_true @ weights, is_pred @ weights, (is_true * is_pred) @ weights
        either = support + predicted
        f1 = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
        return {
            "ACC": hits.sum(axis=0) / total,
            "F1": (f1 * support).sum(axis=0) / total,
            "F1_macro": f1.sum(axis=0) / (either > 0).sum(axis=0),
        }

    return metric


def _average_precision(probabilities: np.ndarray, true: np.ndarray, total: int) -> Metric:
    """AP weighted by support, and macro over the classes that occur in the resample."""
    classes = probabilities.shape[1]
    # Descending probability; equal ones share a threshold. Only thresholds that gain a hit count.
    ties = [_Ties.of(-probabilities[:, c]) for c in range(classes)]

    def metric(weights: np.ndarray) -> dict[str, np.ndarray]:
        support = np.zeros((classes, weights.shape[1]))
        average = np.zeros_like(support)
        for c, tie in enumerate(ties):
            positive = np.flatnonzero(true == c)
            if not len(positive):
                continue
            above = np.cumsum(tie.sums(weights), axis=0)
            thresholds, member = np.unique(tie.inverse[positive], return_inverse=True)
            hits = np.zeros((len(thresholds), weights.shape[1]))
            np.add.at(hits, member, weights[positive])
            right, drawn = np.cumsum(hits, axis=0), above[thresholds]
            support[c] = right[-1]
            precision = np.divide(right, drawn, out=np.zeros_like(right), where=drawn > 0)
            gained = np.einsum("tr,tr->r", hits, precision)
            average[c] = np.divide(gained, right[-1], out=np.zeros_like(gained), where=right[-1] > 0)
        return {
            "AP": (average * support).sum(axis=0) / total,
            "AP_macro": average.sum(axis=0) / (support > 0).sum(axis=0),
        }

    return metric


def _variance(square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """square − mean², and 0 for what is only rounding (a resample of one image drawn n times)."""
    variance = square - mean**2
    return np.where(variance > 1e-12 * square, variance, 0.0)


def _clip(values: np.ndarray) -> np.ndarray:
    """A coefficient leaves [-1, 1] by rounding only; ±inf (a constant side) is undefined."""
    return np.where(np.isfinite(values), np.clip(values, -1.0, 1.0), np.nan)
