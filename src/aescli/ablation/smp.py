"""Which of a person's characters help ten ratings to predict the others (AesMamba §4.4, §4.5.2, Fig. 8).

One generic model learns everybody's mean scores; copies of it are tuned to one person each, with none, one or all of
the person's characters as the prompt. Composes training and ratings. Knows nothing about the command line.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from aescli.ablation.plots import write_changes, write_plot
from aescli.ablation.results import Figures, Row, rows_of
from aescli.ablation.run import DataReader, Settings, describe, finish_run, parameter_count, run_key
from aescli.ablation.studies import Study
from aescli.ablation.table import write_tables
from aescli.data.datasets import Dataset
from aescli.data.datasets.ratings import RatingsTable, UserCharacters, read_ratings
from aescli.errors import AesError, UsageError
from aescli.evaluation.metrics import regression_metrics
from aescli.folders import write_whole
from aescli.models.checkpoint import load_checkpoint
from aescli.models.prompts import subject_prompt
from aescli.personalization.tuning import tuned_copy
from aescli.presets import Preset, load_preset
from aescli.training.aesmamba import attribute_table
from aescli.training.run import split_data
from aescli.training.samples import training_samples

USERS = "users.json"
GENERIC_SCHEDULE = ("train.lr=1e-4", "train.batch_size=64", "train.epochs=100", "train.weight_decay=0.01")
"""The generic model is trained as AesMamba-F is; the preset's own schedule is for tuning."""
PROMPTS: dict[str, tuple[str, ...]] = {
    "shots": (),
    "photography": ("photo",),
    "art": ("art",),
    "personality": ("traits",),
    "all-characters": ("art", "photo", "traits"),
}
"""variant → characters in the prompt."""


@dataclass(frozen=True)
class Protocol:
    """users drawn for a repeat; of each, shots to learn from and tests to predict, all unseen by the generic model."""

    users: int = 40
    shots: int = 10
    tests: int = 50


@dataclass(frozen=True)
class Person:
    """A drawn user's ratings, shots first. characters: of the prompt."""

    name: str
    ratings: Dataset
    characters: UserCharacters


def run_smp(
    study: Study,
    settings: Settings,
    *,
    device: torch.device | None = None,
    log: Callable[[str], None] = print,
    progress=lambda iterable, **_: iterable,
    show: Callable[[list[Row]], None] = lambda rows: None,
    protocol: Protocol | None = None,
) -> list[Row]:
    """Fig. 8: folds of `settings` are repeats, each with users and images of its own. Kept user by user.

    Raises UsageError for a preset that reads no prompt, AesError for ratings that are too few or describe nobody.
    """
    if None in settings.folds:
        settings = replace(settings, folds=(1,))
    device, protocol = device or torch.device("cpu"), protocol or Protocol()
    preset = load_preset(settings.preset, list(settings.changes))
    if getattr(preset.model, "text", None) is None:
        raise UsageError(f"--preset {settings.preset}: study smp needs a model that reads a prompt, such as "
                         "aesmamba-p-para")  # fmt: skip
    generic = load_preset(settings.preset, [*GENERIC_SCHEDULE, *settings.changes])
    data = DataReader(settings, log).read(generic)
    parts = split_data(data, generic, None)
    if not parts.test:
        raise AesError(
            "study smp needs images that the generic model has not seen: the data set has no test part"
        )
    folder = settings.out / "generic" / "model"
    features = settings.features or settings.out / "features"
    finish_run(generic, data, parts, folder, settings, features, device, log, progress)
    if settings.features is None:
        shutil.rmtree(features, ignore_errors=True)
    ratings = read_ratings("auto", settings.sources[0], settings.images)
    unseen = {data.pictures.samples[i].path.resolve() for test in parts.test.values() for i in test}
    key = run_key(generic, data, parts)
    checkpoint = load_checkpoint(folder, device)
    runs: dict[tuple[str, str], dict[str, Figures]] = {}
    rows: list[Row] = []
    parameters = {variant.name: parameter_count(preset) for variant in study.variants}
    for repeat in settings.folds:
        people = draw(ratings, unseen, protocol, repeat)
        if len(people) < protocol.users:
            log(f"repeat {repeat}: {len(people)} users have {protocol.shots + protocol.tests} unseen ratings and "
                "all characters")  # fmt: skip
        for variant in study.variants:
            place = settings.out / variant.name / f"fold{repeat}" / USERS
            log(f"{variant.name}/fold{repeat}: {len(people)} users")
            prompt = PROMPTS.get(variant.name)
            answers = _each(place, people, prompt, preset, protocol, key, checkpoint, device)
            runs[variant.name, str(repeat)] = {ratings.name: mean_figures(answers)}
            rows = rows_of(study, runs, study.paper_rows(preset.task, ratings.name), parameters)
            describe(study, settings, data)
            write_tables(study, rows, settings.out)
            write_plot(study, rows, settings.out)
            write_changes(study, rows, settings.out)
            show(rows)
    return rows


