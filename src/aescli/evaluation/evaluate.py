"""Predictions against labels: which images count, on which scale, in which subsets, with which intervals.

Composes readers, the scoring pipeline, overlap and metrics into one `Evaluation`; prints nothing and knows no
command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aescli.data.datasets.base import Dataset, Sample, Scale
from aescli.errors import AesError, UsageError
from aescli.evaluation.predictions import Joined, PredictedRows, from_results, join

if TYPE_CHECKING:
    from aescli.evaluation.bootstrap import Predictions
    from aescli.evaluation.overlap import Overlap
    from aescli.scoring.predictor import Predictor

ALL, CLEAN, TRAINING = "all", "clean", "TRAINING DATA"
METRICS = ("ACC", "F1", "AP", "PLCC", "SRCC", "KRCC", "MAE", "RMSE", "R2", "EMD", "F1_macro", "AP_macro")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value with its 95 % bootstrap interval; NaN where not defined or not asked for."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Subset:
    """name: "all", "clean", "TRAINING DATA", or "column=value" for a subgroup of the main subset."""

    name: str
    images: list[str]
    metrics: dict[str, Estimate]

    @property
    def n(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class Gap:
    """How far apart the subgroups are in one metric."""

    value: float
    largest: str
    smallest: str


@dataclass(slots=True)
class Evaluation:
    """Everything that `aes eval` tells. `subsets[0]` is the one to quote unless it is the training data."""

    dataset: Dataset
    predictions: str
    scale: Scale
    cuts: tuple[float, ...]
    subsets: list[Subset]
    groups: list[Subset]
    gaps: dict[str, Gap]
    joined: Joined
    notes: list[str] = field(default_factory=list)
    overlap_checked: bool = False

    def warnings(self, limit: int = 5) -> list[str]:
        """What was left out or kept apart, for a person: a line of a count and the first names each."""
        out = []
        training = next((subset for subset in self.subsets if subset.name == TRAINING), None)
        if training:
            out.append(f"TRAINING DATA: {_named('images', training.images, limit)} kept apart")
        for what, items in (
            ("labelled images without a prediction", self.joined.unpredicted),
            ("labelled images that could not be scored", [str(p) for p in self.joined.unscored]),
            ("predictions without a label", self.joined.unlabelled),
            ("ambiguous matches left out", self.joined.ambiguous),
        ):
            if items:
                out.append(_named(what, items, limit))
        return out

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: NaN becomes None, and every name that was left out is there."""

        def subset(item: Subset, names: bool) -> dict[str, Any]:
            values = {
                name: {"value": _json(e.value), "low": _json(e.low), "high": _json(e.high)}
                for name, e in item.metrics.items()
            }
            return {"subset": item.name, "n": item.n, "metrics": values} | (
                {"images": item.images} if names else {}
            )

        return {
            "dataset": self.dataset.name,
            "data": str(self.dataset.notes.source),
            "predictions": self.predictions,
            "scale": list(self.scale),
            "class_cuts": list(self.cuts),
            "overlap_checked": self.overlap_checked,
            "subsets": [subset(item, item.name == TRAINING) for item in self.subsets],
            "groups": [subset(item, False) for item in self.groups],
            "gaps": {
                name: {"value": gap.value, "largest": gap.largest, "smallest": gap.smallest}
                for name, gap in self.gaps.items()
            },
            "labels": self.dataset.notes.to_dict(),
            "unpredicted": self.joined.unpredicted,
            "unscored": [str(problem) for problem in self.joined.unscored],
            "unlabelled_predictions": self.joined.unlabelled,
            "ambiguous": self.joined.ambiguous,
            "notes": self.notes,
        }


def predict(
    predictor: Predictor,
    dataset: Dataset,
    *,
    source: str,
    faces: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    step: Callable[[int], None] = lambda n: None,
) -> PredictedRows:
    """Score the data set's images exactly as `aes score` does. `step` is called with the images done."""
    from aescli.data.finding import Found
    from aescli.runtime import available_cpus
    from aescli.scoring.pipeline import score_images
    from aescli.scoring.prepare import Preparer
    from aescli.scoring.rows import Layout

    batches = score_images(
        (Found(str(sample.path)) for sample in dataset.samples),
        Preparer(predictor.preprocessing, faces),
        predictor,
        batch_size=batch_size or predictor.batch_size,
        workers=workers or available_cpus(),
    )
    results = []
    for batch in batches:
        step(len(batch))
        results += batch
    layout = Layout(
        predictor.classes,
        scale=tuple(predictor.scale),
        cuts=tuple(predictor.cuts),
        distribution=predictor.distribution,
    )
    return from_results(source, results, layout)


