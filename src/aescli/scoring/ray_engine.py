"""A scoring run on a Ray cluster: paths in, a folder of Parquet files out (extra `ray`).

Ray Data hands pieces of the list to actors, each a whole pipeline of its own (fetch, decode, find faces, score), and
starts again what dies. It knows Ray; what happens to a piece is the local pipeline's business.

In the result folder every row has `image_index`, the image's place in the input: sorted by it, the rows are those of
the local engine. The list of paths waits in its `_paths` while a run works, so that no list lies in memory.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aescli.data.finding import Found, printable
from aescli.errors import AesError, UsageError
from aescli.runtime import quiet
from aescli.scoring.pipeline import score_images
from aescli.scoring.predictor import Predictor
from aescli.scoring.prepare import Preparer
from aescli.scoring.rows import NO_FACE, Layout, Row
from aescli.scoring.run import Summary
from aescli.scoring.writers import parquet_cells, parquet_schema, require_parquet

INDEX = "image_index"
_COLUMNS = ("path", "face_index", "face", "score", "error")  # of every result
_PIECE = 256  # images that an actor gets at once: what is done again when one dies
_PART = 64 * _PIECE  # images in one file of paths


@dataclass(frozen=True)
class Job:
    """What an actor needs to know; all of it is sent to it.

    load: `load(device=…)` makes the predictor. faces, text: as for `Preparer`. keep: which rows are written.
    workers: threads of one actor. device: for `load`.
    """

    load: Callable[..., Predictor]
    layout: Layout
    faces: str
    keep: Callable[[Row], bool] | None
    batch_size: int | None
    workers: int
    device: str
    text: Callable[[str], str | None] | None = None


def require_ray() -> None:
    """AesError with the cure where Ray is not installed. Called before any work is done."""
    if importlib.util.find_spec("ray") is None:
        raise AesError("--engine ray needs Ray: pip install 'aescli[ray]'")
    require_parquet()


class Actor:
    """One worker: made once, then called with pieces of the list (columns `image_index`, `path`, `error`)."""

    def __init__(self, job: Job):
        from aescli.runtime import keep_freed_memory, one_thread_per_operation

        one_thread_per_operation()
        keep_freed_memory()
        self._job = job
        self._predictor = job.load(device=job.device)
        self._prepare = Preparer(self._predictor.preprocessing, job.faces, text=job.text)

    def __call__(self, piece: Any) -> Any:
        import pyarrow as pa

        indices = piece[INDEX].to_pylist()
        found = [
            Found(path.decode("utf-8", "surrogateescape"), error)
            for path, error in zip(piece["path"].to_pylist(), piece["error"].to_pylist(), strict=True)
        ]
        job = self._job
        batches = score_images(
            found,
            self._prepare,
            self._predictor,
            batch_size=job.batch_size or self._predictor.batch_size,
            workers=job.workers,
        )
        results = (result for batch in batches for result in batch)
        rows = [
            {INDEX: index, **parquet_cells(job.layout, row)}
            for index, result in zip(indices, results, strict=True)
            for row in result.rows
            if job.keep is None or job.keep(row)
        ]
        return pa.Table.from_pylist(rows, schema=_schema(job.layout))


def _schema(layout: Layout) -> Any:
    import pyarrow as pa

    return parquet_schema(layout).insert(0, pa.field(INDEX, pa.int64()))


def run_on_ray(images: Iterable[Found], out: str, job: Job, *, no_clobber: bool = False) -> Summary:
    """Score `images` on the cluster that RAY_ADDRESS names (else on this machine) into the folder `out`.

    The folder appears whole, with the rows of all images, or not at all; an earlier result there is replaced then.
    It must lie on storage that every node sees. The counts are of the images that have a row there. Raises AesError
    where it cannot be written or nothing was found.
    """
    target = Path(os.path.realpath(out))
    if target.exists() and (no_clobber or not _is_result(target)):
        raise AesError(
            f"{printable(out)} exists{'' if no_clobber else ' and is no result of --engine ray'}; "
            "give another --out or remove it"
        )
    staging = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        count = _write_paths(images, staging / "_paths")
        if not count:
            raise AesError(
                "no images were found in what was given; check the path, or name the files themselves"
            )
        with quiet(), _no_stderr():
            _score(staging, job, count)
        summary = _count(staging)
        shutil.rmtree(staging / "_paths")
        _replace(staging, target)
        return summary
    except OSError as error:
        raise AesError(
            f"cannot write {printable(out)}: {error.strerror or error}; check the folder"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_result(folder: Path) -> bool:
    """An empty folder, or one that holds Parquet files with our columns and nothing else."""
    import pyarrow.parquet as pq

    if not folder.is_dir():
        return False
    try:
        return all({INDEX, *_COLUMNS} <= {*pq.read_schema(item).names} for item in folder.iterdir())
    except (OSError, ValueError):  # no Parquet file
        return False


def _replace(staging: Path, target: Path) -> None:
    old = staging.with_suffix(".old")
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _write_paths(images: Iterable[Found], folder: Path) -> int:
    """The list of images as Parquet files of `_PART` rows; their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A path is bytes: it need not be Unicode.
    schema = pa.schema([(INDEX, pa.int64()), ("path", pa.binary()), ("error", pa.string())])
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    count = 0
    for image in images:
        data = image.path.encode("utf-8", "surrogateescape")
        rows.append({INDEX: count, "path": data, "error": image.error})
        count += 1
        if len(rows) == _PART:
            pq.write_table(
                pa.Table.from_pylist(rows, schema), folder / f"{count:012d}.parquet", row_group_size=_PIECE
            )
            rows = []
    if rows:
        pq.write_table(
            pa.Table.from_pylist(rows, schema), folder / f"{count:012d}.parquet", row_group_size=_PIECE
        )
    return count


