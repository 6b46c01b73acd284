"""The selective scan as one loop operator, for torch.export and ONNX (where it becomes a single `Scan` node).

It knows nothing about training: its only use is while a model is being exported.
"""

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan as loop


def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Same meaning as `reference.scan`, as a `torch._higher_order_ops.scan` over time."""
    batch, dim, _ = u.shape
    groups, states = B.shape[1:3]
    A = A.view(groups, dim // groups, states)
    per_step = (
        dt.permute(2, 0, 1).reshape(-1, batch, groups, dim // groups),
        (dt * u).permute(2, 0, 1).reshape(-1, batch, groups, dim // groups),
        B.permute(3, 0, 1, 2).contiguous(),
        C.permute(3, 0, 1, 2).contiguous(),
    )

    def step(h: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        dt, x, B, C = now
        h = torch.exp(dt.unsqueeze(-1) * A) * h + x.unsqueeze(-1) * B.unsqueeze(-2)
        return h, (h * C.unsqueeze(-2)).sum(-1)

    # The exporter needs a carry with plain strides: torch.zeros, never zeros_like of a permuted view.
    start = torch.zeros((batch, groups, dim // groups, states), dtype=u.dtype, device=u.device)
    last, y = loop(step, start, per_step)
    return y.reshape(-1, batch, dim).permute(1, 2, 0), last.reshape(batch, dim, states)
