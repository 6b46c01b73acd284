"""The selective scan compiled for the CPU by numba, forward and backward, in float32.

A unit of work is one tile of channels of one sequence: its state stays in the first-level cache while time
runs, and the threads torch may use share the units. It knows nothing about when compiling is worth it.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 32  # channels that advance together; 32 and 128 measured best of 16…64 and 64…256
CHUNK = 128  # steps between two stored states

_LOG2E, _LN2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
_HALF, _ONE, _MIN, _MAX = np.float32(0.5), np.float32(1.0), np.float32(-87.0), np.float32(88.0)
_C3, _C4, _C5 = np.float32(1 / 6), np.float32(1 / 24), np.float32(1 / 120)
_C6, _C7 = np.float32(1 / 720), np.float32(1 / 5040)

_array = {n: types.Array(types.float32, n, "A") for n in (2, 3, 4)}
_packed = {4: types.Array(types.float32, 4, "C")}
_options = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


@intrinsic
def _as_float(typing_context, bits):
    """The float32 with the bits of an int32; numba's own view() keeps loops from becoming vector code."""

    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), build


# Small functions of their own: they keep their rounding where the kernels around them may reorder sums.
_scalar = {"cache": True, "fastmath": {"contract"}}


# numba calls the C library's exp once per number; this polynomial (2 units in the last place) vectorises.
@njit(types.UniTuple(types.float32, 2)(types.float32), **_scalar)
def _exp(x):
    """exp(x), and exp(x) - 1 without cancellation."""
    x = min(max(x, _MIN), _MAX)
    k = np.floor(x * _LOG2E + _HALF)
    r = x - k * _LN2
    q = _C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7)))
    q = r * (_ONE + r * (_HALF + r * q))
    power = _as_float(np.int32((np.int32(k) + 127) << 23))
    return power * q + power, power * q + (power - _ONE)


@njit(types.float32(types.float32, types.float32, types.float32), **_scalar)
def _advance(state, rate, x):
    """exp(ΔA) h + x from rate = exp(ΔA) - 1: a decay rounded near 1 would bias a long sum, a rate does not."""
    return state + (rate * state + x)


@njit(types.void(_array[3], *(types.int64,) * 5, _array[2]), **_options)
def _load(source, b, first, width, begin, steps, tile):
    """tile[t, d] = source[b, first + d, begin + t], zero beyond `width` channels."""
    if source.strides[1] < source.strides[2]:
        for t in range(steps):
            for d in range(width):
                tile[t, d] = source[b, first + d, begin + t]
    else:
        for d in range(width):
            for t in range(steps):
                tile[t, d] = source[b, first + d, begin + t]
    for t in range(steps):
        for d in range(width, TILE):
            tile[t, d] = 0.0


@njit(types.void(_array[3], *(types.int64,) * 5, _array[2]), **_options)
def _store(target, b, first, width, begin, steps, tile):
    if target.strides[1] < target.strides[2]:
        for t in range(steps):
            for d in range(width):
                target[b, first + d, begin + t] = tile[t, d]
    else:
        for d in range(width):
            for t in range(steps):
                target[b, first + d, begin + t] = tile[t, d]


