"""The report as one self-contained HTML page: tables, figures as inline SVG, thumbnails; no script, no network.

Knows an `Evaluation` and finished pictures; knows nothing about how they were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from aescli.evaluation.estimates import Estimate, Subset
from aescli.evaluation.report.gallery import Thumbnail
from aescli.evaluation.result import TRAINING, Evaluation
from aescli.evaluation.tables import LABELS, meaning, minus, shown_metrics, undefined

_HEADLINE = ("PLCC", "SRCC", "MAE", "RMSE", "ACC", "EMD")
_IN_GROUPS = ("ACC", "F1", "PLCC", "SRCC", "MAE", "RMSE", "R2")
_IN_CATEGORIES = ("PLCC", "SRCC", "KRCC", "MAE", "RMSE")
_FEW = 10  # images; a category's figures say little below that


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the page. svg: as `style.for_page` returns it. wide: it needs the width of the page."""

    name: str
    title: str
    caption: str
    svg: str
    wide: bool = False


def render(
    evaluation: Evaluation, pictures: Sequence[Picture], gallery: Mapping[str, Sequence[Thumbnail]]
) -> str:
    """The whole HTML document."""
    title = f"{evaluation.dataset.name}: {evaluation.predictions}"
    parts = [
        _headline(evaluation),
        _remarks(evaluation),
        _section("Metrics", _metrics(evaluation)),
        _section("Training and test", _gap(evaluation)),
        _section("Comparison", _comparison(evaluation)),
        _section("Attributes", _attributes(evaluation)),
        _section("Subgroups", _groups(evaluation)),
        _section("Scale categories", _categories(evaluation)),
        _section(
            "Figures", f'<div class="figures">{"".join(map(_figure, pictures))}</div>' if pictures else ""
        ),
        _section("Images", _gallery(gallery)),
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
{"".join(parts)}
</main>
</body>
</html>
"""


def _headline(evaluation: Evaluation) -> str:
    main = evaluation.main
    cards = "".join(
        f'<div class="card"><div class="name">{escape(LABELS.get(name, name))}</div>'
        f'<div class="value">{minus(f"{main.metrics[name].value:.3f}")}</div>'
        f'<div class="range">{_range(main.metrics[name], 3)}</div></div>'
        for name in _HEADLINE
        if name in main.metrics and not math.isnan(main.metrics[name].value)
    )
    low, high = evaluation.scale
    what = "images that the model was trained on" if main.name == TRAINING else "images"
    brackets = "; in brackets 95 % bootstrap intervals" if evaluation.provenance.get("resamples", 1) else ""
    return (
        f"<header><h1>{escape(evaluation.dataset.name)}</h1>"
        f'<p class="muted">{main.n} {what}, predictions of <b>{escape(evaluation.predictions)}</b>, '
        f"scores {low:g}–{high:g}{brackets}</p>"
        f'<p class="muted">{escape(_provenance(evaluation))}</p></header>'
        f'<div class="cards">{cards}</div>'
    )


def _provenance(evaluation: Evaluation) -> str:
    made = evaluation.provenance
    parts = [f"Labels: {evaluation.dataset.notes.source.name}"]
    if made:
        parts += [made["part"], f"{made['resamples']:,} resamples, seed {made['seed']}"]
        parts += [f"aescli {made['version']}", made["date"]]
    return "; ".join(parts) + "."


def _remarks(evaluation: Evaluation) -> str:
    lines = [*evaluation.warnings(), *evaluation.notes]
    if not lines:
        return ""
    serious = ("LEAK", "TRAINING DATA", "the model was trained")
    items = "".join(
        f"<li><b>{escape(line)}</b></li>" if line.startswith(serious) else f"<li>{escape(line)}</li>"
        for line in lines
    )
    return f'<section><h2>What to know</h2><ul class="notes">{items}</ul></section>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], faint: Collection[int] = ()) -> str:
    """Cells are HTML already; the first column is text, the others are numbers. faint: rows that say little."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        ('<tr class="faint">' if number in faint else "<tr>")
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _metrics(evaluation: Evaluation) -> str:
    head = ["metric", *(f"{escape(s.name)} (n = {s.n})" for s in evaluation.subsets)]
    rows = [
        [_name(name, evaluation), *(_cell(s.metrics.get(name)) for s in evaluation.subsets)]
        for name in shown_metrics(evaluation)
    ]
    why = "".join(f'<p class="muted">– {escape(line)}.</p>' for line in undefined(evaluation))
    return _table(head, rows) + why


def _gap(evaluation: Evaluation) -> str:
    if evaluation.train is None:
        return ""
    train, main = evaluation.train, evaluation.main
    head = ["metric", f"training part (n = {train.n})", f"{escape(main.name)} (n = {main.n})", "gap"]
    rows = [
        [_name(name, evaluation), _cell(train.metrics[name]), _cell(main.metrics[name]), _cell(gap)]
        for name, gap in evaluation.gap.items()
        if not math.isnan(gap.value)
    ]
    return (
        _table(head, rows) + '<p class="muted">A positive gap: worse on the images that did not train it.</p>'
    )


def _comparison(evaluation: Evaluation) -> str:
    other = evaluation.comparison
    if other is None:
        return ""
    rows = [
        [_name(name, evaluation), _number(d.first), _number(d.second), _cell(d), _number(d.p)]
        for name, d in other.differences.items()
        if not math.isnan(d.value)
    ]
    text = f"Against {escape(other.against)} on the same {other.n} images; p of a paired permutation test."
    if other.delta_m is not None:
        text += f" ΔM {minus(f'{other.delta_m:+.2f}')} % with it as the single-task reference."
    return _table(["metric", "this", "against", "difference", "p"], rows) + f'<p class="muted">{text}</p>'


def _rows(subsets: Sequence[Subset]) -> tuple[list[str], list[list[str]]]:
    """(the metrics that the subsets have, a row of cells for each subset)."""
    names = [n for n in _IN_GROUPS if any(n in subset.metrics for subset in subsets)]
    cells = [
        [escape(s.name), str(s.n), *(_cell(s.metrics.get(n), short=True) for n in names)] for s in subsets
    ]
    return names, cells


def _attributes(evaluation: Evaluation) -> str:
    if not evaluation.attributes:
        return ""
    names, rows = _rows(evaluation.attributes)
    return _table(["attribute", "n", *(LABELS.get(n, n) for n in names)], rows)


def _groups(evaluation: Evaluation) -> str:
    if not evaluation.groups:
        return ""
    names, rows = _rows(evaluation.groups)
    gaps = [evaluation.gaps.get(name) for name in names]
    rows.append(["largest gap", "", *("" if gap is None else f"{gap.value:.3f}" for gap in gaps)])
    if not all(gap is None or math.isnan(gap.p) for gap in gaps):
        rows.append(["p by chance", "", *("" if gap is None else f"{gap.p:.3f}" for gap in gaps)])
    note = '<p class="muted">p: how often random groups of these sizes lie as far apart.</p>'
    return _table(["group", "n", *(LABELS.get(n, n) for n in names)], rows) + note


def _categories(evaluation: Evaluation) -> str:
    rows = [
        [
            f"{c.low:g}–{c.high:g}",
            f"{c.n}",
            f"{100 * c.share:.1f} %",
            minus(f"{c.bias:+.3f}"),
            *(_cell(c.metrics.get(name), short=True) for name in _IN_CATEGORIES),
        ]
        for c in evaluation.categories
    ]
    note = (
        '<p class="muted">By true score. Inside a narrow range correlations are lower than over all images; '
        f"bias is the mean of prediction − truth. Grey: fewer than {_FEW} images.</p>"
    )
    few = {number for number, c in enumerate(evaluation.categories) if c.n < _FEW}
    return _table(["true score", "n", "share", "bias", *_IN_CATEGORIES], rows, few) + note if rows else ""


def _figure(picture: Picture) -> str:
    wide = ' class="wide"' if picture.wide else ""
    return (
        f'<figure id="{picture.name}"{wide}><h3>{escape(picture.title)}</h3>'
        f'<div class="scroll">{picture.svg}</div><figcaption>{escape(picture.caption)}</figcaption></figure>'
    )


def _gallery(gallery: Mapping[str, Sequence[Thumbnail]]) -> str:
    out = []
    for title, pictures in gallery.items():
        items = "".join(
            f'<figure class="thumb"><img src="{p.picture}" alt="{escape(p.name)}" loading="lazy">'
            f"<figcaption>{escape(p.name)}<br>{p.predicted:.2f}, true {p.true:.2f}</figcaption></figure>"
            for p in pictures
        )
        if items:
            out.append(f'<h3>{escape(title)}</h3><div class="thumbs">{items}</div>')
    return "".join(out)


def _name(name: str, evaluation: Evaluation) -> str:
    more = meaning(name, evaluation)
    return escape(LABELS.get(name, name)) + (
        f' <span class="muted what">{escape(more)}</span>' if more else ""
    )


def _cell(estimate: Estimate | None, short: bool = False) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "–"
    digits = 3 if short else 4
    between = "<br>" if short else " "
    interval = _range(estimate, 2 if short else digits)
    return minus(f"{estimate.value:.{digits}f}") + (
        f'{between}<span class="muted range">{interval}</span>' if interval else ""
    )


def _range(estimate: Estimate, digits: int) -> str:
    if math.isnan(estimate.low):
        return ""
    return minus(f"[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else minus(f"{value:.4f}")


_CSS = """
:root { --ink: #1c2129; --muted: #5b6574; --grid: #dfe4ec; --paper: #ffffff; --train: #3f7fe0; --test: #e07b1f;
  --accent: #2a9d84; --wash: #8fb6f2; --page: #f5f7fa; --shade: #5b657455; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --muted: #a3adbb; --grid: #333b47; --paper: #1a1f27; --train: #6ca2f5; --test: #f09a48;
    --accent: #4fc0a6; --wash: #2f62b3; --page: #11151b; --shade: #000000aa; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.7rem; margin: 0.2em 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 0.6em; }
h3 { font-size: 1rem; margin: 0 0 0.4em; }
header p { margin: 0.3em 0 1em; overflow-wrap: anywhere; }
section { background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; padding: 16px;
  margin: 16px 0; }
.muted, figcaption { color: var(--muted); font-size: 0.88em; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; }
.card { background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; padding: 10px 14px; }
.card .name { color: var(--muted); font-size: 0.85em; }
.card .value { font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.card .range { color: var(--muted); font-size: 0.85em; font-variant-numeric: tabular-nums; }
.notes { margin: 0; padding-left: 1.2em; overflow-wrap: anywhere; }
/* A shadow at the side where a table goes on: two covers scroll with it, two shadows stay. */
.scroll { overflow-x: auto; background:
  linear-gradient(to right, var(--paper) 40%, transparent) left / 36px 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, transparent) right / 36px 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 14px 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / 14px 100% no-repeat scroll; }
.faint td { color: var(--muted); }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92em; }
th, td { text-align: right; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--grid); white-space: nowrap;
  vertical-align: top; }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tbody tr:last-child td { border-bottom: none; }
@media (max-width: 640px) {
  td .what { display: none; }
  td .range { display: block; }
  td br { display: none; }
  main { padding: 12px 8px 40px; }
  section { padding: 12px 10px; }
}
.figures { columns: 2 430px; column-gap: 30px; }
figure { margin: 0; min-width: 0; }
.figures figure { break-inside: avoid; margin-bottom: 26px; }
.figures figure.wide { column-span: all; }
.wide .scroll svg { min-width: 620px; }
figure svg { display: block; }
figure svg text { font-family: system-ui, sans-serif !important; }
.thumbs { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 14px; margin: 0 0 1.4em; }
.thumb img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--page); border-radius: 6px;
  display: block; }
.thumb figcaption { overflow-wrap: anywhere; }
"""
