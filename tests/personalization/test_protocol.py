import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr, ttest_1samp

sys.path.insert(0, str(Path(__file__).parent))

from taste import SCALE, ratings, world

from aescli.errors import AesError
from aescli.personalization.protocol import (
    Rater,
    mean_interval,
    one_prior,
    raters_of,
    run_protocol,
    sample_raters,
)


def some_raters(count=6, each=40, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Rater(f"r{i}", rng.permutation(100)[:each], rng.integers(1, 6, each).astype(float))
        for i in range(count)
    ]


def test_shots_and_tests_are_apart_and_the_numbers_are_scipys():
    seen = {}
    noise = np.random.default_rng(1).normal(size=100)

    def answer(rater, shots, tests):
        assert not set(shots) & set(tests)
        assert (len(shots), len(tests)) == (10, 20)
        personal = rater.scores[tests] + noise[rater.positions[tests]]
        seen.setdefault(rater.name, []).append((personal, rater.scores[tests], set(shots), set(tests)))
        return personal, noise[rater.positions[tests]]

    got = run_protocol(some_raters(), answer, shots=10, tests=20, repeats=3)
    for row, name in enumerate(got.raters):
        assert len({frozenset(tests) for *_, tests in seen[name]}) == 3  # repeats differ
        for repeat, (personal, truth, *_) in enumerate(seen[name]):
            assert got.personal["PLCC"][row, repeat] == pytest.approx(pearsonr(personal, truth).statistic)
            assert got.personal["SRCC"][row, repeat] == pytest.approx(spearmanr(personal, truth).statistic)
    gain = got.interval("SRCC", "difference")
    each = (got.personal["SRCC"] - got.generic["SRCC"]).mean(1)
    wanted = ttest_1samp(each, 0).confidence_interval(0.95)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((each.mean(), wanted.low, wanted.high))
    assert got.interval("PLCC", "generic").sd == pytest.approx(got.generic["PLCC"].mean(0).std(ddof=1))


def test_the_same_tests_for_every_way_to_select():
    tested = {"random": [], "informative": []}
    for select, lists in tested.items():

        def answer(rater, shots, tests, lists=lists):
            lists.append((tuple(sorted(shots)), tuple(tests)))
            return np.arange(len(tests)), np.arange(len(tests))

        run_protocol(
            some_raters(), answer, shots=5, tests=15, repeats=2, select=select,
            choose=lambda rater, candidates, k: candidates[-k:],
        )  # fmt: skip
    for (one, tests), (other, same) in zip(*tested.values(), strict=True):
        assert tests == same
        assert one != other
        assert not set(other) & set(tests)


def test_all_others_are_tests_where_no_number_is_given():
    def answer(rater, shots, tests):
        assert sorted([*shots, *tests]) == list(range(40))
        return np.zeros(len(tests)), rater.scores[tests]

    got = run_protocol(some_raters(), answer, shots=30, tests=None, repeats=2)
    assert got.personal["SRCC"].max() == 0  # a constant agrees with nobody
    assert got.generic["SRCC"].min() == pytest.approx(1)
    assert got.losers() == 1.0


def test_raters_are_sampled_among_those_with_enough_ratings():
    many = [*some_raters(10, 40), *some_raters(10, 20, seed=1)]
    assert len(sample_raters(many, 10, 20, None, 0)) == 10
    drawn = sample_raters(many, 10, 20, 4, 7)
    assert [r.name for r in drawn] == [r.name for r in sample_raters(many, 10, 20, 4, 7)]
    assert len(drawn) == 4
    constant = Rater("c", np.arange(50), np.full(50, 3.0))
    with pytest.raises(AesError, match="no rater has 60 ratings"):
        sample_raters([*many, constant], 10, 50, None, 0)
    with pytest.raises(AesError, match="no rater"):
        sample_raters([constant], 5, 10, None, 0)


def test_one_rater_has_no_interval():
    assert np.isnan(mean_interval(np.ones((1, 3))).low)


def test_rows_become_raters():
    rows = [("b", "x", 2.0), ("a", "y", 3.0), ("b", "gone", 5.0), ("b", "y", 4.0)]
    one, two = raters_of(rows, {"x": 0, "y": 1})
    assert (one.name, one.positions.tolist(), one.scores.tolist()) == ("a", [1], [3.0])
    assert (two.name, two.positions.tolist(), two.scores.tolist()) == ("b", [0, 1], [2.0, 4.0])


def test_people_whose_taste_follows_the_prior_gain_and_more_by_chosen_shots():
    features, generic, prior = world(images=150)
    rng = np.random.default_rng(5)
    people = [Rater(f"p{i}", np.arange(150), ratings(rng, prior, features, generic)) for i in range(40)]
    answer, choose = one_prior(prior, features, generic, SCALE)
    random, chosen = (
        run_protocol(people, answer, shots=10, tests=50, repeats=4, select=select, choose=choose)
        for select in ("random", "informative")
    )
    assert random.interval("SRCC", "difference").low > 0.03
    assert mean_interval(chosen.personal["SRCC"] - random.personal["SRCC"]).low > 0
    np.testing.assert_array_equal(chosen.generic["SRCC"], random.generic["SRCC"])
