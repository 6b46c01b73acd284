"""Comments as people typed them, made fit to be read by a text encoder.

Knows markup, links, invisible characters and the word limit of the captions data sets.
Knows nothing about tokens, models or files; imports nothing heavy.
"""

import html
import re
import unicodedata

_MARKUP = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|</?[a-z][^<>]*>", re.IGNORECASE | re.DOTALL)
_LINK = re.compile(r"(?:\b[a-z][a-z0-9+.-]*://|\bwww\.)\S+", re.IGNORECASE)


def _visible(character: str) -> str:
    """A control character or odd space → space; what only shapes its neighbours, or is half a character → nothing."""
    kind = unicodedata.category(character)
    if kind == "Cc" or kind[0] == "Z":
        return " "
    return "" if kind in ("Cf", "Cs", "Co") else character


def clean_comment(text: str | None, words: int = 200) -> str:
    """The first `words` words of a comment without HTML, entities, links, control characters and runs of spaces.

    Cleaning what is clean changes nothing. None and whatever holds no word give "". Of a text longer than 100
    characters per word only that much is looked at.
    """
    text = (text or "")[: 100 * words]
    # Until nothing changes: crawled comments are escaped more than once, and a tag may hide inside another.
    while (cleaned := _clean_once(text, words)) != text:
        text = cleaned
    return text


def _clean_once(text: str, words: int) -> str:
    text = _LINK.sub(" ", _MARKUP.sub(" ", html.unescape(text)))
    return " ".join("".join(map(_visible, text)).split()[:words])
