"""Is it chance? Two predictors on the same images, and one predictor on several subgroups, by resampling.

Predictors are compared in pairs: what is hard for one mostly is hard for the other. Knows arrays only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from aescli.evaluation.bootstrap import RESAMPLES, Predictions, bootstrap, percentile_interval, weighted
from aescli.evaluation.estimates import point_values

_CHUNK = 2_000_000  # weights held at once (16 MB)
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """value: first − second. low, high: 95 % of its resamples. p: two-sided, of the permutation test."""

    first: float
    second: float
    value: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan


def compare(
    first: Predictions, second: Predictions, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """metric → `Difference`, for the metrics that both allow. Raises ValueError if the truths differ."""
    one, two = point_values(first), point_values(second)
    names = [name for name in one if name in two]
    if resamples < 1 or len(first) < 2:
        _same_images(first, second)
        return {name: Difference(one[name], two[name], one[name] - two[name]) for name in names}
    spread = paired_difference(first, second, resamples, seed)
    chance = permutation_p(first, second, resamples, seed)
    return {
        name: Difference(
            one[name],
            two[name],
            one[name] - two[name],
            *(percentile_interval(spread[name]) if name in spread else ()),
            **({"p": chance[name]} if name in chance else {}),
        )
        for name in names
    }


def paired_difference(
    first: Predictions, second: Predictions, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """metric → (R,) first minus second in the same resamples. Both must predict the same images, in order.

    The interval of the difference (`percentile_interval`) is narrower than the two intervals suggest. Raises
    ValueError if the truths differ.
    """
    _same_images(first, second)
    one, two = (bootstrap(data, resamples, seed).values for data in (first, second))
    return {name: one[name] - two[name] for name in one if name in two}


def permutation_p(
    first: Predictions, second: Predictions, permutations: int = RESAMPLES, seed: int = 0
) -> dict[str, float]:
    """metric → two-sided p that swapping the predictors' answers at random gives as large a difference.

    In each permutation every image's two answers change places with probability ½; p = (1 + permutations at
    least as extreme) / (1 + permutations), never 0. NaN where the metric is mostly not defined. Raises
    ValueError if the truths differ.
    """
    _same_images(first, second)
    n = len(first)
    # Both predictors' answers as one list of 2n rows; a permutation gives one of each pair to either side.
    both = _stacked(first, second)
    sides = [
        weighted(both, (block if side else 1 - block for block in _coins(n, permutations, seed)), n,
                 permutations + 1)
        for side in (True, False)
    ]  # fmt: skip
    found = {}
    for name in sides[0]:
        difference = np.abs(sides[0][name] - sides[1][name])
        observed, drawn = difference[0], difference[1:]
        known = drawn[~np.isnan(drawn)]
        if math.isnan(observed) or len(known) < 0.95 * len(drawn) or not len(known):
            found[name] = math.nan
        else:
            found[name] = float((1 + (known >= observed - _ROUNDING).sum()) / (1 + len(known)))
    return found


def gap_p(
    data: Predictions, groups: np.ndarray, permutations: int = 1_000, seed: int = 0
) -> dict[str, float]:
    """metric → p that groups of the same sizes, drawn at random, lie as far apart as these do at the most.

    groups: (n,) number of each image's subgroup, 0 … G−1. The statistic is the largest difference between any two
    groups, so that choosing the extreme pair is accounted for. p = (1 + permutations at least as extreme) /
    (1 + permutations); permutations in which a group leaves the metric undefined compare the others. NaN where it
    is not defined in two groups.
    """
    sizes = np.bincount(groups)
    values: dict[str, list[np.ndarray]] = {}
    for number, size in enumerate(sizes):
        if size:
            chosen = _memberships(groups, number, permutations, seed)
            for name, found in weighted(data, chosen, int(size), permutations + 1).items():
                values.setdefault(name, []).append(found)
    result = {}
    for name, found in values.items():
        together = np.stack(found)  # (groups, permutations + 1)
        known = (~np.isnan(together)).sum(axis=0) >= 2
        if not known[0]:
            result[name] = math.nan
            continue
        together = together[:, known]
        spread = np.nanmax(together, axis=0) - np.nanmin(together, axis=0)
        result[name] = float((spread >= spread[0] - _ROUNDING).mean())
    return result


def _memberships(groups: np.ndarray, number: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (n, r) weights: 1 where the image is in the group. Column 0 is as it is; the same shuffles for all."""
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK // len(groups))
    for start in range(0, permutations + 1, block):
        columns = min(block, permutations + 1 - start)
        shuffled = rng.permuted(np.tile(groups, (columns, 1)), axis=1)
        if start == 0:
            shuffled[0] = groups
        yield np.ascontiguousarray((shuffled == number).T, dtype=np.float64)


def _coins(n: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (2n, r) weights 0 or 1: column 0 of the first block leaves all in place, the others are tossed."""
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK // (2 * n))
    for start in range(0, permutations + 1, block):
        heads = rng.random((n, min(block, permutations + 1 - start))) < 0.5
        if start == 0:
            heads[:, 0] = True
        yield np.concatenate([heads, ~heads]).astype(np.float64)


def _stacked(first: Predictions, second: Predictions) -> Predictions:
    def join(name: str) -> np.ndarray | None:
        one, two = getattr(first, name), getattr(second, name)
        if one is None or two is None or one.shape[1:] != two.shape[1:]:
            return None
        return np.concatenate([one, two])

    arrays = ("pred", "true", "pred_class", "true_class", "probabilities", "distances")
    return replace(first, **{name: join(name) for name in arrays})


def _same_images(first: Predictions, second: Predictions) -> None:
    if len(first) != len(second) or not np.array_equal(first.true, second.true):
        raise ValueError("a paired comparison needs two predictions of the same images, in the same order")
