"""The journal of an unfinished run: every finished image as one checked line in a file beside the output.

It knows how to survive a broken-off run (torn lines, a dead owner, power loss) and how to keep a second run
away. It knows nothing about models, columns or output formats; `aescli.scoring.output` renders the final file
from it.

One line is `crc32 json\n`, the sum over the JSON bytes. The first line is the header: what was asked for, so
that a run with other options is not continued by mistake. Lines are added batch by batch; the last line of a
batch says so, and a journal is continued at the end of its last whole batch: the batches, and with them the
scores to the last bit, are then those of a run that was never broken off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from aescli.data.finding import printable
from aescli.data.remote import status
from aescli.errors import AesError
from aescli.scoring.rows import ImageResult, Row

try:
    import fcntl
except ImportError:  # Windows: no lock; two runs on one file are the user's to avoid
    fcntl = None  # type: ignore[assignment]

VERSION = 2
SYNC_SECONDS = 3.0
"""At most this much work is lost when the power fails (nothing is lost when only the process ends)."""


def journal_path(out: str | os.PathLike[str]) -> Path:
    """Where the journal of an output file lies: `scores.csv` → `scores.csv.journal`."""
    out = Path(out)
    return out.with_name(out.name + ".journal")


class JournalError(AesError):
    """The journal cannot be used: another run holds it, it belongs to other options, or the disk refuses."""


class Journal:
    """An open, locked journal. Use `Journal.open`."""

    def __init__(self, path: Path, descriptor: int):
        self.path = path
        self._fd = descriptor
        self._end = self._header_end = 0
        self._synced = time.monotonic()
        self._reader: IO[bytes] | None = None
        self._known: tuple[np.ndarray, np.ndarray] | None = None
        self.known_count = 0

    @classmethod
    def open(cls, path: Path, options: dict[str, Any], *, resume: bool) -> Journal:
        """Create or continue the journal at `path` and hold its lock until `close` or `discard`.

        options: JSON values that decide the rows; must equal the header's when a journal is continued.
        Without `resume`, or where the journal has no readable header, it starts anew. Raises JournalError.
        """
        journal = cls(path, _open_locked(path))
        started_anew = False
        try:
            if resume:
                journal._continue(options)
            if journal._end == 0:
                started_anew = True
                os.ftruncate(journal._fd, 0)
                journal._write([{"journal": VERSION, "options": options}])
                journal._header_end = journal._end
            journal._sync()
        except BaseException as error:
            if started_anew:  # nothing is lost with it
                journal.discard()
            else:
                journal.close()
            if isinstance(error, OSError):
                raise JournalError(cannot_write(path, error)) from error
            raise
        return journal

    # -- continuing --------------------

    def _continue(self, options: dict[str, Any]) -> None:
        """Read what is there: check the header, cut the torn tail off, index the finished images."""
        offset = keep = 0
        keys, offsets, whole = array("Q"), array("Q"), 0
        with open(os.dup(self._fd), "rb", buffering=1 << 20) as file:
            file.seek(0)
            for line in file:
                record = _parse(line)
                if record is None:
                    break
                if offset == 0:
                    self._check_header(record, options)
                    keep = self._header_end = len(line)
                else:
                    keys.append(_key(record["path"]))
                    offsets.append(offset)
                offset += len(line)
                if record.get("end"):
                    keep, whole = offset, len(keys)
        os.ftruncate(self._fd, keep)
        self._end = keep
        self.known_count = whole
        # Sorted by key; of several records of one path the last one counts.
        order = np.argsort(np.array(keys[:whole], np.uint64), kind="stable")
        self._known = np.array(keys[:whole], np.uint64)[order], np.array(offsets[:whole], np.uint64)[order]

    def _check_header(self, header: dict[str, Any], options: dict[str, Any]) -> None:
        if header.get("journal") != VERSION:
            raise JournalError(
                f"{printable(str(self.path))} was written by another version of aescli; "
                "run without --resume to start again"
            )
        theirs = header.get("options", {})
        for name in {**theirs, **options}:
            if theirs.get(name) != options.get(name):
                raise JournalError(
                    f"cannot resume {printable(str(self.path))}: it was begun with {name} "
                    f"{theirs.get(name)}, this run has {options.get(name)}; "
                    "give the same options, or run without --resume to start again"
                )

    def find(self, path: str) -> tuple[int, ImageResult] | None:
        """The finished record of `path`, if the file has not changed since: (offset for `read`, result).

        Files that failed are not kept (the cause may be gone), images without a face are.
        """
        if self._known is None:
            return None
        keys, offsets = self._known
        at = int(np.searchsorted(keys, np.uint64(_key(path)), side="right")) - 1
        if at < 0 or int(keys[at]) != _key(path):
            return None
        offset = int(offsets[at])
        result = self.read(offset)
        if result.path != path or result.outcome == "failed":
            return None
        try:
            if status(path) != (result.size, result.mtime_ns):
                return None
        except (OSError, ValueError):
            return None
        return offset, result

    def read(self, offset: int) -> ImageResult:
        """The record at an offset that `find` or `append` gave. Reading in order is fast."""
        if self._reader is None:
            self._reader = open(os.dup(self._fd), "rb", buffering=1 << 16)  # noqa: SIM115
        if self._reader.tell() != offset:
            self._reader.seek(offset)
        record = _parse(self._reader.readline())
        if record is None:
            raise JournalError(f"{printable(str(self.path))} is damaged; run without --resume to start again")
        return _decode(record)

    # -- writing --------------------

    def append(self, results: Sequence[ImageResult]) -> list[int]:
        """Add one whole batch; the offset of each record. Raises OSError, the file then ends as before."""
        records = [_encode(result) for result in results]
        if records:
            records[-1]["end"] = True
        offsets = self._write(records)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()
        return offsets

    def _write(self, records: list[dict[str, Any]]) -> list[int]:
        lines = [_line(record) for record in records]
        offsets, start = [], self._end
        for line in lines:
            offsets.append(start)
            start += len(line)
        data = memoryview(b"".join(lines))
        try:
            while data:
                data = data[os.pwrite(self._fd, data, start - len(data)) :]
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end = start
        return offsets

    def _sync(self) -> None:
        os.fsync(self._fd)
        self._synced = time.monotonic()

    @property
    def empty(self) -> bool:
        """Whether there is no finished image in it."""
        return self._end <= self._header_end

    # -- ending --------------------

    def close(self) -> None:
        """Keep the file for --resume and give the lock back."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._fd >= 0:
            descriptor, self._fd = self._fd, -1
            try:
                os.fsync(descriptor)
            except OSError:
                pass  # what could be written is there; the cause was or will be reported
            finally:
                os.close(descriptor)

    def discard(self) -> None:
        """The work is complete or worth nothing: remove the file, then give the lock back."""
        self.path.unlink(missing_ok=True)
        self.close()


