"""`aes eval --report DIR`: metrics.json, predictions.csv, figures as PNG and SVG, and index.html that shows them.

Decides which figures an evaluation allows and says what is left out. Knows nothing about the command line.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aescli.errors import AesError
from aescli.evaluation.estimates import Subset
from aescli.evaluation.result import Evaluation
from aescli.folders import unwritable, whole_folder, write_text

if TYPE_CHECKING:
    from aescli.evaluation.report.heatmaps import FrequencyMaps
    from aescli.evaluation.report.page import Picture
    from aescli.evaluation.utilisation import ExpertCounter, Utilisation

PAGE, METRICS, PREDICTIONS = "index.html", "metrics.json", "predictions.csv"
HEATMAP_IMAGES = 4


def prepare(folder: Path, repeats: Sequence[Path] = ()) -> None:
    """Say what would keep the report from being written, before anything slow is done; makes nothing.

    Raises AesError without matplotlib, for a folder that cannot be made or holds other things than an earlier report,
    and for a repeat that holds no metrics.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise AesError("--report needs matplotlib: pip install 'aescli[report]'") from None
    where = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not where.is_dir() or not os.access(where, os.W_OK | os.X_OK):
        why = "no folder" if not where.is_dir() else "not writable"
        raise AesError(f"--report {folder}: cannot be made: {where} is {why}; give another folder")
    if where == folder.absolute():
        ours = {PAGE, METRICS, PREDICTIONS, *(f"{name}.{end}" for name in _FIGURES for end in ("png", "svg"))}
        held = sorted(path.name for path in folder.iterdir())
        other = [name for name in held if name not in ours]
        if other or (held and not _is_report(folder)):
            raise AesError(
                f"--report {folder}: holds {(other or held)[0]}, which is of no report of aes eval, and a report "
                "replaces its folder; give another one"
            )
    for repeat in repeats:
        _read_repeat(repeat)


def _is_report(folder: Path) -> bool:
    try:
        _read_repeat(folder)
    except AesError:
        return False
    return True


def expert_counter(model: str | None, task: str | None) -> ExpertCounter | None:
    """What counts the routing of the model's outputs; None for a model without experts."""
    from aescli.evaluation.utilisation import ExpertCounter
    from aescli.models.checkpoint import chosen_model

    checkpoint = _checkpoint(chosen_model(model, task))
    config = None if checkpoint is None else getattr(checkpoint.model, "config", None)
    same = getattr(config, "same", None)
    return None if same is None else ExpertCounter(same.top_k)


