"""Subject multi-character prompts (AesMamba §3.5): what is known about a person, as the sentences a text encoder reads.

Knows the paper's wording. Knows nothing about tokens, models or where a profile is stored.
"""

import math
from collections.abc import Mapping

from aescli.errors import AesError

EXPERIENCE_LEVELS = ("beginner", "competent", "proficient", "expert")
TRAITS = ("openness", "conscientiousness", "extroversion", "agreeableness", "neuroticism")
"""Big-Five traits in the order of the paper's sentence."""


def subject_prompt(
    *,
    art: str | None = None,
    photo: str | None = None,
    traits: Mapping[str, float] | None = None,
    characters: Mapping[str, object] | None = None,
) -> str:
    """The prompt of whichever characters are given, in the paper's order and wording; "" when none is.

    Args:
        art, photo: artistic and photographic experience, one of `EXPERIENCE_LEVELS` in any case.
        traits: scores of any of the five `TRAITS`, on whatever scale the personality test uses.
        characters: anything else worth knowing, each appended as "My {name} is {value}."

    Raises:
        AesError: an unknown level or trait, a trait that is not a number, or a character without a name or value.
    """
    sentences = []
    if art is not None:
        sentences.append(f"My artistic experience is {_level('art', art)}.")
    if photo is not None:
        sentences.append(f"My Photographic experience is {_level('photo', photo)}.")
    if traits:
        sentences.append(_big_five(traits))
    for name, value in (characters or {}).items():
        name, value = " ".join(str(name).split()), _plain(value)
        if not name or not value:
            raise AesError(f"characters: {name or value!r} needs both a name and a value")
        sentences.append(f"My {name} is {value}.")
    return " ".join(sentences)


def _level(what: str, level: str) -> str:
    known = str(level).strip().lower()
    if known not in EXPERIENCE_LEVELS:
        raise AesError(f"experience.{what}: {level!r} is none of {', '.join(EXPERIENCE_LEVELS)}")
    return known


def _big_five(traits: Mapping[str, float]) -> str:
    given = {str(name).strip().lower(): value for name, value in traits.items()}
    if unknown := [name for name in given if name not in TRAITS]:
        raise AesError(f"traits: {unknown[0]!r} is none of {', '.join(TRAITS)}")
    parts = []
    for trait in TRAITS:
        if trait in given:
            value = given[trait]
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise AesError(f"traits.{trait}: {value!r} is not a number")
            shown = "Neuroticism" if trait == "neuroticism" else trait
            parts.append(f"{shown} score is {_plain(value)}")
    if len(parts) > 1:
        parts[-1] = f"and {parts[-1]}"
    return "In the Big-Five personality traits test, my scores are as follows: " + ", ".join(parts) + "."


def _plain(value: object) -> str:
    """7.0 → "7": a table's integers often arrive as floats, and the text encoder would read another word."""
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())
