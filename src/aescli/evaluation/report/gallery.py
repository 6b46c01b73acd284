"""Small pictures for the page: the images with the highest and lowest predictions and the largest errors.

Knows image files and arrays; knows nothing about HTML.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIDE = 168  # pixels of the longer side


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """name: the label's spelling. picture: a data URI. predicted, true: on the predictions' scale."""

    name: str
    picture: str
    predicted: float
    true: float


def extremes(pred: np.ndarray, true: np.ndarray, count: int = 6) -> dict[str, list[int]]:
    """Positions of the highest, the lowest and the most wrong predictions, the most extreme first.

    Where there are few images a position may be in more than one list; within a list it is there once.
    """
    order = np.argsort(-pred, kind="stable")
    wrong = np.argsort(-np.abs(pred - true), kind="stable")
    return {
        "highest scores": order[:count].tolist(),
        "lowest scores": order[::-1][:count].tolist(),
        "largest errors": wrong[:count].tolist(),
    }


def thumbnails(
    positions: Sequence[int],
    names: Sequence[str],
    paths: Mapping[str, Path],
    pred: np.ndarray,
    true: np.ndarray,
) -> list[Thumbnail]:
    """The pictures at `positions`, upright and small; a file that cannot be read is left out."""
    from aescli.data.images import ImageError

    found = []
    for i in positions:
        try:
            picture = data_uri(paths[names[i]])
        except ImageError:
            continue
        found.append(Thumbnail(names[i], picture, float(pred[i]), float(true[i])))
    return found


def data_uri(path: Path) -> str:
    """The picture at most `SIDE` pixels wide and high, as a JPEG inside a data URI."""
    from PIL import Image

    from aescli.data.images import load_image

    image = Image.fromarray(load_image(path, SIDE).pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