def write_report(
    evaluation: Evaluation,
    folder: Path,
    *,
    model: str | None = None,
    faces: str = "auto",
    utilisation: Mapping[str, Utilisation] | None = None,
    repeats: Sequence[Path] = (),
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write everything under `folder`, whole or not at all, and return the page's path.

    model: the checkpoint that made the predictions, for the frequency heat maps; None = leave them out. faces: as
    it was scored. utilisation: task → use of the experts. repeats: report folders of other folds or repeats of the
    same measurement, for the box plots. note: gets a line for whatever had to be left out.
    Raises AesError for a repeat that holds no metrics.
    """
    prepare(folder, repeats)
    utilisation = utilisation or {}
    spread = _over_repeats(evaluation, repeats)
    try:
        with whole_folder(folder) as staging:
            _write_all(evaluation, staging, model, faces, utilisation, spread, note)
    except OSError as error:
        raise unwritable(folder, error) from None
    return folder / PAGE


def _write_all(
    evaluation: Evaluation,
    folder: Path,
    model: str | None,
    faces: str,
    utilisation: Mapping[str, Utilisation],
    spread: Mapping[str, Sequence[float | None]],
    note: Callable[[str], None],
) -> None:
    from aescli.evaluation.report import page, style

    with style.styled():
        pictures = _pictures(evaluation, folder, utilisation, spread)
        maps, more = _heatmaps(evaluation, folder, model, faces, note)
    values = evaluation.to_dict()
    values["experts"] = {
        task: {"n": use.n, "probability": use.probability.tolist(), "kept": use.kept.tolist()}
        for task, use in utilisation.items()
    }
    values["frequency_influence"] = maps.influence if maps else {}
    values["repeats"] = spread
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / METRICS, text)
    _write_predictions(evaluation, folder / PREDICTIONS)
    html = page.render(evaluation, pictures + more, _thumbnails(evaluation, note))
    write_text(folder / PAGE, html)


_FIGURES = {
    "prediction_truth": (
        "Prediction against truth",
        "Dashed: no error. Above and right how often each score occurs; below the residual, prediction − truth.",
    ),
    "confusion": (
        "Confusion matrix",
        "Images by true and predicted class; shade and per cent: share of the true class.",
    ),
    "score_distributions": ("Score distributions", "True scores filled, predicted ones as a line."),
    "labels": ("Labels", "True scores of the measured images, and their classes."),
    "categories": (
        "Scale categories",
        "Above the rank correlation among the images of one category, with its 95 % interval; below the mean error.",
    ),
    "attributes": (
        "Categories of the attributes",
        "Share of the images in each scale category of each rated attribute.",
    ),
    "experts": (
        "Use of the experts",
        "How the mixture of experts routed the measured images, for each task.",
    ),
    "groups": ("Subgroups", "Value and 95 % interval in each subgroup of the measured images."),
    "repeats": ("Spread over repeats", "Boxes: quartiles and range; a point for each repeat or fold."),
    "frequency": (
        "What the detail enhancement module sees",
        "Four maps: mean activation of the module's output with none, one or both frequency bands let through. "
        "Last two: magnitude of the bands themselves. Each map has a scale of its own, blue low, red high.",
    ),
}
"""name of the files → title and caption, in the order of the page."""


def _pictures(
    evaluation: Evaluation,
    folder: Path,
    utilisation: Mapping[str, Utilisation],
    spread: Mapping[str, Sequence[float]],
) -> list[Picture]:
    import numpy as np

    from aescli.evaluation.metrics import confusion
    from aescli.evaluation.report import figures

    test, scale = evaluation.main.data, evaluation.scale
    train = None if evaluation.train is None else evaluation.train.data
    drawn: dict[str, Any] = {"prediction_truth": figures.prediction_truth(test, train, scale)}
    if test.pred_class is not None and test.true_class is not None:
        drawn["confusion"] = figures.confusion_matrix(
            confusion(test.pred_class, test.true_class, test.classes)
        )
    drawn["score_distributions"] = figures.score_distributions(test, train, scale)
    drawn["labels"] = figures.label_distribution(test.true, scale, evaluation.cuts)
    if len(evaluation.categories) > 1:
        drawn["categories"] = figures.category_correlations(evaluation.categories)
    attributes = _attributes(evaluation)
    if attributes:
        drawn["attributes"] = figures.category_shares(attributes)
    if utilisation:
        drawn["experts"] = figures.expert_utilisation(utilisation)
    if evaluation.groups:
        drawn["groups"] = figures.group_estimates(evaluation.groups)
    if spread:
        drawn["repeats"] = figures.box_plots(
            {name: np.array(values, float) for name, values in spread.items()}, "folds or repeats"
        )
    return [_picture(figure, folder, name) for name, figure in drawn.items()]


def _picture(figure: Any, folder: Path, name: str, wide: bool = False) -> Picture:
    from aescli.evaluation.report.page import Picture
    from aescli.evaluation.report.style import save

    return Picture(name, *_FIGURES[name], save(figure, folder, name), wide)


def _attributes(evaluation: Evaluation) -> dict[str, Any]:
    """Attribute → counts of its scale categories, for data sets that rate several (AesMamba Fig. 2)."""
    import numpy as np

    from aescli.data.labels import category_cuts, score_to_class

    dataset = evaluation.dataset
    wanted = set(evaluation.main.images)
    samples = [sample for sample in dataset.samples if sample.name in wanted]
    names = dict.fromkeys(name for sample in samples for name in sample.scores)
    if not names:
        return {}
    cuts = category_cuts(dataset.name, dataset.scale)
    columns = {"score": [s.score for s in samples]}
    columns |= {name: [s.scores[name] for s in samples if name in s.scores] for name in names}
    return {
        name: np.bincount(score_to_class(scores, cuts), minlength=len(cuts) + 1)
        for name, scores in columns.items()
    }


def _heatmaps(
    evaluation: Evaluation, folder: Path, model: str | None, faces: str, note: Callable[[str], None]
) -> tuple[FrequencyMaps | None, list[Picture]]:
    """The DEM's frequency maps over a few of the images, from the highest to the lowest prediction."""
    import numpy as np

    from aescli.evaluation.report import heatmaps

    checkpoint = _checkpoint(model)
    paths = _paths(evaluation)
    if checkpoint is None or not paths or not heatmaps.has_heatmaps(checkpoint):
        return None, []
    main = evaluation.main
    order = np.argsort(-main.data.pred, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(HEATMAP_IMAGES, len(order))).round().astype(int)]
    crops = heatmaps.face_crops(checkpoint, [paths[main.images[i]] for i in chosen], faces)
    if not len(crops):
        note("no frequency heat maps: no face was found in the chosen images")
        return None, []
    maps = heatmaps.frequency_maps(checkpoint, crops)
    picture = _picture(heatmaps.heatmap_figure(crops, maps), folder, "frequency", wide=True)
    return maps, [replace(picture, caption=f"{picture.caption} {maps.describe()}")]


