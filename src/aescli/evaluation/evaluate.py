"""Predictions against labels: which images count, on which scale, in which subsets, beside which others.

Composes joined predictions, overlap and metrics into one `Evaluation`; prints nothing and knows no command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING

from aescli import __version__
from aescli.data.datasets.base import Dataset, Sample, Scale
from aescli.errors import AesError, UsageError, named
from aescli.evaluation.attributes import measure_attributes
from aescli.evaluation.class_columns import settle_classes
from aescli.evaluation.estimates import METRICS, Subset, by_category, measure, train_test_gap
from aescli.evaluation.predictions import Joined, PredictedRow, PredictedRows, join, outside
from aescli.evaluation.result import ALL, CLEAN, TRAIN_PART, TRAINING, Comparison, Evaluation, Gap

if TYPE_CHECKING:
    from aescli.evaluation.bootstrap import Predictions
    from aescli.evaluation.overlap import Overlap


def evaluate(
    predicted: PredictedRows,
    dataset: Dataset,
    *,
    keep: Sequence[int] | None = None,
    train: Sequence[int] | None = None,
    against: PredictedRows | None = None,
    cuts: Sequence[float] | None = None,
    above: float | None = None,
    overlap: Callable[[Dataset], Overlap] | None = None,
    group_by: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    part: str = "",
) -> Evaluation:
    """Measure predictions against the data set's labels.

    Labels are mapped linearly to the predictions' declared scale (the labels' own where none is declared).
    keep: positions in the data set of the images that count; None = all.
    train: positions of the training part, measured beside them. against: other predictions, compared on the main
    subset. cuts: class boundaries on the predictions' scale, above: the score there above which an image is good;
    default: the data set's own rules. overlap: finds the training images among the data set's files; they are
    measured apart. group_by: a label column (or fold, split): a subset for each of its values, within the main
    subset. resamples: 0 = no intervals. part: what `keep` is called, such as "fold 1".
    Raises AesError when no labelled image has a score (also in `against`, in the training part), UsageError for a
    column that does not exist.
    """
    import numpy as np

    from aescli.data.labels import category_cuts, class_cuts, good_above, map_scale
    from aescli.evaluation.compare import gap_p

    scale = predicted.scale or dataset.scale
    usual = map_scale(class_cuts(dataset.name, dataset.scale), dataset.scale, scale)
    cuts = tuple(float(cut) for cut in (usual if cuts is None else cuts))
    predicted = settle_classes(predicted, cuts)
    everything = join(predicted, dataset)
    joined = everything if keep is None else everything.within(dataset, keep)
    if not joined.positions:
        raise _no_score(joined, dataset, predicted)
    notes = [*predicted.notes, *joined.notes]
    if scale != dataset.scale:
        notes.append(
            f"labels mapped linearly from {_range(dataset.scale)} to the predictions' {_range(scale)}: "
            "MAE and RMSE are on that scale"
        )
    elif predicted.scale is None:
        notes.append(
            f"predictions taken to be on the labels' scale {_range(scale)}; MAE and RMSE depend on it"
        )
    notes += outside(joined, predicted.scale or scale, predicted.source)
    if len(cuts) != len(usual) or not np.allclose(cuts, usual):
        shown = [", ".join(f"{cut:g}" for cut in values) for values in (cuts, usual)]
        notes.append(f"classes cut at {shown[0]}; usual for {dataset.name}: {shown[1]}")
    if above is None:
        above = float(map_scale(good_above(dataset.name, dataset.scale), dataset.scale, scale))
    elif not scale[0] <= above < scale[1]:
        raise UsageError(f"--good-above {above:g}: must lie on the scale {_range(scale)}, below its end")

    samples = [dataset.samples[i] for i in joined.positions]
    data = _arrays(joined, dataset, predicted.source, scale, scale, cuts, above, notes)
    names = [sample.name for sample in samples]
    if len(data) > 1 and np.array_equal(data.pred, data.true):
        notes.append(
            f"all {len(data)} predictions equal their labels exactly: does {predicted.source} hold the labels?"
        )
    found = overlap(Dataset(dataset.name, samples, dataset.scale, dataset.notes)) if overlap else None
    trained = np.zeros(len(samples), dtype=bool)
    if found is not None:
        trained[found.all] = True
        if not found.all:
            notes.append("overlap with training images checked: none found")
        if found.near:
            near = named("near-duplicates of training images", [names[i] for i in found.near], 5)
            notes.append(f"{near}: counted as training data")
    clean, dirty = np.flatnonzero(~trained), np.flatnonzero(trained)
    if not len(clean):
        notes.append(
            "the model was trained on every one of these images: the figures say nothing about unseen ones"
        )

    def subset(name: str, keep: np.ndarray) -> Subset:
        part = data.subset(keep)
        return Subset(name, [names[i] for i in keep], measure(part, resamples, seed), part)

    subsets = [subset(CLEAN if len(dirty) else ALL, clean)] if len(clean) else []
    if len(dirty):
        subsets.append(subset(TRAINING, dirty))
    main = clean if len(clean) else dirty
    groups, chance = [], {}
    if group_by:
        group_by, values = group_values(samples, group_by)
        known, numbers = np.unique([values[i] for i in main], return_inverse=True)
        groups = [subset(f"{group_by}={value}", main[numbers == k]) for k, value in enumerate(known)]
        if resamples and len(groups) > 1:
            chance = gap_p(data.subset(main), numbers, min(resamples, 1_000), seed)
    whole = subsets[0].data
    attributes, remarks = measure_attributes(
        [joined.rows[i] for i in main],
        [samples[i] for i in main],
        dataset.scale,
        scale,
        resamples,
        seed,
        declared=predicted.attributes_declared,
    )
    notes += remarks
    bounds = map_scale(category_cuts(dataset.name, dataset.scale), dataset.scale, scale).tolist()
    result = Evaluation(
        dataset=dataset, predictions=predicted.source, scale=scale, cuts=cuts, above=above, subsets=subsets,
        groups=groups, gaps=_gaps(groups, chance), joined=joined,
        categories=by_category(whole, bounds, scale, resamples, seed),
        attributes=attributes, notes=notes, overlap_checked=overlap is not None,
        provenance={
            "part": part or ("all images" if keep is None else "chosen images"),
            "resamples": resamples, "seed": seed, "version": __version__, "date": date.today().isoformat(),
        },
    )  # fmt: skip
    if train is not None:
        rest = everything.within(dataset, train)
        if not rest.positions:
            raise AesError(
                f"no image of the training part has a score in {predicted.source}; score those images too"
            )
        arrays = _arrays(rest, dataset, predicted.source, scale, scale, cuts, above, [])
        metrics, result.gap = train_test_gap(arrays, whole, resamples, seed)
        result.train = Subset(TRAIN_PART, [dataset.samples[i].name for i in rest.positions], metrics, arrays)
    if against is not None:
        positions = [joined.positions[i] for i in main]
        result.comparison = _compare(whole, positions, against, dataset, result, resamples, seed)
    return result


def _compare(
    data: Predictions,
    positions: Sequence[int],
    against: PredictedRows,
    dataset: Dataset,
    result: Evaluation,
    resamples: int,
    seed: int,
) -> Comparison:
    """`data` (the images at `positions`) beside the other predictions of the same images, on `data`'s scale."""
    import numpy as np

    from aescli.data.labels import map_scale
    from aescli.evaluation.compare import compare
    from aescli.evaluation.metrics import delta_m

    source = against.scale or dataset.scale
    against = settle_classes(against, map_scale(result.cuts, result.scale, source).tolist())
    other = join(against, dataset).within(dataset, positions)
    if not other.positions:
        raise AesError(f"{against.source} predicts none of the images that {result.predictions} predicts")
    result.notes += [*against.notes, *outside(other, source, against.source)]
    second = _arrays(other, dataset, against.source, source, result.scale, result.cuts, result.above, [])
    where = {position: i for i, position in enumerate(positions)}
    first = data.subset(np.array([where[position] for position in other.positions]))
    differences = compare(first, second, resamples, seed)
    missing = len(positions) - len(other.positions)
    if missing:
        result.notes.append(f"{missing} images are not in {against.source}: the comparison leaves them out")
    if against.scale is None:
        result.notes.append(f"{against.source} taken to be on the labels' scale {_range(dataset.scale)}")
    both = [{name: getattr(d, side) for name, d in differences.items()} for side in ("first", "second")]
    complete = all({"ACC", "F1", "AP"} <= set(values) for values in both)
    known = complete and not any(math.isnan(values["AP"]) for values in both)
    return Comparison(against.source, len(first), differences, delta_m(*both) if known else None)


