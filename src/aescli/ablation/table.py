"""A study's rows as a table: for a terminal (rich), table.csv and table.md, in the paper's layout and units.

Knows layout and number formats. Knows nothing about runs.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aescli.ablation.published import MOMAMBA, PERCENT
from aescli.ablation.results import Difference, Row, Summary, difference, summarise
from aescli.ablation.studies import Study
from aescli.evaluation.metrics import LOWER_IS_BETTER
from aescli.folders import write_whole

if TYPE_CHECKING:
    from rich.table import Table

CSV, MARKDOWN = "table.csv", "table.md"
_LABELS = {
    "PLCC": "PC",
    "R2": "R²",
    "delta_m": "ΔM (%)",
    "PLCC_mean": "PLCC, mean",
    "SRCC_mean": "SRCC, mean",
}
_DIFFERENCE_NOTE = (
    "Difference from “{reference}” in the same folds: mean and 95 % interval (t, variance corrected for overlapping "
    "training parts). Bold: the interval excludes zero. MAE and RMSE: lower is better."
)


def heading(metric: str, study: Study) -> str:
    """As the paper heads the column."""
    if metric in PERCENT:
        return f"{metric} (%)"
    if metric == "PLCC" and study.architecture == "aesmamba":
        return metric
    return _LABELS.get(metric, metric)


def number(metric: str, value: float, sign: bool = False) -> str:
    """In the paper's units: percent with two decimals for shares and ΔM, else four decimals; – for NaN."""
    if math.isnan(value):
        return "–"
    plus = "+" if sign or metric == "delta_m" else ""
    if metric in PERCENT:
        return f"{100 * value:{plus}.2f}"
    return f"{value:{plus}.2f}" if metric == "delta_m" else f"{value:{plus}.4f}"


def spread(metric: str, found: Summary) -> str:
    """mean ± sd; the mean alone for one fold."""
    if not found.n:
        return "–"
    if math.isnan(found.sd):
        return number(metric, found.mean)
    return f"{number(metric, found.mean)} ± {number(metric, found.sd).lstrip('+')}"


def columns(study: Study, rows: Iterable[Row], shown: bool = False) -> list[str]:
    """The study's columns in which any row has a figure."""
    rows = list(rows)
    wanted = study.shown if shown and study.shown else study.columns
    return [m for m in wanted if any(row.values(m) or m in row.paper for row in rows)]


def differences(study: Study, rows: Sequence[Row]) -> list[tuple[Row, dict[str, Difference]]]:
    """Every row that was run but the reference, with its differences from that; [] without two common folds."""
    reference = next((row for row in rows if row.label == study.reference), None)
    if reference is None:
        return []
    out = []
    for row in rows:
        if row is reference or row.label == study.single or not row.folds:
            continue
        found = {m: difference(row, reference, m) for m in columns(study, [row])}
        found = {m: d for m, d in found.items() if d.n > 1}
        if found:
            out.append((row, found))
    return out


