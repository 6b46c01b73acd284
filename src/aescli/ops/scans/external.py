"""mamba_ssm's CUDA kernel, where it is installed (it needs a CUDA build of its own and raises without one).

It adapts tensor types only; the meaning of the arguments is mamba_ssm's already.
"""

import torch
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Arguments as in `aescli.ops.selective_scan`, B and C (batch, G, N, L); the last state has no gradient.

    The kernel wants u, delta, B, C and z in one type and the rest in float32; it computes in float32 itself.
    Mixed types (an autocast region's) all go to float32, so that Δ keeps its precision.
    """
    signals = [u, delta, B, C] + ([] if z is None else [z])
    if len({x.dtype for x in signals}) > 1:
        signals = [x.float() for x in signals]
    u, delta, B, C, *gate = (x.contiguous() for x in signals)
    D, delta_bias = (None if x is None else x.float().contiguous() for x in (D, delta_bias))
    return selective_scan_fn(
        u,
        delta,
        A.to(torch.float32).contiguous(),
        B,
        C,
        D,
        z=gate[0] if gate else None,
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
