"""Readers for tables of one fixed form: AADB, TAD66K, PARA's mean scores and sophoappeal.

Knows their columns and scales; a data set may come as train / val / test lists. Knows nothing about models,
class rules or individual ratings.

Sources: Kong et al., "Photo Aesthetics Ranking Network with Attributes and Content Adaptation", ECCV 2016 (AADB);
He et al., "Rethinking Image Aesthetics Assessment", IJCAI 2022 (TAD66K); Yang et al., "Personalized Image
Aesthetics Assessment with Rich Attributes", CVPR 2022 (PARA).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from aescli.data.datasets.base import Dataset, LabelRow, Problem, assemble, optional_number
from aescli.data.datasets.parts import Part, notes_of, source_of
from aescli.data.datasets.tables import TableStream, looks_like_image, stream_table
from aescli.errors import AesError

ATTRIBUTES = {
    "aesthetic": "aestheticScore",
    "quality": "qualityScore",
    "composition": "compositionScore",
    "color": "colorScore",
    "dof": "dofScore",
    "light": "lightScore",
    "content": "contentScore",
    "contentPreference": "contentPreference",
    "willingnessToShare": "willingnessToShare",
}
"""PARA's nine scores → the names of their columns; the mean scores' end in _mean."""

_AADB_LIST = re.compile(r"imgList(Train|Validation|Test|TestNew)Regression_score\.txt", re.IGNORECASE)

AADB_ORIGINALS = ("datasetImages_originalSize", "AADB_newtest_originalSize")
"""AADB's folders of images as published: of the train and validation lists, and of the test list."""

PARA_SCALE = (1.0, 5.0)
PARA_STEPS = tuple(1 + k / 2 for k in range(9))
"""The scores that a person could give: 1, 1.5, …, 5."""


def read_aadb(parts: Sequence[Part], images: Path | None) -> Dataset:
    """The official lists `imgList{Train,Validation,TestNew}Regression_score.txt` (image and score between blanks), or
    CSV with name and score (0..1) and an optional column split."""
    return _assemble("aadb", _plain("name"), parts, images, (0.0, 1.0))


def find_aadb_lists(files: Iterable[Path]) -> list[Part]:
    """AADB's official lists of scores among the files (those of its attributes lie beside them); [] without any."""
    found: dict[str, Part] = {}
    for path in files:
        if match := _AADB_LIST.fullmatch(path.name):
            split = {"train": "train", "validation": "val"}.get(match[1].casefold(), "test")
            if split not in found or match[1].casefold() == "testnew":  # which replaces Test
                found[split] = Part(path, split)
    return [found[split] for split in ("train", "val", "test") if split in found]


def read_tad66k(parts: Sequence[Part], images: Path | None) -> Dataset:
    """CSV with image and score (0..10); an optional column split."""
    return _assemble("tad66k", _plain("image"), parts, images, (0.0, 10.0))


def read_sophoappeal(parts: Sequence[Part], images: Path | None) -> Dataset:
    """CSV with file, db (the source, as group), mos (1..5), n and the votes count_1 … count_5."""
    dataset = _assemble("sophoappeal", _sophoappeal, parts, images, (1.0, 5.0))
    # The six sources differ in mean and spread of their scores: a fold without its share of one says little of it.
    return replace(dataset, stratum="db")


def read_para(parts: Sequence[Part], images: Path | None) -> Dataset:
    """PARA's mean scores: imageName, sessionId, semantic (as group), {attribute}_mean and _std.

    score = aestheticScore_mean; `scores` has the nine of `ATTRIBUTES`. Where there are columns aestheticScore_1.0 …
    aestheticScore_5.0 in half steps, they are the nine counts. Images lie under {sessionId}/{imageName}. The
    official lists PARA-GiaaTrain.csv and PARA-GiaaTest.csv become the splits train and test.
    """
    return _assemble("para", _para, parts, images, PARA_SCALE)


_PARA = ("imageName", "sessionId", "aestheticScore_mean")


def is_para(columns: Iterable[str]) -> bool:
    return {name.casefold() for name in _PARA} <= {column.casefold() for column in columns}


def para_lacks(path: Path) -> str:
    """Which columns of PARA's means a table does not have, for a message."""
    columns = stream_table(path).columns
    missing = [name for name in _PARA if name.casefold() not in {column.casefold() for column in columns}]
    return f"no column {', '.join(missing)} (it has: {', '.join(columns)})"


def is_sophoappeal(columns: Iterable[str]) -> bool:
    folded = {column.casefold() for column in columns}
    return {"file", "db", "mos", *(f"count_{k}" for k in range(1, 6))} <= folded


