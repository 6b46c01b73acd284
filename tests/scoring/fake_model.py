"""A stand-in for a trained model in tests: its score is a function of the pixels, so that order and mix-ups
show.

`python fake_model.py score …` is the real `aes` with this model, for tests that need a process of its own.
AES_FAKE_DELAY: seconds that each forward pass takes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from aescli.scoring.predictor import Prediction


class FakePredictor:
    """Score 1 … 5 from the mean brightness, five probabilities from the distance to each class."""

    task, scale, classes, digest = "fbp", (1.0, 5.0), 5, "fake-1"
    preprocessing = SimpleNamespace(size=32, fit="pad", faces=True, eye_mouth=0.36, eye_y=0.39)
    cuts = (1.5, 2.5, 3.5, 4.5)
    distribution, attributes, reads_text = False, (), False
    concurrency, batch_size = 4, 4

    def __init__(self, delay: float = 0.0):
        self.delay = delay
        self.batches: list[int] = []

    def predict(self, images: np.ndarray, texts: Sequence[str] = ()) -> Prediction:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (32, 32, 3)
        self.batches.append(len(images))
        time.sleep(self.delay)
        scores = 1 + 4 * images.reshape(len(images), -1).mean(1) / 255
        logits = -np.abs(scores[:, None] - np.arange(1, 6))
        weights = np.exp(logits)
        nothing = np.empty((len(images), 0))
        return Prediction(scores, weights / weights.sum(1, keepdims=True), nothing, nothing)


def load_fake(model: str | None = None, **options: str) -> FakePredictor:
    """In the place of `load_predictor`; `model` becomes part of the digest."""
    predictor = FakePredictor(float(os.environ.get("AES_FAKE_DELAY", 0)))
    predictor.digest = f"fake-{model or 1}"
    return predictor


if __name__ == "__main__":
    from aescli.cli import main
    from aescli.scoring import predictor

    predictor.load_predictor = load_fake
    main()
