"""What one scored face or image says: its columns, their order, and their fixed precision.

It knows nothing about where rows come from or in which file format they end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SCORE_DIGITS = 4
"""Decimals of scores and probabilities."""

NORMALIZED_DIGITS = 2
"""Decimals of the 0–100 column."""

NO_FACE = "no face found"
"""The error of an image that was read but shows no face."""

NO_COMMENT = "no comment for this image in the comments file"
"""The error of an image about which a model that reads comments is told nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result.

    path: as given or found. face_index: 0 for the largest face; None where no face was looked for or found.
    face: x1, y1, x2, y2 in whole pixels of the upright original. score: on the model's scale, rounded to 4
    decimals. probabilities: one per class or per rating, the lowest first. attributes: scores in the order of
    `Layout.attributes`. error: empty when there is a score.
    """

    path: str
    face_index: int | None = None
    face: tuple[int, int, int, int] | None = None
    score: float | None = None
    probabilities: tuple[float, ...] = ()
    error: str = ""
    attributes: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageResult:
    """Everything about one image file: its rows (at least one), and by what an unchanged file is recognised.

    size: bytes, mtime_ns: modification time; both None where the file could not be looked at.
    """

    path: str
    rows: list[Row]
    size: int | None = None
    mtime_ns: int | None = None

    @property
    def outcome(self) -> str:
        """'ok', 'no face' or 'failed'."""
        if all(not row.error for row in self.rows):
            return "ok"
        return "no face" if all(row.error in ("", NO_FACE) for row in self.rows) else "failed"


def scored_row(
    path: str,
    face_index: int | None,
    face: tuple[int, int, int, int] | None,
    score: float,
    probabilities: Iterable[float],
    attributes: Iterable[float] = (),
) -> Row:
    """A row of model outputs, rounded. A score that is not a finite number becomes an error row."""
    numbers = [[float(score)], [float(p) for p in probabilities], [float(a) for a in attributes]]
    if not all(math.isfinite(value) for values in numbers for value in values):
        return Row(path, face_index, face, error="the model gave no finite score for this image")
    # + 0.0 turns -0.0 into 0.0, which would print differently for the same score
    (rounded,), *several = [tuple(round(v, SCORE_DIGITS) + 0.0 for v in values) for values in numbers]
    return Row(path, face_index, face, rounded, several[0], attributes=several[1])


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns a result has.

    classes: how many probabilities a row has at most. scale: the score's range (low, high), for the 0–100 column.
    cuts: the scores at which the classes change, for models that give no class probabilities. distribution: the
    probabilities are those of the ratings 1 … K that people would give, not of classes. attributes: names of further
    scores, a column each.
    """

    classes: int = 5
    probabilities: bool = False
    normalize: bool = False
    scale: tuple[float, float] = (1.0, 5.0)
    cuts: tuple[float, ...] = ()
    distribution: bool = False
    attributes: tuple[str, ...] = ()
    columns: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        names = ["path", "face_index", "face", "score"]
        if self.normalize:
            names.append("score_100")
        names += ["class", "class_prob"]
        if self.probabilities:
            names += [f"p_{k}" for k in range(1, self.classes + 1)]
        names += self.attributes
        object.__setattr__(self, "columns", (*names, "error"))

    def values(self, row: Row) -> dict[str, Any]:
        """The row's cells by column name: str, int, float or None. Floats are already rounded."""
        best = self.best_class(row)
        cells: dict[str, Any] = {
            "path": row.path,
            "face_index": row.face_index,
            "face": None if row.face is None else ";".join(map(str, row.face)),
            "score": row.score,
            "score_100": self.normalized(row.score),
            "class": best,
            "class_prob": row.probabilities[best - 1] if best and self._has_classes(row) else None,
            "error": row.error or None,
        }
        if self.probabilities:
            padded: Sequence[float | None] = row.probabilities or [None] * self.classes
            cells.update((f"p_{k}", p) for k, p in enumerate(padded, 1))
        further: Sequence[float | None] = row.attributes or [None] * len(self.attributes)
        cells.update(zip(self.attributes, further, strict=True))
        return {name: cells[name] for name in self.columns}

    def best_class(self, row: Row) -> int | None:
        """The most probable class, 1 = lowest, the lower one of equals; without probabilities by the cuts."""
        if row.score is None:
            return None
        if self._has_classes(row):
            return max(range(len(row.probabilities)), key=row.probabilities.__getitem__) + 1
        if len(self.cuts) == 1:  # good against bad: good is above the threshold (`labels.rated_class`)
            return 1 + (row.score > self.cuts[0])
        return 1 + sum(cut <= row.score for cut in self.cuts)

    def _has_classes(self, row: Row) -> bool:
        return bool(row.probabilities) and not self.distribution

    def normalized(self, score: float | None) -> float | None:
        """The score as 0–100 of the model's scale; what lies beyond the scale is cut off."""
        if score is None:
            return None
        low, high = self.scale
        return round(min(1.0, max(0.0, (score - low) / (high - low))) * 100, NORMALIZED_DIGITS)

    def text(self, name: str, value: Any) -> str:
        """One cell as text in the documented precision; '' for None."""
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:.{NORMALIZED_DIGITS if name == 'score_100' else SCORE_DIGITS}f}"
        return str(value)
