"""From a photo and its face's landmarks to a training crop: the canonical alignment with random changes.

Deterministic in the generator it is given. Knows nothing about labels, files or models.
"""

import math

import cv2
import numpy as np

from aescli.data.faces import align_face
from aescli.data.framing import OUTSIDE, stretch_resize, whole_picture
from aescli.models.checkpoint import Preprocessing
from aescli.training.config import AugmentConfig


def clean_crop(image: np.ndarray, landmarks: np.ndarray | None, preprocessing: Preprocessing) -> np.ndarray:
    """What scoring would see: aligned where there is a face, else the whole picture. (H, W, 3) → (S, S, 3) uint8."""
    if landmarks is None:
        return whole_picture(image, preprocessing.size, preprocessing.fit)
    return align_face(image, landmarks, preprocessing.size, preprocessing.eye_mouth, preprocessing.eye_y)


def augmented_crop(
    image: np.ndarray,
    landmarks: np.ndarray | None,
    preprocessing: Preprocessing,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """A random training crop. (H, W, 3) uint8 RGB → (size, size, 3) uint8 RGB."""
    if landmarks is None and preprocessing.fit == "stretch":
        crop = _part(image, preprocessing.size, config.crop_from, rng)
    else:
        crop = _framed(image, landmarks, preprocessing, config, rng)
    if rng.random() < config.flip:
        crop = crop[:, ::-1]
    return _degraded(_coloured(crop, config, rng), config, rng)


def _part(image: np.ndarray, size: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random size × size part of the picture stretched to side × side; all of it where side is not larger."""
    image = stretch_resize(image, max(size, side))
    top, left = rng.integers(0, len(image) - size + 1, 2)
    return image[top : top + size, left : left + size]


def _framed(
    image: np.ndarray,
    landmarks: np.ndarray | None,
    preprocessing: Preprocessing,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """The aligned face, or the padded whole picture, moved at random."""
    size, eye_mouth, eye_y = preprocessing.size, preprocessing.eye_mouth, preprocessing.eye_y
    if landmarks is None:
        # The whole picture at the same place as its landmarks would put it, so that the same changes apply.
        landmarks = _frame_landmarks(image, size, eye_mouth, eye_y)
    moved = _moved(landmarks, size, eye_mouth, config, rng)
    crop = align_face(image, moved, size, eye_mouth, eye_y)
    if rng.random() < config.outside:
        inside = align_face(np.full_like(image, 255), moved, size, eye_mouth, eye_y, outside=0)
        crop = np.where(inside > 127, crop, _fill(rng))
    if rng.random() < config.box:
        crop = _boxed(crop, rng)
    return crop


def _frame_landmarks(image: np.ndarray, size: int, eye_mouth: float, eye_y: float) -> np.ndarray:
    """Landmarks whose alignment shows the whole picture: `align_face` puts their middle at size/2, not (size−1)/2."""
    height, width = image.shape[:2]
    side = max(height, width)
    x, y = (width - 1 + side / size) / 2, (height - 1 + side / size) / 2 + (eye_y - 0.5) * side
    half = eye_mouth * side / 2.1  # eye distance whose 1.05-fold is the span
    mouth = y + eye_mouth * side
    return np.array(
        [[x - half, y], [x + half, y], [x, (y + mouth) / 2], [x - half, mouth], [x + half, mouth]], np.float32
    )


def _moved(
    landmarks: np.ndarray, size: int, eye_mouth: float, config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """Landmarks moved so that aligning them turns, zooms and shifts the crop."""
    points = np.asarray(landmarks, np.float64)
    zoom = math.exp(rng.normal(0, config.zoom)) if config.zoom else 1.0
    if rng.random() < config.zoom_out:
        zoom *= rng.uniform(0.6, 0.85)
    angle = math.radians(rng.uniform(-config.rotate, config.rotate))
    shift = rng.uniform(-config.shift, config.shift, 2)
    centre = (points[:2].mean(0) + points[3:].mean(0)) / 2
    span = max(
        np.linalg.norm(points[3:].mean(0) - points[:2].mean(0)), 1.05 * np.linalg.norm(points[1] - points[0])
    )
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return (points - centre) @ turn.T / zoom + centre + shift * span / eye_mouth


def _fill(rng: np.random.Generator) -> np.ndarray:
    kind = rng.integers(4)
    if kind == 3:
        return rng.integers(0, 256, 3).astype(np.uint8)
    return np.full(3, (0, 255, OUTSIDE)[kind], np.uint8)


def _boxed(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = crop.shape[0]
    width, height, angle = rng.uniform(0.62, 0.9), rng.uniform(0.88, 1.1), rng.uniform(-10, 10)
    centre = (0.5 + rng.uniform(-0.05, 0.05)) * size, (0.5 + rng.uniform(-0.03, 0.03)) * size
    corners = cv2.boxPoints((centre, (width * size, height * size), angle)).astype(np.int32)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(mask, corners, 255)
    fill = np.zeros(3, np.uint8) if rng.random() < 0.5 else _fill(rng)
    return np.where(mask[..., None] > 0, crop, fill)


def _coloured(crop: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < config.grey:
        crop = np.repeat(cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    s = config.colour
    if not s:
        return crop
    x = crop.astype(np.float32) / 255
    x = x ** math.exp(rng.normal(0, 0.25 * s))  # gamma
    x = x * (1 + rng.uniform(-0.3, 0.3) * s)  # brightness
    mean = x.mean()
    x = (x - mean) * (1 + rng.uniform(-0.3, 0.3) * s) + mean  # contrast
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = grey[..., None] + (x - grey[..., None]) * (1 + rng.uniform(-0.5, 0.3) * s)  # saturation
    x = x * (1 + rng.normal(0, 0.06 * s, 3)).astype(np.float32)  # white balance
    return (x.clip(0, 1) * 255 + 0.5).astype(np.uint8)


DEGRADATIONS = ("blur", "noise", "dark", "jpeg")
"""Ways to spoil a photo that anybody sees."""


def degraded(crop: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8, plainly worse than it was: blurred (σ 1.5 to 8 px of 224), noisy (σ 15 to 60), dark (a quarter
    to six tenths of the light) or compressed to JPEG quality 3 to 12."""
    crop = np.ascontiguousarray(crop)
    if kind == "blur":
        return cv2.GaussianBlur(
            crop, (0, 0), math.exp(rng.uniform(math.log(1.5), math.log(8))) * len(crop) / 224
        )
    if kind == "noise":
        return (crop + rng.normal(0, rng.uniform(15, 60), crop.shape)).clip(0, 255).astype(np.uint8)
    if kind == "dark":
        return (crop * rng.uniform(0.25, 0.6)).astype(np.uint8)
    if kind == "jpeg":
        return _compressed(crop, int(rng.integers(3, 13)))
    raise ValueError(f"degradation must be one of {', '.join(DEGRADATIONS)}, got {kind!r}")


def _compressed(crop: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _degraded(crop: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    crop = np.ascontiguousarray(crop)
    size = crop.shape[0]
    if rng.random() < config.low_resolution:
        small = max(8, round(size / rng.uniform(1.5, 4)))
        crop = cv2.resize(cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    if rng.random() < config.blur:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.5, 2.0))
    if rng.random() < config.noise:
        noisy = crop + rng.normal(0, rng.uniform(3, 12), crop.shape)
        crop = noisy.clip(0, 255).astype(np.uint8)
    if rng.random() < config.jpeg:
        crop = _compressed(crop, int(rng.integers(30, 91)))
    return crop
