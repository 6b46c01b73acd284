"""Which images of a data set are the same picture, or nearly.

Knows the fingerprint of a file (content hash, perceptual hash, a small grey picture) and how to join
files into groups; knows nothing about scores, splits or models.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aescli.runtime import available_cpus

_SIDE = 32  # pixels of the small grey picture
_KEEP_EVERY = 20_000  # files: what an interrupted run of hours has decoded is not lost
_FORMAT = 1  # of the cache; raise when a fingerprint's meaning changes

# (bits apart, least correlation of the small grey pictures): looked at pair by pair on the faces of MEBeauty
# and SCUT-FBP5500, where the hash alone joins strangers in the same pose: within 4 bits, 51 in one chain.
# The rule finds every copy that was seen; where it errs it joins two strangers, which costs a split nothing.
NEAR = ((2, -1.0), (4, 0.94), (8, 0.97))


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """content: n strings of 16 hex digits; bits: (n,) uint64; grey: (n, 32·32) uint8."""

    content: list[str]
    bits: np.ndarray
    grey: np.ndarray

    def subset(self, keep: Sequence[int]) -> Fingerprints:
        """Those of the files at the given positions, in that order."""
        keep = np.asarray(keep, dtype=np.int64)
        return Fingerprints([self.content[i] for i in keep], self.bits[keep], self.grey[keep])


def default_cache() -> Path:
    """Where fingerprints are kept between runs (the user's cache folder)."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(home) / "aescli" / "fingerprints.npz"


def fingerprints(
    paths: Sequence[Path],
    cache: Path | None = None,
    workers: int | None = None,
    unreadable: dict[int, str] | None = None,
) -> Fingerprints:
    """Fingerprint every file, in the order given. Raises ImageError for a file that cannot be decoded.

    unreadable: if given, such a file does not raise: its position and the reason are added, and it resembles nothing.

    cache: an .npz file that keeps fingerprints by path, size and modification time; None = no cache. One
    that cannot be read or written is passed over: it only saves time.
    """
    from aescli.data.images import ImageError

    def fingerprint(i: int) -> tuple[str, np.uint64, np.ndarray] | ImageError:
        try:
            return _fingerprint(paths[i])
        except ImageError as error:
            return error

    keys = [_key(path) for path in paths]
    known = _read_cache(cache) if cache else {}
    todo = [i for i, key in enumerate(keys) if key not in known]
    failed: dict[int, ImageError] = {}
    with ThreadPoolExecutor(workers or available_cpus()) as pool:
        for start in range(0, len(todo), _KEEP_EVERY):
            block = todo[start : start + _KEEP_EVERY]
            for i, found in zip(block, pool.map(fingerprint, block), strict=True):
                if isinstance(found, ImageError):
                    failed[i] = found
                else:
                    known[keys[i]] = found
            if cache:
                _write_cache(cache, known)
    if failed and unreadable is None:
        raise next(iter(failed.values()))
    for i, error in failed.items():
        known[keys[i]] = (f"unreadable {i}", np.uint64(0), np.zeros(_SIDE * _SIDE, np.uint8))
        unreadable[i] = error.reason
    found = [known[key] for key in keys]
    return Fingerprints(
        content=[str(item[0]) for item in found],
        bits=np.array([item[1] for item in found], dtype=np.uint64),
        grey=np.array([item[2] for item in found], dtype=np.uint8).reshape(len(found), _SIDE * _SIDE),
    )


def duplicate_groups(prints: Fingerprints) -> np.ndarray:
    """(n,) group number of each file; files are in one group if a chain of near-duplicates joins them.

    Near-duplicates: the same bytes; or perceptual hashes within 2 bits; or within 4 (8) bits where the
    small grey pictures correlate by ≥ 0.94 (0.97). Groups are numbered in the order of their first file.
    """
    n = len(prints.content)
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        low, high = sorted((root(i), root(j)))
        parent[high] = low

    first: dict[str, int] = {}
    for i, content in enumerate(prints.content):
        join(first.setdefault(content, i), i)
    grey = _standardised(prints.grey)
    for i, j, bits in near_pairs(prints.bits, NEAR[-1][0]):
        least = next(correlation for most, correlation in NEAR if bits <= most)
        if float(grey[i] @ grey[j]) >= least:
            join(i, j)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(i), len(numbers)) for i in range(n)], dtype=np.int64)


def near_pairs(bits: np.ndarray, most: int, others: np.ndarray | None = None):
    """Yield (i, j, distance) for hashes at most `most` bits apart: i < j within `bits`, or i in `bits` and
    j in `others`. Pictures of one colour (hash 0) have no structure to compare and pair with nothing."""
    bits = np.asarray(bits, dtype=np.uint64)
    against = bits if others is None else np.asarray(others, dtype=np.uint64)
    block = max(1, 4_000_000 // max(1, len(against)))
    for start in range(0, len(bits), block):
        rows = bits[start : start + block]
        distance = _count_bits(rows[:, None] ^ against[None])
        close = (distance <= most) & (rows != 0)[:, None] & (against != 0)[None]
        for i, j in np.argwhere(close):
            if others is not None or start + i < j:
                yield int(start + i), int(j), int(distance[i, j])


def _count_bits(values: np.ndarray) -> np.ndarray:
    if hasattr(np, "bitwise_count"):  # numpy ≥ 2
        return np.bitwise_count(values)
    table = np.array([bin(i).count("1") for i in range(1 << 16)], dtype=np.uint8)
    return table[values.view(np.uint16)].reshape(*values.shape, 4).sum(-1)


def _standardised(grey: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1 (0 for a picture of one colour)."""
    rows = grey.astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def _fingerprint(path: Path) -> tuple[str, np.uint64, np.ndarray]:
    import cv2

    from aescli.data.hashing import content_hash, perceptual_hash
    from aescli.data.images import load_image

    pixels = load_image(path, target=_SIDE).pixels
    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return content_hash(path), perceptual_hash(pixels), grey.ravel()


def _key(path: Path) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return str(path)  # reading it names the reason
    text = f"{os.path.realpath(path)}|{status.st_size}|{status.st_mtime_ns}"
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _read_cache(cache: Path) -> dict[str, tuple[str, np.uint64, np.ndarray]]:
    try:
        with np.load(cache, allow_pickle=False) as held:
            if int(held["format"]) != _FORMAT:
                return {}
            columns = [held[name] for name in ("keys", "content", "bits", "grey")]
    except Exception:  # absent, cut off or foreign: whatever numpy raises, the images remain
        return {}
    if len({len(column) for column in columns}) != 1 or columns[3].shape[1:] != (_SIDE * _SIDE,):
        return {}
    return {str(key): tuple(rest) for key, *rest in zip(*columns, strict=True)}


def _write_cache(cache: Path, known: dict[str, tuple[str, np.uint64, np.ndarray]]) -> None:
    keys = list(known)
    columns = {
        "format": np.array(_FORMAT),
        "keys": np.array(keys),
        "content": np.array([str(known[key][0]) for key in keys]),
        "bits": np.array([known[key][1] for key in keys], dtype=np.uint64),
        "grey": np.array([known[key][2] for key in keys], dtype=np.uint8),
    }
    temporary = ""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".npz", delete=False) as file:
            temporary = file.name
            np.savez(file, **columns)
        os.replace(temporary, cache)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
