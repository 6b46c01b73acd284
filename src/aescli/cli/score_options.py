"""Options of `aes score` beyond its rows: what is shown, picked out and spread over machines.

It knows names and help texts. What they do is in `aescli.scoring`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

# Help texts state their defaults in words.
_option = partial(typer.Option, show_default=False)

CommentsOption = Annotated[
    str | None,
    _option(
        "--comments",
        metavar="FILE.csv",
        help="What people wrote about the images, for --task miaa: a table with the columns image and comment "
        "(default: none).",
    ),
]
GalleryOption = Annotated[
    str | None,
    _option(
        "--gallery",
        metavar="FILE.html",
        help="Also write a page of thumbnails to sort, filter and search offline; above 5000 rows several "
        "pages (default: none).",
    ),
]
