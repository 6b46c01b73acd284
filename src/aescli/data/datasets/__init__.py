"""Labelled data sets: `read_dataset` finds out the layout and calls the reader for it.

Knows which files belong to which benchmark and where their images usually lie; the readers know the
formats. Nothing here opens an image or knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aescli.data.datasets import generic, mebeauty, scut
from aescli.data.datasets.base import Dataset, Problem, ReadReport, Sample
from aescli.data.datasets.tables import read_table
from aescli.errors import AesError, UsageError

__all__ = ["KINDS", "Dataset", "Problem", "ReadReport", "Sample", "read_dataset"]

KINDS = ("scut-fbp5500", "scut-fbp", "mebeauty", "csv")
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx")
_IMAGE_FOLDERS = ("images", "Images", "imgs", "Data_Collection")


def read_dataset(
    kind: str,
    data: Path | str,
    images: Path | str | None = None,
    *,
    match_images: bool = True,
    image_column: str | None = None,
    score_columns: Sequence[str] = (),
    scale: tuple[float, float] | None = None,
    variant: mebeauty.Variant = "crops",
) -> Dataset:
    """Read a labelled data set.

    kind: one of `KINDS`, or "auto" to tell from the files.
    data: the label file, or the folder that holds the data set.
    images: folder of the images (searched recursively); None = the usual place beside the labels.
    match_images: False reads labels only: paths stay as spelt, nothing is reported as missing.
    image_column, score_columns, scale: for tables ("csv"); naming one turns "auto" into "csv".
    variant: for MEBeauty, "crops" or "originals".
    Raises AesError when nothing usable is found and UsageError for options that cannot be.
    """
    data = Path(data)
    if kind not in (*KINDS, "auto"):
        raise UsageError(f"'{kind}' is no data set layout; choose from auto, {', '.join(KINDS)}")
    if not data.exists():
        raise AesError(f"{data} does not exist; --data names a label file or the folder of a data set")
    if kind == "auto" and (image_column or score_columns):
        kind = "csv"
    kind, source = _locate(kind, data)
    # Checked before the images are searched: a scale the wrong way round would make every score wrong.
    if scale is not None and not scale[0] < scale[1]:
        raise UsageError(f"a scale needs low < high, got {scale[0]:g} to {scale[1]:g}")
    root = _image_root(kind, data, source, images) if match_images else None
    if kind == "csv":
        return generic.read(
            source, root, image_column=image_column, score_columns=score_columns, scale=scale
        )  # fmt: skip
    if image_column or score_columns or scale:
        raise UsageError(
            f"columns and scale of {kind} are fixed; they can be named for the layout 'csv' only"
        )
    if kind == "mebeauty":
        return mebeauty.read(source, root, variant)
    if kind == "scut-fbp":
        return scut.read_workbook(source, root)
    if source.is_dir():
        return scut.read_official(source, root)
    return scut.read_single_list(source, root) if _is_list(source) else scut.read_labels_csv(source, root)


def _locate(kind: str, data: Path) -> tuple[str, Path]:
    """(kind, the label file or the official list folder)."""
    if data.is_file():
        return (_kind_of(data) if kind == "auto" else kind), data
    if kind in ("auto", "scut-fbp5500"):
        if (data / "labels.csv").is_file():
            return _locate(kind, data / "labels.csv")
        lists = scut.find_lists(data)
        if lists is not None:
            return "scut-fbp5500", lists
        if kind == "scut-fbp5500":
            raise AesError(f"{data} holds neither labels.csv nor the official train_test_files lists")
    if kind in ("auto", "scut-fbp"):
        books = sorted(path for path in data.rglob("*.xlsx") if "attractiveness" in path.name.casefold())
        if len(books) == 1:
            return "scut-fbp", books[0]
        if kind == "scut-fbp":
            raise AesError(f"{data} does not hold one 'Attractiveness label.xlsx'; name the workbook itself")
    if (data / "labels.csv").is_file():
        return _locate(kind, data / "labels.csv")
    tables = sorted(path for path in data.iterdir() if path.suffix.lower() in _TABLE_SUFFIXES)
    if len(tables) == 1:
        return _locate(kind, tables[0])
    what = f"{len(tables)} tables ({', '.join(p.name for p in tables[:4])})" if tables else "no label file"
    raise AesError(f"{data} holds {what}; name the label file itself with --data")


def _kind_of(source: Path) -> str:
    suffix = source.suffix.lower()
    if suffix == ".xlsx":
        return "scut-fbp" if "attractiveness" in source.name.casefold() else "csv"
    if _is_list(source):
        return "scut-fbp5500"
    columns = read_table(source).columns
    if scut.is_labels_csv(columns):
        return "scut-fbp5500"
    return "mebeauty" if mebeauty.is_labels_csv(columns) else "csv"


def _is_list(source: Path) -> bool:
    """A .txt list "AF437.jpg 2.883333" (a table's first line does not parse to such a name)."""
    if source.suffix.lower() != ".txt":
        return False
    rows, _ = scut.read_score_list(source)
    return bool(rows) and bool(scut.group_of(rows[0].name))


def _image_root(kind: str, data: Path, source: Path, images: Path | str | None) -> Path:
    if images is not None:
        return Path(images)
    base = data if data.is_dir() else data.parent
    if kind == "mebeauty":
        return base
    homes = [base]
    if source.is_dir():  # the official lists lie beside the images' folder
        homes += [source.parent, source]
    for home in homes:
        for folder in _IMAGE_FOLDERS:
            if (home / folder).is_dir():
                return home / folder
    return base
