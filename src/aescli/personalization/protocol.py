"""The papers' protocol: k ratings of a person are seen, the others are predicted, ten times, beside the generic model.

It knows raters as arrays and a function that answers for one of them (`one_prior` makes one of a prior). It knows
nothing about files or tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from aescli.errors import AesError
from aescli.personalization.adapter import fit_adapter, personal_scores
from aescli.personalization.prior import TastePrior
from aescli.personalization.selection import most_informative

Select = Literal["random", "informative"]


@dataclass(frozen=True)
class Rater:
    """positions (n,): which images, as rows of the features. scores (n,): the person's ratings of them."""

    name: str
    positions: np.ndarray
    scores: np.ndarray


Answer = Callable[[Rater, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(rater, shots, tests), both indices into the rater's ratings → (personal, generic) scores of the tests. Of the tests'
ratings it may use nothing."""

Choose = Callable[[Rater, np.ndarray, int], np.ndarray]
"""(rater, candidates, k) → k of the candidates (indices into the rater's ratings), without looking at the scores."""


@dataclass(frozen=True)
class Interval:
    """A mean over raters, its standard deviation over repeats, and a 95 % interval over raters."""

    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class ProtocolResult:
    """personal, generic: metric → (raters, repeats), for PLCC and SRCC."""

    shots: int
    raters: tuple[str, ...]
    personal: dict[str, np.ndarray]
    generic: dict[str, np.ndarray]

    def interval(self, metric: str, of: Literal["personal", "generic", "difference"]) -> Interval:
        """Of the raters' means over repeats; the difference is paired (personal − generic on the same tests)."""
        values = self.personal[metric] - self.generic[metric]
        if of != "difference":
            values = getattr(self, of)[metric]
        return mean_interval(values)

    def losers(self, metric: str = "SRCC", by: float = 0.02) -> float:
        """Share of raters whose mean over repeats lies more than `by` below the generic model's."""
        return float(((self.personal[metric] - self.generic[metric]).mean(1) < -by).mean())


def mean_interval(values: np.ndarray) -> Interval:
    """values (raters, repeats) → mean, sd over repeats of the raters' mean, 95 % t interval over raters."""
    from scipy.stats import t

    each = values.mean(1)
    n = len(each)
    half = t.ppf(0.975, n - 1) * each.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    sd = values.mean(0).std(ddof=1) if values.shape[1] > 1 else np.nan
    return Interval(float(each.mean()), float(sd), float(each.mean() - half), float(each.mean() + half))


def raters_of(rows: Iterable[tuple[str, str, float]], place: Mapping[str, int]) -> list[Rater]:
    """(rater, image, score) rows → raters in the order of their names; images without a place are left out."""
    found: dict[str, list[tuple[int, float]]] = {}
    for rater, image, score in rows:
        if image in place:
            found.setdefault(rater, []).append((place[image], score))
    raters = []
    for name in sorted(found):
        positions, scores = zip(*found[name], strict=True)
        raters.append(Rater(name, np.array(positions), np.array(scores, np.float64)))
    return raters


def one_prior(
    prior: TastePrior, features: np.ndarray, generic: np.ndarray, scale: tuple[float, float]
) -> tuple[Answer, Choose]:
    """How a prior answers and chooses for raters of images with these features (n, d) and generic scores (n,).

    scale: the raters'. Honest only where neither the model nor the prior has learned from these ratings.
    """

    def answer(rater: Rater, shots: np.ndarray, tests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen, asked = rater.positions[shots], rater.positions[tests]
        adapter = fit_adapter(prior, features[seen], generic[seen], rater.scores[shots], scale, rater.name)
        return personal_scores(features[asked], generic[asked], adapter), generic[asked]

    def choose(rater: Rater, candidates: np.ndarray, count: int) -> np.ndarray:
        rows = rater.positions[candidates]
        return candidates[most_informative(prior, features[rows], generic[rows], count)]

    return answer, choose


def sample_raters(
    raters: Sequence[Rater], shots: int, tests: int | None, users: int | None, seed: int
) -> list[Rater]:
    """The raters with enough ratings (shots + tests, or + 5 where all others are tests), `users` of them drawn."""
    least = shots + (tests or 5)
    able = [rater for rater in raters if len(rater.scores) >= least and np.ptp(rater.scores) > 0]
    if not able:
        raise AesError(
            f"no rater has {least} ratings ({shots} shots and {tests or 'at least 5'} tests); take fewer "
            "--shots or --tests"
        )
    if users is None or users >= len(able):
        return able
    picked = np.random.default_rng(seed).choice(len(able), users, replace=False)
    return [able[i] for i in sorted(picked)]


def run_protocol(
    raters: Sequence[Rater],
    answer: Answer,
    *,
    shots: int,
    tests: int | None = 50,
    repeats: int = 10,
    seed: int = 0,
    select: Select = "random",
    choose: Choose | None = None,
    step: Callable[[int], None] = lambda _: None,
) -> ProtocolResult:
    """Every rater, `repeats` times: draw test images and shots, fit, compare.

    tests: images tested a time; None = all that are not shots. The draw depends on seed, rater and repeat only: the
    same tests for every way to select shots, as long as `tests` is a number. select informative: `choose` picks the
    shots among all that are not tests. A repeat whose tests all have one score is drawn again.
    """
    if select == "informative" and (choose is None or tests is None):
        raise ValueError("informative shots need `choose` and a number of tests")
    names = ("PLCC", "SRCC")
    personal = {name: np.empty((len(raters), repeats)) for name in names}
    generic = {name: np.empty((len(raters), repeats)) for name in names}
    for row, rater in enumerate(raters):
        for repeat in range(repeats):
            chosen, tested = _draw(rater, shots, tests, (seed, repeat), select, choose)
            answers = answer(rater, chosen, tested)
            for values, scores in zip((personal, generic), answers, strict=True):
                values["PLCC"][row, repeat] = _pearson(scores, rater.scores[tested])
                values["SRCC"][row, repeat] = _pearson(rankdata(scores), rankdata(rater.scores[tested]))
        step(1)
    return ProtocolResult(shots, tuple(rater.name for rater in raters), personal, generic)


def _draw(rater, shots, tests, seed, select, choose) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([*seed, *rater.name.encode()])
    n = len(rater.scores)
    for _ in range(100):
        order = rng.permutation(n)
        tested = order[shots:] if tests is None else order[n - tests :]
        if np.ptp(rater.scores[tested]) > 0:
            break
    if select == "informative":
        return choose(rater, order[: n - tests], shots), tested
    return order[:shots], tested


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """0 where one side is constant: a model that tells nothing apart agrees with nobody."""
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-12 else 0.0
