"""Which evaluated images a model was trained on, or could have been through the other part of a split.

Knows lists of content (and perceptual) hashes and files; knows nothing about labels, metrics or how a
checkpoint keeps its list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aescli.data.datasets.base import Dataset
from aescli.runtime import available_cpus

NEAR_BITS = 2
"""Perceptual hashes this close are called near-duplicates: without the training picture nothing can confirm
them, and at 4 bits most pairs of SCUT-FBP5500 are strangers in the same pose."""

_TOKEN = re.compile(r"([0-9a-f]{16})(?::([0-9a-f]{16}))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Positions of evaluated files. same: trained on. near: a near-duplicate was."""

    same: list[int]
    near: list[int]

    @property
    def all(self) -> list[int]:
        return sorted({*self.same, *self.near})


def parse_hashes(tokens: Iterable[str]) -> tuple[frozenset[str], np.ndarray]:
    """(content hashes, perceptual hashes (m,) uint64) of a card's list.

    A token is 16 hexadecimal digits (the content hash), optionally ":" and 16 more (the perceptual hash).
    Raises ValueError for anything else: a list that is read wrongly would hide an overlap.
    """
    content, bits = set(), set()
    for token in tokens:
        match = _TOKEN.fullmatch(token)
        if not match:
            raise ValueError(f"'{token}' is not a hash of a training image")
        content.add(match[1].lower())
        if match[2]:
            bits.add(int(match[2], 16))
    return frozenset(content), np.array(sorted(bits), dtype=np.uint64)


def find_overlap(paths: Sequence[Path], tokens: Iterable[str], cache: Path | None = None) -> Overlap:
    """Compare the files at `paths` with a card's hash list (see `parse_hashes`).

    Pictures are decoded only if the list holds perceptual hashes. A file that cannot be read overlaps with
    nothing: it has no score either. cache: see `aescli.data.duplicates.fingerprints`.
    """
    content, bits = parse_hashes(tokens)
    with ThreadPoolExecutor(available_cpus()) as pool:
        found = list(pool.map(_content, paths))
    same = [i for i, digest in enumerate(found) if digest in content]
    if not len(bits):
        return Overlap(same, [])
    from aescli.data.duplicates import fingerprints, near_pairs

    readable = [i for i, digest in enumerate(found) if digest is not None and digest not in content]
    prints = fingerprints([paths[i] for i in readable], cache, unreadable={})
    near = sorted({readable[i] for i, _, _ in near_pairs(prints.bits, NEAR_BITS, bits)})
    return Overlap(same, near)


def leaks_of_parts(part: Sequence[Path], rest: Sequence[Path], cache: Path | None = None) -> list[int]:
    """Positions in `part` of pictures that `rest` holds too: the same bytes or a near-duplicate.

    For predictions whose training images nobody lists. The rule is that of `aescli.data.duplicates`, which sees both
    pictures. A file that cannot be read resembles nothing.
    """
    from aescli.data.duplicates import duplicate_groups, fingerprints

    groups = duplicate_groups(fingerprints([*part, *rest], cache, unreadable={}))
    outside = set(groups[len(part) :].tolist())
    return [i for i in range(len(part)) if int(groups[i]) in outside]


def of_unknown_training(
    dataset: Dataset, keep: Sequence[int] | None, rest: Sequence[int] | None, who: str
) -> list[str]:
    """Notes on predictions whose training images nobody lists: what the rest of the data set would give away.

    keep, rest: positions of the measured part and of the others; None = no part was chosen.
    """
    lines = [f"{who} lists no training images: whether these were among them is not known"]
    if not rest or keep is None or dataset.notes.images is None:
        return lines
    from aescli.data.duplicates import default_cache

    part = dataset.subset(keep)
    paths = [[sample.path for sample in half.samples] for half in (part, dataset.subset(rest))]
    found = [part.samples[i].name for i in leaks_of_parts(*paths, default_cache())]
    if found:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        lines.append(
            f"LEAK: {len(found)} of {len(part)} images are copies or near-duplicates of images outside the part "
            f"({', '.join(found[:5])}{more}): if those trained the predictor, the figures flatter it"
        )
    return lines


def _content(path: Path) -> str | None:
    from aescli.data.hashing import content_hash
    from aescli.data.images import ImageError

    try:
        return content_hash(path)
    except ImageError:
        return None
