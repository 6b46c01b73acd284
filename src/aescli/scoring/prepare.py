"""One image file → what the model gets: decode, find faces, cut them out. Every failure becomes a sentence.

It knows the decoder, the face detector and the crops the model was trained on. It knows nothing about
batches, models' insides or rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from aescli.data.faces import Face, FaceDetector, align_face, is_tight_crop
from aescli.data.finding import Found, printable
from aescli.data.framing import Fit, whole_picture
from aescli.data.images import Decoded, ImageError, load_image
from aescli.data.remote import status
from aescli.errors import AesError, UsageError
from aescli.scoring.rows import NO_COMMENT, NO_FACE

FACE_MODES = ("auto", "largest", "all", "none")

_ENOUGH = 1.0
"""A face is decoded again at a larger scale when its crop would have to be enlarged by more than this."""


class Preprocessing(Protocol):
    """What of a checkpoint's preprocessing matters here; see `aescli.models.checkpoint.Preprocessing`."""

    size: int
    fit: Fit
    faces: bool
    eye_mouth: float
    eye_y: float


@dataclass(frozen=True, slots=True)
class Crop:
    """pixels: (S, S, 3) uint8 RGB. face: box in pixels of the upright original, or None for the whole
    image."""

    pixels: np.ndarray
    face_index: int | None = None
    face: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image file ready for the model: crops (possibly several), or an error and no crop.

    text: what people wrote about the image, for models that read it.
    """

    path: str
    crops: list[Crop] = field(default_factory=list)
    error: str = ""
    size: int | None = None
    mtime_ns: int | None = None
    text: str = ""


def face_mode(preprocessing: Preprocessing, faces: str) -> str:
    """What the `faces` that was asked for means for a model: one of whole images takes `auto` for `none`.

    Raises:
        ValueError: an unknown mode. UsageError: faces asked of a model of whole images.
    """
    if faces not in FACE_MODES:
        raise ValueError(f"faces must be one of {', '.join(FACE_MODES)}, got {faces!r}")
    if preprocessing.faces:
        return faces
    if faces not in ("auto", "none"):
        raise UsageError(f"--faces {faces}: this model scores whole images, not faces; leave it out")
    return "none"


class Preparer:
    """Found → Prepared, for one face mode. Safe to call from several threads; never raises for a bad file.

    faces: `none` scores the whole image; `largest` its largest face; `all` every face, largest first; `auto`
    the largest face, but an image that is a tight face crop already is scored whole (see also `face_mode`). text: finds
    what people wrote about an image by its path; an image without gets an error. see: is shown every decoded picture
    with its path, in the thread that decoded it. `target` is what `load_image` is asked for.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        faces: str = "auto",
        detector: Callable[..., list[Face]] | None = None,
        text: Callable[[str], str | None] | None = None,
        see: Callable[[str, Decoded], None] | None = None,
    ):
        faces = face_mode(preprocessing, faces)
        self._preprocessing, self._faces, self._text = preprocessing, faces, text
        self._see = see
        self._detector = detector or (None if faces == "none" else FaceDetector())
        # Faces seldom fill a photo. Decoded twice as large, most are large enough for their crop at once, and small
        # ones are found: of faces that are 4 % of the long side of a 12-megapixel photo, all instead of 6 in 10. It
        # costs a fifth more of a JPEG's decode, where a second decode costs it all again; a photo without a face costs
        # three times as much as without it, since the detector then looks closer than half the size lets it.
        self.target = preprocessing.size * (1 if faces == "none" else 2)

    def __call__(self, found: Found) -> Prepared:
        path, size, mtime_ns = found.path, None, None
        if found.error:
            return Prepared(path, error=found.error)
        with suppress(OSError, ValueError):  # load_image says why, in a sentence
            size, mtime_ns = status(path)
        text = self._text(path) if self._text else ""
        if text is None:
            return Prepared(path, error=NO_COMMENT, size=size, mtime_ns=mtime_ns)
        try:
            crops = self._crops(path)
        except ImageError as error:
            return Prepared(path, error=error.reason, size=size, mtime_ns=mtime_ns)
        except AesError:  # of `see`: not about this file
            raise
        except MemoryError:
            return Prepared(path, error="not enough memory; use fewer workers", size=size, mtime_ns=mtime_ns)
        except Exception as error:  # one odd file must not end a run of thousands
            reason = printable(f"cannot be processed ({type(error).__name__}: {error})")
            return Prepared(path, error=reason, size=size, mtime_ns=mtime_ns)
        return Prepared(path, crops, "" if crops else NO_FACE, size, mtime_ns, text)

    def _crops(self, path: str) -> list[Crop]:
        image = load_image(path, self.target)
        if self._see is not None:
            self._see(path, image)
        if self._faces == "none":
            return [Crop(self._whole(image))]
        faces = self._detector(image.pixels, find_all=self._faces == "all")
        if not faces:
            return []
        if self._faces == "auto" and is_tight_crop(faces[0], _size(image.pixels)):
            return [Crop(self._whole(image), 0, _original_box(faces[0], image))]
        if self._faces != "all":
            faces = faces[:1]
        return self._aligned(path, image, faces)

    def _whole(self, image: Decoded) -> np.ndarray:
        return whole_picture(image.pixels, self._preprocessing.size, self._preprocessing.fit)

    def _aligned(self, path: str, image: Decoded, faces: list[Face]) -> list[Crop]:
        """The faces' canonical crops. Small ones are cut from a second, larger decode, so that they stay
        sharp."""
        p = self._preprocessing
        boxes = [_original_box(face, image) for face in faces]
        marks = [face.landmarks for face in faces]
        wanted = max(p.eye_mouth * p.size / max(_face_scale(m), 1e-3) for m in marks)
        if wanted > _ENOUGH and image.scale < 1:
            short = min(image.size) * min(1.0, image.scale * wanted)
            larger = load_image(path, max(1, math.ceil(short / 2)))
            ratio = np.array(_size(larger.pixels), np.float64) / _size(image.pixels)
            marks = [(m * ratio).astype(np.float32) for m in marks]
            image = larger
        return [
            Crop(align_face(image.pixels, m, p.size, p.eye_mouth, p.eye_y), index, box)
            for index, (m, box) in enumerate(zip(marks, boxes, strict=True))
        ]


def _face_scale(landmarks: np.ndarray) -> float:
    """The length in pixels that the canonical crop maps to eye_mouth·S (see `align_face`)."""
    eyes, mouth = landmarks[:2], landmarks[3:].mean(0)
    return max(float(np.linalg.norm(mouth - eyes.mean(0))), 1.05 * float(np.linalg.norm(eyes[1] - eyes[0])))


def _size(pixels: np.ndarray) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def _original_box(face: Face, image: Decoded) -> tuple[int, int, int, int]:
    """The face's box in whole pixels of the upright original, cut to the image."""
    width, height = image.size
    sx, sy = width / image.pixels.shape[1], height / image.pixels.shape[0]
    x1, y1, x2, y2 = (float(v) for v in face.box)
    return (
        max(0, round(x1 * sx)),
        max(0, round(y1 * sy)),
        min(width, round(x2 * sx)),
        min(height, round(y2 * sy)),
    )
