"""Brings the files that a run picks out into one folder, as copies or as links.

It knows files and names; which files are picked it is told. No original is ever
changed, and nothing that lies in a target folder is ever overwritten.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from aescli.data.finding import Found, printable
from aescli.data.images import ImageError, open_regular
from aescli.data.remote import is_remote
from aescli.errors import AesError
from aescli.folders import staging_beside

# Not about one file: every further one would fail in the same way.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Collector:
    """Brings files into one folder, as copies or as symbolic links.

    A name that is taken by another file gets a number: `cat.jpg`, `cat-2.jpg`. What a broken-off run has brought
    already is recognised and kept, so the same run again completes the folder. Each file appears there whole.
    """

    def __init__(self, folder: str, *, link: bool = False):
        """The folder is made where it does not exist. Raises AesError where that is impossible."""
        self.folder, self._link = Path(folder), link
        self.option = "--link-to" if link else "--copy-to"
        self.brought = 0
        self.failed = 0
        self.passed_over = 0
        """Images found that lie in the folder itself."""
        self.first_error = ""
        self._given: dict[str, str] = {}  # name in the folder → source, of this run
        self._mine: dict[str, Path] = {}  # source → its place, of this run
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise AesError(
                f"{self.option} {printable(folder)}: no permission to write there; give another folder"
            )
        self._real = os.path.realpath(self.folder)

    def _refused(self, error: OSError) -> AesError:
        return AesError(
            f"{self.option} {printable(str(self.folder))}: {error.strerror or error}; "
            "check the folder and the disk, then run again"
        )

    def without_own(self, images: Iterable[Found]) -> Iterator[Found]:
        """`images` without what lies in the folder itself: earlier picks, not to be scored and picked again."""
        last, own = None, False
        for image in images:
            parent = os.path.dirname(image.path)
            if parent != last:
                real = "" if "\0" in parent else os.path.realpath(parent or ".")
                last, own = parent, real == self._real or real.startswith(self._real + os.sep)
            if not own or image.error:
                yield image
            else:
                self.passed_over += 1

    def bring(self, path: str) -> Path | None:
        """The place of `path` in the folder; None where it could not be brought (counted, first one named).

        Raises AesError where the folder cannot take any more.
        """
        key = path if is_remote(path) else os.path.abspath(path)
        if key in self._mine:
            return self._mine[key]
        try:
            place = self._bring(path)
        except (OSError, ImageError) as error:
            if isinstance(error, OSError) and error.errno in _HOPELESS:
                raise self._refused(error) from error
            self.failed += 1
            reason = error.reason if isinstance(error, ImageError) else error.strerror or str(error)
            self.first_error = self.first_error or f"{printable(path)}: {reason}"
            return None
        self.brought += 1
        self._mine[key] = place
        return place

    def _bring(self, path: str) -> Path:
        if is_remote(path) and self._link:
            raise OSError(errno.ENOTSUP, "an address cannot be linked to; use --copy-to")
        source = path if is_remote(path) else os.path.abspath(path)
        stem, suffix = os.path.splitext(os.path.basename(source))
        number = 1
        while True:
            name = f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
            target = self.folder / name
            number += 1
            if name in self._given:
                continue
            if not os.path.lexists(target):
                try:
                    self._place(source, target)
                except FileExistsError:  # somebody else has just put it there
                    continue
            elif not self._is(source, target):
                continue
            self._given[name] = path
            return target

    def _is(self, source: str, target: Path) -> bool:
        """Whether an earlier run has put this very file there."""
        if self._link:
            return os.path.islink(target) and os.readlink(target) == source
        if not target.is_file() or target.is_symlink():
            return False
        if is_remote(source):
            return open_regular(source).read() == target.read_bytes()
        return filecmp.cmp(source, target, shallow=False)  # size and time may agree by chance

    def _place(self, source: str, target: Path) -> None:
        if self._link:
            os.symlink(source, target)
            return
        partial = staging_beside(target)
        try:
            with open_regular(source) as file, open(partial, "xb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
            if not is_remote(source):
                shutil.copystat(source, partial)
            try:
                os.link(partial, target)  # unlike a rename, this never replaces what is there
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                if os.path.lexists(target):  # a file system without hard links
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
                os.rename(partial, target)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
