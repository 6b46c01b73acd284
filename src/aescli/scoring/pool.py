"""A few threads that always take the most urgent task: the model's batches before the next picture.

It knows threads and a queue; what the tasks do is not its business.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class PriorityPool:
    """`threads` daemon threads that work off tasks, the smallest priority first, equal ones in order.

    A thread pool per stage would need the right share of cores for each; one pool for all stages keeps every
    core busy whatever the shares are. Use as a context manager: leaving it drops what has not begun and waits
    for what has.
    """

    def __init__(self, threads: int):
        if threads < 1:
            raise ValueError(f"a pool needs at least one thread, got {threads}")
        self._queue: queue.PriorityQueue[tuple[float, int, tuple[Future, Callable, tuple] | None]]
        self._queue = queue.PriorityQueue()
        self._order = itertools.count()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"aes-worker-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, priority: int, function: Callable[..., Any], *args: Any) -> Future:
        """Queue `function(*args)`; its result or exception arrives in the future."""
        future: Future = Future()
        self._queue.put((priority, next(self._order), (future, function, args)))
        return future

    def _work(self) -> None:
        while True:
            _, _, task = self._queue.get()
            if task is None or self._closed:
                return
            future, function, args = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)
            # The loop would otherwise hold the last picture until the next one comes.
            del task, future, function, args

    def close(self) -> None:
        self._closed = True
        for _ in self._threads:
            self._queue.put((float("-inf"), next(self._order), None))
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> PriorityPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
