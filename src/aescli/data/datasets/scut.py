"""Readers for SCUT-FBP5500 (three layouts) and SCUT-FBP (workbook).

Knows the official file names, the two naming schemes of SCUT-FBP5500 and its folds;
knows nothing about models or metrics.

Sources: Liang et al., "SCUT-FBP5500: A Diverse Benchmark Dataset for Multi-Paradigm Facial Beauty
Prediction", ICPR 2018; Xie et al., "SCUT-FBP: A Benchmark Dataset for Facial Beauty Perception", SMC 2015.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from aescli.data.datasets.base import Dataset, LabelRow, Problem, assemble
from aescli.data.datasets.tables import read_table, read_text, read_xlsx
from aescli.errors import AesError

SCALE = (1.0, 5.0)
LABEL_COLUMNS = ("image", "score", "group", "fold", "split6040")

# AF = Asian female = "female, yellow" and so on: the authors' two releases name the same images differently.
_SCHEMES = {"AF": "fty", "AM": "mty", "CF": "ftw", "CM": "mtw"}
_TO_GROUP = {new.casefold(): old for old, new in _SCHEMES.items()} | {old.casefold(): old for old in _SCHEMES}
_GROUPS = {
    "AF": ("female", "asian"),
    "AM": ("male", "asian"),
    "CF": ("female", "caucasian"),
    "CM": ("male", "caucasian"),
}
_NAME = re.compile(r"^(AF|AM|CF|CM|fty|mty|ftw|mtw)(\d+)(\.\w+)?$", re.IGNORECASE)


def spellings(name: str) -> tuple[str, ...]:
    """`name` and its twin in the other naming scheme: "AF437.jpg" → ("AF437.jpg", "fty437.jpg")."""
    folder, _, base = name.rpartition("/")
    match = _NAME.match(base)
    if not match:
        return (name,)
    prefix, number, suffix = match.groups(default="")
    group = _TO_GROUP[prefix.casefold()]
    twin = _SCHEMES[group] if prefix.upper() == group else group
    twin = f"{twin}{number}{suffix}"
    return (name, f"{folder}/{twin}" if folder else twin)


def group_of(name: str) -> dict[str, str]:
    """{"group": "AF", "sex": "female", "ethnicity": "asian"} from an image name of either scheme; else {}."""
    match = _NAME.match(name.rpartition("/")[2])
    if not match:
        return {}
    group = _TO_GROUP[match[1].casefold()]
    sex, ethnicity = _GROUPS[group]
    return {"group": group, "sex": sex, "ethnicity": ethnicity}


def read_labels_csv(data: Path, images: Path | None) -> Dataset:
    """`labels.csv` with columns image, score, group, fold, split6040 (the last three may be absent)."""
    table = read_table(data)
    image, score = table.column("image"), table.column("score")
    bad, rows = list(table.bad), []
    for line, cells in table.rows:
        row = LabelRow(str(data), line, cells[image], cells[score], files=spellings(cells[image]))
        given = cells.get("group", "")
        row.group = group_of(row.name)
        if given:
            if row.group and row.group["group"] != given:
                reason = f"group {given} contradicts the image's name"
                bad.append(row.problem(reason))
                continue
            row.group = row.group or {"group": given}
        row.split = cells.get("split6040") or None
        fold = cells.get("fold", "")
        if fold:
            if not fold.isdecimal() or int(fold) < 1:
                bad.append(row.problem(f"fold '{fold}' is not 1, 2, …"))
                continue
            row.fold = int(fold)
        rows.append(row)
    return assemble("scut-fbp5500", rows, source=data, scale=SCALE, images=images, unreadable=bad)


def find_lists(data: Path) -> Path | None:
    """The official list folder (`train_test_files`) at, in, or in a folder of `data`; None where none is."""
    for folder in (data, data / "train_test_files", *sorted(data.glob("*/train_test_files"))):
        if folder.is_dir() and (_fold_lists(folder) or _split_lists(folder)):
            return folder
    return None


def read_official(folder: Path, images: Path | None) -> Dataset:
    """The authors' `train_test_files`: lists "AF437.jpg 2.883333" of five folds and/or the 60/40 split.

    Folds are looked for as `…/cross_validation_{k}/train_{k}.txt` and `test_{k}.txt`, or directly as
    `train_{k}.txt` and `test_{k}.txt`. Raises AesError when a fold is incomplete.
    """
    notes: list[str] = []
    unreadable: list[Problem] = []
    conflicts: list[Problem] = []
    rows: dict[str, LabelRow] = {}
    tested: dict[str, int] = {}
    folds = _fold_lists(folder)
    for k, lists in sorted(folds.items()):
        if set(lists) != {"train", "test"}:
            absent = "test" if "train" in lists else "train"
            raise AesError(f"{folder} has no {absent}_{k}.txt: fold {k} needs its train and its test list")
        names: dict[str, set[str]] = {}
        for part in ("train", "test"):
            listed, unread = read_score_list(lists[part])
            unreadable += unread
            names[part] = set()
            for row in listed:
                known = _merge(rows, row, conflicts)
                names[part].add(known.name)
                if part == "test":
                    if known.name in tested and tested[known.name] != k:
                        conflicts.append(row.problem(f"is a test image of fold {tested[known.name]} already"))
                    else:
                        tested[known.name] = known.fold = k
        both = names["train"] & names["test"]
        if both:
            raise AesError(
                f"{len(both)} images (first: {min(both)}) are in both lists of fold {k} in {folder}"
            )
        absent = len(rows) - len(names["train"] | names["test"])
        if absent:
            notes.append(f"fold {k} leaves out {absent} images that other lists name")
    for part, path in _split_lists(folder).items():
        listed, unread = read_score_list(path)
        unreadable += unread
        for row in listed:
            known = _merge(rows, row, conflicts)
            if known.split not in (None, part):
                conflicts.append(row.problem(f"is in both the train and the test list of {path.parent.name}"))
            else:
                known.split = part
    untested = [name for name in rows if name not in tested]
    if folds and untested:
        notes.append(f"{len(untested)} images are in no test list (first: {untested[0]})")
    # A broken line stands in several lists: once is enough.
    unreadable = list({problem.name + problem.reason: problem for problem in unreadable}.values())
    return assemble(
        "scut-fbp5500", rows.values(), source=folder, scale=SCALE, images=images,
        unreadable=unreadable, conflicts=conflicts, notes=notes,
    )  # fmt: skip


def read_single_list(data: Path, images: Path | None) -> Dataset:
    """One list file ("AF437.jpg 2.883333" per line) as a data set without folds."""
    rows, bad = read_score_list(data)
    return assemble("scut-fbp5500", rows, source=data, scale=SCALE, images=images, unreadable=bad)


def read_score_list(path: Path) -> tuple[list[LabelRow], list[Problem]]:
    """Rows of a list file: image and score, separated by blanks (or one comma); '#' opens a comment line."""
    rows, bad = [], []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        # The score is the last word: an image's name may hold blanks.
        name, _, score = text.strip().replace("\t", " ").rpartition("," if "," in text else " ")
        name = name.strip()
        if not name:
            bad.append(Problem(str(path), line, score, "no 'image score' pair"))
            continue
        rows.append(LabelRow(str(path), line, name, score, files=spellings(name), group=group_of(name)))
    return rows, bad


def read_workbook(data: Path, images: Path | None) -> Dataset:
    """SCUT-FBP's `Attractiveness label.xlsx`: Image (a number n: SCUT-FBP-{n}.jpg), label, deviation."""
    table = read_xlsx(data)
    image = table.column("Image")
    score = table.column("Attractiveness label")
    folded = {column.casefold(): column for column in table.columns}
    std = folded.get("standard deviation") or folded.get("standard devariation")
    rows = []
    for line, cells in table.rows:
        name = cells[image]
        number = re.fullmatch(r"(\d+)(?:\.0+)?", name)
        if number:
            name = f"SCUT-FBP-{int(number[1])}.jpg"
        row = LabelRow(
            str(data), line, name, cells[score], group={"group": "AF", "sex": "female", "ethnicity": "asian"}
        )
        if std and cells[std]:
            from aescli.data.datasets.base import optional_number

            row.std = optional_number(cells[std])
        rows.append(row)
    return assemble("scut-fbp", rows, source=data, scale=SCALE, images=images, unreadable=table.bad)


