"""Scale categories against the published formulas, and their counts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aescli.data.categories import category_counts, scale_categories
from aescli.models.adaptation import AttributeConfig
from aescli.models.aesmamba import BENCHMARKS

FORMULAS = {  # class of a score, counted from 0
    "ava": lambda s: min(max(math.floor(s), 1), 8) - 1,
    "para": lambda s: min(max(math.floor(s) - 1, 0), 3),
    "aadb": lambda s: min(math.floor(5 * s), 4),
    "tad66k": lambda s: min(math.floor(s / 2), 4),
    "photonet": lambda s: min(max(math.floor(s) - 3, 0), 3),
}
CLASSES = {"ava": 8, "para": 4, "aadb": 5, "tad66k": 5, "photonet": 4}


@pytest.mark.parametrize("rule", sorted(FORMULAS))
@given(share=st.floats(0, 1))
def test_the_published_rules(rule, share):
    attribute = BENCHMARKS[rule]
    low, high = attribute.scale
    score = round(low + share * (high - low), 4)  # as tables print them; no score within rounding below a cut
    assert scale_categories(score, attribute) == FORMULAS[rule](score)


@pytest.mark.parametrize("rule", sorted(FORMULAS))
def test_every_class_is_reached_and_no_other(rule):
    attribute = BENCHMARKS[rule]
    found = set(scale_categories(np.linspace(*attribute.scale, 2001), attribute).tolist())
    assert found == set(range(CLASSES[rule])) == set(range(attribute.category_count))


def test_equal_bins_over_the_declared_scale():
    attribute = AttributeConfig("x", (-1.0, 1.0), categories=4)
    scores = [-9.0, -1.0, -0.51, -0.5, 0.0, 0.49, 0.5, 1.0, 9.0]
    assert scale_categories(scores, attribute).tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3]


def test_a_cut_in_float32_is_a_cut():
    scores = np.array([0.2, 0.4, 0.6, 0.8, 1.0], dtype=np.float32)
    assert scale_categories(scores, BENCHMARKS["aadb"]).tolist() == [1, 2, 3, 4, 4]


def test_counts_leave_out_what_is_unknown():
    attributes = (
        BENCHMARKS["para"],
        AttributeConfig("plain", (0.0, 1.0)),
        AttributeConfig("x", (0.0, 1.0), categories=2),
    )
    table = [[1.2, 0.5, np.nan], [1.9, 0.5, 0.1], [4.0, np.nan, 0.2], [np.nan, 0.1, 0.9]]
    counts = category_counts(table, attributes)
    assert {name: c.tolist() for name, c in counts.items()} == {"aesthetic": [2, 0, 0, 1], "x": [2, 1]}
    assert scale_categories([np.nan, 4.5], attributes[0]).tolist() == [-1, 3]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no category task"):
        scale_categories([1.0], AttributeConfig("x", (0.0, 1.0)))
    with pytest.raises(ValueError, match="must be"):
        category_counts([1.0, 2.0], (BENCHMARKS["para"],))
