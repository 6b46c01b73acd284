"""The project's own Triton kernels for the selective scan, forward and backward, in float32.

One program owns a few channels of one sequence and walks over chunks of time; inside a chunk the recurrence
is an associative scan. It knows nothing about other devices: on a CPU it runs only in Triton's interpreter.
"""

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements (channels x states x steps) of one tile: 8 per thread with four warps. Twice as many make the
# backward kernel spill on sm_90; chosen by the compiled register counts, not yet by timing on a GPU.
TILE_ELEMENTS = 1024
WARPS = 4


@triton.jit
def _then(rate_1, state_1, rate_2, state_2):
    """h → (1 + r₁)h + b₁, followed by h → (1 + r₂)h + b₂.

    Rates, not decays: a float32 decay near 1 is rounded alike at every step, which biases a long sum.
    """
    return rate_1 + (rate_2 + rate_1 * rate_2), state_1 + (rate_2 * state_1 + state_2)


@triton.jit
def _expm1(x):
    """exp(x) - 1 without cancellation: a Taylor polynomial for |x| < 0.35 (2 units in the last place)."""
    q = 1.0 / 24 + x * (1.0 / 120 + x * (1.0 / 720 + x * (1.0 / 5040)))
    q = x * (1.0 + x * (0.5 + x * (1.0 / 6 + x * q)))
    return tl.where(tl.abs(x) < 0.35, q, tl.exp(x) - 1.0)


@triton.jit
def _place(blocks_per_group, groups, per_group, BLOCK_D: tl.constexpr):
    """Which sequence, which group, and which channels of (batch, D) this program owns."""
    program = tl.program_id(0).to(tl.int64)
    block = program % blocks_per_group
    sequence = program // blocks_per_group  # batch · groups + group
    within = block * BLOCK_D + tl.arange(0, BLOCK_D)
    return sequence, sequence * per_group + within, within < per_group


@triton.jit
def _forward_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, y_ptr, starts_ptr, last_ptr,
    length, states, groups, per_group, blocks_per_group, chunks,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    sequence, row, row_ok = _place(blocks_per_group, groups, per_group, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    step = tl.arange(0, BLOCK_T)
    dn_ok = row_ok[:, None] & (n < states)[None, :]
    channel = row % (groups * per_group)
    A = tl.load(A_ptr + channel[:, None] * states + n[None, :], mask=dn_ok, other=0.0)
    h = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)
    for chunk in range(0, chunks):
        if KEEP:
            at = (row[:, None] * chunks + chunk) * states + n[None, :]
            tl.store(starts_ptr + at, h, mask=dn_ok)
        t = chunk * BLOCK_T + step
        dl_ok = row_ok[:, None] & (t < length)[None, :]
        nl_ok = (n < states)[:, None] & (t < length)[None, :]
        dl = row[:, None] * length + t[None, :]
        nl = (sequence * states + n[:, None]) * length + t[None, :]
        u = tl.load(u_ptr + dl, mask=dl_ok, other=0.0)
        dt = tl.load(dt_ptr + dl, mask=dl_ok, other=0.0)  # past the end: decay 1, input 0, h stays
        B = tl.load(B_ptr + nl, mask=nl_ok, other=0.0)
        C = tl.load(C_ptr + nl, mask=nl_ok, other=0.0)
        rate = _expm1(dt[:, None, :] * A[:, :, None])  # (BLOCK_D, BLOCK_N, BLOCK_T)
        x = (dt * u)[:, None, :] * B[None, :, :]
        x += tl.where((step == 0)[None, None, :], h[:, :, None] + rate * h[:, :, None], 0.0)
        _, H = tl.associative_scan((rate, x), 2, _then)
        tl.store(y_ptr + dl, tl.sum(H * C[None, :, :], axis=1), mask=dl_ok)
        h = tl.sum(tl.where((step == BLOCK_T - 1)[None, None, :], H, 0.0), axis=2)
    tl.store(last_ptr + row[:, None] * states + n[None, :], h, mask=dn_ok)


