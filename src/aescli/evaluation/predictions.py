"""Predicted scores as rows, from a file of any tool or from this package's pipeline, joined to labels.

Knows the columns that `aes score` writes and how rows find their labels; every row that finds none, or more
than one, is named. Knows nothing about metrics or models.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aescli.data.datasets.base import Dataset, Problem, Scale, optional_number
from aescli.data.datasets.generic import (
    SCORE_NAMES,
    guess_image_column,
    guess_score_column,
)
from aescli.data.datasets.index import NameIndex
from aescli.data.datasets.scut import spellings
from aescli.data.datasets.tables import Table, looks_like_image, read_table, read_text
from aescli.errors import AesError, named
from aescli.evaluation.class_columns import are_counts, counted_from_zero, first_class, why_no_distribution
from aescli.scoring.writers import SUFFIXES

if TYPE_CHECKING:
    from aescli.scoring.rows import ImageResult, Layout

SCORE_SCALE: Scale = (1.0, 5.0)
"""The scale of `aes score --task fbp`, whose file does not repeat it."""
_PREDICTION_NAMES = (
    "pred",
    "preds",
    "prediction",
    "predicted",
    "predicted_score",
    "pred_score",
    "y_pred",
    "y_hat",
)
_NO_ATTRIBUTES = ("face_index", "face", "score_100", "class", "class_prob", "error", "user")
"""Further columns of `aes score` that no label is compared with."""


@dataclass(frozen=True, slots=True)
class PredictedRow:
    """One prediction. `best_class` counts from 0; `error` says why there is no score."""

    path: str
    score: float | None
    best_class: int | None = None
    probabilities: tuple[float, ...] = ()
    face_index: int | None = None
    error: str = ""
    line: int | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PredictedRows:
    """scale: declared range of the scores; None = unknown.

    unsettled: whether the classes count from 0 or 1 is not known yet; `settle_classes` tells from the scores.
    attributes_declared: the rows' attributes are known to be such, not just a file's further columns of numbers.
    """

    source: str
    rows: list[PredictedRow]
    scale: Scale | None = None
    notes: list[str] = field(default_factory=list)
    unsettled: bool = False
    attributes_declared: bool = True

    def joined_with(self, more: PredictedRows) -> PredictedRows:
        """Both sets of rows, for predictions of one source that were made in two parts."""
        return replace(self, rows=[*self.rows, *more.rows])


@dataclass(slots=True)
class Joined:
    """rows[i] is the prediction for the labelled image at positions[i] of the data set, ascending."""

    positions: list[int] = field(default_factory=list)
    rows: list[PredictedRow] = field(default_factory=list)
    unscored: list[Problem] = field(default_factory=list)
    """Labelled images whose prediction is an error."""
    unpredicted: list[str] = field(default_factory=list)
    """Labelled images without any prediction."""
    unlabelled: list[str] = field(default_factory=list)
    """Predictions whose image has no label."""
    ambiguous: list[str] = field(default_factory=list)
    """Labels or predictions that could mean several of the other kind; none of them counts."""
    notes: list[str] = field(default_factory=list)

    def within(self, dataset: Dataset, keep: Sequence[int]) -> Joined:
        """What of this concerns the images at the positions `keep`."""
        wanted = {int(i) for i in keep}
        names = {dataset.samples[i].name for i in wanted}
        kept = [(i, row) for i, row in zip(self.positions, self.rows, strict=True) if i in wanted]
        return replace(
            self,
            positions=[i for i, _ in kept],
            rows=[row for _, row in kept],
            unscored=[problem for problem in self.unscored if problem.name in names],
            unpredicted=[name for name in self.unpredicted if name in names],
        )


def from_results(source: str, results: Iterable[ImageResult], layout: Layout) -> PredictedRows:
    """The rows that `aes score` would write in `layout`, as predictions (the same rounded numbers)."""
    rows = [
        PredictedRow(
            path=row.path,
            score=row.score,
            best_class=None if (best := layout.best_class(row)) is None else best - 1,
            probabilities=row.probabilities,
            face_index=row.face_index,
            error=row.error,
            attributes=dict(zip(layout.attributes, row.attributes, strict=False)),
        )
        for result in results
        for row in result.rows
    ]
    return PredictedRows(source, rows, layout.scale)


def read_predictions(
    path: Path,
    *,
    image_column: str | None = None,
    score_column: str | None = None,
    scale: Scale | None = None,
) -> PredictedRows:
    """Read csv, tsv, json, jsonl or parquet rows: an image column and a score column, guessed if not named.

    Optional columns, as `aes score` writes them: `class` (1 = lowest; 0 in a file of another tool that counts so),
    `p_1` … `p_K` (probabilities, or counts in all rows), `face_index`, `error`. Every further column of numbers is an
    attribute.
    Raises AesError for a file without a header or without usable scores, where two columns could be the score, and
    for scores, classes and probabilities that are none (with the line).
    """
    table = _read_rows(path)
    by_aes = {"path", "score", "class_prob", "error"} <= set(table.columns)
    if image_column is None and score_column is None:
        _refuse_data_as_header(table)
    image = table.column(image_column) if image_column else guess_image_column(table)
    score = table.column(score_column) if score_column else _guess_score(table, image)
    names = {column.casefold(): column for column in table.columns}
    p_columns: list[str] = []
    while (name := names.get(f"p_{len(p_columns) + 1}")) is not None:
        p_columns.append(name)
    known = {image, score, *p_columns, *(names[name] for name in _NO_ATTRIBUTES if name in names)}
    further = [column for column in table.columns if column not in known]

    def number(cell: str) -> float | None:
        return optional_number(cell, decimal_comma=table.decimal_comma)

    rows = []
    given = [[number(cells[column]) for column in p_columns] for _, cells in table.rows]
    counted = p_columns and are_counts(given)
    for (line, cells), probabilities in zip(table.rows, given, strict=True):
        where = f"{path}:{line}: {cells[image]}"
        error = cells.get(names.get("error", ""), "")
        text = cells[score]
        attributes = {column: number(cells[column]) for column in further}
        value = number(text)
        if value is None and text and not error:
            raise AesError(f"{where}: '{text}' is not a score")
        if value is not None and p_columns:
            if counted and sum(probabilities):
                probabilities = [count / sum(probabilities) for count in probabilities]
            if why := why_no_distribution(probabilities):
                raise AesError(f"{where}: {why}")
        index, best = (number(cells.get(names.get(key, ""), "")) for key in ("face_index", "class"))
        if best is not None and (best < 0 or best != int(best)):
            raise AesError(f"{where}: class {best:g} is not a whole number from 0 or 1 on")
        if best is not None and p_columns and best > len(p_columns):
            raise AesError(
                f"{where}: class {best:g}, and there are {len(p_columns)} (p_1 to p_{len(p_columns)})"
            )
        rows.append(
            PredictedRow(
                path=cells[image],
                score=value,
                best_class=None if best is None else int(best),
                probabilities=() if value is None else tuple(probabilities),
                face_index=None if index is None else int(index),
                error=error or ("" if value is not None else "the score is empty"),
                line=line,
                attributes={name: number for name, number in attributes.items() if number is not None},
            )
        )
    if table.bad:
        raise AesError(str(table.bad[0]))
    if not any(row.score is not None for row in rows):
        raise AesError(f"{path} holds no scores (column '{score}')")
    notes = [f"predictions read from columns '{image}' and '{score}'"] if not by_aes else []
    if counted:
        notes.append(f"p_1 to p_{len(p_columns)} hold counts: each is divided by its row's sum")
    first = 1 if by_aes else first_class(rows, str(path), notes)
    rows = rows if first is None else counted_from_zero(rows, first)
    declared = scale or (SCORE_SCALE if by_aes else None)
    return PredictedRows(str(path), rows, declared, notes, first is None, attributes_declared=by_aes)


def join(predicted: PredictedRows, dataset: Dataset) -> Joined:
    """Find each labelled image's prediction: by its file, else by any unambiguous spelling of its name.

    Of several faces in one image the largest (`face_index` 0) counts. What is left over is reported.
    """
    out = Joined()
    chosen = _one_row_each(predicted.rows, out)
    by_file = {os.path.realpath(path): path for path in chosen}
    index = NameIndex(chosen)
    index.expect(sample.name for sample in dataset.samples)
    claims: dict[str, list[int]] = {}
    for position, sample in enumerate(dataset.samples):
        path = by_file.get(os.path.realpath(sample.path)) if dataset.notes.images is not None else None
        if path is None:
            path, why = index.find((str(sample.path), *spellings(sample.name)))
            if path is None:
                several = why != NameIndex.NOTHING
                (out.ambiguous if several else out.unpredicted).append(
                    f"{sample.name}: {why}" if several else sample.name
                )
                continue
        claims.setdefault(path, []).append(position)
    for path, positions in claims.items():
        if len(positions) > 1:
            labels = ", ".join(dataset.samples[i].name for i in positions[:3])
            out.ambiguous.append(f"{path}: fits {len(positions)} labels ({labels})")
            continue
        row = chosen[path]
        if row.score is None:
            name = dataset.samples[positions[0]].name
            out.unscored.append(Problem(predicted.source, row.line, name, row.error))
            continue
        out.positions.append(positions[0])
        out.rows.append(row)
    order = sorted(range(len(out.positions)), key=out.positions.__getitem__)
    out.positions, out.rows = [out.positions[i] for i in order], [out.rows[i] for i in order]
    out.unlabelled = [path for path in chosen if path not in claims]
    return out


def outside(joined: Joined, scale: Scale, source: str) -> list[str]:
    """A note on joined scores that lie outside their scale.

    Raises AesError where one is so far out (a million scales) that no figure would have a meaning.
    """
    low, high = scale
    width, shown = high - low, f"{low:g}–{high:g}"
    out = [row for row in joined.rows if not low - width / 1000 <= row.score <= high + width / 1000]
    for row in out:
        if abs(row.score - low) > 1e6 * width:
            raise AesError(
                f"{source}: {row.path}: {row.score:g} is no score on a scale of {shown}; correct the file"
            )
    if not out:
        return []
    what = f"of {len(joined.rows)} scores of {source} lie outside {shown}"
    return [f"{named(what, [f'{row.path} {row.score:g}' for row in out], 3)}; name their scale with --scale"]


def _one_row_each(rows: Sequence[PredictedRow], out: Joined) -> dict[str, PredictedRow]:
    by_path: dict[str, list[PredictedRow]] = {}
    for row in rows:
        by_path.setdefault(row.path, []).append(row)
    chosen: dict[str, PredictedRow] = {}
    faces = repeated = 0
    for path, several in by_path.items():
        if len(several) > 1:
            indices = [row.face_index for row in several]
            if None not in indices and len(set(indices)) == len(indices):
                faces += 1
            elif len({(row.score, row.error) for row in several}) == 1:
                repeated += 1
            else:
                out.ambiguous.append(f"{path}: {len(several)} predictions that differ")
                continue
        chosen[path] = min(several, key=lambda row: row.face_index or 0)
    if faces:
        out.notes.append(f"{faces} images have rows for several faces: the largest face counts")
    if repeated:
        out.notes.append(f"{repeated} images are predicted twice with the same score: it counts once")
    return chosen


def _refuse_data_as_header(table: Table) -> None:
    names = table.columns
    if any(map(looks_like_image, names)) or all(optional_number(name) is not None for name in names):
        raise AesError(
            f"{table.source}: the first row ({', '.join(names[:3])}) holds no column names; put a line such as "
            "image,score before it"
        )


def _guess_score(table: Table, image: str) -> str:
    """The score column; one called a prediction before others. Raises AesError where two could be meant."""
    folded = {column.casefold(): column for column in table.columns if column != image}
    predicted, scores = (
        [folded[n] for n in names if n in folded] for names in (_PREDICTION_NAMES, SCORE_NAMES)
    )
    if len(predicted) > 1 or (predicted and scores):
        both = " and ".join(f"'{name}'" for name in (*scores, *predicted)[:3])
        raise AesError(
            f"{table.source}: the columns {both} could all be the score; name it with --prediction-columns "
            f"{image},{predicted[0]}"
        )
    if predicted:
        return predicted[0]
    distribution = [
        column for name, column in folded.items() if re.fullmatch(r"p_\d+|class|face_index", name)
    ]
    return guess_score_column(table, image, distribution, option="--prediction-columns IMAGE,SCORE")


def _read_rows(path: Path) -> Table:
    kind = SUFFIXES.get(path.suffix.lower())
    if kind in (None, "csv"):
        return read_table(path)
    if kind == "parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise AesError(f"reading {path} needs pyarrow: pip install 'aescli[parquet]'") from None
        try:
            records = parquet.read_table(path).to_pylist()
        except Exception as error:  # pyarrow's errors share no base with Python's
            raise AesError(f"{path} cannot be read as Parquet: {error}") from None
    else:
        text = read_text(path)
        try:
            # Names may hold what splitlines() takes for a line's end too.
            lines = [line for line in text.split("\n") if line.strip()]
            records = json.loads(text) if kind == "json" else [json.loads(line) for line in lines]
        except ValueError as error:
            raise AesError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise AesError(f"{path} must hold a list of objects, one for each image")
    columns = list(dict.fromkeys(key for record in records for key in record))
    if not columns:
        raise AesError(f"{path} is empty")
    cells = [{c: "" if r.get(c) is None else str(r[c]) for c in columns} for r in records]
    return Table(path, columns, list(enumerate(cells, start=1)))
