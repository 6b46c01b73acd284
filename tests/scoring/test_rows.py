import math

import pytest

from aescli.data.labels import rated_class
from aescli.scoring.rows import NO_FACE, ImageResult, Layout, Row, scored_row


def test_columns_follow_the_options():
    plain = ("path", "face_index", "face", "score", "class", "class_prob", "error")
    assert Layout().columns == plain
    everything = Layout(probabilities=True, normalize=True).columns
    assert everything == (*plain[:4], "score_100", *plain[4:6], "p_1", "p_2", "p_3", "p_4", "p_5", "error")
    assert tuple(Layout(probabilities=True, normalize=True).values(Row("a"))) == everything


def test_values_are_rounded_once_and_printed_in_fixed_precision():
    row = scored_row("a.jpg", 0, (1, 2, 30, 40), 3.14159265, [0.1, 0.2, 0.5, 0.1, 0.1])
    layout = Layout(probabilities=True, normalize=True)
    cells = layout.values(row)
    assert cells["score"] == 3.1416
    assert cells["score_100"] == 53.54
    assert (cells["class"], cells["class_prob"]) == (3, 0.5)
    text = [layout.text(name, value) for name, value in cells.items()]
    assert text[:7] == ["a.jpg", "0", "1;2;30;40", "3.1416", "53.54", "3", "0.5000"]
    assert text[7:] == ["0.1000", "0.2000", "0.5000", "0.1000", "0.1000", ""]


def test_negative_zero_prints_like_zero():
    assert str(scored_row("a", None, None, -1e-9, [1.0]).score) == "0.0"


@pytest.mark.parametrize(("score", "p"), [(math.nan, 0.5), (math.inf, 0.5), (3.0, math.nan)])
def test_a_score_that_is_no_number_is_an_error(score, p):
    row = scored_row("a", 0, None, score, [p, 0.5])
    assert row.score is None
    assert "finite" in row.error
    assert ImageResult("a", [row]).outcome == "failed"


def test_normalized_is_cut_to_the_scale():
    layout = Layout(scale=(0.0, 10.0))
    assert [layout.normalized(s) for s in (-3.0, 0.0, 2.5, 10.0, 11.0, None)] == [0, 0, 25, 100, 100, None]


def test_outcome_of_an_image():
    scored = scored_row("a", 0, None, 3.0, [1.0])
    assert ImageResult("a", [scored, scored]).outcome == "ok"
    assert ImageResult("a", [Row("a", error=NO_FACE)]).outcome == "no face"
    assert ImageResult("a", [Row("a", error="the file is empty")]).outcome == "failed"


def test_without_probabilities_the_cuts_decide_the_class():
    layout = Layout(classes=3, probabilities=True, cuts=(2.0, 3.0))
    cells = [layout.values(scored_row("a", 0, None, score, [])) for score in (1.9, 2.0, 2.9, 3.5)]
    assert [c["class"] for c in cells] == [1, 2, 2, 3]
    assert cells[0]["class_prob"] is None
    assert cells[0]["p_3"] is None


def test_one_cut_is_what_good_lies_above():
    layout = Layout(classes=10, cuts=(5.0,), distribution=True)
    scores = (4.9999, 5.0, 5.0001)
    classes = [layout.best_class(scored_row("a", None, None, score, [])) for score in scores]
    assert classes == [1, 1, 2]
    assert rated_class(scores, (5.0,)).tolist() == [0, 0, 1]
    assert rated_class([1.4, 1.5, 2.5], (1.5, 2.5)).tolist() == [0, 1, 2]


def test_the_lower_of_two_equally_probable_classes():
    assert Layout().best_class(scored_row("a", 0, None, 3.0, [0.1, 0.4, 0.4, 0.1, 0.0])) == 2
