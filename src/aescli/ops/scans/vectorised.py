"""The selective scan in plain PyTorch for any device: chunks of time, in place, with its own backward.

Inside a chunk everything but the recurrence itself is one vectorised expression; the recurrence is one fused
multiply-add per step on contiguous rows. It knows nothing about which backend is best for a shape.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of one chunk buffer, and states that advance together in one step (several sequences of the batch):
# the best of 2^17…2^19 and 2^13…2^15 on one core with 2 MiB of level-2 cache, up to twice the speed of taking
# the whole batch at once (batch 32, D 512, L 49, N 16: 38 ms against 75; with the backward 146 against 176).
CHUNK_ELEMENTS = 1 << 18
ROW_ELEMENTS = 1 << 14
# A float32 decay near 1 is off by up to 3e-8, the same way at every step if Δ is constant. Over more steps than
# this the bias would pass 1e-5, so the recurrence then works with exp(ΔA) - 1, for one operation more per step.
EXACT_DECAY_UP_TO = 512
# A recurrence step on fewer elements than this costs mostly its dispatch: then many blocks step together
# (batch 1, D 768, L 3136, N 1: 33 ms blocked, 50 ms step by step; at 1536 elements the two are even).
BLOCKED_BELOW = 2048


def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Same meaning as `reference.scan`; the backward is a reverse scan that recomputes the states."""
    return _Scan.apply(u, dt, A, B, C)


def linear_recurrence_(a: Tensor, b: Tensor, start: Tensor | None = None, rates: bool = False) -> Tensor:
    """Turn b into h with h_t = a_t h_{t-1} + b_t along dimension 0, in place; h_{-1} = start, or zero.

    a, b: (T, ...) of one shape, b contiguous; with `rates`, a holds the decays minus one. Nothing is ever
    divided and nothing leaves the range of the states themselves, so decays from exp(-50) to exp(-1e-4) are
    equally safe.
    """
    length, row = b.shape[0], b[0].numel()
    if start is not None:
        _advance_(b[0], a[0], start, rates)
    if length >= 64 and row < BLOCKED_BELOW:
        return _blocked_(a, b, rates)
    rows = b.unbind(0)
    for previous, current, decay in zip(rows, rows[1:], a.unbind(0)[1:], strict=False):
        _advance_(current, decay, previous, rates)
    return b


def _advance_(current: Tensor, decay: Tensor, previous: Tensor, rates: bool) -> None:
    current.addcmul_(decay, previous)
    if rates:
        current.add_(previous)


def _blocked_(a: Tensor, b: Tensor, rates: bool) -> Tensor:
    """√T blocks advance together, then the block ends are chained and their influence is added."""
    length = b.shape[0]
    size = int(length**0.5)
    blocks = length // size
    whole = blocks * size
    state = b[:whole].view(blocks, size, *b.shape[1:])
    decay = a[:whole].reshape(blocks, size, *a.shape[1:]).clone()
    for t in range(1, size):
        _advance_(state[:, t], decay[:, t], state[:, t - 1], rates)
        # the product of the decays since the block began, which only shrinks: (1+r)(1+s) - 1 = r + s(1+r)
        product = decay[:, t] * decay[:, t - 1]
        decay[:, t] = product.add_(decay[:, t]).add_(decay[:, t - 1]) if rates else product
    ends = state[:, -1].clone()
    for k in range(1, blocks):
        _advance_(ends[k], decay[k, -1], ends[k - 1], rates)
    _advance_(state[1:], decay[1:], ends[:-1].unsqueeze(1), rates)
    for t in range(whole, length):
        _advance_(b[t], a[t], b[t - 1], rates)
    return b


def _reverse_recurrence_(a: Tensor, g: Tensor, rates: bool = False) -> Tensor:
    """Turn g into G with G_t = g_t + a_{t+1} G_{t+1} along dimension 0, in place (the scan's transpose)."""
    length, row = g.shape[0], g[0].numel()
    if length >= 64 and row < BLOCKED_BELOW:
        flipped = g.flip(0)
        # a_{t+1} belongs to step t; the first reversed step has no predecessor, so its factor is never used.
        linear_recurrence_(torch.cat([a[:1], a[1:].flip(0)]), flipped, rates=rates)
        return g.copy_(flipped.flip(0))
    rows, decays = g.unbind(0), a.unbind(0)
    for t in range(length - 2, -1, -1):
        _advance_(rows[t], decays[t + 1], rows[t + 1], rates)
    return g


