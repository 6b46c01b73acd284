"""What finished runs say, as the rows of a study's table: figures by fold, ΔM, and differences with their intervals.

Knows run folders and metrics. Knows nothing about training or how a table is drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aescli.ablation.published import MOMAMBA
from aescli.ablation.studies import Study, Variant
from aescli.evaluation.metrics import delta_m

TESTED_PER_TRAINED = 0.25  # five folds
Figures = dict[str, float]
"""metric → value; shares as fractions, ΔM in percent."""


@dataclass
class Row:
    """One row of the table. folds: fold → figures. paper: the published ones.

    parameters: of the model (together, where several models fill the row); None for a cited row.
    """

    label: str
    folds: dict[str, Figures] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    parameters: int | None = None

    def values(self, metric: str) -> list[float]:
        """The metric in every fold that has it."""
        found = [figures.get(metric, math.nan) for figures in self.folds.values()]
        return [value for value in found if not math.isnan(value)]


@dataclass(frozen=True)
class Summary:
    """mean and sample standard deviation (NaN for one fold) over n folds."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A row minus the reference row in the same n folds: mean, 95 % interval; NaNs where fewer than two folds."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def run_figures(metrics: Mapping[str, Any], score: str = "aesthetic") -> Figures:
    """The figures of one test part, from what a run reports of it (`training.run.train_model`).

    MoMamba: ACC, F1, AP of the classes and the score's correlations and errors. AesMamba: ACC good/bad, the
    score's, each attribute's "PLCC name" and "SRCC name" (`score` names the score's), and their means.
    """
    out: Figures = {}
    for part in ("classes", "score"):
        out |= {k: float(v) for k, v in metrics.get(part, {}).items() if v is not None}
    if attributes := metrics.get("attributes"):
        every = {score: metrics["score"], **attributes}
        for metric in ("PLCC", "SRCC"):
            named = {name: float(values[metric]) for name, values in every.items()}
            out |= {f"{metric} {name}": value for name, value in named.items()}
            out[f"{metric}_mean"] = sum(named.values()) / len(named)
    return out


def read_run(folder: Path) -> dict[str, Figures]:
    """test part → figures, of a finished run."""
    from aescli.models.checkpoint import CHECKPOINT, CONFIG, METRICS

    metrics, config = (
        json.loads((folder / CHECKPOINT / name).read_text(encoding="utf-8")) for name in (METRICS, CONFIG)
    )
    attributes = config["model"].get("attributes") or [{"name": ""}]
    score = config["model"].get("score") or attributes[0]["name"]
    return {name: run_figures(values, score) for name, values in metrics.items() if name != "history"}


def rows_of(
    study: Study,
    runs: Mapping[tuple[str, str], Mapping[str, Figures]],
    paper: Mapping[str, Mapping[str, float]],
    parameters: Mapping[str, int] | None = None,
    groups: Sequence[str] = (),
) -> list[Row]:
    """The table so far. runs: (variant name, fold) → test part → figures. groups: of a study of groups.

    ΔM is filled in, fold by fold, where the study has single-task rows and both are there.
    """
    rows: dict[str, Row] = {}
    for variant in study.variants:
        for label, part in _labels(variant, groups):
            row = rows.setdefault(label, Row(label, paper=paper.get(label, {})))
            if parameters and variant.name in parameters:
                row.parameters = (row.parameters or 0) + parameters[variant.name]
            for (name, fold), tests in runs.items():
                if name == variant.name:
                    figures = tests[part] if part else next(iter(tests.values()))
                    row.folds.setdefault(fold, {}).update(figures)
    single = rows.get(study.single or "")
    if single is not None:
        for row in rows.values():
            for fold, figures in row.folds.items():
                base = single.folds.get(fold, {})
                if set(MOMAMBA) <= set(base) and set(MOMAMBA) <= set(figures):
                    gain = delta_m(figures, base)
                    figures["delta_m"] = math.nan if gain is None else gain
    cited = [Row(label, paper=figures) for label, figures in paper.items() if label not in rows]
    return [*rows.values(), *cited]


def _labels(variant: Variant, groups: Sequence[str]) -> list[tuple[str, str]]:
    """(row, test part) pairs that a variant's run fills; an empty part = the only one."""
    if variant.group is None:
        return [(variant.row, "")]
    return [(f"{variant.row} on {group}", group) for group in groups]


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation."""
    n = len(values)
    if not n:
        return Summary(math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else math.nan
    return Summary(mean, sd, n)


def difference(row: Row, reference: Row, metric: str) -> Difference:
    """`row` minus `reference` over the folds that both have, paired, with a 95 % interval.

    Training parts of different folds overlap, so the folds' differences are not independent: the variance is
    corrected by Nadeau and Bengio (Machine Learning 52, 2003), s² (1/n + 1/4) in place of s²/n (a quarter as many
    images are tested as trained on), and the interval is Student's t with n − 1 degrees of freedom.
    """
    from scipy.stats import t

    pairs = [
        figures[metric] - reference.folds[fold][metric]
        for fold, figures in row.folds.items()
        if metric in figures and metric in reference.folds.get(fold, {})
    ]
    pairs = [value for value in pairs if not math.isnan(value)]
    found = summarise(pairs)
    if found.n < 2:
        return Difference(found.mean, math.nan, math.nan, found.n)
    half = float(t.ppf(0.975, found.n - 1)) * found.sd * math.sqrt(1 / found.n + TESTED_PER_TRAINED)
    return Difference(found.mean, found.mean - half, found.mean + half, found.n)
