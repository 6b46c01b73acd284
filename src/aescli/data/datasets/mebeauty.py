"""Reader for MEBeauty's `labels.csv`.

Knows its columns and the choice between aligned crops and whole photos; knows nothing about models, splits or
individual ratings (see `ratings`).

Source: Lebedeva, Guo and Ying, "MEBeauty: a multi-ethnic facial beauty dataset in-the-wild", 2022.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from aescli.data.datasets.base import Dataset, LabelRow, assemble, optional_number
from aescli.data.datasets.tables import read_table

SCALE = (1.0, 10.0)
Variant = Literal["crops", "originals"]


def read(data: Path, images: Path | None, variant: Variant = "crops") -> Dataset:
    """`labels.csv` (file, crop, original, split, mean, std, count, sex, ethnicity).

    variant: "crops" reads the aligned faces, "originals" the whole photos; an image that has none of
    that kind is reported as missing. `images` is the data set's folder (or the folder of that kind).
    """
    if variant not in ("crops", "originals"):
        raise ValueError(f"variant is 'crops' or 'originals', not {variant!r}")
    table = read_table(data)
    columns = {wanted: table.column(wanted) for wanted in ("file", "mean")}
    column = "crop" if variant == "crops" else "original"
    where = table.column(column)
    if images is not None and (images / variant).is_dir():
        images = images / variant  # else the other kind would count as images without a label
    rows = []
    for line, cells in table.rows:
        name = cells[columns["file"]]
        count = optional_number(cells.get("count"))
        row = LabelRow(str(data), line, name, cells[columns["mean"]])
        row.files = (cells[where], name)
        row.no_image = "" if cells[where] else f"the label file names no {column} of it"
        row.split = cells.get("split") or None
        row.std = optional_number(cells.get("std"))
        row.n_ratings = None if count is None else int(count)
        row.group = {key: cells[key] for key in ("sex", "ethnicity") if cells.get(key)}
        rows.append(row)
    return assemble("mebeauty", rows, source=data, scale=SCALE, images=images, unreadable=table.bad)


def is_labels_csv(columns: Iterable[str]) -> bool:
    return {"file", "crop", "original", "mean"} <= {column.casefold() for column in columns}
