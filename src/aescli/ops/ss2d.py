"""The 2-D selective scan of SS2D: a map scanned in four orders, each with its own Δ, A, B, C, D, and summed.

It chooses between one compiled CPU kernel (inference) and cross-scan, `selective_scan`, cross-merge (any device,
with gradients); it knows nothing about the block around it.
"""

import torch
from torch import Tensor

from aescli.ops.cross_scan import DIRECTIONS, cross_merge, cross_scan
from aescli.ops.selective_scan import available, selective_scan

# From this size (B·H·W·C·4·N) on the compiled kernel is worth numba's import and, once on a machine, its
# compilation. A network's first map is its largest: after it the kernel is there, and every later one uses it.
COMPILED_FROM = 1 << 23

BACKENDS = ("auto", "compiled", "composed")


def selective_scan_2d(
    x: Tensor,
    projected: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """SS2D's core (VMamba, Liu et al. 2024, §4.3): (B, H, W, C) → (B, H, W, C) in x's type.

    Args:
        x: (B, H, W, C).
        projected: (B, H, W, 4, R + 2N): at each position and for each direction Δ's R numbers, then B, then C.
        dt_weight: (4, C, R), dt_bias: (4, C): Δ = softplus(dt_weight · Δ's numbers + dt_bias).
        A: (4C, N), real and negative. D: (4C,) skip connections.
        backend: "compiled" is one numba kernel, without gradients; "composed" is made of the library's own pieces;
            "auto" takes the first where it can run and is worth it.

    Δ, A and the states are float32 (float64 for float64 inputs) under any autocast.

    Raises:
        ValueError: shapes that do not fit each other, or a backend that is unknown or cannot run here.
    """
    _check(x, projected, dt_weight, dt_bias, A, D)
    if backend not in BACKENDS:
        raise ValueError(
            f"selective_scan_2d: unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}"
        )
    tensors = (x, projected, dt_weight, dt_bias, A, D)
    compiled = _is_worth_compiling(tensors) if backend == "auto" else backend == "compiled"
    with torch.autocast(x.device.type, enabled=False):
        if not compiled:
            return _composed(*tensors)
        reason = _why_not_compiled(tensors)
        if reason:
            raise ValueError(f"selective_scan_2d: backend 'compiled' {reason}")
        from aescli.ops.scans import compiled_2d

        return compiled_2d.scan(*tensors)


def _why_not_compiled(tensors: tuple[Tensor, ...]) -> str | None:
    if any(t.device.type != "cpu" for t in tensors):
        return "runs on the CPU only"
    if tensors[0].dtype not in (torch.float32, torch.bfloat16):
        return f"is for float32 and bfloat16 maps, not {tensors[0].dtype}"
    if any(t.dtype == torch.float64 for t in tensors):
        return "computes in float32 only"
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "has no gradients"
    return None if available("numba", "cpu") else "needs numba (pip install 'aescli[fast-cpu]')"


def _is_worth_compiling(tensors: tuple[Tensor, ...]) -> bool:
    if torch.compiler.is_compiling() or tensors[0].device.type != "cpu":
        return False
    states = tensors[4].shape[1]
    large = tensors[0].numel() * DIRECTIONS * states >= COMPILED_FROM
    return (large or _loaded()) and _why_not_compiled(tensors) is None


def _loaded() -> bool:
    import sys

    return "aescli.ops.scans.compiled_2d" in sys.modules


def _composed(
    x: Tensor, projected: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor
) -> Tensor:
    batch, height, width, channels = x.shape
    rank, states = dt_weight.shape[2], A.shape[1]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    # The scans compute in this type: converted before the four copies are made, not after.
    u = cross_scan(x.to(dtype).permute(0, 3, 1, 2))  # (B, 4, C, L)
    # The projection was of the map; its few numbers are reordered, not the C channels that they come from.
    p = cross_scan(projected.to(dtype).permute(0, 3, 4, 1, 2))  # (B, 4, R + 2N, L)
    dt, B, C = p.split([rank, states, states], dim=2)
    delta = dt_weight.to(dtype) @ dt  # (B, 4, C, L)
    length = height * width
    y = selective_scan(
        u.reshape(batch, DIRECTIONS * channels, length),
        delta.reshape(batch, DIRECTIONS * channels, length),
        A,
        B,
        C,
        D,
        delta_bias=dt_bias.flatten(),
        delta_softplus=True,
    )
    y = cross_merge(y.view(batch, DIRECTIONS, channels, length), height, width)
    return y.permute(0, 2, 3, 1).to(x.dtype)


def _check(x, projected, dt_weight, dt_bias, A, D) -> None:
    if x.dim() != 4 or not x.numel():
        raise ValueError(f"selective_scan_2d: x must be (B, H, W, C) and not empty, got {tuple(x.shape)}")
    channels = x.shape[3]
    if dt_weight.dim() != 3 or A.dim() != 2:
        raise ValueError("selective_scan_2d: dt_weight must be (4, C, R) and A (4C, N)")
    rank, states = dt_weight.shape[2], A.shape[1]
    wanted = {
        "projected": (projected, (*x.shape[:3], DIRECTIONS, rank + 2 * states)),
        "dt_weight": (dt_weight, (DIRECTIONS, channels, rank)),
        "dt_bias": (dt_bias, (DIRECTIONS, channels)),
        "A": (A, (DIRECTIONS * channels, states)),
        "D": (D, (DIRECTIONS * channels,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"selective_scan_2d: {name} must be {shape}, got {tuple(tensor.shape)}")
