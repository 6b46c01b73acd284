"""Cross-scan and cross-merge of SS2D: a map read in four orders, and four readings summed back into a map.

The orders are row by row, column by column, and both backwards (VMamba, Liu et al. 2024, fig. 3). Everything here
moves or adds numbers, nothing computes a scan; it knows nothing about models.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

DIRECTIONS = 4  # rows, columns, rows backwards, columns backwards: the order of VMamba's weights


@lru_cache(maxsize=64)
def scan_orders(height: int, width: int) -> Tensor:
    """Which position h·W + w each direction reads at each of its steps: (4, L) int64, L = H·W."""
    rows = torch.arange(height * width, device="cpu")
    columns = rows.view(height, width).T.reshape(-1)
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])


def cross_scan(x: Tensor) -> Tensor:
    """A map in the four orders: (B, C, H, W) → (B, 4, C, L), or (B, 4, C, H, W), a map per direction, → the same.

    The result is written once. A map stored channels last gives sequences stored time first, (L, B, 4, C) in
    memory, as scans on a CPU want them; any other gives contiguous ones.
    """
    _check("cross_scan", x, (4, 5))
    if x.dim() == 5 and x.shape[1] != DIRECTIONS:
        raise ValueError(f"cross_scan: {x.shape[1]} maps, one for each of {DIRECTIONS} directions needed")
    return _CrossScan.apply(x)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Four sequences put back at their positions and summed: (B, 4, C, L) → (B, C, H, W), L = H·W.

    The transpose of `cross_scan`: `cross_merge(cross_scan(x), H, W)` is 4x. Sequences stored time first give a
    map stored channels last.
    """
    _check("cross_merge", y, (4,))
    if y.shape[1] != DIRECTIONS or y.shape[-1] != height * width:
        raise ValueError(
            f"cross_merge: y must be (B, {DIRECTIONS}, C, {height * width}) for {height}x{width}, "
            f"got {tuple(y.shape)}"
        )
    return _CrossMerge.apply(y, height, width)


def _check(name: str, x: Tensor, dims: tuple[int, ...]) -> None:
    if x.dim() not in dims or not x.numel():
        raise ValueError(
            f"{name}: a tensor of {' or '.join(map(str, dims))} dimensions, none of them 0, "
            f"is needed, got {tuple(x.shape)}"
        )


class _CrossScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.size, ctx.shared = x.shape[-2:], x.dim() == 4
        return _read(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return _sum(grad, *ctx.size) if ctx.shared else _unread(grad, *ctx.size)


class _CrossMerge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, height: int, width: int) -> Tensor:
        ctx.size = height, width
        return _sum(y, height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _read(grad), None, None


def _read(x: Tensor) -> Tensor:
    """x (B, C, H, W) or (B, 4, C, H, W) → (B, 4, C, L)."""
    batch, channels, height, width = x.shape[0], *x.shape[-3:]
    length = height * width
    if x.dim() == 4 and _channels_last(x):
        rows = x.permute(0, 2, 3, 1).reshape(batch * length, channels)
        taken = rows.index_select(0, _gather(batch, height, width).to(x.device))  # (L·B·4, C)
        return taken.view(length, batch, DIRECTIONS, channels).permute(1, 2, 3, 0)
    per_direction = x.dim() == 5
    out = x.new_empty(batch, DIRECTIONS, channels, length)
    for k in range(2):
        maps = x[:, k] if per_direction else x
        _as_map(out[:, k], k, height, width).copy_(maps)
        if per_direction:
            backwards = torch.empty_like(out[:, k])
            _as_map(backwards, k, height, width).copy_(x[:, k + 2])
            out[:, k + 2] = backwards.flip(-1)
    if not per_direction:
        out[:, 2:] = out[:, :2].flip(-1)
    return out


def _sum(y: Tensor, height: int, width: int) -> Tensor:
    """y (B, 4, C, L) → (B, C, H, W)."""
    batch, _, channels, length = y.shape
    time_first = y.stride(2) == 1 and channels > 1 and length > 1
    if y.device.type == "cpu" and time_first and not torch.compiler.is_compiling():
        rows = y.permute(3, 0, 1, 2).reshape(-1, channels)  # (L·B·4, C)
        if rows.dtype in (torch.float32, torch.float64):
            # One pass that reads each sequence and writes the map, without a buffer between them.
            out = torch.nn.functional.embedding_bag(_scatter(batch, height, width), rows, mode="sum")
            return out.view(batch, height, width, channels).permute(0, 3, 1, 2)
    both = y[:, :2] + y[:, 2:].flip(-1)
    return _as_map(both[:, 0], 0, height, width) + _as_map(both[:, 1], 1, height, width)


def _unread(y: Tensor, height: int, width: int) -> Tensor:
    """y (B, 4, C, L) → (B, 4, C, H, W), each sequence at its positions."""
    forwards = torch.cat([y[:, :2], y[:, 2:].flip(-1)], dim=1)
    return torch.stack([_as_map(forwards[:, k], k % 2, height, width) for k in range(DIRECTIONS)], dim=1)


def _as_map(sequence: Tensor, direction: int, height: int, width: int) -> Tensor:
    """A view (B, C, H, W) of a forward sequence (B, C, L); direction 0 runs along rows, 1 along columns."""
    if direction == 0:
        return sequence.unflatten(-1, (height, width))
    return sequence.unflatten(-1, (width, height)).transpose(-1, -2)


def _channels_last(x: Tensor) -> bool:
    # A compiler's or exporter's stand-in tensors must not end in the cached indices.
    return (
        x.stride(1) == 1
        and x.shape[1] > 1
        and x.shape[-1] * x.shape[-2] > 1
        and not torch.compiler.is_compiling()
    )


@lru_cache(maxsize=32)
def _gather(batch: int, height: int, width: int) -> Tensor:
    """For each of L·B·4 sequence elements, time first, its row among the B·L of the maps."""
    orders = scan_orders(height, width)
    image = torch.arange(batch, device="cpu").view(1, batch, 1) * orders.shape[1]
    return (orders.T.unsqueeze(1) + image).flatten()


@lru_cache(maxsize=32)
def _scatter(batch: int, height: int, width: int) -> Tensor:
    """For each of B·L positions, the four rows among L·B·4 that belong to it: (B·L, 4)."""
    return _gather(batch, height, width).argsort(stable=True).view(-1, DIRECTIONS)
