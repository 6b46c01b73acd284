"""Reads delimited text and spreadsheets into rows with line numbers.

Knows delimiters, quoting, byte-order marks and headerless files; knows nothing about what a column means.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from aescli.data.datasets.base import Problem
from aescli.data.finding import known_suffixes
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

    @property
    def decimal_comma(self) -> bool:
        """Whether a comma in a cell can be a decimal one."""
        return self.delimiter not in ", "

    def column(self, wanted: str, option: str = "") -> str:
        """The column called `wanted` (case does not matter). Raises AesError that lists what there is."""
        return self.columns[_position(self.source, self.columns, wanted, option)]


@dataclass(slots=True)
class TableStream:
    """A table whose rows are read as they are asked for, once: `for line, cells in stream`.

    `bad` fills meanwhile with the rows that are left out because of their width.
    """

    source: Path
    columns: list[str]
    delimiter: str
    _rows: Iterator[tuple[int, list[str]]]
    bad: list[Problem] = field(default_factory=list)

    def position(self, wanted: str) -> int:
        """Where in `cells` the column called `wanted` stands. Raises AesError that lists what there is."""
        return _position(self.source, self.columns, wanted)

    def positions(self, wanted: Sequence[str]) -> dict[str, int]:
        """The same for those of `wanted` that there are."""
        folded = {column.casefold(): i for i, column in enumerate(self.columns)}
        return {name: folded[name.casefold()] for name in wanted if name.casefold() in folded}

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        width = len(self.columns)
        for line, cells in self._rows:
            if len(cells) != width and (len(cells) < width or any(cells[width:])):
                reason = f"{len(cells)} cells where the first row has {width}"
                self.bad.append(Problem(str(self.source), line, cells[0], reason))
            else:
                yield line, cells


def _position(source: Path, columns: Sequence[str], wanted: str, option: str = "") -> int:
    folded = {column.casefold(): i for i, column in enumerate(columns)}
    if wanted.casefold() in folded:
        return folded[wanted.casefold()]
    near = difflib.get_close_matches(wanted.casefold(), folded, n=1)
    hint = f" (did you mean '{columns[folded[near[0]]]}'?)" if near else ""
    using = f" Name the right one with {option}." if option else ""
    raise AesError(f"{source} has no column '{wanted}'{hint}; it has: {', '.join(columns)}.{using}")


def looks_like_image(cell: str) -> bool:
    """Whether a cell ends as the name of an image file does."""
    return os.path.splitext(cell)[1].lower() in known_suffixes()


def read_text(path: Path) -> str:
    """The file's text: UTF-8 or UTF-16 by its mark, else UTF-8, else Windows-1252. Raises AesError.

    Where most of what is not ASCII is UTF-8, what is not becomes half characters, as Python reads such file names.
    """
    return path.read_bytes().decode(*_encoding(path))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of a text file in any of `read_text`'s encodings, as they are asked for; no blank ones."""
    encoding, errors = _encoding(path)
    with path.open(encoding=encoding, errors=errors) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def read_table(path: Path, *, has_header: Callable[[Sequence[str]], bool] = lambda cells: True) -> Table:
    """Parse a delimited file; the delimiter (, ; tab |) is the one that occurs most in the first row. A first row
    without any that begins with an image's name is of a list whose columns stand between blanks.

    has_header: tells from the first row's cells whether they name the columns; else the columns are
    called "1", "2", …. Rows whose number of cells differs from the first row's come back as `bad`.
    """
    stream = stream_table(path, has_header=has_header)
    rows = [(line, dict(zip(stream.columns, cells, strict=False))) for line, cells in stream]
    return Table(path, stream.columns, rows, stream.delimiter, stream.bad)


def stream_table(
    path: Path, *, has_header: Callable[[Sequence[str]], bool] = lambda cells: True
) -> TableStream:
    """`read_table` for files of any length: its rows are read when they are asked for."""
    encoding = _encoding(path)
    delimiter, skip = _dialect(path, *encoding)
    return _with_columns(path, _rows(path, encoding, delimiter, skip), delimiter, has_header)


csv.field_size_limit(1 << 24)  # characters: a caption file may hold whole discussions


