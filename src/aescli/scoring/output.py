"""Where results go: straight to a stream, or through a journal to a file that appears whole or not at all.

It knows files, the journal and the writers. It knows nothing about images or models.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from aescli.data.finding import Found, printable
from aescli.errors import AesError
from aescli.scoring.journal import Journal, cannot_write, journal_path
from aescli.scoring.rows import ImageResult, Layout, Row
from aescli.scoring.writers import Writer, open_writer

_UNKNOWN = (1 << 64) - 1


class Output(Protocol):
    """Takes results batch by batch, in order."""

    def remaining(self, images: Iterable[Found], known: Callable[[ImageResult], None]) -> Iterator[Found]:
        """The images that still have to be scored; `known` is called with the results of the others."""

    def add(self, results: Sequence[ImageResult]) -> None:
        """The results of the next remaining images. AesError where they cannot be written."""

    def finish(self, *, scored: bool) -> None:
        """All results were added: complete the output. scored: whether there is any score among them."""

    def abort(self) -> None:
        """The run ends early: keep what a later run can use, remove the rest."""


class StreamOutput:
    """Standard output, a pipe or a device: rows are written as they come."""

    def __init__(
        self, file: IO[bytes], writer: Writer, name: str = "standard output", *, close: bool = False
    ):
        self._file, self._writer, self._name, self._close = file, writer, name, close

    def remaining(self, images: Iterable[Found], known: Callable[[ImageResult], None]) -> Iterator[Found]:
        return iter(images)

    def add(self, results: Sequence[ImageResult]) -> None:
        try:
            self._writer.write(row for result in results for row in result.rows)
            self._file.flush()
        except BrokenPipeError:
            raise  # the reader has seen enough; not an error
        except OSError as error:
            raise AesError(f"cannot write to {self._name}: {error.strerror or error}") from error

    def finish(self, *, scored: bool) -> None:
        try:
            self._writer.close()
            self._file.flush()
            if self._close:
                self._file.close()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise AesError(f"cannot write to {self._name}: {error.strerror or error}") from error

    def abort(self) -> None:
        if self._close:
            with suppress(OSError):  # the first failure was reported
                self._file.close()


class FileOutput:
    """A file that is replaced only when everything is there; until then results lie in a journal beside it.

    The journal's lock keeps a second run off the same file. Memory: 8 bytes per image.
    """

    def __init__(
        self,
        path: str,
        format: str,
        layout: Layout,
        options: dict[str, Any],
        *,
        resume: bool = False,
        no_clobber: bool = False,
        keep: Callable[[Row], bool] | None = None,
    ):
        """keep: which rows the file gets, all by default; the journal has them all."""
        # A symbolic link stays a link: the file behind it is the one to replace.
        self.path = Path(os.path.realpath(path))
        self.name = printable(path)
        self._format, self._layout, self._no_clobber, self._keep = format, layout, no_clobber, keep
        self._temporary = self.path.with_name(self.path.name + ".partial")
        self.replaced = False
        """Whether `finish` has written the output."""
        self._refuse()
        waiting = 0 if resume else _images_in(journal_path(self.path))
        self.journal = Journal.open(journal_path(self.path), options, resume=resume)
        self.given_up = waiting
        """Images of an interrupted run that is not continued."""
        self._offsets = array("Q")
        self._open_places: deque[int] = deque()

    def _refuse(self) -> None:
        if os.path.isdir(self.path):
            raise AesError(f"--out {self.name} is a folder; give a file name in it")
        if self._no_clobber and os.path.lexists(self.path):
            raise AesError(f"{self.name} exists and --no-clobber was given; give another --out or remove it")

    def remaining(self, images: Iterable[Found], known: Callable[[ImageResult], None]) -> Iterator[Found]:
        for image in images:
            record = None if image.error else self.journal.find(image.path)
            if record is None:
                self._open_places.append(len(self._offsets))
                self._offsets.append(_UNKNOWN)
                yield image
            else:
                self._offsets.append(record[0])
                known(record[1])

    def add(self, results: Sequence[ImageResult]) -> None:
        try:
            offsets = self.journal.append(results)
        except OSError as error:
            raise AesError(cannot_write(self.journal.path, error)) from error
        for offset in offsets:
            self._offsets[self._open_places.popleft()] = offset

    def finish(self, *, scored: bool) -> None:
        """Render the journal into the output's format, replace the output in one step, remove the journal.

        Without a single score an output that existed before stays as it was.
        """
        if self._open_places:
            raise RuntimeError(f"{len(self._open_places)} images have no result")
        if not scored and os.path.exists(self.path):
            self.journal.discard()
            return
        try:
            with open(self._temporary, "wb") as file:
                writer = open_writer(self._format, file, self._layout, self._keep)
                for offset in self._offsets:
                    writer.write(self.journal.read(offset).rows)
                writer.close()
                file.flush()
                os.fsync(file.fileno())
            self._refuse()
            if self.path.exists():
                os.chmod(self._temporary, stat.S_IMODE(self.path.stat().st_mode))
            os.replace(self._temporary, self.path)
            self.replaced = True
            _sync_folder(self.path.parent)
        except BaseException as error:
            self._temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise AesError(cannot_write(self.path, error)) from error
            raise
        self.journal.discard()

    def abort(self) -> None:
        """Keep the journal if it holds a result; an output that existed before stays as it was."""
        if self.journal.empty:
            self.journal.discard()
        else:
            self.journal.close()


def _images_in(journal: Path) -> int:
    """How many images a journal holds, a header line and a line for each; 0 where there is none."""
    try:
        with open(journal, "rb") as file:
            return max(0, sum(1 for _ in file) - 1)
    except OSError:
        return 0


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure; not every system lets a folder be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
