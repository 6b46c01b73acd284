"""`aes personalize`: options, the steps from a profile to a personal model, and what came of it in words.

It knows the command line. Profiles are `aescli.data.profiles`', the mathematics `aescli.personalization`'s.
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aescli.cli.common import (
    DeviceOption,
    ModelOption,
    QuietOption,
    TaskOption,
    WorkersOption,
    count,
    note,
    option,
    progress,
)
from aescli.errors import AesError, UsageError

if TYPE_CHECKING:
    from aescli.data.profiles import Profile
    from aescli.personalization.gain import PairOrder
    from aescli.personalization.images import ImageFeatures
    from aescli.personalization.prior import TastePrior
    from aescli.scoring.predictor import Predictor


class Select(StrEnum):
    all = "all"
    random = "random"
    informative = "informative"


def personalize(
    user: Annotated[
        str,
        option("--user", metavar="NAME|FILE.yaml", help="The profile, or its name in users/ (no default)."),
    ],
    shots: Annotated[
        int | None,
        option("--shots", metavar="N", min=2, help="Ratings to learn from (default: all in the profile)."),
    ] = None,
    select: Annotated[
        Select | None,
        option(
            "--select",
            help="Which ratings are the shots, where there are more: random, or informative, those that tell most "
            "(default: all, or random with --shots).",
        ),
    ] = None,
    seed: Annotated[
        int, option("--seed", metavar="N", min=0, help="Of a random selection (default: 0).")
    ] = 0,
    suggest: Annotated[
        int | None,
        option(
            "--suggest",
            metavar="N",
            min=1,
            help="Propose the N photos of --images to rate next; writes a table and a page to rate on "
            "(default: off).",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        option(
            "--images",
            metavar="DIR",
            help="Where images are looked for after the profile's folder, and --suggest's photos (default: none).",
        ),
    ] = None,
    task: TaskOption = None,
    model: ModelOption = None,
    out: Annotated[
        Path | None,
        option(
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
    shot, each pair of photos is put in order by what the other ratings teach.

    The model lies in users/NAME. One for another --task does not replace it: it goes to users/NAME-TASK, and aes score
    --user NAME takes the one for its own --task.

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

    from aescli.models.checkpoint import chosen_model
    from aescli.models.exported import model_folder
    from aescli.personalization.folder import home_of, require_room
    from aescli.scoring import predictor as predictors

    predictor = predictors.load_predictor(model, task=task, device=device)
    target = out or home_of(profile.user, predictor.task)
    if suggest is None:
        require_room(target, profile.user, predictor.task)
    extract = partial(_extract, predictor, workers=workers, quiet=quiet)
    rated = extract([str(rating.path) for rating in profile.ratings])
    spec = chosen_model(model, task)
    folder = model_folder(spec) if _is_checkpoint(predictor) else None
    if suggest is not None:
        from aescli.cli.suggest import suggest as propose

        prior_for = partial(_prior, predictor, folder, quiet=quiet)
        propose(profile, suggest, images, out or source.parent, rated, extract, prior_for, quiet=quiet)
        return
    usable = _usable(profile, rated, shots or 2, predictor.task, quiet)
    known = [name for name in ("experience", "traits", "characters") if getattr(profile, name)]
    if known and not predictor.reads_text:
        note(
            f"aes: {', '.join(known)}: not used, this model reads images only; --task piaa reads them",
            quiet=quiet,
        )
    _fit(profile, usable, rated, shots, select, seed, predictor, spec, folder, target, quiet)


def _profile_path(user: str) -> Path:
    from aescli.personalization.folder import USERS, safe_name

    given = Path(user)
    if given.suffix in (".yaml", ".yml"):
        places = [given]
    else:
        names = dict.fromkeys((user, safe_name(user)))
        places = [given / "profile.yaml"]
        places += [USERS / place for name in names for place in (f"{name}.yaml", f"{name}/profile.yaml")]
    for place in places:
        if place.is_file():
            return place
    near = next((path for path in (Path(f"{user}.yaml"), Path(f"{user}.yml")) if path.is_file()), None)
    if near is not None:
        raise UsageError(f"--user {user}: no such profile in {USERS}; did you mean --user {near}?")
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

    prepare = Preparer(predictor.preprocessing)
    threads = min(count(workers, available_cpus()), max(1, predictor.concurrency))
    with progress("img", quiet=quiet, total=len(paths)) as step:
        return extract(paths, prepare, predictor, workers=threads, step=step)


def _prior(predictor: Predictor, folder: Path | None, images: ImageFeatures, *, quiet: bool) -> TastePrior:
    """The base model's learned prior, else a plain one."""
    from aescli.personalization.prior import load_prior, unlearned_prior

    prior = load_prior(folder, predictor.digest) if folder is not None else None
    if prior is None:
        note("aes: this model has no learned prior over tastes; ten ratings will change little", quiet=quiet)
        prior = unlearned_prior(predictor.digest, predictor.scale, images.features)
    return prior


