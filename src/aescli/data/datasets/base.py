"""What every label reader returns, and the checks that all of them share.

A reader turns its files into `LabelRow`s; `assemble` finds their images, parses the scores and reports
everything that does not fit. It knows nothing about a particular benchmark's layout, models or splits.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from aescli.data.datasets.index import ImageIndex
from aescli.errors import AesError

Scale = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image. `score` is on the data set's own scale.

    `path` is the image file, or the label's own spelling when images were not asked for. `name` is the
    label's spelling, unique in its data set. `fold` is the official fold (1-based) in which it is TEST.
    `counts` are the votes for each step of the scale, lowest first. `scores` are further named scores
    (attributes). `comment` is what people wrote about the image, as it stands in the file. `user` is set where the
    scores are one person's.
    """

    path: Path
    name: str
    score: float
    group: Mapping[str, str] = field(default_factory=dict)
    fold: int | None = None
    split: str | None = None
    n_ratings: int | None = None
    std: float | None = None
    counts: tuple[float, ...] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    comment: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a label file that could not be used as it stands. `line` counts from 1."""

    source: str
    line: int | None
    name: str
    reason: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.name}: {self.reason}" if self.name else f"{where}: {self.reason}"


@dataclass(slots=True)
class ReadReport:
    """What a reader found: nothing that it left out is missing here."""

    source: Path
    images: Path | None = None
    files: list[Path] = field(default_factory=list)
    """The label files that were read."""
    rows: int = 0
    usable: int = 0
    score_range: tuple[float, float] | None = None
    missing: list[Problem] = field(default_factory=list)
    """Labels that match no image (or more than one)."""
    unlabelled: list[str] = field(default_factory=list)
    """Images under `images` that have no label, relative to it."""
    duplicates: list[Problem] = field(default_factory=list)
    """Rows whose image an earlier row has already named; the first row counts."""
    bad: list[Problem] = field(default_factory=list)
    """Rows whose score is absent, not a number or outside the scale, and rows that cannot be read."""
    notes: list[str] = field(default_factory=list)
    """Decisions taken for the reader (a guessed column or scale) and inconsistencies between files."""

    @property
    def clean(self) -> bool:
        return not (self.missing or self.unlabelled or self.duplicates or self.bad)

    def lines(self, limit: int = 5) -> list[str]:
        """The report for a person: a line of counts, then the first `limit` of each kind by name."""
        low, high = self.score_range or (math.nan, math.nan)
        scores = f", scores {low:.4g} to {high:.4g}" if self.score_range else ""
        out = [f"{self.source}: {self.rows} label rows, {self.usable} usable{scores}", *self.notes]
        for what, items in (
            ("without an image", self.missing),
            ("images without a label", self.unlabelled),
            ("repeated", self.duplicates),
            ("with an unusable score", self.bad),
        ):
            if items:
                out.append(f"{len(items)} {what}: " + "; ".join(str(item) for item in items[:limit]))
                if len(items) > limit:
                    out[-1] += f"; and {len(items) - limit} more"
        return out

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return {
            "source": str(self.source),
            "images": None if self.images is None else str(self.images),
            "rows": self.rows,
            "usable": self.usable,
            "score_range": None if self.score_range is None else list(self.score_range),
            "missing": [str(item) for item in self.missing],
            "unlabelled": list(self.unlabelled),
            "duplicates": [str(item) for item in self.duplicates],
            "bad": [str(item) for item in self.bad],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images of one source. `scale` is the declared (not the observed) range of the scores.

    `stratum` is the key of `Sample.group` whose values a drawn split deals out evenly; "" = none.
    """

    name: str
    samples: list[Sample]
    scale: Scale
    notes: ReadReport
    stratum: str = ""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def strata(self) -> list[str] | None:
        """The stratum of each sample; None where the data set states none."""
        return [s.group.get(self.stratum, "") for s in self.samples] if self.stratum else None

    def subset(self, keep: Iterable[int]) -> Dataset:
        """The samples at the given positions, in that order; the report stays that of the whole."""
        return replace(self, samples=[self.samples[i] for i in keep])


@dataclass(slots=True)
class LabelRow:
    """A row of a label file before it is checked. `score` is the raw cell or a number.

    `files` are spellings under which the image may lie on disk, the best first; empty = only `name`.
    """

    source: str
    line: int | None
    name: str
    score: object
    files: Sequence[str] = ()
    group: Mapping[str, str] = field(default_factory=dict)
    fold: int | None = None
    split: str | None = None
    n_ratings: int | None = None
    std: float | None = None
    counts: tuple[float, ...] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    comment: str | None = None
    no_image: str = ""
    """Set when the label file itself says that there is no image: why."""

    def problem(self, reason: str) -> Problem:
        return Problem(self.source, self.line, self.name, reason)


