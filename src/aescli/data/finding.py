"""Turns what stands on the command line (folders, files, patterns, lists) into a stream of image paths.

It knows names and folders only; it opens no image. The order is the same on every machine, and memory grows
with the number of folders and with the largest folder, never with the number of images.
"""

from __future__ import annotations

import codecs
import errno
import fnmatch
import functools
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from aescli.data import remote
from aescli.errors import AesError

# Pillow registers these suffixes, but can only recognise the files or write them; EPS would start
# Ghostscript, a program that runs what the file says. A file that is named explicitly is tried all the same (but no
# file is opened as EPS).
_NOT_DECODED = frozenset({"BUFR", "GRIB", "HDF5", "MPEG", "PDF", "WMF", "EPS"})

# Photos that Pillow opens only with a plugin: found, so that a folder of them ends in clear errors, not in
# nothing.
_PLUGIN_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".webp", ".jxl"})

# Two JPEG pictures in one file, as stereo cameras write them; Pillow opens them as JPEG.
_JPEG_SUFFIXES = frozenset({".mpo"})

_SKIPPED_FOLDERS = frozenset({"__MACOSX"})


@dataclass(frozen=True, slots=True)
class Found:
    """One place that was asked for: an image to try, or with `error` something that could not be searched.

    path: as given; for what lies in a folder, the folder's name as given joined with the relative name.
    error: None, or one printable line saying what could not be read.
    """

    path: str
    error: str | None = None


def find_images(inputs: Iterable[str | os.PathLike[str]]) -> Iterator[Found]:
    """Stream the images of `inputs`, in the given order; folders are searched recursively, sorted by name.

    An input is a folder, a file, a pattern (`*`, `?`, `[…]`, `**`, where no such path exists), `-` (paths on
    standard input) or `@list.txt` (paths in a file); `./@x` and `./-` name files of that name. Lists hold a
    path a line, or, if they contain NUL, NUL-separated paths; relative ones start from the current folder. Folders,
    files and patterns may also be addresses, such as s3://bucket/photos (see `aescli.data.remote`).

    A file named explicitly is always tried. In folders and by patterns that end in `*`, files are picked by
    the suffixes that Pillow decodes; names that begin with a dot and `__MACOSX` are left out, and each folder
    is visited once, however many symbolic links lead to it.

    Raises AesError at once when an argument does not exist; a pattern without a match raises it when its turn
    comes. What cannot be read while searching, or is missing from a list, becomes an item with `error`.
    """
    arguments = [os.fspath(item) for item in inputs]
    if not arguments:
        raise AesError("no images given: name a folder, files, a pattern, - or @list.txt")
    for text in arguments:
        _check(text)
    return _search(arguments)


def _check(text: str) -> None:
    if text == "":
        raise AesError("an empty path was given: name a folder, a file, a pattern, - or @list.txt")
    if text == "-":
        return
    if text.startswith("@"):
        if not os.path.exists(text[1:]):
            raise AesError(f"{printable(text[1:])}: no such list of paths; check the name after the @")
        return
    try:
        if _exists(text) or glob.has_magic(text):
            return
    except OSError as error:  # of a store elsewhere
        raise AesError(f"{printable(text)}: cannot be reached: {printable(str(error))}") from error
    raise AesError(f"{printable(text)}: no such file or folder; check the spelling and the current folder")


def _exists(path: str) -> bool:
    """False only where nothing is there. What may not be looked at exists: trying it names the reason."""
    if remote.is_remote(path):
        return remote.exists(path)
    try:
        os.lstat(path)
    except ValueError:
        return False
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    return True


def _search(arguments: list[str]) -> Iterator[Found]:
    for text in arguments:
        if text == "-":
            yield from _from_list(sys.stdin.buffer)
        elif text.startswith("@"):
            try:
                with open(text[1:], "rb") as file:
                    yield from _from_list(file)
            except OSError as error:
                raise AesError(f"{printable(text[1:])}: the list cannot be read: {error.strerror}") from error
        elif _exists(text):
            yield from _path(text)
        else:
            found = False
            for item in _remote_matches(text) if remote.is_remote(text) else _expand(text):
                found = True
                yield item
            if not found:
                raise AesError(f"{printable(text)}: no file matches this pattern; check it and the folder")


def _path(path: str) -> Iterator[Found]:
    if remote.is_remote(path):
        yield from _remote_walk(path) if remote.is_folder(path) else (Found(path),)
    elif os.path.isdir(path):
        yield from _walk(path)
    else:
        yield Found(path)


def _from_list(file: IO[bytes]) -> Iterator[Found]:
    for raw in _entries(file):
        path = os.fsdecode(raw)
        if "\0" in path:
            yield Found(path, "the list mixes lines and NUL-separated paths; use one of them")
        elif remote.is_remote(path):
            yield Found(path)  # a list of addresses is not asked for one by one; fetching says what is wrong
        elif _exists(path):
            yield from _path(path)
        else:
            yield Found(path, "the file does not exist; correct the list of paths")


def _entries(file: IO[bytes]) -> Iterator[bytes]:
    """Entries of a list, as they arrive. The first block with a separator decides between line and NUL."""
    read = getattr(file, "read1", file.read)
    pending, separator = b"", b""
    while block := read(65536):
        if not pending and not separator and block.startswith(b"\xef\xbb\xbf"):
            block = block[3:]  # the byte order mark of Windows editors
        pending += block
        if not separator and pending.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            pending += file.read()
            yield from _clean([os.fsencode(line) for line in _utf16_lines(pending)], b"\n")
            return
        if not separator and pending[1:2] == pending[3:4] == b"\0":  # as names they would be of one letter
            raise AesError("the list of paths is UTF-16 without its mark; save it as UTF-8")
        if not separator:
            separator = b"\0" if b"\0" in pending else b"\n" if b"\n" in pending else b""
        if separator:
            *whole, pending = pending.split(separator)
            yield from _clean(whole, separator)
    yield from _clean([pending], separator)


