"""How a change of the model changes the ranking inside each scale category (AesMamba §4.5.1, Fig. 7).

Knows predictions by attribute and scale categories. Knows nothing about runs, files or figures.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aescli.data.categories import scale_categories
from aescli.evaluation.metrics import regression_metrics
from aescli.models.adaptation import AttributeConfig

FEWEST = 5
"""Images that a category needs for a rank correlation to mean anything."""


@dataclass(frozen=True)
class Change:
    """One category of one attribute. share: of the test images. before, after: SRCC inside it."""

    attribute: str
    category: int
    n: int
    share: float
    before: float
    after: float

    @property
    def relative(self) -> float:
        """(after − before) / |before|."""
        return (self.after - self.before) / abs(self.before)


@dataclass(frozen=True)
class Trend:
    """relative change = intercept + slope · share, by least squares; p: two-sided, that there is no slope."""

    intercept: float
    slope: float
    p: float


def category_changes(
    attributes: Sequence[AttributeConfig], truth: np.ndarray, before: np.ndarray, after: np.ndarray
) -> list[Change]:
    """truth, before, after: (n, A) scores in the order of `attributes`; truth is NaN where unknown.

    Categories with fewer than `FEWEST` images, or in which a correlation is not defined or is 0 before, are left out.
    """
    found = []
    for a, attribute in enumerate(attributes):
        if not attribute.cuts:
            continue
        numbers = scale_categories(truth[:, a], attribute)
        known = int((numbers >= 0).sum())
        for category in range(attribute.category_count):
            keep = numbers == category
            n = int(keep.sum())
            if n < FEWEST:
                continue
            ranked = [regression_metrics(side[keep, a], truth[keep, a])["SRCC"] for side in (before, after)]
            if not any(map(math.isnan, ranked)) and ranked[0]:
                found.append(Change(attribute.name, category, n, n / known, *ranked))
    return found


def changes_of_rows(
    attributes: Sequence[AttributeConfig],
    truth: Mapping[str, np.ndarray],
    before: Sequence[Mapping],
    after: Sequence[Mapping],
) -> list[Change]:
    """`category_changes` from what two runs keep of each test picture ("name", "attributes").

    truth: name → (A,) scores. Pictures that only one of the two tested are left out.
    """
    sides = [{row["name"]: row["attributes"] for row in rows} for rows in (before, after)]
    names = [name for name in sides[0] if name in sides[1]]
    if not names:
        return []
    tables = (np.array([side[name] for name in names], dtype=np.float64) for side in sides)
    return category_changes(attributes, np.array([truth[name] for name in names]), *tables)


def trend(changes: Sequence[Change]) -> Trend | None:
    """The fitted line; None for fewer than three points or equal shares."""
    from scipy.stats import linregress

    share = [change.share for change in changes]
    if len(changes) < 3 or len(set(share)) < 2:
        return None
    fit = linregress(share, [change.relative for change in changes])
    return Trend(float(fit.intercept), float(fit.slope), float(fit.pvalue))


def as_csv(changes: Mapping[str, Sequence[Change]]) -> str:
    """A line for each model, attribute and category."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["model", "attribute", "category", "n", "share", "srcc_before", "srcc_after", "relative_change"]
    )
    for model, points in changes.items():
        for c in points:
            numbers = (c.share, c.before, c.after, c.relative)
            writer.writerow([model, c.attribute, c.category, c.n, *map(repr, numbers)])
    return out.getvalue()


def as_sentence(changes: Mapping[str, Sequence[Change]]) -> str:
    """What the trend lines say, a sentence for each model."""
    out = []
    for model, points in changes.items():
        fitted = trend(points)
        if fitted is not None:
            out.append(
                f"{model}: relative change of SRCC = {100 * fitted.intercept:+.2f} % "
                f"{fitted.slope:+.3f} × share (%), slope p = {fitted.p:.3f}, {len(points)} categories."
            )
    return " ".join(out)
