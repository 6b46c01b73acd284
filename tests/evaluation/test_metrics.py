"""Metrics against scipy, scikit-learn and hand-made numbers; the golden rows of MoMamba's Tables 5 and 6."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from aescli.evaluation import bootstrap as bs
from aescli.evaluation.metrics import (
    classification_metrics,
    confusion,
    delta_m,
    distribution_distances,
    good_accuracy,
    largest_gap,
    regression_metrics,
)


def sample(n: int = 200, seed: int = 0, ties: bool = True) -> bs.Predictions:
    rng = np.random.default_rng(seed)
    true = rng.uniform(1, 5, n).round(1 if ties else 9)
    pred = (true + rng.normal(0, 0.5, n)).round(1 if ties else 9)
    classes = np.clip((true + 0.5).astype(int) - 1, 0, 4)
    probabilities = rng.dirichlet(np.ones(5), n).round(2 if ties else 9)
    distances = rng.uniform(0, 1, n)
    return bs.Predictions(pred, true, probabilities.argmax(1), classes, probabilities, distances, above=3.0)


def everything(data: bs.Predictions, keep: np.ndarray) -> dict[str, float]:
    part = data.subset(keep)
    return (
        regression_metrics(part.pred, part.true)
        | classification_metrics(part.pred_class, part.true_class, part.probabilities)
        | {"EMD": part.distances.mean(), "ACC_good": good_accuracy(part.pred, part.true, part.above)}
    )


def test_by_hand():
    # true 1 2 3 4, predicted 1 3 2 4: one of six pairs discordant; squared errors 0 1 1 0.
    out = regression_metrics([1, 3, 2, 4], [1, 2, 3, 4])
    assert out["KRCC"] == pytest.approx(4 / 6)
    assert out["SRCC"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert out["PLCC"] == pytest.approx(0.8)
    assert (out["MAE"], out["RMSE"], out["R2"]) == pytest.approx((0.5, math.sqrt(0.5), 1 - 2 / 5))
    # Three of class 0, one of class 1; one of class 0 is called 1.
    out = classification_metrics(
        [0, 0, 1, 1], [0, 0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]], 2
    )
    assert out["ACC"] == 0.75
    assert out["F1"] == pytest.approx((3 * 0.8 + 1 * (2 / 3)) / 4)
    assert out["F1_macro"] == pytest.approx((0.8 + 2 / 3) / 2)
    # Class 0 in descending order: hit, hit, miss, hit; class 1: miss, hit.
    ap = (1 / 3) * (1 + 1 + 3 / 4), 1 / 2
    assert out["AP"] == pytest.approx((3 * ap[0] + ap[1]) / 4)
    assert out["AP_macro"] == pytest.approx(sum(ap) / 2)
    assert confusion([0, 0, 1, 1], [0, 0, 0, 1], 2).tolist() == [[2, 1], [0, 1]]


def test_against_scipy_and_sklearn():
    data = sample()
    pred, true = data.pred, data.true
    out = regression_metrics(pred, true)
    assert out["PLCC"] == pytest.approx(stats.pearsonr(pred, true)[0], abs=1e-12)
    assert out["SRCC"] == pytest.approx(stats.spearmanr(pred, true)[0], abs=1e-12)
    assert out["KRCC"] == pytest.approx(stats.kendalltau(pred, true)[0], abs=1e-12)
    assert out["MAE"] == pytest.approx(sk.mean_absolute_error(true, pred), abs=1e-12)
    assert out["RMSE"] == pytest.approx(sk.root_mean_squared_error(true, pred), abs=1e-12)
    assert out["R2"] == pytest.approx(sk.r2_score(true, pred), abs=1e-12)
    out = classification_metrics(data.pred_class, data.true_class, data.probabilities)
    assert out["F1"] == pytest.approx(
        sk.f1_score(data.true_class, data.pred_class, average="weighted"), abs=1e-12
    )
    one_hot = np.eye(5)[data.true_class]
    for name, average in (("AP", "weighted"), ("AP_macro", "macro")):
        expected = sk.average_precision_score(one_hot, data.probabilities, average=average)
        assert out[name] == pytest.approx(expected, abs=1e-12)


def test_what_is_not_defined_is_nan_and_what_is_wrong_raises():
    out = regression_metrics([2, 2, 2], [1, 2, 3])
    assert math.isnan(out["PLCC"])
    assert out["R2"] == 0
    out = regression_metrics([1.0], [1.0])
    assert (out["MAE"], math.isnan(out["SRCC"]), math.isnan(out["R2"])) == (0, True, True)
    assert math.isnan(classification_metrics([0], [0])["AP"])
    with pytest.raises(ValueError, match="as many"):
        regression_metrics([1, 2], [[1], [2]])
    with pytest.raises(ValueError, match="as many"):
        regression_metrics([], [])
    with pytest.raises(ValueError, match="finite"):
        regression_metrics([1, math.nan], [1, 2])
    with pytest.raises(ValueError, match=r"0\.\.4"):
        classification_metrics([5], [0])
    with pytest.raises(ValueError, match="whole numbers"):
        classification_metrics([0.5], [0])
    with pytest.raises(ValueError, match="probabilities"):
        classification_metrics([0], [0], [[0.5, 0.5]])


def test_earth_movers_distance():
    # All weight two bins further in five: |CDF| differs by 1 in two of five bins.
    first, second = [[10, 0, 0, 0, 0]], [[0, 0, 1, 0, 0]]
    assert distribution_distances(first, second).tolist() == [0.4]
    assert distribution_distances(first, second, r=2).tolist() == [pytest.approx(math.sqrt(0.4))]
    assert distribution_distances(first, [[0.5, 0, 0, 0, 0]]).tolist() == [0]
    with pytest.raises(ValueError, match="positive sum"):
        distribution_distances([[0, 0]], [[1, 0]])


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_earth_movers_distance_is_scipys(seed, bins):
    rng = np.random.default_rng(seed)
    p, q = rng.integers(0, 9, (2, bins)) + np.eye(bins, dtype=int)[rng.integers(0, bins, 2)]
    expected = stats.wasserstein_distance(range(bins), range(bins), p, q) / bins
    assert distribution_distances([p], [q])[0] == pytest.approx(expected, abs=1e-12)


# MoMamba, Tables 5 and 6: ACC, F1, AP (percent), PC, MAE, RMSE, R².
COLUMNS = ("ACC", "F1", "AP", "PLCC", "MAE", "RMSE", "R2")
SINGLE = {
    "scut-fbp": (62.00, 58.62, 59.26, 0.8104, 0.3747, 0.4521, 0.6761),
    "scut-fbp5500": (76.27, 75.10, 79.04, 0.9023, 0.2375, 0.2989, 0.8130),
}


@pytest.mark.parametrize(
    ("dataset", "row", "expected"),
    [
        ("scut-fbp", (62.00, 58.62, 59.26, 0.8104, 0.3747, 0.4521, 0.6761), 0.0),
        ("scut-fbp", (68.00, 65.27, 69.88, 0.8694, 0.2911, 0.3645, 0.7473), 15.31),
        ("scut-fbp5500", (76.27, 75.10, 79.04, 0.9023, 0.2375, 0.2989, 0.8130), 0.0),
        ("scut-fbp5500", (76.72, 74.23, 78.71, 0.8734, 0.2589, 0.3409, 0.7567), -4.00),
        ("scut-fbp5500", (78.36, 77.28, 80.94, 0.9109, 0.2296, 0.2953, 0.8174), 2.11),
    ],
)
def test_delta_m_golden_rows(dataset, row, expected):
    multi, single = (dict(zip(COLUMNS, values, strict=True)) for values in (row, SINGLE[dataset]))
    # The papers' inputs are rounded to four digits, so the last of the printed ones may differ by one.
    assert delta_m(multi, single) == pytest.approx(expected, abs=0.011)
    percent_or_share = {name: v / 100 if name in ("ACC", "F1", "AP") else v for name, v in multi.items()}
    single = {name: v / 100 if name in ("ACC", "F1", "AP") else v for name, v in single.items()}
    assert delta_m(percent_or_share, single) == pytest.approx(expected, abs=0.011)


def test_delta_m_is_not_defined_without_a_positive_reference():
    single = dict(zip(COLUMNS, SINGLE["scut-fbp"], strict=True))
    assert delta_m(single, single | {"R2": -0.1}) is None
    assert delta_m(single | {"MAE": 0.0}, single) is None
    assert delta_m(single | {"R2": -0.1}, single) < 0


def test_gap():
    assert largest_gap({"a": 0.5, "b": 0.9, "c": math.nan}) == (pytest.approx(0.4), "b", "a")
    assert largest_gap({"a": 0.5, "c": math.nan}) is None


# ---------------------------------------------------------------- bootstrap


@pytest.mark.parametrize("ties", [True, False])
def test_each_resample_is_the_metric_of_the_drawn_images(ties):
    data = sample(90, ties=ties)
    found = bs.bootstrap(data, 25, seed=4).values
    weights = next(bs.draws(len(data), 25, seed=4))
    assert (weights.sum(axis=0) == len(data)).all()
    for r in range(25):
        drawn = np.repeat(np.arange(len(data)), weights[:, r].astype(int))
        for name, value in everything(data, drawn).items():
            assert found[name][r] == pytest.approx(value, abs=1e-10), name


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 4)), min_size=2, max_size=8),
    st.integers(0, 99),
)
def test_small_samples_full_of_ties(rows, seed):
    pred, true, classes = (np.array(column) for column in zip(*rows, strict=True))
    data = bs.Predictions(pred.astype(float), true.astype(float), classes, (true % 5), np.eye(5)[classes])
    found = bs.bootstrap(data, 8, seed).values
    weights = next(bs.draws(len(data), 8, seed))
    for r in range(8):
        drawn = np.repeat(np.arange(len(data)), weights[:, r].astype(int))
        part = data.subset(drawn)
        expected = regression_metrics(part.pred, part.true)
        expected |= classification_metrics(part.pred_class, part.true_class, part.probabilities)
        for name, value in expected.items():
            assert found[name][r] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_blocks_of_resamples_join(monkeypatch):
    data = sample(50)
    monkeypatch.setattr(bs, "_CHUNK", 50 * 7)
    found = bs.bootstrap(data, 20, seed=1)
    assert {len(values) for values in found.values.values()} == {20}
    assert found.values["SRCC"].std() > 0
    blocks = list(bs.draws(50, 20, 1))
    assert [block.shape[1] for block in blocks] == [7, 7, 6]


def test_intervals_match_scipys_percentile_bootstrap():
    data = sample(120, ties=False)
    low, high = bs.bootstrap(data, 4000, seed=0).interval("SRCC")
    reference = stats.bootstrap(
        (data.pred, data.true),
        lambda x, y: stats.spearmanr(x, y)[0],
        paired=True,
        vectorized=False,
        n_resamples=1500,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = reference.high - reference.low
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.1 * width)
    assert bs.bootstrap(data, 300, 5).interval("MAE") == bs.bootstrap(data, 300, 5).interval("MAE")
    assert bs.bootstrap(data, 300, 5).interval("MAE") != bs.bootstrap(data, 300, 6).interval("MAE")


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # The MAE of |N(0, 1)| errors is √(2/π).
    truth, hits = math.sqrt(2 / math.pi), 0
    for seed in range(150):
        error = np.random.default_rng(seed).normal(size=60)
        data = bs.Predictions(error, np.zeros(60))
        low, high = bs.bootstrap(data, 400, seed).interval("MAE")
        hits += low <= truth <= high
    assert 0.86 <= hits / 150 <= 0.995


def test_large_sets_spend_fewer_resamples_on_kendall(monkeypatch):
    monkeypatch.setattr(bs, "_KENDALL_BUDGET", 50 * 60**2)
    found = bs.bootstrap(sample(60), 500, seed=0).values
    assert len(found["KRCC"]) == 200
    assert len(found["SRCC"]) == 500


def test_an_interval_needs_defined_values():
    assert bs.percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    values = np.arange(100.0)
    values[:6] = np.nan
    assert all(math.isnan(end) for end in bs.percentile_interval(values))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-5, 5))
def test_correlations_do_not_see_a_linear_map(seed, factor, shift):
    rng = np.random.default_rng(seed)
    pred, true = rng.normal(size=(2, 20))
    mapped = regression_metrics(pred * factor + shift, true)
    plain = regression_metrics(pred, true)
    assume(len(np.unique(pred * factor + shift)) == 20)
    for name in ("PLCC", "SRCC", "KRCC"):
        assert mapped[name] == pytest.approx(plain[name], abs=1e-7)
