"""`aes train`: options, one call, printing. What a run does is `aescli.training`'s."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aescli.cli.common import (
    DeviceOption,
    ImageColumnOption,
    ImagesOption,
    LabelScaleOption,
    Layout,
    LayoutOption,
    QuietOption,
    ScoreColumnOption,
    note,
    option,
    scale_of,
)
from aescli.errors import AesError, UsageError, named


def train(
    preset: Annotated[
        str,
        option("--preset", metavar="NAME|FILE.yaml", help="What to build and how to train it (no default)."),
    ],
    data: Annotated[
        list[Path] | None,
        option(
            "--data",
            metavar="PATH",
            help="Label file or folder of a data set; once for each set of a joint training (no default).",
        ),
    ] = None,
    images: ImagesOption = None,
    unlabelled: Annotated[
        list[Path] | None,
        option(
            "--unlabelled",
            metavar="DIR",
            help="Folder of photos without labels, for a preset with train.distil (default: none).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option("--out", metavar="DIR", help="Folder of the run, which --model then takes (no default)."),
    ] = None,
    fold: Annotated[
        int | None,
        option(
            "--fold",
            metavar="K",
            min=1,
            help="Leave this fold out as the test set: the official one, else of a seeded five-fold partition, "
            "stratified by score (sophoappeal: within each of its sources) (default: a seeded 8:2 split).",
        ),
    ] = None,
    split: Annotated[
        list[Path] | None,
        option("--split", metavar="FILE", help="Split file of an earlier run to use again (default: none)."),
    ] = None,
    all_data: Annotated[
        bool, option("--all-data", help="Train on everything, keep no test set (default: off).")
    ] = False,
    initial: Annotated[
        Path | None,
        option(
            "--init",
            metavar="FILE",
            help="Weights that start the encoder: .safetensors, .pth, FaceNet's .h5 (default: as the preset says).",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        option(
            "--set", metavar="KEY=VALUE", help="Change a preset field, e.g. train.lr=3e-4 (default: none)."
        ),
    ] = None,
    features: Annotated[
        Path | None,
        option(
            "--features",
            metavar="DIR",
            help="Folder that keeps the frozen part's features for other runs (default: inside --out, removed).",
        ),
    ] = None,
    resume: Annotated[
        bool, option("--resume", help="Continue an interrupted run in --out (default: off).")
    ] = False,
    dry_run: Annotated[
        bool,
        option("--dry-run", help="Build everything, print counts and cost, train nothing (default: off)."),
    ] = False,
    layout: LayoutOption = Layout.auto,
    device: DeviceOption = "auto",
    image_column: ImageColumnOption = None,
    score_column: ScoreColumnOption = None,
    label_scale: LabelScaleOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a model on labelled images.

    A preset says what to build; --data names labels and images. A validation part of the training data decides the
    best epoch, never the test set. The run's folder gets checkpoint/ (weights, config, card, metrics), the split,
    the test predictions and a log.

    Examples:
      aes train --preset momamba-lite --init face.safetensors --data scut-fbp5500 --fold 1 --out runs/fold1
      aes train --preset momamba-scut-fbp5500 --dry-run
    """
    options = _options(layout.value, image_column, score_column, label_scale)
    if all_data and (fold is not None or split):
        raise UsageError("--all-data keeps no test set: leave out --fold and --split, or --all-data itself")

    from aescli.presets import heads_for, load_preset
    from aescli.runtime import keep_freed_memory

    keep_freed_memory(one_arena=True)
    edits = list(changes or [])
    if initial is not None:
        edits.append(f"model.encoder.weights={initial}")
    chosen = load_preset(preset, edits)
    sources = data or []
    chosen = heads_for(chosen, len(sources))
    if dry_run:
        _dry_run(chosen, sources, unlabelled or [], images, fold, split or [], all_data, quiet, options)
        return
    if not sources:
        raise UsageError("--data is needed: a label file or the folder of a data set")
    if out is None:
        raise UsageError("--out is needed: the folder of the run")
    if _finished(out, resume):
        note(f"aes: {out}: this run is finished; its model is in {out / 'checkpoint'}", quiet=quiet)
        return
    _train(
        chosen, sources, unlabelled or [], images, out, fold, split or [], all_data, features, resume, device,
        quiet, options,
    )  # fmt: skip


