"""Trains and tests every variant of a study over the folds, keeps what is finished, and rewrites the table each time.

Composes presets, training runs and results. Knows nothing about the command line or how a table looks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aescli import __version__
from aescli.ablation.categories import as_csv as categories_csv
from aescli.ablation.categories import as_sentence, changes_of_rows
from aescli.ablation.plots import write_plot, write_trend
from aescli.ablation.results import Figures, Row, read_run, rows_of
from aescli.ablation.studies import Study, Variant
from aescli.ablation.table import write_tables
from aescli.errors import AesError, UsageError
from aescli.folders import write_whole
from aescli.models.checkpoint import CHECKPOINT, build_model, write_json
from aescli.presets import Preset, heads_for, load_preset, parse_preset
from aescli.training.aesmamba import attribute_table
from aescli.training.run import Parts, TrainingData, read_training_data, split_data, train_model
from aescli.training.trainer import STATE

KEY, STUDY = "ablation.json", "study.json"
NO_FOLD = "split"  # folder of a run on the data set's one split


@dataclass(frozen=True)
class Settings:
    """What a study is run on. folds: None in it = the data set's own split. reuse: folders of other studies whose
    finished runs are taken where preset and data are the same. changes: `key=value`, before a variant's own."""

    preset: str
    changes: tuple[str, ...]
    sources: tuple[Path, ...]
    images: Path | None
    out: Path
    folds: tuple[int | None, ...] = (None,)
    features: Path | None = None
    reuse: tuple[Path, ...] = ()
    layout: str = "auto"


def study_presets(study: Study, spec: str, changes: Sequence[str], sets: int) -> dict[str, Preset]:
    """variant name → its preset. Raises UsageError for a preset of the other architecture."""
    base = load_preset(spec, list(changes))
    if base.architecture != study.architecture:
        raise UsageError(
            f"--preset {spec}: study {study.name} is about {study.architecture}, this preset is {base.architecture}"
        )
    return {
        variant.name: heads_for(load_preset(spec, [*changes, *variant.changes]), sets)
        for variant in study.variants
    }


def parameter_count(preset: Preset) -> int:
    """Parameters of the preset's model; no weights are read or fetched."""
    model = replace(preset.model, encoder=preset.model.encoder.without_weights())
    if getattr(model, "text", None) is not None:
        model = replace(model, text=replace(model.text, pretrained=False))
    built = build_model({"architecture": preset.architecture, "model": asdict(model)})
    return sum(p.numel() for p in built.parameters())


def plan(study: Study, settings: Settings) -> list[str]:
    """What `run_study` would run, a line each: folder, parameters, changes."""
    presets = study_presets(study, settings.preset, settings.changes, len(settings.sources))
    lines = []
    for variant in study.variants:
        size = parameter_count(presets[variant.name])
        for fold in settings.folds:
            folder = run_folder(Path(), variant, fold)
            lines.append(f"{folder}: {size:,} parameters; {' '.join(variant.changes) or 'the preset itself'}")
    return [*lines, f"{len(lines)} runs of {study.name}: {study.title}"]


def run_folder(out: Path, variant: Variant, fold: int | None) -> Path:
    """OUT/<variant>/fold<K>, or OUT/<variant>/split without folds."""
    return out / variant.name / (NO_FOLD if fold is None else f"fold{fold}")


