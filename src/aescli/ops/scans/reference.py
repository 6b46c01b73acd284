"""The recurrence as the papers write it, one step at a time, differentiable by plain autograd.

It is what every other backend is tested against; it knows nothing about speed.
"""

import torch
from torch import Tensor


def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t·h_t (Gu & Dao 2023, eq. 1a, 1b, zero-order hold).

    u, dt: (batch, D, L); A: (D, N); B, C: (batch, G, N, L), D divisible by G.
    Returns y (batch, D, L) and the last state (batch, D, N).
    """
    batch, dim, length = u.shape
    repeat = dim // B.shape[1]
    B = B.repeat_interleave(repeat, dim=1)  # (batch, D, N, L)
    C = C.repeat_interleave(repeat, dim=1)
    h = u.new_zeros(batch, dim, A.shape[1])
    ys = []
    for t in range(length):
        h = torch.exp(dt[:, :, t, None] * A) * h + (dt[:, :, t] * u[:, :, t])[..., None] * B[..., t]
        ys.append((h * C[..., t]).sum(-1))
    return torch.stack(ys, dim=-1), h
