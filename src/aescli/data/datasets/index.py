"""Finds the image file (or the row of another table) that a label means.

Knows the ways in which two sources may spell the same name (folders, case, missing suffix, Unicode form);
it never guesses between two candidates. It knows nothing about label files.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from aescli.data.finding import find_images, known_suffixes
from aescli.errors import AesError


def normal_name(name: str) -> str:
    """Forward slashes, no leading './', Unicode composed (a folder from a Mac spells é as two signs)."""
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


class NameIndex:
    """Names (file names, relative or absolute paths), found by any unambiguous other spelling.

    folders: names whose innermost folders differ (a/x.jpg, b/x.jpg) are not the same; needed where what will be looked
    for cannot be told in advance (`expect`).
    """

    NOTHING = "nothing has this name"

    def __init__(self, names: Iterable[str], *, folders: bool = False):
        self._folders = folders
        self._exact: dict[str, str] = {}
        self._folded: dict[str, list[str]] = {}
        self._by_base: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._expected: Counter[str] = Counter()
        for name in names:
            normal = normal_name(name)
            base = _base(normal)
            self._exact[normal] = name
            self._folded.setdefault(normal.casefold(), []).append(name)
            self._by_base.setdefault(base, []).append(name)
            self._by_stem.setdefault(os.path.splitext(base)[0], []).append(name)

    def __len__(self) -> int:
        return len(self._exact)

    def expect(self, names: Iterable[str]) -> None:
        """Tell in advance what will be looked for: a file name that two of them share identifies nothing."""
        bases = [_base(name) for name in {normal_name(name) for name in names}]
        self._expected.update(bases)
        self._expected.update(stem for stem in map(_stem, bases) if stem)

    def find(self, spellings: Sequence[str]) -> tuple[str | None, str]:
        """(name, "") for the first spelling that exactly one name answers to, else (None, why not)."""
        why = ""
        for spelling in spellings:
            name = normal_name(spelling)
            # What has no suffix may be spelt so: an index of stems.
            hits = (
                self._candidates(name) or ((stem := _stem(name)) and self._candidates(stem, exact=True)) or []
            )
            if len(hits) == 1:
                return hits[0], ""
            if len(hits) > 1:
                why = f"{len(hits)} have this name ({', '.join(hits[:3])})"
        return None, why or self.NOTHING

    def _candidates(self, name: str, exact: bool = False) -> list[str]:
        # 1. The name itself, then without its leading folders: the index may start deeper than the label.
        parts = [part for part in name.split("/") if part]
        if name in self._exact:
            return [self._exact[name]]
        for skip in range(len(parts)):
            tail = "/".join(parts[skip:])
            if skip and skip == len(parts) - 1 and self._expected[tail.casefold()] > 1:
                break  # two labels that differ only in their folders would both take it
            if tail in self._exact:
                return [self._exact[tail]]
            if len(self._folded.get(tail.casefold(), ())) == 1:
                return self._folded[tail.casefold()]
        base = _base(name)
        hits = self._by_base.get(base, [])
        if not hits and not exact and os.path.splitext(base)[1] not in known_suffixes():
            hits = self._by_stem.get(base, [])
        # 2. The index may start higher: names that end with the label's.
        if len(parts) > 1:
            ending = "/" + "/".join(parts).casefold()
            deeper = [hit for hit in hits if f"/{normal_name(hit).casefold()}".endswith(ending)]
            # 3. Folders that differ altogether: the bare name decides only if nothing else bears it.
            alone = len(hits) == 1 and self._expected[base] <= 1
            if alone and self._folders:
                *above, _ = normal_name(hits[0]).casefold().split("/")
                alone = not above or above[-1] == parts[-2].casefold()
            hits = deeper or (hits if alone else [])
        return hits


class ImageIndex:
    """The image files under a folder (recursive), by the names they may go by."""

    def __init__(self, root: Path):
        if not root.is_dir():
            raise AesError(f"{root}: no such image folder; name it with --images")
        self.files: dict[str, Path] = {}
        """Path relative to the root → file."""
        self.unreadable: list[str] = []
        """Folders that could not be searched, with the reason."""
        # A folder called "-" or "@x" is a folder here.
        top = os.path.join(os.curdir, root)
        for item in find_images([top]):
            if item.error is not None:
                self.unreadable.append(f"{item.path}: {item.error}")
            else:
                name = item.path[len(top) :].lstrip(os.sep)
                self.files[name.replace(os.sep, "/")] = root / name
        self.names = NameIndex(self.files)

    def find(self, spellings: Sequence[str]) -> tuple[Path | None, str]:
        """(file, "") for the first spelling that exactly one file answers to, else (None, why not)."""
        name, why = self.names.find(spellings)
        return (None, why) if name is None else (self.files[name], "")

    def relative_names(self, exclude: set[Path]) -> list[str]:
        """Sorted paths (relative to the root) of the files that are not in `exclude`."""
        return sorted(name for name, path in self.files.items() if path not in exclude)


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1].casefold()


def _stem(name: str) -> str:
    """The name without the suffix of an image file; "" where it has none."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in known_suffixes() else ""
