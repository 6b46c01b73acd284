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
from typing import TYPE_CHECKING

from aescli.evaluation.estimates import Estimate, Subset
from aescli.evaluation.result import Evaluation

if TYPE_CHECKING:
    from aescli.evaluation.compare import Difference

LABELS = {"R2": "R²", "F1_macro": "F1 (macro)", "AP_macro": "AP (macro)", "ACC_good": "ACC good/bad"}
MEANING = {
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
_CORRELATIONS = ("PLCC", "SRCC", "KRCC")


def as_json(evaluation: Evaluation) -> str:
    return json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(evaluation: Evaluation) -> str:
    """Columns subset, n, metric, value, low, high, p; full precision, empty where not defined."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["subset", "n", "metric", "value", "low", "high", "p"])

    def row(name: str, n: int | str, metric: str, *numbers: float) -> None:
        cells = ["" if math.isnan(x) else repr(x) for x in (*numbers, math.nan, math.nan, math.nan)[:4]]
        writer.writerow([name, n, metric, *cells])

    parts = [(subset.name, subset.n, subset.metrics) for subset in (*evaluation.subsets, *evaluation.groups)]
    parts += [(f"attribute {subset.name}", subset.n, subset.metrics) for subset in evaluation.attributes]
    parts += [(f"category {c.low:g}-{c.high:g}", c.n, c.metrics) for c in evaluation.categories]
    if evaluation.train is not None:
        parts += [(evaluation.train.name, evaluation.train.n, evaluation.train.metrics)]
        parts += [("gap: training part - this part", "", evaluation.gap)]
    for name, n, metrics in parts:
        for metric, estimate in metrics.items():
            row(name, n, metric, estimate.value, estimate.low, estimate.high)
    for metric, gap in evaluation.gaps.items():
        row(f"gap: {gap.largest} - {gap.smallest}", "", metric, gap.value, math.nan, math.nan, gap.p)
    if (other := evaluation.comparison) is not None:
        for metric, d in other.differences.items():
            row(f"difference to {other.against}", other.n, metric, d.value, d.low, d.high, d.p)
        if other.delta_m is not None:
            row(f"difference to {other.against}", other.n, "delta_m", other.delta_m)
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
    for name in shown_metrics(evaluation):
        cells = [_with_interval(subset.metrics[name]) for subset in evaluation.subsets]
        table.add_row(LABELS.get(name, name), *cells, meaning(name, evaluation))
    parts = [_text(table, _GROUP_WIDTH) + "".join(f"– {line}\n" for line in undefined(evaluation))]
    if evaluation.train is not None:
        parts.append(_text(_gap_table(evaluation), _GROUP_WIDTH))
    if evaluation.comparison is not None:
        parts.append(_text(_comparison_table(evaluation), _GROUP_WIDTH))
    if evaluation.attributes:
        parts.append(_text(_subset_table("attribute", evaluation.attributes), _GROUP_WIDTH))
    if evaluation.groups:
        parts.append(_text(_group_table(evaluation), max(_GROUP_WIDTH, shutil.get_terminal_size().columns)))
    return "\n".join(parts)


def meaning(name: str, evaluation: Evaluation) -> str:
    """A few words on a metric."""
    if name == "ACC_good":
        return f"good = score > {evaluation.above:g}"
    return MEANING.get(name, "")


def shown_metrics(evaluation: Evaluation) -> list[str]:
    """The main table's rows: all that these predictions could have; one that is not defined is there as "–"."""
    without = ("AP", "AP_macro") if evaluation.main.data.probabilities is None else ()
    return [name for name in evaluation.main.metrics if name not in without]


def undefined(evaluation: Evaluation) -> list[str]:
    """Why metrics of the main subset are not defined, a line for each reason."""
    main = evaluation.main
    missing = [name for name in shown_metrics(evaluation) if math.isnan(main.metrics[name].value)]
    reasons: dict[str, list[str]] = {}
    for name in missing:
        reasons.setdefault(_reason(name, main), []).append(LABELS.get(name, name))
    return [f"{', '.join(names)}: not defined, because {why}" for why, names in reasons.items()]


def _reason(name: str, subset: Subset) -> str:
    if subset.n < 2:
        return "there is one image only"
    if len(set(subset.data.true.tolist())) == 1:
        return "all labels are equal"
    if name in _CORRELATIONS and len(set(subset.data.pred.tolist())) == 1:
        return "all predictions are equal"
    return "these images do not allow it"


def minus(text: str) -> str:
    """A number's text with the sign − in place of the hyphen."""
    return text.replace("-", "−")


def _gap_table(evaluation: Evaluation):
    from rich import box
    from rich.table import Table

    train, main = evaluation.train, evaluation.main
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("metric")
    for title in (f"{train.name} (n = {train.n})", f"{main.name} (n = {main.n})", "gap (+ = worse)"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, gap in evaluation.gap.items():
        if not math.isnan(gap.value):
            values = [minus(f"{part.metrics[name].value:.4f}") for part in (train, main)]
            table.add_row(LABELS.get(name, name), *values, _with_interval(gap))
    return table


def _comparison_table(evaluation: Evaluation):
    from rich import box
    from rich.table import Table

    other = evaluation.comparison
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("metric")
    for title in (f"this (n = {other.n})", "against", "difference", "p"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, d in other.differences.items():
        if not math.isnan(d.value):
            p = "–" if math.isnan(d.p) else f"{d.p:.4f}"
            sides = [minus(f"{value:.4f}") for value in (d.first, d.second)]
            table.add_row(LABELS.get(name, name), *sides, _with_interval(d), p)
    table.caption = f"against {other.against}; p of a paired permutation test"
    if other.delta_m is not None:
        table.caption += f"; ΔM {minus(f'{other.delta_m:+.2f}')} % with it as the single-task reference"
    table.caption_justify = "left"
    return table


def _shared(subsets: Sequence[Subset]) -> list[str]:
    return [name for name in _IN_GROUPS if not _nowhere(name, subsets)]


def _subset_table(title: str, subsets: Sequence[Subset]):
    from rich import box
    from rich.table import Table

    names = _shared(subsets)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title)
    table.add_column("n", justify="right")
    for name in names:
        table.add_column(LABELS.get(name, name), justify="right", no_wrap=True)
    for subset in subsets:
        table.add_row(subset.name, str(subset.n), *(_two_lines(subset.metrics[name]) for name in names))
    return table


def _group_table(evaluation: Evaluation):
    table = _subset_table("group", evaluation.groups)
    if evaluation.gaps:
        names = _shared(evaluation.groups)
        gaps = [evaluation.gaps.get(name) for name in names]
        table.add_section()
        table.add_row("largest gap", "", *("" if gap is None else f"{gap.value:.3f}" for gap in gaps))
        if not all(gap is None or math.isnan(gap.p) for gap in gaps):
            table.add_row("p by chance", "", *("" if gap is None else f"{gap.p:.3f}" for gap in gaps))
    return table


def _with_interval(estimate: Estimate | Difference) -> str:
    if math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return minus(f"{estimate.value:.4f}")
    return minus(f"{estimate.value:.4f}  [{estimate.low:.4f}, {estimate.high:.4f}]")


def _two_lines(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    dash = "–" if estimate.low >= 0 else "…"  # a dash beside a minus sign is hard to read
    interval = "" if math.isnan(estimate.low) else f"\n{_short(estimate.low)}{dash}{_short(estimate.high)}"
    return minus(f"{estimate.value:.3f}{interval}")


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