class _Scan(torch.autograd.Function):
    """Buffers are (T, batch, G, N, D/G): time first so a step is one contiguous row, channels last so that
    the N states of a channel read the same vectors."""

    @staticmethod
    def forward(ctx, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        batch, dim, length = u.shape
        groups, states = B.shape[1:3]
        At = A.view(groups, dim // groups, states).transpose(1, 2).contiguous()  # (G, N, D/G)
        u_t, dt_t = _time_major(u, groups), _time_major(dt, groups)  # (L, batch, G, 1, D/G)
        B_t, C_t = B.permute(3, 0, 1, 2).contiguous(), C.permute(3, 0, 1, 2).contiguous()  # (L, batch, G, N)
        y = torch.empty_like(u_t)
        last = u.new_empty(batch, groups, states, dim // groups)
        ctx.parts, ctx.chunk = plan(batch, dim * states, length)
        ctx.rates = length > EXACT_DECAY_UP_TO and u.dtype == torch.float32
        keep = any(ctx.needs_input_grad)
        starts = u.new_empty(-(-length // ctx.chunk) if keep else 0, *last.shape)
        for part in ctx.parts:
            h = torch.zeros_like(last[part])
            for i, s in enumerate(range(0, length, ctx.chunk)):
                now = (slice(s, s + ctx.chunk), part)
                if keep:
                    starts[i, part] = h
                exponent = dt_t[now] * At
                H = (dt_t[now] * u_t[now]) * B_t[now].unsqueeze(-1)
                linear_recurrence_(exponent.expm1_() if ctx.rates else exponent.exp_(), H, h, ctx.rates)
                y[now] = C_t[now].unsqueeze(-2) @ H
                h = H[-1].clone()
            last[part] = h
        ctx.save_for_backward(u_t, dt_t, At, B_t, C_t, starts)
        return _batch_major(y, batch, dim), last.transpose(2, 3).reshape(batch, dim, states)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        u_t, dt_t, At, B_t, C_t, starts = ctx.saved_tensors
        _, batch, groups, states = B_t.shape
        dim = groups * At.shape[2]
        gy_t = _time_major(grad_y, groups)
        du, ddt = torch.empty_like(u_t), torch.empty_like(dt_t)
        dB, dC = torch.empty_like(B_t), torch.empty_like(C_t)
        dA = torch.zeros_like(At)
        grad_last = grad_last.reshape(batch, groups, dim // groups, states).transpose(2, 3)
        for part in ctx.parts:
            later = grad_last[part]  # what reaches the state at a chunk's end from later times
            for i in range(len(starts) - 1, -1, -1):
                now = (slice(i * ctx.chunk, (i + 1) * ctx.chunk), part)
                dt, u, gy = dt_t[now], u_t[now], gy_t[now]  # (T, part, G, 1, D/G)
                Bc, Cc = B_t[now].unsqueeze(-1), C_t[now].unsqueeze(-1)  # (T, part, G, N, 1)
                decay = (dt * At).exp_()
                x = dt * u
                H = torch.empty((decay.shape[0] + 1, *decay.shape[1:]), dtype=u.dtype, device=u.device)
                H[0] = starts[i, part]
                torch.mul(x, Bc, out=H[1:])
                factor = (dt * At).expm1_() if ctx.rates else decay
                linear_recurrence_(factor, H[1:], H[0], ctx.rates)
                G = gy * Cc  # dL/dh
                G[-1] += later
                _reverse_recurrence_(factor, G, ctx.rates)
                later = decay[0] * G[0]
                dC[now] = (H[1:] @ gy.transpose(-1, -2)).squeeze(-1)
                dB[now] = (G @ x.transpose(-1, -2)).squeeze(-1)
                dx = Bc.transpose(-1, -2) @ G  # (T, part, G, 1, D/G)
                du[now] = dx * dt
                decay.mul_(H[:-1]).mul_(G)  # dL/d(ΔA)
                ddt[now] = (dx * u).add_((decay * At).sum(-2, keepdim=True))
                dA += decay.mul_(dt).sum((0, 1))
        return (
            _batch_major(du, batch, dim),
            _batch_major(ddt, batch, dim),
            dA.transpose(1, 2).reshape(dim, states),
            dB.permute(1, 2, 3, 0),
            dC.permute(1, 2, 3, 0),
        )


def plan(batch: int, row: int, length: int) -> tuple[list[slice], int]:
    """Parts of the batch and steps per chunk, so that buffers of (steps x part x row) stay in the cache."""
    together = max(1, ROW_ELEMENTS // row)
    parts = [slice(b, b + together) for b in range(0, batch, together)]
    return parts, min(length, max(8, CHUNK_ELEMENTS // (min(together, batch) * row)))


def _time_major(x: Tensor, groups: int) -> Tensor:
    batch, dim, length = x.shape
    return x.permute(2, 0, 1).contiguous().view(length, batch, groups, 1, dim // groups)


def _batch_major(x: Tensor, batch: int, dim: int) -> Tensor:
    return x.view(-1, batch, dim).permute(1, 2, 0)
