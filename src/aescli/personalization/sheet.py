"""What a person fills in: a ratings table, and one self-contained page on which photos are rated by click or key.

It knows image files and HTML. It knows nothing about models or why these photos were chosen.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from aescli.data.images import load_image
from aescli.folders import write_whole

_THUMBNAIL = 480  # pixels of the long side
_MOST_LEVELS = 20
_USUAL_LEVELS = 11


def rating_levels(scale: tuple[float, float]) -> list[float]:
    """The buttons of a scale: its whole numbers, else the round steps (1, 2 or 5 times a power of ten) that give about
    eleven of them, else eleven equal steps."""
    low, high = scale
    if low.is_integer() and high.is_integer() and 2 <= high - low <= _MOST_LEVELS:
        return [float(level) for level in range(int(low), int(high) + 1)]
    power = 10.0 ** np.floor(np.log10((high - low) / _USUAL_LEVELS))
    fitting = [
        round((high - low) / step) + 1
        for step in (power * round_step for round_step in (1, 2, 5, 10, 20))
        if all(abs(end / step - round(end / step)) < 1e-6 for end in scale)
    ]
    few = [levels for levels in fitting if levels <= _MOST_LEVELS + 1]
    count = min(few, key=lambda levels: abs(levels - _USUAL_LEVELS), default=_USUAL_LEVELS)
    return [round(float(level), 6) for level in np.linspace(low, high, count)]


def rating_keys(levels: Sequence[float]) -> dict[str, float]:
    """Digit → level: the level itself on a scale that counts in ones, else the steps from 0, else the level's place.

    0 stands for ten where it does not stand for itself. Levels without a digit have none.
    """
    ones = levels[0] >= 0 and levels[1] - levels[0] == 1
    start = int(levels[0]) if ones else 0 if levels[0] == 0 else 1
    digits = range(10) if start == 0 else range(1, 11)
    return {str(d % 10): levels[d - start] for d in digits if 0 <= d - start < len(levels)}


def keys_in_words(levels: Sequence[float]) -> str:
    """What the digits do, for the page."""
    keys = rating_keys(levels)
    others = [f"{key} means {level:g}" for key, level in keys.items() if float(key) != level]
    if len(others) > 3:
        others = [*others[:2], "…", others[-1]]
    return "digits rate and go on" + (f" ({', '.join(others)})" if others else "")


def write_sheet(
    sheet: Path, page: Path, user: str, scale: tuple[float, float], images: Sequence[tuple[str, Path]]
) -> None:
    """A table `image,score` with empty scores, and one HTML file to fill it in: both, or neither.

    The page needs no network: photos as thumbnails, a button per level, a CSV called as `sheet` to download. images:
    (name for the CSV, file). Raises ImageError for an unreadable file, AesError where the two cannot be written.
    """
    names = [name for name, _ in images]
    write_whole({page: page_of(user, scale, images, sheet.name), sheet: table_of(names)})


def table_of(images: Sequence[str]) -> str:
    """CSV text: `image,score`, a row for each image, no scores."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["image", "score"])
    writer.writerows([image, ""] for image in images)
    return out.getvalue()


def page_of(user: str, scale: tuple[float, float], images: Sequence[tuple[str, Path]], sheet: str) -> str:
    """HTML text of the page; see `write_sheet`. sheet: the file name of the download."""
    levels = rating_levels(scale)
    photos = [{"image": name, "picture": _thumbnail(file)} for name, file in images]
    data = {"user": user, "levels": levels, "keys": rating_keys(levels), "photos": photos, "sheet": sheet}
    values = {
        "USER": html.escape(user),
        "LOWEST": f"{levels[0]:g}",
        "HIGHEST": f"{levels[-1]:g}",
        "KEYS": keys_in_words(levels),
        # </script> inside a file name must not end the script.
        "DATA": json.dumps(data, ensure_ascii=True).replace("<", "\\u003c"),
    }
    page = resources.files("aescli.personalization").joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(
        "__([A-Z]+)__", lambda place: values[place[1]], page
    )  # in one pass: a name may look like a place


def _thumbnail(file: Path) -> str:
    picture = Image.fromarray(load_image(file, _THUMBNAIL // 2).pixels)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
