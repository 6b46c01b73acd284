"""`aes eval --personalized`: its options, the steps from ratings to the protocol's table, and its notes.

It knows the command line. The protocol is `aescli.personalization`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aescli.cli.common import count, note, option, progress
from aescli.errors import AesError, UsageError

if TYPE_CHECKING:
    from aescli.data.datasets.ratings import RatingsTable
    from aescli.personalization.measuring import Drawn, Plan
    from aescli.personalization.protocol import Answer, Choose, Rater
    from aescli.personalization.results import Measured
    from aescli.scoring.predictor import Predictor


class Shots(StrEnum):
    random = "random"
    informative = "informative"


def _number_or_all(value: str | None) -> str | None:
    if value not in (None, "all") and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise typer.BadParameter(f"{value!r} is neither all nor a whole number above 0.")
    return value


PersonalizedOption = Annotated[
    bool,
    option(
        "--personalized",
        help="The papers' protocol on the individual ratings of PARA, FLICKR-AES or MEBeauty (--data: their file or "
        "folder): learn each user from a few and predict the others, beside the generic model (default: off).",
    ),
]
ShotsOption = Annotated[
    str | None,
    option("--shots", metavar="K,…", help="For --personalized: ratings to learn from (default: 10,100)."),
]
UsersOption = Annotated[
    str | None,
    option(
        "--users",
        metavar="N|all",
        callback=_number_or_all,
        help="For --personalized: users drawn among those with enough ratings (default: 40).",
    ),
]
TestsOption = Annotated[
    str | None,
    option(
        "--tests",
        metavar="N|all",
        callback=_number_or_all,
        help="For --personalized: a user's images that are tested each time (default: 50; all that are no shots).",
    ),
]
RepeatsOption = Annotated[
    int | None,
    option("--repeats", metavar="N", min=1, help="For --personalized: draws for each user (default: 10)."),
]
SelectOption = Annotated[
    Shots | None,
    option(
        "--select",
        help="For --personalized: shots at random, or informative, those that tell most (default: random).",
    ),
]
UserInfoOption = Annotated[
    Path | None,
    option(
        "--user-info",
        metavar="FILE",
        help="For --personalized: PARA's table of its users (default: beside the ratings).",
    ),
]


def make_plan(
    shots: str | None,
    users: str | None,
    tests: str | None,
    repeats: int | None,
    select: Shots | None,
    seed: int,
) -> Plan:
    """The options as a plan. UsageError for what is no plan."""
    from aescli.personalization.measuring import Plan

    words = [word.strip() for word in (shots or "10,100").split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) >= 2 for word in words):
        raise UsageError(
            f"--shots {shots}: give whole numbers of 2 or more with commas between them, such as 10,100"
        )
    if select is Shots.informative and tests == "all":
        raise UsageError("--select informative chooses among what is not tested; give --tests a number")
    return Plan(
        shots=tuple(dict.fromkeys(map(int, words))),
        users=None if users == "all" else int(users or 40),
        tests=None if tests == "all" else int(tests or 50),
        repeats=repeats or 10,
        select=(select or Shots.random).value,
        seed=seed,
    )


def evaluate_personalized(
    data: Path,
    images: Path | None,
    layout: str,
    variant: str,
    user_info: Path | None,
    plan: Plan,
    *,
    model: str | None,
    task: str | None,
    device: str,
    dtype: str,
    faces: str,
    workers: str,
    quiet: bool,
) -> Measured:
    """Read the ratings, run the plan, and say on standard error what is worth knowing about both."""
    from aescli.data.datasets.ratings import RATING_KINDS, read_ratings
    from aescli.models.checkpoint import chosen_model
    from aescli.personalization.measuring import draw, raters_in, run_plan
    from aescli.personalization.results import Measured
    from aescli.scoring import predictor as predictors

    if layout not in ("auto", *RATING_KINDS):
        raise UsageError(f"--layout {layout} has no ratings by users; those of {', '.join(RATING_KINDS)} do")
    table = read_ratings(layout, data, images, users=user_info, variant=variant)
    for line in table.notes.lines():
        note(f"aes: {line}", quiet=quiet)
    raters = raters_in(table)
    drawn = draw(raters, plan)
    predictor = predictors.load_predictor(model, task=task, device=device, dtype=dtype)
    spec = chosen_model(model, task)
    seen = _trained_on(table.paths, spec, quiet=quiet)
    if seen and (unseen := _of_unseen(raters, drawn, plan, seen)) is not None:
        drawn = unseen
        said = f"{len(seen)} rated images that the model was trained on, or near-duplicates, are left out"
        note(f"aes: {said}", quiet=quiet)
    trained_on = len(seen.intersection(drawn.images(False)))
    drawn, answer, choose, method, origin = _learner(
        table, drawn, predictor, spec, faces, workers, quiet=quiet
    )
    with progress("user", quiet=quiet, total=sum(map(len, drawn.by_shots.values()))) as step:
        results = run_plan(drawn, plan, answer, choose, step)
    for shots, reason in drawn.missing.items():
        note(f"aes: {shots} shots left out: {reason}", quiet=quiet)
    taught = f"raters of {table.name}".casefold() in origin.casefold()
    return Measured(table.name, Path(spec).name, method, plan, tuple(results), trained_on, taught)


def _of_unseen(raters: list[Rater], drawn: Drawn, plan: Plan, seen: set[int]) -> Drawn | None:
    """The draw from the images that are not `seen`; None where fewer people have enough ratings of these."""
    from aescli.personalization.measuring import draw, placed

    positions = {int(i) for rater in raters for i in rater.positions} - seen
    try:
        unseen = draw(placed(raters, {i: i for i in positions}), plan)
    except AesError:
        return None
    as_many = all(len(unseen.by_shots.get(shots, ())) == len(run) for shots, run in drawn.by_shots.items())
    return unseen if as_many else None


def _learner(
    table: RatingsTable,
    drawn: Drawn,
    predictor: Predictor,
    spec: str,
    faces: str,
    workers: str,
    *,
    quiet: bool,
) -> tuple[Drawn, Answer, Choose, str, str]:
    """Features of all needed images; an adapter for each draw, or for --task piaa the whole model tuned.

    The texts say how a person is learned and where the prior comes from, "" where there is none.
    """
    from aescli.models.checkpoint import resolve
    from aescli.personalization.images import extract
    from aescli.personalization.measuring import prior_from_others, usable
    from aescli.personalization.prior import load_prior
    from aescli.personalization.protocol import one_prior
    from aescli.runtime import available_cpus
    from aescli.scoring.prepare import Preparer

    prior = load_prior(resolve(spec), predictor.digest)
    paths = [str(table.paths[i]) for i in drawn.images(with_others=prior is None)]
    prepare = Preparer(predictor.preprocessing, faces if predictor.preprocessing.faces else "none")
    threads = min(count(workers, available_cpus()), max(1, predictor.concurrency))
    with progress("img", quiet=quiet, total=len(paths)) as step:
        found = extract(paths, prepare, predictor, workers=threads, step=step)
    if found.errors:
        path, reason = next(iter(found.errors.items()))
        note(
            f"aes: {len(found.errors)} of {len(paths)} images left out; the first: {path}: {reason}",
            quiet=quiet,
        )
    if not found.paths:
        raise AesError("none of the rated images can be used")
    drawn = usable(drawn, table, found)
    if prior is None:
        prior = prior_from_others(predictor.digest, predictor.scale, found, drawn.others, table.scale)
    answer, choose = one_prior(prior, found.features, found.scores, table.scale)
    if predictor.task != "piaa":
        return drawn, answer, choose, f"adapter, prior {prior.origin}", prior.origin
    from aescli.personalization.tuning import tuning_answer

    answer = tuning_answer(predictor.checkpoint, table, found.paths, found.scores, predictor.device)
    return drawn, answer, choose, "the whole model tuned", ""


def _trained_on(paths: Sequence[Path], spec: str, *, quiet: bool) -> set[int]:
    """Positions of the images that the model was trained on, or near-duplicates of them; said if it cannot be told."""
    from aescli.data.duplicates import default_cache
    from aescli.evaluation.overlap import find_overlap
    from aescli.models.checkpoint import load_checkpoint

    hashes = load_checkpoint(spec).training_hashes
    if not hashes:
        note(
            "aes: the model does not list its training images; whether it has seen these is not known",
            quiet=quiet,
        )
        return set()
    return set(map(int, find_overlap(paths, hashes, default_cache()).all))
