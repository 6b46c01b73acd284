import random
import threading
import time

import numpy as np
import pytest
from fake_model import FakePredictor

from aescli.data.finding import Found
from aescli.scoring.pipeline import score_images
from aescli.scoring.prepare import Crop, Prepared
from aescli.scoring.rows import NO_FACE


def prepare(found: Found) -> Prepared:
    """Number n → n % 3 crops (for n % 7 == 3: an error), after a random while."""
    n = int(found.path)
    time.sleep(random.random() * 0.002)
    if n % 7 == 3:
        return Prepared(found.path, error="broken")
    crops = [
        Crop(np.full((32, 32, 3), (n + k) % 256, np.uint8), k, (0, 0, k + 1, k + 1)) for k in range(n % 3)
    ]
    return Prepared(found.path, crops, "" if crops else NO_FACE, size=n, mtime_ns=n)


def numbers(count: int):
    return (Found(str(n)) for n in range(count))


def scored(count: int, **options) -> list:
    return [r for batch in score_images(numbers(count), prepare, FakePredictor(), **options) for r in batch]


def test_results_are_the_same_in_order_for_every_batch_size_and_worker_count():
    expected = scored(100, batch_size=1, workers=1)
    assert [r.path for r in expected] == [str(n) for n in range(100)]
    assert [len(r.rows) for r in expected[:5]] == [1, 1, 2, 1, 1]
    assert expected[2].rows[1].score == round(1 + 4 * 3 / 255, 4)
    assert expected[3].rows[0].error == "broken"
    assert expected[0].outcome == "no face"
    for batch_size, workers in [(1, 5), (3, 2), (7, 3), (64, 8), (1000, 1)]:
        assert scored(100, batch_size=batch_size, workers=workers) == expected


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_depend_on_nothing_but_the_images_and_the_size(workers):
    batches = list(score_images(numbers(60), prepare, FakePredictor(), batch_size=5, workers=workers))
    assert [[r.path for r in b] for b in batches[:2]] == [list("012345"), ["6", "7", "8", "9", "10", "11"]]
    for batch in batches[:-1]:
        assert sum(not row.error for r in batch for row in r.rows) >= 5


def test_the_model_never_sees_more_than_a_batch():
    model = FakePredictor()
    many = [Crop(np.zeros((32, 32, 3), np.uint8), k) for k in range(23)]
    results = list(
        score_images([Found("x")], lambda f: Prepared(f.path, many), model, batch_size=4, workers=2)
    )
    assert model.batches == [4, 4, 4, 4, 4, 3]
    assert len(results[0][0].rows) == 23


def test_only_a_bounded_part_is_under_way():
    taken = 0

    def source():
        nonlocal taken
        for found in numbers(5000):
            taken += 1
            yield found

    results = score_images(source(), prepare, FakePredictor(), batch_size=4, workers=2)
    emitted = 0
    for batch in results:
        emitted += len(batch)
        assert taken - emitted <= 2 * (4 + 2) + 4 * (4 + 4)
        if emitted > 500:
            break
    results.close()
    assert taken < 600


def test_folders_without_a_face_still_give_results_before_the_end():
    results = score_images(
        numbers(1000), lambda f: Prepared(f.path, error=NO_FACE), FakePredictor(), batch_size=4, workers=1
    )
    assert len(next(results)) == 16
    results.close()


def test_a_failure_of_the_model_ends_the_run_and_its_threads():
    class Broken(FakePredictor):
        def predict(self, images, texts=()):
            raise RuntimeError("no such operator")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no such operator"):
        list(score_images(numbers(50), prepare, Broken(), batch_size=4, workers=3))
    assert threading.active_count() == before


def test_a_failure_of_the_source_is_raised():
    def source():
        yield Found("1")
        raise OSError("the list cannot be read")

    with pytest.raises(OSError, match="cannot be read"):
        list(score_images(source(), prepare, FakePredictor(), batch_size=4, workers=2))


def test_no_images_no_batches():
    assert list(score_images([], prepare, FakePredictor(), batch_size=4, workers=2)) == []
    with pytest.raises(ValueError, match="batch_size"):
        list(score_images([], prepare, FakePredictor(), batch_size=0, workers=2))