def as_rich(study: Study, rows: Sequence[Row]) -> Table:
    """For a terminal; the paper's figure stands below ours."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=study.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.add_column(study.axis or "", no_wrap=True)
    names = columns(study, rows, shown=True)
    for metric in names:
        table.add_column(heading(metric, study), justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for metric in names:
            own = spread(metric, summarise(row.values(metric)))
            paper = number(metric, row.paper.get(metric, math.nan))
            cells.append(own if paper == "–" else f"{own}\n[dim]({paper})[/dim]")
        most = max((len(row.folds) for row in rows), default=0)
        fewer = f"\n[dim]{len(row.folds)} of {most} folds[/dim]" if len(row.folds) < most else ""
        table.add_row(row.label + (fewer if row.folds else "\n[dim]published[/dim]"), *cells)
    table.caption, table.caption_justify = footnote(study, rows), "left"
    return table


def footnote(study: Study, rows: Sequence[Row]) -> str:
    """How many folds, and what the cells hold that these rows have."""
    most = max((len(row.folds) for row in rows), default=0)
    parts = [f"{most} fold{'s' * (most != 1)}."]
    said = ["mean ± standard deviation over the folds"] if most > 1 else []
    if any(not math.isnan(value) for row in rows for value in row.paper.values()):
        said.append("in brackets the paper's own figure")
    if said:
        text = "; ".join(said)
        parts.append(f"{text[0].upper()}{text[1:]}.")
    if "delta_m" in columns(study, rows):
        parts.append("ΔM: against the single-task row, fold by fold.")
    elif study.single and "delta_m" in study.columns:
        parts.append(
            f"No ΔM: it takes every one of {', '.join(heading(m, study).removesuffix(' (%)') for m in MOMAMBA)} of "
            f"“{study.single}” and of another row in the same fold."
        )
    return " ".join(parts)


def as_markdown(study: Study, rows: Sequence[Row]) -> str:
    """The table, its note, and the differences from the reference row."""
    names = columns(study, rows)
    head = [study.axis or "model", *(heading(m, study) for m in names), "parameters"]
    lines = [f"### {study.title}", "", *_markdown_head(head)]
    for row in rows:
        cells = []
        for metric in names:
            own = spread(metric, summarise(row.values(metric)))
            paper = number(metric, row.paper.get(metric, math.nan))
            cells.append(own if paper == "–" else f"{own} ({paper})")
        size = f"{row.parameters:,}" if row.parameters is not None else "–" if row.folds else "cited"
        lines.append(_markdown_row([row.label, *cells, size]))
    lines += ["", footnote(study, rows)]
    found = differences(study, rows)
    if found:
        lines += ["", _DIFFERENCE_NOTE.format(reference=study.reference), ""]
        lines += _markdown_head([study.axis or "model", *(heading(m, study) for m in names)])
        for row, values in found:
            cells = [_difference_cell(m, values.get(m)) for m in names]
            lines.append(_markdown_row([row.label, *cells]))
        lines += ["", *(f"- {verdict(study, row, values)}" for row, values in found)]
    return "\n".join(lines) + "\n"


def verdict(study: Study, row: Row, found: Mapping[str, Difference]) -> str:
    """In which metrics the row is clearly better or worse than the reference, in words."""
    sides: dict[str, list[str]] = {"better in": [], "worse in": [], "undecided in": []}
    for metric, gap in found.items():
        better = (gap.mean < 0) == (metric in LOWER_IS_BETTER)
        side = "undecided in" if not gap.clear else "better in" if better else "worse in"
        sides[side].append(heading(metric, study).removesuffix(" (%)"))
    said = "; ".join(f"{side} {', '.join(names)}" for side, names in sides.items() if names)
    return f"{row.label} against {study.reference}: {said}."


def _difference_cell(metric: str, found: Difference | None) -> str:
    if found is None:
        return "–"
    low, high = number(metric, found.low, sign=True), number(metric, found.high, sign=True)
    mean = number(metric, found.mean, sign=True)
    return f"{f'**{mean}**' if found.clear else mean} [{low}, {high}]"


def _markdown_head(cells: Sequence[str]) -> list[str]:
    return [_markdown_row(cells), "|---|" + "---:|" * (len(cells) - 1)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def as_csv(study: Study, rows: Sequence[Row]) -> str:
    """A line for each row and metric: fractions, full precision; fold values, paper and difference beside."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    folds = list(dict.fromkeys(fold for row in rows for fold in row.folds))
    writer.writerow(["study", "row", "metric", "mean", "sd", "folds", "paper", "difference", "low", "high",
                     "parameters", *(f"fold_{fold}" for fold in folds)])  # fmt: skip
    by_row = {row.label: found for row, found in differences(study, rows)}
    for row in rows:
        for metric in columns(study, [row]):
            found, gap = summarise(row.values(metric)), by_row.get(row.label, {}).get(metric)
            paper = row.paper.get(metric, math.nan)
            gaps = [gap.mean, gap.low, gap.high] if gap else [math.nan] * 3
            size = "" if row.parameters is None else row.parameters
            values = [row.folds.get(fold, {}).get(metric, math.nan) for fold in folds]
            numbers = map(_cell, (paper, *gaps)), map(_cell, values)
            writer.writerow([study.name, row.label, metric, _cell(found.mean), _cell(found.sd), found.n,
                             *numbers[0], size, *numbers[1]])  # fmt: skip
    return out.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def write_tables(study: Study, rows: Sequence[Row], folder: Path, notes: str = "") -> None:
    """table.csv and table.md (with `notes` at its end) in `folder`, both new or both as they were."""
    markdown = as_markdown(study, rows) + (f"\n{notes}\n" if notes else "")
    write_whole({folder / CSV: as_csv(study, rows), folder / MARKDOWN: markdown})
