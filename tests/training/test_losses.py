"""Loss terms against hand-computed cases, scipy, and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, pearsonr

from aescli.models.momamba import MoMambaOutput
from aescli.training.config import LossConfig
from aescli.training.losses import MoMambaLoss, correlation_loss, soft_classes

CUTS = (1.5, 2.5, 3.5, 4.5)


def _output(n=6, heads=2, seed=0, **changes):
    g = torch.Generator().manual_seed(seed)
    values = {
        "score": None,
        "logits": torch.randn(n, 5, generator=g, dtype=torch.float64),
        "head_scores": torch.randn(n, heads, generator=g, dtype=torch.float64),
        "routing": {},
        "features": torch.zeros(n, 1),
    }
    return MoMambaOutput(**{**values, **changes})


@given(st.lists(st.floats(-2, 8), min_size=1, max_size=9), st.floats(0.05, 3))
def test_soft_classes_are_normal_probabilities(scores, sigma):
    ours = soft_classes(
        torch.tensor(scores, dtype=torch.float64), torch.tensor(CUTS, dtype=torch.float64), sigma
    )
    edges = np.array([-np.inf, *CUTS, np.inf])
    expected = np.diff(norm.cdf((edges[None] - np.array(scores)[:, None]) / sigma), axis=1)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)


def test_correlation_loss_is_one_minus_pearson():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), rng.normal(size=20)
    ours = correlation_loss(torch.tensor(a), torch.tensor(b), torch.ones(20, dtype=torch.float64))
    assert ours.item() == pytest.approx(1 - pearsonr(a, b)[0], abs=1e-12)
    constant = correlation_loss(torch.ones(5), torch.randn(5), torch.ones(5))
    assert constant.isfinite()
    assert correlation_loss(torch.randn(2), torch.randn(2), torch.ones(2)).item() == 0


def test_the_papers_loss_by_hand():
    output = _output()
    score = torch.tensor([1.0, 1.5, 2.6, 3.0, 4.4, 5.0], dtype=torch.float64)
    head = torch.tensor([0, 1, 0, 1, 1, 0])
    terms = MoMambaLoss(LossConfig(), CUTS).double()(output, score, torch.ones(6), head)
    classes = [0, 1, 2, 2, 3, 4]  # 1.5 lies on a cut: the number of cuts ≤ score
    log_p = torch.log_softmax(output.logits, 1)
    expected_ce = -sum(log_p[i, c] for i, c in enumerate(classes)) / 6
    chosen = torch.stack([output.head_scores[i, h] for i, h in enumerate(head)])
    assert terms["classification"].item() == pytest.approx(expected_ce.item(), abs=1e-6)
    assert terms["regression"].item() == pytest.approx(((chosen - score) ** 2).mean().item(), abs=1e-6)
    assert terms["total"].item() == pytest.approx((terms["classification"] + terms["regression"]).item())


def test_one_head_gets_no_gradient_from_the_other_data_set():
    output = _output()
    output.head_scores.requires_grad_()
    loss = MoMambaLoss(LossConfig(classification=0, correlation=1.0), CUTS).double()
    loss(output, torch.rand(6).double(), torch.ones(6), torch.zeros(6, dtype=torch.int64))["total"].backward()
    assert output.head_scores.grad[:, 1].abs().sum() == 0
    assert (output.head_scores.grad[:, 0] != 0).all()


def test_balanced_weights_are_inverse_frequencies():
    counts = torch.tensor([10.0, 0.0, 30.0, 40.0, 20.0])
    loss = MoMambaLoss(LossConfig(balanced=True), CUTS, counts)
    torch.testing.assert_close(loss.class_weights, 100 / (5 * counts.clamp_min(1)))
    with pytest.raises(ValueError, match="counts"):
        MoMambaLoss(LossConfig(balanced=True), CUTS)


def test_uncertainty_weighting_is_kendalls():
    loss = MoMambaLoss(LossConfig(uncertainty=True), CUTS).double()
    with torch.no_grad():
        loss.log_variance.copy_(torch.tensor([0.3, -0.2]))
    terms = loss(_output(), torch.full((6,), 3.0).double(), torch.ones(6), torch.zeros(6, dtype=torch.int64))
    s = loss.log_variance
    expected = (
        torch.exp(-s[0]) * terms["classification"] + torch.exp(-s[1]) * terms["regression"] + s.sum() / 2
    )
    torch.testing.assert_close(terms["total"], expected)


@pytest.mark.parametrize(
    "config", [LossConfig(), LossConfig(correlation=0.5, label_sigma=0.4), LossConfig(uncertainty=True)]
)
def test_gradcheck(config):
    loss = MoMambaLoss(config, CUTS).double()
    score, head = torch.tensor([1.2, 2.9, 3.3, 4.1, 2.0]).double(), torch.tensor([0, 0, 1, 1, 0])

    def total(logits, scores):
        output = _output(logits=logits, head_scores=scores)
        # The module computes in float32 for mixed precision; the check needs float64 throughout.
        return loss(output, score, torch.tensor([1.0, 0.5, 1.0, 2.0, 1.0]).double(), head)["total"]

    torch.manual_seed(0)
    inputs = torch.randn(5, 5).double().requires_grad_(), torch.randn(5, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(total, inputs, eps=1e-6, atol=1e-6)
