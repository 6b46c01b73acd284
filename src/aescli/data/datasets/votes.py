"""Readers for AVA and Photo.Net, with and without comments: images with the votes for each step of a scale.

Knows `AVA.txt`, NIMA's JSON, AVA-Captions' JSON, `photonet_dataset.txt` and CSV files with a column of votes; the
score is always the votes' mean.
Knows nothing about models, class rules or how a comment is cleaned.

Sources: Murray, Marchesotti and Perronnin, "AVA: A Large-Scale Database for Aesthetic Visual Analysis", CVPR 2012;
Ghosal, Rana and Smolic, "Aesthetic Image Captioning from Weakly-Labelled Photographs", ICCV Workshops 2019;
Datta, Li and Wang, "Algorithmic Inferencing of Aesthetics and Emotion in Natural Images", ICIP 2008 (Photo.Net).
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aescli.data.datasets.base import Dataset, LabelRow, Problem, assemble, optional_number
from aescli.data.datasets.parts import Part, notes_of, source_of
from aescli.data.datasets.tables import TableStream, read_lines, read_text, stream_table
from aescli.data.finding import find_images, known_suffixes
from aescli.errors import AesError

BINS = {"ava": 10, "ava-captions": 10, "photonet": 7, "photonet-captions": 7}
"""Steps of the scale by data set; the scale is 1 to that number."""

_COMMENTS = ("comment", "comments", "caption", "captions")
_IDS = ("index", "image_id", "imageid", "image", "id")
_AVA_WIDTH = 15  # index, image id, ten counts, two tags, challenge
_PHOTONET_WIDTH = 12  # index, photo id, number of votes, mean, deviation, seven counts
AVA_TEXT = "AVA.txt"
_BRACKETS = str.maketrans("[](),;", "      ")
# A list of votes is rounded at most to a hundredth when it becomes a mean.
_ROUNDED = 0.0051


def read_ava_text(parts: Sequence[Part], images: Path | None) -> Dataset:
    """`AVA.txt`: index, image id, votes for 1..10, two semantic tags (0 = none), challenge; separated by blanks.

    `Sample.group` has tag_1, tag_2 and challenge. Where the release's `aesthetics_image_lists/generic_test.jpgl` lies
    beside it, these images are the split test, all others train.
    """
    return _assemble("ava", _ava_lines, parts, images)


def read_ava_json(parts: Sequence[Part], images: Path | None) -> Dataset:
    """NIMA's JSON: a list of {"image_id": …, "label": [votes for 1..10]}. Raises AesError for another JSON."""
    return _assemble("ava", _json_entries, parts, images)


def read_photonet_text(parts: Sequence[Part], images: Path | None) -> Dataset:
    """`photonet_dataset.txt`: index, photo id, number of votes, mean, deviation, votes for 1..7, between blanks.

    Copies of the data set name their images by id or by index; which, the files tell, since one image's index may be
    another's id.
    """
    column = 1
    if images is not None and images.is_dir():
        stems = {os.path.splitext(os.path.basename(found.path))[0] for found in find_images([images])}
        rows = [line.split() for part in parts for _, line in read_lines(part.path)]
        hits = [sum(len(row) > 1 and row[k] in stems for row in rows) for k in (0, 1)]
        column = 0 if hits[0] > hits[1] else 1
    return _assemble("photonet", partial(_photonet_lines, column=column), parts, images)


def read_captions_json(parts: Sequence[Part], images: Path | None) -> Dataset:
    """AVA-Captions as published: {"images": [{"filename": …, "sentences": [{"clean": …}]}]}, with AVA.txt beside it.

    The images that have both captions and votes; an entry's split counts where it has one. Raises AesError where
    AVA.txt is missing or the JSON is another one.
    """
    dataset = _assemble("ava-captions", _captioned, parts, images)
    dataset.notes.files = [path for part in parts for path in (part.path, _votes_beside(part.path))]
    return dataset


