"""The whole of SS2D between its projections, compiled for the CPU by numba: Δ, softplus, four scans and their sum.

A unit of work is one tile of channels of one map. The tile is brought into the cache once; every direction reads
it there in its own order and adds to one sum, so nothing is reordered in memory. Inference only: no backward.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, types
from torch import Tensor

from aescli.ops.cross_scan import DIRECTIONS, scan_orders
from aescli.ops.scans.compiled import _share
from aescli.ops.scans.lanes import (
    LANES,
    LOG2E,
    add,
    advance,
    load,
    multiply,
    scale,
    scale_add,
    softplus,
    store,
    zero,
)


def _kernel(x, p, W, bias, A, D, orders, y, length, channels, rank, states, begin_unit, end_unit):
    """All arrays are flat. x, y: (B, L, C); p: (B, L, 4, R + 2N), Δ's low rank, B and C; orders: (4, L);
    per tile W: (4, tiles, R, LANES), bias: (4, tiles, LANES), A · log2 e: (4, tiles, N, LANES), D: (tiles, LANES)."""
    tiles = channels // LANES
    numbers = rank + 2 * states
    u = np.empty(length * LANES, np.float32)
    total = np.empty(length * LANES, np.float32)
    h = np.empty(states * LANES, np.float32)
    for unit in range(begin_unit, end_unit):
        b = unit // tiles
        tile = unit % tiles
        first = b * length * channels + tile * LANES
        skip = load(D, tile * LANES)
        for t in range(length):
            now = load(x, first + t * channels)
            store(u, t * LANES, now)
            store(total, t * LANES, multiply(now, skip))
        for k in range(DIRECTIONS):
            start = load(bias, (k * tiles + tile) * LANES)
            w = (k * tiles + tile) * rank * LANES
            a = (k * tiles + tile) * states * LANES
            for n in range(states):
                store(h, n * LANES, zero())
            for t in range(length):
                at = orders[k * length + t]
                i = ((b * length + at) * DIRECTIONS + k) * numbers
                dt, odd = start, zero()  # two sums: one would wait for itself
                for r in range(0, rank - 1, 2):
                    dt = scale_add(load(W, w + r * LANES), p[i + r], dt)
                    odd = scale_add(load(W, w + (r + 1) * LANES), p[i + r + 1], odd)
                if rank % 2:
                    dt = scale_add(load(W, w + (rank - 1) * LANES), p[i + rank - 1], dt)
                dt = softplus(add(dt, odd))
                source = multiply(dt, load(u, at * LANES))
                out = load(total, at * LANES)
                i += rank
                for n in range(states):
                    exponent = multiply(dt, load(A, a + n * LANES))
                    state = advance(load(h, n * LANES), exponent, scale(source, p[i + n]))
                    store(h, n * LANES, state)
                    out = scale_add(state, p[i + states + n], out)
                store(total, at * LANES, out)
        for t in range(length):
            store(y, first + t * channels, load(total, t * LANES))


@cache
def _compiled(half: bool):
    maps, floats, integers = (
        types.Array(kind, 1, "C")
        for kind in (types.int16 if half else types.float32, types.float32, types.int64)
    )
    signature = types.void(maps, *(floats,) * 5, integers, maps, *(types.int64,) * 6)
    return njit(signature, nogil=True, cache=True, error_model="numpy", boundscheck=False)(_kernel)


def scan(x: Tensor, projected: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor) -> Tensor:
    """Arguments and result as of `aescli.ops.ss2d.selective_scan_2d`; x float32 or bfloat16, on the CPU."""
    batch, height, width, channels = x.shape
    length, states, rank = height * width, A.shape[1], dt_weight.shape[2]
    missing = -channels % LANES
    half = x.dtype == torch.bfloat16

    def tiled(values: Tensor) -> Tensor:
        """(4, C, n) → (4, tiles, n, LANES), zero beyond C."""
        padded = F.pad(values.float(), (0, 0, 0, missing))
        return padded.unflatten(1, (-1, LANES)).transpose(2, 3)

    source = F.pad(x, (0, missing)).contiguous()
    y = torch.empty_like(source)
    weights = (
        tiled(dt_weight),
        tiled(dt_bias.unsqueeze(-1)),
        tiled(A.double().mul(LOG2E).view(DIRECTIONS, channels, states)),
        tiled(D.view(DIRECTIONS, channels, 1)).sum(0),
    )
    floats = [v.detach().contiguous().view(-1).numpy() for v in (projected.float(), *weights)]
    maps = [(v.view(torch.int16) if half else v).detach().view(-1).numpy() for v in (source, y)]
    orders = scan_orders(height, width).view(-1).numpy()
    sizes = (length, channels + missing, rank, states)
    kernel = _compiled(half)
    units = batch * (channels + missing) // LANES
    _share(units, lambda worker, first, end: kernel(maps[0], *floats, orders, maps[1], *sizes, first, end))
    return y[..., :channels]
