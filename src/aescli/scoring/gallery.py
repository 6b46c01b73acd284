"""The gallery: pages with a thumbnail of every row of a scoring run, sorted, filtered and searched offline.

It knows thumbnails, the order by score and the page template beside it (`gallery.html`). It knows nothing about
models, and about images only what the pipeline shows it in passing.

Memory stays flat while a run works: thumbnails and rows wait in a nameless file on the gallery's own disk, which
is gone with the process, however that ends. Kept in memory: 16 bytes per row.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import pickle
import tempfile
import threading
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, quote_from_bytes

from PIL import Image

from aescli.data.finding import printable
from aescli.data.images import Decoded, ImageError, load_image
from aescli.data.remote import is_remote
from aescli.errors import AesError
from aescli.folders import staging_beside
from aescli.scoring.rows import NO_FACE, ImageResult, Layout, Row

SIDE = 224  # pixels of a thumbnail's long side
_QUALITY = 72
PER_PAGE = 5000
"""Rows in one page: about 45 MB, which a browser opens in a second or two."""

_CHUNK = 100  # thumbnails that the page parses at once
_TEMPLATE = Path(__file__).with_name("gallery.html")
_MARK = '<meta name="generator" content="aes gallery">'


class Gallery:
    """Collects a run's thumbnails and rows and writes the pages at its end.

    `see` may be called from any thread; the rest from one.
    """

    def __init__(self, path: str, layout: Layout, title: str, *, no_clobber: bool = False):
        """path: the first page; further ones lie beside it. Raises AesError where it cannot be written."""
        self.path = Path(os.path.realpath(path))
        self.name = printable(path)
        self._layout, self._title = layout, title
        self._no_clobber = no_clobber
        self._require_place()
        try:
            self._spool: IO[bytes] = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115
        except OSError as error:
            raise self._refused(error) from error
        self._lock = threading.Lock()
        self._end = 0
        self._seen: dict[str, list[dict[str, Any]]] = {}  # of the images under way only
        self._scores, self._records = array("d"), array("Q")

    def _require_place(self) -> None:
        if self.path.is_dir():
            raise AesError(f"--gallery {self.name} is a folder; give a file name in it, such as gallery.html")
        if not os.path.lexists(self.path):
            return
        if self._no_clobber:
            raise AesError(f"{self.name} exists and --no-clobber was given; give another --gallery")
        if not _is_gallery(self.path):
            raise AesError(
                f"{self.name} exists and is no gallery of aes; give another --gallery or remove it"
            )

    def _refused(self, error: OSError) -> AesError:
        return AesError(
            f"cannot write the gallery {self.name}: {error.strerror or error}; check the folder and the disk"
        )

    # -- while the run works --------------------

    def see(self, path: str, picture: Decoded) -> None:
        """Keep a thumbnail of a picture that was decoded for scoring."""
        entry = _thumbnail(picture)
        data = entry.pop("data")
        entry["at"], entry["length"] = self._append(data), len(data)
        with self._lock:
            self._seen.setdefault(path, []).append(entry)

    def add(self, result: ImageResult, rows: Sequence[Row] | None = None) -> None:
        """The rows of one image (`rows`: those that are wanted, all by default), in the order of the run."""
        with self._lock:
            entries = self._seen.get(result.path, [])
            entry = entries.pop(0) if entries else None
            if not entries:
                self._seen.pop(result.path, None)
        for row in result.rows if rows is None else rows:
            self._scores.append(-math.inf if row.score is None else row.score)
            self._records.append(self._append(pickle.dumps((row, entry))))

    def _append(self, data: bytes) -> int:
        with self._lock:
            at = self._end
            self._end += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self._spool.fileno(), view, at + len(data) - len(view)) :]
        except OSError as error:
            raise self._refused(error) from error
        return at

    # -- at its end --------------------

    def finish(self, *, workers: int = 1) -> list[Path]:
        """Write the pages, best scores first; each appears whole, the first one last. Gives their paths.

        Images that an earlier run had scored (--resume) are decoded again, on `workers` threads.
        """
        order = sorted(range(len(self._scores)), key=lambda k: -self._scores[k])
        parts = [order[k : k + PER_PAGE] for k in range(0, len(order), PER_PAGE)] or [[]]
        paths = [self.path, *(self._further(number) for number in range(2, len(parts) + 1))]
        pages = [
            {"file": quote(path.name, errors="surrogateescape"), "label": self._label(k, part)}
            for k, (path, part) in enumerate(zip(paths, parts, strict=True))
        ]
        written: list[Path] = []
        try:
            for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
                written.append(staging_beside(path))
                with open(written[-1], "xb") as file:
                    self._write(file, part, number, pages, workers)
                    file.flush()
                    os.fsync(file.fileno())
            self._require_place()  # a long run later
            for partial, path in reversed(list(zip(written, paths, strict=True))):
                os.replace(partial, path)
        except BaseException as error:
            for partial in written:
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise self._refused(error) from error
            raise
        finally:
            self._spool.close()
        return paths

    def _further(self, number: int) -> Path:
        """Where page `number` lies: out-2.html, or where that is a file of somebody else, out-2_1.html."""
        name, attempt = f"{self.path.stem}-{number}", 0
        while True:
            path = self.path.with_name(f"{name}{f'_{attempt}' if attempt else ''}{self.path.suffix}")
            if not os.path.lexists(path) or _is_gallery(path):
                return path
            attempt += 1

    def _label(self, number: int, part: Sequence[int]) -> str:
        ends = [self._scores[k] for k in (part[0], part[-1])] if part else []
        return f"Page {number + 1}: " + " – ".join("no score" if s == -math.inf else f"{s:.2f}" for s in ends)

    def _write(
        self, file: IO[bytes], part: Sequence[int], number: int, pages: list[dict[str, str]], workers: int
    ) -> None:
        before, _, after = _TEMPLATE.read_text(encoding="utf-8").partition("{{data}}")
        script = after.partition("<script>")[2].partition("</script>")[0]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        before = before.replace("{{script-hash}}", f"sha256-{digest}").replace(
            "{{title}}", html.escape(self._title)
        )
        meta = {
            "title": self._title,
            "columns": self._layout.columns,
            "classes": self._layout.classes,
            "chunk": _CHUNK,
            "page": number,
            "pages": pages,
        }
        file.write(before.encode())
        file.write(_block(meta, 'id="meta"'))
        file.write(b'<script type="application/json" id="rows">[')
        with tempfile.TemporaryFile(
            dir=self.path.parent
        ) as later:  # the page has its rows before its pictures
            with ThreadPoolExecutor(workers) as pool:
                for start in range(0, len(part), _CHUNK):
                    records = [self._record(k) for k in part[start : start + _CHUNK]]
                    thumbs = list(pool.map(self._picture, records))
                    for k, ((row, _), thumb) in enumerate(zip(records, thumbs, strict=True), start):
                        file.write((b",\n" if k else b"") + _json(self._tile(row, part[k], thumb)))
                    data = [base64.b64encode(thumb["data"]).decode() for thumb in thumbs]
                    later.write(_block(data, 'class="thumbs"'))
            file.write(b"]</script>\n")
            later.seek(0)
            while block := later.read(1 << 20):
                file.write(block)
        file.write(after.encode())

    def _record(self, k: int) -> tuple[Row, dict[str, Any] | None]:
        self._spool.seek(self._records[k])
        return pickle.load(self._spool)  # of this process's own nameless file

    def _picture(self, record: tuple[Row, dict[str, Any] | None]) -> dict[str, Any]:
        """The row's thumbnail: kept, made again, or (for what is no picture) of no size."""
        row, entry = record
        if entry is not None:
            return {**entry, "data": os.pread(self._spool.fileno(), entry["length"], entry["at"])}
        if row.error in ("", NO_FACE):
            try:
                return _thumbnail(load_image(row.path, SIDE))
            except (ImageError, MemoryError):
                pass  # it went away since it was scored; its row is there
        return {"data": b"", "width": 0, "height": 0, "original": None}

    def _tile(self, row: Row, order: int, thumb: dict[str, Any]) -> dict[str, Any]:
        cells = self._layout.values(row)
        box = None
        if row.face and thumb["original"]:
            (x1, y1, x2, y2), (w, h) = row.face, thumb["original"]
            box = [round(v, 4) for v in (x1 / w, y1 / h, (x2 - x1) / w, (y2 - y1) / h)]
        return {
            "cells": [self._layout.text(name, value) for name, value in cells.items()],
            "score": row.score,
            "shown": self._layout.text("score", row.score),
            "class": cells["class"],
            "error": row.error,
            "order": order,
            "width": thumb["width"],
            "height": thumb["height"],
            "box": box,
            "link": self._link(row.path),
        }

    def _link(self, path: str) -> str | None:
        """A link to the original: relative where it lies below the gallery's folder, so that both can move."""
        if "\0" in path or is_remote(path):
            return None
        full = Path(os.path.abspath(path))
        try:
            return "./" + quote_from_bytes(os.fsencode(full.relative_to(self.path.parent)))
        except ValueError:
            return full.as_uri()


def _thumbnail(picture: Decoded) -> dict[str, Any]:
    """JPEG bytes (`data`), their width and height, and the original's (width, height)."""
    image = Image.fromarray(picture.pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return {
        "data": file.getvalue(),
        "width": image.width,
        "height": image.height,
        "original": picture.size,
    }


def _is_gallery(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return _MARK.encode() in file.read(1000)
    except OSError:
        return False


def _json(value: Any) -> bytes:
    """JSON that may stand inside a script element: no text of a file name can end it or begin another."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode("ascii")


def _block(value: Any, attribute: str) -> bytes:
    return f'<script type="application/json" {attribute}>'.encode() + _json(value) + b"</script>\n"