def _options(
    layout: str, image_column: str | None, score_column: str | None, label_scale: str | None
) -> dict[str, Any]:
    options: dict[str, Any] = {"layout": layout}
    if image_column:
        options["image_column"] = image_column
    if score_column:
        options["score_columns"] = [score_column]
    if label_scale is not None:
        options["scale"] = scale_of("--label-scale", label_scale)
    return options


def _finished(out: Path, resume: bool) -> bool:
    """Whether there is nothing left to resume. AesError for a folder that holds a run and is not to be resumed."""
    from aescli.models.checkpoint import CHECKPOINT
    from aescli.training.trainer import STATE

    finished = (out / CHECKPOINT).exists() and not (out / STATE).exists()
    if resume:
        return finished
    if finished:
        raise AesError(f"{out}: holds a finished run; choose another --out")
    if (out / STATE).exists():
        raise AesError(f"{out}: holds an interrupted run; continue it with --resume or choose another --out")
    return False


def _dry_run(preset, sources, unlabelled, images, fold, splits, all_data, quiet, options) -> None:
    from aescli.training.cost import describe_model
    from aescli.training.run import check_targets, read_training_data, split_data

    typer.echo(f"preset {preset.name}: {preset.description}".rstrip(": "))
    for line in describe_model(preset):
        typer.echo(line)
    typer.echo(_start(preset))
    if not sources:
        return
    loaded = read_training_data(
        preset, sources, images, options, fold, lambda line: note(line, quiet=quiet), unlabelled
    )
    for dataset in loaded.datasets:
        for line in dataset.notes.lines():
            typer.echo(line)
    parts = split_data(loaded, preset, fold, splits, all_data)
    tests = ", ".join(f"{name} {len(where)}" for name, where in parts.test.items()) or "none"
    check_targets(preset, loaded.pictures.samples, parts.train)
    typer.echo(f"training {len(parts.train)}, validation {len(parts.validation)}, test {tests} images")
    for line in _left_out(loaded, parts):
        typer.echo(line)
    if loaded.pictures.without_face:
        typer.echo(f"{loaded.pictures.without_face} images without a recognisable face are used whole")


def _start(preset: Any) -> str:
    from aescli.training.run import origin

    encoder = preset.model.encoder
    hint = "" if encoder.weights or encoder.pretrained else " (--init FILE gives it others.)"
    return origin(encoder) + hint


def _left_out(loaded: Any, parts: Any) -> list[str]:
    """A line on the training images that would give test images away; none where there are none."""
    names = [loaded.pictures.samples[i].name for i in parts.left_out]
    if not names:
        return []
    what = "training images are copies or near-duplicates of test images and are left out"
    return [named(what, names, 5)]


def _train(
    preset, sources, unlabelled, images, out, fold, splits, all_data, features, resume, device, quiet, options
) -> None:
    import shutil

    import torch

    from aescli.runtime import available_cpus
    from aescli.scoring.predictor import choose_device
    from aescli.training.distributed import local_device
    from aescli.training.run import read_training_data, split_data, train_model

    torch.set_num_threads(available_cpus())
    loaded = read_training_data(
        preset, sources, images, options, fold, lambda line: note(line, quiet=quiet), unlabelled
    )
    for dataset in loaded.datasets:
        for line in dataset.notes.lines():
            note(line, quiet=quiet)
    parts = split_data(loaded, preset, fold, splits, all_data)
    note(f"training {len(parts.train)}, validation {len(parts.validation)} images", quiet=quiet)
    for line in _left_out(loaded, parts):
        note(line, quiet=quiet)
    if not resume:
        note(_start(preset), quiet=quiet)
    own = out / "features"
    metrics = train_model(
        preset,
        loaded,
        parts,
        out,
        features=features or own,
        device=choose_device(local_device(device)),
        resume=resume,
        log=lambda line: note(line, quiet=quiet),
        progress=_progress(quiet),
    )
    if features is None:
        shutil.rmtree(own, ignore_errors=True)
    for name in parts.test if metrics else ():  # only the first of several processes measures
        for kind in ("score", "own_head", "classes"):
            if kind in metrics[name]:
                figures = "  ".join(f"{key} {value:.4f}" for key, value in metrics[name][kind].items())
                typer.echo(f"{name} test ({metrics[name]['n']} images), {kind}: {figures}")
    note(f"{out / 'checkpoint'}: model, card and metrics", quiet=quiet)


def _progress(quiet: bool):
    if quiet or not sys.stderr.isatty():
        return lambda iterable, **_: iterable
    from tqdm import tqdm

    return lambda iterable, **labels: tqdm(iterable, leave=False, file=sys.stderr, **labels)
