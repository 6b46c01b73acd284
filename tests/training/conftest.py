"""What several tests of training ask for."""

import numpy as np
import pytest
from PIL import Image

from aescli.models.checkpoint import Preprocessing
from aescli.training.samples import Pictures, TrainingSample


@pytest.fixture
def noise_pictures(tmp_path):
    """A function: so many pictures of 32 × 32 pixels of noise, all rated 3, without faces."""

    def make(count):
        samples = []
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
            samples.append(TrainingSample(str(i), tmp_path / f"{i}.png", 3.0, 0))
        return Pictures(samples, Preprocessing(size=32, faces=False))

    return make
