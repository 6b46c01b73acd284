"""`aes score`: parses the options of a scoring run, calls `aescli.scoring`, reports what came of it.

It knows the command line. Everything heavy is imported when a run begins.
"""

from __future__ import annotations

import os
import sys
import time
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
    TaskOption,
    WorkersOption,
    count,
    note,
    progress,
)
from aescli.cli.score_options import (
    CommentsOption,
    CopyToOption,
    Engine,
    EngineOption,
    GalleryOption,
    LinkToOption,
    ShardOption,
    UserOption,
    WhereOption,
    XmpOption,
)
from aescli.errors import AesError, UsageError

if TYPE_CHECKING:
    from aescli.scoring.comments import Comments
    from aescli.scoring.rows import ImageResult
    from aescli.scoring.run import Summary

DEFAULT_TOP = 20


class Format(StrEnum):
    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"
    table = "table"


class Faces(StrEnum):
    auto = "auto"
    largest = "largest"
    all = "all"
    none = "none"


def score(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Folders (searched recursively), files, patterns, - or @list.txt for a list of paths.",
            show_default=False,
        ),
    ],
    task: TaskOption = None,
    model: ModelOption = None,
    raters: RatersOption = None,
    comments: CommentsOption = None,
    user: UserOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where the rows go (default: standard output).",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="Output format (default: by the suffix of --out; else table on a terminal, or csv).",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            metavar="N",
            min=1,
            help=f"Show the N best as a table (default: {DEFAULT_TOP} on a terminal, else none).",
            show_default=False,
        ),
    ] = None,
    faces: Annotated[
        Faces,
        typer.Option(
            "--faces",
            help="auto: the largest face, a tight crop as a whole; largest; all: a row per face; "
            "none: images are face crops already (default: auto).",
            show_default=False,
        ),
    ] = Faces.auto,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Add the class probabilities p_1 … p_5, or for photo aesthetics the distribution of the ratings "
            "p_1 … p_10 (default: off).",
            show_default=False,
        ),
    ] = False,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="Add score_100, the score as 0–100 of the model's scale (default: off).",
            show_default=False,
        ),
    ] = False,
    where: WhereOption = None,
    copy_to: CopyToOption = None,
    link_to: LinkToOption = None,
    xmp: XmpOption = False,
    gallery: GalleryOption = None,
    shard: ShardOption = None,
    engine: EngineOption = Engine.local,
    batch_size: BatchSizeOption = "auto",
    workers: WorkersOption = "auto",
    device: DeviceOption = "auto",
    dtype: DTypeOption = DType.auto,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue a run of the same --out that was broken off (default: off).",
            show_default=False,
        ),
    ] = False,
    no_clobber: Annotated[
        bool,
        typer.Option(
            "--no-clobber", help="Refuse to replace an existing --out (default: off).", show_default=False
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit 1 if any image has no score (default: off).", show_default=False),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Score photos: a row per image or face, in the order of the input.

    Columns: path, face_index, face (x1;y1;x2;y2 in pixels of the upright original), score, class (1 =
    lowest), class_prob, a column for each attribute where a model has several and for each --user, error. Scores and
    probabilities have 4 decimals, score_100 has 2. An image that cannot be read or shows no face gets a row
    that says so; the run goes on. class is the model's own classification, not the score rounded: the two
    may disagree between neighbouring classes, more so where
    --raters or the model's mixture makes the score follow other raters.

    While a run with --out works, its results lie in FILE.journal; FILE itself appears at the end, whole.

    Examples:
        aes score ./photos --out scores.csv
        aes score ./photos --user alice --where 'score_alice >= 4' --copy-to best --gallery best.html
    """
    from aescli.runtime import available_cpus, keep_freed_memory, one_thread_per_operation

    one_thread_per_operation()
    keep_freed_memory()

    from aescli.cli.score_outputs import open_output, require_local, require_outputs, require_stream
    from aescli.data.finding import find_images, printable
    from aescli.personalization.scoring import find_users, with_users
    from aescli.scoring import predictor as predictors
    from aescli.scoring import shards
    from aescli.scoring.output import FileOutput
    from aescli.scoring.rows import Layout
    from aescli.scoring.run import run
    from aescli.scoring.writers import TopTable, format_for, require_parquet

    if out == "-":
        out = None
    models = [*filter(None, [model]), *(user or ())]
    require_outputs(out, gallery, [*paths, *([comments] if comments else [])], models)
    require_local(paths, link_to=link_to, xmp=xmp and not copy_to)
    if engine is Engine.ray:
        from aescli.scoring.ray_engine import check_options, require_ray

        check_options(
            out,
            format.value if format else None,
            {
                "--top": top,
                "--copy-to": copy_to,
                "--link-to": link_to,
                "--xmp": xmp,
                "--gallery": gallery,
                "--resume": resume,
                "--shard": shard,
                "--user": user,
                "several --device": "," in device,
            },
        )
        require_ray()
        format = Format.parquet
    kind = format_for(out, format.value if format else None, terminal=sys.stdout.isatty())
    if out is None:
        require_stream(kind, resume=resume, no_clobber=no_clobber)
    elif kind == "table":
        raise UsageError(
            "a table is for standard output; use --out with csv, json, jsonl or parquet, or --top N"
        )
    if kind == "parquet":
        require_parquet()
    users_for = partial(find_users, user or (), paths)
    users = users_for(task) if task else None  # else the model says for which task
    images = find_images(paths)
    if shard is not None:
        images = shards.shard(images, *shards.parse_shard(shard))
    load = partial(predictors.load_predictor, model, task=task, dtype=dtype.value, raters=raters)
    base = load(device=device if engine is Engine.local else "cpu")
    predictor = with_users(base, users_for(base.task) if users is None else users)

    written = _comments(comments, predictor.reads_text, base.task, quiet=quiet)
    if probabilities and not predictor.classes:
        note("aes: --probabilities: this model predicts the score itself, there are none to add", quiet=quiet)
    from aescli.scoring.gallery import Gallery
    from aescli.scoring.picks import Picks
    from aescli.scoring.prepare import Preparer, face_mode

    layout = Layout(
        predictor.classes,
        probabilities,
        normalize,
        predictor.scale,
        predictor.cuts,
        predictor.distribution,
        predictor.attributes,
    )
    picks = Picks(layout, where=where, copy_to=copy_to, link_to=link_to, xmp=xmp)
    table = TopTable(top or DEFAULT_TOP, layout) if kind == "table" or top else None
    options = {"task": base.task, "model": predictor.digest, "--faces": faces.value, "--dtype": dtype.value}
    if comments:
        options["--comments"] = f"{comments} ({written.digest})"
    if shard is not None:
        options["--shard"] = shard
    faces = Faces(face_mode(predictor.preprocessing, faces.value))
    if engine is Engine.ray:
        from aescli.scoring.ray_engine import Job, run_on_ray

        size = None if batch_size == "auto" else int(batch_size)
        job = Job(load, layout, faces.value, picks.keep, size, count(workers, 1), device, written)
        started = time.monotonic()
        summary = run_on_ray(images, out or "", job, no_clobber=no_clobber)
        if where is not None:
            note(f"aes: {summary.images} images match {where!r}", quiet=quiet)
            return
        _report(summary, time.monotonic() - started, strict=strict, quiet=quiet)
        return
    page = Gallery(gallery, layout, _title(model, base.task), no_clobber=no_clobber) if gallery else None
    preparer = Preparer(predictor.preprocessing, faces.value, text=written, see=page.see if page else None)
    output = open_output(out, kind, layout, options, table, picks.keep, resume=resume, no_clobber=no_clobber)
    if isinstance(output, FileOutput):
        if resume and not output.journal.known_count:
            old = ", which is replaced when the run is done" if os.path.exists(out or "") else ""
            note(
                f"aes: nothing to resume beside {printable(out or '')}{old}; starting from the first image",
                quiet=quiet,
            )
        if output.given_up:
            note(
                f"aes: starting again; {output.given_up} images of an interrupted run are given up, "
                "which --resume would have kept"
            )

    started = time.monotonic()
    try:
        with progress("img", quiet=quiet) as step:

            def observe(result: ImageResult) -> None:
                step(1)
                if table is not None and kind != "table":
                    table.write(picks.rows(result))
                if page is not None:
                    page.add(result, picks.rows(result))
                picks.take(result)

            summary = run(
                picks.source(images),
                preparer,
                predictor,
                output,
                batch_size=count(batch_size, predictor.batch_size),
                workers=count(workers, available_cpus()),
                observe=observe,
            )
    except KeyboardInterrupt:
        kept = isinstance(output, FileOutput) and not output.journal.empty
        note("aes: stopped" + ("; the same command with --resume continues" if kept else ""))
        raise typer.Exit(130) from None
    if page is not None and summary.images:
        pages = page.finish(workers=count(workers, available_cpus()))
        further = f" and {len(pages) - 1} further pages beside it" if len(pages) > 1 else ""
        note(f"aes: gallery: {printable(gallery or '')}{further}", quiet=quiet)
    if table is not None:
        table.print(sys.stdout if kind == "table" else sys.stderr)
    if isinstance(output, FileOutput) and not output.replaced and summary.images:
        note(f"aes: {printable(out or '')} was left as it was", quiet=quiet)
    for line in picks.report():
        note(f"aes: {line}", quiet=quiet)
    for sentence in written.shared[:5] if written is not None else ():
        note(f"aes: --comments: {sentence}", quiet=quiet)
    if written is not None and shard is None and not resume and (unused := written.unused):
        note(
            f"aes: {len(unused)} of {len(written)} comments match no image; the first: {unused[0]}",
            quiet=quiet,
        )
    if picks.passed_over and not summary.images:
        raise AesError(picks.nothing_else())
    if shard is not None and not summary.images:
        note(f"aes: part {shard} has no images; nothing was written", quiet=quiet)
        return
    _report(summary, time.monotonic() - started, strict=strict, quiet=quiet)
    if picks.failure():
        raise AesError(picks.failure())


def _title(model: str | None, task: str) -> str:
    from aescli.models.checkpoint import chosen_model

    return f"{os.path.basename(chosen_model(model, task))} · {task}"


def _comments(path: str | None, wanted: bool, task: str, *, quiet: bool) -> Comments | None:
    """The comments for a model that reads them; UsageError where the one is given without the other."""
    if path is None:
        if wanted:
            raise UsageError(f"--task {task} with this model needs --comments FILE.csv (image, comment)")
        return None
    if not wanted:
        raise UsageError("--comments: this model reads images only; leave it out, or use --task miaa")
    from aescli.scoring.comments import Comments

    found = Comments(Path(path))
    for problem in found.problems[:5]:
        note(f"aes: {problem}", quiet=quiet)
    return found


def _report(summary: Summary, seconds: float, *, strict: bool, quiet: bool) -> None:
    """The counts on standard error; AesError where the run counts as failed."""
    if summary.images == 0:
        raise AesError("no images were found in what was given; check the path, or name the files themselves")
    parts = [f"{summary.ok} scored"]
    if summary.no_face:
        parts.append(f"{summary.no_face} without a face")
    if summary.failed:
        parts.append(f"{summary.failed} failed")
    if summary.resumed:
        parts.append(f"{summary.resumed} of them in an earlier run")
    rate = (summary.images - summary.resumed) / max(seconds, 1e-9)
    images = "1 image" if summary.images == 1 else f"{summary.images} images"
    note(f"aes: {images}: {', '.join(parts)} ({seconds:.1f} s, {rate:.1f} img/s)", quiet=quiet)
    hint = "; --faces none scores face crops as they are" if summary.no_face and not summary.ok else ""
    if not summary.ok:
        raise AesError(f"no image could be scored; the first: {summary.first_error}{hint}")
    if strict and summary.images > summary.ok:
        missing = summary.images - summary.ok
        raise AesError(f"--strict: {missing} of {images} without a score; the first: {summary.first_error}")