def _score(folder: Path, job: Job, count: int) -> None:
    import ray

    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(logging_level="ERROR", log_to_driver=False, include_dashboard=False)
        except Exception as error:  # Ray raises nearly anything where a cluster is not there or slow
            raise AesError(
                f"--engine ray: no cluster: {_reason(error)}; check RAY_ADDRESS, or try again on a less busy machine"
            ) from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        on_gpu = gpus > 0 and job.device.split(":")[0] in ("auto", "cuda")
        # Ray shows each actor its own GPU alone. One core stays free for reading and writing.
        most = gpus if on_gpu else max(1, (cpus - 1) // job.workers)
        actors = max(1, min(most, -(-count // _PIECE)))
        # The job is part of the class, not an argument that would have to outlive the actors in Ray's object store.
        actor = type("Actor", (Actor,), {"__init__": lambda self: Actor.__init__(self, job)})
        paths = ray.data.read_parquet(str(folder / "_paths"), file_extensions=["parquet"])
        scored = paths.repartition(target_num_rows_per_block=_PIECE).map_batches(
            actor,
            batch_format="pyarrow",
            batch_size=_PIECE,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_gpus=1 if on_gpu else 0,
            num_cpus=job.workers if actors * job.workers < cpus else 0,
        )
        scored.write_parquet(str(folder))
    except ray.exceptions.RayError as error:
        raise AesError(f"--engine ray: {_reason(error)}") from error
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Nothing reaches standard error: Ray's C++ part writes past sys.stderr and logging. Its own logs keep it all."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _reason(error: Exception) -> str:
    """The failure itself: the last line of Ray's report that names an error, without tracebacks and advice."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or [type(cause).__name__])[-1]


def _count(folder: Path) -> Summary:
    """The outcomes of all images in a result folder."""
    summary = Summary()
    for path, errors in _images(folder):
        if all(error is None for error in errors):
            summary.ok += 1
            continue
        first = next(error for error in errors if error is not None)
        summary.first_error = summary.first_error or f"{printable(path)}: {first}"
        if all(error in (None, NO_FACE) for error in errors):
            summary.no_face += 1
        else:
            summary.failed += 1
    return summary


def _images(folder: Path) -> Iterator[tuple[str, list[str | None]]]:
    """(path, the errors of its rows) of every image; an image's rows lie together in one file."""
    import pyarrow.parquet as pq

    for file in sorted(folder.glob("*.parquet")):
        current, path, errors = -1, "", []
        for batch in pq.ParquetFile(file).iter_batches(columns=[INDEX, "path", "error"]):
            for index, name, error in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if index != current and errors:
                    yield path, errors
                    errors = []
                current, path = index, name
                errors.append(error)
        if errors:
            yield path, errors


def check_options(out: str | None, format: str | None, refused: dict[str, Any]) -> None:
    """UsageError for options of a run that the Ray engine has no answer to. refused: option → what was given."""
    if not out:
        raise UsageError("--engine ray needs --out FOLDER for its Parquet files")
    if format not in (None, "parquet"):
        raise UsageError(f"--engine ray writes Parquet, not {format}; leave --format out")
    for name, value in refused.items():
        if value:
            raise UsageError(
                f"{name} does not go with --engine ray; use --engine local on its result's files"
            )