def _utf16_lines(data: bytes) -> list[str]:
    """As PowerShell's > writes them."""
    try:
        return data.decode("utf-16").splitlines()
    except UnicodeDecodeError as error:
        raise AesError(f"the list of paths is damaged UTF-16 ({error.reason}); save it as UTF-8") from None


def _clean(entries: list[bytes], separator: bytes) -> Iterator[bytes]:
    for entry in entries:
        if separator != b"\0":
            entry = entry.removesuffix(b"\r")
        if entry.strip():
            yield entry


def _walk(top: str) -> Iterator[Found]:
    """All images below `top`: names sorted by their bytes, a folder's content where its name stands."""
    suffixes = known_suffixes()
    visited: set[tuple[int, int]] = set()
    stack: list[Iterator[tuple[str, bool, str | None]]] = [_listing(top, visited)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            continue
        path, is_folder, error = item
        if error is not None:
            yield Found(path, error)
        elif is_folder:
            stack.append(_listing(path, visited))
        elif os.path.splitext(path)[1].lower() in suffixes:
            yield Found(path)


def _remote_walk(top: str) -> Iterator[Found]:
    """All images below an address, in the order of `_walk`."""
    stack = [iter([(top, True)])]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            continue
        path, is_folder = item
        name = os.path.basename(path.rstrip("/"))
        if path != top and (name.startswith(".") or name in _SKIPPED_FOLDERS):
            continue
        if not is_folder:
            if os.path.splitext(name)[1].lower() in known_suffixes():
                yield Found(path)
            continue
        try:
            stack.append(iter(remote.listing(path)))
        except OSError as error:
            reason = printable(str(error))
            yield Found(path, f"the folder cannot be read ({reason}); its images are missing")


def _remote_matches(pattern: str) -> Iterator[Found]:
    """Matches of a pattern in a store; a folder that matches is searched."""
    named = not pattern.endswith(("*", "]", "?"))
    for path in remote.matches(pattern):
        if remote.is_folder(path):
            if "**" not in pattern:
                yield from _remote_walk(path)
        elif named or os.path.splitext(path)[1].lower() in known_suffixes():
            yield Found(path)


def _listing(folder: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, bool, str | None]]:
    """(path, is a folder, error) of what lies in one folder; nothing when it was visited before."""
    names: list[tuple[bytes, str, bool]] = []
    failure = None
    try:
        status = os.stat(folder)
        # File systems without inode numbers report 0: those cannot be told apart, and have no links either.
        if status.st_ino and (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name not in _SKIPPED_FOLDERS:
                    names.append((os.fsencode(entry.name), entry.name, _is_folder(entry)))
    except OSError as error:
        failure = f"the folder cannot be read ({error.strerror or error}); its images are missing"
    names.sort()
    for _, name, is_folder in names:
        yield os.path.join(folder, name), is_folder, None
    if failure is not None:
        yield folder, True, failure


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself; trying to open it names the reason
        return False


def _expand(pattern: str) -> Iterator[Found]:
    """Matches of a pattern, sorted folder by folder. A folder that matches is searched, except below `**`."""
    drive, rest = os.path.splitdrive(pattern)
    root = drive + rest[: len(rest) - len(rest.lstrip(os.sep))]
    parts = [part for part in rest.split(os.sep) if part]
    named = not parts[-1].endswith(("*", "]", "?")) if parts else False
    suffixes = known_suffixes()
    for path in _match(root, parts, frozenset()):
        if os.path.isdir(path):
            if "**" not in parts:
                yield from _walk(path)
        elif named or os.path.splitext(path)[1].lower() in suffixes:
            yield Found(path)


def _match(base: str, parts: list[str], seen: frozenset[str]) -> Iterator[str]:
    if not parts:
        yield base
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        real = os.path.realpath(base or os.curdir)
        if real in seen:  # a symbolic link back to a folder above
            return
        if rest:
            yield from _match(base, rest, frozenset())
        for name in _names(base):
            path = os.path.join(base, name)
            if os.path.isdir(path):
                yield from _match(path, parts, seen | {real})
            elif not rest:
                yield path
    elif not glob.has_magic(part):
        path = os.path.join(base, part)
        if _exists(path):
            yield from _match(path, rest, frozenset())
    else:
        for name in _names(base, hidden=part.startswith(".")):
            if fnmatch.fnmatchcase(os.path.normcase(name), os.path.normcase(part)):
                yield from _match(os.path.join(base, name), rest, frozenset())


def _names(folder: str, *, hidden: bool = False) -> list[str]:
    try:
        names = os.listdir(folder or os.curdir)
    except OSError:  # no folder, or one that may not be read: as in a shell, nothing there matches
        return []
    return sorted((name for name in names if hidden or not name.startswith(".")), key=os.fsencode)


@functools.cache
def known_suffixes() -> frozenset[str]:
    """Lower-case suffixes, with the dot, of the formats that Pillow decodes here."""
    from PIL import Image

    Image.init()
    decoded = {
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in _NOT_DECODED
    }
    return frozenset(decoded) | _PLUGIN_SUFFIXES | _JPEG_SUFFIXES


def printable(text: str) -> str:
    """`text` in one line that any terminal can show: control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
