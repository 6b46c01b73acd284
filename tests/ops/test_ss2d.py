"""The 2-D selective scan: both backends against a step-by-step float64 reference, gradients, and the choice."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from aescli.ops import ss2d
from aescli.ops.cross_scan import scan_orders
from aescli.ops.selective_scan import available
from aescli.ops.ss2d import selective_scan_2d

needs_numba = pytest.mark.skipif(not available("numba", "cpu"), reason="numba is not installed")


def reference(x, projected, dt_weight, dt_bias, A, D):
    """One image, direction and step at a time, in float64."""
    x, projected, dt_weight, dt_bias, A, D = (v.double() for v in (x, projected, dt_weight, dt_bias, A, D))
    batch, height, width, channels = x.shape
    rank, states = dt_weight.shape[2], A.shape[1]
    flat, p = x.reshape(batch, -1, channels), projected.reshape(batch, height * width, 4, -1)
    y = torch.zeros_like(flat)
    for k, order in enumerate(scan_orders(height, width).tolist()):
        own = slice(k * channels, (k + 1) * channels)
        h = x.new_zeros(batch, channels, states)
        for at in order:
            dt, B, C = p[:, at, k].split([rank, states, states], dim=-1)
            delta = F.softplus(dt @ dt_weight[k].T + dt_bias[k])
            h = torch.exp(delta[..., None] * A[own]) * h + (delta * flat[:, at])[..., None] * B[:, None]
            y[:, at] += (h * C[:, None]).sum(-1) + D[own] * flat[:, at]
    return y.view(x.shape)


def inputs(batch=2, height=5, width=7, channels=40, states=2, rank=3, dtype=torch.float32, bias=(-7.0, 0.0)):
    torch.manual_seed(batch + height * width + channels + states + rank)
    return (
        torch.randn(batch, height, width, channels).to(dtype),
        torch.randn(batch, height, width, 4, rank + 2 * states).to(dtype),
        torch.randn(4, channels, rank) * rank**-0.5,
        torch.empty(4, channels).uniform_(*bias),
        -torch.empty(4 * channels, states).uniform_(0.2, states),
        torch.randn(4 * channels),
    )


def error(found, wanted):
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


sizes = {"batch": st.integers(1, 2), "height": st.integers(1, 6), "width": st.integers(1, 6)} | {
    "channels": st.integers(1, 70),
    "states": st.integers(1, 5),
    "rank": st.integers(1, 6),
}


@settings(max_examples=25, deadline=None)
@given(**sizes)
def test_composed_agrees_with_the_reference(**size):
    tensors = inputs(**size)
    assert error(selective_scan_2d(*tensors, backend="composed"), reference(*tensors)) <= 1e-5


@needs_numba
@settings(max_examples=25, deadline=None)
@given(**sizes)
def test_compiled_agrees_with_the_reference(**size):
    tensors = inputs(**size)
    assert error(selective_scan_2d(*tensors, backend="compiled"), reference(*tensors)) <= 2e-6


@needs_numba
@pytest.mark.parametrize("decay", [1e-4, 1e-2, 1.0, 50.0])
@pytest.mark.parametrize("backend", ["composed", "compiled"])
def test_slow_and_fast_decays_over_a_long_scan(decay, backend):
    """|Δ·A| from 1e-4 to 50: small rates are not rounded away, large ones do not overflow."""
    x, projected, weight, _, A, D = inputs(1, 40, 40, 8, 1)
    bias = torch.full((4, 8), 0.1).expm1().log()  # Δ = 0.1
    tensors = (x, projected, 0 * weight, bias, torch.full_like(A, -10 * decay), 0 * D)
    assert error(selective_scan_2d(*tensors, backend=backend), reference(*tensors)) <= 1e-5


@needs_numba
def test_the_compiled_softplus_keeps_its_precision_at_both_ends():
    bias = torch.linspace(-80, 80, 4 * 64).view(4, 64)
    x, projected, weight, _, A, D = inputs(1, 1, 1, 64, 1)
    tensors = (torch.ones_like(x), torch.ones_like(projected), 0 * weight, bias, A, 0 * D)
    # one step from a zero state: y = Σ_k softplus(bias_k) · 1
    found = selective_scan_2d(*tensors, backend="compiled").flatten()
    wanted = F.softplus(bias.double()).sum(0)
    torch.testing.assert_close(found.double(), wanted, rtol=5e-7, atol=0)
    only = bias.clone()
    only[1:] = -87.0
    found = selective_scan_2d(*tensors[:3], only, A, 0 * D, backend="compiled").flatten()
    torch.testing.assert_close(found.double(), F.softplus(only.double()).sum(0), rtol=5e-7, atol=0)


@needs_numba
def test_bfloat16_maps_are_rounded_once_at_the_end():
    tensors = inputs(2, 9, 6, 64, 4, 4, dtype=torch.bfloat16)
    found = selective_scan_2d(*tensors, backend="compiled")
    wanted = reference(*tensors)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-5 * float(wanted.abs().max()))
    composed = selective_scan_2d(*tensors, backend="composed")
    torch.testing.assert_close(composed, found, rtol=2**-7, atol=1e-3)


@needs_numba
@pytest.mark.parametrize("broken", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nan_does_not_vanish(broken, dtype):
    tensors = inputs(1, 3, 3, 32, dtype=dtype)
    tensors[broken].flatten()[0] = float("nan")
    assert selective_scan_2d(*tensors, backend="compiled").isnan().any()
    assert selective_scan_2d(*tensors, backend="composed").isnan().any()


@needs_numba
def test_threads_do_not_change_the_result():
    tensors = inputs(3, 8, 8, 70)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(selective_scan_2d(*tensors, backend="compiled"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_gradients():
    tensors = [v.double().requires_grad_() for v in inputs(2, 2, 3, 2, 2, 1, bias=(-2.0, 1.0))]
    assert torch.autograd.gradcheck(lambda *t: selective_scan_2d(*t), tensors)


def test_gradients_agree_with_those_of_the_reference():
    tensors = [v.requires_grad_() for v in inputs(2, 6, 5, 12, 3, 2)]
    out = torch.randn(tensors[0].shape)
    found = torch.autograd.grad(selective_scan_2d(*tensors), tensors, out)
    wanted = torch.autograd.grad(reference(*tensors), tensors, out.double())
    for a, b in zip(found, wanted, strict=True):
        assert error(a, b.double()) <= 1e-5


def test_a_map_may_have_any_memory_layout():
    x, *rest = inputs(2, 4, 5, 33)
    wanted = selective_scan_2d(x, *rest, backend="composed")
    strange = x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    for backend in ("composed", "compiled") if available("numba", "cpu") else ("composed",):
        torch.testing.assert_close(selective_scan_2d(strange, *rest, backend=backend), wanted)


@needs_numba
def test_the_compiled_kernel_is_chosen_for_large_inference_and_then_for_all(monkeypatch):
    tensors = inputs()
    monkeypatch.setattr(ss2d, "_loaded", lambda: False)
    assert not ss2d._is_worth_compiling(tensors)
    monkeypatch.setattr(ss2d, "COMPILED_FROM", 4 * tensors[0].numel() * 2)
    assert ss2d._is_worth_compiling(tensors)
    trained = (tensors[0].requires_grad_(), *tensors[1:])
    assert not ss2d._is_worth_compiling(trained)
    with torch.no_grad():
        assert ss2d._is_worth_compiling(trained)
    monkeypatch.setattr(ss2d, "COMPILED_FROM", 1 << 60)
    monkeypatch.setattr(ss2d, "_loaded", lambda: True)
    with torch.no_grad():
        assert ss2d._is_worth_compiling(trained)
    assert not ss2d._is_worth_compiling(tuple(t.double() for t in tensors))


def test_what_cannot_be_computed_is_refused():
    tensors = inputs()
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        selective_scan_2d(*tensors, backend="fast")
    with pytest.raises(ValueError, match="float32 and bfloat16 maps"):
        selective_scan_2d(*(t.double() for t in tensors), backend="compiled")
    with pytest.raises(ValueError, match="has no gradients"):
        selective_scan_2d(tensors[0].requires_grad_(), *tensors[1:], backend="compiled")
    for i, (name, wrong) in enumerate(
        [
            ("x", torch.zeros(2, 5, 40)),
            ("projected", torch.zeros(2, 5, 7, 4, 8)),
            ("dt_weight", torch.zeros(4, 39, 3)),
            ("dt_bias", torch.zeros(160)),
            ("A", torch.zeros(40, 2)),
            ("D", torch.zeros(40)),
        ]
    ):
        with pytest.raises(ValueError, match=f"{name} must be"):
            selective_scan_2d(*tensors[:i], wrong, *tensors[i + 1 :])