def draw(ratings: RatingsTable, unseen: set[Path], protocol: Protocol, repeat: int) -> list[Person]:
    """The repeat's users and, of each, shots + tests of their ratings of unseen images, at random.

    Raises AesError when nobody has enough of them, or all three kinds of characters.
    """
    rng = np.random.default_rng(repeat)
    allowed = np.array([path.resolve() in unseen for path in ratings.paths])
    able = []
    for name in sorted(ratings.users):
        known = ratings.characters.get(name)
        if known is None or not (known.experience.keys() >= {"art", "photo"} and known.traits):
            continue
        if allowed[ratings.image[ratings.rows_of(name)]].sum() >= protocol.shots + protocol.tests:
            able.append(name)
    if not able:
        raise AesError(
            f"{ratings.notes.source}: no user with art, photo and traits has {protocol.shots + protocol.tests} "
            "ratings of images that the generic model has not seen"
        )
    people = []
    for name in sorted(rng.choice(able, min(protocol.users, len(able)), replace=False).tolist()):
        own = ratings.of_user(name)
        places = [i for i, sample in enumerate(own.samples) if sample.path.resolve() in unseen]
        chosen = rng.permutation(places)[: protocol.shots + protocol.tests]
        people.append(Person(name, own.subset(chosen.tolist()), ratings.characters[name]))
    return people


def prompt_of(characters: UserCharacters, kinds: Sequence[str]) -> str:
    """The sentences about the given kinds of characters; "" for none."""
    known = {**characters.experience, "traits": characters.traits}
    return subject_prompt(**{kind: known[kind] for kind in kinds}) if kinds else ""


def mean_figures(answers: Mapping[str, Figures]) -> Figures:
    """Each metric's mean over the users for whom it is defined, and the means over the attributes."""
    names = list(dict.fromkeys(name for figures in answers.values() for name in figures))
    out = {}
    for name in names:
        known = [f[name] for f in answers.values() if f.get(name) is not None and not math.isnan(f[name])]
        out[name] = sum(known) / len(known) if known else math.nan
    for metric in ("PLCC", "SRCC"):
        own = [value for name, value in out.items() if name.startswith(f"{metric} ")]
        out[f"{metric}_mean"] = sum(own) / len(own)
    return out


def _each(
    place: Path, people: Sequence[Person], prompt: Sequence[str] | None, preset: Preset, protocol: Protocol,
    generic: str, checkpoint, device: torch.device,
) -> dict[str, Figures]:  # fmt: skip
    """user → figures; what `place` holds of the same draw is kept. prompt: None = the generic model as it is."""
    said = [(p.name, prompt_of(p.characters, prompt or ()), [(s.name, s.score) for s in p.ratings.samples])
            for p in people]  # fmt: skip
    everything = (generic, preset.to_dict(), asdict(protocol), prompt, said)
    key = hashlib.sha256(json.dumps(everything, default=str, sort_keys=True).encode()).hexdigest()[:16]
    answers: dict[str, Figures] = {}
    if place.is_file():
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["key"] != key:
            raise AesError(f"{place} holds a run of another preset or data; choose another --out")
        answers = kept["users"]
    place.parent.mkdir(parents=True, exist_ok=True)
    for person in people:
        if person.name not in answers:
            answers[person.name] = _measure(person, prompt, preset, protocol, checkpoint, device)
            write_whole({place: json.dumps({"key": key, "users": answers}, indent=1)})
    return {person.name: answers[person.name] for person in people}


def _measure(
    person: Person, prompt: Sequence[str] | None, preset: Preset, protocol: Protocol, checkpoint,
    device: torch.device,
) -> Figures:  # fmt: skip
    """Tune a copy of the generic model to the person's shots (not where `prompt` is None) and test it."""
    text = prompt_of(person.characters, prompt or ())
    samples = [replace(s, text=text) for s in training_samples(person.ratings, 0, preset.model.score_range)]
    shots, tests = np.arange(protocol.shots), np.arange(protocol.shots, len(samples))
    model, outputs = tuned_copy(
        checkpoint, samples, shots, tests, preset.train, device, tune=prompt is not None
    )
    truth = attribute_table([samples[i] for i in tests], model.config)
    figures: Figures = {}
    for a, attribute in enumerate(model.config.attributes):
        known = np.isfinite(truth[:, a])
        if known.sum() > 1:
            found = regression_metrics(outputs[known, a], truth[known, a])
            for metric in ("PLCC", "SRCC"):
                # Constant answers rank nothing; JSON has no NaN for a constant truth.
                value = found[metric]
                if math.isnan(value) and np.ptp(truth[known, a]) > 0:
                    value = 0.0
                if not math.isnan(value):
                    figures[f"{metric} {attribute.name}"] = value
    return figures
