"""Turns rows into bytes: CSV, JSON, JSON Lines, Parquet, and a table of the best ones for people.

A writer knows a format and an open binary file. Where the file lies, when it is replaced and what happens
when a run is broken off is `aescli.scoring.output`.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Protocol

from aescli.data.finding import printable
from aescli.errors import AesError, UsageError
from aescli.scoring.rows import Layout, Row

SUFFIXES = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

_WIDE = 1000  # columns of a table that is not shown on a terminal: no path is folded


class Writer(Protocol):
    def write(self, rows: Iterable[Row]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Finish the document. The file itself stays open."""


def format_for(path: str | None, given: str | None, *, terminal: bool) -> str:
    """The output format: what was asked for, else by the suffix, else a table on a terminal and CSV
    elsewhere."""
    if given:
        return given
    if path is None:
        return "table" if terminal else "csv"
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if not Path(path).is_file() and Path(path).exists():  # a pipe or device has no suffix that means anything
        return "csv"
    raise UsageError(
        f"cannot tell the format of {printable(path)} from its suffix; "
        f"use one of {' '.join(SUFFIXES)} or give --format"
    )


def open_writer(
    format: str, file: IO[bytes], layout: Layout, keep: Callable[[Row], bool] | None = None
) -> Writer:
    """A writer for `format` (csv, json, jsonl, parquet) on a binary file; with `keep` only of the rows it likes."""
    kinds = {"csv": CsvWriter, "json": JsonWriter, "jsonl": JsonLinesWriter, "parquet": ParquetWriter}
    writer = kinds[format](file, layout)
    return writer if keep is None else FilteredWriter(writer, keep)


class FilteredWriter:
    """Passes on the rows that `keep` likes."""

    def __init__(self, writer: Writer, keep: Callable[[Row], bool]):
        self._writer, self._keep = writer, keep

    def write(self, rows: Iterable[Row]) -> None:
        self._writer.write(filter(self._keep, rows))

    def close(self) -> None:
        self._writer.close()


class CsvWriter:
    """RFC 4180 with LF line ends, UTF-8. Bytes of a path that are not UTF-8 are written as they are, so that
    reading with errors='surrogateescape' gives the path back."""

    def __init__(self, file: IO[bytes], layout: Layout):
        self._file, self._layout = file, layout
        self._header = ",".join(layout.columns) + "\n"

    def write(self, rows: Iterable[Row]) -> None:
        text, values = self._layout.text, self._layout.values
        lines = (",".join(_quoted(text(name, value)) for name, value in values(row).items()) for row in rows)
        document = self._header + "".join(line + "\n" for line in lines)
        self._header = ""
        self._file.write(document.encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        self.write([])


def _quoted(cell: str) -> str:
    # Not the csv module: it leaves a lone carriage return unquoted, which breaks the line for most readers.
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in '",\r\n') else cell


def dump_json(value: Any) -> str:
    """JSON in one line: UTF-8 text as it is; names that are not valid UTF-8 with \\udcXX escapes."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    return text


class JsonLinesWriter:
    """One object per line; empty cells are null."""

    def __init__(self, file: IO[bytes], layout: Layout):
        self._file, self._layout = file, layout

    def write(self, rows: Iterable[Row]) -> None:
        self._file.write("".join(dump_json(self._layout.values(row)) + "\n" for row in rows).encode())

    def close(self) -> None:
        pass


class JsonWriter:
    """One array with one object per line; empty cells are null."""

    def __init__(self, file: IO[bytes], layout: Layout):
        self._file, self._layout = file, layout
        self._before = "[\n"

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._file.write((self._before + dump_json(self._layout.values(row))).encode())
            self._before = ",\n"

    def close(self) -> None:
        self._file.write(b"[]\n" if self._before == "[\n" else b"\n]\n")


class ParquetWriter:
    """Row groups of 10,000, so that memory stays flat. Needs pyarrow.

    Parquet text must be Unicode: bytes of a path that are not UTF-8 appear as \\udcXX, six characters each.
    """

    GROUP = 10_000

    def __init__(self, file: IO[bytes], layout: Layout):
        require_parquet()
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = parquet_schema(layout)
        self._layout, self._pa = layout, pa
        self._parquet = pq.ParquetWriter(file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._rows.append(parquet_cells(self._layout, row))
            if len(self._rows) >= self.GROUP:
                self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._parquet.close()


def parquet_schema(layout: Layout) -> Any:
    """The columns as pyarrow's types."""
    import pyarrow as pa

    integers = {"face_index": pa.int32(), "class": pa.int8()}
    texts = {"path", "face", "error"}
    return pa.schema(
        [
            (name, pa.string() if name in texts else integers.get(name, pa.float64()))
            for name in layout.columns
        ]
    )


def parquet_cells(layout: Layout, row: Row) -> dict[str, Any]:
    """A row's cells, the path made Unicode."""
    cells = layout.values(row)
    cells["path"] = cells["path"].encode("utf-8", "backslashreplace").decode()
    return cells


def require_parquet() -> None:
    """AesError with the cure where pyarrow is not installed. Called before any work is done."""
    import importlib.util

    if importlib.util.find_spec("pyarrow") is None:
        raise AesError("writing Parquet needs pyarrow: pip install 'aescli[parquet]', or use --format csv")


class TopTable:
    """Keeps the `n` best rows (ties: the earlier one) and prints them as a table. Memory: n rows."""

    def __init__(self, n: int, layout: Layout):
        self._n, self._layout = n, layout
        self._heap: list[tuple[float, int, Row]] = []
        self._seen = 0

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._seen += 1
            if row.score is None:
                continue
            entry = (row.score, -self._seen, row)
            if len(self._heap) < self._n:
                heapq.heappush(self._heap, entry)
            elif entry > self._heap[0]:
                heapq.heapreplace(self._heap, entry)

    def close(self) -> None:
        pass

    def rows(self) -> list[Row]:
        """Best first."""
        return [row for _, _, row in sorted(self._heap, reverse=True)]

    def print(self, file: IO[str]) -> None:
        """Print the table; nothing where nothing was scored."""
        if not self._heap:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        rows = self.rows()
        hidden = {"path", "face", "error"}
        if not any(row.face_index for row in rows):
            hidden.add("face_index")
        names = [name for name in self._layout.columns if name not in hidden]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("#", justify="right", style="dim")
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("path", overflow="fold")
        for rank, row in enumerate(rows, 1):
            cells = self._layout.values(row)
            texts = [self._layout.text(name, cells[name]) for name in names]
            # Text, not str: a path may hold what rich takes for markup
            table.add_row(str(rank), *texts, Text(printable(row.path)))
        width = None if file.isatty() else _WIDE
        Console(file=file, highlight=False, width=width).print(table)