def _arrays(
    joined: Joined,
    dataset: Dataset,
    origin: str,
    source: Scale,
    scale: Scale,
    cuts: Sequence[float],
    above: float,
    notes: list[str],
) -> Predictions:
    """Joined predictions of `origin` (on `source`) and their labels, on `scale`; what was decided goes to `notes`."""
    import numpy as np

    from aescli.data.labels import map_scale, rated_class
    from aescli.evaluation.bootstrap import Predictions
    from aescli.evaluation.metrics import distribution_distances

    rows, samples = joined.rows, [dataset.samples[i] for i in joined.positions]
    pred = map_scale([row.score for row in rows], source, scale)
    true = map_scale([sample.score for sample in samples], dataset.scale, scale)
    classes = len(cuts) + 1
    widths = {len(row.probabilities) for row in rows}
    probabilities = np.array([row.probabilities for row in rows]) if widths == {classes} else None
    if widths != {0} and probabilities is None:
        notes.append(f"AP left out: the predictions have {_list(widths)} probabilities for {classes} classes")
    elif probabilities is None:
        notes.append("AP left out: it needs the class probabilities p_1, p_2, … (aes score --probabilities)")
    stated = [row.best_class for row in rows]
    wrong = [row for row in rows if row.best_class is not None and not 0 <= row.best_class < classes]
    if wrong and widths <= {0, classes}:
        raise _no_class(wrong[0], classes, origin)
    if wrong:
        notes.append(f"the column 'class' is not used: there are {classes} classes, and it has others")
    elif None in stated and any(value is not None for value in stated):
        notes.append(f"the column 'class' is not used: {stated.count(None)} rows have none")
    if not wrong and None not in stated:
        pred_class = np.array(stated, dtype=np.int64)
        agree = float((pred_class == rated_class(pred, cuts)).mean())
        if probabilities is None and agree < 0.5:
            shown = ", ".join(f"{cut:g}" for cut in cuts)
            notes.append(
                f"the column 'class' has other boundaries than {shown} ({agree:.0%} agree with the scores); "
                "name them with --cuts"
            )
    elif probabilities is not None:
        pred_class = probabilities.argmax(axis=1)
        notes.append("predicted classes taken from the largest probability")
    else:
        pred_class = rated_class(pred, cuts)
        shown = ", ".join(f"{cut:g}" for cut in cuts)
        notes.append(f"predicted classes taken from the scores, cut at {shown}")
    distances = None
    counts = [sample.counts for sample in samples]
    if all(counts) and len(widths) == 1 and {len(row) for row in counts} == widths:
        distances = distribution_distances([row.probabilities for row in rows], counts)
        notes.append(f"EMD compares p_1 … p_{min(widths)} with the distribution of the ratings")
    true_class = rated_class(true, cuts)
    return Predictions(pred, true, pred_class, true_class, probabilities, distances, classes, above)


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


