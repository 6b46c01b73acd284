"""Recognises files and pictures again: the same bytes by a digest, nearly the same picture by 64 bits.

It knows nothing of what the hashes are used for (training images on a model's card, near-duplicate groups).
"""

from __future__ import annotations

import hashlib
import os

import cv2
import numpy as np

from aescli.data.images import ImageError, explain_os_error, open_regular


def content_hash(path: str | os.PathLike[str]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the file's bytes. ImageError when it cannot be read."""
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError as error:
            raise ImageError(os.fspath(path), explain_os_error(error)) from error


def perceptual_hash(pixels: np.ndarray) -> np.uint64:
    """64 bits of a picture's coarse structure; near-duplicates differ in a few bits (count those of the XOR).

    pixels: (H, W, 3) uint8 RGB. The picture is reduced to 32×32 grey values; the bits say which of the 8×8
    lowest DCT frequencies lie above their median (the constant one left out of it; "pHash", Zauner 2010).
    Robust to scaling, compression and brightness, not to cropping, turning or mirroring. A picture of one
    colour gives 0.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ValueError(f"expected (H, W, 3) uint8 pixels, got {pixels.shape} {pixels.dtype}")
    # Reduced before it turns grey: the other way round costs a pass over the whole picture.
    small = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small @ np.array([0.299, 0.587, 0.114], np.float32)
    low = cv2.dct(np.ascontiguousarray(grey))[:8, :8].ravel()
    low[np.abs(low) < 1e-2] = 0.0  # rounding noise of flat pictures must not decide bits
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean brightness says nothing about structure
    return np.packbits(bits).view(">u8")[0].astype(np.uint64)
