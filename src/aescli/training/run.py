"""One training run from label files to a checkpoint: read, split, build, train, test, save.

Composes data sets, splits, features, trainer and checkpoint. Knows nothing about the command line.
"""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aescli import __version__
from aescli.data.datasets import Dataset, read_dataset
from aescli.data.duplicates import default_cache, duplicate_groups, fingerprints
from aescli.data.splits import Split, carve_validation, holdout, kfold, official_fold, official_parts
from aescli.errors import AesError, UsageError, named
from aescli.models.checkpoint import CHECKPOINT, Card, build_model, save_checkpoint
from aescli.models.encoders import EncoderConfig, encoder_statistics
from aescli.models.rounding import settle
from aescli.presets import Preset
from aescli.training.distributed import Group
from aescli.training.features import CachedFeatures, LivePictures
from aescli.training.objective import Objective, stack_outputs
from aescli.training.record import begin
from aescli.training.samples import UNLABELLED, Pictures, TrainingSample, training_samples, unlabelled
from aescli.training.trainer import STATE, Trainer

FOLDS = 5


@dataclass
class TrainingData:
    """The data sets of a run as one list; `offsets[i]` is where data set i begins. `undecodable`: files left out."""

    datasets: list[Dataset]
    pictures: Pictures
    groups: np.ndarray
    content: list[str]
    bits: np.ndarray
    offsets: list[int] = field(default_factory=list)
    undecodable: list[str] = field(default_factory=list)

    def of(self, number: int) -> np.ndarray:
        return np.arange(self.offsets[number], self.offsets[number] + len(self.datasets[number]))


def read_training_data(
    preset: Preset,
    sources: Sequence[Path],
    images: Path | None = None,
    options: dict[str, Any] | None = None,
    fold: int | None = None,
    log: Callable[[str], None] = lambda _: None,
    without_labels: Sequence[Path] = (),
) -> TrainingData:
    """Read every source, find faces and near-duplicates. `without_labels`: folders of pictures for `train.distil`.
    options: `layout` ("auto"), and others that `read_dataset` takes, for every source.

    Raises UsageError when the preset's score heads do not name the data sets given.
    """
    options = dict(options or {})
    layout = options.pop("layout", "auto")
    heads = getattr(preset.model, "score_heads", ("",))
    datasets, samples, offsets = [], [], []
    for source in sources:
        dataset = read_dataset(layout, source, images, **options)
        if len(heads) > 1 and dataset.name not in heads:
            raise UsageError(
                f"--data {source}: {dataset.name} has no score head; model.score_heads: {', '.join(heads)}"
            )
        head = heads.index(dataset.name) if len(heads) > 1 else 0
        originals = None
        if preset.data.alternatives and dataset.name == "mebeauty":
            dataset, originals = _with_whole_photos(dataset, source, images)
        _check_fold(dataset, fold)
        log(f"{dataset.name}: {len(dataset)} images from {source}")
        low, high = preset.model.score_range
        if dataset.scale != (low, high):
            of, to = (f"{a:g}–{b:g}" for a, b in (dataset.scale, (low, high)))
            log(f"{dataset.name}: scores mapped linearly from {of} to the model's {to}")
        offsets.append(len(samples))
        samples += training_samples(dataset, head, preset.model.score_range, originals)
        datasets.append(dataset)
    for folder in without_labels:
        if not preset.train.distil.weight:
            raise UsageError(
                "--unlabelled: only a preset with train.distil.weight learns from pictures without labels"
            )
        dataset = unlabelled(folder)
        log(f"{folder}: {dataset.notes.usable} images without labels")
        offsets.append(len(samples))
        samples += training_samples(dataset, 0, preset.model.score_range)
        datasets.append(dataset)
    what = "near-duplicates and faces" if preset.preprocessing.faces else "near-duplicates"
    log(f"{len(samples)} images: finding {what}")
    broken: dict[int, str] = {}
    prints = fingerprints([s.path for s in samples], cache=default_cache(), unreadable=broken)
    undecodable = sorted({str(samples[i].path) for i in broken})
    if broken:
        prints = prints.subset([i for i in range(len(samples)) if i not in broken])
        datasets, samples, offsets = _without(broken, datasets, samples, offsets, log)
    pictures = Pictures(samples, preset.preprocessing, preset.train.seed)
    groups = duplicate_groups(prints)
    return TrainingData(datasets, pictures, groups, prints.content, prints.bits, offsets, undecodable)


