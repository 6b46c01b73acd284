"""Comment cleaning: what goes, what stays, and that nothing is left to clean."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aescli.models.comments import clean_comment


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Great <b>light</b>!<br />Love\tit\r\n", "Great light ! Love it"),
        ("I <3 this, f < 2.8 and > 100 mm", "I <3 this, f < 2.8 and > 100 mm"),
        ("Tom &amp; Jerry&#39;s &quot;photo&quot;", 'Tom & Jerry\'s "photo"'),
        ("&amp;lt;i&amp;gt;doubly&amp;lt;/i&amp;gt; escaped", "doubly escaped"),
        ("see https://a.example/x?y=1&z=2 and www.b.example/p, ok", "see and ok"),
        ("before<!-- a > b -->after", "before after"),
        ("a<script>let x = '<p>'</script>b<style>p{}</style>c", "a b c"),
        ("<p><b<i>>x</p>", "x"),
        (
            "bell\x07 null\x00 soft\u00adhyphen zero\u200bwidth nb\u00a0space",
            "bell null softhyphen zerowidth nb space",
        ),
        ("if a<b and c>d, or <me> and x<i", "if a<b and c>d, or <me> and x<i"),
        ('<a href="x" target=_blank>here</a><IMG SRC=y.jpg/><h2>Hi</h2>', "here Hi"),
        (r"nice\nlight\r\n\nlove it\\nthe color\texture", r"nice light love it the color\texture"),
        ("half \ud83d of an emoji, 写真 é", "half of an emoji, 写真 é"),
        ("", ""),
        (None, ""),
        ("<br> \n", ""),
    ],
)
def test_examples(raw, clean):
    assert clean_comment(raw) == clean


def test_the_first_200_words_stay():
    text = " ".join(f"w{i}" for i in range(500))
    assert clean_comment(text).split() == [f"w{i}" for i in range(200)]
    assert clean_comment(text, words=3) == "w0 w1 w2"


_PIECES = st.sampled_from(
    ["<b>", "</b", "<", ">", "&lt;", "&amp;", "amp;", "www.", "http://", "x", " ", "<!--", "-->"]
)


@given(st.one_of(st.text(), st.lists(_PIECES).map("".join)), st.integers(1, 5))
def test_clean_text_is_clean(text, words):
    cleaned = clean_comment(text, words)
    assert clean_comment(cleaned, words) == cleaned
    assert len(cleaned.split()) <= words
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in cleaned)
    cleaned.encode("utf-8")  # lone surrogates would end the tokenizer


def test_a_hostile_comment_costs_little():
    assert len(clean_comment("<!--" * 1_000_000)) <= 20_000
