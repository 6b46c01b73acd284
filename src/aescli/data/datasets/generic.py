"""Reader for any table with an image column and one or more score columns.

Knows how to guess what was not named, and says what it guessed; knows no benchmark.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aescli.data.datasets.base import Dataset, LabelRow, Scale, assemble, optional_number
from aescli.data.datasets.parts import Part, notes_of, part_named, source_of
from aescli.data.datasets.tables import Table, looks_like_image, read_table, read_xlsx
from aescli.errors import AesError

_IMAGE_NAMES = (
    "image", "path", "file", "filename", "file_name", "image_path", "imagepath", "img", "img_path",
    "imagename", "image_name", "name", "image_id", "imageid", "photo", "picture", "id",
)  # fmt: skip
SCORE_NAMES = (
    "score", "mos", "mean", "mean_score", "score_mean", "average", "avg", "rating", "mean_rating",
    "aesthetic_score", "aestheticscore_mean", "aesthetic", "beauty", "attractiveness label", "attractiveness",
    "label", "target", "y",
)  # fmt: skip
_COUNT_NAMES = ("count", "n", "n_ratings", "num_ratings", "ratings", "votes")
_COMMENT_NAMES = ("comment", "comments", "caption", "captions")
_STD_NAMES = ("std", "sd", "stdev", "standard deviation", "score_std")
_SCALES: tuple[Scale, ...] = ((0.0, 1.0), (1.0, 5.0), (1.0, 10.0), (0.0, 10.0), (0.0, 100.0))


def read(
    parts: Sequence[Part],
    images: Path | None,
    *,
    image_column: str | None = None,
    score_columns: Sequence[str] = (),
    comment_column: str | None = None,
    scale: Scale | None = None,
) -> Dataset:
    """A CSV, TSV, semicolon-separated or .xlsx table, or train / val / test lists of one form; all columns that were
    not named scores become groups.

    image_column, score_columns: names, guessed where not given. The first score column is the score. Several that
    are named, else it and every further column of numbers, go to `Sample.scores`: any may be a model's attribute.
    comment_column: what people wrote, else a column called comment or caption, if any.
    scale: declared range of the scores; else the narrowest usual one that holds the score's.
    Columns `fold`, `split`, `std`, `count` and a run such as count_1 … count_10 have their usual meaning.
    Raises AesError where a guess is not possible.
    """
    notes = notes_of(parts)
    tables = [_table(part.path) for part in parts]
    columns = _Columns.of(tables[0], image_column, score_columns, comment_column)
    if not image_column or not score_columns:
        notes.append(f"images read from column '{columns.image}', scores from '{columns.scores[0]}'")
    rows, bad = [], []
    for part, table in zip(parts, tables, strict=True):
        for column in (columns.image, columns.scores[0]):
            table.column(column)  # raises where a list is of another form
        spelt = {column.casefold(): column for column in tables[0].columns}
        names = [spelt.get(column.casefold(), column) for column in table.columns]
        form = replace(columns, decimal_comma=table.decimal_comma)
        found = [
            form.row(str(part.path), line, dict(zip(names, cells.values(), strict=True)))
            for line, cells in table.rows
        ]
        for row in found:
            row.split = part.split or row.split
        rows += found
        bad += table.bad
    if any(row.fold == 0 for row in rows):
        for row in rows:
            row.fold = None if row.fold is None else row.fold + 1
        notes.append(f"folds are numbered from 0: here they are 1 to {max(row.fold or 0 for row in rows)}")
    unknown = Counter(row.split for row in rows if row.split and part_named(row.split) is None)
    if unknown and any(part_named(row.split) == "test" for row in rows):
        shown = ", ".join(f"{name} ({n})" for name, n in unknown.most_common(5))
        notes.append(f"parts other than train, val and test, which training takes: {shown}")
    for column in columns.scores[1:]:
        absent = sum(column not in row.scores for row in rows)
        if absent:
            notes.append(f"{absent} rows have no usable '{column}'")

    # The length of the distribution is the scale, where there is one.
    steps = len(columns.distribution)
    usual = ((1.0, float(steps)), *_SCALES) if steps else _SCALES
    source = source_of(parts)
    named_by_folder = source.is_dir() or source.stem == "labels"
    dataset = assemble(
        (source if source.is_dir() else source.parent).resolve().name if named_by_folder else source.stem,
        rows, source=source, scale=scale or (lambda low, high: _narrowest(usual, low, high)), images=images,
        unreadable=bad, notes=notes, decimal_comma=any(table.decimal_comma for table in tables),
    )  # fmt: skip
    if scale is None:
        low, high = dataset.scale
        dataset.notes.notes.append(
            f"scale {low:g} to {high:g} assumed from the scores; declare it with --label-scale"
        )
    return dataset


def _table(path: Path) -> Table:
    return read_xlsx(path) if path.suffix.lower() == ".xlsx" else read_table(path, has_header=_names_columns)


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the columns of a table mean. `further` are scores that nobody named."""

    image: str
    scores: list[str]
    further: list[str]
    distribution: list[str]
    comment: str | None
    special: Mapping[str, str | None]
    decimal_comma: bool

    @classmethod
    def of(
        cls, table: Table, image_column: str | None, score_columns: Sequence[str], comment_column: str | None
    ) -> _Columns:
        image = table.column(image_column, "--image-column") if image_column else guess_image_column(table)
        distribution = _distribution_columns(table)
        if score_columns:
            scores = [table.column(column, "--score-column") for column in score_columns]
        else:
            scores = [guess_score_column(table, image, distribution)]
        folded = {column.casefold(): column for column in table.columns}

        def first(names: Sequence[str]) -> str | None:
            return next((folded[name] for name in names if name in folded), None)

        comment = table.column(comment_column) if comment_column else first(_COMMENT_NAMES)
        special = {
            "fold": folded.get("fold"), "split": folded.get("split"), "count": first(_COUNT_NAMES),
            "std": first(_STD_NAMES),
        }  # fmt: skip
        known = {image, comment, *scores, *distribution, *special.values()}
        # Who names several means these.
        may_be = () if len(score_columns) > 1 else [c for c in table.columns if c not in known]
        further = [column for column in may_be if _holds_numbers(table, column, given=True)]
        return cls(image, scores, further, distribution, comment, special, table.decimal_comma)

    def row(self, source: str, line: int, cells: Mapping[str, str]) -> LabelRow:
        row = LabelRow(source, line, cells[self.image], cells[self.scores[0]])
        used = {self.image, self.comment, *self.scores, *self.distribution}
        row.group = {key: cell for key, cell in cells.items() if key not in used and cell}
        known = {key: cells.get(column or "", "") for key, column in self.special.items()}
        fold = self._number(known["fold"])  # pandas writes a column with a gap as 1.0
        row.fold = int(fold) if fold is not None and fold >= 0 and fold == int(fold) else None
        row.split = known["split"] or None
        n = self._number(known["count"])
        row.n_ratings = (
            int(n) if n is not None and n >= 0 and self.special["count"] not in self.scores else None
        )
        row.std = self._number(known["std"])
        row.comment = cells.get(self.comment or "") or None
        if self.distribution:
            counts = [self._number(cells.get(column)) for column in self.distribution]
            if all(value is not None and value >= 0 for value in counts) and sum(counts) > 0:
                row.counts = tuple(counts)
        several = (*self.scores, *self.further)
        if len(several) > 1:
            given = {column: self._number(cells.get(column)) for column in several}
            row.scores = {column: number for column, number in given.items() if number is not None}
        return row

    def _number(self, cell: str | None) -> float | None:
        return optional_number(cell, decimal_comma=self.decimal_comma)


