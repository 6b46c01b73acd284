"""A person's profile: who they are, if they say so, and how they rated some images. Read and checked, never written.

It knows the YAML layout. Rating tables and image files are `aescli.data.rated`'s. It knows nothing about models.
"""

from __future__ import annotations

import difflib
import reprlib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aescli.data.datasets.base import parse_number
from aescli.data.datasets.tables import read_text
from aescli.data.rated import PersonalRating, Sheet, read_ratings, refuse_unknown
from aescli.errors import AesError

TRAITS = ("openness", "conscientiousness", "extroversion", "agreeableness", "neuroticism")
EXPERIENCE = ("art", "photo")
LEVELS = ("beginner", "competent", "proficient", "expert")
_FIELDS = ("user", "experience", "traits", "characters", "scale", "ratings")
_LONGEST_NAME = 150
"""Bytes; a file is called by the name, with something before and after it."""
_LARGEST, _NARROWEST = 1e6, 1e-3


@dataclass(frozen=True, slots=True)
class Profile:
    """source: the YAML file. scale: lowest and highest possible rating.

    experience: art, photo → one of LEVELS. traits: name → number, as the test gave it. characters: anything else
    about the person, as text. ratings: in the profile's order, no image twice. sheets: the tables they came from.
    """

    source: Path
    user: str
    scale: tuple[float, float]
    ratings: tuple[PersonalRating, ...] = ()
    experience: dict[str, str] = field(default_factory=dict)
    traits: dict[str, float] = field(default_factory=dict)
    characters: dict[str, str] = field(default_factory=dict)
    sheets: tuple[Sheet, ...] = ()

    def require_ratings(self, least: int) -> None:
        """AesError when there are fewer than `least` ratings, or when they are all equal."""
        count = len(self.ratings)
        if count < least:
            raise AesError(
                f"{self.source}: {count} rating{'s' * (count != 1)}, {least} needed: {least - count} missing; "
                + (
                    self._unfilled()
                    or f"--suggest {least - count} --images DIR names the photos to rate next"
                )
            )
        if count > 1 and len({rating.score for rating in self.ratings}) == 1:
            raise AesError(
                f"{self.source}: all {count} ratings are {self.ratings[0].score:g}, which says nothing about "
                "what this person prefers; rate some photos higher or lower"
            )

    def _unfilled(self) -> str:
        """What is to be done about the first table with empty scores, "" where there is none."""
        for sheet in self.sheets:
            rows = sheet.unrated + len(sheet.rated)
            if sheet.unrated == rows > 0:
                return (
                    f"{sheet.path}: none of its {rows} rows has a score; fill it in, or put the table the page saved "
                    "in its place"
                )
            if sheet.unrated:
                return f"{sheet.path}: {sheet.unrated} of its {rows} rows have no score yet"
        return ""


class _Loader(yaml.SafeLoader):
    """YAML in which a value is text or nothing (numbers are read where numbers are meant) and no key comes twice.

    So `user: no` is a person called no, and a date is what was written.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                remedy = "write ratings: [a.csv, b.csv]" if name == "ratings" else "keep one of the two"
                raise yaml.MarkedYAMLError(
                    problem=f"{name} is given twice; {remedy}", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


_RESOLVED = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _RESOLVED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_profile(path: Path, images: Path | None = None) -> Profile:
    """Read and check a profile. Image paths are relative to the profile's folder, then to `images`.

    Raises AesError with one line that names the file, the field and the remedy; where several ratings are wrong, the
    first ones and how many.
    """
    values = _values(path)
    scale = _scale(path, values.get("scale"))
    ratings, sheets = read_ratings(path, values.get("ratings"), scale, images)
    return Profile(
        source=path,
        user=_user(path, values),
        scale=scale,
        ratings=ratings,
        experience=_experience(path, values.get("experience")),
        traits=_traits(path, values.get("traits")),
        characters=_characters(path, values.get("characters")),
        sheets=sheets,
    )


def read_name(path: Path) -> str:
    """The name of the profile's user; the rest of the profile is not read. Raises AesError as `read_profile` does."""
    return _user(path, _values(path))


def _values(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        given = "" if "given twice" in str(problem) else "not valid YAML: "
        raise AesError(f"{path}{where}: {given}{problem}") from None
    except ValueError as error:  # an explicit tag, such as !!int, on what is none
        raise AesError(f"{path}: a value cannot be read ({error}); leave out its !!tag") from None
    except RecursionError:
        raise AesError(f"{path}: nested too deeply; a profile has two levels") from None
    if values is None:
        raise AesError(f"{path} is empty; a profile has at least user: alice and scale: [1, 5]")
    if not isinstance(values, dict):
        raise AesError(f"{path}: a profile is a mapping with the fields {', '.join(_FIELDS)}")
    refuse_unknown(path, "", values, _FIELDS)
    return values


def _user(path: Path, values: dict[str, Any]) -> str:
    user = values.get("user")
    if not isinstance(user, str) or not user.strip():
        raise AesError(f"{path}: user: a name is needed, such as user: alice")
    name = " ".join(user.split())
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise AesError(f"{path}: user: the name holds a control character; leave it out")
    if len(name.encode()) > _LONGEST_NAME:
        raise AesError(
            f"{path}: user: the name has {len(name.encode())} bytes, a file's name has room for {_LONGEST_NAME}; "
            "take a shorter one"
        )
    return name


def _mapping(path: Path, name: str, value: Any) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AesError(f"{path}: {name}: must be a mapping of names to values, got {reprlib.repr(value)}")
    return value


def _experience(path: Path, value: Any) -> dict[str, str]:
    given = _mapping(path, "experience", value)
    refuse_unknown(path, "experience.", given, EXPERIENCE)
    for key, level in given.items():
        if level not in LEVELS:
            near = difflib.get_close_matches(str(level).casefold(), LEVELS, 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise AesError(
                f"{path}: experience.{key}: '{level}' is no level; {hint}levels: {', '.join(LEVELS)}"
            )
    return dict(given)


def _traits(path: Path, value: Any) -> dict[str, float]:
    given = _mapping(path, "traits", value)
    refuse_unknown(path, "traits.", given, TRAITS)
    traits = {}
    for key, number in given.items():
        try:
            traits[key] = parse_number(number, decimal_comma=True)
        except ValueError as error:
            raise AesError(f"{path}: traits.{key}: {error}; give the test's score, such as 7") from None
    return traits


def _characters(path: Path, value: Any) -> dict[str, str]:
    given = _mapping(path, "characters", value)
    for key, text in given.items():
        if not isinstance(text, str) or not text.strip():
            raise AesError(
                f"{path}: characters.{key}: must be a short text or a number, got {reprlib.repr(text)}"
            )
    return {str(key): text.strip() for key, text in given.items()}


def _scale(path: Path, value: Any) -> tuple[float, float]:
    if value is None:
        raise AesError(f"{path}: scale: missing; give the lowest and highest rating, such as scale: [1, 5]")
    try:
        if not isinstance(value, list):
            raise ValueError
        low, high = (parse_number(end) for end in value)
    except ValueError:
        raise AesError(
            f"{path}: scale: must be two numbers such as [1, 5], got {reprlib.repr(value)}"
        ) from None
    if low >= high:
        raise AesError(f"{path}: scale: the lowest rating comes first, and {low:g} is not below {high:g}")
    if max(abs(low), abs(high)) > _LARGEST or high - low < _NARROWEST:
        raise AesError(
            f"{path}: scale: {low:g} to {high:g} is no scale that people rate on; take one such as [1, 5]"
        )
    return low, high