@triton.jit
def _backward_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, gy_ptr, starts_ptr, glast_ptr,
    du_ptr, ddt_ptr, dA_ptr, dB_ptr, dC_ptr,
    length, states, groups, per_group, blocks_per_group, chunks,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    sequence, row, row_ok = _place(blocks_per_group, groups, per_group, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    step = tl.arange(0, BLOCK_T)
    n_ok = n < states
    dn_ok = row_ok[:, None] & n_ok[None, :]
    dn = row[:, None] * states + n[None, :]
    channel = row % (groups * per_group)
    A = tl.load(A_ptr + channel[:, None] * states + n[None, :], mask=dn_ok, other=0.0)
    dA = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)
    later = tl.load(glast_ptr + dn, mask=dn_ok, other=0.0)  # dL/dh of the first step after this chunk
    for i in range(0, chunks):
        chunk = chunks - 1 - i
        t = chunk * BLOCK_T + step
        dl_ok = row_ok[:, None] & (t < length)[None, :]
        nl_ok = n_ok[:, None] & (t < length)[None, :]
        before = (step > 0) & (t <= length)  # steps whose predecessor lies in this chunk
        dl = row[:, None] * length + t[None, :]
        nl = (sequence * states + n[:, None]) * length + t[None, :]
        u = tl.load(u_ptr + dl, mask=dl_ok, other=0.0)
        dt = tl.load(dt_ptr + dl, mask=dl_ok, other=0.0)
        gy = tl.load(gy_ptr + dl, mask=dl_ok, other=0.0)
        B = tl.load(B_ptr + nl, mask=nl_ok, other=0.0)
        C = tl.load(C_ptr + nl, mask=nl_ok, other=0.0)
        # h_{t-1} by a scan over the inputs one step earlier: h_t - Δ_t B_t u_t would cancel for strong decay.
        u_before = tl.load(u_ptr + dl - 1, mask=row_ok[:, None] & before[None, :], other=0.0)
        dt_before = tl.load(dt_ptr + dl - 1, mask=row_ok[:, None] & before[None, :], other=0.0)
        B_before = tl.load(B_ptr + nl - 1, mask=n_ok[:, None] & before[None, :], other=0.0)
        h = tl.load(starts_ptr + (row[:, None] * chunks + chunk) * states + n[None, :], mask=dn_ok, other=0.0)
        previous = (dt_before * u_before)[:, None, :] * B_before[None, :, :]
        previous += tl.where((step == 0)[None, None, :], h[:, :, None], 0.0)
        _, previous = tl.associative_scan((_expm1(dt_before[:, None, :] * A[:, :, None]), previous), 2, _then)
        decayed = tl.exp(dt[:, None, :] * A[:, :, None]) * previous
        x = dt * u
        H = decayed + x[:, None, :] * B[None, :, :]
        # G_t = C_t dy_t + exp(Δ_{t+1} A) G_{t+1}
        dt_after = tl.load(dt_ptr + dl + 1, mask=row_ok[:, None] & (t + 1 < length)[None, :], other=0.0)
        after = _expm1(dt_after[:, None, :] * A[:, :, None])
        G = gy[:, None, :] * C[None, :, :]
        G += tl.where(
            (step == BLOCK_T - 1)[None, None, :], later[:, :, None] + after * later[:, :, None], 0.0
        )
        _, G = tl.associative_scan((after, G), 2, _then, reverse=True)
        later = tl.sum(tl.where((step == 0)[None, None, :], G, 0.0), axis=2)

        dx = tl.sum(G * B[None, :, :], axis=1)
        d_exponent = G * decayed
        tl.store(du_ptr + dl, dx * dt, mask=dl_ok)
        tl.store(ddt_ptr + dl, dx * u + tl.sum(d_exponent * A[:, :, None], axis=1), mask=dl_ok)
        dA += tl.sum(d_exponent * dt[:, None, :], axis=2)
        tl.atomic_add(dB_ptr + nl, tl.sum(G * x[:, None, :], axis=0), mask=nl_ok)
        tl.atomic_add(dC_ptr + nl, tl.sum(H * gy[:, None, :], axis=0), mask=nl_ok)
    tl.store(dA_ptr + dn, dA, mask=dn_ok)


def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Same meaning as `reference.scan`, for float32 tensors on a CUDA device.

    The gradients of B and C are summed over channels by atomic additions: not bit-reproducible.
    """
    if u.dtype != torch.float32:
        raise ValueError(f"selective_scan: backend triton is for float32, not {u.dtype}")
    return _Scan.apply(*(x.contiguous() for x in (u, dt, A, B, C)))


def tile_shape(per_group: int, states: int, length: int) -> dict[str, int]:
    """Powers of two: enough steps for whole memory lines, then as many channels as the tile has room for."""
    block_n = triton.next_power_of_2(states)
    block_t = min(triton.next_power_of_2(max(length, 16)), max(16, min(256, TILE_ELEMENTS // (2 * block_n))))
    block_d = max(1, min(8, TILE_ELEMENTS // (block_n * block_t), triton.next_power_of_2(per_group)))
    return {"BLOCK_D": block_d, "BLOCK_N": block_n, "BLOCK_T": block_t}


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        batch, dim, length = u.shape
        groups, states = B.shape[1:3]
        ctx.tile = tile_shape(dim // groups, states, length)
        chunks = triton.cdiv(length, ctx.tile["BLOCK_T"])
        per_group = dim // groups
        ctx.sizes = (length, states, groups, per_group, triton.cdiv(per_group, ctx.tile["BLOCK_D"]), chunks)
        ctx.grid = (batch * groups * ctx.sizes[4],)
        keep = any(ctx.needs_input_grad)
        y = torch.empty_like(u)
        starts = u.new_empty((batch, dim, chunks, states) if keep else (1,))
        last = u.new_empty(batch, dim, states)
        with _on(u):
            _forward_kernel[ctx.grid](
                u, dt, A, B, C, y, starts, last, *ctx.sizes, **ctx.tile, KEEP=keep, num_warps=WARPS
            )
        ctx.save_for_backward(u, dt, A, B, C, starts)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, starts = ctx.saved_tensors
        du, ddt = torch.empty_like(u), torch.empty_like(dt)
        dA = torch.empty_like(grad_last, memory_format=torch.contiguous_format)  # per sequence, summed below
        dB, dC = torch.zeros_like(B), torch.zeros_like(C)
        with _on(u):
            _backward_kernel[ctx.grid](
                *(u, dt, A, B, C, grad_y.contiguous(), starts, grad_last.contiguous()),
                *(du, ddt, dA, dB, dC),
                *ctx.sizes,
                **ctx.tile,
                num_warps=WARPS,
            )
        return du, ddt, dA.sum(0), dB, dC


def _on(x: Tensor):
    """Launch on the tensor's own GPU; the interpreter has none."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
