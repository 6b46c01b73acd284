"""Image files as a personal model sees them: features and the generic score of each, or why there are none.

It knows how a picture becomes model input and a `Predictor`. It knows nothing about persons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from aescli.data.finding import Found
from aescli.errors import AesError
from aescli.scoring.predictor import Predictor
from aescli.scoring.prepare import Prepared


@dataclass(frozen=True)
class ImageFeatures:
    """paths: the n images that could be used, in the given order. features (n, d) float32, scores (n,) float64.

    errors: path → reason for the others. An image with several faces counts by its largest.
    """

    paths: tuple[str, ...]
    features: np.ndarray
    scores: np.ndarray
    errors: dict[str, str]


def extract(
    paths: Sequence[str],
    prepare: Callable[[Found], Prepared],
    predictor: Predictor,
    *,
    workers: int,
    step: Callable[[int], None] = lambda _: None,
) -> ImageFeatures:
    """Features and scores of all `paths`. Raises AesError where the model gives no features."""
    size = predictor.batch_size

    def work(part: Sequence[str]) -> list[tuple[str, str, np.ndarray | None, float]]:
        prepared = [prepare(Found(path)) for path in part]
        usable = [item for item in prepared if item.crops]
        answers = iter(())
        if usable:
            texts = [""] * len(usable) if predictor.reads_text else ()
            prediction = predictor.predict(np.stack([item.crops[0].pixels for item in usable]), texts)
            if not prediction.features.shape[1]:
                raise AesError("this model gives no image features, so it cannot be made personal")
            answers = iter(zip(prediction.features, prediction.scores, strict=True))
        rows = []
        for item in prepared:
            features, score = next(answers) if item.crops else (None, np.nan)
            finite = features is not None and np.isfinite(features).all() and np.isfinite(score)
            error = item.error or ("" if finite else "the model gave no finite score for this image")
            rows.append((item.path, error, features, float(score)))
        step(len(part))
        return rows

    parts = [paths[i : i + size] for i in range(0, len(paths), size)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        rows = [row for part in pool.map(work, parts) for row in part]
    good = [row for row in rows if not row[1]]
    return ImageFeatures(
        paths=tuple(row[0] for row in good),
        features=np.stack([row[2] for row in good]) if good else np.empty((0, 0), np.float32),
        scores=np.array([row[3] for row in good], np.float64),
        errors={row[0]: row[1] for row in rows if row[1]},
    )
