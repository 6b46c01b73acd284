"""Training crops: nothing changes at strength 0, everything is reproducible, and each change does what it says."""

import cv2
import numpy as np
import pytest
from PIL import Image

from aescli.data.faces import align_face
from aescli.models.checkpoint import Preprocessing
from aescli.training.augment import augmented_crop, clean_crop
from aescli.training.config import AugmentConfig

MARKS = np.array([[80, 90], [120, 92], [100, 110], [85, 130], [116, 131]], np.float32)
OFF = AugmentConfig(flip=0)
PADDED = Preprocessing(size=64)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return np.kron(small, np.ones((10, 10, 1), np.uint8))


def _crop(image, config, seed=0, marks=MARKS):
    return augmented_crop(image, marks, PADDED, config, np.random.default_rng(seed))


def test_strength_zero_is_the_clean_crop(image):
    np.testing.assert_array_equal(_crop(image, OFF), clean_crop(image, MARKS, PADDED))
    np.testing.assert_array_equal(_crop(image, OFF), align_face(image, MARKS, 64, 0.36, 0.39))


def test_without_landmarks_the_whole_picture_is_used(image):
    # Smooth, so that only the place and the scale count, not how each of the two resamples.
    smooth = cv2.GaussianBlur(image, (0, 0), 8)
    whole = _crop(smooth, OFF, marks=None).astype(float)
    assert np.abs(whole - clean_crop(smooth, None, PADDED)).mean() < 1.5


def test_flip_mirrors(image):
    np.testing.assert_array_equal(_crop(image, AugmentConfig(flip=1.0)), _crop(image, OFF)[:, ::-1])


def test_same_seed_same_crop(image):
    strong = AugmentConfig(0.5, 0.2, 0.3, 15, 0.1, 1, 0.5, 0.5, 0, 0.5, 0.5, 0.5, 0.5, 0.5)
    np.testing.assert_array_equal(_crop(image, strong, 3), _crop(image, strong, 3))
    assert not np.array_equal(_crop(image, strong, 3), _crop(image, strong, 4))
    for seed in range(30):
        crop = _crop(image, strong, seed)
        assert crop.shape == (64, 64, 3)
        assert crop.dtype == np.uint8


def test_zoom_out_shows_more_surroundings(image):
    outside = lambda crop: (crop == 127).all(-1).mean()  # noqa: E731
    assert outside(_crop(image, AugmentConfig(flip=0, zoom_out=1.0))) >= outside(_crop(image, OFF))


def test_outside_changes_only_what_lies_outside_the_photo(image):
    marks = MARKS - [70, 0]  # at the left edge: a part of the crop lies outside
    plain = _crop(image, OFF, marks=marks)
    filled = [_crop(image, AugmentConfig(flip=0, outside=1.0), seed, marks) for seed in range(6)]
    border = (plain == 127).all(-1)
    assert 0.05 < border.mean() < 0.9
    assert any(not np.array_equal(f[border], plain[border]) for f in filled)
    for f in filled:
        assert (f[~border] == plain[~border]).mean() > 0.95  # all but the seam


def test_grey_has_no_colour(image):
    crop = _crop(image, AugmentConfig(flip=0, grey=1.0))
    assert np.ptp(crop.astype(int), axis=-1).max() == 0


@pytest.mark.parametrize("kind", ["low_resolution", "blur", "jpeg", "noise"])
def test_degradations_change_detail_but_not_the_picture(image, kind):
    plain = _crop(image, OFF).astype(float)
    changed = _crop(image, AugmentConfig(flip=0, **{kind: 1.0})).astype(float)
    assert np.abs(plain - changed).mean() > 0.2
    assert np.corrcoef(plain.ravel(), changed.ravel())[0, 1] > 0.6


def test_a_stretched_picture_is_cut_at_random_from_its_enlarged_self(image):
    stretched = Preprocessing(size=64, fit="stretch")
    wide = image[:120]

    def crop(config, seed=0):
        return augmented_crop(wide, None, stretched, config, np.random.default_rng(seed))

    np.testing.assert_array_equal(crop(OFF), clean_crop(wide, None, stretched))
    whole = np.array(Image.fromarray(wide).resize((80, 80), Image.Resampling.BICUBIC))
    windows = np.lib.stride_tricks.sliding_window_view(whole, (64, 64, 3))[:, :, 0]
    found = set()
    for seed in range(8):
        part = crop(AugmentConfig(flip=0, crop_from=80), seed)
        found.add(tuple(np.argwhere((windows == part).all((2, 3, 4)))[0]))
    assert len(found) > 4
