"""The options of `aes eval`: their names, types and help texts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from aescli.cli.common import option


class EvalFormat(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


class Variant(StrEnum):
    crops = "crops"
    originals = "originals"


class EvalFaces(StrEnum):
    auto = "auto"
    largest = "largest"
    none = "none"


DataOption = Annotated[
    Path,
    option("--data", metavar="PATH", help="Label file, or the folder of a data set."),
]
PredictionsOption = Annotated[
    Path | None,
    option(
        "--predictions",
        metavar="FILE",
        help="Measure these scores (csv, tsv, json, jsonl, parquet; of any tool) instead "
        "of a model's (default: none).",
    ),
]
EvalImagesOption = Annotated[
    Path | None,
    option(
        "--images",
        metavar="DIR",
        help="Folder of the images (default: beside the labels; with --predictions none is needed).",
    ),
]
VariantOption = Annotated[
    Variant,
    option("--variant", help="MEBeauty: the aligned crops or the whole photos (default: crops)."),
]
FoldOption = Annotated[
    int | None,
    option("--fold", metavar="K", min=1, help="Only the test images of official fold K (default: all)."),
]
SplitOption = Annotated[
    str | None,
    option(
        "--split",
        metavar="NAME",
        help="Only the images of this split, or FILE.json:PART of a saved one (default: all).",
    ),
]
TrainPartOption = Annotated[
    bool,
    option(
        "--train-part",
        help="Also measure the other images of the --fold or --split, and the gap between the two "
        "(default: off).",
    ),
]
AgainstOption = Annotated[
    str | None,
    option(
        "--against",
        metavar="FILE|MODEL",
        help="Compare with these predictions, or this model, on the same images: difference with interval "
        "and p of a permutation test (default: none).",
    ),
]
GroupByOption = Annotated[
    str | None,
    option(
        "--group-by",
        metavar="COLUMN",
        help="A row for each value of this label column, and the largest gap (default: none).",
    ),
]
FormatOption = Annotated[
    EvalFormat,
    option("--format", "-f", help="Output format (default: table)."),
]
OutOption = Annotated[
    Path | None,
    option("--out", "-o", metavar="FILE", help="Where the result goes (default: standard output)."),
]
ReportOption = Annotated[
    Path | None,
    option(
        "--report",
        metavar="DIR",
        help="Also write metrics.json, predictions.csv, figures (PNG, SVG) and one HTML page that shows them "
        "(default: none).",
    ),
]
ReportsOption = Annotated[
    list[Path] | None,
    option(
        "--repeat",
        metavar="DIR",
        help="Report folder of another fold or repeat, for the box plots over all of them; once for each "
        "(default: none).",
    ),
]
PredictionColumnsOption = Annotated[
    str | None,
    option(
        "--prediction-columns",
        metavar="IMAGE,SCORE",
        help="Image and score column of --predictions and --against (default: guessed).",
    ),
]
ScaleOption = Annotated[
    str | None,
    option(
        "--scale",
        metavar="LOW,HIGH",
        help="Scale of --predictions (default: 1,5 for a file of aes score, else the labels').",
    ),
]
CutsOption = Annotated[
    str | None,
    option(
        "--cuts",
        metavar="A,B,…",
        help="Class boundaries on the predictions' scale (default: the model's, else the data set's).",
    ),
]
GoodAboveOption = Annotated[
    float | None,
    option(
        "--good-above",
        metavar="SCORE",
        help="Scores above this are good, on the predictions' scale (default: the data set's, else the "
        "middle of the scale).",
    ),
]
FacesOption = Annotated[
    EvalFaces,
    option("--faces", help="As in aes score; none: images are face crops already (default: auto)."),
]
ResamplesOption = Annotated[
    int,
    option("--resamples", metavar="N", min=0, help="Bootstrap resamples; 0 = no intervals (default: 10000)."),
]
SeedOption = Annotated[
    int,
    option(
        "--seed",
        metavar="N",
        min=0,
        help="Seed of the resamples, or of the draws of --personalized (default: 0).",
    ),
]