def _without(
    broken: Mapping[int, str],
    datasets: Sequence[Dataset],
    samples: Sequence[TrainingSample],
    offsets: Sequence[int],
    log: Callable[[str], None],
) -> tuple[list[Dataset], list[TrainingSample], list[int]]:
    """(data sets, samples, offsets) without the pictures that cannot be decoded, each of which is named."""
    kept_sets, kept, kept_offsets = [], [], []
    for dataset, offset in zip(datasets, offsets, strict=True):
        rows = range(offset, offset + len(dataset))
        lost = {str(samples[i].path): broken[i] for i in rows if i in broken}
        keep = [i for i in rows if i not in broken]
        if lost:
            shown = named(
                "images cannot be decoded and are left out", [f"{p}: {r}" for p, r in lost.items()], 5
            )
            log(f"{dataset.name}: {shown}")
        if not keep:
            raise AesError(f"{dataset.notes.source}: none of its {len(lost)} images can be decoded")
        kept_offsets.append(len(kept))
        kept += [samples[i] for i in keep]
        kept_sets.append(dataset.subset([i - offset for i in keep]))
    return kept_sets, kept, kept_offsets


def _check_fold(dataset: Dataset, fold: int | None) -> None:
    """Complains about a fold that cannot be before minutes are spent on pictures."""
    known = sorted({s.fold for s in dataset.samples if s.fold}) or list(range(1, FOLDS + 1))
    if fold is not None and fold not in known:
        raise UsageError(f"--fold {fold}: the folds of {dataset.name} are {known[0]} to {known[-1]}")


def _with_whole_photos(dataset: Dataset, source: Path, images: Path | None) -> tuple[Dataset, Dataset]:
    """(crops, and the whole photos of pictures that have no crop), whole photos of all."""
    originals = read_dataset("mebeauty", source, images, variant="originals")
    have = {s.name for s in dataset.samples}
    extra = [s for s in originals.samples if s.name not in have]
    return Dataset(dataset.name, [*dataset.samples, *extra], dataset.scale, dataset.notes), originals


@dataclass(frozen=True)
class Parts:
    """Positions in the joint list; `test` by data set name.

    left_out: images that are copies or near-duplicates of a test image, or training ones of a validation image; they
    neither train nor validate.
    """

    train: np.ndarray
    validation: np.ndarray
    test: dict[str, np.ndarray]
    splits: list[Split]
    left_out: np.ndarray = field(default_factory=lambda: np.arange(0))


