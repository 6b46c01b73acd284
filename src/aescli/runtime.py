"""Settings of the whole process that decide how fast it works: cores, threads, and how freed memory is kept.

It knows the operating system and the environment variables of the numeric libraries. It knows nothing about
images or models, and imports none of the libraries that it tunes.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_MMAP_THRESHOLD = 32 << 20  # the largest that glibc accepts on 64-bit systems
_TRIM_THRESHOLD = 512 << 20
_TOP_PAD = 16 << 20


def available_cpus() -> int:
    """Cores that this process may really use (≥ 1): its affinity mask and its container's CPU quota count."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, count)


def keep_freed_memory(*, one_arena: bool = False) -> bool:
    """Let the C allocator reuse freed blocks of up to 32 MB instead of giving them back to the system. True
    if set.

    A network frees and asks for the same large buffers at every layer. glibc maps and unmaps each of them,
    and every page is then faulted in and zeroed again: up to half of the time of a convolutional network.
    Larger blocks (a whole decoded picture) are still returned, so that one giant image does not stay in
    memory for the whole run.

    one_arena: all threads share one heap. The heaps that glibc gives to other threads are small and ignore these
    settings, and a training step's backward pass runs in such a thread.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _MMAP_THRESHOLD),
            (_M_TRIM_THRESHOLD, _TRIM_THRESHOLD),
            (_M_TOP_PAD, _TOP_PAD),
            *([(_M_ARENA_MAX, 1)] if one_arena else []),
        )
    )


def one_thread_per_operation() -> None:
    """Ask the numeric libraries for one thread each, where the user's environment does not say otherwise.

    Call before torch or OpenCV is imported. Work that is spread over images needs no threads inside an
    operation: they would compete with the other images' for the same cores.
    """
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, "1")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the remarks of torch, onnxruntime and Ray to their developers off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
