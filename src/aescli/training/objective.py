"""What a run optimises and is judged by, behind one interface, so that one trainer serves every architecture.

Knows tensors and named tuples of them; knows nothing about particular models, data sets or schedules.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Blend = Callable[[Tensor], Tensor]
"""Mixes each row of a (B, …) tensor with another row, as the pictures of the batch were mixed."""


class Objective(nn.Module):
    """The targets of all pictures of a run and the loss on them. `rows` are positions in the run's joint list."""

    tokenizer: Any = None
    """What turns texts into tokens, for a model that reads them; it goes into the checkpoint."""

    def given(self, rows: Tensor) -> dict[str, Any]:
        """What `model.decode` is given beside the encoder's levels."""
        return {}

    def groups(self, rows: Tensor) -> Tensor:
        """(B,) integers: mixup blends within equal ones."""
        return torch.zeros_like(rows)

    def forward(
        self, output: NamedTuple, rows: Tensor, blend: Blend | None, states: list[Tensor]
    ) -> dict[str, Tensor]:
        """Named loss terms and their sum, `total`. states: what the encoder's upper half was given."""
        raise NotImplementedError

    def finish(self, model: nn.Module) -> None:
        """What is done to the trained model before it is tested; nothing unless said otherwise."""

    def judge(self, outputs: NamedTuple, indices: np.ndarray) -> tuple[dict[str, float], float]:
        """Validation figures of the pictures at `indices`, and the one (higher is better) that chooses the epoch."""
        raise NotImplementedError


def stack_outputs(outputs: Iterable[NamedTuple]) -> NamedTuple:
    """The answers to consecutive batches as one of the same kind: float64 on the CPU; a None stays None."""
    parts = list(outputs)
    return type(parts[0])(*(_stack(values) for values in zip(*parts, strict=True)))


def _stack(values: tuple[Any, ...]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], dict):
        return {key: _stack(tuple(value[key] for value in values)) for key in values[0]}
    return torch.cat([value.detach().double().cpu() for value in values])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; 0 where it is not defined, so that an epoch of constant answers is never the best."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
