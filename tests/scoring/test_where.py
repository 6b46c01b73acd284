import pytest
from hypothesis import given
from hypothesis import strategies as st

from aescli.errors import UsageError
from aescli.scoring.rows import NO_FACE, Layout, Row
from aescli.scoring.where import Where

GOOD = Row("in/a.jpg", 0, (1, 2, 3, 4), 3.5, (0.1, 0.1, 0.2, 0.5, 0.1))
BAD = Row("in/b.jpg", error=NO_FACE)


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("score >= 3.5", True, False),
        ("score>3.5", False, False),
        ("3 <= score < 4", True, False),
        ("class = 4 and class_prob > .4", True, False),
        ("class == 1 or face_index == 0", True, False),
        ("not score >= 3", False, True),
        ("NOT (score < 3 OR class = 4)", False, True),
        ("error", False, True),
        ("not error", True, False),
        ("face_index", True, False),  # 0 is something
        ("error == 'no face found'", False, True),
        ('path = "in/a.jpg"', True, False),
        ("score_100 > 60 and p_4 >= 0.5", True, False),  # columns that are not shown
        ("score != 1", True, False),  # an empty cell differs from nothing
        ("score > -1", True, False),
        ("score >= 1 and score >= 2 or error", True, True),
        ("(((score)))", True, False),
    ],
)
def test_conditions(text, good, bad):
    where = Where(text, Layout())
    assert (where(GOOD), where(BAD)) == (good, bad)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("scor > 3", "no column 'scor', is it score?"),
        ("Score > 3", "is it score?"),
        ("score >", "ends too early"),
        ("score > 3 and", "ends too early"),
        ("score > 3)", "left over at '\\)'"),
        ("(score > 3", "closing parenthesis"),
        ("score > 'high'", "a number cannot be compared with a text"),
        ("path = 3", "a text cannot be compared with a number"),
        ("(score > 3) > 2", "a condition cannot be compared"),
        ("3", "alone is no condition"),
        ("score > and", "missing before 'and'"),
        ("score; import os", "';' cannot be understood"),
        ("__import__('os')", "no column '__import__'"),
        ("score.real > 3", "'.real' cannot be understood"),
        ("score score", "left over at 'score'"),
        ("not " * 60 + "score", "more than 50"),
        ("(" * 60 + "score" + ")" * 60, "more than 50"),
    ],
)
def test_what_is_no_condition_is_said_with_the_columns(text, reason):
    with pytest.raises(UsageError, match=reason) as error:
        Where(text, Layout())
    assert "score, score_100, class, class_prob, p_1" in str(error.value)


NAMES = ["score", "class_prob", "p_2", "face_index"]
comparisons = st.builds(
    lambda name, sign, number: f"{name} {sign} {number}",
    st.sampled_from(NAMES),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.decimals(-1, 5, places=1).map(str),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("not {}".format, inner),
        st.builds("{} or {} and {}".format, inner, inner, inner),
    ),
    max_leaves=8,
)


@given(conditions, st.floats(1, 5).map(lambda x: round(x, 1)))
def test_it_means_what_python_means_by_it(text, score):
    row = Row("x", 1, None, score, (0.2, 0.3, 0.5))
    layout = Layout(classes=3)
    cells = {"score": score, "class_prob": 0.5, "p_2": 0.3, "face_index": 1}
    assert Where(text, layout)(row) == eval(text, {"__builtins__": {}}, cells)


def test_a_long_condition_is_no_deep_one():
    where = Where(" or ".join(f"score = {k}" for k in range(5000)), Layout())
    assert not where(GOOD)
    assert where(Row("x", score=4000.0))