def _rows(
    path: Path, encoding: tuple[str, str], delimiter: str, skip: int
) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding=encoding[0], errors=encoding[1], newline="") as file:
        for _ in range(skip):
            file.readline()
        if delimiter == " ":  # any blanks, at the end of a line too
            yield from ((n, text.split()) for n, text in enumerate(file, 1 + skip) if text.strip())
            return
        quotes = 0

        def lines() -> Iterator[str]:
            nonlocal quotes
            for text in file:
                quotes += text.count('"')
                yield text

        reader = csv.reader(lines(), delimiter=delimiter, skipinitialspace=True)
        line = 1 + skip
        try:
            for raw in reader:
                if quotes % 2 and reader.line_num + skip > line:  # only the end of the file ends such a row
                    raise AesError(f"{path}:{line}: a quote opens here and never closes; close it")
                quotes = 0
                cells = [cell.strip() for cell in raw]
                if any(cells):
                    yield line, cells
                line = reader.line_num + 1 + skip
        except csv.Error as error:
            hint = "; is a quote open that never closes?" if "limit" in str(error) else ""
            raise AesError(f"{path}:{line}: cannot be read as a table: {error}{hint}") from None


def _dialect(path: Path, encoding: str, errors: str) -> tuple[str, int]:
    """(the delimiter, how many lines stand before the first row)."""
    with path.open(encoding=encoding, errors=errors) as file:
        before, first = next(((i, line) for i, line in enumerate(file) if line.strip()), (0, ""))
    # Excel may open a file with a line that declares the delimiter.
    declared = first.rstrip("\n")
    if declared.lower().startswith("sep=") and len(declared) == 5:
        return declared[4], before + 1
    return _guess_delimiter(first.lstrip()), 0


def _encoding(path: Path) -> tuple[str, str]:
    """(encoding, how errors are handled) of `read_text` for the whole file, without holding it in memory."""
    try:
        with path.open("rb") as file:
            for encoding, errors in _encodings(file):
                file.seek(0)
                decoder = codecs.getincrementaldecoder(encoding)(errors)
                try:
                    while block := file.read(1 << 20):
                        if "\0" in decoder.decode(block):
                            raise AesError(f"{path} is not a text file")
                    decoder.decode(b"", final=True)
                except UnicodeDecodeError:
                    continue
                return encoding, errors
    except OSError as error:
        raise AesError(f"{path} cannot be read: {error.strerror or error}") from None
    raise AesError(f"{path} is not a text file")


def _encodings(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """What to try, one after the other; the last one decodes what it can."""
    if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        yield "utf-16", "strict"
        return
    yield "utf-8-sig", "strict"
    file.seek(0)
    yield ("utf-8-sig", "surrogateescape") if _mostly_utf8(file) else ("cp1252", "strict")


_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")


def _mostly_utf8(file: IO[bytes]) -> bool:
    """Whether a file that is not UTF-8 throughout has more characters of it than bytes that are none."""
    whole = halves = 0
    while block := file.read(1 << 20):
        characters = _UTF8.findall(block)
        whole += len(characters)
        halves += len(_BEYOND_ASCII.findall(block)) - sum(map(len, characters))
    return whole > halves


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
    stream = _with_columns(path, iter(cells_by_line), "\t", lambda cells: True)
    rows = [(line, dict(zip(stream.columns, cells, strict=False))) for line, cells in stream]
    return Table(path, stream.columns, rows, stream.delimiter, stream.bad)


def _with_columns(
    path: Path, rows: Iterator[tuple[int, list[str]]], delimiter: str, has_header
) -> TableStream:
    line, first = next(rows, (0, []))
    if not first:
        raise AesError(f"{path} is empty")
    if has_header(first):
        columns = list(first)
    else:
        columns = [str(i) for i in range(1, len(first) + 1)]
        rows = itertools.chain([(line, first)], rows)
    twice = {column for column in columns if column and columns.count(column) > 1}
    if twice:
        raise AesError(f"{path} has two columns called '{min(twice)}'; rename one of them")
    # A nameless column (the index that pandas writes) stays reachable by its position.
    columns = [column or f"column {i}" for i, column in enumerate(columns, start=1)]
    return TableStream(path, columns, delimiter, rows)


def _guess_delimiter(start: str) -> str:
    quoted, counts = False, dict.fromkeys(_DELIMITERS, 0)
    for char in start:
        if char == '"':
            quoted = not quoted
        elif not quoted and char in counts:
            counts[char] += 1
    if not any(counts.values()) and looks_like_image(start.split(maxsplit=1)[0] if start.strip() else ""):
        return " "
    return max(_DELIMITERS, key=lambda delimiter: counts[delimiter])
