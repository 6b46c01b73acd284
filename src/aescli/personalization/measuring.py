"""The protocol on a table of ratings: who is drawn, whose images are looked at, and which prior speaks for the rest.

It knows ratings, image features and priors. It knows nothing about commands, files of images or how results look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aescli.data.datasets.ratings import RatingsTable
from aescli.data.labels import map_scale
from aescli.errors import AesError
from aescli.personalization.images import ImageFeatures
from aescli.personalization.learning import beside_consensus, learn_prior
from aescli.personalization.prior import TastePrior, unlearned_prior
from aescli.personalization.protocol import (
    Answer,
    Choose,
    ProtocolResult,
    Rater,
    Select,
    run_protocol,
    sample_raters,
)

_LEAST_RATERS = 20
"""With fewer raters than that beside the drawn ones no prior is learned from them."""
_SURE = 5
"""Images with as many ratings tell how far the generic score lies from what people agree on."""


@dataclass(frozen=True)
class Plan:
    """shots: one run for each. users: drawn for it, None = all who can. tests: images of each user and repeat, None =
    all that are not shots."""

    shots: tuple[int, ...] = (10, 100)
    users: int | None = 40
    tests: int | None = 50
    repeats: int = 10
    select: Select = "random"
    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """by_shots: the raters of each run. missing: shots → why there is no run. others: all who are in no run."""

    by_shots: dict[int, list[Rater]]
    missing: dict[int, str]
    others: list[Rater]

    def images(self, with_others: bool) -> list[int]:
        """Positions of the images that are needed, ascending."""
        raters = [rater for run in self.by_shots.values() for rater in run]
        raters += self.others if with_others else []
        return np.unique(np.concatenate([rater.positions for rater in raters])).tolist()


def raters_in(table: RatingsTable) -> list[Rater]:
    """Everybody in the table, in the order of their names; positions are those of `table.images`."""
    order = np.argsort(table.user, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(table.user[order])) + 1)
    found = [Rater(table.users[table.user[rows[0]]], table.image[rows], table.score[rows]) for rows in parts]
    return sorted(found, key=lambda rater: rater.name)


def draw(raters: Sequence[Rater], plan: Plan) -> Drawn:
    """Raises AesError where nobody has enough ratings for any of the plan's runs."""
    by_shots: dict[int, list[Rater]] = {}
    missing: dict[int, str] = {}
    for shots in plan.shots:
        try:
            by_shots[shots] = sample_raters(raters, shots, plan.tests, plan.users, plan.seed)
        except AesError as error:
            missing[shots] = str(error)
    if not by_shots:
        raise AesError(next(iter(missing.values())))
    names = {rater.name for run in by_shots.values() for rater in run}
    return Drawn(by_shots, missing, [rater for rater in raters if rater.name not in names])


def placed(raters: Sequence[Rater], place: Mapping[int, int]) -> list[Rater]:
    """The same raters with other positions; ratings of images without a place are left out, raters without any too."""
    out = []
    for rater in raters:
        known = np.array([int(p) in place for p in rater.positions], bool)
        if known.any():
            rows = np.array([place[int(p)] for p in rater.positions[known]])
            out.append(Rater(rater.name, rows, rater.scores[known]))
    return out


def usable(drawn: Drawn, table: RatingsTable, images: ImageFeatures) -> Drawn:
    """The draw with positions in `images` instead of the table; who has too few ratings left is left out."""
    row_of = {path: row for row, path in enumerate(images.paths)}
    place = {i: row_of[str(path)] for i, path in enumerate(table.paths) if str(path) in row_of}
    by_shots = {shots: placed(run, place) for shots, run in drawn.by_shots.items()}
    return Drawn(by_shots, drawn.missing, placed(drawn.others, place))


def prior_from_others(
    base: str,
    model_scale: tuple[float, float],
    images: ImageFeatures,
    others: Sequence[Rater],
    scale: tuple[float, float],
) -> TastePrior:
    """For a base model without a prior of its own: learned from raters who are not tested, if there are enough.

    scale: the raters'. Of the tested persons' ratings nothing is used; the images may be the same ones.
    """
    if len(others) < _LEAST_RATERS:
        return unlearned_prior(base, model_scale, images.features)
    positions = np.concatenate([rater.positions for rater in others])
    names = np.repeat([rater.name for rater in others], [len(rater.scores) for rater in others])
    scores = map_scale(np.concatenate([rater.scores for rater in others]), scale, model_scale)
    raters = beside_consensus(positions, names, scores, images.scores)
    return learn_prior(
        base, model_scale, images.features, raters,
        generic_error=_generic_error(positions, scores, images.scores, model_scale),
        origin=f"learned from the {len(others)} raters who are not tested",
    )  # fmt: skip


def _generic_error(
    positions: np.ndarray, scores: np.ndarray, generic: np.ndarray, scale: tuple[float, float]
) -> float:
    """Variance of the generic scores about what people agree on, free of the error of their mean ratings."""
    least = 0.05 * ((scale[1] - scale[0]) / 4) ** 2
    count = np.bincount(positions, minlength=len(generic))
    mean = np.bincount(positions, scores, len(generic)) / np.maximum(count, 1)
    squares = np.bincount(positions, (scores - mean[positions]) ** 2, len(generic))
    sure = count >= _SURE
    if sure.sum() < 10:
        return least
    noise = (squares[sure] / (count[sure] - 1) / count[sure]).mean()
    return float(max(least, np.var(generic[sure] - mean[sure]) - noise))


def run_plan(
    drawn: Drawn,
    plan: Plan,
    answer: Answer,
    choose: Choose | None,
    step: Callable[[int], None] = lambda _: None,
) -> list[ProtocolResult]:
    """A result for each number of shots that somebody has enough ratings for. Raises AesError where there is none."""
    results = []
    for shots, run in drawn.by_shots.items():
        try:
            able = sample_raters(run, shots, plan.tests, None, plan.seed)
        except AesError as error:
            drawn.missing[shots] = str(error)
            continue
        results.append(
            run_protocol(
                able, answer, shots=shots, tests=plan.tests, repeats=plan.repeats, seed=plan.seed,
                select=plan.select, choose=choose, step=step,
            )
        )  # fmt: skip
    if not results:
        raise AesError(next(iter(drawn.missing.values())))
    return results