def read_votes_csv(name: str, parts: Sequence[Part], images: Path | None) -> Dataset:
    """CSV with index (image id), label (votes, separated by blanks) and optional comment, score, class, split.

    name: one of `BINS`. An image has one sample: rows that repeat it, as lists of single comments do, are joined
    when their votes agree, their comments in the order of the file. The votes belong to the image, so that several
    samples of it would only weigh it by its comments and could fall on both sides of a split.
    """
    return _assemble(name, _csv_rows, parts, images)


def kind_of_text(path: Path) -> str | None:
    """ "ava" or "photonet" where one of the first lines is as in `AVA.txt` or `photonet_dataset.txt`, else None.

    AVA's are fifteen whole numbers; Photo.Net's twelve, whole ones but for the mean and the deviation.
    """
    for words in (line.split() for _, line in itertools.islice(read_lines(path), 5)):
        if len(words) == _AVA_WIDTH and all(word.isdecimal() for word in words):
            return "ava"
        numbers = all(optional_number(word) is not None for word in words)
        whole = all(word.isdecimal() for word in (*words[:3], *words[5:]))
        if len(words) == _PHOTONET_WIDTH and numbers and whole:
            return "photonet"
    return None


def is_captions_json(path: Path) -> bool:
    """Whether it is an object, as AVA-Captions' is, not a list, as NIMA's."""
    return next((line.lstrip()[:1] for _, line in read_lines(path)), "") == "{"


def kind_of_columns(columns: Iterable[str], first: Sequence[str]) -> str | None:
    """Which of `BINS` a CSV with these columns and this first row is; None = none of them."""
    folded = [column.casefold() for column in columns]
    if "label" not in folded or not set(_IDS) & set(folded) or len(first) != len(folded):
        return None
    votes = first[folded.index("label")].translate(_BRACKETS).split()
    name = {10: "ava", 7: "photonet"}.get(len(votes))
    if name is None or any(optional_number(word) is None for word in votes):
        return None
    return f"{name}-captions" if set(_COMMENTS) & set(folded) else name


class _Votes:
    """Turns cells into rows: checks the votes, computes their mean and deviation, gathers comments."""

    def __init__(self, name: str) -> None:
        self.bins = BINS[name]
        self.comments = name.endswith("-captions")
        self.rows: dict[str, LabelRow] = {}
        self.repeated: list[LabelRow] = []
        self.bad: list[Problem] = []
        self.joined = 0
        self.texts: dict[str, list[str]] = {}
        self.contradicted: list[LabelRow] = []
        # The same few hundred counts stand millions of times in a file.
        self._numbers: dict[object, float] = {}

    def number(self, word: object) -> float:
        value = self._numbers.get(word)
        if value is None:
            value = float(word)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError
            self._numbers[word] = value
        return value

    def add(self, source: str, line: int | None, image: str, votes: Sequence[object]) -> LabelRow | None:
        """A new row for the image; None where the votes are unusable."""
        plain = image.isdecimal() or os.path.splitext(image)[1].lower() not in known_suffixes()
        name = f"{image}.jpg" if plain else image
        try:
            if not image:
                raise ValueError("the image's name is empty")
            if len(votes) != self.bins:
                raise ValueError(f"{len(votes)} votes, but the scale has {self.bins} steps")
            try:
                counts = tuple([self.number(vote) for vote in votes])
            except (ValueError, TypeError):
                raise ValueError(f"the votes '{' '.join(map(str, votes))}' are not all counts") from None
            total = sum(counts)
            if total <= 0:
                raise ValueError("nobody has voted")
        except ValueError as error:
            self.bad.append(Problem(source, line, image and name, str(error)))
            return None
        mean = sum([k * count for k, count in enumerate(counts, start=1)]) / total
        square = sum([k * k * count for k, count in enumerate(counts, start=1)]) / total
        row = LabelRow(source, line, name, mean, files=(name, image) if plain else (), counts=counts)
        row.std = math.sqrt(max(square - mean * mean, 0.0))
        row.n_ratings = round(total) if all(count.is_integer() for count in counts) else None
        return row

    def compare(self, row: LabelRow, stated: str) -> None:
        """Remembers the row where the file states another mean than that of its votes."""
        mean = optional_number(stated)
        if mean is None or abs(mean - row.score) > _ROUNDED:
            self.contradicted.append(row)

    def keep(self, row: LabelRow) -> None:
        """Takes the row, or its comment where the image is known already."""
        known = self.rows.setdefault(row.name, row)
        texts = self.texts.setdefault(row.name, []) if self.comments else []
        if known is not row and (
            row.comment is None
            or row.comment in texts
            or (known.counts, known.split) != (row.counts, row.split)
        ):
            self.repeated.append(row)
            return
        self.joined += known is not row
        if row.comment is not None:
            texts.append(row.comment)

    def all_rows(self) -> list[LabelRow]:
        for name, texts in self.texts.items():
            self.rows[name].comment = " ".join(texts) or None
        self.texts.clear()
        return [*self.rows.values(), *self.repeated]


