"""The ways of computing one selective scan, one module each; `aescli.ops.selective_scan` chooses among them.

Each offers `scan(u, dt, A, B, C) -> (y, last_state)` without bias, softplus, skip connection and gate: u, dt
(batch, D, L) with dt = Δ already positive, A (D, N), B and C (batch, G, N, L), all of one floating type.
"""
