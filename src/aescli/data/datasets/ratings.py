"""Individual ratings, user by user: PARA, FLICKR-AES and MEBeauty, as one table of columns.

Knows the three formats, PARA's user characters and how ratings become an image's mean. Knows nothing about
models, profiles or how shots are chosen.

Sources: Yang et al., "Personalized Image Aesthetics Assessment with Rich Attributes", CVPR 2022 (PARA); Ren et al.,
"Personalized Image Aesthetics", ICCV 2017 (FLICKR-AES); Lebedeva, Guo and Ying, "MEBeauty", 2022.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aescli.data.datasets import mebeauty
from aescli.data.datasets.base import (
    Dataset,
    LabelRow,
    Problem,
    ReadReport,
    Sample,
    Scale,
    assemble,
    collector_paused,
    optional_number,
    parse_number,
)  # fmt: skip
from aescli.data.datasets.scored import ATTRIBUTES, PARA_SCALE, PARA_STEPS
from aescli.data.datasets.tables import TableStream, stream_table
from aescli.errors import AesError, UsageError

RATING_KINDS = ("para", "flickr-aes", "mebeauty")

_SCALES: dict[str, Scale] = {"para": PARA_SCALE, "flickr-aes": (1.0, 5.0), "mebeauty": mebeauty.SCALE}
_COLUMNS = {
    "para": ("userId", "imageName", "aestheticScore"),
    "flickr-aes": ("worker", "imagePair", "score"),
    "mebeauty": ("rater", "file", "score"),
}
_STEPS = {
    "para": PARA_STEPS,
    "flickr-aes": (1.0, 2.0, 3.0, 4.0, 5.0),
    "mebeauty": tuple(float(k) for k in range(1, 11)),
}
_FILES = {
    "para": ("PARA-Images.csv", "annotation/PARA-Images.csv", "*/annotation/PARA-Images.csv"),
    "flickr-aes": ("*labeled_by_each_worker*.csv", "*/*labeled_by_each_worker*.csv"),
    "mebeauty": ("ratings.csv",),
}
_TRAITS = {
    "openness": "personality-O",
    "conscientiousness": "personality-C",
    "extroversion": "personality-E",
    "agreeableness": "personality-A",
    "neuroticism": "personality-N",
}
_EXPERIENCE = {"art": "artExperience", "photo": "photographyExperience"}
_OTHER = {"age": "age", "gender": "gender", "education": "EducationalLevel"}


@dataclass(frozen=True, slots=True)
class UserCharacters:
    """What is known of a person, under the names of a user profile; only what the file states.

    experience: art, photo → beginner, competent, proficient or expert. traits: openness, conscientiousness,
    extroversion, agreeableness, neuroticism → score (1..10 in PARA). characters: age, gender, education.
    """

    experience: Mapping[str, str] = field(default_factory=dict)
    traits: Mapping[str, float] = field(default_factory=dict)
    characters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RatingsTable:
    """R ratings in the order of the file: row r is users[user[r]]'s score[r] of images[image[r]].

    images, paths: names as in the labels and their files. user, image: (R,) int32. score: (R,) float64 on `scale`.
    attributes: further scores by name, (R,) float64 on the same scale, NaN where none was given.
    characters: by user, of those whom the file describes.
    """

    name: str
    scale: Scale
    images: list[str]
    paths: list[Path]
    users: list[str]
    image: np.ndarray
    user: np.ndarray
    score: np.ndarray
    attributes: dict[str, np.ndarray]
    characters: dict[str, UserCharacters]
    notes: ReadReport

    def __len__(self) -> int:
        return len(self.score)

    def counts(self) -> dict[str, int]:
        """How many ratings each user gave."""
        numbers = np.bincount(self.user, minlength=len(self.users))
        return dict(zip(self.users, numbers.tolist(), strict=True))

    def rows_of(self, user: str) -> np.ndarray:
        """Positions of the user's ratings, in the order of the file. Raises AesError for an unknown user."""
        try:
            return np.flatnonzero(self.user == self.users.index(user))
        except ValueError:
            raise AesError(f"{self.notes.source} has no ratings by '{user}'") from None

    def of_user(self, user: str) -> Dataset:
        """The user's ratings as a data set: `score` and `scores` are this person's. Raises AesError."""
        samples = []
        for r in self.rows_of(user):
            i = int(self.image[r])
            given = {name: float(column[r]) for name, column in self.attributes.items()}
            samples.append(
                Sample(
                    path=self.paths[i], name=self.images[i], score=float(self.score[r]), user=user,
                    scores={name: value for name, value in given.items() if value == value},
                )
            )  # fmt: skip
        return Dataset(self.name, samples, self.scale, self.notes)


