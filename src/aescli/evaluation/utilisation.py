"""How much each expert of a mixture is used over many images (MoMamba, Section 3.3.2).

Knows the routing that a model's output carries; knows nothing about images, labels or pictures of it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Over n images: mean routing probability of each expert (K,), share of images that keep it (K,)."""

    n: int
    probability: np.ndarray
    kept: np.ndarray


@dataclass(slots=True)
class ExpertCounter:
    """Adds up the routing of a model's outputs, per task; safe to call from several threads.

    top_k: experts that are kept for each image.
    """

    top_k: int
    _sums: dict[str, tuple[int, np.ndarray, np.ndarray]] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, output: Any) -> None:
        """`output.routing`: task → probabilities over the experts (B, K); a model without experts has none."""
        for task, routing in output.routing.items():
            p = routing.detach().double().cpu().numpy()
            kept = np.zeros_like(p)
            chosen = np.argsort(-p, axis=1, kind="stable")[:, : self.top_k]
            np.put_along_axis(kept, chosen, 1.0, axis=1)
            with self._turn:
                n, sums, counts = self._sums.get(task, (0, 0.0, 0.0))
                self._sums[task] = (n + len(p), sums + p.sum(0), counts + kept.sum(0))

    def result(self) -> dict[str, Utilisation]:
        """task → utilisation; empty for a model without experts."""
        return {task: Utilisation(n, p / n, kept / n) for task, (n, p, kept) in self._sums.items()}