def _assemble(name: str, read, parts: Sequence[Part], images: Path | None, scale) -> Dataset:
    bad: list[Problem] = []
    notes = notes_of(parts)
    rows: list[LabelRow] = []
    for part in parts:
        table = stream_table(part.path, has_header=lambda cells: not looks_like_image(cells[0]))
        for row in read(table, notes):
            row.split = part.split or row.split
            rows.append(row)
        bad += table.bad
    return assemble(
        name, rows, source=source_of(parts), scale=scale, images=images, unreadable=bad, notes=notes,
    )  # fmt: skip


def _plain(column: str):
    def read(table: TableStream, notes: list[str]) -> Iterator[LabelRow]:
        source, headless = str(table.source), table.columns[0] == "1"
        if headless and len(table.columns) < 2:
            raise AesError(f"{source} has one column; it needs an image and its score")
        image, score = (0, 1) if headless else (table.position(column), table.position("score"))
        split = table.positions(("split",)).get("split")
        for line, cells in table:
            row = LabelRow(source, line, cells[image], cells[score])
            if headless:  # of the two sizes of AADB's images the original one, where both are there
                row.files = (*(f"{folder}/{row.name}" for folder in AADB_ORIGINALS), row.name)
            row.split = cells[split] or None if split is not None else None
            yield row

    return read


def _sophoappeal(table: TableStream, notes: list[str]) -> Iterator[LabelRow]:
    source, image, db, mos = str(table.source), *(table.position(name) for name in ("file", "db", "mos"))
    votes = [table.position(f"count_{k}") for k in range(1, 6)]
    differ: list[str] = []
    for line, cells in table:
        row = LabelRow(source, line, cells[image], cells[mos])
        row.group = {"db": cells[db]} if cells[db] else {}
        row.counts = counts_of([cells[at] for at in votes])
        if row.counts:
            total = sum(row.counts)
            mean = sum(k * count for k, count in enumerate(row.counts, start=1)) / total
            row.n_ratings = round(total)
            row.std = (sum((k - mean) ** 2 * c for k, c in enumerate(row.counts, start=1)) / total) ** 0.5
            stated = optional_number(cells[mos])
            if stated is not None and abs(stated - mean) > 0.0051:
                differ.append(row.name)
        yield row
    if differ:
        notes.append(f"{len(differ)} scores differ from the mean of their votes (first: {differ[0]})")


def _para(table: TableStream, notes: list[str]) -> Iterator[LabelRow]:
    source = str(table.source)
    image, session, score = (
        table.position(name) for name in ("imageName", "sessionId", "aestheticScore_mean")
    )
    columns = {name: f"{column}_mean" for name, column in ATTRIBUTES.items()}
    found = table.positions(list(columns.values()))
    at = {name: found[column] for name, column in columns.items() if column in found}
    if len(at) < len(columns):
        absent = ", ".join(name for name in columns if name not in at)
        notes.append(f"{table.source.name} has no scores for: {absent}")
    other = table.positions(("semantic", "aestheticScore_std", "split"))
    steps = table.positions([f"aestheticScore_{step:.1f}" for step in PARA_STEPS])
    votes = list(steps.values()) if len(steps) == len(PARA_STEPS) else []
    unusable: Counter[str] = Counter()
    groups: dict[str, dict[str, str]] = {}
    for line, cells in table:
        folder, name = cells[session], cells[image]
        row = LabelRow(source, line, f"{folder}/{name}" if folder and name else name, cells[score])
        semantic = cells[other["semantic"]] if "semantic" in other else ""
        if semantic:
            row.group = groups.setdefault(semantic, {"semantic": semantic})
        if "split" in other:
            row.split = cells[other["split"]] or None
        if "aestheticScore_std" in other:
            row.std = optional_number(cells[other["aestheticScore_std"]])
        row.counts = counts_of([cells[i] for i in votes]) if votes else None
        row.n_ratings = round(sum(row.counts)) if row.counts else None
        values = {}
        for attribute, i in at.items():
            value = optional_number(cells[i])
            if value is not None and PARA_SCALE[0] <= value <= PARA_SCALE[1]:
                values[attribute] = value
            else:
                unusable[attribute] += 1
        row.scores = values
        yield row
    notes += [f"{n} rows of {table.source.name} have no usable '{name}'" for name, n in unusable.items()]


def counts_of(cells: Sequence[str]) -> tuple[float, ...] | None:
    """Vote counts from cells; None where one is no count or nobody has voted."""
    counts = [optional_number(cell) for cell in cells]
    if any(count is None or count < 0 for count in counts) or not sum(counts):
        return None
    return tuple(counts)
