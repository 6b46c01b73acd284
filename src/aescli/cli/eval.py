"""`aes eval`: options, one call, printing. What is measured, and how, is `aescli.evaluation`'s."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aescli.cli.common import (
    BatchSizeOption,
    DeviceOption,
    DType,
    DTypeOption,
    ModelOption,
    QuietOption,
    RatersOption,
    Task,
    TaskOption,
    WorkersOption,
    count,
    note,
    progress,
)
from aescli.errors import AesError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aescli.data.datasets import Dataset
    from aescli.evaluation.predictions import PredictedRows


# Help texts state their defaults in words.
_option = partial(typer.Option, show_default=False)


class EvalFormat(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


class Layout(StrEnum):
    auto = "auto"
    scut5500 = "scut-fbp5500"
    scut = "scut-fbp"
    mebeauty = "mebeauty"
    csv = "csv"


class Variant(StrEnum):
    crops = "crops"
    originals = "originals"


class EvalFaces(StrEnum):
    auto = "auto"
    largest = "largest"
    none = "none"


def evaluate(
    data: Annotated[
        Path,
        _option("--data", metavar="PATH", help="Label file, or the folder of a data set."),
    ],
    task: TaskOption = Task.fbp,
    model: ModelOption = None,
    raters: RatersOption = None,
    predictions: Annotated[
        Path | None,
        _option(
            "--predictions",
            metavar="FILE",
            help="Measure these scores (csv, tsv, json, jsonl, parquet; of any tool) instead "
            "of a model's (default: none).",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        _option(
            "--images",
            metavar="DIR",
            help="Folder of the images (default: beside the labels; with --predictions none is needed).",
        ),
    ] = None,
    layout: Annotated[
        Layout,
        _option("--layout", help="Layout of --data (default: auto, told from the files)."),
    ] = Layout.auto,
    variant: Annotated[
        Variant,
        _option("--variant", help="MEBeauty: the aligned crops or the whole photos (default: crops)."),
    ] = Variant.crops,
    fold: Annotated[
        int | None,
        _option("--fold", metavar="K", min=1, help="Only the test images of official fold K (default: all)."),
    ] = None,
    split: Annotated[
        str | None,
        _option(
            "--split",
            metavar="NAME",
            help="Only the images of this split, or FILE.json:PART of a saved one (default: all).",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        _option(
            "--group-by",
            metavar="COLUMN",
            help="A row for each value of this label column, and the largest gap (default: none).",
        ),
    ] = None,
    format: Annotated[
        EvalFormat,
        _option("--format", "-f", help="Output format (default: table)."),
    ] = EvalFormat.table,
    out: Annotated[
        Path | None,
        _option("--out", "-o", metavar="FILE", help="Where the result goes (default: standard output)."),
    ] = None,
    image_column: Annotated[
        str | None,
        _option("--image-column", metavar="NAME", help="Image column of a CSV (default: guessed)."),
    ] = None,
    score_column: Annotated[
        str | None,
        _option("--score-column", metavar="NAME", help="Score column of a CSV (default: guessed)."),
    ] = None,
    label_scale: Annotated[
        str | None,
        _option("--label-scale", metavar="LOW,HIGH", help="Scale of a CSV's scores (default: guessed)."),
    ] = None,
    scale: Annotated[
        str | None,
        _option(
            "--scale",
            metavar="LOW,HIGH",
            help="Scale of --predictions (default: 1,5 for a file of aes score, else the labels').",
        ),
    ] = None,
    cuts: Annotated[
        str | None,
        _option(
            "--cuts",
            metavar="A,B,…",
            help="Class boundaries on the predictions' scale (default: the model's, else the data set's).",
        ),
    ] = None,
    faces: Annotated[
        EvalFaces,
        _option("--faces", help="As in aes score; none: images are face crops already (default: auto)."),
    ] = EvalFaces.auto,
    resamples: Annotated[
        int,
        _option(
            "--resamples", metavar="N", min=0, help="Bootstrap resamples; 0 = no intervals (default: 10000)."
        ),
    ] = 10_000,
    seed: Annotated[
        int,
        _option("--seed", metavar="N", min=0, help="Seed of the resamples (default: 0)."),
    ] = 0,
    batch_size: BatchSizeOption = "auto",
    workers: WorkersOption = "auto",
    device: DeviceOption = "auto",
    dtype: DTypeOption = DType.auto,
    quiet: QuietOption = False,
) -> None:
    """Measure how well scores agree with labels.

    ACC, F1, AP (weighted by support, and macro), PLCC, SRCC, KRCC, MAE, RMSE, R² and, where both sides have
    distributions, EMD, each with a 95 % bootstrap interval. Without --predictions a model scores the images
    first; images that it was trained on are named and kept apart. Labels without an image, images without a
    label, duplicates and unusable scores are counted and named on standard error, and all in --format json.

    Examples:
        aes eval --data scut-fbp5500/labels.csv --images scut-fbp5500/images --fold 1 --group-by group
        aes eval --predictions scores.csv --data labels.csv --format json
    """
    if predictions is not None and model is not None:
        raise UsageError(
            "--predictions and --model exclude each other: a predictions file has its scores already"
        )
    if predictions is None and scale is not None:
        raise UsageError("--scale is for --predictions: a model knows its scale (labels: --label-scale)")
    if fold is not None and split is not None:
        raise UsageError("--fold and --split exclude each other")
    wanted_cuts = None if cuts is None else _numbers("--cuts", cuts)
    if wanted_cuts is not None and sorted(set(wanted_cuts)) != list(wanted_cuts):
        raise UsageError(f"--cuts {cuts}: the boundaries must ascend")
    predictions_scale = None if scale is None else _scale("--scale", scale)
    labels_scale = None if label_scale is None else _scale("--label-scale", label_scale)

    from aescli.runtime import keep_freed_memory, one_thread_per_operation

    if predictions is None:
        one_thread_per_operation()
        keep_freed_memory()

    from aescli.data.datasets import read_dataset
    from aescli.evaluation import tables
    from aescli.evaluation.evaluate import evaluate as measure
    from aescli.evaluation.evaluate import group_values
    from aescli.evaluation.predictions import read_predictions

    dataset = read_dataset(
        layout.value,
        data,
        images,
        match_images=predictions is None or images is not None,
        image_column=image_column,
        score_columns=[score_column] if score_column else [],
        scale=labels_scale,
        variant=variant.value,
    )
    for line in dataset.notes.lines():
        note(f"aes: {line}", quiet=quiet)
    keep = _choose(dataset, fold, split)
    if group_by is not None:
        group_values(dataset.samples, group_by)  # a wrong name is said before the model works

    overlap = None
    if predictions is not None:
        predicted = read_predictions(predictions, scale=predictions_scale)
    else:
        measured = dataset if keep is None else dataset.subset(keep)
        predicted, model_cuts, overlap = _predict(
            measured, model, raters, task, device, dtype, faces, batch_size, workers, quiet=quiet
        )
        wanted_cuts = wanted_cuts or model_cuts
    result = measure(
        predicted,
        dataset,
        keep=keep,
        cuts=wanted_cuts,
        overlap=overlap,
        group_by=group_by,
        resamples=resamples,
        seed=seed,
    )
    for line in (*result.notes, *result.warnings()):
        note(f"aes: {line}", quiet=quiet)
    if predictions is None and overlap is None:
        note(
            "aes: the model lists no training images: whether it was trained on these is not known",
            quiet=quiet,
        )
    write = {"table": tables.as_table, "json": tables.as_json, "csv": tables.as_csv}[format.value]
    _emit(write(result), out)


def _predict(
    dataset: Dataset,
    model: str | None,
    raters: str | None,
    task: Task,
    device: str,
    dtype: DType,
    faces: EvalFaces,
    batch_size: str,
    workers: str,
    *,
    quiet: bool,
) -> tuple[PredictedRows, tuple[float, ...] | None, object]:
    """Scores of the data set's images, the model's class boundaries, and what finds its training images."""
    from aescli.data.duplicates import default_cache
    from aescli.evaluation.evaluate import predict
    from aescli.evaluation.overlap import find_overlap
    from aescli.models.checkpoint import DEFAULT_MODELS, TRAINING_IMAGES
    from aescli.models.exported import model_folder
    from aescli.runtime import available_cpus
    from aescli.scoring.predictor import load_predictor

    predictor = load_predictor(model, task=task.value, device=device, dtype=dtype.value, raters=raters)
    spec = model or DEFAULT_MODELS[task.value]
    with progress("img", quiet=quiet, total=len(dataset)) as step:
        predicted = predict(
            predictor,
            dataset,
            source=spec,
            faces=faces.value,
            batch_size=count(batch_size, predictor.batch_size),
            workers=count(workers, available_cpus()),
            step=step,
        )
    hashes = model_folder(spec) / TRAINING_IMAGES
    if not hashes.is_file():
        return predicted, predictor.cuts or None, None
    tokens = hashes.read_text(encoding="ascii").split()

    def overlap(measured: Dataset):
        try:
            return find_overlap([sample.path for sample in measured.samples], tokens, default_cache())
        except ValueError as error:
            raise AesError(f"{hashes}: {error}; take the list from the model's own folder") from None

    return predicted, predictor.cuts or None, overlap


def _choose(dataset: Dataset, fold: int | None, split: str | None) -> Sequence[int] | None:
    """Positions of the images that were asked for; None = all."""
    from aescli.data import splits

    if fold is not None:
        return splits.official_fold(dataset, fold)[1]
    if split is None:
        return None
    file, _, part = split.rpartition(":")
    if file.endswith(".json"):
        return splits.Split.load(Path(file)).indices(dataset, part)
    return splits.named_split(dataset, split)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{option} {text}: give numbers with commas between them, such as 1,5")
    return values


def _scale(option: str, text: str) -> tuple[float, float]:
    values = _numbers(option, text)
    if len(values) != 2 or values[0] >= values[1]:
        raise UsageError(f"{option} {text}: give the lowest and the highest score, such as 1,5")
    return values[0], values[1]


def _emit(text: str, out: Path | None) -> None:
    """To standard output, or to a file that appears whole."""
    if out is None or str(out) == "-":
        sys.stdout.write(text)
        return
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=out.parent, delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        os.replace(temporary, out)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise AesError(
            f"{out} cannot be written: {error.strerror or error}; check the path and the disk"
        ) from None
