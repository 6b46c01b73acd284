"""Comments as people typed them, made fit to be read by a text encoder.

Knows markup, links, escaped line ends, invisible characters and the word limit of the captions data sets.
Knows nothing about tokens, models or files; imports nothing heavy.
"""

import html
import re
import unicodedata

_TAGS = (
    "a|abbr|address|article|audio|b|big|blockquote|body|br|button|center|cite|code|dd|del|div|dl|dt|em|embed|font|form"
    "|h[1-6]|head|hr|html|i|iframe|img|input|ins|kbd|label|li|link|map|mark|meta|nobr|object|ol|option|p|param|pre|q|s"
    "|samp|script|section|select|small|source|span|strike|strong|style|sub|sup|table|tbody|td|textarea|tfoot|th|thead"
    "|title|tr|tt|u|ul|var|video|wbr"
)
# Only HTML's own tags, with attributes that have values: people also write a<b and c>d, and <3.
_MARKUP = re.compile(
    rf"<!--.*?-->|<(script|style)\b.*?</\1\s*>|</?(?:{_TAGS})(?:\s+[^<>]*=[^<>]*)?\s*/?>",
    re.IGNORECASE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\+[nr]")  # a line's end as CSV and JSON files of captions hold it
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
    text = _ESCAPED.sub(" ", _LINK.sub(" ", _MARKUP.sub(" ", html.unescape(text))))
    return " ".join("".join(map(_visible, text)).split()[:words])