def evaluate(
    predicted: PredictedRows,
    dataset: Dataset,
    *,
    keep: Sequence[int] | None = None,
    cuts: Sequence[float] | None = None,
    overlap: Callable[[Dataset], Overlap] | None = None,
    group_by: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Measure predictions against the data set's labels.

    Labels are mapped linearly to the predictions' declared scale (the labels' own where none is declared).
    keep: positions in the data set of the images that count; None = all.
    cuts: class boundaries on that scale; default: the data set's own rule. overlap: finds the training images
    among the data set's files; they are measured apart. group_by: a label column (or fold, split): a subset
    for each of its values, within the main subset. resamples: 0 = no intervals.
    Raises AesError when no labelled image has a score, UsageError for a column that does not exist.
    """
    import numpy as np

    from aescli.data.labels import class_cuts, map_scale

    joined = join(predicted, dataset)
    if keep is not None:
        joined = joined.within(dataset, keep)
    if not joined.positions:
        raise AesError(
            f"no labelled image of {dataset.notes.source} has a score in {predicted.source}"
            + _first(joined.ambiguous + [str(p) for p in joined.unscored] + joined.unpredicted)
        )
    notes = [*predicted.notes, *joined.notes]
    scale = predicted.scale or dataset.scale
    if scale != dataset.scale:
        notes.append(
            f"labels mapped linearly from {_range(dataset.scale)} to the predictions' {_range(scale)}: "
            "MAE and RMSE are on that scale"
        )
    elif predicted.scale is None:
        notes.append(
            f"predictions taken to be on the labels' scale {_range(scale)}; MAE and RMSE depend on it"
        )
    usual = map_scale(class_cuts(dataset.name, dataset.scale), dataset.scale, scale)
    cuts = tuple(float(cut) for cut in (usual if cuts is None else cuts))
    if len(cuts) != len(usual) or not np.allclose(cuts, usual):
        shown = [", ".join(f"{cut:g}" for cut in values) for values in (cuts, usual)]
        notes.append(f"classes cut at {shown[0]}; {dataset.name}'s own cuts are {shown[1]}")

    samples = [dataset.samples[i] for i in joined.positions]
    data = _arrays(joined, samples, dataset, scale, cuts, notes)
    names = [sample.name for sample in samples]
    found = overlap(Dataset(dataset.name, samples, dataset.scale, dataset.notes)) if overlap else None
    trained = np.zeros(len(samples), dtype=bool)
    if found is not None:
        trained[found.all] = True
        if found.near:
            near = _named("near-duplicates of training images", [names[i] for i in found.near], 5)
            notes.append(f"{near}: counted as training data")
    clean, dirty = np.flatnonzero(~trained), np.flatnonzero(trained)
    if not len(clean):
        notes.append(
            "the model was trained on every one of these images: the figures say nothing about unseen ones"
        )

    def subset(name: str, keep: np.ndarray) -> Subset:
        return Subset(name, [names[i] for i in keep], measure(data.subset(keep), resamples, seed))

    subsets = [subset(CLEAN if len(dirty) else ALL, clean)] if len(clean) else []
    if len(dirty):
        subsets.append(subset(TRAINING, dirty))
    main = clean if len(clean) else dirty
    groups = []
    if group_by:
        group_by, values = group_values(samples, group_by)
        for value in sorted({values[i] for i in main}):
            members = np.array([i for i in main if values[i] == value])
            groups.append(subset(f"{group_by}={value}", members))
    return Evaluation(
        dataset=dataset, predictions=predicted.source, scale=scale, cuts=cuts, subsets=subsets, groups=groups,
        gaps=_gaps(groups), joined=joined, notes=notes, overlap_checked=overlap is not None,
    )  # fmt: skip


def measure(data: Predictions, resamples: int, seed: int = 0) -> dict[str, Estimate]:
    """Every metric that the predictions allow, in the order of `METRICS`, with intervals."""
    from aescli.evaluation.bootstrap import bootstrap
    from aescli.evaluation.metrics import classification_metrics, regression_metrics

    values = dict(regression_metrics(data.pred, data.true))
    if data.pred_class is not None and data.true_class is not None:
        values |= classification_metrics(
            data.pred_class, data.true_class, data.probabilities, classes=data.classes
        )
    if data.distances is not None:
        values["EMD"] = float(data.distances.mean())
    values = {name: values[name] for name in METRICS if name in values}
    if resamples < 1 or len(data) < 2:
        return {name: Estimate(value) for name, value in values.items()}
    samples = bootstrap(data, resamples, seed)
    return {
        name: Estimate(value, *samples.interval(name))
        if name in samples.values and not math.isnan(value)
        else Estimate(value)
        for name, value in values.items()
    }


def _arrays(joined, samples, dataset: Dataset, scale: Scale, cuts, notes: list[str]) -> Predictions:
    import numpy as np

    from aescli.data.labels import map_scale, score_to_class
    from aescli.evaluation.bootstrap import Predictions
    from aescli.evaluation.metrics import distribution_distances

    rows = joined.rows
    pred = np.array([row.score for row in rows])
    true = map_scale([sample.score for sample in samples], dataset.scale, scale)
    classes = len(cuts) + 1
    widths = {len(row.probabilities) for row in rows}
    probabilities = np.array([row.probabilities for row in rows]) if widths == {classes} else None
    if widths != {0} and probabilities is None:
        notes.append(f"AP left out: the predictions have {_list(widths)} probabilities for {classes} classes")
    elif probabilities is None:
        notes.append("AP left out: it needs the class probabilities p_1, p_2, … (aes score --probabilities)")
    stated = [row.best_class for row in rows]
    if all(value is not None and 0 <= value < classes for value in stated):
        pred_class = np.array(stated, dtype=np.int64)
    elif probabilities is not None:
        pred_class = probabilities.argmax(axis=1)
        notes.append("predicted classes taken from the largest probability")
    else:
        pred_class = score_to_class(pred, cuts)
        shown = ", ".join(f"{cut:g}" for cut in cuts)
        notes.append(f"predicted classes taken from the scores, cut at {shown}")
    distances = None
    counts = [sample.counts for sample in samples]
    if all(counts) and len(widths) == 1 and {len(row) for row in counts} == widths:
        distances = distribution_distances([row.probabilities for row in rows], counts)
        notes.append(f"EMD compares p_1 … p_{min(widths)} with the distribution of the ratings")
    return Predictions(pred, true, pred_class, score_to_class(true, cuts), probabilities, distances, classes)


def group_values(samples: Sequence[Sample], name: str) -> tuple[str, list[str]]:
    """(the column as it is spelt, its value for each sample; "(none)" where there is none).

    Columns are the labels' further ones, fold and split. Raises UsageError that lists them.
    """
    keys = dict.fromkeys(key for sample in samples for key in sample.group)
    columns: dict[str, list] = {key: [sample.group.get(key) for sample in samples] for key in keys}
    for key in ("fold", "split"):
        values = [getattr(sample, key) for sample in samples]
        if key not in columns and any(value is not None for value in values):
            columns[key] = values
    spelt = next((key for key in columns if key.casefold() == name.casefold()), None)
    if spelt is None:
        have = f"choose from {', '.join(columns)}" if columns else "the labels have no further columns"
        raise UsageError(f"--group-by {name}: there is no such column; {have}")
    return spelt, ["(none)" if value in (None, "") else str(value) for value in columns[spelt]]


def _gaps(groups: Sequence[Subset]) -> dict[str, Gap]:
    from aescli.evaluation.metrics import largest_gap

    gaps = {}
    for name in METRICS:
        found = largest_gap({g.name: g.metrics[name].value for g in groups if name in g.metrics})
        if found is not None:
            gaps[name] = Gap(*found)
    return gaps


def _named(what: str, items: Sequence[str], limit: int) -> str:
    rest = f", and {len(items) - limit} more" if len(items) > limit else ""
    return f"{len(items)} {what} ({', '.join(items[:limit])}{rest})"


def _first(items: Sequence[str]) -> str:
    return f"; the first: {items[0]}" if items else ""


def _range(scale: Scale) -> str:
    return f"{scale[0]:g}–{scale[1]:g}"


def _list(values: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(values)))


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value
