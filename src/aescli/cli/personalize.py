"""`aes personalize`: options, the steps from a profile to a personal model, and what came of it in words.

It knows the command line. Profiles are `aescli.data.profiles`', the mathematics `aescli.personalization`'s.
"""

from __future__ import annotations

import os
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aescli.cli.common import (
    DeviceOption,
    ModelOption,
    QuietOption,
    Task,
    TaskOption,
    WorkersOption,
    count,
    note,
    progress,
)
from aescli.errors import AesError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from aescli.data.profiles import Profile
    from aescli.personalization.images import ImageFeatures
    from aescli.personalization.prior import TastePrior
    from aescli.scoring.predictor import Predictor

_LEAST_TESTED = 5
"""Fewer held-back ratings give no correlation worth printing."""

_option = partial(typer.Option, show_default=False)


class Select(StrEnum):
    all = "all"
    random = "random"
    informative = "informative"


def personalize(
    user: Annotated[
        str,
        _option("--user", metavar="NAME|FILE.yaml", help="The profile, or its name in users/ (no default)."),
    ],
    shots: Annotated[
        int | None,
        _option("--shots", metavar="N", min=2, help="Ratings to learn from (default: all in the profile)."),
    ] = None,
    select: Annotated[
        Select | None,
        _option(
            "--select",
            help="Which ratings are the shots, where there are more: random, or informative, those that tell most "
            "(default: all, or random with --shots).",
        ),
    ] = None,
    seed: Annotated[
        int, _option("--seed", metavar="N", min=0, help="Of a random selection (default: 0).")
    ] = 0,
    suggest: Annotated[
        int | None,
        _option(
            "--suggest",
            metavar="N",
            min=1,
            help="Propose the N photos of --images to rate next; writes a table and a page to rate on "
            "(default: off).",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        _option(
            "--images",
            metavar="DIR",
            help="Where images are looked for after the profile's folder, and --suggest's photos (default: none).",
        ),
    ] = None,
    task: TaskOption = Task.fbp,
    model: ModelOption = None,
    out: Annotated[
        Path | None,
        _option(
            "--out",
            metavar="DIR",
            help="Folder of the personal model, or of --suggest's files (default: users/NAME; for --suggest the "
            "profile's folder).",
        ),
    ] = None,
    workers: WorkersOption = "auto",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Learn one person's taste from a few ratings.

    The profile is YAML: user, scale: [low, high], ratings (a list of {image: …, score: …}, a table with the columns
    image and score, or a list of such tables), and optionally experience, traits and characters. It is only read.

    Ratings that are not shots are held back to measure what was gained over the generic model. If every rating was a
    shot, each is predicted from the others (leave-one-out).

    With --task piaa and a model that reads prompts (AesMamba-P) the whole model is tuned, with experience, traits and
    characters as its prompt; that takes minutes.

    Examples:
        aes personalize --user alice.yaml --suggest 10 --images ./photos
        aes personalize --user alice.yaml --shots 10 --out users/alice
    """
    if suggest is not None and images is None:
        raise UsageError("--suggest needs --images DIR: the folder whose photos are proposed")
    from aescli.data.profiles import read_profile
    from aescli.runtime import keep_freed_memory, one_thread_per_operation

    one_thread_per_operation()
    keep_freed_memory()
    source = _profile_path(user)
    if images is not None and not images.is_dir():
        raise UsageError(f"--images {images}: no such folder")
    profile = read_profile(source, images)
    if suggest is None:
        profile.require_ratings(shots or 2)
        select = _selection(select, shots, len(profile.ratings))

    from aescli.models.checkpoint import DEFAULT_MODELS
    from aescli.models.exported import model_folder
    from aescli.scoring import predictor as predictors

    predictor = predictors.load_predictor(model, task=task.value, device=device)
    extract = partial(_extract, predictor, workers=workers, quiet=quiet)
    rated = extract([str(rating.path) for rating in profile.ratings])
    folder = model_folder(model or DEFAULT_MODELS[task.value]) if _is_checkpoint(predictor) else None
    if suggest is not None:
        _suggest(profile, suggest, images, out or source.parent, predictor, folder, rated, extract, quiet)
        return
    usable = _usable(profile, rated, shots or 2, quiet)
    known = [name for name in ("experience", "traits", "characters") if getattr(profile, name)]
    if known and not predictor.reads_text:
        note(
            f"aes: {', '.join(known)}: not used, this model reads images only; --task piaa reads them",
            quiet=quiet,
        )
    _fit(profile, usable, rated, shots, select, seed, predictor, folder, out, quiet)


def _profile_path(user: str) -> Path:
    from aescli.personalization.adapter import USERS

    given = Path(user)
    places = [given]
    if given.suffix not in (".yaml", ".yml"):
        places = [given / "profile.yaml", USERS / f"{user}.yaml", USERS / user / "profile.yaml"]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, places))
    raise UsageError(f"--user {user}: no such profile (looked for {looked}); give the YAML file")


def _selection(select: Select | None, shots: int | None, ratings: int) -> Select:
    if shots is None or shots == ratings:
        if select not in (None, Select.all):
            raise UsageError(f"--select {select}: needs --shots N below the number of ratings ({ratings})")
        return Select.all
    if select is Select.all:
        raise UsageError(f"--select all: the profile has {ratings} ratings; leave out --shots {shots}")
    return select or Select.random


def _is_checkpoint(predictor: Predictor) -> bool:
    from aescli.scoring.predictor import TorchPredictor

    return isinstance(predictor, TorchPredictor)


def _extract(predictor: Predictor, paths: list[str], *, workers: str, quiet: bool) -> ImageFeatures:
    from aescli.personalization.images import extract
    from aescli.runtime import available_cpus
    from aescli.scoring.prepare import Preparer

    prepare = Preparer(predictor.preprocessing, "auto" if predictor.preprocessing.faces else "none")
    threads = min(count(workers, available_cpus()), max(1, predictor.concurrency))
    with progress("img", quiet=quiet, total=len(paths)) as step:
        return extract(paths, prepare, predictor, workers=threads, step=step)


def _prior(predictor: Predictor, folder: Path | None, features: np.ndarray, quiet: bool) -> TastePrior:
    """The base model's learned prior, else a plain one."""
    from aescli.personalization.prior import load_prior, unlearned_prior

    prior = load_prior(folder, predictor.digest) if folder is not None else None
    if prior is None:
        note("aes: this model has no learned prior over tastes; ten ratings will change little", quiet=quiet)
        prior = unlearned_prior(predictor.digest, predictor.scale, features)
    return prior


def _usable(profile: Profile, rated: ImageFeatures, least: int, quiet: bool) -> list[int]:
    """Positions of the ratings whose image the model could use; AesError where too few are left."""
    usable = [i for i, rating in enumerate(profile.ratings) if str(rating.path) not in rated.errors]
    for path, reason in rated.errors.items():
        note(f"aes: {path}: {reason}; its rating is left out", quiet=quiet)
    scores = {profile.ratings[i].score for i in usable}
    if len(usable) < least or len(scores) < 2:
        kind = "all alike" if len(usable) >= least else f"{least} are needed"
        raise AesError(
            f"{profile.source}: {len(usable)} of {len(profile.ratings)} rated images can be used, {kind}"
        )
    return usable


def _fit(
    profile: Profile, usable: list[int], rated: ImageFeatures, shots: int | None, select: Select, seed: int,
    predictor: Predictor, folder: Path | None, out: Path | None, quiet: bool,
) -> None:  # fmt: skip
    from dataclasses import replace

    import numpy as np

    from aescli.personalization.adapter import (
        USERS,
        fit_adapter,
        leave_one_out,
        personal_scores,
        safe_name,
        save_adapter,
    )
    from aescli.personalization.selection import most_informative

    ratings = np.array([profile.ratings[i].score for i in usable])
    tuned = predictor.task == "piaa"
    prior = _prior(predictor, folder, rated.features, quiet or tuned)
    features, generic, scale = rated.features, rated.scores, profile.scale
    everything = np.arange(len(ratings))
    if select is Select.all or shots is None or shots >= len(ratings):
        chosen = everything
    elif select is Select.random:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(ratings))[:shots])
    else:
        chosen = np.sort(most_informative(prior, features, generic, shots))
    held = np.setdiff1d(everything, chosen)
    if np.ptp(ratings[chosen]) == 0:
        raise AesError(f"the {len(chosen)} chosen ratings are all equal; choose others with --seed, or more")
    target = out or USERS / safe_name(profile.user)
    if tuned:
        from aescli.cli.tuning import tune_for

        tune_for(profile, rated, ratings, chosen, held, predictor, target, quiet=quiet)
        typer.echo(target)
        return
    adapter = fit_adapter(prior, features[chosen], generic[chosen], ratings[chosen], scale, profile.user)
    if len(held):
        personal, tested = personal_scores(features[held], generic[held], adapter), held
        how = f"{len(held)} held-back ratings"
    else:
        personal, tested = leave_one_out(prior, features, generic, ratings, scale), everything
        how = f"leave-one-out over the {len(ratings)} ratings"
    agreement = agreement_of(personal, generic[tested], ratings[tested])
    adapter = replace(adapter, notes={**adapter.notes, "measured": how, "agreement": agreement})
    save_adapter(adapter, target)
    report(profile.user, len(chosen), agreement, how, target, quiet=quiet)
    typer.echo(target)


