"""`aes personalize --task piaa`: AesMamba-P tuned to a profile, what that gained, and its folder.

It knows the command line. How a model is tuned is `aescli.personalization.tuning`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aescli.cli.common import note, progress
from aescli.cli.personalize import report
from aescli.errors import AesError

if TYPE_CHECKING:
    import numpy as np

    from aescli.data.profiles import Profile
    from aescli.personalization.images import ImageFeatures
    from aescli.scoring.predictor import Predictor


def tune_for(
    profile: Profile,
    rated: ImageFeatures,
    ratings: np.ndarray,
    chosen: np.ndarray,
    held: np.ndarray,
    predictor: Predictor,
    spec: str,
    target: Path,
    *,
    quiet: bool,
) -> None:
    """Tune to the `chosen` of the rated images, measure on the `held` ones, save to `target`.

    spec: the model as --model takes it.
    """
    from aescli.personalization.gain import LEAST_TESTED, agreement_of
    from aescli.personalization.tuning import (
        FOLDS,
        Tuned,
        changes_of,
        left_out_answers,
        prompt_of,
        prompt_read,
        samples_of,
        save_tuned,
        schedule,
        tuned_copy,
    )

    checkpoint = getattr(predictor, "checkpoint", None)
    if checkpoint is None or getattr(checkpoint.model, "text", None) is None:
        raise AesError(
            "--task piaa tunes a model that reads prompts; this one reads images only: give the folder of one "
            "trained with --preset aesmamba-p-para"
        )
    prompt = prompt_of(profile.experience, profile.traits, profile.characters)
    if prompt:
        note(f"aes: prompt: {prompt}", quiet=quiet)
    else:
        note("aes: no experience, traits or characters: the ratings alone speak for this person", quiet=quiet)
    samples = samples_of(rated.paths, ratings, profile.scale, prompt, predictor.scale)
    train = schedule(len(chosen))
    # Where every rating is a shot, what tuning gains is measured on ratings left out of further tunings.
    each = not len(held) and len(chosen) >= LEAST_TESTED
    with progress("epoch", quiet=quiet, total=train.epochs * (1 + FOLDS if each else 1)) as step:

        def count(_: str) -> None:
            step(1)

        model, answers = tuned_copy(checkpoint, samples, chosen, held, train, predictor.device, log=count)
        if each:
            answers = left_out_answers(checkpoint, samples, chosen, predictor.device, log=count)
    index = model.config.score_index
    asked = chosen if each else held
    agreement = agreement_of(answers[:, index], rated.scores[asked], ratings[asked]) if len(asked) else {}
    how = f"{len(held)} held-back ratings" if len(held) else "all were shots; --shots holds some back"
    if each:
        how = f"leave-one-fifth-out: each of the {len(chosen)} shots by a copy that was not tuned to it"
    notes = {"ratings": len(chosen), "measured": how, "agreement": agreement}
    changes = changes_of(checkpoint.model, model)
    read = prompt_read(model, checkpoint.tokenizer, prompt)
    save_tuned(
        Tuned(
            profile.user, predictor.digest, profile.scale, prompt, changes, read, predictor.task, spec, notes
        ),
        target,
    )
    size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    report(profile.user, len(chosen), agreement, how, target, quiet=quiet)
    note(
        f"aes: {size:.1f} MB: the whole model was tuned; its text encoder has read the prompt and is not kept",
        quiet=quiet,
    )
