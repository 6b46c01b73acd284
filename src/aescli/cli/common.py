"""What several commands share: option types, notes and progress on standard error.

It knows the terminal. It imports nothing heavy, so that `--help` stays quick.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aescli.errors import UsageError

# Help texts state their defaults in words.
option = partial(typer.Option, show_default=False)


class Layout(StrEnum):
    auto = "auto"
    scut5500 = "scut-fbp5500"
    scut = "scut-fbp"
    mebeauty = "mebeauty"
    ava = "ava"
    ava_captions = "ava-captions"
    photonet = "photonet"
    photonet_captions = "photonet-captions"
    aadb = "aadb"
    tad66k = "tad66k"
    para = "para"
    flickr_aes = "flickr-aes"
    sophoappeal = "sophoappeal"
    csv = "csv"


class Task(StrEnum):
    fbp = "fbp"
    viaa = "viaa"
    miaa = "miaa"
    fiaa = "fiaa"
    piaa = "piaa"


class DType(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def _count_or_auto(value: str) -> str:
    if value != "auto" and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise typer.BadParameter(f"{value!r} is neither auto nor a whole number above 0.")
    return value


def count(value: str, automatic: int) -> int:
    """The number that an `auto`-or-number option means."""
    return automatic if value == "auto" else int(value)


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The finite numbers of `A,B,…`. UsageError for anything else."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{option} {text}: give numbers with commas between them, such as 1,5")
    return values


def scale_of(option: str, text: str) -> tuple[float, float]:
    """The ends of a scale written as `LOW,HIGH`. UsageError for anything else."""
    values = numbers(option, text)
    if len(values) != 2 or values[0] >= values[1]:
        raise UsageError(f"{option} {text}: give the lowest and the highest score, such as 1,5")
    return values[0], values[1]


TaskOption = Annotated[
    Task | None,
    option(
        "--task",
        help="What the score means; fbp = facial beauty (default: what --model is for, without one fbp).",
    ),
]
LayoutOption = Annotated[
    Layout,
    option("--layout", help="Layout of --data (default: auto, told from the files)."),
]
ModelOption = Annotated[
    str | None,
    option(
        "--model",
        metavar="NAME|PATH",
        help="A bundled model, a checkpoint folder, or a file of aes export (default: the task's bundled model).",
    ),
]
RatersOption = Annotated[
    str | None,
    option(
        "--raters",
        metavar="NAME",
        help="Score as these raters would: a training set named on the model's card, such as scut-fbp5500 or "
        "mebeauty (default: the model's mixture).",
    ),
]
BatchSizeOption = Annotated[
    str,
    option(
        "--batch-size",
        metavar="N|auto",
        callback=_count_or_auto,
        help="Images per forward pass; halved when memory runs out (default: auto).",
    ),
]
WorkersOption = Annotated[
    str,
    option(
        "--workers",
        metavar="N|auto",
        callback=_count_or_auto,
        help="Threads that decode, find faces and, on a CPU, run the model (default: auto, one per core).",
    ),
]
DeviceOption = Annotated[
    str,
    option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where the model runs; auto takes a GPU if there is one; several, such as cuda:0,cuda:1, work in a "
        "process each (default: auto).",
    ),
]
DTypeOption = Annotated[
    DType,
    option(
        "--dtype",
        help="Arithmetic of the model; auto is fp32 everywhere, bf16 may move a score by 3 % of the range "
        "(default: auto).",
    ),
]
LabelScaleOption = Annotated[
    str | None,
    option(
        "--label-scale",
        metavar="LOW,HIGH",
        help="Scale of a CSV's scores (default: guessed).",
    ),
]
QuietOption = Annotated[
    bool,
    option(
        "--quiet",
        "-q",
        help="No progress and no summary; errors only (default: off).",
    ),
]
ImagesOption = Annotated[
    Path | None, option("--images", metavar="DIR", help="Folder of the images (default: beside the labels).")
]
ImageColumnOption = Annotated[
    str | None, option("--image-column", metavar="NAME", help="Image column of a CSV (default: guessed).")
]
ScoreColumnOption = Annotated[
    str | None, option("--score-column", metavar="NAME", help="Score column of a CSV (default: guessed).")
]


def note(text: str, *, quiet: bool = False) -> None:
    """One line for people, on standard error."""
    if not quiet:
        typer.echo(text, err=True)


def stderr_is_terminal() -> bool:
    return sys.stderr.isatty()


@contextmanager
def progress(unit: str, *, quiet: bool, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, only on a terminal; gives the function that moves it on."""
    if quiet or not stderr_is_terminal():
        yield lambda n=1: None
        return
    from tqdm import tqdm

    with tqdm(
        total=total, unit=unit, file=sys.stderr, dynamic_ncols=True, mininterval=0.2, leave=False
    ) as bar:
        yield lambda n=1: bar.update(n) and None