def _gaps(groups: Sequence[Subset], chance: dict[str, float]) -> dict[str, Gap]:
    from aescli.evaluation.metrics import largest_gap

    gaps = {}
    for name in METRICS:
        found = largest_gap({g.name: g.metrics[name].value for g in groups if name in g.metrics})
        if found is not None:
            gaps[name] = Gap(*found, chance.get(name, math.nan))
    return gaps


def _no_score(joined: Joined, dataset: Dataset, predicted: PredictedRows) -> AesError:
    """Why nothing can be measured, with a name of either side."""
    text = f"no labelled image of {dataset.notes.source} has a score in {predicted.source}"
    left = joined.ambiguous + [str(problem) for problem in joined.unscored]
    if left:
        return AesError(f"{text}; the first: {left[0]}")
    one = f"; the labels name {joined.unpredicted[0]}" if joined.unpredicted else ""
    other = f", the predictions {joined.unlabelled[0]}" if joined.unlabelled else ""
    return AesError(f"{text}{one}{other if one else ''}")


def _no_class(row: PredictedRow, classes: int, source: str) -> AesError:
    where = source if row.line is None else f"{source}:{row.line}"
    return AesError(
        f"{where}: {row.path}: class {row.best_class + 1}, counted from 1, and there are {classes}; give their "
        "boundaries with --cuts, or rename the column 'class'"
    )


def _range(scale: Scale) -> str:
    return f"{scale[0]:g}–{scale[1]:g}"


def _list(values: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(values)))
