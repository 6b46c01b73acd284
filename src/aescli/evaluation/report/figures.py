"""The report's plots of scores and classes, one function each: arrays in, a matplotlib figure out.

Figures of the papers are named where one is meant. Knows nothing about files, models or the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aescli.evaluation.report.style import PALETTE, new_figure
from aescli.evaluation.tables import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aescli.evaluation.bootstrap import Predictions
    from aescli.evaluation.estimates import Category, Subset
    from aescli.evaluation.utilisation import Utilisation

Scale = tuple[float, float]
WIDTH = 4.5  # inches: at a phone's width the page then shows the text at its own size


def confusion_matrix(counts: np.ndarray) -> Figure:
    """counts (K, K): row = true class (MoMamba Figs. 9, 11). Shaded by the share of the true class."""
    k = len(counts)
    figure = new_figure(0.68 * k + 0.9, 0.68 * k + 0.7)
    axes = figure.add_subplot()
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    for row in range(k):
        for column in range(k):
            box = {"width": 0.94, "height": 0.94, "facecolor": PALETTE["wash"], "linewidth": 0}
            axes.add_patch(_rectangle((column - 0.47, row - 0.47), alpha=float(share[row, column]), **box))
            axes.text(column, row - 0.06, f"{counts[row, column]}", ha="center", va="center")
            if counts[row, column]:
                percent = f"{100 * share[row, column]:.0f} %"
                axes.text(column, row + 0.24, percent, ha="center", va="center", fontsize=7)
    names = [str(i + 1) for i in range(k)]
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(k), names)
    axes.set_yticks(range(k), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def prediction_truth(test: Predictions, train: Predictions | None, scale: Scale) -> Figure:
    """Predicted against true score with marginal histograms, and the residuals (MoMamba Figs. 10, 12)."""
    figure = new_figure(WIDTH, 5.3)
    grid = figure.add_gridspec(3, 2, width_ratios=(4, 1), height_ratios=(1, 4, 1.7))
    main = figure.add_subplot(grid[1, 0])
    top = figure.add_subplot(grid[0, 0], sharex=main)
    right = figure.add_subplot(grid[1, 1], sharey=main)
    below = figure.add_subplot(grid[2, 0], sharex=main)
    side = figure.add_subplot(grid[2, 1], sharey=below)
    bins = np.linspace(*scale, 33)
    parts = [("train", train), ("test", test)] if train is not None else [("test", test)]
    furthest = max(float(np.abs(p.pred - p.true).max()) for _, p in parts) or 1.0
    for name, part in parts:
        colour, error = PALETTE[name], part.pred - part.true
        many = len(part) > 300  # points must not hide each other
        sizes = {"train": (4, 0.25), "test": (6, 0.5)} if many else {"train": (8, 0.4), "test": (10, 0.85)}
        size, alpha = sizes[name]
        label = f"{name}, n = {len(part)}, RMSE {np.sqrt((error**2).mean()):.3f}"
        dots = {"s": size, "alpha": alpha, "color": colour, "linewidths": 0, "rasterized": True}
        main.scatter(part.true, part.pred, label=label, **dots)
        below.scatter(part.true, error, **dots)
        style = {"density": True, "histtype": "stepfilled", "alpha": 0.45, "color": colour}
        top.hist(part.true, bins=bins, **style)
        right.hist(part.pred, bins=bins, orientation="horizontal", **style)
        around = np.linspace(-furthest, furthest, 33)
        side.hist(error, bins=around, orientation="horizontal", **style)
    main.axline((scale[0], scale[0]), slope=1, color=PALETTE["muted"], linewidth=1, linestyle="--")
    below.axhline(0, color=PALETTE["muted"], linewidth=1, linestyle="--")
    main.set(xlim=_wider(scale), ylim=_wider(scale), ylabel="predicted score")
    below.set(xlabel="true score", ylabel="residual", ylim=_wider((-furthest, furthest)))
    legend = main.legend(loc="upper left", handletextpad=0.1, borderaxespad=0.1)
    for handle in legend.legend_handles:
        handle.set(alpha=1, sizes=[24])
    for axes in (top, right, side):
        _bare(axes)
    main.tick_params(labelbottom=False)
    return figure


def score_distributions(test: Predictions, train: Predictions | None, scale: Scale) -> Figure:
    """How often each score is given: true filled, predicted as a line, for each part."""
    parts = [("test", test)] + ([("train", train)] if train is not None else [])
    figure = new_figure(WIDTH, 2.1 * len(parts) + 0.4)
    bins = np.linspace(*scale, 41)
    first = None
    for number, (name, part) in enumerate(parts):
        axes = figure.add_subplot(len(parts), 1, number + 1, sharex=first)
        first = first or axes
        axes.hist(part.true, bins=bins, color=PALETTE[name], alpha=0.35, label="true")
        axes.hist(
            part.pred, bins=bins, color=PALETTE[name], histtype="step", linewidth=1.6, label="predicted"
        )
        axes.set(ylabel="images", xlim=scale)
        axes.set_title(f"{name}, n = {len(part)}", loc="left")
        axes.legend(loc="upper right")
    axes.set_xlabel("score")
    return figure


def expert_utilisation(tasks: Mapping[str, Utilisation]) -> Figure:
    """Mean routing probability of each expert and the share of images that keep it, per task."""
    figure = new_figure(WIDTH, 2.1 * len(tasks) + 0.5)
    for number, (task, use) in enumerate(tasks.items()):
        axes = figure.add_subplot(len(tasks), 1, number + 1)
        where = np.arange(1, len(use.probability) + 1)
        axes.bar(where - 0.2, use.probability, 0.4, color=PALETTE["train"], label="mean routing probability")
        axes.bar(
            where + 0.2,
            use.kept,
            0.4,
            color=PALETTE["test"],
            alpha=0.75,
            label="share of images that keep it",
        )
        axes.set(ylim=(0, 1.0), xticks=where, ylabel="share")
        axes.set_title(f"{task}, n = {use.n}", loc="left")
        axes.grid(axis="x", visible=False)
        if number == 0:
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=1, borderaxespad=0)
    axes.set_xlabel("expert")
    return figure


def label_distribution(scores: np.ndarray, scale: Scale, cuts: Sequence[float]) -> Figure:
    """Histogram of the labels with the class boundaries, and images per class (MoMamba Figs. 6, 7)."""
    from aescli.data.labels import score_to_class

    figure = new_figure(WIDTH, 4.2)
    above, below = figure.subplots(2, 1)
    above.hist(scores, bins=np.linspace(*scale, 41), color=PALETTE["accent"], alpha=0.8)
    for cut in cuts:
        above.axvline(cut, color=PALETTE["muted"], linewidth=1, linestyle="--")
    above.set(xlabel="true score (dashed: class boundaries)", ylabel="images", xlim=scale)
    counts = np.bincount(score_to_class(scores, cuts), minlength=len(cuts) + 1)
    bars = below.bar(range(1, len(counts) + 1), counts, 0.7, color=PALETTE["accent"], alpha=0.8)
    labels = [f"{n}\n{100 * n / counts.sum():.1f} %" for n in counts]
    below.bar_label(bars, labels, padding=2, fontsize=8)
    below.set(xlabel="class", ylabel="images", ylim=(0, 1.28 * counts.max()))
    below.set_xticks(range(1, len(counts) + 1))
    below.grid(axis="x", visible=False)
    return figure


def category_shares(attributes: Mapping[str, np.ndarray]) -> Figure:
    """Share of each scale category, a bar for each attribute (AesMamba Fig. 2). name → counts (C,)."""
    figure = new_figure(WIDTH, 0.42 * len(attributes) + 1.1)
    axes = figure.add_subplot()
    most = max(len(counts) for counts in attributes.values())
    for row, counts in enumerate(attributes.values()):
        left = 0.0
        for number, share in enumerate(counts / max(1, counts.sum())):
            alpha = 0.15 + 0.75 * number / max(1, most - 1)
            label = str(number + 1) if row == 0 else None
            bar = {"color": PALETTE["train"], "alpha": alpha, "edgecolor": PALETTE["paper"], "linewidth": 1}
            axes.barh(row, share, 0.7, left=left, label=label, **bar)
            if share >= 0.05:
                axes.text(left + share / 2, row, f"{100 * share:.0f} %", ha="center", va="center", fontsize=7)
            left += share
    axes.set(xlim=(0, 1), ylim=(len(attributes) - 0.5, -0.5))
    axes.set_yticks(range(len(attributes)), [_short(name) for name in attributes])
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=most, title="category", title_fontsize=8,
                handlelength=1, columnspacing=1, borderaxespad=0.2)  # fmt: skip
    return figure


def category_correlations(categories: Sequence[Category]) -> Figure:
    """SRCC inside each scale category with its interval, and the mean error (AesMamba Fig. 7's quantity)."""
    figure = new_figure(WIDTH, 4.0)
    above, below = figure.subplots(2, 1, sharex=True)
    where = np.arange(len(categories))
    _points(above, where, [c.metrics["SRCC"] for c in categories], PALETTE["train"])
    above.axhline(0, color=PALETTE["muted"], linewidth=1)
    above.set(ylabel="SRCC inside", ylim=(-1.05, 1.05))
    below.bar(where, [c.bias for c in categories], 0.6, color=PALETTE["test"], alpha=0.8)
    below.axhline(0, color=PALETTE["muted"], linewidth=1)
    below.set(ylabel="prediction − truth", xlim=(-0.6, len(categories) - 0.4))
    names = [f"{c.low:g}–{c.high:g}\nn = {c.n}" for c in categories]
    below.set_xticks(where, names)
    below.set_xlabel("true score")
    for axes in (above, below):
        axes.grid(axis="x", visible=False)
    return figure


def group_estimates(groups: Sequence[Subset], metrics: Sequence[str] = ("PLCC", "SRCC", "MAE")) -> Figure:
    """A metric's value and interval in each of the (at most 30) largest subgroups, a panel for each metric."""
    groups = sorted(sorted(groups, key=lambda g: -g.n)[:30], key=lambda g: g.name)
    named = [m for m in metrics if any(m in g.metrics for g in groups)]
    figure = new_figure(WIDTH, 0.3 * len(groups) + 1.1)
    panels = figure.subplots(1, len(named), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, named, strict=True):
        for row, group in enumerate(groups):
            estimate = group.metrics[metric]
            axes.plot([estimate.low, estimate.high], [row, row], color=PALETTE["train"], linewidth=1.6)
            axes.plot([estimate.value], [row], "o", color=PALETTE["train"], markersize=4.5)
        axes.set_title(metric, loc="left")
        axes.set_yticks(range(len(groups)), [f"{_short(g.name)} ({g.n})" for g in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=3)
    return figure


def box_plots(metrics: Mapping[str, Sequence[float]], what: str = "repeats") -> Figure:
    """The spread of each metric over repeats or folds, a point for each (AesMamba Fig. 1)."""
    figure = new_figure(WIDTH, 3.0)
    axes = figure.add_subplot()
    known = {name: np.asarray(values, float) for name, values in metrics.items()}
    known = {name: values[~np.isnan(values)] for name, values in known.items()}
    known = {name: values for name, values in known.items() if len(values)}
    where = np.arange(1, len(known) + 1)
    line = {"color": PALETTE["train"], "linewidth": 1.4}
    parts = {"boxprops": line, "whiskerprops": line, "capprops": line, "showfliers": False, "widths": 0.5}
    axes.boxplot(list(known.values()), positions=where, medianprops={**line, "linewidth": 2.4}, **parts)
    for x, values in zip(where, known.values(), strict=True):
        shift = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [0.0]
        axes.plot(x + np.asarray(shift), values, "o", color=PALETTE["test"], markersize=4, alpha=0.85)
    slant = {"rotation": 25, "ha": "right"} if len(known) > 6 else {}
    axes.set_xticks(where, [LABELS.get(name, name) for name in known], **slant)
    axes.set(ylabel="value", xlim=(0.4, len(known) + 0.6))
    axes.set_title(f"{max(len(v) for v in known.values())} {what}", loc="left")
    axes.grid(axis="x", visible=False)
    return figure


def _points(axes: Axes, where: np.ndarray, estimates: Sequence, colour: str) -> None:
    for x, e in zip(where, estimates, strict=True):
        if np.isfinite([e.low, e.high]).all():
            axes.plot([x, x], [e.low, e.high], color=colour, linewidth=1.8)
        if np.isfinite(e.value):
            axes.plot([x], [e.value], "o", color=colour, markersize=6)
            axes.annotate(f"{e.value:.2f}", (x, e.value), (7, -3), textcoords="offset points", fontsize=8)


def _rectangle(corner: tuple[float, float], **style):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, **style)


def _short(group: str, most: int = 16) -> str:
    """The value of "column=value", cut to what a figure has room for."""
    value = group.partition("=")[2] or group
    return value if len(value) <= most else value[: most - 1] + "…"


def _wider(scale: Scale) -> Scale:
    margin = 0.03 * (scale[1] - scale[0])
    return scale[0] - margin, scale[1] + margin


def _bare(axes: Axes) -> None:
    """Only the shape of a histogram: its height is a density that nobody reads."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
