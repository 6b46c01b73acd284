"""The folder of a personal model: where it lies, whose it is, and the card that says so.

It knows names, folders and JSON. It knows nothing about what the model beside the card computes.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from aescli.errors import AesError
from aescli.folders import unwritable, whole_folder, write_text

WEIGHTS, CARD = "adapter.safetensors", "user.json"
CHANGES = "tuned.safetensors"
"""In the place of WEIGHTS where a whole model was tuned to the person."""
USERS = Path("users")
"""Where personal models lie unless said otherwise, a folder for each user."""

_FIELDS = {"user": str, "base": str, "task": str, "model": str, "scale": list, "notes": dict}
_KINDS = {str: "a text", list: "a list", dict: "a mapping", float: "a finite number"}


class Personal(Protocol):
    """user: whose. base: digest of the generic model. task, model: its task, and its name as --model takes it."""

    user: str
    base: str
    task: str
    model: str


class Base(Protocol):
    """The generic model of this run."""

    digest: str
    task: str


def safe_name(user: str) -> str:
    """A folder name for a user's name: letters and marks of any script, digits, dot, dash; all else as underscore."""
    composed = unicodedata.normalize("NFC", user)
    kept = (c if unicodedata.category(c)[0] in "LMN" or c in ".-" else "_" for c in composed)
    return re.sub("_+", "_", "".join(kept)).strip("._") or "user"


def home_of(user: str, task: str) -> Path:
    """Where a person's model for a task lies: users/NAME, or users/NAME-TASK if that is the same person's for another.

    Nothing need lie there yet; what does may be somebody else's.
    """
    first = USERS / safe_name(user)
    owner = owner_of(first)
    return (
        first.with_name(f"{first.name}-{task}") if owner and owner[0] == user and owner[1] != task else first
    )


def owner_of(folder: Path) -> tuple[str, str] | None:
    """(user, task) of the personal model in the folder; None where there is none or its card cannot be read."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        user, task = card["user"], card["task"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (user, task) if isinstance(user, str) and isinstance(task, str) else None


def require_room(folder: Path, user: str, task: str) -> None:
    """AesError where the folder holds another person's model, one for another task, or something else altogether."""
    try:
        taken = (
            folder.exists()
            and not (folder / CARD).is_file()
            and (not folder.is_dir() or any(folder.iterdir()))
        )
    except OSError as error:
        raise unwritable(folder, error) from None
    if taken:
        raise AesError(f"{folder} exists and is not a personal profile; give another --out")
    owner = owner_of(folder)
    if owner is not None and owner[0] != user:
        raise AesError(f"{folder} is the model of '{owner[0]}', not of '{user}'; give another --out")
    if owner is not None and owner[1] != task:
        raise AesError(f"{folder} is the model of {user} for --task {owner[1]}; give another --out")


def require_base(personal: Personal, base: Base, folder: Path) -> None:
    """AesError unless the personal model in `folder` was made from this generic model."""
    if personal.base == base.digest:
        return
    made = f"{folder} was made for --task {personal.task} ({personal.model}); "
    if personal.task != base.task:
        raise AesError(
            f"{made}this run is --task {base.task}: add --task {personal.task}, or make one for it: "
            f"aes personalize --task {base.task}"
        )
    raise AesError(
        f"{made}this run's model is another ({base.digest}, not {personal.base}): score with --model "
        f"{personal.model}, or personalise again with this one"
    )


def write_folder(folder: Path, write: Callable[[Path], None], card: Mapping[str, Any]) -> None:
    """A personal model's folder, the old one or the new one, from what `write` puts into an empty one and the card.

    Raises AesError where it cannot be written, or `require_room` finds another thing in its place.
    """
    from safetensors import SafetensorError

    require_room(folder, card["user"], card["task"])
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    try:
        with whole_folder(folder) as staging:
            write(staging)
            write_text(staging / CARD, text)
    except (OSError, SafetensorError) as error:
        raise unwritable(folder, error) from None


def read_card(folder: Path, further: Mapping[str, type]) -> dict[str, Any]:
    """The card's values, scale as two numbers; further: fields beside the usual ones. ValueError says what is wrong."""
    fields = {**_FIELDS, **further}
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{CARD} is nested too deeply") from None
    if not isinstance(card, dict):
        raise ValueError(f"{CARD} is no mapping")
    for name in fields.keys() ^ card.keys():
        raise ValueError(
            f"{CARD} lacks '{name}'" if name in fields else f"{CARD} has an unknown field '{name}'"
        )
    for name, kind in fields.items():
        if not (_is_number(card[name]) if kind is float else isinstance(card[name], kind)):
            raise ValueError(f"'{name}' in {CARD} is not {_KINDS[kind]}")
    scale = card["scale"]
    if len(scale) != 2 or not all(map(_is_number, scale)) or scale[0] >= scale[1]:
        raise ValueError(f"'scale' in {CARD} is not two numbers, the lower one first")
    return {**card, "scale": (float(scale[0]), float(scale[1]))}


def damaged(folder: Path, reason: Exception) -> AesError:
    """What to raise where a personal model cannot be read."""
    return AesError(f"{folder}: damaged ({reason}); run aes personalize again")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
