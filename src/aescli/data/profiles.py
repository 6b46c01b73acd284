"""A person's profile: who they are, if they say so, and how they rated some images. Read and checked, never written.

It knows the YAML layout, rating tables and where image files may lie. It knows nothing about models.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aescli.data.datasets.base import parse_number
from aescli.data.datasets.generic import guess_image_column
from aescli.data.datasets.tables import read_table, read_text
from aescli.errors import AesError

TRAITS = ("openness", "conscientiousness", "extroversion", "agreeableness", "neuroticism")
EXPERIENCE = ("art", "photo")
LEVELS = ("beginner", "competent", "proficient", "expert")
_FIELDS = ("user", "experience", "traits", "characters", "scale", "ratings")


@dataclass(frozen=True, slots=True)
class PersonalRating:
    """image: as the profile spells it. path: the file. score: on the profile's scale."""

    image: str
    path: Path
    score: float


@dataclass(frozen=True, slots=True)
class Profile:
    """source: the YAML file. scale: lowest and highest possible rating.

    experience: art, photo → one of LEVELS. traits: name → number, as the test gave it. characters: anything else
    about the person, as text. ratings: in the profile's order, no image twice.
    """

    source: Path
    user: str
    scale: tuple[float, float]
    ratings: tuple[PersonalRating, ...] = ()
    experience: dict[str, str] = field(default_factory=dict)
    traits: dict[str, float] = field(default_factory=dict)
    characters: dict[str, str] = field(default_factory=dict)

    def require_ratings(self, least: int) -> None:
        """AesError when there are fewer than `least` ratings, or when they are all equal."""
        count = len(self.ratings)
        if count < least:
            raise AesError(
                f"{self.source}: {count} rating{'s' * (count != 1)}, {least} needed: {least - count} missing; "
                f"--suggest {least - count} --images DIR names the photos to rate next"
            )
        if count > 1 and len({rating.score for rating in self.ratings}) == 1:
            raise AesError(
                f"{self.source}: all {count} ratings are {self.ratings[0].score:g}, which says nothing about "
                "what this person prefers; rate some photos higher or lower"
            )


def read_profile(path: Path, images: Path | None = None) -> Profile:
    """Read and check a profile. Image paths are relative to the profile's folder, then to `images`.

    Raises AesError with one line that names the file, the field and the remedy; where several ratings are wrong, the
    first ones and how many.
    """
    values = _values(path)
    scale = _scale(path, values.get("scale"))
    return Profile(
        source=path,
        user=_user(path, values),
        scale=scale,
        ratings=_ratings(path, values.get("ratings"), scale, images),
        experience=_experience(path, values.get("experience")),
        traits=_traits(path, values.get("traits")),
        characters=_characters(path, values.get("characters")),
    )


def read_name(path: Path) -> str:
    """The name of the profile's user; the rest of the profile is not read. Raises AesError as `read_profile` does."""
    return _user(path, _values(path))


def read_ratings_sheet(path: Path) -> list[tuple[str, str, str]]:
    """(where, image, score as text) of a table with an image and a score (or rating) column; empty scores left out."""
    table = read_table(path)
    if table.bad:
        raise AesError(str(table.bad[0]))
    image = guess_image_column(table)
    folded = {column.casefold(): column for column in table.columns}
    score = next((folded[name] for name in ("score", "rating") if name in folded), None)
    score = score or table.column("score")
    comma = table.delimiter != ","
    return [
        (f"{path}:{line}", cells[image], cells[score].replace(",", ".") if comma else cells[score])
        for line, cells in table.rows
        if cells[score].strip()
    ]