def split_data(
    data: TrainingData,
    preset: Preset,
    fold: int | None,
    split_files: Sequence[Path] = (),
    train_on_all: bool = False,
) -> Parts:
    """Test, validation and training positions of every data set.

    fold: the official fold where there is one, else the fold of a seeded five-fold partition. Without it, the
    official test part where there is one, and with it the official validation part; else an 8 : 2 split. What is
    drawn is stratified by the score, within the data set's `stratum` if it has one. Near-duplicates never lie on two
    sides, across data sets too: training drops what resembles a test image.
    """
    train, validation, tests, splits = [], [], {}, []
    saved = {s.dataset: s for s in (Split.load(path) for path in split_files)}
    if unused := set(saved) - {dataset.name for dataset in data.datasets}:
        names = ", ".join(dataset.name for dataset in data.datasets)
        raise UsageError(f"--split: made for the data set {', '.join(sorted(unused))}; this run has {names}")
    seed = preset.train.seed
    for number, dataset in enumerate(data.datasets):
        where = data.of(number)
        official_held = np.arange(0)
        groups, content, strata = data.groups[where], [data.content[i] for i in where], dataset.strata
        if train_on_all or dataset.name == UNLABELLED:
            rest, test = np.arange(len(dataset)), np.arange(0)
        elif dataset.name in saved:
            split = saved[dataset.name]
            test_part = str(fold) if fold and str(fold) in split.parts else "test"
            test = split.indices(dataset, test_part)
            rest = np.setdiff1d(np.arange(len(dataset)), test)
            splits.append(split)
        elif fold is not None and any(s.fold for s in dataset.samples):
            rest, test = official_fold(dataset, fold)
        elif fold is None and (official := official_parts(dataset)) is not None:
            rest, official_held, test = official
        else:
            if fold is not None:
                split = kfold(dataset, FOLDS, seed=0, groups=groups, content=content, strata=strata)
                part = str(fold)
            else:
                split = holdout(dataset, seed=0, groups=groups, content=content, strata=strata)
                part = "test"
            test = split.indices(dataset, part)
            rest = np.setdiff1d(np.arange(len(dataset)), test)
            splits.append(split)
        if not preset.train.validation or dataset.name == UNLABELLED:
            kept, held = np.union1d(rest, official_held), np.arange(0)
        elif len(official_held):
            kept, held = rest, official_held
        else:
            kept, held = carve_validation(
                dataset, rest, share=preset.train.validation, seed=seed, groups=groups, strata=strata
            )
        train.append(where[kept])
        validation.append(where[held])
        if len(test):
            tests[dataset.name] = where[test]
    joint_train, joint_validation = np.concatenate(train), np.concatenate(validation)
    tested = set(data.groups[np.concatenate(list(tests.values()))]) if tests else set()
    kept_apart = tested | set(data.groups[joint_validation])  # an official validation part may hold copies
    clean = np.array([g not in kept_apart for g in data.groups[joint_train]], bool)
    clean_validation = np.array([g not in tested for g in data.groups[joint_validation]], bool)
    left_out = np.concatenate([joint_train[~clean], joint_validation[~clean_validation]])
    return Parts(joint_train[clean], joint_validation[clean_validation], tests, splits, np.sort(left_out))


def make_source(
    model, preset: Preset, data: TrainingData, features: Path | None, device: torch.device, progress
):
    """Cached features where a part is frozen and views are asked for, else live pictures."""
    model.encoder.set_cut(preset.train.frozen_blocks)
    if model.encoder.cut and preset.train.views and features is not None:
        model.encoder.eval()
        return CachedFeatures(
            features, data.pictures, model.encoder, preset.train.augment, preset.train.views, device, progress
        )
    return LivePictures(data.pictures, preset.train.augment, device)


def check_targets(preset: Preset, samples: Sequence[TrainingSample], train: Sequence[int]) -> None:
    """UsageError for labels that cannot teach what the preset's model predicts."""
    side = importlib.import_module(f"aescli.training.{preset.architecture}")
    side.check_targets(preset, samples, train)


