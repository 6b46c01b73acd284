"""AesMamba's loss terms: by hand, against independent formulas, and by finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import wasserstein_distance

from aescli.data.categories import category_counts, scale_categories
from aescli.models.adaptation import AttributeConfig
from aescli.models.aesmamba import BENCHMARKS, FINE_GRAINED, AesMambaOutput
from aescli.training.aesmamba_loss import (
    AesMambaLoss,
    AesMambaLossConfig,
    AesMambaTargets,
    balanced_cross_entropy,
    bin_error,
    earth_movers_distance,
    squared_error,
)

LIGHT = AttributeConfig("light", (1.0, 5.0), categories="para")
VOTES = AttributeConfig("votes", (1.0, 3.0), outputs=3, categories=2)
COUNTS = {"light": [1, 2, 3, 4], "votes": [3, 1]}
NAN = float("nan")


def _double(values):
    return torch.tensor(values, dtype=torch.float64)


def _output(scores, distributions=None, categories=None):
    return AesMambaOutput(scores[:, 0], scores, None, distributions or {}, categories or {}, scores)


# --- each loss by hand -------------------------------------------------------------------------------------------


def test_earth_movers_distance_by_hand():
    p = _double([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    q = _double([[0, 0, 0, 1], [0, 0.5, 0.5, 0], [0.25, 0.25, 0.25, 0.25]])
    # CDF differences: (1,1,1,0); (.5,.5,0,0); none.
    expected = [math.sqrt(3 / 4), math.sqrt(0.5 / 4), 0.0]
    torch.testing.assert_close(earth_movers_distance(p, q), _double(expected))


def test_earth_movers_distance_of_equals_has_a_gradient():
    p = _double([[0.2, 0.8], [0.5, 0.5]]).requires_grad_()
    earth_movers_distance(p, _double([[0.2, 0.8], [1.0, 0.0]])).sum().backward()
    assert p.grad.isfinite().all()
    assert p.grad[0].tolist() == [0, 0]


@given(st.integers(2, 12), st.integers(0, 2**31))
def test_earth_movers_distance_of_one_hots_is_known_from_r_1(k, seed):
    """Between two single bins every CDF difference is 0 or 1, so r = 2 is the root of the r = 1 distance / K."""
    a, b = np.random.default_rng(seed).integers(k, size=2)
    one_hot = torch.eye(k, dtype=torch.float64)
    ours = earth_movers_distance(one_hot[[a]], one_hot[[b]]).item()
    assert ours == pytest.approx(math.sqrt(wasserstein_distance([a], [b]) / k))


def test_squared_and_bin_error_by_hand():
    assert squared_error(_double([1, 2]), _double([3, 2.5])).tolist() == [4.0, 0.25]
    torch.testing.assert_close(bin_error(_double([[0.1, 0.9]]), _double([[0.3, 0.7]])), _double([0.04]))


def test_balanced_cross_entropy_by_hand():
    """−log(n_y e^{z_y} / Σ n_j e^{z_j}) with n = (1, 2, 5) and z = (0, log 3, 0): Σ = 1 + 6 + 5."""
    prior = (_double([1, 2, 5]) / 8).log()
    logits, categories = _double([[0, math.log(3), 0]] * 3), torch.tensor([0, 1, 2])
    expected = _double([math.log(12), math.log(2), math.log(12 / 5)])
    torch.testing.assert_close(balanced_cross_entropy(logits, categories, prior), expected)
    plain = balanced_cross_entropy(logits, categories, None)
    torch.testing.assert_close(plain, _double([math.log(5), math.log(5 / 3), math.log(5)]))


def test_equal_counts_are_plain_cross_entropy():
    logits, categories = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    prior = _double([0.25] * 4).log()
    ours = balanced_cross_entropy(logits, categories, prior)
    torch.testing.assert_close(ours, balanced_cross_entropy(logits, categories, None))


@pytest.mark.parametrize(
    "shapes", [((4,), (4, 1)), ((4, 1), (4,)), ((4,), (1,)), ((4, 1), (4, 1)), ((4,), ())]
)
def test_a_column_against_a_row_is_refused(shapes):
    """Broadcast, [B] against [B, 1] would be the mean over B × B pairs of strangers."""
    with pytest.raises(ValueError, match="must have one shape"):
        squared_error(torch.randn(shapes[0]), torch.randn(shapes[1]))


@pytest.mark.parametrize("function", [earth_movers_distance, bin_error])
@pytest.mark.parametrize("shape", [(4, 1), (1, 3), (3,), (4,)])
def test_distributions_do_not_broadcast(function, shape):
    with pytest.raises(ValueError, match="must have one shape"):
        function(torch.randn(4, 3), torch.randn(shape))


@pytest.mark.parametrize("shape", [(4, 1), (1,), (3,)])
def test_categories_do_not_broadcast(shape):
    with pytest.raises(ValueError, match="cross entropy"):
        balanced_cross_entropy(torch.randn(4, 3), torch.zeros(shape, dtype=torch.int64), None)


# --- the sums ----------------------------------------------------------------------------------------------------


def _case(dtype=torch.float64):
    torch.manual_seed(0)
    p = torch.softmax(torch.randn(4, 3, dtype=dtype), 1)
    scores = torch.stack([torch.rand(4, dtype=dtype) * 4 + 1, p @ torch.arange(1, 4, dtype=dtype)], 1)
    categories = {"light": torch.randn(4, 4, dtype=dtype), "votes": torch.randn(4, 2, dtype=dtype)}
    votes = torch.tensor([[1, 2, 1], [0, 0, 5], [3, 1, 0], [1, 1, 1]], dtype=dtype)
    q = votes / votes.sum(1, keepdim=True)
    targets = torch.stack(
        [torch.tensor([1.0, 2.0, 3.3, 4.9], dtype=dtype), q @ torch.arange(1, 4, dtype=dtype)], 1
    )
    return _output(scores, {"votes": p}, categories), AesMambaTargets(targets, {"votes": votes}), q


def test_the_two_sums_against_numpy():
    output, targets, q = _case()
    config = AesMambaLossConfig(gamma=10.0, category=0.1)
    terms = AesMambaLoss(config, (LIGHT, VOTES), COUNTS).double()(output, targets)
    p, q = output.distributions["votes"].numpy(), q.numpy()
    emd = np.sqrt(((p.cumsum(1) - q.cumsum(1)) ** 2).mean(1)).mean()
    bins = ((p - q) ** 2).mean()
    mse = ((output.attribute_scores[:, 0] - targets.scores[:, 0]).numpy() ** 2).mean()
    category = 0.0
    for i, attribute in enumerate((LIGHT, VOTES)):
        n = np.array(COUNTS[attribute.name])
        log_p = log_softmax(output.category_logits[attribute.name].numpy() + np.log(n / n.sum()), axis=1)
        y = scale_categories(targets.scores[:, i].numpy(), attribute)
        category -= log_p[np.arange(4), y].mean()
    assert terms["emd"].item() == pytest.approx(emd)
    assert terms["bins"].item() == pytest.approx(bins)
    assert terms["mse"].item() == pytest.approx(mse)
    assert terms["category"].item() == pytest.approx(category, rel=1e-6)  # the priors are kept in float32
    assert terms["total"].item() == pytest.approx(emd + 10 * bins + mse + 0.1 * category, rel=1e-6)


def test_the_mean_of_a_distribution_may_count_too():
    output, targets, q = _case()
    plain = AesMambaLoss(AesMambaLossConfig(), (LIGHT, VOTES), COUNTS).double()(output, targets)
    terms = AesMambaLoss(AesMambaLossConfig(mean=0.5), (LIGHT, VOTES), COUNTS).double()(output, targets)
    error = ((output.attribute_scores[:, 1] - q @ torch.arange(1, 4, dtype=q.dtype)) ** 2).mean()
    assert "mean" not in plain
    assert terms["mean"].item() == pytest.approx(error.item())
    assert (terms["total"] - plain["total"]).item() == pytest.approx(0.5 * error.item())


def test_the_papers_factors():
    assert AesMambaLossConfig() == AesMambaLossConfig(gamma=10.0, mean=0.0, category=0.001, balanced=True)


def test_nine_attributes_are_summed():
    torch.manual_seed(0)
    scores, targets = torch.rand(5, 9) * 4 + 1, torch.rand(5, 9) * 4 + 1
    loss = AesMambaLoss(AesMambaLossConfig(balanced=False), FINE_GRAINED)
    terms = loss(_output(scores), AesMambaTargets(targets))
    torch.testing.assert_close(terms["total"], (scores - targets).square().mean(0).sum())
    assert set(terms) == {"mse", "total"}  # a model without category heads has no category term


def test_balance_is_a_switch_and_needs_counts():
    output, targets, _ = _case()
    balanced = AesMambaLoss(AesMambaLossConfig(), (LIGHT, VOTES), COUNTS).double()(output, targets)
    plain = AesMambaLoss(AesMambaLossConfig(balanced=False), (LIGHT, VOTES)).double()(output, targets)
    assert not torch.isclose(balanced["category"], plain["category"])
    torch.testing.assert_close(balanced["mse"], plain["mse"])
    for counts in (None, {"light": [1, 2, 3, 4]}):
        with pytest.raises(ValueError, match="needs the training split"):
            AesMambaLoss(AesMambaLossConfig(), (LIGHT, VOTES), counts)
    with pytest.raises(ValueError, match="4 categories"):
        AesMambaLoss(AesMambaLossConfig(), (LIGHT,), {"light": [1, 2]})


def test_counts_of_a_training_split_fit_the_loss():
    split = np.array([[1.5, 1.2], [2.5, 2.9], [NAN, 2.9], [4.5, NAN]])
    counts = category_counts(split, (LIGHT, VOTES))
    loss = AesMambaLoss(AesMambaLossConfig(), (LIGHT, VOTES), counts)
    # No training picture lies in light's third category: it counts as one, not as impossible.
    torch.testing.assert_close(loss.log_prior_0.exp(), torch.tensor([1.0, 1.0, 1.0, 1.0]) / 4)
    torch.testing.assert_close(loss.log_prior_1.exp(), torch.tensor([1.0, 2.0]) / 3)
    assert {"log_prior_0", "cuts_1"} <= set(dict(loss.named_buffers()))


def test_unknown_values_count_for_nothing():
    output, targets, _ = _case()
    loss = AesMambaLoss(AesMambaLossConfig(), (LIGHT, VOTES), COUNTS).double()
    scores, votes = targets.scores.clone(), targets.distributions["votes"].clone()
    scores[2:, 0], scores[3, 1], votes[3], votes[2] = NAN, NAN, NAN, 0.0  # no votes at all are unknown too
    known = loss(output, AesMambaTargets(scores, {"votes": votes}))
    p = output.distributions["votes"]
    assert known["mse"].item() == pytest.approx(
        squared_error(output.attribute_scores[:2, 0], targets.scores[:2, 0]).mean().item()
    )
    q = votes[:2] / votes[:2].sum(1, keepdim=True)
    assert known["emd"].item() == pytest.approx(earth_movers_distance(p[:2], q).mean().item())


def test_a_batch_of_unknowns_is_zero_with_zero_gradients():
    output, _, _ = _case()
    leaves = [output.attribute_scores, output.distributions["votes"], *output.category_logits.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    targets = AesMambaTargets(torch.full((4, 2), NAN), {"votes": torch.full((4, 3), NAN)})
    total = AesMambaLoss(AesMambaLossConfig(), (LIGHT, VOTES), COUNTS).double()(output, targets)["total"]
    assert total.item() == 0
    total.backward()
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_a_sample_of_weight_two_counts_twice():
    output, targets, _ = _case()
    loss = AesMambaLoss(AesMambaLossConfig(), (LIGHT, VOTES), COUNTS).double()
    weighted = loss(output, AesMambaTargets(targets.scores, targets.distributions, _double([2, 0, 1, 1])))
    rows = [0, 0, 2, 3]
    repeated = loss(
        _output(
            output.attribute_scores[rows],
            {k: v[rows] for k, v in output.distributions.items()},
            {k: v[rows] for k, v in output.category_logits.items()},
        ),
        AesMambaTargets(targets.scores[rows], {k: v[rows] for k, v in targets.distributions.items()}),
    )
    for name, term in repeated.items():
        torch.testing.assert_close(weighted[name], term)


@pytest.mark.parametrize("rule", sorted(BENCHMARKS))
def test_categories_are_those_of_the_counts(rule):
    """The loss cuts scores with torch in float32; the counts come from numpy in float64."""
    attribute = BENCHMARKS[rule]
    scores = torch.cat([torch.linspace(*attribute.scale, 400), torch.tensor(attribute.cuts)])
    expected = torch.from_numpy(scale_categories(scores.numpy(), attribute))
    logits = 50 * torch.nn.functional.one_hot(expected, attribute.category_count).float()
    loss = AesMambaLoss(AesMambaLossConfig(balanced=False), (attribute,))
    q = torch.full((len(scores), attribute.outputs), 1 / attribute.outputs)
    output = _output(scores[:, None], {"aesthetic": q}, {"aesthetic": logits})
    terms = loss(output, AesMambaTargets(scores[:, None], {"aesthetic": q}))
    assert terms["category"].item() < 1e-6  # 50 on the right one everywhere


def test_targets_of_another_shape_are_refused():
    output, targets, _ = _case()
    loss = AesMambaLoss(AesMambaLossConfig(), (LIGHT, VOTES), COUNTS).double()
    for scores in (targets.scores[:, 0], targets.scores[:, :1], targets.scores[:1], targets.scores.T):
        with pytest.raises(ValueError, match="scores"):
            loss(output, AesMambaTargets(scores, targets.distributions))
    with pytest.raises(ValueError, match="no target distribution"):
        loss(output, AesMambaTargets(targets.scores))
    with pytest.raises(ValueError, match="distribution of 'votes'"):
        loss(output, AesMambaTargets(targets.scores, {"votes": torch.ones(4, 1)}))
    with pytest.raises(ValueError, match="weight"):
        loss(output, AesMambaTargets(targets.scores, targets.distributions, torch.ones(4, 1)))
    with pytest.raises(ValueError, match="2 scores for 1 attributes"):
        AesMambaLoss(AesMambaLossConfig(balanced=False), (LIGHT,))(output, targets)


def test_gradcheck():
    _, targets, _ = _case()
    loss = AesMambaLoss(AesMambaLossConfig(category=0.5), (LIGHT, VOTES), COUNTS).double()
    targets.scores[1, 0], targets.distributions["votes"][2] = NAN, NAN
    weight = _double([1, 0.5, 2, 1])

    def total(light, votes, light_category, votes_category):
        p = torch.softmax(votes, 1)
        scores = torch.stack([light, p @ _double([1, 2, 3])], 1)
        output = _output(scores, {"votes": p}, {"light": light_category, "votes": votes_category})
        return loss(output, AesMambaTargets(targets.scores, targets.distributions, weight))["total"]

    shapes = ((4,), (4, 3), (4, 4), (4, 2))
    inputs = tuple(torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
    assert torch.autograd.gradcheck(total, inputs)


@pytest.mark.parametrize("function", [earth_movers_distance, bin_error])
def test_gradcheck_of_distributions(function):
    p, q = (torch.rand(3, 5, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(function, (p.requires_grad_(), q.requires_grad_()))


def test_gradcheck_of_single_terms():
    s, t, logits = torch.randn(4).double(), torch.randn(4).double(), torch.randn(4, 3).double()
    assert torch.autograd.gradcheck(squared_error, (s.requires_grad_(), t))
    prior = _double([0.1, 0.3, 0.6]).log()
    y = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda z: balanced_cross_entropy(z, y, prior), logits.requires_grad_())