def _assemble(name: str, read, parts: Sequence[Part], images: Path | None) -> Dataset:
    votes = _Votes(name)
    for part in parts:
        for row in read(part, votes):
            votes.keep(row)
    rows = votes.all_rows()
    notes = notes_of(parts)
    if votes.joined:
        notes.append(f"{votes.joined} rows repeat an image with another comment: joined, one sample an image")
    if votes.comments:
        silent = sum(row.comment is None for row in votes.rows.values())
        if silent:
            notes.append(f"{silent} images have no comment")
    if votes.contradicted:
        first = votes.contradicted[0]
        notes.append(
            f"{len(votes.contradicted)} scores differ from the mean of their votes, which counts (first: {first.name}, "
            f"line {first.line})"
        )
    dataset = assemble(
        name, rows, source=source_of(parts), scale=(1.0, float(votes.bins)), images=images,
        unreadable=votes.bad, notes=notes,
    )  # fmt: skip
    dataset.notes.rows += votes.joined
    return dataset


def _ava_lines(part: Part, votes: _Votes) -> Iterator[LabelRow]:
    source = str(part.path)
    tested = _ava_test(part.path)
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for line, text in read_lines(part.path):
        words = text.split()
        if len(words) != _AVA_WIDTH or not words[1].isdecimal():
            reason = f"{len(words)} numbers, not {_AVA_WIDTH}" if len(words) != _AVA_WIDTH else "no image id"
            votes.bad.append(Problem(source, line, words[1] if len(words) > 1 else words[0], reason))
            continue
        row = votes.add(source, line, words[1], words[2:12])
        if row is not None:
            row.split = part.split
            if tested:
                row.split = "test" if words[1] in tested else "train"
            key = tuple(words[12:])
            row.group = groups.setdefault(key, dict(zip(("tag_1", "tag_2", "challenge"), key, strict=True)))
            yield row


def _photonet_lines(part: Part, votes: _Votes, column: int) -> Iterator[LabelRow]:
    source = str(part.path)
    for line, text in read_lines(part.path):
        words = text.split()
        if len(words) != _PHOTONET_WIDTH or not (words[0].isdecimal() and words[1].isdecimal()):
            whole = len(words) == _PHOTONET_WIDTH
            reason = "no photo id" if whole else f"{len(words)} numbers, not {_PHOTONET_WIDTH}"
            votes.bad.append(Problem(source, line, words[1] if len(words) > 1 else words[0], reason))
            continue
        row = votes.add(source, line, words[column], words[5:])
        if row is not None:
            row.split = part.split
            votes.compare(row, words[3])
            yield row


def _captioned(part: Part, votes: _Votes) -> Iterator[LabelRow]:
    captions = _captions(part.path)
    for row in _ava_lines(Part(_votes_beside(part.path)), votes):
        if (found := captions.pop(row.name, None)) is not None:
            row.comment, row.split = found[0] or None, part.split or found[1] or row.split
            yield row
    votes.bad += [Problem(str(part.path), None, name, f"not in {AVA_TEXT}") for name in captions]


