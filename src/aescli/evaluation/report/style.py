"""How the report's figures look, and how one is written: PNG and SVG files, and an SVG for the page.

The figures use the colours of `PALETTE` only; on the page each of them becomes a CSS variable, so that the same
picture follows the reader's light or dark theme. Knows matplotlib, nothing about what is drawn.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = {
    "ink": "#1c2129",
    "muted": "#5b6574",
    "grid": "#dfe4ec",
    "paper": "#fffffe",  # not pure white, which heat maps and photos may hold
    "train": "#3f7fe0",
    "test": "#e07b1f",
    "accent": "#2a9d84",
    "wash": "#8fb6f2",
}
"""Name → colour of the light theme. On the page `--name` holds the theme's own."""

_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "text.color": PALETTE["ink"],
    "axes.labelcolor": PALETTE["ink"],
    "axes.titlecolor": PALETTE["ink"],
    "axes.edgecolor": PALETTE["muted"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "xtick.labelcolor": PALETTE["ink"],
    "ytick.labelcolor": PALETTE["ink"],
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": PALETTE["ink"],
    "figure.facecolor": PALETTE["paper"],
    "figure.dpi": 100,
    "svg.fonttype": "none",
    "svg.hashsalt": "aescli",
}


def styled():
    """A context in which figures are made and drawn in this style, whatever the user's own matplotlibrc says."""
    import matplotlib

    return matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **_RC})


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no display and no global state. Use it inside `styled`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write `name`.png (180 dpi) and `name`.svg under `folder`; returns the SVG for the page."""
    figure.savefig(folder / f"{name}.png", dpi=180, metadata={"Software": "aescli"})
    text = io.StringIO()
    figure.savefig(text, format="svg", dpi=180, metadata={"Date": None, "Creator": "aescli"})
    (folder / f"{name}.svg").write_text(text.getvalue(), encoding="utf-8")
    return for_page(text.getvalue(), name)


def for_page(svg: str, name: str) -> str:
    """The SVG as part of an HTML page: ids of its own, no fixed size, themed colours, no background."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = svg.replace(f"fill: {PALETTE['paper']}", "fill: none", 1)  # the figure's own background
    for colour, value in PALETTE.items():
        svg = svg.replace(value, f"var(--{colour})")
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    head = f'<svg role="img" style="width:100%;max-width:{width * 1.6:.0f}px;height:auto"'
    return re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2).replace("<svg", head, 1)
