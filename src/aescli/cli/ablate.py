"""`aes ablate`: options, one call, printing. What a study is and does is `aescli.ablation`'s."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from aescli.cli.common import DeviceOption, ImagesOption, Layout, LayoutOption, QuietOption, note, option
from aescli.errors import UsageError


class StudyName(StrEnum):
    modules = "modules"
    experts = "experts"
    top_k = "top-k"
    frequency = "frequency"
    groups = "groups"
    mba = "mba"
    smp = "smp"
    encoder = "encoder"
    baselines = "baselines"


def ablate(
    study: Annotated[StudyName, option("--study", help="Which of the papers' tables to make (no default).")],
    preset: Annotated[
        str,
        option("--preset", metavar="NAME|FILE.yaml", help="What the variants are changes of (no default)."),
    ],
    data: Annotated[
        list[Path] | None,
        option(
            "--data",
            metavar="PATH",
            help="Label file or folder of a data set; of several, learnt together, the table is about the first "
            "(no default).",
        ),
    ] = None,
    images: ImagesOption = None,
    out: Annotated[
        Path | None,
        option("--out", metavar="DIR", help="Folder of the runs, the tables and the plot (no default)."),
    ] = None,
    folds: Annotated[
        str | None,
        option(
            "--folds",
            metavar="1,2,…",
            help="Folds to run, each as the test set of its own run; for smp the repeats (default: the data set's "
            "split, or a seeded 8:2).",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        option("--set", metavar="KEY=VALUE", help="Change a preset field for all variants (default: none)."),
    ] = None,
    features: Annotated[
        Path | None,
        option(
            "--features",
            metavar="DIR",
            help="Folder that keeps the frozen part's features for other studies (default: inside --out, removed).",
        ),
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        option(
            "--reuse",
            metavar="DIR",
            help="Take finished runs of the same preset and data from this other study (default: none).",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        option("--dry-run", help="List the runs and their parameter counts, train nothing (default: off)."),
    ] = False,
    layout: LayoutOption = Layout.auto,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train and test the variants of a study, fold by fold, and make the paper's table of them.

    Finished runs are kept when the command is started again, interrupted ones are continued. After every run the
    table is rewritten: table.csv, table.md and a plot in --out, ours beside the paper's figures. modules, experts,
    top-k, frequency, groups and baselines take a momamba preset, mba, encoder and smp an aesmamba preset.

    Examples:
      aes ablate --study modules --preset momamba-frozen --data scut-fbp5500 --folds 1,2,3,4,5 --out runs/modules
      aes ablate --study mba --preset aesmamba-f-para --data PARA --out runs/mba --dry-run
    """
    from aescli.ablation.run import Settings, plan, run_study
    from aescli.ablation.studies import STUDIES
    from aescli.runtime import keep_freed_memory

    keep_freed_memory(one_arena=True)
    wanted = STUDIES[study.value]
    settings = Settings(
        preset,
        tuple(changes or ()),
        tuple(data or ()),
        images,
        out or Path("."),
        _folds(folds or ("1" if study is StudyName.smp else None)),
        features,
        tuple(reuse or ()),
        layout.value,
    )
    if dry_run:
        for line in plan(wanted, settings):
            typer.echo(line)
        return
    if not data:
        raise UsageError("--data is needed: a label file or the folder of a data set")
    if out is None:
        raise UsageError("--out is needed: the folder of the runs and tables")

    import torch

    from aescli.ablation.plots import can_plot
    from aescli.ablation.smp import run_smp
    from aescli.ablation.table import as_rich
    from aescli.runtime import available_cpus
    from aescli.scoring.predictor import choose_device
    from aescli.training.distributed import local_device

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cpus())
    if not can_plot():
        note("no plot: it needs matplotlib: pip install 'aescli[report]'", quiet=quiet)
    try:
        with _live(quiet) as show:
            rows = (run_smp if study is StudyName.smp else run_study)(
                wanted,
                settings,
                device=choose_device(local_device(device)),
                log=lambda line: note(line, quiet=quiet),
                show=lambda rows: show(as_rich(wanted, rows)),
            )
    except KeyboardInterrupt:
        note("aes: interrupted; start the same command again to continue")
        raise
    _print(as_rich(wanted, rows))
    note(f"{out}: table.csv, table.md", quiet=quiet)


def _folds(text: str | None) -> tuple[int | None, ...]:
    if text is None:
        return (None,)
    try:
        folds = tuple(int(part) for part in text.split(","))
    except ValueError:
        folds = ()
    if not folds or min(folds) < 1 or len(set(folds)) != len(folds):
        raise UsageError(f"--folds {text}: give fold numbers with commas between them, such as 1,2,3,4,5")
    return folds


@contextmanager
def _live(quiet: bool):
    """Gives the function that shows the table as it fills: redrawn on a terminal, not at all elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda table: None
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield lambda table: live.update(table, refresh=True)


def _print(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