def parse_number(cell: object, *, decimal_comma: bool = False) -> float:
    """A finite number from a cell. Raises ValueError whose text is the reason, for people."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise ValueError("the score is empty")
    text = str(cell).strip()
    if decimal_comma and "." not in text:
        text = text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number") from None
    if "_" in text or not math.isfinite(value):
        raise ValueError(f"'{text}' is not a finite number")
    return value


def optional_number(cell: object, *, decimal_comma: bool = False) -> float | None:
    """A finite number, or None for a cell that holds none (for columns that nothing depends on)."""
    try:
        return parse_number(cell, decimal_comma=decimal_comma)
    except ValueError:
        return None


@contextmanager
def collector_paused() -> Iterator[None]:
    """Rows hold no cycles: looking for them again and again would take as long as reading AVA does."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def assemble(
    name: str,
    rows: Iterable[LabelRow],
    *,
    source: Path,
    scale: Scale | Callable[[float, float], Scale],
    images: Path | None,
    unreadable: Iterable[Problem] = (),
    conflicts: Iterable[Problem] = (),
    notes: Iterable[str] = (),
    decimal_comma: bool = False,
) -> Dataset:
    """Check rows and match them to image files.

    scale: declared range, or a function (lowest, highest) → range for files that declare none.
    unreadable: rows that never became a LabelRow; conflicts: other problems. Both are reported as bad.
    images: folder searched (recursively) for the images; None = scores only, nothing is looked up.
    Raises AesError when not a single row is usable.
    """
    unreadable = list(unreadable)
    report = ReadReport(source=source, images=images, bad=[*unreadable, *conflicts], notes=list(notes))
    index = None if images is None else ImageIndex(images)
    rows = list(rows)
    report.rows = len(rows) + len(unreadable)
    candidates = [row.files or (row.name,) for row in rows]
    if index is not None:
        index.names.expect(spelling for files in candidates for spelling in files[:1])

    by_name: dict[str, LabelRow] = {}
    by_file: dict[Path, LabelRow] = {}
    labelled: set[Path] = set()
    found: list[tuple[LabelRow, Path, float]] = []
    for row, files in zip(rows, candidates, strict=True):
        match, why = None, row.no_image
        if index is not None and not why:
            match, why = index.find(files)
        if match is not None:
            labelled.add(match)
        earlier = by_name.get(row.name) or by_file.get(match)
        if earlier is not None:
            report.duplicates.append(row.problem(_repeats(row, earlier)))
            continue
        try:
            if not row.name:
                raise ValueError("the image's name is empty")
            value = parse_number(row.score, decimal_comma=decimal_comma)
        except ValueError as error:
            report.bad.append(row.problem(str(error)))
            continue
        by_name[row.name] = row
        if index is not None and match is None:
            report.missing.append(row.problem(why))
            continue
        if match is not None:
            by_file[match] = row
        found.append((row, match or Path(files[0]), value))

    if found and callable(scale):
        scale = scale(min(value for *_, value in found), max(value for *_, value in found))
    samples = []
    for row, path, value in found:
        if not scale[0] <= value <= scale[1]:
            report.bad.append(row.problem(f"score {value:g} lies outside {scale[0]:g} to {scale[1]:g}"))
            continue
        samples.append(
            Sample(
                path=path, name=row.name, score=value, group=row.group, fold=row.fold,
                split=row.split, n_ratings=row.n_ratings, std=row.std, counts=row.counts,
                scores=row.scores, comment=row.comment,
            )
        )  # fmt: skip
    if index is not None:
        report.notes += index.unreadable
        report.unlabelled = index.relative_names(exclude=labelled)
    if not samples:
        raise AesError(_nothing_usable(report))
    report.usable = len(samples)
    values = [sample.score for sample in samples]
    report.score_range = (min(values), max(values))
    return Dataset(name=name, samples=samples, scale=scale, notes=report)


def _repeats(row: LabelRow, earlier: LabelRow) -> str:
    same = str(earlier.score).strip() == str(row.score).strip()
    scores = "the same score" if same else f"score {row.score}, there {earlier.score}"
    other = "" if earlier.name == row.name else f" as {earlier.name}"
    where = "" if earlier.source == row.source else f" of {earlier.source}"
    return f"already in line {earlier.line}{where}{other} ({scores})"


def _nothing_usable(report: ReadReport) -> str:
    if not report.rows:
        return f"{report.source} holds no labels"
    if report.missing and not report.bad:
        return (
            f"none of the {report.rows} labels in {report.source} matches an image under {report.images} "
            f"(first: {report.missing[0].name}); name the image folder with --images"
        )
    worst = (report.bad + report.missing)[0]
    return f"none of the {report.rows} labels in {report.source} can be used; the first: {worst}"