def run_study(
    study: Study,
    settings: Settings,
    *,
    device: torch.device | None = None,
    log: Callable[[str], None] = print,
    progress=lambda iterable, **_: iterable,
    show: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Run what is missing, fold by fold, and return the table's rows.

    show: called with the rows after every run. Finished runs of the same preset and data are kept, interrupted ones
    continued. Raises AesError (naming the run) for one that fails or a folder that holds another run.
    """
    presets = study_presets(study, settings.preset, settings.changes, len(settings.sources))
    features = settings.features or settings.out / "features"
    reader = DataReader(settings, log)
    parameters = {name: parameter_count(preset) for name, preset in presets.items()}
    runs: dict[tuple[str, str], dict[str, Figures]] = {}
    rows: list[Row] = []
    for fold in settings.folds:
        for variant in study.variants:
            preset = presets[variant.name]
            data = reader.read(preset)
            parts = split_data(data, preset, fold)
            if not parts.test:
                raise AesError("the data set has no test part to measure on; give --folds")
            groups = group_positions(data, study.group_by) if study.group_by else {}
            if variant.group is not None:
                parts = within_group(parts, groups, variant.group)
            label = NO_FOLD if fold is None else str(fold)
            folder = run_folder(settings.out, variant, fold)
            try:
                finish_run(preset, data, parts, folder, settings, features, device, log, progress)
            except AesError as error:
                raise type(error)(f"{variant.name}, {label}: {error}") from error
            runs[variant.name, label] = read_run(folder)
            paper = study.paper_rows(preset.task, data.datasets[0].name)
            rows = rows_of(study, runs, paper, parameters, list(groups))
            describe(study, settings, data)
            notes = _compare_categories(study, preset, data, settings.out) if study.categories else ""
            write_tables(study, rows, settings.out, notes)
            write_plot(study, rows, settings.out)
            show(rows)
    if settings.features is None:
        shutil.rmtree(features, ignore_errors=True)
    return rows


class DataReader:
    """Reads the data sets once for all variants that prepare pictures alike: finding faces takes minutes."""

    def __init__(self, settings: Settings, log: Callable[[str], None]) -> None:
        self.settings, self.log = settings, log
        self.known: dict[str, TrainingData] = {}

    def read(self, preset: Preset) -> TrainingData:
        model = preset.model
        heads = getattr(model, "score_heads", ())
        key = repr(
            (preset.preprocessing, preset.train.seed, preset.data.alternatives, model.score_range, heads)
        )
        if key not in self.known:
            # The largest fold: an impossible one is an error before the first run, not after hours.
            fold = max((f for f in self.settings.folds if f is not None), default=None)
            try:
                self.known[key] = read_training_data(
                    preset,
                    self.settings.sources,
                    self.settings.images,
                    {"layout": self.settings.layout},
                    fold,
                    self.log,
                )
            except UsageError as error:  # of a run by itself, which has one fold
                raise UsageError(re.sub(r"^--fold\b", "--folds", str(error))) from None
        return self.known[key]


def group_positions(data: TrainingData, column: str) -> dict[str, np.ndarray]:
    """value of the label column → positions in the joint list, values in order.

    Raises UsageError for labels without that column, or with one value only.
    """
    values = np.array([s.group.get(column, "") for dataset in data.datasets for s in dataset.samples])
    found = {value: np.flatnonzero(values == value) for value in sorted(set(values.tolist()) - {""})}
    if len(found) < 2:
        names = ", ".join(dataset.name for dataset in data.datasets)
        have = f"only {next(iter(found))!r}" if found else "nothing"
        raise UsageError(
            f"--study groups: the labels of {names} say {have} in {column!r}; two groups are needed"
        )
    return found


def within_group(parts: Parts, groups: dict[str, np.ndarray], group: str) -> Parts:
    """The training side of one group, and every group's test part by itself.

    Raises UsageError where the group has no images on either side.
    """
    if group not in groups:
        raise UsageError(f"--study groups: no image is {group!r}; the labels have {', '.join(groups)}")
    own = groups[group]
    tested = np.concatenate(list(parts.test.values()))
    test = {name: np.intersect1d(tested, members) for name, members in groups.items()}
    train = np.intersect1d(parts.train, own)
    for name, positions in (("training", train), *test.items()):
        if not len(positions):
            raise UsageError(f"--study groups: fold without {name} images of {group!r}")
    return replace(parts, train=train, validation=np.intersect1d(parts.validation, own), test=test)


def run_key(preset: Preset, data: TrainingData, parts: Parts) -> str:
    """16 hex digits of all that decides a run: preset, encoder weights, labels, pictures and split.

    Of the preset only what differs from the defaults counts, so that a field added later changes no key.
    """
    sha = hashlib.sha256()
    plain = parse_preset({"architecture": preset.architecture, "name": ""}, "the defaults").to_dict()
    values = _changed(preset.to_dict(), plain)
    values = {k: v for k, v in values.items() if k not in ("name", "description")}
    weights = preset.model.encoder.weights
    if weights and Path(weights).is_file():
        values["weights"] = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    sha.update(json.dumps([preset.architecture, values], sort_keys=True, default=str).encode())
    for sample, content in zip(data.pictures.samples, data.content, strict=True):
        said = (sample.name, content, sample.score, sorted(sample.scores.items()), sample.counts, sample.text)
        sha.update(repr(said).encode())
    for name, positions in (("train", parts.train), ("validation", parts.validation), *parts.test.items()):
        sha.update(f"{name}:{np.asarray(positions).tolist()}".encode())
    return sha.hexdigest()[:16]


def _changed(values: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values`, inner ones too, that are not as in `plain`."""
    out = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(plain.get(key), dict):
            value = _changed(value, plain[key])
            if value:
                out[key] = value
        elif key not in plain or value != plain[key]:
            out[key] = value
    return out


def finish_run(
    preset: Preset, data: TrainingData, parts: Parts, folder: Path, settings: Settings, features: Path,
    device: torch.device | None, log: Callable[[str], None], progress,
) -> None:  # fmt: skip
    """Make `folder` hold the finished run: kept, taken from another study, continued, or trained."""
    key = run_key(preset, data, parts)
    name = "/".join(folder.parts[-2:])
    if (folder / CHECKPOINT).exists() or (folder / STATE).exists():
        if _key_of(folder) != key:
            raise AesError(f"{folder} holds a run of another preset or data; choose another --out")
        if (folder / CHECKPOINT).exists():
            log(f"{name}: kept")
            return
    elif (other := _finished(settings.reuse, key)) is not None:
        log(f"{name}: taken from {other}")
        _take(other, folder)
        return
    resume = (folder / STATE).exists()
    log(f"{name}: {'continued' if resume else 'started'}")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / KEY, {"key": key})
    train_model(
        preset, data, parts, folder, features=features, device=device, resume=resume, log=log, progress=progress
    )  # fmt: skip


