"""Which label files make up a data set: one, or lists of the images for training, validation and test.

Knows how such lists are named; knows nothing about formats or columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def part_named(word: str | None) -> str | None:
    """ "train", "val" or "test" for what a split column calls it; None for another word, or none."""
    return _PARTS.get((word or "").strip().casefold())


@dataclass(frozen=True, slots=True)
class Part:
    """A label file; `split` is "train", "val" or "test" where the file's name says so, else None."""

    path: Path
    split: str | None = None


def part_of(path: Path) -> tuple[str | None, str]:
    """(split, the rest of the name): "PARA-GiaaTrain.csv" → ("train", "para-giaa-.csv")."""
    words = re.split(r"([^A-Za-z]+)", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", path.stem))
    named = [word for word in words if word.casefold() in _PARTS]
    if len(named) != 1:
        return None, path.name.casefold()
    rest = "".join(word for word in words if word not in named) + path.suffix
    return _PARTS[named[0].casefold()], rest.casefold()


def find_parts(files: Iterable[Path]) -> list[list[Part]]:
    """The complete sets among `files`: lists whose names differ in train / val / test only, train among them."""
    sets: dict[str, dict[str, Part]] = {}
    twice = set()
    for path in sorted(files):
        split, rest = part_of(path)
        if split is not None:
            known = sets.setdefault(rest, {})
            if split in known:
                twice.add(rest)
            known[split] = Part(path, split)
    return [
        [found[split] for split in ("train", "val", "test") if split in found]
        for rest, found in sets.items()
        if len(found) > 1 and "train" in found and rest not in twice
    ]


def source_of(parts: Sequence[Part]) -> Path:
    """What to call them together: the file, or the folder of several."""
    return parts[0].path if len(parts) == 1 else parts[0].path.parent


def notes_of(parts: Sequence[Part]) -> list[str]:
    """A note naming the files and their splits, where there are several."""
    if len(parts) == 1:
        return []
    return ["read from " + ", ".join(f"{part.path.name} ({part.split})" for part in parts)]