def is_labels_csv(columns: Iterable[str]) -> bool:
    return {"image", "score", "fold", "split6040"} <= {column.casefold() for column in columns}


def _merge(rows: dict[str, LabelRow], row: LabelRow, conflicts: list[Problem]) -> LabelRow:
    """The one row that stands for this image in all lists; a score that differs is a problem."""
    # Lists may mix the two naming schemes: both spellings are the same image.
    known = next((rows[name] for name in row.files if name in rows), None)
    if known is None:
        rows[row.name] = row
        return row
    if str(known.score).strip() != str(row.score).strip():
        try:
            same = abs(float(known.score) - float(row.score)) < 1e-6
        except ValueError:
            same = False
        if not same:
            conflicts.append(
                row.problem(f"score {row.score}, but {known.score} in {known.source}:{known.line}")
            )
    return known


def _fold_lists(folder: Path) -> dict[int, dict[str, Path]]:
    found: dict[int, dict[str, Path]] = {}
    pattern = re.compile(r"(train|test)_(\d+)\.txt", re.IGNORECASE)
    for path in sorted(folder.rglob("*.txt")):
        match = pattern.fullmatch(path.name)
        if match and path.parent in _fold_parents(folder, int(match[2])):
            found.setdefault(int(match[2]), {}).setdefault(match[1].lower(), path)
    return found


def _fold_parents(folder: Path, k: int) -> Sequence[Path]:
    return (folder, folder / f"cross_validation_{k}", *folder.glob(f"*/cross_validation_{k}"))


def _split_lists(folder: Path) -> dict[str, Path]:
    for parent in sorted(
        path for path in folder.glob("*") if path.is_dir() and "60" in path.name and "40" in path.name
    ):
        lists = {part: parent / f"{part}.txt" for part in ("train", "test")}
        if all(path.is_file() for path in lists.values()):
            return lists
    return {}