def _key_of(folder: Path) -> str | None:
    try:
        return json.loads((folder / KEY).read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return None


def _finished(folders: Iterable[Path], key: str) -> Path | None:
    for folder in folders:
        for path in sorted(folder.glob(f"*/*/{KEY}")):
            if _key_of(path.parent) == key and (path.parent / CHECKPOINT).exists():
                return path.parent
    return None


def _take(source: Path, folder: Path) -> None:
    """Copy a run, as hard links where the file system allows it; the folder appears whole."""
    staging = folder.with_name(f".{folder.name}-{os.getpid()}")
    staging.parent.mkdir(parents=True, exist_ok=True)

    def link(src: str, dst: str) -> None:
        try:
            os.link(src, dst)
        except OSError:
            shutil.copy2(src, dst)

    shutil.copytree(source, staging, copy_function=link)
    os.replace(staging, folder)


def _compare_categories(study: Study, preset: Preset, data: TrainingData, out: Path) -> str:
    """categories.csv and its figure, over all folds that have been run; a sentence on the trend."""
    attributes = preset.model.attributes
    truth = dict(
        zip(
            [sample.name for sample in data.pictures.samples],
            attribute_table(data.pictures.samples, preset.model),
            strict=True,
        )
    )
    tested: dict[str, list[dict[str, Any]]] = {}
    for variant in study.variants:
        for path in sorted((out / variant.name).glob("*/test_*.json")):
            if (path.parent / CHECKPOINT).exists():
                tested.setdefault(variant.row, []).extend(json.loads(path.read_text(encoding="utf-8")))
    before = tested.pop(study.reference, [])
    changes = {row: changes_of_rows(attributes, truth, before, after) for row, after in tested.items()}
    write_whole({out / "categories.csv": categories_csv(changes)})
    write_trend(changes, out)
    return as_sentence(changes)


def describe(study: Study, settings: Settings, data: TrainingData) -> None:
    """OUT/study.json: what the table's page needs to say how it was made; paths by their last part only."""
    values: dict[str, Any] = {
        "study": study.name,
        "preset": settings.preset,
        "changes": list(settings.changes),
        "data": [path.name for path in settings.sources],
        "images": None if settings.images is None else settings.images.name,
        "datasets": {dataset.name: len(dataset) for dataset in data.datasets},
        "folds": list(settings.folds),
        "version": __version__,
    }
    staging = settings.out / f"{STUDY}.{os.getpid()}"
    write_json(staging, values)
    os.replace(staging, settings.out / STUDY)