def _forward(u, dt, A, B, C, y, starts, keep, begin_unit, end_unit):
    """A: (G, tiles, N, TILE); starts: (units, chunks + 1, N, TILE), or one chunk when not `keep`."""
    dim, length = u.shape[1], u.shape[2]
    groups, tiles, states = A.shape[0], A.shape[1], A.shape[2]
    per_group = dim // groups
    ut = np.empty((CHUNK, TILE), np.float32)
    dtt = np.empty((CHUNK, TILE), np.float32)
    yt = np.empty((CHUNK, TILE), np.float32)
    h = np.empty((states, TILE), np.float32)
    for unit in range(begin_unit, end_unit):
        tile = unit % tiles
        g = (unit // tiles) % groups
        b = unit // (tiles * groups)
        width = min(TILE, per_group - tile * TILE)
        channel = g * per_group + tile * TILE
        for n in range(states):
            for d in range(TILE):
                h[n, d] = 0.0
        chunk = 0
        for begin in range(0, length, CHUNK):
            if keep:
                for n in range(states):
                    for d in range(TILE):
                        starts[unit, chunk, n, d] = h[n, d]
                chunk += 1
            steps = min(CHUNK, length - begin)
            _load(u, b, channel, width, begin, steps, ut)
            _load(dt, b, channel, width, begin, steps, dtt)
            for t in range(steps):
                for d in range(TILE):
                    ut[t, d] *= dtt[t, d]
                    yt[t, d] = 0.0
                for n in range(states):
                    bn = B[b, g, n, begin + t]
                    cn = C[b, g, n, begin + t]
                    for d in range(TILE):
                        _, rate = _exp(dtt[t, d] * A[g, tile, n, d])
                        now = _advance(h[n, d], rate, ut[t, d] * bn)
                        h[n, d] = now
                        yt[t, d] += now * cn
            _store(y, b, channel, width, begin, steps, yt)
        for n in range(states):
            for d in range(TILE):
                starts[unit, chunk, n, d] = h[n, d]


def _backward(u, dt, A, B, C, gy, starts, later, du, ddt, dA, dB, dC, begin_unit, end_unit):
    """Reverse scan; dA, dB, dC are this thread's own sums. later: (units, 1, N, TILE), dL/d(last state)."""
    dim, length = u.shape[1], u.shape[2]
    groups, tiles, states = A.shape[0], A.shape[1], A.shape[2]
    per_group = dim // groups
    ut = np.empty((CHUNK, TILE), np.float32)
    dtt = np.empty((CHUNK, TILE), np.float32)
    gyt = np.empty((CHUNK, TILE), np.float32)
    dxt = np.empty(TILE, np.float32)
    dat = np.empty(TILE, np.float32)
    decay = np.empty((CHUNK, states, TILE), np.float32)
    rate = np.empty((CHUNK, states, TILE), np.float32)
    h = np.empty((CHUNK + 1, states, TILE), np.float32)
    G = np.empty((states, TILE), np.float32)
    for unit in range(begin_unit, end_unit):
        tile = unit % tiles
        g = (unit // tiles) % groups
        b = unit // (tiles * groups)
        width = min(TILE, per_group - tile * TILE)
        channel = g * per_group + tile * TILE
        for n in range(states):
            for d in range(TILE):
                G[n, d] = later[unit, 0, n, d]
        for chunk in range((length - 1) // CHUNK, -1, -1):
            begin = chunk * CHUNK
            steps = min(CHUNK, length - begin)
            _load(u, b, channel, width, begin, steps, ut)
            _load(dt, b, channel, width, begin, steps, dtt)
            _load(gy, b, channel, width, begin, steps, gyt)
            for n in range(states):
                for d in range(TILE):
                    h[0, n, d] = starts[unit, chunk, n, d]
            for t in range(steps):
                for n in range(states):
                    bn = B[b, g, n, begin + t]
                    for d in range(TILE):
                        decay[t, n, d], r = _exp(dtt[t, d] * A[g, tile, n, d])
                        rate[t, n, d] = r
                        h[t + 1, n, d] = _advance(h[t, n, d], r, dtt[t, d] * ut[t, d] * bn)
            for t in range(steps - 1, -1, -1):
                for d in range(TILE):
                    dxt[d] = 0.0
                    dat[d] = 0.0
                for n in range(states):
                    bn = B[b, g, n, begin + t]
                    cn = C[b, g, n, begin + t]
                    sum_b = np.float32(0.0)
                    sum_c = np.float32(0.0)
                    for d in range(TILE):
                        grad = G[n, d] + gyt[t, d] * cn
                        sum_b += grad * (dtt[t, d] * ut[t, d])
                        sum_c += h[t + 1, n, d] * gyt[t, d]
                        dxt[d] += grad * bn
                        G[n, d] = _advance(grad, rate[t, n, d], 0.0)
                        grad *= decay[t, n, d] * h[t, n, d]
                        dat[d] += grad * A[g, tile, n, d]
                        dA[g, tile, n, d] += grad * dtt[t, d]
                    dB[b, g, n, begin + t] += sum_b
                    dC[b, g, n, begin + t] += sum_c
                for d in range(TILE):
                    dx = dxt[d]
                    dxt[d] = dx * dtt[t, d]
                    dtt[t, d] = dx * ut[t, d] + dat[d]
                    ut[t, d] = dxt[d]
            _store(du, b, channel, width, begin, steps, ut)
            _store(ddt, b, channel, width, begin, steps, dtt)


_common = (_array[3], _array[3], _packed[4], _packed[4], _packed[4], _array[3], _packed[4])  # u … starts


@cache
def _compiled_forward():
    return njit(types.void(*_common, types.boolean, types.int64, types.int64), **_options)(_forward)


@cache
def _compiled_backward():
    more = (_packed[4], _array[3], _array[3], _packed[4], _packed[4], _packed[4], types.int64, types.int64)
    return njit(types.void(*_common, *more), **_options)(_backward)


def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Same meaning as `reference.scan`, for float32 tensors on the CPU."""
    if u.dtype != torch.float32 or u.device.type != "cpu":
        raise ValueError(
            f"selective_scan: backend numba is for float32 on the CPU, not {u.dtype} on {u.device}"
        )
    return _Scan.apply(u, dt, A, B, C)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        batch, dim, length = u.shape
        groups, states = B.shape[1:3]
        per_group = dim // groups
        tiles = -(-per_group // TILE)
        units = batch * groups * tiles
        At = A.new_zeros(groups, states, tiles * TILE)
        At[..., :per_group] = A.view(groups, per_group, states).transpose(1, 2)
        At = At.view(groups, states, tiles, TILE).transpose(1, 2).contiguous()  # (G, tiles, N, TILE)
        u, dt, B, C = u.detach(), dt.detach(), B.contiguous(), C.contiguous()
        keep = any(ctx.needs_input_grad)
        starts = u.new_empty(units, (-(-length // CHUNK) if keep else 0) + 1, states, TILE)
        y = torch.empty_like(u)
        arrays = [x.detach().numpy() for x in (u, dt, At, B, C, y, starts)]
        kernel = _compiled_forward()
        _share(units, lambda worker, first, end: kernel(*arrays, keep, first, end))
        ctx.save_for_backward(u, dt, At, B, C, starts)
        return y, _from_tiles(starts[:, -1], batch, groups, tiles, per_group)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        u, dt, At, B, C, starts = ctx.saved_tensors
        batch, dim, _ = u.shape
        groups, tiles, states, _ = At.shape
        per_group = dim // groups
        units = len(starts)
        later = u.new_zeros(batch * groups, states, tiles * TILE)
        later[..., :per_group] = grad_last.reshape(batch * groups, per_group, states).transpose(1, 2)
        later = later.view(-1, states, tiles, TILE).transpose(1, 2).reshape(units, 1, states, TILE)
        du, ddt = torch.empty_like(u), torch.empty_like(dt)
        inputs = [x.detach().numpy() for x in (u, dt, At, B, C, grad_y, starts, later, du, ddt)]
        workers = _workers(units)
        sums = [x.new_zeros(workers, *x.shape) for x in (At, B, C)]  # every thread its own, added in order

        kernel = _compiled_backward()

        def work(worker: int, first: int, end: int) -> None:
            kernel(*inputs, *(x[worker].numpy() for x in sums), first, end)

        _share(units, work)
        dA, dB, dC = (x.sum(0) for x in sums)
        dA = dA.transpose(1, 2).reshape(groups, states, -1)[..., :per_group].transpose(1, 2)
        return du, ddt, dA.reshape(dim, states), dB, dC


def _from_tiles(x: Tensor, batch: int, groups: int, tiles: int, per_group: int) -> Tensor:
    """(units, N, TILE) → (batch, D, N)."""
    x = x.view(batch, groups, tiles, -1, TILE).transpose(2, 3).reshape(batch, groups, -1, tiles * TILE)
    return x[..., :per_group].transpose(2, 3).reshape(batch, groups * per_group, -1)


def _workers(units: int) -> int:
    return max(1, min(torch.get_num_threads(), units))


def _share(units: int, work) -> None:
    """Call work(worker, first unit, end unit) so that the workers cover all units."""
    workers = _workers(units)
    if workers == 1:
        work(0, 0, units)
        return
    bounds = [units * i // workers for i in range(workers + 1)]
    jobs = [_pool(os.getpid()).submit(work, i, bounds[i], bounds[i + 1]) for i in range(1, workers)]
    work(0, 0, bounds[1])
    for job in jobs:
        job.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """One pool per process: threads do not survive a fork, a data loader's for example."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="selective-scan")
