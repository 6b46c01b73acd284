"""What one evaluation found: its subsets, groups and comparison, what was left out, and all of it as JSON.

Holds figures that others computed; measures nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from aescli.data.datasets.base import Dataset, Scale
from aescli.errors import named
from aescli.evaluation.estimates import Category, Estimate, Subset
from aescli.evaluation.predictions import Joined

if TYPE_CHECKING:
    from aescli.evaluation.compare import Difference

ALL, CLEAN, TRAINING = "all", "clean", "TRAINING DATA"
TRAIN_PART = "training part"


@dataclass(frozen=True, slots=True)
class Gap:
    """How far apart the subgroups are in one metric. p: of random groups of these sizes (`compare.gap_p`)."""

    value: float
    largest: str
    smallest: str
    p: float = math.nan


@dataclass(frozen=True, slots=True)
class Comparison:
    """The main subset's images that `against` predicts too. differences: metric → `compare.Difference`.

    delta_m: ΔM in percent with `against` as the single-task reference; None where it is not defined.
    """

    against: str
    n: int
    differences: dict[str, Difference]
    delta_m: float | None


@dataclass(slots=True)
class Evaluation:
    """Everything that `aes eval` tells. `subsets[0]` is the one to quote unless it is the training data.

    above: a score above it is "good". train: the training part, if asked for; gap: how much worse the main subset
    is. categories: the main subset by scale category. attributes: the main subset's further scores.
    """

    dataset: Dataset
    predictions: str
    scale: Scale
    cuts: tuple[float, ...]
    above: float
    subsets: list[Subset]
    groups: list[Subset]
    gaps: dict[str, Gap]
    joined: Joined
    categories: list[Category]
    attributes: list[Subset] = field(default_factory=list)
    train: Subset | None = None
    gap: dict[str, Estimate] = field(default_factory=dict)
    comparison: Comparison | None = None
    notes: list[str] = field(default_factory=list)
    overlap_checked: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    """What the figures can be made again from: part, resamples, seed, version, date."""

    @property
    def main(self) -> Subset:
        return self.subsets[0]

    def warnings(self, limit: int = 5) -> list[str]:
        """What was left out or kept apart, for a person: a line of a count and the first names each."""
        out = []
        training = next((subset for subset in self.subsets if subset.name == TRAINING), None)
        if training:
            out.append(f"TRAINING DATA: {named('images', training.images, limit)} kept apart")
        for what, items in (
            ("labelled images without a prediction", self.joined.unpredicted),
            ("labelled images that could not be scored", [str(p) for p in self.joined.unscored]),
            ("predictions without a label", self.joined.unlabelled),
            ("ambiguous matches left out", self.joined.ambiguous),
        ):
            if items:
                out.append(named(what, items, limit))
        return out

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: NaN becomes None, and every name that was left out is there."""

        def subset(item: Subset, names: bool) -> dict[str, Any]:
            found = {"subset": item.name, "n": item.n, "metrics": _plain(item.metrics)}
            return found | ({"images": item.images} if names else {})

        extra: dict[str, Any] = {}
        if self.train is not None:
            extra["train"] = subset(self.train, False)
            extra["train_test_gap"] = _plain(self.gap)
        if self.comparison is not None:
            extra["comparison"] = {
                "against": self.comparison.against,
                "n": self.comparison.n,
                "differences": _plain(self.comparison.differences),
                "delta_m": self.comparison.delta_m,
            }
        return {
            "dataset": self.dataset.name,
            "data": str(self.dataset.notes.source),
            "predictions": self.predictions,
            "scale": list(self.scale),
            "class_cuts": list(self.cuts),
            "good_above": self.above,
            "overlap_checked": self.overlap_checked,
            "provenance": self.provenance,
            "subsets": [subset(item, item.name == TRAINING) for item in self.subsets],
            "attributes": [subset(item, False) for item in self.attributes],
            "groups": [subset(item, False) for item in self.groups],
            "gaps": {
                name: asdict(gap) | {"p": None if math.isnan(gap.p) else gap.p}
                for name, gap in self.gaps.items()
            },
            "categories": [asdict(item) | {"metrics": _plain(item.metrics)} for item in self.categories],
            **extra,
            "labels": self.dataset.notes.to_dict(),
            "unpredicted": self.joined.unpredicted,
            "unscored": [str(problem) for problem in self.joined.unscored],
            "unlabelled_predictions": self.joined.unlabelled,
            "ambiguous": self.joined.ambiguous,
            "notes": self.notes,
        }


def _plain(items: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Dataclasses of numbers by name as dictionaries for JSON, NaN as None."""
    return {
        name: {key: None if math.isnan(value) else value for key, value in asdict(item).items()}
        for name, item in items.items()
    }
