"""Finds out which benchmark a file or folder is, which of its files hold the labels, and where the images lie.

Knows the benchmarks' file names and what their columns give away; reads first lines only. Knows nothing about
what labels mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from aescli.data.datasets import mebeauty, scored, scut, votes
from aescli.data.datasets.parts import Part, find_parts
from aescli.data.datasets.tables import stream_table
from aescli.errors import AesError

KINDS = (
    "scut-fbp5500", "scut-fbp", "mebeauty", "ava", "ava-captions", "photonet", "photonet-captions", "aadb",
    "tad66k", "para", "flickr-aes", "sophoappeal", "csv",
)  # fmt: skip
"""The layouts that `read_dataset` knows."""

_LISTED = (
    "ava", "ava-captions", "photonet", "photonet-captions", "aadb", "tad66k", "para", "sophoappeal", "csv",
)  # fmt: skip
"""Those that may come as train / val / test lists."""

_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx")
_IMAGE_FOLDERS = (
    "images", "Images", "imgs", "image", "Data_Collection", "40K", "datasetImages_originalSize",
    "datasetImages_warp256",
)  # fmt: skip
_LABEL_FOLDERS = ("annotation", "annotations", "label", "labels", "imgListFiles_label")
_TEXTS = ("readme", "license", "licence", "notice")
_MERGED = "merge"  # in TAD66K's labels, beside the lists by theme

# What a folder may hold at once: the first that is there is the data set (PARA's ratings have its means beside them).
_KNOWN_FILES = (
    ("para", "PARA-GiaaTrain.csv"),
    ("para", "PARA-Images.csv"),
    ("ava", "AVA.txt"),
    ("flickr-aes", "FLICKR-AES_image_labeled_by_each_worker.csv"),
)


@dataclass(frozen=True, slots=True)
class Located:
    """kind: one of `KINDS`. source: the label file, or the folder of several. parts: the files, for most kinds."""

    kind: str
    source: Path
    parts: tuple[Part, ...]

    @property
    def files(self) -> list[Path]:
        """The label files: the parts, else what the folder holds."""
        if self.parts or not self.source.is_dir():
            return [part.path for part in self.parts] or [self.source]
        return [path for path in self.source.rglob("*") if path.suffix.lower() in _TABLE_SUFFIXES]


def locate(kind: str, data: Path) -> Located:
    """The label files of `data` (a file or folder). Raises AesError that says what there is instead."""
    if data.is_file():
        kind = kind_of(data) if kind == "auto" else kind
        return Located(kind, data, (Part(data),))
    if kind in ("auto", "scut-fbp5500"):
        if (data / "labels.csv").is_file():
            return locate(kind, data / "labels.csv")
        lists = scut.find_lists(data)
        if lists is not None:
            return Located("scut-fbp5500", lists, ())
        if kind == "scut-fbp5500":
            raise AesError(f"{data} holds neither labels.csv nor the official train_test_files lists")
    for named, name in _KNOWN_FILES:
        if kind in ("auto", named):
            file = _find(data, name)
            if file is not None:
                siblings = [part for part in find_parts(_tables(file.parent)) if Part(file, "train") in part]
                parts = siblings[0] if siblings else [Part(file)]
                return Located(named, parts[0].path if len(parts) == 1 else file.parent, tuple(parts))
    if kind == "ava-captions":
        captions = [path for path in _tables(data, (".json",)) if votes.is_captions_json(path)]
        if len(captions) == 1:
            return Located(kind, captions[0], (Part(captions[0]),))
        if captions:
            names = ", ".join(path.name for path in captions)
            raise AesError(f"{data} holds {len(captions)} files of captions ({names}); name one with --data")
    if kind in ("auto", "scut-fbp"):
        books = sorted(path for path in data.rglob("*.xlsx") if "attractiveness" in path.name.casefold())
        if len(books) == 1:
            return Located("scut-fbp", books[0], (Part(books[0]),))
        if kind == "scut-fbp":
            raise AesError(f"{data} does not hold one 'Attractiveness label.xlsx'; name the workbook itself")
    if (data / "labels.csv").is_file():
        return locate(kind, data / "labels.csv")
    return _only_table(kind, data)


def _only_table(kind: str, data: Path) -> Located:
    """The one table of the folder, or its one set of train / val / test lists."""
    tables = _tables_or_json(data)
    if kind in ("auto", "aadb") and (lists := scored.find_aadb_lists(tables)):
        return Located("aadb", lists[0].path if len(lists) == 1 else data, tuple(lists))
    if len(tables) == 1:
        return locate(kind, tables[0])
    sets = []
    for parts in find_parts(tables):
        found = kind_of(parts[0].path) if kind == "auto" else kind
        if found in _LISTED:
            sets.append(Located(found, data, tuple(parts)))
    if len(sets) == 1:
        return sets[0]
    if not tables and (inside := _label_folder(data)) is not None:
        return _only_table(kind, inside)
    what = f"{len(tables)} tables ({', '.join(p.name for p in tables[:4])})" if tables else "no label file"
    raise AesError(f"{data} holds {what}; name the label file itself with --data")


def kind_of(source: Path) -> str:
    """Which layout a label file is, from its name, its columns and its first row."""
    suffix = source.suffix.lower()
    if suffix == ".xlsx":
        return "scut-fbp" if "attractiveness" in source.name.casefold() else "csv"
    if suffix == ".json":
        return "ava-captions" if votes.is_captions_json(source) else "ava"
    if (kind := votes.kind_of_text(source)) is not None:
        return kind
    if scored.find_aadb_lists([source]):
        return "aadb"
    if is_list(source):
        return "scut-fbp5500"
    from aescli.data.datasets import ratings

    table = stream_table(source)
    columns = table.columns
    folded = {column.casefold() for column in columns}
    if scut.is_labels_csv(columns):
        return "scut-fbp5500"
    if mebeauty.is_labels_csv(columns):
        return "mebeauty"
    if scored.is_para(columns):
        return "para"
    if scored.is_sophoappeal(columns):
        return "sophoappeal"
    rated = ratings.kind_of_columns(columns)
    if rated in ("para", "flickr-aes"):
        return rated
    # One bad row must not hide, or decide, what the others are.
    voted = Counter(votes.kind_of_columns(columns, cells) for _, cells in islice(table, 20))
    del voted[None]
    if voted:
        return voted.most_common(1)[0][0]
    # An image and a score: only the name of the file, or of a folder around it, can tell whose they are.
    path = source.resolve()
    names = " ".join(part.casefold() for part in (path.stem, *(p.name for p in list(path.parents)[:3])))
    if {"name", "score"} <= folded and "aadb" in names:
        return "aadb"
    return "tad66k" if {"image", "score"} <= folded and "tad66k" in names else "csv"


def is_list(source: Path) -> bool:
    """A .txt list "AF437.jpg 2.883333" (a table's first line does not parse to such a name)."""
    if source.suffix.lower() != ".txt":
        return False
    rows, _ = scut.read_score_list(source)
    return bool(rows) and bool(scut.group_of(rows[0].name))


def image_root(located: Located, data: Path, images: Path | str | None) -> Path:
    """The folder of the images: as given, else the usual place beside the labels."""
    if images is not None:
        return Path(images)
    base = data if data.is_dir() else data.parent
    if located.kind == "mebeauty":
        return base
    homes = [base]
    if located.source.is_dir():  # the official lists lie beside the images' folder
        homes += [located.source.parent, located.source]
    for label_folder in (base, *(part.path.parent for part in located.parts)):
        if label_folder.name == _MERGED:
            label_folder = label_folder.parent
        if label_folder.name.casefold() in map(str.casefold, _LABEL_FOLDERS):
            homes.append(label_folder.parent)
    for home in homes:
        # AADB's test images lie beside the folder of the others.
        if (home / scored.AADB_ORIGINALS[1]).is_dir():
            return home
        for folder in _IMAGE_FOLDERS:
            if (home / folder).is_dir():
                return home / folder
    return base


def _find(folder: Path, name: str) -> Path | None:
    """The file of that name in the folder (in any case of letters), in a folder of it, or in a label folder there."""
    entries = sorted(folder.iterdir())
    for path in entries:
        if path.name.casefold() == name.casefold() and path.is_file():
            return path
    # Asked for by name: listing a folder of 250,000 images to look for a table would take seconds.
    for home in (folder, *(path for path in entries if path.is_dir())):
        for inside in (home, *(home / label for label in _LABEL_FOLDERS)):
            if (inside / name).is_file():
                return inside / name
    return None


def _label_folder(folder: Path) -> Path | None:
    """The first folder of labels in a data set's folder that holds tables, itself or in its folder `merge`."""
    for inside in _LABEL_FOLDERS:
        for path in (folder / inside, folder / inside / _MERGED):
            if path.is_dir() and _tables_or_json(path):
                return path
    return None


def _tables_or_json(folder: Path) -> list[Path]:
    """The folder's tables; only where there is none its JSON files, which may be anything."""
    return _tables(folder) or _tables(folder, (".json",))


def _tables(folder: Path, suffixes: Sequence[str] = _TABLE_SUFFIXES) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in suffixes and p.stem.casefold() not in _TEXTS and p.is_file()
    )
