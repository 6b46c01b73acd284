"""Two predictors on the same images: against scipy's exact permutation test, and what must hold for any data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from aescli.evaluation import bootstrap as bs
from aescli.evaluation.compare import compare, gap_p, paired_difference, permutation_p


def pair(n: int, seed: int = 0, second_noise: float = 0.5) -> tuple[bs.Predictions, bs.Predictions]:
    """Two predictors of the same rounded scores, so that there are ties, with classes and probabilities."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(1, 5, n).round(1)
    classes = np.clip((true + 0.5).astype(int) - 1, 0, 4)
    found = []
    for noise in (0.5, second_noise):
        pred = (true + rng.normal(0, noise, n)).round(1)
        p = rng.dirichlet(np.ones(5), n).round(2)
        found.append(bs.Predictions(pred, true, p.argmax(1), classes, p, rng.uniform(0, 1, n), above=3.0))
    return found[0], found[1]


STATISTICS = {
    "PLCC": lambda data: stats.pearsonr(data.pred, data.true)[0],
    "SRCC": lambda data: stats.spearmanr(data.pred, data.true)[0],
    "KRCC": lambda data: stats.kendalltau(data.pred, data.true)[0],
    "RMSE": lambda data: sk.root_mean_squared_error(data.true, data.pred),
    "F1": lambda data: sk.f1_score(data.true_class, data.pred_class, average="weighted"),
    "F1_macro": lambda data: sk.f1_score(data.true_class, data.pred_class, average="macro"),
    "EMD": lambda data: data.distances.mean(),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_p_is_that_of_scipys_exact_test(name):
    first, second = pair(9, seed=2, second_noise=1.1)
    both = first.pred, second.pred, first.pred_class, second.pred_class, first.distances, second.distances

    def difference(order, other, axis=-1):
        """scipy swaps positions 0..n-1 of `first` with those of `second`: rows of the joined arrays."""
        values = []
        for rows in (order.astype(int), other.astype(int)):
            pred, classes, distances = (np.concatenate(both[k : k + 2])[rows] for k in (0, 2, 4))
            true = np.tile(first.true, 2)[rows]
            true_class = np.tile(first.true_class, 2)[rows]
            data = bs.Predictions(pred, true, classes, true_class, distances=distances)
            values.append(STATISTICS[name](data))
        return values[0] - values[1]

    exact = stats.permutation_test(
        (np.arange(9), np.arange(9, 18)),
        difference,
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=False,
    )
    p = permutation_p(first, second, 40_000, seed=1)[name]
    observed = compare(first, second, 10)[name].value
    assert observed == pytest.approx(exact.statistic, abs=1e-12)
    # scipy doubles the smaller tail; ours counts both tails, as the null distribution is symmetric.
    share = (np.abs(exact.null_distribution) >= abs(exact.statistic) - 1e-12).mean()
    assert p == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 40_000) + 1e-4)


def test_the_same_predictions_never_differ():
    first, _ = pair(40)
    for name, found in compare(first, first, 200).items():
        assert (found.value, found.low, found.high) == (0, 0, 0), name
        assert found.p == 1


def test_a_clearly_better_predictor_is_found_and_the_sign_is_first_minus_second():
    first, second = pair(300, second_noise=1.5)
    found = compare(first, second, 2000)
    for name, sign in (("PLCC", 1), ("SRCC", 1), ("R2", 1), ("MAE", -1), ("RMSE", -1)):
        assert sign * found[name].value > 0
        assert sign * found[name].low > 0
        assert sign * found[name].high > 0
        assert found[name].p == pytest.approx(1 / 2001)
    turned = compare(second, first, 2000)
    assert turned["MAE"].value == -found["MAE"].value
    assert found["EMD"].p > 0.01


def test_p_is_uniform_when_nothing_differs():
    ps = [permutation_p(*pair(60, seed), 200, seed)["MAE"] for seed in range(120)]
    assert stats.kstest(ps, "uniform").pvalue > 0.001
    assert min(ps) > 0


def test_the_interval_of_the_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(3)
    data, _ = pair(300)
    better = bs.Predictions(data.true + 0.9 * (data.pred - data.true), data.true)
    same = bs.Predictions(data.pred.copy(), data.true)
    assert np.abs(paired_difference(data, same, 200)["PLCC"]).max() == 0
    low, high = bs.percentile_interval(paired_difference(better, data, 1000)["MAE"])
    assert low < high < 0, "always 10 % better: clear although the two intervals overlap"
    one, two = (bs.bootstrap(d, 1000).interval("MAE") for d in (better, data))
    assert one[1] > two[0]
    for compared in (paired_difference, permutation_p, compare):
        with pytest.raises(ValueError, match="same images"):
            compared(data, bs.Predictions(data.pred, rng.permutation(data.true)))


def test_what_only_one_of_them_has_is_left_out():
    first, second = pair(50)
    plain = bs.Predictions(second.pred, second.true)
    found = compare(first, plain, 100)
    assert "ACC" not in found
    assert "EMD" not in found
    assert {"PLCC", "MAE"} <= set(found)
    assert math.isnan(compare(first, second, 0)["ACC"].p)


# ---------------------------------------------------------------- subgroups


def test_p_of_the_largest_gap_is_that_of_every_possible_grouping():
    data, _ = pair(7, seed=5)
    groups = np.array([0, 0, 0, 1, 1, 1, 1])
    found = gap_p(data, groups, 30_000, seed=2)

    def spread(first: set[int]) -> float:
        sides = [sorted(first), sorted(set(range(7)) - first)]
        return abs(np.subtract(*(np.abs(data.pred - data.true)[side].mean() for side in sides)))

    every = np.array([spread(set(chosen)) for chosen in itertools.combinations(range(7), 3)])
    expected = (every >= spread({0, 1, 2}) - 1e-12).mean()
    assert found["MAE"] == pytest.approx(expected, abs=4 * math.sqrt(expected / 30_000))


def test_a_gap_is_found_where_there_is_one_and_chance_is_called_chance():
    data, _ = pair(400, seed=1)
    groups = np.random.default_rng(0).integers(0, 4, 400)
    assert gap_p(data, groups, 300)["MAE"] > 0.02
    worse = bs.Predictions(np.where(groups == 2, data.pred + 1.0, data.pred), data.true)
    found = gap_p(worse, groups, 300)
    assert found["MAE"] == pytest.approx(1 / 301)
    constant = bs.Predictions(worse.pred, np.full(400, 3.0))
    assert math.isnan(gap_p(constant, groups, 20)["PLCC"])
