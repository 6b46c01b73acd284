"""Options of `aes score` beyond its rows: what is shown, picked out and spread over machines.

It knows names and help texts. What they do is in `aescli.scoring`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from aescli.cli.common import option


class Engine(StrEnum):
    local = "local"
    ray = "ray"


CommentsOption = Annotated[
    str | None,
    option(
        "--comments",
        metavar="FILE.csv",
        help="What people wrote about the images, for --task miaa: a table with the columns image and comment "
        "(default: none).",
    ),
]
EngineOption = Annotated[
    Engine,
    option(
        "--engine",
        help="local: this machine; ray: the Ray cluster of RAY_ADDRESS, or this machine; --out is then a folder of "
        "Parquet files (default: local).",
    ),
]
UserOption = Annotated[
    list[str] | None,
    option(
        "--user",
        metavar="NAME|PATH|PATTERN",
        help="Also score as this person would, in a column score_NAME on their own scale: a name in users/, a "
        "folder, the profile, or a quoted pattern such as 'users/*'; once for each (default: nobody).",
    ),
]
GalleryOption = Annotated[
    str | None,
    option(
        "--gallery",
        metavar="FILE.html",
        help="Also write a page of thumbnails to sort, filter and search offline; above 5000 rows several "
        "pages (default: none).",
    ),
]
WhereOption = Annotated[
    str | None,
    option(
        "--where",
        metavar="CONDITION",
        help="Only the rows that fulfil it, such as 'score >= 4 and class_prob > 0.5'; columns, numbers, "
        "< <= > >= = !=, and, or, not, parentheses (default: all rows).",
    ),
]
CopyToOption = Annotated[
    str | None,
    option(
        "--copy-to",
        metavar="DIR",
        help="Copy the files of the rows (scored ones, or those of --where) into this folder; nothing there is "
        "overwritten, and images in it are not scored (default: none).",
    ),
]
LinkToOption = Annotated[
    str | None,
    option("--link-to", metavar="DIR", help="The same with symbolic links (default: none)."),
]
XmpOption = Annotated[
    bool,
    option(
        "--xmp",
        help="Write a star rating beside each of these files, or beside its copy, as FILE.xmp; sidecars that "
        "others wrote or changed stay (default: off).",
    ),
]
ShardOption = Annotated[
    str | None,
    option(
        "--shard",
        metavar="K/N",
        help="Only the K-th of N parts, for the jobs of an array; parts are told by the path (default: all).",
    ),
]
