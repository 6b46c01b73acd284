"""Labelled data sets: `read_dataset` finds out the layout and calls the reader for it.

Individual ratings are read by `aescli.data.datasets.ratings.read_ratings`. `layouts` knows which files belong to
which benchmark, the readers know the formats. Nothing here opens an image or knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aescli.data.datasets import generic, mebeauty, scored, scut, votes
from aescli.data.datasets.base import Dataset, Problem, ReadReport, Sample, collector_paused
from aescli.data.datasets.layouts import KINDS, Located, image_root, is_list, locate
from aescli.data.datasets.tables import stream_table
from aescli.errors import AesError, UsageError

__all__ = ["KINDS", "Dataset", "Problem", "ReadReport", "Sample", "read_dataset"]


def read_dataset(
    kind: str,
    data: Path | str,
    images: Path | str | None = None,
    *,
    match_images: bool = True,
    image_column: str | None = None,
    score_columns: Sequence[str] = (),
    comment_column: str | None = None,
    scale: tuple[float, float] | None = None,
    variant: mebeauty.Variant = "crops",
) -> Dataset:
    """Read a labelled data set.

    kind: one of `KINDS`, or "auto" to tell from the files.
    data: the label file, or the folder that holds the data set.
    images: folder of the images (searched recursively); None = the usual place beside the labels.
    match_images: False reads labels only: paths stay as spelt, nothing is reported as missing.
    image_column, score_columns, comment_column, scale: for tables ("csv"); naming a column turns "auto" into "csv".
    variant: for MEBeauty, "crops" or "originals".
    Raises AesError when nothing usable is found and UsageError for options that cannot be.
    """
    data = Path(data)
    if kind not in (*KINDS, "auto"):
        raise UsageError(f"'{kind}' is no data set layout; choose from auto, {', '.join(KINDS)}")
    if not data.exists():
        raise AesError(f"{data} does not exist; --data names a label file or the folder of a data set")
    named = bool(image_column or score_columns or comment_column)
    if kind == "auto" and named:
        kind = "csv"
    located = locate(kind, data)
    # Checked before the images are searched: a scale the wrong way round would make every score wrong.
    if scale is not None and not scale[0] < scale[1]:
        raise UsageError(f"a scale needs low < high, got {scale[0]:g} to {scale[1]:g}")
    if located.kind != "csv" and (named or scale):
        raise UsageError(
            f"columns and scale of {located.kind} are fixed; they can be named for the layout 'csv' only"
        )
    root = image_root(located, data, images) if match_images else None
    with collector_paused():
        if located.kind != "csv":
            dataset = _read(located, root, variant)
        else:
            dataset = generic.read(
                located.parts, root, image_column=image_column, score_columns=score_columns,
                comment_column=comment_column, scale=scale,
            )  # fmt: skip
    dataset.notes.files = dataset.notes.files or located.files
    return dataset


def _read(located: Located, root: Path | None, variant: mebeauty.Variant) -> Dataset:
    kind, source, parts = located.kind, located.source, located.parts
    if kind == "mebeauty":
        return mebeauty.read(source, root, variant)
    if kind == "scut-fbp":
        return scut.read_workbook(source, root)
    if kind == "scut-fbp5500":
        if source.is_dir():
            return scut.read_official(source, root)
        return scut.read_single_list(source, root) if is_list(source) else scut.read_labels_csv(source, root)
    if kind == "ava" and parts[0].path.suffix.lower() == ".json":
        return votes.read_ava_json(parts, root)
    if kind == "ava" and votes.kind_of_text(parts[0].path) == "ava":
        return votes.read_ava_text(parts, root)
    if kind == "ava-captions" and parts[0].path.suffix.lower() == ".json":
        return votes.read_captions_json(parts, root)
    if kind == "photonet" and votes.kind_of_text(parts[0].path) == "photonet":
        return votes.read_photonet_text(parts, root)
    if kind in votes.BINS:
        return votes.read_votes_csv(kind, parts, root)
    if kind == "flickr-aes" or (kind == "para" and not scored.is_para(stream_table(parts[0].path).columns)):
        from aescli.data.datasets.ratings import read_means

        if source.is_dir():  # lists of means; ratings come in one file
            raise AesError(f"{parts[0].path}: not PARA's list of means: {scored.para_lacks(parts[0].path)}")
        return read_means(kind, source, root)
    fixed = {
        "aadb": scored.read_aadb, "tad66k": scored.read_tad66k, "para": scored.read_para,
        "sophoappeal": scored.read_sophoappeal,
    }  # fmt: skip
    return fixed[kind](parts, root)