def _narrowest(scales: Sequence[Scale], low: float, high: float) -> Scale:
    for scale in scales:
        if scale[0] <= low and high <= scale[1]:
            return scale
    return (low, high) if high > low else (low, low + 1.0)


def _names_columns(cells: Sequence[str]) -> bool:
    """A first row that holds an image and a number is data, not names."""
    numbers = sum(optional_number(cell) is not None for cell in cells)
    return not (numbers and any(looks_like_image(cell) for cell in cells))


def guess_image_column(table: Table) -> str:
    """The column of image names, by its cells, else by its name. Raises AesError where none is."""
    cells = [row for _, row in table.rows[:50]]
    folded = {column.casefold(): column for column in table.columns}
    named = [folded[name] for name in _IMAGE_NAMES if name in folded]
    likely = [
        column
        for column in (*named, *table.columns)
        if cells and sum(looks_like_image(row[column]) for row in cells) > len(cells) / 2
    ]
    if likely or named:
        return (likely or named)[0]
    raise AesError(
        f"no column of {table.source} looks like image names (it has: {', '.join(table.columns)}); "
        "name it with --image-column"
    )


def guess_score_column(
    table: Table, image: str, distribution: Sequence[str] = (), option: str = "--score-column"
) -> str:
    """The score column by its name, else the only numeric one. Raises AesError where several could be."""
    folded = {column.casefold(): column for column in table.columns}
    for name in SCORE_NAMES:
        if name in folded and folded[name] != image:
            return folded[name]
    skipped = {image, *distribution}
    numeric = [
        column
        for column in table.columns
        if column not in skipped
        and column.casefold() not in ("fold", "split")
        and _holds_numbers(table, column)
    ]
    if len(numeric) == 1:
        return numeric[0]
    found = f"several columns hold numbers ({', '.join(numeric)})" if numeric else "no column holds numbers"
    raise AesError(f"{table.source}: {found}; name the score column with {option}")


def _holds_numbers(table: Table, column: str, *, given: bool = False) -> bool:
    """Half of the cells suffices: the reader reports the others by line. given: instead all that are not empty."""
    cells = [row[column] for _, row in table.rows if row[column] or not given]
    numbers = sum(optional_number(cell, decimal_comma=table.decimal_comma) is not None for cell in cells)
    return numbers == len(cells) > 0 if given else numbers > len(cells) / 2


def _distribution_columns(table: Table) -> list[str]:
    """Columns such as count_1 … count_10 or p_1 … p_5, in order; [] where there is no complete run."""
    runs: dict[str, dict[int, str]] = {}
    for column in table.columns:
        match = re.fullmatch(r"(count|counts|votes|p)_?(\d+)", column, re.IGNORECASE)
        if match:
            runs.setdefault(match[1].lower(), {})[int(match[2])] = column
    for run in runs.values():
        if len(run) >= 3 and sorted(run) == list(range(1, len(run) + 1)):
            return [run[i] for i in sorted(run)]
    return []
