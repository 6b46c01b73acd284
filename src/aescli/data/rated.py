"""The ratings that a profile names, in itself or in tables beside it, and the image files that they are of.

It knows lists, tables and where images may lie. It knows nothing about whose ratings these are.
"""

from __future__ import annotations

import difflib
import functools
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aescli.data.datasets.base import parse_number
from aescli.data.datasets.generic import guess_image_column
from aescli.data.datasets.index import ImageIndex, normal_name
from aescli.data.datasets.tables import Table, read_table
from aescli.errors import AesError

_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_SCORES = ("score", "rating")
_TOLD = 3
"""As many wrong ratings are named, the others are counted."""


@dataclass(frozen=True, slots=True)
class PersonalRating:
    """image: as the profile spells it. path: the file. score: on the profile's scale."""

    image: str
    path: Path
    score: float


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of ratings. rated: (where, image, score as text). unrated: how many rows have no score yet."""

    path: Path
    rated: tuple[tuple[str, str, str], ...]
    unrated: int


def read_ratings(
    path: Path, value: Any, scale: tuple[float, float], images: Path | None
) -> tuple[tuple[PersonalRating, ...], tuple[Sheet, ...]]:
    """The ratings under `ratings:` in the profile at `path`, in order, no image twice; and the tables that it names.

    Image paths are relative to the profile's folder, then to `images`; there also by their last parts, for photos that
    were moved. Raises AesError; where several ratings are wrong, the first ones are named and all are counted.
    """
    rows, sheets = _rows(path, value)
    problems: list[str] = []
    missing: list[str] = []
    seen: dict[Path, str] = {}
    index = functools.cache(lambda: ImageIndex(images))  # of what may be a large folder, once
    ratings = []
    for where, image, score in rows:
        try:
            number = parse_number(score, decimal_comma=True)
            if not scale[0] <= number <= scale[1]:
                raise ValueError(f"score {number:g} lies outside the scale {scale[0]:g} to {scale[1]:g}")
            file = find_image(image, path.parent, images, index)
            if file is None:
                missing.append(image)
                raise ValueError(f"image not found in {_looked_in(path, images)}")
            key = file.resolve()
            if key in seen:
                raise ValueError(f"already rated in {seen[key]}; keep one of the two")
        except ValueError as error:
            problems.append(f"{where}: {image}: {error}")
            continue
        seen[key] = where
        ratings.append(PersonalRating(image, file, number))
    if len(missing) == len(rows) > 1:
        raise AesError(
            f"{path}: none of the {len(rows)} rated images was found in {_looked_in(path, images)}; the first: "
            f"{missing[0]}"
        )
    if problems:
        raise AesError(some_of(problems))
    return tuple(ratings), sheets


def read_ratings_sheet(path: Path) -> Sheet:
    """A table with an image and a score (or rating) column. Raises AesError that says what to do about it."""
    if path.suffix.lower() in _WORKBOOKS:
        raise AesError(f"{path} is a workbook; save it as CSV and name that")
    table = read_table(path)
    if table.bad:
        more = f"; {len(table.bad)} such rows" if len(table.bad) > 1 else ""
        raise AesError(f"{table.bad[0]}{more}; put quotes around a cell that holds a comma")
    folded = {column.casefold(): column for column in table.columns}
    score = next((folded[name] for name in _SCORES if name in folded), None)
    if score is None:
        raise AesError(
            f"{path}: its first row must name the columns, image,score, and is {','.join(table.columns)}"
        )
    image = _image_column(table, score)
    rated = [(f"{path}:{line}", cells[image], cells[score]) for line, cells in table.rows if cells[score]]
    return Sheet(path, tuple(rated), len(table.rows) - len(rated))


def refuse_unknown(path: Path, prefix: str, values: Iterable[Any], known: Sequence[str]) -> None:
    """AesError for the first of `values` that is not `known`, with the nearest one that is."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key).casefold(), known, 1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
            what = {"traits.": "trait", "experience.": "kind of experience"}.get(prefix, "field")
            raise AesError(f"{path}: unknown {what} '{prefix}{key}'; {hint}")


def some_of(problems: Sequence[str]) -> str:
    """The first few, and how many there are beside them."""
    more = f"; and {len(problems) - _TOLD} more like this" if len(problems) > _TOLD else ""
    return "; ".join(problems[:_TOLD]) + more


def find_image(
    image: str, folder: Path, further: Path | None, index: Callable[[], ImageIndex]
) -> Path | None:
    """The file of an image: absolute, or relative to one of the two folders; in the second one, of a moved photo, by
    as many of its path's last parts as lead to a file, else by any unambiguous spelling (another case or Unicode form,
    without suffix). index: of the second folder, asked for where nothing else helps."""
    # As it stands, and as another system spells it: backslashes, accents as signs of their own.
    forms = dict.fromkeys((image, plain := normal_name(image), unicodedata.normalize("NFD", plain)))
    candidates = [folder / form for form in forms]  # an absolute path stays itself
    if further is not None:
        for form in forms:
            path = Path(form)
            parts = [part for part in path.parts if part not in ("..", path.anchor)]
            candidates += [further / form, *(further.joinpath(*parts[i:]) for i in range(len(parts)))]
    for candidate in candidates:
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):
            continue
    return None if further is None or not further.is_dir() else index().find((image,))[0]


def _looked_in(path: Path, images: Path | None) -> str:
    if images is not None:
        return f"{path.parent} or {images}; correct the path"
    return f"{path.parent}; correct the path or name the folder with --images"


def _image_column(table: Table, score: str) -> str:
    others = [column for column in table.columns if column != score]
    if len(others) == 1:
        return others[0]
    try:
        return guess_image_column(table)
    except AesError:
        raise AesError(
            f"{table.source}: no column looks like image names (it has: {', '.join(table.columns)}); call it image"
        ) from None


def _rows(path: Path, value: Any) -> tuple[list[tuple[str, str, Any]], tuple[Sheet, ...]]:
    """(where, image, score) of a list in the profile and of the tables it names; and those tables."""
    if value is None:
        return [], ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise AesError(f"{path}: ratings: must be a CSV path or a list of {{image: …, score: …}}")
    rows: list[tuple[str, str, Any]] = []
    sheets: list[Sheet] = []
    for number, entry in enumerate(value, start=1):
        where = f"{path}: ratings, entry {number}"
        if isinstance(entry, str):
            sheets.append(read_ratings_sheet(_table(path, entry, where)))
            rows += sheets[-1].rated
            continue
        if not isinstance(entry, dict):
            raise AesError(f"{where}: must be {{image: …, score: …}}, got {reprlib.repr(entry)}")
        refuse_unknown(path, f"ratings[{number}].", entry, ("image", "score"))
        image = entry.get("image")
        if not isinstance(image, str) or not image.strip():
            raise AesError(f"{where}: names no image")
        rows.append((where, image, entry.get("score")))
    return rows, tuple(sheets)


def _table(path: Path, entry: str, where: str) -> Path:
    sheet = path.parent / entry
    if not entry.strip():
        raise AesError(f"{where}: is empty; name a table such as alice-ratings.csv")
    if sheet.is_dir():
        raise AesError(f"{where}: {sheet} is a folder; name a table, such as {entry}/ratings.csv")
    if not sheet.is_file():
        raise AesError(f"{where}: {sheet} does not exist; the path starts at the profile's folder")
    return sheet
