"""Reader for any table with an image column and one or more score columns.

Knows how to guess what was not named, and says what it guessed; knows no benchmark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from aescli.data.datasets.base import Dataset, LabelRow, Scale, assemble, optional_number, parse_number
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
    data: Path,
    images: Path | None,
    *,
    image_column: str | None = None,
    score_columns: Sequence[str] = (),
    comment_column: str | None = None,
    scale: Scale | None = None,
    name: str | None = None,
) -> Dataset:
    """A CSV, TSV, semicolon-separated or .xlsx table; all columns that were not named scores become groups.

    image_column, score_columns: names, guessed where not given. The first score column is the score. Several that
    are named, else it and every further column of numbers, go to `Sample.scores`: any may be a model's attribute.
    comment_column: what people wrote, else a column called comment or caption, if any.
    scale: declared range of the scores; else the narrowest usual one that holds the score's.
    Columns `fold`, `split`, `std`, `count` and a run such as count_1 … count_10 have their usual meaning.
    Raises AesError where a guess is not possible.
    """
    table = read_xlsx(data) if data.suffix.lower() == ".xlsx" else read_table(data, has_header=_names_columns)
    notes: list[str] = []
    image = table.column(image_column, "--image-column") if image_column else guess_image_column(table)
    distribution = _distribution_columns(table)
    if score_columns:
        scores = [table.column(column, "--score-column") for column in score_columns]
    else:
        scores = [guess_score_column(table, image, distribution)]
    if not image_column or not score_columns:
        notes.append(f"images read from column '{image}', scores from '{scores[0]}'")
    folded = {column.casefold(): column for column in table.columns}
    special = {key: folded.get(key) for key in ("fold", "split")}
    count = next((folded[key] for key in _COUNT_NAMES if key in folded), None)
    std = next((folded[key] for key in _STD_NAMES if key in folded), None)
    comment = table.column(comment_column) if comment_column else None
    comment = comment or next((folded[key] for key in _COMMENT_NAMES if key in folded), None)
    decimal_comma = table.delimiter not in ", "
    used = {image, comment, *scores, *distribution}
    known = used | {*special.values(), count, std}
    # Who names several means these.
    may_be = () if len(score_columns) > 1 else [c for c in table.columns if c not in known]
    further = [column for column in may_be if _holds_numbers(table, column, decimal_comma)]
    rows = []
    for line, cells in table.rows:
        row = LabelRow(str(data), line, cells[image], cells[scores[0]])
        row.group = {key: cell for key, cell in cells.items() if key not in used and cell}
        fold = cells.get(special["fold"] or "", "")
        row.fold = int(fold) if fold.isdecimal() else None
        row.split = cells.get(special["split"] or "") or None
        n = optional_number(cells.get(count or ""))
        row.n_ratings = int(n) if n is not None and n >= 0 and count not in scores else None
        row.std = optional_number(cells.get(std or ""))
        row.comment = cells.get(comment or "") or None
        if distribution:
            counts = [optional_number(cells[column]) for column in distribution]
            if all(value is not None and value >= 0 for value in counts) and sum(counts) > 0:
                row.counts = tuple(counts)
        for column in (*scores, *further) if scores[1:] or further else ():
            try:
                row.scores = {**row.scores, column: parse_number(cells[column], decimal_comma=decimal_comma)}
            except ValueError:
                continue
        rows.append(row)
    for column in scores[1:]:
        absent = sum(column not in row.scores for row in rows)
        if absent:
            notes.append(f"{absent} rows have no usable '{column}'")

    # The length of the distribution is the scale, where there is one.
    usual = ((1.0, float(len(distribution))), *_SCALES) if distribution else _SCALES
    dataset = assemble(
        name or (data.resolve().parent.name if data.stem == "labels" else data.stem), rows, source=data,
        scale=scale or (lambda low, high: _narrowest(usual, low, high)), images=images,
        unreadable=table.bad, notes=notes, decimal_comma=decimal_comma,
    )  # fmt: skip
    if scale is None:
        low, high = dataset.scale
        dataset.notes.notes.append(
            f"scale {low:g} to {high:g} assumed from the scores; declare it with --label-scale"
        )
    return dataset


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
        and _holds_numbers(table, column, table.delimiter != ",")
    ]
    if len(numeric) == 1:
        return numeric[0]
    found = f"several columns hold numbers ({', '.join(numeric)})" if numeric else "no column holds numbers"
    raise AesError(f"{table.source}: {found}; name the score column with {option}")


def _holds_numbers(table: Table, column: str, decimal_comma: bool) -> bool:
    """Half of the cells suffices: the reader reports the others by line."""
    cells = [row[column].replace(",", ".") if decimal_comma else row[column] for _, row in table.rows]
    return sum(optional_number(cell) is not None for cell in cells) > len(cells) / 2


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
