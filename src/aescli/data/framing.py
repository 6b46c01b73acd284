"""A whole picture on a model's square input: proportions kept on grey, or stretched.

Knows pixels only.
"""

from typing import Literal

import cv2
import numpy as np
from PIL import Image

Fit = Literal["pad", "stretch"]

OUTSIDE = 127
"""Grey value of what lies outside the photo in an aligned or padded picture."""


def whole_picture(image: np.ndarray, size: int, fit: Fit = "pad") -> np.ndarray:
    """(H, W, 3) uint8 → (size, size, 3) uint8 as a model with that `fit` sees a whole picture."""
    return square_resize(image, size) if fit == "pad" else stretch_resize(image, size)


def square_resize(image: np.ndarray, size: int = 224) -> np.ndarray:
    """The whole picture, proportions kept, on a grey square: (H, W, 3) uint8 → (size, size, 3) uint8."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    square = np.full((size, size, 3), OUTSIDE, np.uint8)
    top, left = (size - h) // 2, (size - w) // 2
    square[top : top + h, left : left + w] = small
    return square


def stretch_resize(image: np.ndarray, size: int) -> np.ndarray:
    """The whole picture pressed into a square, bicubic with antialiasing (AesMamba §4.2): → (size, size, 3) uint8."""
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(resized)