def _open_locked(path: Path) -> int:
    """A descriptor of the file at `path` with an exclusive lock that ends with this process, however it
    ends."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise JournalError(cannot_write(str(path).removesuffix(".journal"), error)) from error
        if fcntl is None:
            return descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                raise JournalError(
                    f"another run is writing {printable(str(path)).removesuffix('.journal')}; "
                    "wait until it ends or give another --out"
                ) from error
            return descriptor  # a file system without locks: work on, as most programs do
        # The former holder may have removed the file between our open and our lock.
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def cannot_write(path: str | os.PathLike[str], error: OSError) -> str:
    """One line: what the system refused and what to do."""
    name, folder = printable(os.fspath(path)), printable(os.path.dirname(os.fspath(path)) or ".")
    reasons = {
        errno.ENOENT: f"the folder {folder} does not exist; create it first",
        errno.ENOTDIR: f"{folder} is not a folder; give another --out",
        errno.EACCES: f"no permission to write in {folder}; give another --out",
        errno.EPERM: f"no permission to write in {folder}; give another --out",
        errno.EROFS: f"{folder} is on a read-only file system; give another --out",
        errno.EISDIR: "it or its journal is a folder; give another file name",
        errno.ENAMETOOLONG: "the name is too long for this system; give a shorter --out",
        errno.ENOSPC: "no space left on the device; make room and run again with --resume",
        errno.EDQUOT: "the disk quota is used up; make room and run again with --resume",
        errno.EFBIG: "the file would become larger than is allowed here; give another --out",
    }
    return f"cannot write {name}: {reasons.get(error.errno or 0, error.strerror or str(error))}"


def _key(path: str) -> int:
    data = path.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _line(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where the line is torn or damaged."""
    if not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    body = line[9:-1]
    try:
        return json.loads(body) if int(line[:8], 16) == zlib.crc32(body) else None
    except ValueError:
        return None


def _encode(result: ImageResult) -> dict[str, Any]:
    rows = [
        [row.face_index, row.face, row.score, row.probabilities, row.error, row.attributes]
        for row in result.rows
    ]
    return {"path": result.path, "size": result.size, "mtime_ns": result.mtime_ns, "rows": rows}


def _decode(record: dict[str, Any]) -> ImageResult:
    path = record["path"]
    rows = [
        Row(path, index, tuple(face) if face else None, score, tuple(probabilities), error, tuple(attributes))
        for index, face, score, probabilities, error, attributes in record["rows"]
    ]
    return ImageResult(path, rows, record["size"], record["mtime_ns"])


__all__ = ["Journal", "JournalError", "cannot_write", "journal_path"]
