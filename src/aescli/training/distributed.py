"""Several processes training one model: `torchrun --nproc-per-node N -m aescli train …` and nothing else to say.

Every process holds the whole model and takes its share of each batch; gradients and BatchNorm statistics are
averaged. Knows torch.distributed; knows nothing about models or data.
"""

import os
from collections.abc import Iterable
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


class Group:
    """The processes of a run; one alone when no launcher set RANK and WORLD_SIZE."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if self.size > 1 and not dist.is_initialized():
            cuda = device is not None and device.type == "cuda"
            # The others wait while the first makes features; its end, good or bad, the launcher sees by itself.
            dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(days=1))

    @property
    def first(self) -> bool:
        """True in the process that writes files and prints."""
        return self.rank == 0

    def share(self, order: np.ndarray) -> np.ndarray:
        """This process's part of an epoch's order; repeats a few so that all parts are equally long."""
        if self.size == 1:
            return order
        missing = -len(order) % self.size
        return np.concatenate([order, order[:missing]])[self.rank :: self.size]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= self.size

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """A gradient that this process lacks counts as zero: another one may have it."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average(p.grad for p in parameters)

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the first process's; the others wait for it."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def local_device(name: str) -> str:
    """`cuda` and `auto` become this process's own GPU under a launcher."""
    local = os.environ.get("LOCAL_RANK")
    if local is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local}"
    return name