def read_ratings(
    kind: str,
    path: Path | str,
    images: Path | str | None = None,
    *,
    users: Path | str | None = None,
    match_images: bool = True,
    variant: mebeauty.Variant = "crops",
) -> RatingsTable:
    """Read who gave which image what score.

    kind: one of `RATING_KINDS`, or "auto" to tell from the columns. path: the file of ratings, or the data set's
    folder. images: folder of the images; None = the usual place beside the ratings. users: PARA's UserInfo file;
    None = PARA-UserInfo.csv beside the ratings, if any. match_images, variant: as in `read_dataset`.
    A rating whose score is unusable, that repeats an earlier one of the same person and image, or whose image is
    missing is left out and reported. Raises AesError when nothing is left and UsageError for an unknown kind.
    """
    kind, source = _locate(kind, Path(path))
    with collector_paused():
        columns = _read(kind, source)
        if kind == "mebeauty":
            dataset = _mebeauty_images(source, images, match_images, variant, columns)
        else:
            root = image_root(source, images) if match_images else None
            dataset = _means(kind, source, root, columns)
        table = _only_known(kind, columns, dataset)
    if kind == "para":
        info = Path(users) if users is not None else source.parent / "PARA-UserInfo.csv"
        if users is not None or info.is_file():
            _add_characters(table, info)
    return table


def read_means(kind: str, source: Path, images: Path | None) -> Dataset:
    """PARA's or FLICKR-AES' ratings as mean scores per image, with deviation, number and counts of the ratings."""
    return _means(kind, source, images, _read(kind, source))


def kind_of_columns(columns: Iterable[str]) -> str | None:
    """Which of `RATING_KINDS` a file of ratings with these columns is; None = none of them."""
    folded = {column.casefold() for column in columns}
    return next((k for k, wanted in _COLUMNS.items() if {c.casefold() for c in wanted} <= folded), None)


def find_ratings(kind: str, folder: Path) -> Path | None:
    """The file of ratings of that kind at its usual place in the folder, if there is one."""
    return next((p for pattern in _FILES[kind] for p in sorted(folder.glob(pattern)) if p.is_file()), None)


def image_root(source: Path, images: Path | str | None) -> Path:
    """The folder of the images of a file of ratings: as given, else imgs, 40K or images beside it or one above."""
    if images is not None:
        return Path(images)
    for home in (source.parent, source.parent.parent):
        for name in ("imgs", "40K", "images", "Images"):
            if (home / name).is_dir():
                return home / name
    return source.parent


class _Columns:
    """Ratings as they are read: parallel arrays, names numbered in the order in which they first occur."""

    def __init__(self, source: Path, attributes: Iterable[str]) -> None:
        self.source = source
        self.images: dict[str, int] = {}
        self.users: dict[str, int] = {}
        self.image, self.user, self.line = array("i"), array("i"), array("i")
        self.score = array("d")
        self.attributes = {name: array("d") for name in attributes}
        self.bad: list[Problem] = []
        self.notes: list[str] = []
        self.repeated: list[Problem] = []

    def arrays(self) -> None:
        """Arrays instead of growing columns, without ratings that repeat the same person's of the same image."""
        self.image, self.user, self.line, self.score = (
            np.array(column) for column in (self.image, self.user, self.line, self.score)
        )
        self.attributes = {name: np.array(column) for name, column in self.attributes.items()}
        pairs = self.user.astype(np.int64) * max(len(self.images), 1) + self.image
        _, first, which = np.unique(pairs, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[which] != np.arange(len(pairs)))
        if len(again):
            names, users = list(self.images), list(self.users)
            for r in again:
                reason = f"{users[self.user[r]]} has rated it in line {self.line[first[which[r]]]} already"
                self.repeated.append(
                    Problem(str(self.source), int(self.line[r]), names[self.image[r]], reason)
                )
            self.take(np.sort(first))

    def take(self, rows: np.ndarray) -> None:
        self.image, self.user, self.line, self.score = (
            column[rows] for column in (self.image, self.user, self.line, self.score)
        )
        self.attributes = {name: column[rows] for name, column in self.attributes.items()}


