"""What is installed with the package: the bundled model and the presets, in this tree and in a wheel."""

import importlib.util
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from aescli import presets
from aescli.data.faces import FaceDetector, align_face
from aescli.data.framing import stretch_resize
from aescli.data.images import load_image
from aescli.models.checkpoint import BUNDLED, bundled_models, load_checkpoint
from aescli.scoring.predictor import load_predictor

ROOT = Path(__file__).resolve().parent.parent
PORTRAIT = ROOT / "tests" / "photos" / "portrait.jpg"


@pytest.mark.parametrize("name", ["momamba-lite", "aesmamba-lite"])
def test_the_default_models_are_bundled_and_small(name):
    assert name in bundled_models()
    assert (BUNDLED / name / "model.safetensors").stat().st_size <= 15_000_000


def test_its_card_says_what_it_is():
    checkpoint = load_checkpoint("momamba-lite")
    card = checkpoint.card
    assert card.score_range == (1.0, 5.0)
    assert all((card.description, card.data, card.licence, card.origin, card.limits, card.metrics))
    assert len(checkpoint.training_hashes) > 7000
    encoder = checkpoint.config["model"]["encoder"]
    assert encoder["weights"] is None
    # Its file holds five bits of each large convolution's weight: no more than 31 steps a channel.
    weight = checkpoint.model.encoder.net.blocks[20].up.weight
    assert encoder["bits"] == 5
    assert max(len(channel.unique()) for channel in weight[:32]) <= 31


def test_it_scores_a_portrait_and_its_mirror_image_alike():
    predictor = load_predictor(None)
    pixels = load_image(PORTRAIT, 448).pixels
    face = FaceDetector()(pixels)[0]
    crop = align_face(pixels, face.landmarks, predictor.preprocessing.size)
    score, mirrored = predictor.predict(np.stack([crop, crop[:, ::-1]])).scores
    assert 1 < score < 5
    assert abs(score - mirrored) < 0.3


def test_the_photo_models_card_says_what_it_is():
    checkpoint = load_checkpoint("aesmamba-lite")
    card = checkpoint.card
    assert (card.task, card.score_range) == ("viaa", (1.0, 10.0))
    assert all(
        (card.description, card.data, card.split, card.licence, card.origin, card.limits, card.metrics)
    )
    assert len(checkpoint.training_hashes) > 1000
    encoder = checkpoint.config["model"]["encoder"]
    assert encoder["weights"] is None
    assert all(other["weights"] is None for other in encoder["also"])


def test_the_photo_model_scores_a_photo_and_its_mirror_image_the_same():
    pixels = stretch_resize(load_image(PORTRAIT, 448).pixels, 224)
    score, mirrored = load_predictor(None, task="viaa").predict(np.stack([pixels, pixels[:, ::-1]])).scores
    assert 1 < score < 10
    assert score == pytest.approx(mirrored, abs=1e-4)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda photo, rng: photo.filter(ImageFilter.GaussianBlur(6)),
        lambda photo, rng: Image.fromarray(
            (np.asarray(photo) + rng.normal(0, 40, (*photo.size[::-1], 3))).clip(0, 255).astype(np.uint8)
        ),
        lambda photo, rng: ImageEnhance.Brightness(photo).enhance(0.4),
        lambda photo, rng: _as_jpeg(photo, 5),
    ],
    ids=["blur", "noise", "dark", "jpeg"],
)
def test_the_photo_model_sees_that_a_photo_was_spoilt(spoil):
    predictor = load_predictor(None, task="viaa")
    rng = np.random.default_rng(0)
    photos = [Image.open(path).convert("RGB") for path in sorted(PORTRAIT.parent.glob("*.jpg"))]
    spoilt = [spoil(photo, rng) for photo in photos]
    good, bad = (
        predictor.predict(np.stack([stretch_resize(np.asarray(photo), 224) for photo in several]))
        for several in (photos, spoilt)
    )
    np.testing.assert_allclose(good.probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(good.probabilities @ np.arange(1, 11), good.scores, atol=1e-4)
    assert (bad.scores < good.scores).sum() >= len(photos) - 1
    assert (good.scores - bad.scores).mean() > 0.1


def _as_jpeg(photo, quality):
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def test_presets_are_found_in_this_tree():
    assert presets.folder().is_dir()
    assert {"momamba-lite", "momamba-scut-fbp", "momamba-scut-fbp5500"} <= set(presets.names())


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed")
def test_a_wheel_holds_presets_model_and_nothing_else_that_is_large(tmp_path):
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
    for name in presets.names():
        assert f"aescli/presets/{name}.yaml" in sizes
    assert "aescli/weights/momamba-lite/model.safetensors" in sizes
    assert "aescli/personalization/page.html" in sizes
    assert {n for n, size in sizes.items() if size > 300_000} == {
        "aescli/weights/aesmamba-lite/model.safetensors",
        "aescli/weights/momamba-lite/model.safetensors",
        "aescli/weights/momamba-lite/taste.safetensors",
    }
    assert not any("__pycache__" in name or name.startswith("tests") for name in sizes)
