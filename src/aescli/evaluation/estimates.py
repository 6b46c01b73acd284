"""A set of predictions measured: every metric that it allows, each with its 95 % bootstrap interval.

Also the same metrics between a training and a test part, and inside each scale category. Knows arrays; knows nothing
about files, data sets or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aescli.evaluation.bootstrap import Predictions

METRICS = (
    "ACC", "F1", "AP", "ACC_good", "PLCC", "SRCC", "KRCC", "MAE", "RMSE", "R2", "EMD", "F1_macro", "AP_macro",
)  # fmt: skip

_EFFORT = 11_000_000  # images × resamples; above 1,100 images a training part gets fewer than 10,000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value with its 95 % bootstrap interval; NaN where not defined or not asked for."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Subset:
    """name: "all", "clean", "TRAINING DATA", "training part", "column=value" for a subgroup of the main subset, or an
    attribute.

    data: the arrays behind the metrics, a row for each of `images`.
    """

    name: str
    images: list[str]
    metrics: dict[str, Estimate]
    data: Predictions = field(repr=False)

    @property
    def n(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class Category:
    """The images whose true score lies in [low, high), a `share` of all. bias: mean of prediction − truth."""

    low: float
    high: float
    n: int
    share: float
    bias: float
    metrics: dict[str, Estimate]


def point_values(data: Predictions) -> dict[str, float]:
    """Every metric that the predictions allow, in the order of `METRICS`; NaN where it is not defined."""
    from aescli.evaluation.metrics import classification_metrics, good_accuracy, regression_metrics

    values = dict(regression_metrics(data.pred, data.true))
    if data.pred_class is not None and data.true_class is not None:
        values |= classification_metrics(
            data.pred_class, data.true_class, data.probabilities, classes=data.classes
        )
    if data.distances is not None:
        values["EMD"] = float(data.distances.mean())
    if data.above is not None:
        values["ACC_good"] = good_accuracy(data.pred, data.true, data.above)
    return {name: values[name] for name in METRICS if name in values}


def measure(data: Predictions, resamples: int, seed: int = 0) -> dict[str, Estimate]:
    """`point_values` with intervals (none for `resamples` 0 or a single image)."""
    from aescli.evaluation.bootstrap import bootstrap

    values = point_values(data)
    if resamples < 1 or len(data) < 2:
        return {name: Estimate(value) for name, value in values.items()}
    samples = bootstrap(data, resamples, seed)
    return {
        name: Estimate(value, *samples.interval(name))
        if name in samples.values and not math.isnan(value)
        else Estimate(value)
        for name, value in values.items()
    }


def train_test_gap(
    train: Predictions, test: Predictions, resamples: int, seed: int = 0
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """(metrics of the training part, how much worse the test part is in each) (MoMamba, Section 4.3).

    The gap is train − test, and test − train where lower is better: positive = worse on unseen images. The two
    parts hold different images, so they are resampled apart.
    """
    from aescli.evaluation.bootstrap import bootstrap, percentile_interval
    from aescli.evaluation.metrics import LOWER_IS_BETTER

    resamples = min(resamples, max(1_000, _EFFORT // max(len(train), len(test))))
    first, second = point_values(train), point_values(test)
    sign = {name: -1 if name in LOWER_IS_BETTER else 1 for name in first}
    gaps = {name: sign[name] * (first[name] - second[name]) for name in first if name in second}
    if resamples < 1 or min(len(train), len(test)) < 2:
        return {n: Estimate(v) for n, v in first.items()}, {n: Estimate(v) for n, v in gaps.items()}
    drawn = bootstrap(train, resamples, seed + 1)
    other = bootstrap(test, resamples, seed).values
    measured, worse = {}, {}
    for name, value in first.items():
        known = name in drawn.values and not math.isnan(value)
        measured[name] = Estimate(value, *drawn.interval(name)) if known else Estimate(value)
        if name not in gaps:
            continue
        known = known and name in other and not math.isnan(second[name])
        n = min(len(drawn.values[name]), len(other[name])) if known else 0  # fewer for Kendall's tau
        spread = sign[name] * (drawn.values[name][:n] - other[name][:n]) if known else None
        worse[name] = Estimate(gaps[name], *(percentile_interval(spread) if known else ()))
    return measured, worse


def by_category(
    data: Predictions, cuts: Sequence[float], scale: tuple[float, float], resamples: int, seed: int = 0
) -> list[Category]:
    """The scores' metrics within each scale category that has images (AesMamba, Section 4.5 and Fig. 7)."""
    import numpy as np

    from aescli.data.labels import score_to_class
    from aescli.evaluation.bootstrap import Predictions

    found = []
    numbers = score_to_class(data.true, cuts)
    ends = (scale[0], *cuts, scale[1])
    for number in range(len(cuts) + 1):
        keep = np.flatnonzero(numbers == number)
        if len(keep):
            part = Predictions(data.pred[keep], data.true[keep])
            bias = float((part.pred - part.true).mean())
            share = len(keep) / len(data)
            metrics = measure(part, resamples, seed)
            found.append(Category(ends[number], ends[number + 1], len(keep), share, bias, metrics))
    return found