def _locate(kind: str, path: Path) -> tuple[str, Path]:
    if kind not in (*RATING_KINDS, "auto"):
        raise UsageError(f"'{kind}' is no layout of ratings; choose from auto, {', '.join(RATING_KINDS)}")
    if not path.exists():
        raise AesError(f"{path} does not exist; name a file of ratings or the folder of a data set")
    if path.is_file():
        if kind == "auto":
            columns = stream_table(path).columns
            kind = kind_of_columns(columns)
            if kind is None:
                wanted = "; ".join(f"{name}: {', '.join(_COLUMNS[name])}" for name in RATING_KINDS)
                raise AesError(f"{path} holds no ratings by users (it has: {', '.join(columns)}; {wanted})")
        return kind, path
    for candidate in RATING_KINDS if kind == "auto" else (kind,):
        found = find_ratings(candidate, path)
        if found is not None:
            return candidate, found
    names = ", ".join(
        _FILES[name][0].replace("*", "…") for name in (RATING_KINDS if kind == "auto" else (kind,))
    )
    raise AesError(f"{path} does not hold ratings by users ({names}); name the file itself")


def _read(kind: str, source: Path) -> _Columns:
    table: TableStream = stream_table(source)
    user, image, score = (table.position(name) for name in _COLUMNS[kind])
    session = table.position("sessionId") if kind == "para" else None
    found = table.positions(list(ATTRIBUTES.values())) if kind == "para" else {}
    attributes = {name: found[column] for name, column in ATTRIBUTES.items() if column in found}
    low, high = _SCALES[kind]
    columns = _Columns(source, attributes)
    pairs = [(columns.attributes[name], at) for name, at in attributes.items()]
    numbers: dict[str, float] = {}  # the same few cells stand millions of times in a file
    for line, cells in table:
        name, who, cell = cells[image], cells[user], cells[score]
        if session is not None and cells[session] and name:
            name = f"{cells[session]}/{name}"
        value = numbers.get(cell)
        try:
            if not (name and who):
                raise ValueError("the image's name is empty" if who else "the user is empty")
            if value is None:
                value = parse_number(cell)
            if not low <= value <= high:
                raise ValueError(f"score {value:g} lies outside {low:g} to {high:g}")
        except ValueError as error:
            columns.bad.append(Problem(str(source), line, name, str(error)))
            continue
        numbers[cell] = value
        columns.image.append(columns.images.setdefault(name, len(columns.images)))
        columns.user.append(columns.users.setdefault(who, len(columns.users)))
        columns.line.append(line)
        columns.score.append(value)
        for column, at in pairs:
            value = numbers.get(cells[at])
            if value is None:
                value = optional_number(cells[at])
                if value is None or not low <= value <= high:
                    value = np.nan
                else:
                    numbers[cells[at]] = value
            column.append(value)
    columns.bad += table.bad
    columns.arrays()
    for name, column in columns.attributes.items():
        absent = int(np.isnan(column).sum())
        if absent:
            columns.notes.append(f"{absent} ratings have no usable '{name}'")
    return columns


