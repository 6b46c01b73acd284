import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from aescli.models.mamba import BiMamba, Mamba


def mamba_by_hand(block: Mamba, x: torch.Tensor) -> torch.Tensor:
    """The block from the equations, one sequence and one step at a time; x (L, d_model) in float64."""
    p = {name: value.double() for name, value in block.state_dict().items()}
    width, taps, states = block.d_inner, p["conv1d.weight"].shape[-1], block.d_state
    u, z = (x @ p["in_proj.weight"].T).split(width, dim=1)
    past = torch.cat([x.new_zeros(taps - 1, width), u])
    h, out = x.new_zeros(width, states), []
    for t in range(len(x)):
        v = F.silu((past[t : t + taps].T * p["conv1d.weight"][:, 0]).sum(1) + p["conv1d.bias"])
        dt, B, C = (p["x_proj.weight"] @ v).split([block.dt_rank, states, states])
        dt = F.softplus(p["dt_proj.weight"] @ dt + p["dt_proj.bias"])
        h = torch.exp(-dt[:, None] * p["A_log"].exp()) * h + (dt * v)[:, None] * B
        out.append(p["out_proj.weight"] @ ((h @ C + p["D"] * v) * F.silu(z[t])))
    return torch.stack(out)


@pytest.mark.parametrize("length", [1, 3, 20])
def test_mamba_computes_its_equations(length):
    torch.manual_seed(0)
    block = Mamba(24).double()
    x = torch.randn(2, length, 24, dtype=torch.float64)
    wanted = torch.stack([mamba_by_hand(block, sequence) for sequence in x])
    # A is kept in float32 at least, and computed there: the only rounding below float64
    torch.testing.assert_close(block(x), wanted, rtol=1e-6, atol=1e-9)


def test_parameters_are_named_and_shaped_as_in_mamba_ssm():
    shapes = {name: tuple(p.shape) for name, p in Mamba(40).named_parameters()}
    rank = math.ceil(40 / 16)
    assert shapes == {
        "A_log": (80, 16),
        "D": (80,),
        "in_proj.weight": (160, 40),
        "conv1d.weight": (80, 1, 4),
        "conv1d.bias": (80,),
        "x_proj.weight": (rank + 32, 80),
        "dt_proj.weight": (80, rank),
        "dt_proj.bias": (80,),
        "out_proj.weight": (40, 80),
    }


def test_initial_values():
    torch.manual_seed(0)
    block = Mamba(256)
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1.0, 17.0).expand(512, 16))
    assert torch.equal(block.D, torch.ones(512))
    dt = F.softplus(block.dt_proj.bias)
    assert 1e-3 * 0.999 <= dt.min() < 2e-3
    assert 5e-2 < dt.max() <= 1e-1 * 1.001
    # log-uniform: as many below the geometric mean as above
    assert 0.4 < (dt < 1e-2).float().mean() < 0.6
    assert block.dt_proj.weight.abs().max() <= block.dt_rank**-0.5
    assert block.A_log._no_weight_decay
    assert block.D._no_weight_decay


def test_mamba_is_causal():
    torch.manual_seed(0)
    block = Mamba(16)
    x = torch.randn(1, 12, 16)
    changed = x.clone()
    changed[:, 7] += 1.0
    difference = (block(changed) - block(x)).abs().amax(dim=(0, 2))
    assert difference[:7].max() == 0
    assert (difference[7:] > 0).all()


# every remainder, more parts than elements, one part, one element
@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 3), length=st.integers(1, 23), parts=st.integers(1, 6))
def test_bimamba_is_both_directions_over_tensor_split_parts(batch, length, parts):
    torch.manual_seed(0)
    block = BiMamba(16, parts, d_state=4)
    x = torch.randn(batch, length, 16)
    wanted = [
        block.forward_mamba(part) + block.backward_mamba(part.flip(1)).flip(1)
        for part in x.tensor_split(parts, dim=1)
        if part.shape[1]
    ]
    torch.testing.assert_close(block(x), torch.cat(wanted, dim=1), rtol=1e-5, atol=1e-7)


def test_bimamba_parts_share_no_state_and_directions_share_no_weights():
    torch.manual_seed(0)
    block = BiMamba(16, 4)
    x = torch.randn(1, 14, 16)  # parts 4, 4, 3, 3
    changed = x.clone()
    changed[:, 9] += 1.0  # in the third part, elements 8..10
    moved = (block(changed) - block(x)).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [8 <= t <= 10 for t in range(14)]
    assert not torch.equal(block.forward_mamba.in_proj.weight, block.backward_mamba.in_proj.weight)
    single = sum(p.numel() for p in Mamba(16).parameters())
    assert sum(p.numel() for p in block.parameters()) == 2 * single


def test_every_parameter_and_input_gets_a_gradient():
    torch.manual_seed(0)
    block = BiMamba(16, 4)
    x = torch.randn(2, 14, 16, requires_grad=True)
    block(x).square().sum().backward()
    for name, p in [*block.named_parameters(), ("x", x)]:
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_under_autocast_the_result_stays_close():
    torch.manual_seed(0)
    block = BiMamba(64, 4).eval()
    x = torch.randn(2, 49, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x)
    with torch.no_grad():
        full = block(x)
    assert half.dtype == torch.bfloat16
    assert (half - full).abs().max() <= 2e-2 * full.abs().max()


def test_bimamba_exports_with_any_batch():
    block = BiMamba(16, 4, d_state=4).eval().requires_grad_(False)
    x = torch.randn(2, 12, 16)
    program = torch.export.export(block, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    other = torch.randn(5, 12, 16)
    torch.testing.assert_close(program.module()(other), block(other), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    torch.manual_seed(0)
    block = BiMamba(64, 4)
    x = torch.randn(2, 49, 64)
    wanted = block(x).detach()
    torch.testing.assert_close(block.cuda()(x.cuda()).cpu(), wanted, rtol=1e-4, atol=1e-5)


def test_no_sub_blocks_are_refused():
    with pytest.raises(ValueError, match="sub_blocks must be at least 1, got 0"):
        BiMamba(16, 0)
