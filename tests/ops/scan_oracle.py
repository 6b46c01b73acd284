"""The selective scan and its gradients in float64 numpy, written from the equations alone."""

import numpy as np


def scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """As selective_scan with B, C (batch, G, N, L); returns y (batch, D, L) and last (batch, D, N)."""
    batch, dim, length = u.shape
    dt = delta if delta_bias is None else delta + delta_bias[:, None]
    if delta_softplus:
        dt = np.logaddexp(0.0, dt)
    group = np.arange(dim) // (dim // B.shape[1])
    h = np.zeros((batch, dim, A.shape[1]))
    y = np.zeros_like(u)
    for t in range(length):
        h = np.exp(dt[:, :, t, None] * A) * h + (dt * u)[:, :, t, None] * B[..., t][:, group]
        y[:, :, t] = np.einsum("bdn,bdn->bd", h, C[..., t][:, group])
    if D is not None:
        y = y + D[:, None] * u
    if z is not None:
        y = y * z / (1.0 + np.exp(-z))
    return y, h


def gradients(u, dt, A, B, C, grad_y, grad_last):
    """dL/d(u, dt, A, B, C) of the bare scan, for dL/dy and dL/d(last state): the adjoint recurrence."""
    batch, dim, length = u.shape
    groups = B.shape[1]
    group = np.arange(dim) // (dim // groups)
    states = np.zeros((length + 1, batch, dim, A.shape[1]))
    for t in range(length):
        states[t + 1] = (
            np.exp(dt[:, :, t, None] * A) * states[t] + (dt * u)[:, :, t, None] * B[..., t][:, group]
        )
    du, ddt, dA, dB, dC = (np.zeros_like(x) for x in (u, dt, A, B, C))
    g = grad_last.copy()  # dL/dh_t, from y_t and from all later steps
    for t in reversed(range(length)):
        g = g + grad_y[:, :, t, None] * C[..., t][:, group]
        for k in range(groups):
            mine = group == k
            dC[:, k, :, t] = np.einsum("bdn,bd->bn", states[t + 1][:, mine], grad_y[:, mine, t])
            dB[:, k, :, t] = np.einsum("bdn,bd->bn", g[:, mine], (dt * u)[:, mine, t])
        through_input = np.einsum("bdn,bdn->bd", g, B[..., t][:, group])
        decayed = np.exp(dt[:, :, t, None] * A) * g
        exponent = decayed * states[t]
        du[:, :, t] = dt[:, :, t] * through_input
        ddt[:, :, t] = u[:, :, t] * through_input + (exponent * A).sum(-1)
        dA += (exponent * dt[:, :, t, None]).sum(0)
        g = decayed
    return du, ddt, dA, dB, dC


def problem(seed, batch, groups, per_group, length, states, low=1e-4, high=50.0):
    """Random u, dt, A, B, C whose |dt·A| is spread log-uniformly over low..high and touches both ends."""
    random = np.random.default_rng(seed)
    dim = groups * per_group
    A = -np.exp(random.uniform(np.log(0.5), np.log(2.0), (dim, states)))
    dt = np.exp(random.uniform(np.log(2.0 * low), np.log(high / 2.0), (batch, dim, length)))
    A[0, 0] = -2.0
    dt[0, 0, 0], dt[-1, 0, -1] = low / 2.0, high / 2.0
    u = random.standard_normal((batch, dim, length))
    B, C = random.standard_normal((2, batch, groups, states, length))
    return u, dt, A, B, C


def relative_error(got, wanted) -> float:
    """max|err| / max|ref|, infinite when something is not finite; an all-zero reference wants exact zeros."""
    if not np.isfinite(got).all():
        return float("inf")
    error, scale = np.abs(got - wanted).max(), np.abs(wanted).max()
    return float(error / scale) if scale else (0.0 if error == 0 else float("inf"))