def _means(kind: str, source: Path, images: Path | None, columns: _Columns) -> Dataset:
    """One sample per image, from all of its ratings; the report counts images."""
    names, n = list(columns.images), len(columns.images)
    number = np.bincount(columns.image, minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(columns.image, columns.score, n) / number
        spread = np.bincount(columns.image, (columns.score - mean[columns.image]) ** 2, n)
        std = np.sqrt(spread / number)
        attributes = {}
        for name, column in columns.attributes.items():
            known = np.isfinite(column)
            at = columns.image[known]
            attributes[name] = np.bincount(at, column[known], n) / np.bincount(at, minlength=n)
    steps = np.array(_STEPS[kind])
    step = np.searchsorted(steps, columns.score - 1e-9).clip(max=len(steps) - 1)
    votes = None
    if (
        len(step) and np.abs(steps[step] - columns.score).max() < 1e-6
    ):  # else somebody scored between the steps
        votes = np.bincount(columns.image * len(steps) + step, minlength=n * len(steps)).reshape(n, -1)
    line = np.zeros(n, np.int64)
    line[columns.image[::-1]] = columns.line[::-1]
    rows = []
    for i, name in enumerate(names):
        row = LabelRow(str(source), int(line[i]), name, float(mean[i]))
        row.std, row.n_ratings = float(std[i]), int(number[i])
        row.counts = tuple(votes[i].astype(float).tolist()) if votes is not None else None
        given = {key: float(values[i]) for key, values in attributes.items()}
        row.scores = {key: value for key, value in given.items() if value == value}
        rows.append(row)
    notes = [f"means of {len(columns.score)} ratings by {len(columns.users)} users", *columns.notes]
    return assemble(
        kind, rows, source=source, scale=_SCALES[kind], images=images,
        unreadable=[*columns.bad, *columns.repeated], notes=notes,
    )  # fmt: skip


def _mebeauty_images(source, images, match_images, variant, columns: _Columns) -> Dataset:
    """The labelled images (labels.csv says where each lies); without that file, the names themselves."""
    labels = source.parent / "labels.csv"
    root = (Path(images) if images is not None else source.parent) if match_images else None
    if labels.is_file() and mebeauty.is_labels_csv(stream_table(labels).columns):
        return mebeauty.read(labels, root, variant)
    if root is not None and (root / variant).is_dir():
        root = root / variant
    return _means("mebeauty", source, root, columns)


def _only_known(kind: str, columns: _Columns, dataset: Dataset) -> RatingsTable:
    """The ratings whose image is in the data set, with its paths; images and users numbered anew."""
    position = {sample.name: i for i, sample in enumerate(dataset.samples)}
    place = np.array([position.get(name, -1) for name in columns.images], np.int64)
    total = len(columns.score)
    columns.take(np.flatnonzero(place[columns.image] >= 0))
    lost = total - len(columns.score)
    if not len(columns.score):
        raise AesError(f"no rating in {columns.source} is of an image that was found")
    rated = np.unique(columns.image)
    rating = np.unique(columns.user)
    names, users = list(columns.images), list(columns.users)
    samples = [dataset.samples[place[i]] for i in rated]
    own = {*columns.bad, *columns.repeated}
    report = dataset.notes
    report = replace(
        report, source=columns.source, rows=total + len(columns.bad) + len(columns.repeated),
        usable=len(columns.score),
        score_range=(float(columns.score.min()), float(columns.score.max())),
        bad=[*columns.bad, *(p for p in report.bad if p not in own)],
        duplicates=[*columns.repeated, *report.duplicates],
        notes=[f"{len(columns.score)} ratings by {len(rating)} users of {len(rated)} images", *columns.notes],
    )  # fmt: skip
    if lost:
        unknown = int((place < 0).sum())
        report.notes.append(f"{lost} ratings are of {unknown} images that were not found")
    return RatingsTable(
        name=kind, scale=_SCALES[kind], images=[names[i] for i in rated], paths=[s.path for s in samples],
        users=[users[i] for i in rating],
        image=np.searchsorted(rated, columns.image).astype(np.int32),
        user=np.searchsorted(rating, columns.user).astype(np.int32),
        score=columns.score, attributes=columns.attributes, characters={}, notes=report,
    )  # fmt: skip


def _add_characters(table: RatingsTable, path: Path) -> None:
    """PARA-UserInfo.csv: userId, age, gender, EducationalLevel, artExperience, …, personality-C."""
    info = stream_table(path)
    user = info.position("userId")
    at = info.positions([*_TRAITS.values(), *_EXPERIENCE.values(), *_OTHER.values()])
    wanted = set(table.users)
    for line, cells in info:
        name = cells[user]
        if name in table.characters:
            table.notes.duplicates.append(Problem(str(path), line, name, "is described before"))
            continue
        if name not in wanted:
            continue
        traits = {}
        for trait, column in _TRAITS.items():
            if column in at and cells[at[column]]:
                value = optional_number(cells[at[column]])
                if value is None:
                    reason = f"{column} '{cells[at[column]]}' is not a number"
                    table.notes.bad.append(Problem(str(path), line, name, reason))
                else:
                    traits[trait] = value
        experience, other = (
            {key: cells[at[column]] for key, column in names.items() if column in at and cells[at[column]]}
            for names in (_EXPERIENCE, _OTHER)
        )
        table.characters[name] = UserCharacters(experience, traits, other)
    table.notes.bad += info.bad
    unknown = len(wanted) - len(table.characters)
    if unknown:
        table.notes.notes.append(f"{unknown} users are not described in {path.name}")
