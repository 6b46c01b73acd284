"""Reads delimited text and spreadsheets into rows with line numbers.

Knows delimiters, quoting, byte-order marks and headerless files; knows nothing about what a column means.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aescli.data.datasets.base import Problem
from aescli.errors import AesError

_DELIMITERS = ",;\t|"


@dataclass(slots=True)
class Table:
    """`rows` are (line of the row's first character, {column: cell}); `bad` are rows of another width."""

    source: Path
    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    delimiter: str = ","
    bad: list[Problem] = field(default_factory=list)

    def column(self, wanted: str, option: str = "") -> str:
        """The column called `wanted` (case does not matter). Raises AesError that lists what there is."""
        folded = {column.casefold(): column for column in self.columns}
        if wanted.casefold() in folded:
            return folded[wanted.casefold()]
        near = difflib.get_close_matches(wanted.casefold(), folded, n=1)
        hint = f" (did you mean '{folded[near[0]]}'?)" if near else ""
        using = f" Name the right one with {option}." if option else ""
        raise AesError(
            f"{self.source} has no column '{wanted}'{hint}; it has: {', '.join(self.columns)}.{using}"
        )


def read_text(path: Path) -> str:
    """The file's text: UTF-8 or UTF-16 by its mark, else UTF-8, else Windows-1252. Raises AesError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AesError(f"{path} cannot be read: {error.strerror or error}") from None
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text
    raise AesError(f"{path} is not a text file")


def read_table(path: Path, *, has_header: Callable[[Sequence[str]], bool] = lambda cells: True) -> Table:
    """Parse a delimited file; the delimiter (, ; tab |) is the one that occurs most in the first row.

    has_header: tells from the first row's cells whether they name the columns; else the columns are
    called "1", "2", …. Rows whose number of cells differs from the first row's come back as `bad`.
    """
    text = read_text(path)
    if not text.strip():
        raise AesError(f"{path} is empty")
    delimiter = _guess_delimiter(text)
    # Excel may open a file with a line that declares the delimiter.
    skip = 0
    if text.lower().startswith("sep=") and len(text.splitlines()[0]) == 5:
        skip, delimiter = 1, text[4]
        text = text.split("\n", 1)[1]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    cells_by_line: list[tuple[int, list[str]]] = []
    line = 1 + skip
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                cells_by_line.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1 + skip
    except csv.Error as error:
        raise AesError(f"{path}:{line}: cannot be read as a table: {error}") from None
    return _with_columns(path, cells_by_line, delimiter, has_header)


def read_xlsx(path: Path) -> Table:
    """The first sheet of a workbook, whose first non-empty row names the columns. Needs openpyxl."""
    try:
        import openpyxl
    except ImportError:
        raise AesError(f"reading {path} needs openpyxl: pip install 'aescli[xlsx]'") from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # openpyxl raises zip, XML and its own errors for a file that is no workbook
        raise AesError(f"{path} cannot be read as a workbook: {error}") from None
    try:
        cells_by_line = []
        for line, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1):
            texts = ["" if cell is None else str(cell).strip() for cell in cells]
            if any(texts):
                cells_by_line.append((line, texts))
    finally:
        book.close()
    if not cells_by_line:
        raise AesError(f"{path} is empty")
    # A sheet is a rectangle: columns without a name hold nothing that was asked for.
    width = max(i for i, cell in enumerate(cells_by_line[0][1]) if cell) + 1
    cells_by_line = [(line, cells[:width]) for line, cells in cells_by_line if any(cells[:width])]
    return _with_columns(path, cells_by_line, "\t", lambda cells: True)


def _with_columns(path: Path, cells_by_line, delimiter: str, has_header) -> Table:
    first = cells_by_line[0][1]
    if has_header(first):
        columns, body = list(first), cells_by_line[1:]
    else:
        columns, body = [str(i) for i in range(1, len(first) + 1)], cells_by_line
    twice = {column for column in columns if column and columns.count(column) > 1}
    if twice:
        raise AesError(f"{path} has two columns called '{min(twice)}'; rename one of them")
    # A nameless column (the index that pandas writes) stays reachable by its position.
    columns = [column or f"column {i}" for i, column in enumerate(columns, start=1)]
    table = Table(path, columns, [], delimiter)
    for line, cells in body:
        extra = cells[len(columns) :]
        if len(cells) < len(columns) or any(extra):
            reason = f"{len(cells)} cells where the first row has {len(columns)}"
            table.bad.append(Problem(str(path), line, cells[0], reason))
        else:
            table.rows.append((line, dict(zip(columns, cells, strict=False))))
    return table


def _guess_delimiter(text: str) -> str:
    start = text.lstrip().split("\n", 1)[0]
    quoted, counts = False, dict.fromkeys(_DELIMITERS, 0)
    for char in start:
        if char == '"':
            quoted = not quoted
        elif not quoted and char in counts:
            counts[char] += 1
    return max(_DELIMITERS, key=lambda delimiter: counts[delimiter])
