"""The whole of SS2D between its projections, compiled for the CPU by numba: Δ, softplus, four scans and their sum.

A unit of work is one tile of channels of one map. The tile is brought into the cache once; every direction reads
it there in its own order and adds to one sum, so nothing is reordered in memory. Inference only: no backward.
"""

from functools import cache

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from aescli.ops.cross_scan import DIRECTIONS, scan_orders
from aescli.ops.scans.compiled import TILE, _advance, _as_float, _exp, _options, _scalar, _share

CHUNK = 32  # steps whose Δ is computed together

_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
# 2·artanh(s)/s − 2 as a polynomial in s², for s² ≤ 1/9
_L1, _L2, _L3, _L4 = (np.float32(2 / n) for n in (3, 5, 7, 9))
_L5, _L6, _L7, _L8 = (np.float32(2 / n) for n in (11, 13, 15, 17))


@intrinsic
def _as_bits(typing_context, number):
    """The bits of a float32 as an int32."""

    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), build


@njit(types.float32(types.float32), error_model="numpy", **_scalar)
def _softplus(x):
    """log(1 + exp(x)) to a few units in the last place, for small results too."""
    e, _ = _exp(-abs(x))
    s = e / (_TWO + e)
    q = s * s
    series = _L1 + q * (_L2 + q * (_L3 + q * (_L4 + q * (_L5 + q * (_L6 + q * (_L7 + q * _L8))))))
    return max(x, _ZERO) + (_TWO * s + s * (q * series))


@njit(types.float32(types.int16), **_scalar)
def _from_bfloat16(bits):
    return _as_float(np.int32(np.int32(bits) << 16))


@njit(types.int16(types.float32), **_scalar)
def _to_bfloat16(x):
    """Rounded to nearest, ties to even; not for NaN."""
    bits = _as_bits(x)
    return np.int16((bits + np.int32(0x7FFF) + ((bits >> 16) & np.int32(1))) >> 16)


def _kernel(half):
    load = _from_bfloat16 if half else None

    def kernel(x, p, W, bias, A, D, orders, y, begin_unit, end_unit):
        """x, y: (B, L, C); p: (B, L, 4, R + 2N) = Δ's low rank, B, C; W: (4, tiles, R, TILE); bias: (4, tiles, TILE);
        A: (4, tiles, N, TILE); D: (tiles, TILE), summed over directions; orders: (4, L)."""
        length, channels = x.shape[1], x.shape[2]
        tiles, rank, states = W.shape[1], W.shape[2], A.shape[2]
        u = np.empty((length, TILE), np.float32)
        total = np.empty((length, TILE), np.float32)
        dt = np.empty((CHUNK, TILE), np.float32)
        h = np.empty((states, TILE), np.float32)
        for unit in range(begin_unit, end_unit):
            b = unit // tiles
            tile = unit % tiles
            first = tile * TILE
            width = min(TILE, channels - first)
            for t in range(length):
                row = x[
                    b, t, first : first + width
                ]  # a slice: x[…, first + d] would be a gather, first may be < 0
                for d in range(width):
                    if half:
                        u[t, d] = load(row[d])
                    else:
                        u[t, d] = row[d]
                for d in range(width, TILE):
                    u[t, d] = _ZERO
                for d in range(TILE):
                    total[t, d] = D[tile, d] * u[t, d]
            for k in range(DIRECTIONS):
                for n in range(states):
                    for d in range(TILE):
                        h[n, d] = _ZERO
                for begin in range(0, length, CHUNK):
                    steps = min(CHUNK, length - begin)
                    for s in range(steps):
                        at = orders[k, begin + s]
                        for d in range(TILE):
                            dt[s, d] = bias[k, tile, d]
                        for r in range(0, rank - 3, 4):
                            p0, p1, p2, p3 = (
                                p[b, at, k, r],
                                p[b, at, k, r + 1],
                                p[b, at, k, r + 2],
                                p[b, at, k, r + 3],
                            )
                            for d in range(TILE):
                                dt[s, d] += (p0 * W[k, tile, r, d] + p1 * W[k, tile, r + 1, d]) + (
                                    p2 * W[k, tile, r + 2, d] + p3 * W[k, tile, r + 3, d]
                                )
                        for r in range(rank - rank % 4, rank):
                            p0 = p[b, at, k, r]
                            for d in range(TILE):
                                dt[s, d] += p0 * W[k, tile, r, d]
                    for s in range(steps):
                        for d in range(TILE):
                            dt[s, d] = _softplus(dt[s, d])
                    for s in range(steps):
                        at = orders[k, begin + s]
                        for n in range(states):
                            bn = p[b, at, k, rank + n]
                            cn = p[b, at, k, rank + states + n]
                            for d in range(TILE):
                                _, rate = _exp(dt[s, d] * A[k, tile, n, d])
                                now = _advance(h[n, d], rate, (dt[s, d] * u[at, d]) * bn)
                                h[n, d] = now
                                total[at, d] += now * cn
            for t in range(length):
                row = y[b, t, first : first + width]
                for d in range(width):
                    if half:
                        row[d] = _to_bfloat16(total[t, d])
                    else:
                        row[d] = total[t, d]

    return kernel


@cache
def _compiled(half: bool):
    number = types.int16 if half else types.float32
    maps = types.Array(number, 3, "C")
    f4 = types.Array(types.float32, 4, "C")
    f3, f2 = types.Array(types.float32, 3, "C"), types.Array(types.float32, 2, "C")
    orders = types.Array(types.int64, 2, "C")
    signature = types.void(maps, f4, f4, f3, f4, f2, orders, maps, types.int64, types.int64)
    return njit(signature, **_options)(_kernel(half))


def scan(x: Tensor, projected: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor) -> Tensor:
    """Arguments and result as of `aescli.ops.ss2d.selective_scan_2d`; x float32 or bfloat16, on the CPU."""
    batch, height, width, channels = x.shape
    length = height * width
    half = x.dtype == torch.bfloat16
    tiles = -(-channels // TILE)

    def tiled(values: Tensor) -> Tensor:
        """(4, C, n) → (4, tiles, n, TILE), zero beyond C."""
        padded = torch.zeros(DIRECTIONS, values.shape[2], tiles * TILE)
        padded[..., :channels] = values.transpose(1, 2)
        return padded.view(DIRECTIONS, -1, tiles, TILE).transpose(1, 2).contiguous()

    y = torch.empty(batch, length, channels, dtype=x.dtype)
    maps = (x.contiguous().view(y.shape), y)
    numbers = projected.float().contiguous().view(batch, length, DIRECTIONS, -1)
    weights = (
        tiled(dt_weight),
        tiled(dt_bias.unsqueeze(-1)).squeeze(2),
        tiled(A.view(DIRECTIONS, channels, -1)),
        tiled(D.view(DIRECTIONS, channels, 1)).squeeze(2).sum(0),
    )
    source, target = ((m.view(torch.int16) if half else m).detach().numpy() for m in maps)
    arrays = [t.detach().numpy() for t in (numbers, *weights, scan_orders(height, width))]
    kernel = _compiled(half)
    _share(batch * tiles, lambda worker, first, end: kernel(source, *arrays, target, first, end))
    return y.view(x.shape)