def _thumbnails(evaluation: Evaluation, note: Callable[[str], None]) -> dict[str, Any]:
    from aescli.evaluation.report import gallery

    paths = _paths(evaluation)
    if not paths:
        note("the report has no thumbnails: the images were not looked for; name their folder with --images")
        return {}
    main = evaluation.main
    return {
        title: gallery.thumbnails(positions, main.images, paths, main.data.pred, main.data.true)
        for title, positions in gallery.extremes(main.data.pred, main.data.true).items()
    }


def _paths(evaluation: Evaluation) -> dict[str, Path]:
    if evaluation.dataset.notes.images is None:
        return {}
    return {sample.name: Path(sample.path) for sample in evaluation.dataset.samples}


def _checkpoint(spec: str | None) -> Any:
    """The checkpoint of a name or folder; None where it is none (an exported model has no such folder)."""
    from aescli.models.checkpoint import load_checkpoint

    if spec is None:
        return None
    try:
        return load_checkpoint(spec)
    except AesError:
        return None


def _over_repeats(evaluation: Evaluation, folders: Sequence[Path]) -> dict[str, list[float | None]]:
    """metric → its value here and in each of the other reports; empty without others."""
    if not folders:
        return {}
    tables = [{name: e.value for name, e in evaluation.main.metrics.items()}]
    tables += map(_read_repeat, folders)
    names = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: [None if _missing(t[name]) else t[name] for t in tables] for name in names}


def _read_repeat(folder: Path) -> dict[str, float | None]:
    """metric → value, of the report in `folder` or of its metrics.json. Raises AesError where there is none."""
    path = folder / METRICS if folder.is_dir() else folder
    try:
        subset = json.loads(path.read_text(encoding="utf-8"))["subsets"][0]
        return {name: e["value"] for name, e in subset["metrics"].items()}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise AesError(f"--repeat {folder}: holds no {METRICS} of an aes eval report") from None


def _missing(value: float | None) -> bool:
    return value is None or value != value


def _write_predictions(evaluation: Evaluation, path: Path) -> None:
    """A row per measured image; `aes eval --predictions` reads it again."""
    subsets: list[Subset] = [*evaluation.subsets, *([evaluation.train] if evaluation.train else [])]
    classes = evaluation.main.data.classes
    with_p = evaluation.main.data.probabilities is not None
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        header = ["image", "score", "class", "true_score", "true_class", "residual", "subset"]
        writer.writerow(header + ([f"p_{k + 1}" for k in range(classes)] if with_p else []))
        for subset in subsets:
            data = subset.data
            for i, name in enumerate(subset.images):
                row = [name, repr(float(data.pred[i])), data.pred_class[i] + 1, repr(float(data.true[i])),
                       data.true_class[i] + 1, repr(float(data.pred[i] - data.true[i])), subset.name]  # fmt: skip
                writer.writerow(row + ([repr(float(p)) for p in data.probabilities[i]] if with_p else []))
