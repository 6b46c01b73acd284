"""An `Evaluation` as text: a table for people, JSON, or CSV with a row per subset and metric.

Knows layout and number formats only.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence

from aescli.evaluation.evaluate import Estimate, Evaluation, Subset

_LABELS = {"R2": "R²", "F1_macro": "F1 (macro)", "AP_macro": "AP (macro)"}
_MEANING = {
    "ACC": "accuracy",
    "F1": "weighted by support",
    "AP": "average precision, weighted by support",
    "PLCC": "Pearson",
    "SRCC": "Spearman",
    "KRCC": "Kendall",
    "EMD": "earth mover's distance, r = 1",
}
_IN_GROUPS = ("ACC", "F1", "AP", "PLCC", "SRCC", "KRCC", "MAE", "RMSE", "R2", "EMD")
_GROUP_WIDTH = 118


def as_json(evaluation: Evaluation) -> str:
    return json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(evaluation: Evaluation) -> str:
    """Columns subset, n, metric, value, low, high; full precision, empty where not defined."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["subset", "n", "metric", "value", "low", "high"])
    for subset in (*evaluation.subsets, *evaluation.groups):
        for name, estimate in subset.metrics.items():
            cells = ["" if math.isnan(x) else repr(x) for x in (estimate.value, estimate.low, estimate.high)]
            writer.writerow([subset.name, subset.n, name, *cells])
    for name, gap in evaluation.gaps.items():
        writer.writerow([f"gap: {gap.largest} - {gap.smallest}", "", name, repr(gap.value), "", ""])
    return out.getvalue()


def as_table(evaluation: Evaluation) -> str:
    """The main subsets side by side, a row per metric; then a row per subgroup and the largest gaps."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("metric")
    for subset in evaluation.subsets:
        table.add_column(f"{subset.name} (n = {subset.n})", justify="right", no_wrap=True)
    table.add_column("")
    names = [name for name in evaluation.subsets[0].metrics if not _nowhere(name, evaluation.subsets)]
    for name in names:
        cells = [_with_interval(subset.metrics[name]) for subset in evaluation.subsets]
        table.add_row(_LABELS.get(name, name), *cells, _MEANING.get(name, ""), style=None)
    parts = [_text(table, _GROUP_WIDTH)]
    if evaluation.groups:
        parts.append(_text(_group_table(evaluation), max(_GROUP_WIDTH, shutil.get_terminal_size().columns)))
    return "\n".join(parts)


def _group_table(evaluation: Evaluation):
    from rich import box
    from rich.table import Table

    names = [name for name in _IN_GROUPS if not _nowhere(name, evaluation.groups)]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("group")
    table.add_column("n", justify="right")
    for name in names:
        table.add_column(_LABELS.get(name, name), justify="right", no_wrap=True)
    for subset in evaluation.groups:
        table.add_row(subset.name, str(subset.n), *(_two_lines(subset.metrics[name]) for name in names))
    if evaluation.gaps:
        gaps = [evaluation.gaps.get(name) for name in names]
        table.add_section()
        table.add_row("largest gap", "", *("" if gap is None else f"{gap.value:.3f}" for gap in gaps))
    return table


def _with_interval(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f}  [{estimate.low:.4f}, {estimate.high:.4f}]"


def _two_lines(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    dash = "–" if estimate.low >= 0 else "…"  # a dash beside a minus sign is hard to read
    interval = "" if math.isnan(estimate.low) else f"\n{_short(estimate.low)}{dash}{_short(estimate.high)}"
    return f"{estimate.value:.3f}{interval}"


def _short(value: float) -> str:
    """Two decimals without the leading zero, so that ten intervals fit side by side."""
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def _nowhere(name: str, subsets: Sequence[Subset]) -> bool:
    return all(math.isnan(s.metrics[name].value) if name in s.metrics else True for s in subsets)


def _text(table, width: int) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, no_color=True)
    console.print(table)
    text: str = console.file.getvalue()
    return "".join(line.rstrip() + "\n" for line in text.splitlines())
