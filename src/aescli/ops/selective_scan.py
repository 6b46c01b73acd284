"""Selective scan (S6): one function with the argument meanings of mamba_ssm, several ways to compute it.

It checks the arguments, keeps the state in float32 (float64 for float64 inputs) whatever the autocast, adds
bias, softplus, skip and gate, and chooses a backend; it knows nothing about the models that use it.
"""

import importlib
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from aescli.ops.scans import exported, reference, vectorised

_PLAIN = {  # any floating type, any device
    "reference": reference,  # one step at a time
    "torch": vectorised,  # plain PyTorch with its own backward
    "export": exported,  # one loop operator, for torch.export and ONNX
}
_OPTIONAL = {  # imported when first wanted, from aescli.ops.scans
    "numba": "compiled",  # compiled for the CPU; float32
    "triton": "kernels",  # the project's GPU kernels; float32
    "mamba_ssm": "external",  # mamba_ssm's CUDA kernel; float32 and half types
}
BACKENDS = ("auto", *_PLAIN, *_OPTIONAL)

# Numba is 2 to 5 times as fast as the torch backend at every shape measured (processor time on one core: batch
# 32, D 512, L 49, N 16: 15 against 55 ms, with the backward 48 against 170; VMamba's first stage, batch 1,
# N 16: 51 against 162 and 128 against 625). But its import takes a second and its first compilation on a
# machine about ten, so a scan must be this large (batch · D · L · N) to be worth it.
NUMBA_FROM = 1 << 24


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """y_t = C_t·h_t + D u_t with h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t and h_{-1} = 0 (S6; Gu & Dao 2023, §3.2).

    Args:
        u, delta: (batch, D, L); Δ = delta + delta_bias, through softplus when `delta_softplus`; Δ ≥ 0.
        A: (D, N), real and negative.
        B, C: (batch, G, N, L) with D divisible by G, or (batch, N, L) for G = 1.
        D: (D,) skip connection. delta_bias: (D,).
        z: (batch, D, L) gate: the result is multiplied by SiLU(z).
        backend: one of `BACKENDS`; "auto" takes the fastest one for the shape and the device.

    Returns:
        (batch, D, L) in u's type, and with `return_last_state` also h_{L-1}, (batch, D, N) in the type of the
        computation: float64 if an input is float64, else float32, under autocast too.

    Raises:
        ValueError: shapes that do not fit each other, or a backend that is unknown or not available here.
    """
    if B.dim() == 3:
        B = B.unsqueeze(1)
    if C.dim() == 3:
        C = C.unsqueeze(1)
    _check(u, delta, A, B, C, D, z, delta_bias)
    dtype = _compute_type(u, delta, A, B, C)
    if backend == "auto":
        backend = choose_backend(u, delta, A, B, C, return_last_state)
    module = _module(backend, u.device)
    with torch.autocast(u.device.type, enabled=False):
        if backend == "mamba_ssm":
            y, last = module.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        else:
            x = u.to(dtype)
            dt = delta.to(dtype)
            if delta_bias is not None:
                dt = dt + delta_bias.to(dtype).unsqueeze(-1)
            if delta_softplus:
                dt = F.softplus(dt)
            run = module.scan if backend == "export" else _outside_compilation(module.scan)
            y, last = run(x, dt, A.to(dtype), B.to(dtype), C.to(dtype))
            if D is not None:
                y = y + D.to(dtype).unsqueeze(-1) * x
            if z is not None:
                y = y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, last) if return_last_state else y


def choose_backend(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, return_last_state: bool = False
) -> str:
    """The backend that "auto" stands for; arguments as for `selective_scan`, B and C (batch, G, N, L)."""
    if _exporting():
        return "export"
    if _compute_type(u, delta, A, B, C) == torch.float64:
        return "torch"
    if u.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        # The GPU kernels sum the gradients of B and C atomically. mamba_ssm gives none to the last state.
        if available("mamba_ssm", u.device) and not (return_last_state and torch.is_grad_enabled()):
            return "mamba_ssm"
        if available("triton", u.device):
            return "triton"
    if u.device.type == "cpu" and u.numel() * A.shape[1] >= NUMBA_FROM and available("numba", u.device):
        return "numba"
    return "torch"


def available(backend: str, device: torch.device | str) -> bool:
    """Whether a backend can run tensors of this device here; it imports what the backend needs."""
    return _why_not(backend, torch.device(device).type) is None


@cache
def _why_not(backend: str, device: str) -> str | None:
    if backend in _OPTIONAL:
        try:
            _import(backend)
        except Exception as error:  # a broken build of any of them raises what it likes
            return f"it does not import here ({type(error).__name__}: {error})"
    if backend == "numba" and device != "cpu":
        return f"it runs on the CPU only, not on {device}"
    if backend == "mamba_ssm" and device != "cuda":
        return f"it runs on CUDA devices only, not on {device}"
    if backend == "triton" and device != "cuda" and not _triton_interprets():
        return f"it runs on CUDA devices only, not on {device} (elsewhere with TRITON_INTERPRET=1, for tests)"
    return None


def _triton_interprets() -> bool:
    from aescli.ops.scans import kernels

    # Decided when the kernels are defined, not when they are called.
    return not isinstance(kernels._forward_kernel, kernels.triton.runtime.JITFunction)


def _module(backend: str, device: torch.device) -> ModuleType:
    if backend in _PLAIN:
        return _PLAIN[backend]
    if backend not in _OPTIONAL:
        raise ValueError(f"selective_scan: unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    reason = _why_not(backend, device.type)
    if reason is not None:
        raise ValueError(f"selective_scan: backend {backend!r} is not available: {reason}")
    return _import(backend)


def _import(backend: str) -> ModuleType:
    return importlib.import_module(f"aescli.ops.scans.{_OPTIONAL[backend]}")


def _outside_compilation(run):
    """Under torch.compile the scans run as they are: a loop over time must not be unrolled into a graph."""
    return torch.compiler.disable(run) if torch.compiler.is_compiling() else run


def _exporting() -> bool:
    # torch 2.6 cannot tell exporting from compiling; the export form is right for both.
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def _compute_type(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def _check(u, delta, A, B, C, D, z, delta_bias) -> None:
    if u.dim() != 3:
        raise ValueError(f"selective_scan: u must be (batch, D, L), got {tuple(u.shape)}")
    batch, dim, length = u.shape
    if A.dim() != 2 or A.shape[0] != dim:
        raise ValueError(f"selective_scan: A must be (D={dim}, N), got {tuple(A.shape)}")
    states, groups = A.shape[1], B.shape[1]
    if groups < 1 or dim % groups:
        raise ValueError(f"selective_scan: D={dim} is not divisible by the {groups} groups of B")
    wanted = {
        "delta": (delta, (batch, dim, length)),
        "B": (B, (batch, groups, states, length)),
        "C": (C, (batch, groups, states, length)),
        "D": (D, (dim,)),
        "z": (z, (batch, dim, length)),
        "delta_bias": (delta_bias, (dim,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"selective_scan: {name} must be {shape}, got {tuple(tensor.shape)}")
    if not (batch and length and states):
        raise ValueError(f"selective_scan: empty input: batch {batch}, length {length}, states {states}")
