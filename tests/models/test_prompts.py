"""Subject prompts: the paper's wording, any subset of it, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aescli.errors import AesError
from aescli.models.prompts import EXPERIENCE_LEVELS, TRAITS, subject_prompt

PAPER = (
    "My artistic experience is beginner. My Photographic experience is expert. "
    "In the Big-Five personality traits test, my scores are as follows: openness score is 8, "
    "conscientiousness score is 7.5, extroversion score is 3, agreeableness score is 9, and Neuroticism score is 2."
)
BIG_FIVE = {
    "neuroticism": 2,
    "agreeableness": 9,
    "extroversion": 3.0,
    "openness": 8.0,
    "conscientiousness": 7.5,
}


def test_the_papers_wording():
    assert subject_prompt(art="beginner", photo="expert", traits=BIG_FIVE) == PAPER


def test_nothing_known_is_no_text():
    assert subject_prompt() == ""
    assert subject_prompt(traits={}, characters={}) == ""


def test_any_subset_in_the_papers_order():
    assert subject_prompt(photo=" Competent ") == "My Photographic experience is competent."
    one = subject_prompt(traits={"Neuroticism": 4})
    assert one == "In the Big-Five personality traits test, my scores are as follows: Neuroticism score is 4."
    two = subject_prompt(traits={"extroversion": 5, "openness": 1})
    assert two.endswith("as follows: openness score is 1, and extroversion score is 5.")


def test_extra_characters_are_appended():
    text = subject_prompt(art="expert", characters={"age": 31.0, "favourite  subject": "old\ntrains"})
    assert text == "My artistic experience is expert. My age is 31. My favourite subject is old trains."


@given(
    st.sampled_from((None, *EXPERIENCE_LEVELS)),
    st.sampled_from((None, *EXPERIENCE_LEVELS)),
    st.dictionaries(st.sampled_from(TRAITS), st.integers(1, 10)),
)
def test_every_given_character_is_said_once(art, photo, traits):
    text = subject_prompt(art=art, photo=photo, traits=traits)
    assert text.count("experience is") == (art is not None) + (photo is not None)
    assert text.count(" score is ") == len(traits)
    positions = [
        text.lower().index(f"{trait} score is {traits[trait]}") for trait in TRAITS if trait in traits
    ]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"art": "novice"}, r"experience.art: 'novice' is none of beginner, competent, proficient, expert"),
        ({"photo": 3}, "experience.photo"),
        ({"traits": {"humour": 3}}, "traits: 'humour' is none of openness"),
        ({"traits": {"openness": float("nan")}}, "traits.openness: nan is not a number"),
        ({"traits": {"openness": "high"}}, "is not a number"),
        ({"traits": {"openness": True}}, "is not a number"),
        ({"characters": {"age": " "}}, "age"),
        ({"characters": {"": 3}}, "needs both"),
    ],
)
def test_what_is_refused(given_, message):
    with pytest.raises(AesError, match=message):
        subject_prompt(**given_)