def _usable(profile: Profile, rated: ImageFeatures, least: int, task: str, quiet: bool) -> list[int]:
    """Positions of the ratings whose image the model could use; AesError where too few are left."""
    from aescli.scoring.rows import NO_FACE

    usable = [i for i, rating in enumerate(profile.ratings) if str(rating.path) not in rated.errors]
    for reason in dict.fromkeys(rated.errors.values()):
        paths = [path for path, other in rated.errors.items() if other == reason]
        left = f"{paths[0]}: {reason}; its rating is left out"
        if len(paths) > 1:
            left = f"{len(paths)} ratings are left out: {reason}; the first: {paths[0]}"
        note(f"aes: {left}", quiet=quiet)
    faceless = task == "fbp" and NO_FACE in rated.errors.values()
    hint = "; --task viaa rates photos without faces" if faceless else ""
    scores = {profile.ratings[i].score for i in usable}
    if len(usable) < least or len(scores) < 2:
        kind = "all alike" if len(usable) >= least else f"{least} are needed"
        raise AesError(
            f"{profile.source}: {len(usable)} of {len(profile.ratings)} rated images can be used, {kind}{hint}"
        )
    if hint:
        note(f"aes: {hint.removeprefix('; ')}", quiet=quiet)
    return usable


def _fit(
    profile: Profile, usable: list[int], rated: ImageFeatures, shots: int | None, select: Select, seed: int,
    predictor: Predictor, spec: str, folder: Path | None, target: Path, quiet: bool,
) -> None:  # fmt: skip
    from dataclasses import asdict, replace

    import numpy as np

    from aescli.personalization.adapter import fit_adapter, personal_scores, save_adapter
    from aescli.personalization.gain import agreement_of, pairs_in_order, predicted_without
    from aescli.personalization.selection import most_informative

    ratings = np.array([profile.ratings[i].score for i in usable])
    tuned = predictor.task == "piaa"
    prior = _prior(predictor, folder, rated, quiet=quiet or tuned)
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
    if tuned:
        from aescli.cli.tuning import tune_for

        tune_for(profile, rated, ratings, chosen, held, predictor, spec, target, quiet=quiet)
        typer.echo(target)
        return
    adapter = fit_adapter(prior, features[chosen], generic[chosen], ratings[chosen], scale, profile.user)
    personal = personal_scores(features[held], generic[held], adapter)
    agreement, pairs = agreement_of(personal, generic[held], ratings[held]), None
    how = f"{len(held)} held-back ratings"
    if not agreement:
        given = prior, features, generic, ratings, scale
        pairs = pairs_in_order(*given)
        agreement = agreement_of(predicted_without(everything[:, None], *given)[:, 0], generic, ratings)
        how = f"leave-one-out over the {len(ratings)} ratings"
    measured = {"measured": how, "agreement": agreement, "pairs": pairs and asdict(pairs)}
    notes = {**adapter.notes, **measured}
    save_adapter(replace(adapter, task=predictor.task, model=spec, notes=notes), target)
    report(profile.user, len(chosen), agreement, how, target, pairs=pairs, quiet=quiet)
    typer.echo(target)


def report(
    user: str,
    shots: int,
    agreement: dict[str, tuple[float, float]],
    how: str,
    target: Path,
    *,
    pairs: PairOrder | None = None,
    quiet: bool,
) -> None:
    """What was learned and gained, on standard error."""
    note(f"aes: {user}: learned from {shots} ratings", quiet=quiet)
    if pairs is not None:
        note(
            f"aes: {pairs.personal:.1%} of {pairs.pairs} pairs of photos in the right order, {pairs.generic:.1%} by "
            f"the generic score (each by what the other ratings teach; {shots} ratings measure this roughly)",
            quiet=quiet,
        )
    for metric, (mine, others) in agreement.items():
        note(f"aes: {metric} {mine:.3f} personal, {others:.3f} generic ({how})", quiet=quiet)
    if pairs is not None and agreement:
        note("aes: leave-one-out shows the personal model worse than it is; believe the pairs", quiet=quiet)
    if not agreement:
        note(f"aes: too few different ratings to measure the gain ({how})", quiet=quiet)
    note(f"aes: {target} is the personal model", quiet=quiet)
