"""A study's figure: lines over a number (MoMamba Figs. 13, 14), or a row for each variant; ours and the paper's.

Knows matplotlib and a study's rows. Knows nothing about runs or models.
"""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aescli.ablation.categories import Change, trend
from aescli.ablation.published import PERCENT
from aescli.ablation.results import Row, difference, summarise
from aescli.ablation.studies import Study
from aescli.ablation.table import columns, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT, TREND = "plot", "categories"
_PANELS = ("delta_m", "ACC", "PLCC", "SRCC", "PLCC_mean", "SRCC_mean")


def can_plot() -> bool:
    """Whether matplotlib (the extra `report`) is there."""
    try:
        return importlib.util.find_spec("matplotlib") is not None
    except ValueError:  # something put None in its place
        return False


def write_plot(study: Study, rows: Sequence[Row], folder: Path) -> None:
    """plot.png and plot.svg in `folder`; nothing without matplotlib or before the first figure is known."""
    known = columns(study, [row for row in rows if row.folds])
    metrics = [metric for metric in _PANELS if metric in known][:3]
    if not can_plot() or not metrics:
        return
    from aescli.evaluation.report.style import styled

    with styled():
        draw = _over_a_number if study.axis else _by_row
        _save(draw(study, rows, metrics), folder, PLOT)


def write_trend(changes: dict[str, Sequence[Change]], folder: Path) -> None:
    """categories.png and .svg: relative change of SRCC against the category's share (AesMamba Fig. 7)."""
    if not can_plot() or not any(changes.values()):
        return
    from aescli.evaluation.report.style import styled

    with styled():
        _save(_category_trend(changes), folder, TREND)


def _save(figure: Figure, folder: Path, name: str) -> None:
    """Both files appear whole."""
    from aescli.evaluation.report.style import save

    with tempfile.TemporaryDirectory(dir=folder, prefix=".plot-") as staging:
        save(figure, Path(staging), name)
        for path in Path(staging).iterdir():
            os.replace(path, folder / path.name)


def _scaled(metric: str, value: float) -> float:
    return 100 * value if metric in PERCENT else value


def _over_a_number(study: Study, rows: Sequence[Row], metrics: Sequence[str]) -> Figure:
    from aescli.evaluation.report.style import PALETTE, new_figure

    figure = new_figure(5.4, 2.1 * len(metrics) + 0.4)
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    own = [row for row in rows if row.label.isdigit()]
    where = [int(row.label) for row in own]
    for axes, metric in zip(panels, metrics, strict=True):
        found = [summarise(row.values(metric)) for row in own]
        done = [(x, f) for x, f in zip(where, found, strict=True) if f.n]
        if done:
            axes.errorbar(
                [x for x, _ in done],
                [_scaled(metric, f.mean) for _, f in done],
                yerr=[0 if math.isnan(f.sd) else _scaled(metric, f.sd) for _, f in done],
                color=PALETTE["train"], marker="o", capsize=3, label="measured, ± sd over folds",
            )  # fmt: skip
        paper = [
            (x, _scaled(metric, row.paper[metric]))
            for x, row in zip(where, own, strict=True)
            if metric in row.paper
        ]
        if paper:
            axes.plot(*zip(*paper, strict=True), color=PALETTE["test"], marker="s", linestyle="--",
                      label="published")  # fmt: skip
        axes.set(ylabel=heading(metric, study), xticks=where)
    _legend_above(figure, panels)
    panels[-1].set_xlabel(study.axis)
    return figure


def _legend_above(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend outside all panels, never over a point; none where nothing has a name."""
    named = {
        name: handle
        for axes in panels
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if named:
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=2)


def _by_row(study: Study, rows: Sequence[Row], metrics: Sequence[str]) -> Figure:
    from aescli.evaluation.report.style import PALETTE, new_figure

    figure = new_figure(2.4 * len(metrics) + 1.8, 0.34 * len(rows) + 1.2)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        _dots(axes, rows, metric, PALETTE)
        axes.set_title(heading(metric, study), loc="left")
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)
    handles = dict(zip(*reversed(panels[-1].get_legend_handles_labels()), strict=True))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower right", ncols=len(handles))
    return figure


def _dots(axes: Axes, rows: Sequence[Row], metric: str, palette: dict[str, str]) -> None:
    """Each fold as a faint dot, their mean, and the paper's figure."""
    for place, row in enumerate(rows):
        values = [_scaled(metric, v) for v in row.values(metric)]
        if values:
            axes.plot(values, [place] * len(values), "o", color=palette["train"], alpha=0.3, markersize=4)
            axes.plot([sum(values) / len(values)], [place], "o", color=palette["train"], markersize=6,
                      label="measured (faint: each fold)")  # fmt: skip
        if metric in row.paper:
            axes.plot([_scaled(metric, row.paper[metric])], [place], "s", color=palette["test"], markersize=4,
                      label="published")  # fmt: skip


def _category_trend(changes: dict[str, Sequence[Change]]) -> Figure:
    import numpy as np

    from aescli.evaluation.report.style import PALETTE, new_figure

    figure = new_figure(5.4, 3.4)
    axes = figure.add_subplot()
    colours = (PALETTE["train"], PALETTE["test"])
    for (label, points), colour in zip(changes.items(), colours, strict=False):
        if not points:
            continue
        share = np.array([100 * p.share for p in points])
        change = np.array([100 * p.relative for p in points])
        axes.plot(share, change, "o", color=colour, alpha=0.6, markersize=4, label=label)
        fitted = trend(points)
        if fitted is not None:
            ends = np.array([share.min(), share.max()])
            axes.plot(ends, 100 * (fitted.intercept + fitted.slope * ends / 100), color=colour,
                      label=f"linear, {label}")  # fmt: skip
    axes.set_yscale("symlog", linthresh=1.0)
    axes.axhline(0, color=PALETTE["muted"], linewidth=1)
    axes.set(xlabel="share of a scale category (% of the test images)", ylabel="change of SRCC (%)")
    _legend_above(figure, [axes])
    return figure


def write_changes(study: Study, rows: Sequence[Row], folder: Path) -> None:
    """changes.png and .svg: each attribute's change of PLCC and SRCC from the reference (AesMamba Fig. 8)."""
    reference = next((row for row in rows if row.label == study.reference), None)
    shown = [row for row in rows if row is not reference and row.folds]
    if not can_plot() or reference is None or not shown:
        return
    import numpy as np

    from aescli.evaluation.report.style import PALETTE, new_figure, styled

    names = list(dict.fromkeys(m.split(" ", 1)[1] for m in columns(study, shown) if " " in m))
    with styled():
        figure = new_figure(7.2, 4.8)
        for axes, metric in zip(figure.subplots(2, 1, sharex=True), ("PLCC", "SRCC"), strict=True):
            width = 0.8 / len(shown)
            for number, row in enumerate(shown):
                keys = [*(f"{metric} {name}" for name in names), f"{metric}_mean"]
                change = [difference(row, reference, key).mean for key in keys]
                where = np.arange(len(keys)) + (number - (len(shown) - 1) / 2) * width
                alpha = 0.3 + 0.7 * number / max(1, len(shown) - 1)
                axes.bar(where, change, width, color=PALETTE["train"], alpha=alpha, label=row.label)
            axes.axhline(0, color=PALETTE["muted"], linewidth=1)
            axes.set(ylabel=f"change of {metric}")
            axes.set_xticks(range(len(names) + 1), [*names, "mean"], rotation=30, ha="right")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(shown))
        _save(figure, folder, "changes")
