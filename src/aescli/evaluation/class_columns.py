"""What the class and probability columns of a predictions file mean: counts or shares, classes from 0 or from 1.

Knows rows of predictions; knows nothing about files, labels or metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aescli.errors import AesError

if TYPE_CHECKING:
    from aescli.evaluation.predictions import PredictedRow, PredictedRows


def why_no_distribution(p: Sequence[float | None]) -> str:
    """Why these are no probabilities of classes; "" if they are."""
    if any(value is None for value in p):
        return "a probability is missing or not a number"
    if any(not 0 <= value <= 1 for value in p) or abs(sum(p) - 1) > 0.02:
        return f"p_1 to p_{len(p)} must lie between 0 and 1 and add up to 1, and are {', '.join(f'{v:g}' for v in p)}"
    return ""


def are_counts(rows: Sequence[Sequence[float | None]]) -> bool:
    """Whether whole numbers from 0 on stand in all rows, and more than one of them in some row."""
    known = [row for row in rows if None not in row]
    whole = all(value >= 0 and value == int(value) for row in known for value in row)
    return bool(known) and whole and any(sum(row) > 1 for row in known)


def first_class(rows: Sequence[PredictedRow], source: str, notes: list[str]) -> int | None:
    """Whether a file's classes count from 0 or 1: a class 0 or K tells, else the probabilities.

    None without either: then `settle_classes` tells. Raises AesError where the probabilities agree with neither.
    """
    known = [row for row in rows if row.best_class is not None and row.score is not None]
    if not known:
        return 1
    if any(row.best_class == 0 for row in known):
        first, why = 0, "it has a class 0"
    elif not known[0].probabilities:
        return None
    elif any(row.best_class == len(row.probabilities) for row in known):
        first, why = 1, f"it has a class {len(known[0].probabilities)}"
    else:
        likeliest = [max(range(len(row.probabilities)), key=row.probabilities.__getitem__) for row in known]
        above = Counter(row.best_class - k for row, k in zip(known, likeliest, strict=True))
        if above[0] == above[1]:
            raise _undecidable(source, above, len(known), "the most likely classes")
        first = int(above[1] > above[0])
        why = f"so {above[first]} of {len(known)} are the most likely classes"
    notes.append(f"the column 'class' counts from {first}: {why}")
    return first


def settle_classes(predicted: PredictedRows, cuts: Sequence[float]) -> PredictedRows:
    """The predictions with classes that count from 0: of both readings the one that the scores' own classes share.

    cuts: class boundaries on the predictions' scale. Raises AesError where the scores agree with neither.
    """
    if not predicted.unsettled:
        return predicted
    from aescli.data.labels import rated_class

    known = [row for row in predicted.rows if row.best_class is not None and row.score is not None]
    classes = rated_class([row.score for row in known], cuts).tolist()
    above = Counter(row.best_class - k for row, k in zip(known, classes, strict=True))
    if above[0] == above[1] or 2 * max(above[0], above[1]) < len(known):
        raise _undecidable(predicted.source, above, len(known), "the scores' own classes")
    first = int(above[1] > above[0])
    told = f"so {above[first]} of {len(known)} classes are those of the scores"
    return replace(
        predicted,
        rows=counted_from_zero(predicted.rows, first),
        notes=[*predicted.notes, f"the column 'class' counts from {first}: {told}"],
        unsettled=False,
    )


def counted_from_zero(rows: list[PredictedRow], first: int) -> list[PredictedRow]:
    return [
        row if row.best_class is None else replace(row, best_class=row.best_class - first) for row in rows
    ]


def _undecidable(source: str, above: Counter[int], n: int, what: str) -> AesError:
    return AesError(
        f"{source}: whether the column 'class' counts from 0 or from 1 cannot be told ({what} agree with {above[0]} "
        f"and {above[1]} of {n}); rename the column, so that classes come from the probabilities or scores"
    )