def report(
    user: str,
    shots: int,
    agreement: dict[str, tuple[float, float]],
    how: str,
    target: Path,
    *,
    quiet: bool,
) -> None:
    """What was learned and gained, on standard error."""
    note(f"aes: {user}: learned from {shots} ratings", quiet=quiet)
    for metric, (mine, others) in agreement.items():
        note(f"aes: {metric} {mine:.3f} personal, {others:.3f} generic ({how})", quiet=quiet)
    if not agreement:
        note(f"aes: too few different ratings to measure the gain ({how})", quiet=quiet)
    note(f"aes: {target} is the personal model", quiet=quiet)


def agreement_of(
    personal: np.ndarray, generic: np.ndarray, ratings: np.ndarray
) -> dict[str, tuple[float, float]]:
    """metric → (personal, generic); empty where there is too little to compare."""
    import numpy as np

    from aescli.evaluation.metrics import regression_metrics

    if len(ratings) < _LEAST_TESTED or min(map(np.ptp, (personal, generic, ratings))) == 0:
        return {}
    mine, others = regression_metrics(personal, ratings), regression_metrics(generic, ratings)
    return {name: (mine[name], others[name]) for name in ("PLCC", "SRCC")}


def _suggest(
    profile: Profile, number: int, images: Path, folder_out: Path, predictor: Predictor, folder: Path | None,
    rated: ImageFeatures, extract, quiet: bool,
) -> None:  # fmt: skip
    from aescli.data.finding import find_images
    from aescli.personalization.adapter import safe_name
    from aescli.personalization.selection import most_informative
    from aescli.personalization.sheet import write_page, write_sheet

    known = {rating.path.resolve() for rating in profile.ratings}
    found = [f.path for f in find_images([images]) if not f.error and Path(f.path).resolve() not in known]
    if not found:
        raise AesError(f"--images {images}: holds no photo that {profile.user} has not rated yet")
    pool = extract(found)
    if not pool.paths:
        path, reason = next(iter(pool.errors.items()))
        raise AesError(f"none of the {len(found)} photos can be used; the first: {path}: {reason}")
    prior = _prior(predictor, folder, pool.features, quiet)
    seen = (rated.features, rated.scores) if rated.paths else None
    order = most_informative(prior, pool.features, pool.scores, number, rated=seen)
    files = [Path(pool.paths[i]) for i in order]
    folder_out.mkdir(parents=True, exist_ok=True)
    sheet = _free(folder_out, f"{safe_name(profile.user)}-ratings")
    # As the profile will find them: from its own folder.
    names = [_relative(file, profile.source.parent) for file in files]
    write_sheet(sheet, names)
    page = sheet.with_suffix(".html")
    write_page(page, profile.user, profile.scale, list(zip(names, files, strict=True)), sheet.name)
    note(f"aes: {len(files)} of {len(pool.paths)} photos proposed, the most telling first", quiet=quiet)
    if pool.errors:
        note(f"aes: {len(pool.errors)} photos could not be used", quiet=quiet)
    note(
        f"aes: rate them in {page} (or fill in {sheet}) and name the table in the profile: "
        f"ratings: {_relative(sheet, profile.source.parent)}",
        quiet=quiet,
    )
    typer.echo(sheet)
    typer.echo(page)


def _free(folder: Path, stem: str) -> Path:
    """A table's name that is not taken, nor the page's beside it: a filled-in table is never overwritten."""
    number = 1
    while True:
        path = folder / (f"{stem}.csv" if number == 1 else f"{stem}-{number}.csv")
        if not path.exists() and not path.with_suffix(".html").exists():
            return path
        number += 1


def _relative(file: Path, folder: Path) -> str:
    file, folder = file.resolve(), folder.resolve()
    return Path(os.path.relpath(file, folder)).as_posix() if file.drive == folder.drive else str(file)
