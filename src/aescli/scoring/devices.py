"""Several devices as one predictor: a process for each, batches to whichever is free, results in the order asked.

It knows processes and pipes. What a predictor is, it is told by a function that makes one; it imports no torch.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from types import SimpleNamespace

import numpy as np

from aescli.errors import AesError, UsageError
from aescli.scoring.predictor import Prediction, Predictor

_FACTS = (
    *("task", "scale", "classes", "cuts", "distribution", "attributes", "reads_text"),
    *("digest", "preprocessing", "batch_size"),
)


class DevicePool:
    """A `Predictor` that spreads its calls over one process per device. The calling threads only wait.

    Which device answers a call makes no difference to the answer, so the pipeline's order and batches stay as they
    are with one device.
    """

    remote = True

    def __init__(self, devices: Sequence[str], load: Callable[..., Predictor]):
        """load: `load(device=…)` makes a predictor; it must be picklable. A device may be named more than once.

        Raises what `load` raises, of the first device that fails.
        """
        if any(not name for name in devices):
            raise UsageError(f"--device {','.join(devices)}: a name is missing between two commas")
        spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        self._processes, self._pipes = [], []
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.devices = tuple(devices)
        for name in devices:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs, load, name), name=f"aes-{name}", daemon=True)
            process.start()
            theirs.close()  # so that the end of the process ends the pipe
            self._processes.append(process)
            self._pipes.append(ours)
        try:
            facts = [self._receive(k) for k in range(len(devices))]
        except BaseException:
            self.close()
            raise
        for name in _FACTS:
            setattr(self, name, getattr(facts[0], name))
        self.concurrency = len(devices)
        for k in range(len(devices)):
            self._idle.put(k)

    def predict(self, images: np.ndarray, texts: Sequence[str] = ()) -> Prediction:
        """See `Predictor`. Raises AesError where a process has ended."""
        k = self._idle.get()
        try:
            self._send(k, (images, texts))
            return self._receive(k)
        finally:
            self._idle.put(k)

    def _send(self, k: int, batch: tuple[np.ndarray, Sequence[str]]) -> None:
        try:
            self._pipes[k].send(batch)
        except OSError as error:
            raise self._ended(k) from error

    def _receive(self, k: int):
        try:
            answer = self._pipes[k].recv()
        except (EOFError, OSError) as error:
            raise self._ended(k) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _ended(self, k: int) -> AesError:
        self._processes[k].join(timeout=5)
        code = self._processes[k].exitcode
        return AesError(
            f"the process for --device {self.devices[k]} ended (exit status {code}), perhaps for want of memory; "
            "the same command with --resume continues"
        )

    def close(self) -> None:
        """End the processes. They also end with this one, however it ends."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()


def _serve(pipe: Connection, load: Callable[..., Predictor], device: str) -> None:
    """One device's process: answer batches until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to every process of a terminal; one decides
    from aescli.runtime import keep_freed_memory, one_thread_per_operation

    one_thread_per_operation()
    keep_freed_memory()
    try:
        predictor = load(device=device)
        answer = SimpleNamespace(**{name: getattr(predictor, name) for name in _FACTS})
    except Exception as error:
        predictor, answer = None, _portable(error)
    with suppress(OSError):  # another device failed first, and nobody listens any more
        pipe.send(answer)
    if predictor is None:
        return
    while True:
        try:
            batch = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = predictor.predict(*batch)
        except Exception as error:
            answer = _portable(error)
        try:
            pipe.send(answer)
        except OSError:
            return


def _portable(error: Exception) -> Exception:
    """The error itself where it is one of this package's, else one that surely survives the way."""
    return (
        error if type(error) in (AesError, UsageError) else RuntimeError(f"{type(error).__name__}: {error}")
    )