def _votes_beside(captions: Path) -> Path:
    """AVA.txt in the folder of the captions. Raises AesError without it."""
    for path in sorted(captions.parent.iterdir()):
        if path.name.casefold() == AVA_TEXT.casefold():
            return path
    raise AesError(f"{captions} has captions and no votes; put {AVA_TEXT} beside it")


def _captions(path: Path) -> dict[str, tuple[str, str | None]]:
    """Image name → (the sentences of all its entries, its split)."""
    found: dict[str, tuple[str, str | None]] = {}
    try:
        for entry in _json(path)["images"]:
            name = str(entry["filename"]).strip()
            name = f"{name}.jpg" if name.isdecimal() else name
            before = found.get(name, ("", None))[0]
            sentences = [str(s.get("clean") or s.get("raw") or "").strip() for s in entry["sentences"]]
            text = " ".join(filter(None, [before, *sentences]))
            found[name] = (text, str(entry["split"]) if entry.get("split") else None)
        return found
    except (KeyError, TypeError, AttributeError):
        raise AesError(
            f'{path} is neither NIMA\'s list of {{"image_id": …, "label": […]}} nor AVA-Captions\' '
            '{"images": [{"filename": …, "sentences": [{"clean": …}]}]}'
        ) from None


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise AesError(f"{path} is not valid JSON: {error}") from None


def _ava_test(ava: Path) -> set[str]:
    """Image ids of the release's list of test images, if it lies beside AVA.txt."""
    lists = ava.parent / "aesthetics_image_lists" / "generic_test.jpgl"
    return {line.strip().removesuffix(".jpg") for _, line in read_lines(lists)} if lists.is_file() else set()


def _json_entries(part: Part, votes: _Votes) -> Iterator[LabelRow]:
    source = str(part.path)
    entries = _json(part.path)
    if not isinstance(entries, list):
        raise AesError(f'{part.path} is not a list of {{"image_id": …, "label": […]}}')
    for number, entry in enumerate(entries, start=1):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(image, str | int) or isinstance(image, bool) or not isinstance(label, list):
            reason = f'entry {number} has no "image_id" and "label"'
            votes.bad.append(Problem(source, None, "" if image is None else str(image), reason))
            continue
        # JSON's true is a number to Python, and a nested list has no hash.
        label = [vote if isinstance(vote, int | float | str) and vote is not True else "?" for vote in label]
        row = votes.add(source, None, str(image).strip(), label)
        if row is not None:
            row.split = part.split
            yield row


def _csv_rows(part: Part, votes: _Votes) -> Iterator[LabelRow]:
    table = stream_table(part.path)
    source = str(part.path)
    image, label = _first(table, _IDS), table.position("label")
    comment = _first(table, _COMMENTS) if votes.comments else None
    at = table.positions(("score", "class", "split"))
    classes: dict[str, dict[str, str]] = {}
    for line, cells in table:
        row = votes.add(source, line, _whole(cells[image]), cells[label].translate(_BRACKETS).split())
        if row is None:
            continue
        row.split = part.split or (cells[at["split"]] or None if "split" in at else None)
        if comment is not None:
            row.comment = cells[comment] or None
        if "class" in at and cells[at["class"]]:
            row.group = classes.setdefault(cells[at["class"]], {"class": cells[at["class"]]})
        if "score" in at:
            votes.compare(row, cells[at["score"]])
        yield row
    votes.bad += table.bad


def _whole(cell: str) -> str:
    """An id as it names the file: pandas writes a column of ids with a gap as 953619.0."""
    return cell[:-2] if cell.endswith(".0") and cell[:-2].isdecimal() else cell


def _first(table: TableStream, names: Sequence[str]) -> int:
    """The first of the columns that there is. Raises AesError naming the usual one."""
    found = table.positions(names)
    return next(iter(found.values())) if found else table.position(names[0])
