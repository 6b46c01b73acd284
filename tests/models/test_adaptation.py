"""Multitask balanced adaptation: scales and rules, branches against the formula, the ablation's switches."""

import pytest
import torch
import torch.nn.functional as F

from aescli.errors import AesError
from aescli.models.adaptation import AttributeConfig, MultitaskBalancedAdaptation

SCORE = AttributeConfig("light", (1.0, 5.0), categories="para")
VOTES = AttributeConfig("beauty", (1.0, 7.0), outputs=7, categories=3)


def _mba(*attributes, **changes):
    torch.manual_seed(0)
    return MultitaskBalancedAdaptation(8, attributes or (SCORE, VOTES), hidden=6, **changes).double()


def test_a_branch_is_the_papers_formula():
    m, f = _mba(), torch.randn(4, 8).double()
    scores, distributions, categories = m(f)
    b = m.branches[0]
    adapted = (
        f
        + F.linear(F.gelu(F.linear(f, b.adapter[0].weight, b.adapter[0].bias)), b.adapter[2].weight)
        + (b.adapter[2].bias)
    )
    assert b.adapter[0].weight.shape == (2, 8)  # d → d/4
    torch.testing.assert_close(scores[:, 0], b.score(adapted).squeeze(1))
    torch.testing.assert_close(categories["light"], b.category(adapted))
    assert categories["light"].shape == (4, 4)
    assert categories["beauty"].shape == (4, 3)
    assert list(distributions) == ["beauty"]


def test_a_distributions_mean_is_its_score():
    m, f = _mba(), torch.randn(4, 8).double()
    scores, distributions, _ = m(f)
    p = distributions["beauty"]
    torch.testing.assert_close(p.sum(1), torch.ones(4).double())
    torch.testing.assert_close(scores[:, 1], (p * torch.arange(1, 8)).sum(1))
    own_bins = AttributeConfig("beauty", (0.0, 1.0), outputs=3, bins=(0.0, 0.1, 1.0))
    scores, distributions, categories = _mba(own_bins)(f)
    p = distributions["beauty"]
    torch.testing.assert_close(scores[:, 0], 0.1 * p[:, 1] + p[:, 2], atol=1e-7, rtol=1e-6)
    assert categories == {}


def test_attributes_do_not_share_a_branch():
    m = _mba()
    m(torch.randn(4, 8).double())[0][:, 0].sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in m.branches[0].parameters())
    assert not any(p.grad is not None and p.grad.any() for p in m.branches[1].parameters())


def test_a_plain_score_starts_in_the_middle_of_its_scale():
    scores = _mba(AttributeConfig("s", (0.0, 100.0)))(torch.randn(50, 8).double())[0]
    assert (scores - 50).abs().max() < 5


def test_the_ablations_switches():
    f = torch.randn(4, 8).double()
    full, no_category, bare = _mba(), _mba(category_heads=False), _mba(adapter=False, category_heads=False)
    assert no_category(f)[2] == {}
    assert all(b.adapter is not None and b.category is None for b in no_category.branches)
    assert all(b.adapter is None for b in bare.branches)
    torch.testing.assert_close(bare(f)[0][:, 0], bare.branches[0].score(f).squeeze(1))
    before = full(f)[0]
    full.drop_category_heads()
    assert full(f)[2] == {}
    assert torch.equal(full(f)[0], before)
    assert not any("category" in name for name in full.state_dict())


def test_half_precision_means_are_taken_in_float32():
    scores, distributions, _ = _mba().bfloat16()(torch.randn(4, 8).bfloat16())
    assert scores.dtype == distributions["beauty"].dtype == torch.float32
    torch.testing.assert_close(scores[:, 1], distributions["beauty"] @ torch.arange(1.0, 8.0))


def test_cuts_and_bins():
    assert SCORE.cuts == (2, 3, 4)
    assert SCORE.category_count == 4
    assert AttributeConfig("x", (0.0, 10.0), categories=5).cuts == (2, 4, 6, 8)
    assert AttributeConfig("x", (0.0, 10.0)).category_count == 0
    assert AttributeConfig("x", (1.0, 10.0), outputs=10).bin_values == tuple(range(1, 11))
    assert SCORE.bin_values == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": (5.0, 1.0)}, "must ascend"),
        ({"outputs": 0}, "outputs is 0"),
        ({"outputs": 3, "bins": (1.0, 2.0)}, "bins must be 3"),
        ({"outputs": 2, "bins": (2.0, 1.0)}, "ascending"),
        ({"categories": "imagenet"}, "no category rule 'imagenet'; known: ava"),
        ({"categories": "para", "scale": (0.0, 1.0)}, r"is for scores on 1..5, not 0..1"),
        ({"categories": 1}, "two or more"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(AesError, match=message):
        AttributeConfig("x", **values)


def test_names_are_unique():
    with pytest.raises(AesError, match="each once"):
        _mba(SCORE, SCORE)