def train_model(
    preset: Preset,
    data: TrainingData,
    parts: Parts,
    out: Path,
    *,
    features: Path | None = None,
    device: torch.device | None = None,
    resume: bool = False,
    log: Callable[[str], None] = print,
    progress=lambda iterable, **_: iterable,
) -> dict[str, Any]:
    """Train, measure on the test parts and write `out`/checkpoint. Returns the metrics."""
    device = device or torch.device("cpu")
    group = Group(device)
    torch.manual_seed(preset.train.seed)
    model = build_model(asdict(preset)).to(device=device, memory_format=torch.channels_last)
    preset = with_statistics(preset, model)
    data.pictures.preprocessing = preset.preprocessing
    if not group.first:
        group.wait()  # until the first process has written the shared features
    source = make_source(model, preset, data, features, device, progress)
    if group.first:
        group.wait()
    samples = data.pictures.samples
    side = importlib.import_module(f"aescli.training.{preset.architecture}")
    objective = side.make_objective(
        preset, model, source, data.pictures, parts.train, device, features, log, group
    )
    if group.first:  # only now: what is refused leaves nothing behind
        left_out = [samples[i].name for i in parts.left_out]
        counts = {"train": len(parts.train), "validation": len(parts.validation),
                  "test": {k: len(v) for k, v in parts.test.items()}}  # fmt: skip
        further = {"left_out": left_out, "undecodable": data.undecodable}
        begin(out, preset, parts.splits, {"device": str(device), **counts, **further}, resume=resume)
    trainer = Trainer(
        model,
        source,
        objective,
        repeated(parts.train, data, preset),
        parts.validation,
        preset.train,
        out,
        device,
        log,
        group,
    )
    trainer.run(resume)
    if not group.first:
        group.wait()
        return {}
    settle(model)  # what is tested is what a checkpoint stores
    objective.finish(model)
    metrics: dict[str, Any] = {"history": trainer.history}
    pictures = LivePictures(data.pictures, preset.train.augment, device)
    for name, positions in parts.test.items():
        # The whole model on pixels, as in scoring, not the training's cached features.
        with torch.inference_mode():
            model.eval()
            outputs = stack_outputs(_answers(model, objective, pictures, positions))
        tested = [samples[i] for i in positions]
        metrics[name] = side.test_metrics(outputs, tested, preset)
        rows = side.prediction_rows(outputs, tested)
        (out / f"test_{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    seen = np.concatenate([parts.train, parts.validation])
    save_checkpoint(
        out / CHECKPOINT,
        model.state_dict(),
        model_config(preset, model),
        make_card(preset, data, metrics, parts),
        metrics,
        {f"{data.content[i]}:{int(data.bits[i]):016x}" for i in seen},
        objective.tokenizer,
    )
    (out / STATE).unlink(missing_ok=True)
    group.wait()
    return metrics


def repeated(train: np.ndarray, data: TrainingData, preset: Preset) -> np.ndarray:
    """Training positions as often as `data.repeat` says.

    Raises UsageError when that names a data set that the run does not have.
    """
    unknown = set(preset.data.repeat) - {dataset.name for dataset in data.datasets}
    if unknown:
        raise UsageError(f"data.repeat: no data set named {', '.join(sorted(unknown))} in this run")
    times = np.ones(len(data.content), int)
    for number, dataset in enumerate(data.datasets):
        times[data.of(number)] = preset.data.repeat.get(dataset.name, 1)
    return np.repeat(train, times[train])


def _answers(model: torch.nn.Module, objective: Objective, pictures: LivePictures, positions: np.ndarray):
    start = 0
    for (x,) in pictures.batches(positions, 64, None):
        rows = torch.from_numpy(positions[start : start + len(x)]).to(x.device)
        start += len(x)
        yield model(x, **objective.given(rows))


def model_config(preset: Preset, model: torch.nn.Module) -> dict[str, Any]:
    """What `build_model` and `load_checkpoint` need, as plain values."""
    return {
        "architecture": preset.architecture,
        # The model's own: it may have filled in what it fetched.
        "model": asdict(model.config),
        "preprocessing": asdict(preset.preprocessing),
        "preset": preset.name,
        "version": __version__,
    }


def with_statistics(preset: Preset, model: torch.nn.Module) -> Preset:
    """The preset with the mean and deviation that the encoder's weights expect, and its image size."""
    mean, std = encoder_statistics(model.encoder)
    size = preset.model.encoder.image_size
    return replace(preset, preprocessing=replace(preset.preprocessing, mean=mean, std=std, size=size))


def origin(encoder: EncoderConfig) -> str:
    """What the encoder knows when training begins, a sentence for each of those that are joined."""

    def start(one: EncoderConfig) -> str:
        if one.weights:
            return Path(one.weights).name
        return "timm's pretrained weights" if one.pretrained else "random weights"

    return " ".join(f"The encoder {one.name} starts from {start(one)}." for one in (encoder, *encoder.also))


def make_card(preset: Preset, data: TrainingData, metrics: dict[str, Any], parts: Parts) -> Card:
    sets = ", ".join(f"{d.name} ({len(d)} images)" for d in data.datasets)
    return Card(
        name=preset.name,
        task=preset.task,
        description=preset.description,
        score_range=preset.model.score_range,
        class_cuts=preset.data.class_cuts,
        data=sets,
        split=f"{len(parts.train)} training, {len(parts.validation)} validation images; test: "
        + (", ".join(f"{k} {len(v)}" for k, v in parts.test.items()) or "none"),
        metrics={k: v for k, v in metrics.items() if k != "history"},
        licence="The weights inherit the terms of their training data.",
        origin=origin(preset.model.encoder),
    )