def _values(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise AesError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise AesError(f"{path}: a profile is a mapping with the fields {', '.join(_FIELDS)}")
    _refuse_unknown(path, "", values, _FIELDS)
    return values


def _user(path: Path, values: dict[str, Any]) -> str:
    user = values.get("user")
    if not isinstance(user, str | int) or isinstance(user, bool) or not str(user).strip():
        raise AesError(f"{path}: user: a name is needed, such as user: alice")
    return str(user).strip()


def _refuse_unknown(path: Path, prefix: str, values: Iterable[Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key).casefold(), known, 1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
            what = {"traits.": "trait", "experience.": "kind of experience"}.get(prefix, "field")
            raise AesError(f"{path}: unknown {what} '{prefix}{key}'; {hint}")


def _mapping(path: Path, name: str, value: Any) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AesError(f"{path}: {name}: must be a mapping of names to values, got {value!r}")
    return value


def _experience(path: Path, value: Any) -> dict[str, str]:
    given = _mapping(path, "experience", value)
    _refuse_unknown(path, "experience.", given, EXPERIENCE)
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
    _refuse_unknown(path, "traits.", given, TRAITS)
    traits = {}
    for key, number in given.items():
        try:
            if isinstance(number, bool):
                raise ValueError("it must be a number")
            traits[key] = parse_number(number)
        except ValueError as error:
            raise AesError(f"{path}: traits.{key}: {error}; give the test's score, such as 7") from None
    return traits


def _characters(path: Path, value: Any) -> dict[str, str]:
    given = _mapping(path, "characters", value)
    for key, text in given.items():
        if not isinstance(text, str | int | float) or isinstance(text, bool) or not str(text).strip():
            raise AesError(f"{path}: characters.{key}: must be a short text or a number, got {text!r}")
    return {str(key): str(text).strip() for key, text in given.items()}


def _scale(path: Path, value: Any) -> tuple[float, float]:
    if value is None:
        raise AesError(f"{path}: scale: missing; give the lowest and highest rating, such as scale: [1, 5]")
    try:
        low, high = (parse_number(end) for end in value)
    except (TypeError, ValueError):
        raise AesError(f"{path}: scale: must be two numbers such as [1, 5], got {value!r}") from None
    if low >= high:
        raise AesError(f"{path}: scale: the lowest rating comes first, and {low:g} is not below {high:g}")
    return low, high


def _ratings(
    path: Path, value: Any, scale: tuple[float, float], images: Path | None
) -> tuple[PersonalRating, ...]:
    rows = _rows(path, value)
    problems: list[str] = []
    seen: dict[Path, str] = {}
    ratings = []
    for where, image, score in rows:
        try:
            if isinstance(score, bool):
                raise ValueError(f"the score must be a number, got {score}")
            number = parse_number(score)
            if not scale[0] <= number <= scale[1]:
                raise ValueError(f"score {number:g} lies outside the scale {scale[0]:g} to {scale[1]:g}")
            file = _find(image, path.parent, images)
            key = file.resolve()
            if key in seen:
                raise ValueError(f"already rated in {seen[key]}; keep one of the two")
        except ValueError as error:
            problems.append(f"{where}: {image}: {error}")
            continue
        seen[key] = where
        ratings.append(PersonalRating(image, file, number))
    if problems:
        more = f"; and {len(problems) - 3} more like this" if len(problems) > 3 else ""
        raise AesError("; ".join(problems[:3]) + more)
    return tuple(ratings)


def _rows(path: Path, value: Any) -> list[tuple[str, str, Any]]:
    """(where, image, score) of a list in the profile and of the tables it names."""
    if value is None:
        return []
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise AesError(f"{path}: ratings: must be a CSV path or a list of {{image: …, score: …}}")
    rows: list[tuple[str, str, Any]] = []
    for number, entry in enumerate(value, start=1):
        where = f"{path}: ratings, entry {number}"
        if isinstance(entry, str):
            sheet = path.parent / entry
            if not sheet.is_file():
                raise AesError(f"{where}: {sheet} does not exist; the path starts at the profile's folder")
            rows += read_ratings_sheet(sheet)
            continue
        if not isinstance(entry, dict):
            raise AesError(f"{where}: must be {{image: …, score: …}}, got {entry!r}")
        _refuse_unknown(path, f"ratings[{number}].", entry, ("image", "score"))
        if not str(entry.get("image") or "").strip():
            raise AesError(f"{where}: names no image")
        rows.append((where, str(entry["image"]), entry.get("score")))
    return rows


def _find(image: str, *folders: Path | None) -> Path:
    """The file of an image: absolute, or relative to one of the folders. ValueError says where it was looked for."""
    places = [folder for folder in folders if folder is not None]
    for folder in places:
        candidate = folder / image  # an absolute path stays itself
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):
            continue
    looked = " or ".join(str(folder) or "." for folder in places)
    remedy = "correct the path" if len(places) > 1 else "correct the path or name the folder with --images"
    raise ValueError(f"image not found in {looked}; {remedy}")
