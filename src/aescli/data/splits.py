"""Which images train, validate and test: official folds, and seeded splits that never part a group.

Knows scores (to stratify), groups (near-duplicates stay together) and the split file; knows nothing
about pictures, models or training.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aescli.data.datasets.base import Dataset
from aescli.data.datasets.parts import part_named
from aescli.errors import AesError, UsageError
from aescli.folders import write_text

_FORMAT = "aescli-split-1"


@dataclass(frozen=True, slots=True)
class Split:
    """Named parts of a data set (such as train and test, or fold 1 … 5), reusable and verifiable.

    parts: part → image names, sorted. content: image name → content hash (16 hex digits), for the images
    whose files were known. rule: how it was made. seed: None for an official split.
    """

    dataset: str
    rule: str
    seed: int | None
    parts: Mapping[str, Sequence[str]]
    content: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """16 hex digits of a SHA-256 over parts, names and content hashes."""
        lines = [
            f"{part}\t{name}\t{self.content.get(name, '')}\n"
            for part in sorted(self.parts)
            for name in sorted(self.parts[part])
        ]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the JSON file, whole or not at all."""
        document = {
            "format": _FORMAT,
            "dataset": self.dataset,
            "rule": self.rule,
            "seed": self.seed,
            "sizes": {part: len(names) for part, names in self.parts.items()},
            "digest": self.digest,
            "parts": {part: sorted(names) for part, names in self.parts.items()},
            "content": dict(sorted(self.content.items())),
        }
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(temporary, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise AesError(f"the split cannot be written to {path}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: Path) -> Split:
        """Read a split file. Raises AesError when it is not one, or was changed by hand."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise AesError(f"the split {path} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise AesError(f"{path} is not a split file: {error}") from None
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise AesError(f"{path} is not a split file of this version ({_FORMAT})")
        try:
            split = cls(
                document["dataset"],
                document["rule"],
                document["seed"],
                {part: list(names) for part, names in document["parts"].items()},
                dict(document["content"]),
            )
            stated = document["digest"]
        except (KeyError, TypeError, AttributeError) as error:
            raise AesError(f"{path} is a damaged split file ({error}); make it again") from None
        names = [name for part in split.parts.values() for name in part]
        if len(set(names)) != len(names):
            raise AesError(f"{path} has an image in two parts; make the split again")
        if split.digest != stated:
            raise AesError(f"{path} was changed after it was made (its digest differs); make it again")
        return split

    def indices(self, dataset: Dataset, part: str) -> np.ndarray:
        """Positions in `dataset` of the part's images, ascending. Raises AesError for images it lacks."""
        if part not in self.parts:
            raise AesError(f"the split has no part '{part}'; it has: {', '.join(self.parts)}")
        position = {sample.name: i for i, sample in enumerate(dataset.samples)}
        absent = [name for name in self.parts[part] if name not in position]
        if absent:
            raise AesError(
                f"{len(absent)} images of the split's part '{part}' are not in {dataset.notes.source} "
                f"(first: {absent[0]}); use the data set the split was made from ({self.dataset})"
            )
        return np.array(sorted(position[name] for name in self.parts[part]), dtype=np.int64)

    def verify(self, names: Sequence[str], content: Sequence[str] | None = None) -> list[str]:
        """What differs between the split and the images at hand: one line per difference, [] = nothing.

        content: content hashes in the order of `names`; None = only the names are compared.
        """
        mine = {name for part in self.parts.values() for name in part}
        given = set(names)
        lines = [f"{name}: in the split, not in the data" for name in sorted(mine - given)]
        lines += [f"{name}: in the data, not in the split" for name in sorted(given - mine)]
        for name, found in zip(names, content or (), strict=False):
            stated = self.content.get(name)
            if name in mine and stated is not None and stated != found:
                lines.append(f"{name}: another file than the one that was split")
        return lines


def official_fold(dataset: Dataset, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) positions of the official fold, 1-based. Raises UsageError when there is no such fold."""
    folds = np.array([sample.fold or 0 for sample in dataset.samples])
    known = sorted(set(folds.tolist()) - {0})
    if fold not in known:
        have = f"it has {', '.join(map(str, known))}" if known else "it has no official folds"
        raise UsageError(f"{dataset.notes.source} has no fold {fold}; {have}")
    return np.flatnonzero((folds != fold) & (folds != 0)), np.flatnonzero(folds == fold)


def official_parts(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(train, validation, test) positions as the labels' split column says; None where it names no test part.

    What is neither validation nor test trains. Validation is empty where none is named, and where it would leave
    nothing to train on.
    """
    split = np.array([part_named(sample.split) or "train" for sample in dataset.samples], dtype="U5")
    if not (split == "test").any():
        return None
    if not (split == "train").any():
        split[split == "val"] = "train"
    return tuple(np.flatnonzero(split == part) for part in ("train", "val", "test"))


def named_split(dataset: Dataset, name: str) -> np.ndarray:
    """Positions of the samples whose split column says `name`. Raises AesError that lists what there is."""
    hits = [i for i, sample in enumerate(dataset.samples) if sample.split == name]
    if not hits:
        known = sorted({sample.split for sample in dataset.samples if sample.split})
        have = f"it has {', '.join(known)}" if known else "its labels name no splits"
        raise AesError(f"{dataset.notes.source} has no split '{name}'; {have}")
    return np.array(hits, dtype=np.int64)


def apportion(
    shares: Sequence[float],
    names: Sequence[str],
    scores: Sequence[float],
    groups: Sequence[int] | None = None,
    strata: Sequence[str] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """(n,) part 0 … len(shares)-1 of each image: grouped, stratified by score (within `strata`), seeded.

    Groups are walked in the order of their mean score, shuffled within short runs, and each goes to the
    part that lacks most of its share so far. So every part gets its share at every height of the score,
    and sizes are off by no more than a group. The result depends on names, not on their order.
    Raises ValueError for shares that are not positive, AesError for fewer groups than parts.
    """
    shares = np.asarray(shares, dtype=np.float64)
    if len(shares) < 2 or (shares <= 0).any():
        raise ValueError(f"a split needs two or more positive shares, got {shares.tolist()}")
    shares = shares / shares.sum()
    n = len(names)
    if len(set(names)) != n:
        raise ValueError("names must be unique")
    groups = list(range(n)) if groups is None else groups
    members: dict[int, list[int]] = {}
    for i in sorted(range(n), key=lambda i: names[i]):
        members.setdefault(groups[i], []).append(i)
    if len(members) < len(shares):
        raise AesError(
            f"{n} images in {len(members)} groups of near-duplicates cannot be split into {len(shares)} parts; "
            "label more images"
        )
    strata = [""] * n if strata is None else strata
    # The first name breaks ties of the mean score, so that the order of the input never matters.
    ordered = sorted(
        members.values(), key=lambda m: (strata[m[0]], float(np.mean([scores[i] for i in m])), names[m[0]])
    )
    rng = np.random.default_rng(seed)
    run = max(2, round(1 / shares.min()))
    given = np.zeros(len(shares))
    parts = np.empty(n, dtype=np.int64)
    seen = 0
    for start in range(0, len(ordered), run):
        block = [ordered[start + k] for k in rng.permutation(len(ordered[start : start + run]))]
        for group in sorted(block, key=len, reverse=True):
            seen += len(group)
            lack = shares * seen - given
            best = np.flatnonzero(lack >= lack.max() - 1e-9)
            part = int(rng.choice(best))
            parts[group] = part
            given[part] += len(group)
    return parts


def holdout(
    dataset: Dataset,
    *,
    test: float = 0.2,
    seed: int = 0,
    groups: Sequence[int] | None = None,
    content: Sequence[str] | None = None,
    strata: Sequence[str] | None = None,
) -> Split:
    """A seeded split into "train" and "test" (8:2 by default).

    groups, content: group numbers and content hashes from `aescli.data.duplicates`, one for each sample.
    """
    if not 0 < test < 1:
        raise ValueError(f"test is a share between 0 and 1, got {test}")
    names, scores = _names_and_scores(dataset)
    parts = apportion([1 - test, test], names, scores, groups, strata, seed)
    rule = f"holdout test={test:g}, {_rule(groups, strata)}"
    return _as_split(dataset, rule, seed, ["train", "test"], parts, content)


def kfold(
    dataset: Dataset,
    k: int = 5,
    *,
    seed: int = 0,
    groups: Sequence[int] | None = None,
    content: Sequence[str] | None = None,
    strata: Sequence[str] | None = None,
) -> Split:
    """A seeded partition into the parts "1" … "k" of equal size."""
    if k < 2:
        raise ValueError(f"k-fold needs k ≥ 2, got {k}")
    names, scores = _names_and_scores(dataset)
    parts = apportion([1.0] * k, names, scores, groups, strata, seed)
    rule = f"{k}-fold, {_rule(groups, strata)}"
    return _as_split(dataset, rule, seed, [str(i + 1) for i in range(k)], parts, content)


def carve_validation(
    dataset: Dataset,
    train: Sequence[int],
    *,
    share: float = 0.1,
    seed: int = 0,
    groups: Sequence[int] | None = None,
    strata: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) positions taken from the training positions `train`, both ascending.

    groups, strata: for all of `dataset`'s samples. The rest of the data set plays no part.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is between 0 and 1, got {share}")
    train = np.sort(np.asarray(train, dtype=np.int64))
    names, scores = _names_and_scores(dataset)

    def pick(values):
        return None if values is None else [values[i] for i in train]

    parts = apportion([1 - share, share], pick(names), pick(scores), pick(groups), pick(strata), seed)
    return train[parts == 0], train[parts == 1]


def crossing_groups(groups: Sequence[int], *sides: Sequence[int]) -> list[int]:
    """Groups that have members on more than one of `sides` (positions): what a split leaks through."""
    seen: dict[int, int] = {}
    crossing = set()
    for number, side in enumerate(sides):
        for i in side:
            if seen.setdefault(int(groups[i]), number) != number:
                crossing.add(int(groups[i]))
    return sorted(crossing)


def _names_and_scores(dataset: Dataset) -> tuple[list[str], list[float]]:
    return [s.name for s in dataset.samples], [s.score for s in dataset.samples]


def _rule(groups: Sequence[int] | None, strata: Sequence[str] | None) -> str:
    kept = "near-duplicates kept together" if groups is not None else "ungrouped"
    return f"stratified by {'stratum and ' if strata is not None else ''}score, {kept}"


def _as_split(dataset, rule, seed, labels, parts, content) -> Split:
    names = [sample.name for sample in dataset.samples]
    members = {
        label: sorted(names[i] for i in np.flatnonzero(parts == number))
        for number, label in enumerate(labels)
    }
    hashes = dict(zip(names, content, strict=True)) if content is not None else {}
    return Split(dataset.name, rule, seed, members, hashes)
