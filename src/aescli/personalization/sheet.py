"""What a person fills in: a ratings table, and one self-contained page on which photos are rated by click or key.

It knows image files and HTML. It knows nothing about models or why these photos were chosen.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from aescli.data.images import load_image

_THUMBNAIL = 480  # pixels of the long side
_MOST_LEVELS = 20


def rating_levels(scale: tuple[float, float]) -> list[float]:
    """The buttons of a scale: its whole numbers, or eleven equal steps where there are none or too many."""
    low, high = scale
    if low.is_integer() and high.is_integer() and high - low <= _MOST_LEVELS:
        return [float(level) for level in range(int(low), int(high) + 1)]
    return [round(float(level), 6) for level in np.linspace(low, high, 11)]


def write_sheet(path: Path, images: Sequence[str]) -> None:
    """A table `image,score` with empty scores."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "score"])
        writer.writerows([image, ""] for image in images)


def write_page(
    path: Path, user: str, scale: tuple[float, float], images: Sequence[tuple[str, Path]], sheet: str
) -> None:
    """One HTML file that needs no network: photos as thumbnails, a button per level, a CSV to download.

    images: (name for the CSV, file). sheet: the file name of the download. ImageError for an unreadable file.
    """
    photos = [{"image": name, "picture": _thumbnail(file)} for name, file in images]
    data = {"user": user, "levels": rating_levels(scale), "photos": photos, "sheet": sheet}
    # </script> inside a file name must not end the script.
    text = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    page = resources.files("aescli.personalization").joinpath("page.html").read_text(encoding="utf-8")
    path.write_text(page.replace("__USER__", html.escape(user)).replace("__DATA__", text), encoding="utf-8")


def _thumbnail(file: Path) -> str:
    picture = Image.fromarray(load_image(file, _THUMBNAIL // 2).pixels)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
