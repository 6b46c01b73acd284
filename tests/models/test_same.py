"""The SAME module against the paper's formulas written out, one expert and one sample at a time."""

import pytest
import torch
import torch.nn.functional as F

from aescli.models.same import HSSD, Router, SAMEConfig, StateAwareMixtureOfExperts, load_balance

TASKS = ("classification", "regression")


def _module(**changes) -> StateAwareMixtureOfExperts:
    torch.manual_seed(0)
    config = SAMEConfig(
        states=7, experts=5, rank_min=3, rank_step=2, top_k=2, task_rank=4, heads=2, **changes
    )
    return StateAwareMixtureOfExperts(8, TASKS, config).double().eval()


def test_ranks_are_the_papers():
    assert SAMEConfig().ranks == [16, 24, 32, 40, 48, 56, 64, 72, 80]


def test_hssd_is_the_formula_at_every_position():
    torch.manual_seed(1)
    hssd, x = HSSD(6, 4).double(), torch.randn(2, 6, 3, 5, dtype=torch.float64)
    b, c, delta = hssd.mix(hssd.project(x)).flatten(2).split(4, 1)
    expected = torch.zeros_like(x).flatten(2)
    flat = x.flatten(2)
    for n in range(2):
        a = torch.softmax(delta[n] + hssd.theta, 0)  # over the states
        h = torch.zeros(6, 4, dtype=torch.float64)
        for position in range(15):
            h += torch.outer(flat[n, :, position], a[:, position] * b[n, :, position])
        for position in range(15):
            expected[n, :, position] = h @ c[n, :, position]
    torch.testing.assert_close(hssd(x), expected.reshape(x.shape))


def test_state_axis_length_normalises_over_positions():
    torch.manual_seed(1)
    x = torch.randn(1, 6, 3, 5, dtype=torch.float64)
    by_state, by_length = HSSD(6, 4).double(), HSSD(6, 4, "length").double()
    by_length.load_state_dict(by_state.state_dict())
    assert not torch.allclose(by_state(x), by_length(x))


def test_router_keeps_the_top_k_unrenormalised():
    torch.manual_seed(2)
    gates, probabilities = Router(8, 6, 3)(torch.randn(4, 8, 7, 7))
    assert ((gates > 0).sum(1) == 3).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
    kept = gates > 0
    torch.testing.assert_close(gates[kept], probabilities[kept])
    assert (probabilities.masked_fill(kept, -1).amax(1) <= gates.masked_fill(~kept, 2).amin(1)).all()
    assert gates.sum(1).max() < 1


def test_fused_experts_equal_the_sum_written_out():
    module = _module(dropout=0.0)
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    outputs, routing = module(x)
    down = module.experts_down.weight.split(module.config.ranks, 0)
    up = module.experts_up.weight.split(module.config.ranks, 1)
    guide = module.hssd(x)
    for task in TASKS:
        gates, probabilities = module.routers[task](x)
        torch.testing.assert_close(routing[task], probabilities)
        mixed = torch.zeros_like(x)
        for n in range(3):
            for i in range(5):
                if gates[n, i] > 0:
                    mixed[n] += gates[n, i] * F.conv2d(F.conv2d(x[n : n + 1], down[i], padding=1), up[i])[0]
        features = module.base(x) + module.norms[task](mixed) + module.task_experts[task](x)
        attention = module.attention[task]
        q, k, v = (
            layer(t.flatten(2).transpose(1, 2)).unflatten(-1, (2, 4)).transpose(1, 2)
            for layer, t in ((attention.q, guide), (attention.k, features), (attention.v, features))
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / 4**0.5, -1)
        attended = attention.out((weights @ v).transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)
        torch.testing.assert_close(outputs[task], attended + features)


def test_residual_off_is_the_papers_formula():
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    with_residual, without = _module(), _module(residual=False)  # same seed, same weights
    (a, _), (b, _) = with_residual(x), without(x)
    assert not torch.allclose(a["regression"], b["regression"])


@pytest.mark.parametrize("experts", [0, 1, 3, 15])
@pytest.mark.parametrize("top_k", [1, 4, 20])
def test_any_number_of_experts_and_top_k(experts, top_k):
    config = SAMEConfig(states=5, experts=experts, top_k=top_k, heads=2, task_rank=2, rank_min=2, rank_step=1)
    module = StateAwareMixtureOfExperts(4, TASKS, config)
    outputs, routing = module(torch.randn(2, 4, 5, 5))
    assert all(o.shape == (2, 4, 5, 5) and o.isfinite().all() for o in outputs.values())
    assert set(routing) == (set(TASKS) if experts else set())
    assert hasattr(module, "experts_down") == bool(experts)


def test_tasks_share_experts_but_not_routers():
    module = _module()
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    outputs, _ = module(x)
    outputs["regression"].sum().backward()
    assert module.experts_down.weight.grad is not None
    assert all(p.grad is None for p in module.routers["classification"].parameters())
    assert all(p.grad is None for p in module.task_experts["classification"].parameters())


def test_load_balance_is_zero_for_equal_shares_and_grows_with_imbalance():
    assert load_balance(torch.full((4, 5), 0.2)).item() == pytest.approx(0, abs=1e-9)
    one_hot = torch.eye(5)[:1].repeat(4, 1)
    assert load_balance(one_hot).item() == pytest.approx(4.0)  # CV² of (1, 0, 0, 0, 0): var .16 / mean² .04


def test_without_attention_each_task_is_shared_map_experts_and_its_own_low_rank_map():
    module, x = _module(attention=False), torch.randn(2, 8, 4, 4, dtype=torch.float64)
    maps, routing = module(x)
    for task in TASKS:
        gates, _ = module.routers[task](x)
        mixed = module.norms[task](
            module.experts_up(module.experts_down(x) * gates[:, module.owner, None, None])
        )
        expected = module.base(x) + mixed + module.task_experts[task](x)
        torch.testing.assert_close(maps[task], expected)
    assert set(routing) == set(TASKS)
    assert not any(name.startswith(("hssd", "attention")) for name, _ in module.named_parameters())
    lora = StateAwareMixtureOfExperts(8, TASKS, SAMEConfig(experts=0, task_rank=4, attention=False))
    assert sum(p.numel() for p in lora.parameters()) == 8 * 8 * 9 + 8 + 2 * (4 * 8 * 9 + 8 * 4)
