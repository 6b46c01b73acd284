import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from aescli.data.faces import Face, FaceDetector, align_face
from aescli.data.finding import Found
from aescli.data.framing import square_resize, stretch_resize
from aescli.data.images import load_image
from aescli.errors import UsageError
from aescli.models.checkpoint import Preprocessing
from aescli.scoring import prepare
from aescli.scoring.prepare import Preparer
from aescli.scoring.rows import NO_FACE

SHAPE = SimpleNamespace(size=64, fit="pad", faces=True, eye_mouth=0.36, eye_y=0.39)
WHOLE = SimpleNamespace(size=64, fit="pad", faces=False, eye_mouth=0.36, eye_y=0.39)

PHOTOS = Path(__file__).parents[1] / "photos"
FACES = 2 * 64  # what the decoder is asked for where faces are looked for


def face(x: float, y: float, width: float) -> Face:
    """A level face whose box starts at x, y; eyes 0.4 of the width apart, the mouth 0.4 below them."""
    marks = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    points = np.array([(x + width * a, y + width * b) for a, b in marks], np.float32)
    return Face((x, y, x + width, y + width), points, 0.9)


@pytest.fixture
def photo(tmp_path):
    """1280 × 960: decoded at half its size where faces are looked for, at a quarter where the whole is scored."""
    noise = np.random.default_rng(0).integers(0, 255, (960, 1280, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(noise).save(path)
    return str(path)


def test_boxes_are_in_pixels_of_the_original(photo):
    seen = []

    def detect(pixels, find_all):
        seen.append((pixels.shape, find_all))
        return [face(60, 40, 110), face(10, 150, 60)]

    prepared = Preparer(SHAPE, "all", detect)(Found(photo))
    scale = seen[0][0][1] / 1280
    assert scale == 0.5
    assert seen[0][1] is True
    assert [c.face_index for c in prepared.crops] == [0, 1]
    assert prepared.crops[0].face == tuple(round(v / scale) for v in (60, 40, 170, 150))
    stat = os.stat(photo)
    assert (prepared.size, prepared.mtime_ns) == (stat.st_size, stat.st_mtime_ns)


@pytest.mark.parametrize(
    ("mode", "count", "find_all"), [("auto", 1, False), ("largest", 1, False), ("all", 3, True)]
)
def test_which_faces_are_cropped(photo, mode, count, find_all):
    asked = []

    def detect(pixels, find_all):
        asked.append(find_all)
        return [face(10 * k, 10, 60 - k) for k in range(3)]

    prepared = Preparer(SHAPE, mode, detect)(Found(photo))
    assert len(prepared.crops) == count
    assert asked == [find_all]
    assert all(c.pixels.shape == (64, 64, 3) and c.pixels.dtype == np.uint8 for c in prepared.crops)


def test_the_crop_is_the_canonical_one(photo):
    prepared = Preparer(SHAPE, "largest", lambda pixels, find_all: [face(60, 40, 110)])(Found(photo))
    pixels = load_image(photo, FACES).pixels
    expected = align_face(pixels, face(60, 40, 110).landmarks, 64, 0.36, 0.39)
    np.testing.assert_array_equal(prepared.crops[0].pixels, expected)


def test_a_small_face_is_cut_from_a_larger_decode(photo):
    """A face that would have to be enlarged keeps the detail that the original has."""
    small = face(30, 30, 30)
    reduced, full = load_image(photo, FACES).pixels, load_image(photo, 10_000).pixels
    assert full.shape[1] == 1280 > reduced.shape[1]
    ratio = 1280 / reduced.shape[1]
    prepared = Preparer(SHAPE, "largest", lambda pixels, find_all: [small])(Found(photo))
    sharp = align_face(full, small.landmarks * ratio, 64, 0.36, 0.39)
    np.testing.assert_array_equal(prepared.crops[0].pixels, sharp)
    blurred = align_face(reduced, small.landmarks, 64, 0.36, 0.39)
    assert sharp.std() > 1.2 * blurred.std()


def test_one_decode_is_enough_for_a_face_of_a_quarter_of_the_frame(photo, monkeypatch):
    """The decode of a 12-megapixel JPEG is a quarter of its whole cost."""
    asked = []
    real = prepare.load_image
    monkeypatch.setattr(
        prepare, "load_image", lambda path, target: asked.append(target) or real(path, target)
    )
    found = Preparer(SHAPE, "auto", lambda pixels, find_all: [face(100, 100, 120)])(Found(photo))
    assert len(found.crops) == 1
    assert asked == [FACES]


def test_somebody_small_in_a_large_photo_is_found(tmp_path):
    """A face of 80 px in 12 megapixels."""
    with Image.open(PHOTOS / "coffee.jpg") as image:
        scene = image.convert("RGB").resize((4000, 3000))
    with Image.open(PHOTOS / "portrait.jpg") as image:
        portrait = np.asarray(image.convert("RGB"))
    box = FaceDetector()(portrait)[0].box
    factor = 80 / (box[3] - box[1])
    size = round(portrait.shape[1] * factor), round(portrait.shape[0] * factor)
    scene.paste(Image.fromarray(portrait).resize(size), (2500, 400))
    scene.save(tmp_path / "scene.jpg", quality=90)
    shape = SimpleNamespace(size=160, fit="pad", faces=True, eye_mouth=0.36, eye_y=0.39)
    (crop,) = Preparer(shape)(Found(str(tmp_path / "scene.jpg"))).crops
    expected = [2500 + box[0] * factor, 400 + box[1] * factor, 2500 + box[2] * factor, 400 + box[3] * factor]
    assert np.abs(np.array(crop.face) - expected).max() < 40


def test_auto_scores_a_tight_crop_whole_and_largest_aligns_it(photo):
    def detect(pixels, find_all):
        return [face(20, 10, min(pixels.shape[:2]) - 20)]

    whole = square_resize(load_image(photo, FACES).pixels, 64)
    auto = Preparer(SHAPE, "auto", detect)(Found(photo)).crops
    np.testing.assert_array_equal(auto[0].pixels, whole)
    assert auto[0].face is not None
    assert (Preparer(SHAPE, "largest", detect)(Found(photo)).crops[0].pixels != whole).any()


def test_none_looks_for_no_face(photo):
    def detect(pixels, find_all):
        raise AssertionError("the detector was called")

    crop = Preparer(SHAPE, "none", detect)(Found(photo)).crops[0]
    np.testing.assert_array_equal(crop.pixels, square_resize(load_image(photo, 64).pixels, 64))
    assert (crop.face_index, crop.face) == (None, None)


def test_no_face_is_an_error_row_not_a_score(photo):
    prepared = Preparer(SHAPE, "auto", lambda pixels, find_all: [])(Found(photo))
    assert (prepared.crops, prepared.error) == ([], NO_FACE)


@pytest.mark.parametrize("error", [MemoryError(), ValueError("odd\nthing"), RecursionError("deep")])
def test_whatever_fails_becomes_one_line(photo, error):
    def detect(pixels, find_all):
        raise error

    prepared = Preparer(SHAPE, "auto", detect)(Found(photo))
    assert not prepared.crops
    assert prepared.error
    assert "\n" not in prepared.error


def test_unreadable_files_say_why(tmp_path):
    empty = tmp_path / "empty.jpg"
    empty.touch()
    prepare = Preparer(SHAPE, "none")
    assert "0 bytes" in prepare(Found(str(empty))).error
    assert "does not exist" in prepare(Found(str(tmp_path / "gone.jpg"))).error
    assert prepare(Found("x\0y")).error
    assert prepare(Found("x", "the list is odd")).error == "the list is odd"


def test_unknown_mode():
    with pytest.raises(ValueError, match="faces must be one of"):
        Preparer(SHAPE, "some")


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_a_model_of_whole_images_sees_no_faces(photo, mode):
    crop = Preparer(WHOLE, mode)(Found(photo)).crops[0]
    assert crop.face is None
    assert (crop.pixels == Preparer(SHAPE, "none")(Found(photo)).crops[0].pixels).all()


@pytest.mark.parametrize("mode", ["largest", "all"])
def test_a_model_of_whole_images_refuses_to_look_for_faces(mode):
    with pytest.raises(UsageError, match=f"--faces {mode}: this model scores whole images"):
        Preparer(WHOLE, mode)


def test_a_model_that_stretches_sees_the_whole_photo_without_borders(photo):
    shape = Preprocessing(size=64, faces=False, fit="stretch")
    crop = Preparer(shape, "none")(Found(photo)).crops[0]
    pixels = load_image(photo, 64).pixels
    np.testing.assert_array_equal(crop.pixels, stretch_resize(pixels, 64))
