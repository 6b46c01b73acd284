import threading
import time

import pytest

from aescli.scoring.pool import PriorityPool


def test_urgent_tasks_come_first_and_equal_ones_in_order():
    done, gate = [], threading.Event()
    with PriorityPool(1) as pool:
        first = pool.submit(1, gate.wait)
        futures = [pool.submit(p, done.append, (p, n)) for n, p in enumerate([1, 1, 0, 1, 0])]
        gate.set()
        for future in [first, *futures]:
            future.result(10)
    assert done == [(0, 2), (0, 4), (1, 0), (1, 1), (1, 3)]


def test_exceptions_arrive_in_the_future_and_the_thread_goes_on():
    with PriorityPool(1) as pool:
        failed = pool.submit(0, int, "x")
        assert pool.submit(0, int, "7").result(10) == 7
        with pytest.raises(ValueError, match="invalid literal"):
            failed.result(10)


def test_leaving_drops_what_has_not_begun():
    begun, gate = threading.Event(), threading.Event()
    ran = []

    def slow():
        begun.set()
        gate.wait(10)
        ran.append("slow")

    with PriorityPool(1) as pool:
        pool.submit(0, slow)
        for n in range(50):
            pool.submit(1, ran.append, n)
        begun.wait(10)
        threading.Timer(0.05, gate.set).start()
        started = time.monotonic()
    assert ran == ["slow"]
    assert time.monotonic() - started < 5


def test_at_least_one_thread():
    with pytest.raises(ValueError, match="at least one"):
        PriorityPool(0)
