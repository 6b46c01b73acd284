"""From paths to results, in order: decode, find and crop faces, score in batches, on all cores at once.

It knows the order of the steps and how much may be under way. It knows nothing about torch (a `Predictor` is
given), files that are written, or options of a command line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import numpy as np

from aescli.data.finding import Found
from aescli.scoring.pool import PriorityPool
from aescli.scoring.predictor import Predictor
from aescli.scoring.prepare import Prepared
from aescli.scoring.rows import ImageResult, Row, scored_row

_MODEL, _PICTURE = 0, 1  # priorities


def score_images(
    images: Iterable[Found],
    prepare: Callable[[Found], Prepared],
    predictor: Predictor,
    *,
    batch_size: int,
    workers: int,
) -> Iterator[list[ImageResult]]:
    """Yield the results of all `images`, in their order, one list per batch.

    A batch is the next images until they have at least `batch_size` crops; how they are composed depends on
    nothing but the images and `batch_size`, never on the workers or on timing. The model sees at most
    `batch_size` crops at once. `images` is read only as far ahead as the workers need (at most 2·(batch_size
    + workers) images plus the batches at the model), so memory does not depend on how many there are.

    An exception of the predictor or of `images` ends the iteration and is raised here. Close the generator to
    stop early: tasks under way are finished, others dropped.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    source = iter(images)
    ahead = 2 * (batch_size + workers)
    # A thread that waits for a GPU, or for another process, prepares nothing meanwhile.
    waits = predictor.concurrency == 1 or getattr(predictor, "remote", False)
    at_model = (predictor.concurrency if waits else min(workers, predictor.concurrency)) + 1
    threads = workers + predictor.concurrency if waits else workers
    waiting: deque[Future[Prepared]] = deque()
    running: deque[Future[list[ImageResult]]] = deque()
    batch: list[Prepared] = []
    crops = 0
    exhausted = False
    with PriorityPool(threads) as pool:
        while True:
            while not exhausted and len(waiting) < ahead:
                image = next(source, None)
                exhausted = image is None
                if image is not None:
                    waiting.append(pool.submit(_PICTURE, prepare, image))
            if waiting:
                batch.append(waiting.popleft().result())
                crops += len(batch[-1].crops)
            # The second bound lets results come out of a folder in which nothing can be scored.
            if batch and (crops >= batch_size or len(batch) >= 4 * batch_size or not waiting):
                running.append(pool.submit(_MODEL, _score_batch, batch, predictor, batch_size))
                batch, crops = [], 0
            while running and (running[0].done() or len(running) > at_model or not waiting):
                yield running.popleft().result()
            if not waiting and not batch:
                return


def _score_batch(batch: list[Prepared], predictor: Predictor, batch_size: int) -> list[ImageResult]:
    crops = [(crop, item.text) for item in batch for crop in item.crops]
    parts = []
    for start in range(0, len(crops), batch_size):
        pixels, texts = zip(
            *((crop.pixels, text) for crop, text in crops[start : start + batch_size]), strict=True
        )
        parts.append(predictor.predict(np.stack(pixels), texts))
    outputs = (
        row for part in parts for row in zip(part.scores, part.probabilities, part.attributes, strict=True)
    )
    results = []
    for item in batch:
        rows = [scored_row(item.path, crop.face_index, crop.face, *next(outputs)) for crop in item.crops]
        if item.error:
            rows = [Row(item.path, error=item.error)]
        results.append(ImageResult(item.path, rows, item.size, item.mtime_ns))
    return results
