"""Folders and files that appear whole or not at all. Knows nothing about what they hold."""

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from aescli.errors import AesError

_TEXT = ("utf-8", "backslashreplace")
_OWN_STREAM = re.compile(r"/dev/(stdout|stderr)|/dev/fd/(\d+)|/proc/self/fd/(\d+)")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder beside `folder` that takes its place when the block ends well, and vanishes otherwise.

    What lay at `folder` before is moved aside and removed only after that; if the new one cannot take its place, it
    comes back.
    """
    folder = Path(os.path.realpath(folder))  # the folder behind a link is replaced, not the link
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield staging
        staging.chmod(0o755)  # mkdtemp and safetensors make them readable for the owner alone
        for file in staging.iterdir():
            file.chmod(0o644)
        _replace(folder, staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _replace(folder: Path, staging: Path) -> None:
    old = staging.with_name(f"{staging.name}-old")
    try:
        if folder.exists():
            folder.rename(old)
        staging.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)  # nothing, unless the new one has its place
        raise
    shutil.rmtree(old, ignore_errors=True)


def staging_beside(path: Path) -> Path:
    """A hidden name in the same folder for what will take `path`'s place; short, as `path`'s may have no room left."""
    return path.with_name(f".aes-{secrets.token_hex(8)}")


def open_stream(path: str | os.PathLike[str]) -> IO[bytes] | None:
    """What can only be written into: one of this process's own streams (/dev/stdout), a pipe, a device.

    None for a file, which is replaced whole, and for what does not exist. Raises OSError.
    """
    if own := _OWN_STREAM.fullmatch(os.fspath(path)):
        # Opened by its name, a file that it leads to would be cut to nothing first.
        number = {"stdout": 1, "stderr": 2}.get(own[1]) or int(own[2] or own[3])
        return os.fdopen(os.dup(number), "wb")
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else open(path, "wb")


def write_text(path: Path, text: str) -> None:
    """UTF-8; half characters, as in names that are not UTF-8, as \\udcff, which is how JSON has them."""
    path.write_text(text, *_TEXT)


def write_whole(files: Mapping[Path, str]) -> None:
    """Write UTF-8 text files, line ends as given, each of which is either the old or the new one.

    None gets its name before all are complete; what is no file (`open_stream`) is written into, and of a link the file
    behind it. Half characters are those of `write_text`.
    Raises AesError that names the file where one cannot be written.
    """
    places = {path: Path(os.path.realpath(path)) for path in files}
    staged: dict[Path, Path] = {}
    path = None
    try:
        for path, text in files.items():
            data = text.encode(*_TEXT)
            if (stream := open_stream(path)) is not None:
                with stream:
                    stream.write(data)
                continue
            staged[path] = staging_beside(places[path])
            staged[path].write_bytes(data)
        for path, staging in staged.items():
            os.replace(staging, places[path])
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        for staging in staged.values():
            staging.unlink(missing_ok=True)


def unwritable(path: Path, reason: Exception) -> AesError:
    """What to raise where `path` could not be written."""
    return AesError(
        f"{path} cannot be written: {getattr(reason, 'strerror', None) or reason}; check the path and the disk"
    )
