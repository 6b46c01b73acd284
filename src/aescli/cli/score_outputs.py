"""Where the results of `aes score` may go: what is refused before anything is scored, and the output that is opened.

It knows the options and what lies at the names they give. How rows, pages and copies are written is in
`aescli.scoring`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aescli.data.finding import known_suffixes, printable
from aescli.data.remote import is_remote
from aescli.errors import AesError, UsageError
from aescli.folders import open_stream

if TYPE_CHECKING:
    from aescli.scoring.output import Output
    from aescli.scoring.rows import Layout, Row
    from aescli.scoring.writers import TopTable

_PAGES = (".html", ".htm")


def require_stream(kind: str, *, resume: bool, no_clobber: bool) -> None:
    """UsageError for what standard output cannot be."""
    for given, name in ((resume, "--resume"), (no_clobber, "--no-clobber")):
        if given:
            raise UsageError(f"{name} needs --out FILE: standard output cannot be continued or kept")
    if kind == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal; give --out scores.parquet or another --format")


def require_outputs(
    out: str | None, gallery: str | None, inputs: Sequence[str], models: Sequence[str] = ()
) -> None:
    """UsageError where --out or --gallery would replace an image, something that is read, or each other.

    inputs: the paths to score and files of options, as given. models: of the run and its people; where they are
    folders, nothing goes into them.
    """
    if gallery == "-":
        raise UsageError("--gallery -: a page needs a file; name it, such as gallery.html")
    if gallery is not None and Path(gallery).suffix.lower() not in _PAGES and not os.path.isdir(gallery):
        raise UsageError(f"--gallery {printable(gallery)}: give a name that ends in .html")
    named = (*(text.removeprefix("@") for text in inputs), *models)
    read = {os.path.realpath(name) for name in named if os.path.isfile(name)}
    folders = [Path(os.path.realpath(name)) for name in models if os.path.isdir(name)]
    for option, path in (("--out", out), ("--gallery", gallery)):
        if path is None:
            continue
        name = f"{option} {printable(path)}"
        if is_remote(path):
            raise UsageError(f"{name}: cannot be an address; write to a file and copy it there")
        if os.path.realpath(path) in read:
            raise UsageError(f"{name}: this file is read by the run; give another name")
        if any(folder in Path(os.path.realpath(path)).parents for folder in folders):
            raise UsageError(f"{name}: lies in the folder of a model; write to another one")
        if Path(os.path.realpath(path)).suffix.lower() in known_suffixes() or _is_image(path):
            raise UsageError(f"{name}: an image is never replaced by results; give another name")
    if out and gallery and os.path.realpath(out) == os.path.realpath(gallery):
        raise UsageError("--out and --gallery name the same file; give two names")


def require_local(paths: Sequence[str], *, link_to: str | None, xmp: bool) -> None:
    """UsageError where files would be linked to, or get a sidecar beside them, that lie in a store."""
    address = next(filter(is_remote, paths), None)
    if address is None:
        return
    if link_to:
        raise UsageError(f"--link-to: {printable(address)} cannot be linked to; use --copy-to")
    if xmp:
        raise UsageError(f"--xmp: nothing is written beside {printable(address)}; add --copy-to")


def _is_image(path: str) -> bool:
    from PIL import Image

    if not os.path.isfile(path):
        return False
    try:
        with Image.open(path):
            return True
    except Exception:  # Pillow's readers raise nearly anything
        return False


def open_output(
    out: str | None,
    kind: str,
    layout: Layout,
    options: dict[str, str],
    table: TopTable | None,
    keep: Callable[[Row], bool] | None,
    *,
    resume: bool,
    no_clobber: bool,
) -> Output:
    """Standard output, a file with its journal, or whatever else `out` is. Raises AesError."""
    from aescli.scoring.journal import cannot_write
    from aescli.scoring.output import FileOutput, StreamOutput
    from aescli.scoring.writers import FilteredWriter, open_writer

    if kind == "table":
        return StreamOutput(sys.stdout.buffer, table if keep is None else FilteredWriter(table, keep))
    if out is None:
        return StreamOutput(sys.stdout.buffer, open_writer(kind, sys.stdout.buffer, layout, keep))
    try:
        file = open_stream(out)
    except OSError as error:
        raise AesError(cannot_write(out, error)) from error
    if file is None:
        return FileOutput(out, kind, layout, options, resume=resume, no_clobber=no_clobber, keep=keep)
    return StreamOutput(file, open_writer(kind, file, layout, keep), out, close=True)
