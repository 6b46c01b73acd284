"""Intervals, the train-test gap and scale categories, against scikit-learn and scipy on the same arrays."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from aescli.data.labels import category_cuts, good_above, score_to_class
from aescli.evaluation.bootstrap import Predictions
from aescli.evaluation.estimates import METRICS, by_category, measure, point_values, train_test_gap
from aescli.evaluation.metrics import good_accuracy


def data(n: int = 200, noise: float = 0.4, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    true = rng.uniform(1, 5, n)
    pred = np.clip(true + rng.normal(0, noise, n), 1, 5)
    p = rng.dirichlet(np.ones(5), n)
    classes = np.clip((true + 0.5).astype(int) - 1, 0, 4)
    return Predictions(pred, true, p.argmax(1), classes, p, rng.uniform(0, 1, n), above=3.0)


def test_every_metric_is_scikit_learns_to_the_last_digits():
    d = data()
    found = point_values(d)
    one_hot = np.eye(5)[d.true_class]
    expected = {
        "ACC": sk.accuracy_score(d.true_class, d.pred_class),
        "F1": sk.f1_score(d.true_class, d.pred_class, average="weighted"),
        "F1_macro": sk.f1_score(d.true_class, d.pred_class, average="macro"),
        "AP": sk.average_precision_score(one_hot, d.probabilities, average="weighted"),
        "AP_macro": sk.average_precision_score(one_hot, d.probabilities, average="macro"),
        "ACC_good": sk.accuracy_score(d.true > 3, d.pred > 3),
        "PLCC": stats.pearsonr(d.pred, d.true)[0],
        "SRCC": stats.spearmanr(d.pred, d.true)[0],
        "KRCC": stats.kendalltau(d.pred, d.true)[0],
        "MAE": sk.mean_absolute_error(d.true, d.pred),
        "RMSE": sk.root_mean_squared_error(d.true, d.pred),
        "R2": sk.r2_score(d.true, d.pred),
        "EMD": np.mean(d.distances),
    }
    assert list(found) == list(METRICS)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_a_score_on_the_threshold_is_not_good():
    assert good_accuracy([3.0, 3.1, 2.0, 4.0], [3.1, 3.2, 3.0, 3.0], 3.0) == 0.5
    assert good_accuracy([3.0 + 1e-9], [2.0], 3.0) == 1, "rounding of a mean does not make it good"


def test_thresholds_and_categories_are_those_of_the_data_sets():
    assert good_above("ava", (1, 10)) == 5
    assert good_above("para", (1, 5)) == 3
    assert good_above("aadb", (0, 1)) == 0.5
    assert good_above("mine", (0, 8)) == 4

    def category(name, scale, *scores):
        return score_to_class(scores, category_cuts(name, scale)).tolist()

    assert category("ava", (1, 10), 1.2, 2.0, 5.7, 8.1, 9.0) == [0, 1, 4, 7, 7]  # floor(mean), 1..8
    assert category("para", (1, 5), 1.0, 1.9, 2.0, 4.0, 5.0) == [0, 0, 1, 3, 3]
    assert category("aadb", (0, 1), 0.0, 0.2, 0.59, 0.99, 1.0) == [0, 1, 2, 4, 4]
    assert category("tad66k", (0, 10), 1.99, 2.0, 7.0, 10.0) == [0, 1, 3, 4]
    assert category("photonet", (1, 7), 3.5, 4.0, 6.9) == [0, 1, 3]
    assert category("scut-fbp", (1, 5), 1.8, 1.9, 4.2) == [0, 1, 4]
    assert category("mine", (0, 10), 0.0, 2.0, 9.9, 10.0) == [0, 1, 4, 4]


def test_categories_hold_their_images_and_scipys_correlation():
    d = data(400)
    cuts = (1.5, 2.5, 3.5, 4.5)
    found = by_category(d, cuts, (1.0, 5.0), resamples=200)
    assert sum(c.n for c in found) == 400
    assert sum(c.share for c in found) == pytest.approx(1)
    for c in found:
        inside = (d.true >= c.low) & (d.true < c.high)
        assert c.n == inside.sum()
        expected = stats.spearmanr(d.pred[inside], d.true[inside])[0]
        assert c.metrics["SRCC"].value == pytest.approx(expected, abs=1e-12)
        assert c.metrics["SRCC"].low < expected < c.metrics["SRCC"].high
        assert c.bias == pytest.approx((d.pred - d.true)[inside].mean())
    narrow = Predictions(np.full(20, 3.0) + np.arange(20) / 100, np.full(20, 3.0) + np.arange(20) / 50)
    assert len(by_category(narrow, cuts, (1.0, 5.0), 0)) == 1, "empty categories are left out"


def test_the_gap_is_positive_where_unseen_images_are_worse():
    train, test = data(500, 0.2, seed=1), data(300, 0.5, seed=2)
    measured, gap = train_test_gap(train, test, resamples=500)
    one, two = point_values(train), point_values(test)
    for name in ("PLCC", "SRCC", "KRCC", "R2"):
        assert gap[name].value == pytest.approx(one[name] - two[name])
        assert 0 < gap[name].low < gap[name].value < gap[name].high
    for name in ("MAE", "RMSE"):
        assert gap[name].value == pytest.approx(two[name] - one[name])
        assert gap[name].low > 0
    assert measured["MAE"].value == one["MAE"]
    _, none = train_test_gap(train, train, resamples=300)
    assert none["MAE"].value == 0
    assert none["MAE"].low < 0 < none["MAE"].high
    _, plain = train_test_gap(train, test, resamples=0)
    assert math.isnan(plain["MAE"].low)


def test_the_intervals_width_is_that_of_two_independent_samples():
    # The MAE of |N(0, σ)| errors has the standard deviation σ·√((1 − 2/π)/n).
    rng = np.random.default_rng(0)
    parts = [Predictions(rng.normal(0, s, n), np.zeros(n)) for s, n in ((1.0, 900), (1.5, 400))]
    _, gap = train_test_gap(*parts, resamples=3000)
    spread = math.sqrt((1 - 2 / math.pi) * (1.0 / 900 + 1.5**2 / 400))
    assert gap["MAE"].high - gap["MAE"].low == pytest.approx(2 * 1.96 * spread, rel=0.12)


@pytest.mark.benchmark
def test_ten_thousand_resamples_of_a_test_set_take_seconds():
    start = time.process_time()
    measure(data(1100), 10_000)
    assert time.process_time() - start < 30
