"""`aes eval`: options, one call, printing. What is measured, and how, is `aescli.evaluation`'s."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aescli.cli.common import (
    BatchSizeOption,
    DeviceOption,
    DType,
    DTypeOption,
    ImageColumnOption,
    LabelScaleOption,
    Layout,
    LayoutOption,
    ModelOption,
    QuietOption,
    RatersOption,
    ScoreColumnOption,
    Task,
    TaskOption,
    WorkersOption,
    count,
    note,
    numbers,
    progress,
    scale_of,
)
from aescli.cli.eval_options import (
    AgainstOption,
    CutsOption,
    DataOption,
    EvalFaces,
    EvalFormat,
    EvalImagesOption,
    FacesOption,
    FoldOption,
    FormatOption,
    GoodAboveOption,
    GroupByOption,
    OutOption,
    PredictionColumnsOption,
    PredictionsOption,
    ReportOption,
    ReportsOption,
    ResamplesOption,
    ScaleOption,
    SeedOption,
    SplitOption,
    TrainPartOption,
    Variant,
    VariantOption,
)
from aescli.cli.personalized import (
    PersonalizedOption,
    RepeatsOption,
    SelectOption,
    ShotsOption,
    TestsOption,
    UserInfoOption,
    UsersOption,
)
from aescli.cli.score_outputs import require_outputs
from aescli.errors import AesError, UsageError
from aescli.folders import write_whole
from aescli.scoring.writers import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aescli.data.datasets import Dataset
    from aescli.evaluation.predict import ModelScores


_PREDICTION_FILES = (".csv", ".tsv", ".txt", *SUFFIXES)


def evaluate(
    data: DataOption,
    task: TaskOption = None,
    model: ModelOption = None,
    raters: RatersOption = None,
    predictions: PredictionsOption = None,
    images: EvalImagesOption = None,
    layout: LayoutOption = Layout.auto,
    variant: VariantOption = Variant.crops,
    fold: FoldOption = None,
    split: SplitOption = None,
    train_part: TrainPartOption = False,
    against: AgainstOption = None,
    group_by: GroupByOption = None,
    format: FormatOption = EvalFormat.table,
    out: OutOption = None,
    report: ReportOption = None,
    repeats: ReportsOption = None,
    image_column: ImageColumnOption = None,
    score_column: ScoreColumnOption = None,
    label_scale: LabelScaleOption = None,
    prediction_columns: PredictionColumnsOption = None,
    scale: ScaleOption = None,
    cuts: CutsOption = None,
    good_above: GoodAboveOption = None,
    faces: FacesOption = EvalFaces.auto,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 0,
    personalized: PersonalizedOption = False,
    shots: ShotsOption = None,
    users: UsersOption = None,
    tests: TestsOption = None,
    draws: RepeatsOption = None,
    select: SelectOption = None,
    user_info: UserInfoOption = None,
    batch_size: BatchSizeOption = "auto",
    workers: WorkersOption = "auto",
    device: DeviceOption = "auto",
    dtype: DTypeOption = DType.auto,
    quiet: QuietOption = False,
) -> None:
    """Measure how well scores agree with labels.

    ACC, F1, AP (weighted by support, and macro), accuracy of good against bad, PLCC, SRCC, KRCC, MAE, RMSE, R² and,
    where both sides have distributions, EMD, each with a 95 % bootstrap interval. Without --predictions a model
    scores the images first; images that it was trained on are named and kept apart. Labels without an image, images
    without a label, duplicates and unusable scores are counted and named on standard error, and all in --format
    json.

    Examples:
        aes eval --data scut-fbp5500/labels.csv --images scut-fbp5500/images --fold 1 --report out
        aes eval --predictions scores.csv --data labels.csv --against other.csv --format json
    """
    if personalized:
        among = out is not None and out.exists() and data.resolve() in out.resolve().parents
        # Which files of a folder are read is known later.
        _check_out(out, data, user_info, out if among else None, models=[model])
        _refuse(
            "--personalized measures a model on people's own ratings; leave out",
            ("--predictions", predictions), ("--raters", raters), ("--fold", fold), ("--split", split),
            ("--train-part", train_part), ("--against", against), ("--group-by", group_by), ("--report", report),
            ("--repeat", repeats), ("--image-column", image_column), ("--score-column", score_column),
            ("--label-scale", label_scale), ("--prediction-columns", prediction_columns), ("--scale", scale),
            ("--cuts", cuts), ("--good-above", good_above),
        )  # fmt: skip
        from aescli.cli.personalized import evaluate_personalized, make_plan

        plan = make_plan(shots, users, tests, draws, select, seed)
        measured = evaluate_personalized(
            data, images, layout.value, variant.value, user_info, plan, model=model, task=task, device=device,
            dtype=dtype.value, faces=faces.value, workers=workers, quiet=quiet,
        )  # fmt: skip
        from aescli.personalization import results

        form = {"table": results.as_table, "json": results.as_json, "csv": results.as_csv}[format.value]
        _emit(form(measured), out)
        return
    _refuse(
        "without --personalized there is no use for",
        ("--shots", shots), ("--users", users), ("--tests", tests), ("--repeats", draws), ("--select", select),
        ("--user-info", user_info),
    )  # fmt: skip
    if predictions is not None and model is not None:
        raise UsageError(
            "--predictions and --model exclude each other: a predictions file has its scores already"
        )
    if predictions is None and scale is not None:
        raise UsageError("--scale is for --predictions: a model knows its scale (labels: --label-scale)")
    against_model = against is not None and Path(against).suffix.lower() not in _PREDICTION_FILES
    if predictions is not None and not against_model:
        _refuse(
            "--predictions needs no model; leave out", ("--raters", raters),
            *((name, value != default and value) for name, value, default in (
                ("--faces", faces, EvalFaces.auto), ("--device", device, "auto"), ("--dtype", dtype, DType.auto),
                ("--batch-size", batch_size, "auto"), ("--workers", workers, "auto"),
            )),
        )  # fmt: skip
    if fold is not None and split is not None:
        raise UsageError("--fold and --split exclude each other")
    if train_part and fold is None and split is None:
        raise UsageError("--train-part is the other side of --fold or --split; give one of them")
    if repeats and report is None:
        raise UsageError("--repeat adds box plots to a report; give --report too")
    columns = (None, None) if prediction_columns is None else _columns(prediction_columns)
    wanted_cuts = None if cuts is None else numbers("--cuts", cuts)
    if wanted_cuts is not None and sorted(set(wanted_cuts)) != list(wanted_cuts):
        raise UsageError(f"--cuts {cuts}: the boundaries must ascend")
    predictions_scale = None if scale is None else scale_of("--scale", scale)
    labels_scale = None if label_scale is None else scale_of("--label-scale", label_scale)
    if report is not None:
        from aescli.evaluation.report import prepare

        prepare(report, repeats or [])  # what it lacks is said before the model works
    split_file = split.rpartition(":")[0] if split else None
    _check_out(out, data, predictions, split_file, models=[model, against])

    from aescli.runtime import keep_freed_memory, one_thread_per_operation

    if predictions is None or against_model:
        one_thread_per_operation()
        keep_freed_memory()

    from aescli.data.datasets import read_dataset
    from aescli.evaluation import overlap as overlaps
    from aescli.evaluation import tables
    from aescli.evaluation.evaluate import evaluate as measure
    from aescli.evaluation.evaluate import group_values
    from aescli.evaluation.predict import either
    from aescli.evaluation.predictions import read_predictions

    dataset = read_dataset(
        layout.value,
        data,
        images,
        match_images=predictions is None or images is not None or against_model,
        image_column=image_column,
        score_columns=[score_column] if score_column else [],
        scale=labels_scale,
        variant=variant.value,
    )
    for line in dataset.notes.lines():
        note(f"aes: {line}", quiet=quiet)
    _check_out(out, *dataset.notes.files)
    keep = _choose(dataset, fold, split)
    rest = None if keep is None else sorted(set(range(len(dataset))) - {int(i) for i in keep})
    if train_part and not rest:
        raise UsageError("--train-part: there are no other images in this data set")
    if group_by is not None:
        group_values(dataset.samples, group_by)  # a wrong name is said before the model works

    def scored(spec: str | None, measured: Dataset, observe=None) -> ModelScores:
        return _predict(
            measured, spec, raters, task, device, dtype, faces, batch_size, workers, observe, quiet=quiet
        )

    def rows_of(file: Path):
        return read_predictions(
            file, image_column=columns[0], score_column=columns[1], scale=predictions_scale
        )

    test = dataset if keep is None else dataset.subset(keep)
    overlap = counter = None
    if predictions is not None:
        predicted = rows_of(predictions)
    else:
        if report is not None:
            from aescli.evaluation.report import expert_counter

            counter = expert_counter(model, task)
        run = scored(model, test, counter)
        predicted, overlap = run.rows, run.overlap
        wanted_cuts = wanted_cuts or run.cuts
        if train_part:
            predicted = predicted.joined_with(scored(model, dataset.subset(rest)).rows)
    other = None
    if against_model:
        rival = scored(against, test)
        other, overlap = rival.rows, either(overlap, rival.overlap)
        if rival.overlap is not None:
            note(f"aes: images that {against} was trained on count as training data too", quiet=quiet)
    elif against is not None:
        other = rows_of(Path(against))
    result = measure(
        predicted,
        dataset,
        keep=keep,
        train=rest if train_part else None,
        against=other,
        cuts=wanted_cuts,
        above=good_above,
        overlap=overlap,
        group_by=group_by,
        resamples=resamples,
        seed=seed,
        part=f"fold {fold}" if fold is not None else f"split {Path(split).name}" if split is not None else "",
    )
    if overlap is None:
        result.notes += overlaps.of_unknown_training(
            dataset, keep, rest, "the model" if predictions is None else str(predictions)
        )
    for line in (*result.notes, *result.warnings()):
        note(f"aes: {line}", quiet=quiet)
    if report is not None:
        from aescli.evaluation.report import write_report

        page = write_report(
            result,
            report,
            model=None if predictions is not None else predicted.source,
            faces=faces.value,
            utilisation={} if counter is None else counter.result(),
            repeats=repeats or [],
            note=lambda line: note(f"aes: {line}", quiet=quiet),
        )
        note(f"aes: report: {page}", quiet=quiet)
    write = {"table": tables.as_table, "json": tables.as_json, "csv": tables.as_csv}[format.value]
    _emit(write(result), out)


def _refuse(why: str, *options: tuple[str, object]) -> None:
    """UsageError for the first option that was given."""
    for name, value in options:
        if value not in (None, False, []):
            raise UsageError(f"{why} {name}")


def _predict(
    dataset: Dataset,
    model: str | None,
    raters: str | None,
    task: Task | None,
    device: str,
    dtype: DType,
    faces: EvalFaces,
    batch_size: str,
    workers: str,
    observe,
    *,
    quiet: bool,
) -> ModelScores:
    """Scores of the data set's images by a model, with progress."""
    from aescli.evaluation.predict import score_with
    from aescli.models.checkpoint import chosen_model
    from aescli.runtime import available_cpus
    from aescli.scoring.predictor import load_predictor

    predictor = load_predictor(model, task=task, device=device, dtype=dtype.value, raters=raters)
    spec = chosen_model(model, task)
    with progress("img", quiet=quiet, total=len(dataset)) as step:
        scores = score_with(
            predictor,
            dataset,
            spec=spec,
            faces=faces.value,
            batch_size=count(batch_size, predictor.batch_size),
            workers=count(workers, available_cpus()),
            step=step,
            observe=observe,
        )
    if raters is None and dataset.name in _score_heads(spec):
        scores.rows.notes.append(
            f"the score is the mixture of all raters that {spec} knows; --raters {dataset.name} measures the head of "
            "these alone"
        )
    return scores


def _score_heads(spec: str) -> list[str]:
    """The training sets whose raters the model can score as; [] where that is not known."""
    import json

    from aescli.models.checkpoint import CONFIG
    from aescli.models.exported import model_folder

    try:
        config = json.loads((model_folder(spec) / CONFIG).read_text(encoding="utf-8"))
        return list(config["model"]["score_heads"])
    except (AesError, OSError, ValueError, KeyError, TypeError):
        return []


def _choose(dataset: Dataset, fold: int | None, split: str | None) -> Sequence[int] | None:
    """Positions of the images that were asked for; None = all."""
    from aescli.data import splits

    if fold is not None:
        return splits.official_fold(dataset, fold)[1]
    if split is None:
        return None
    file, _, part = split.rpartition(":")
    if file.endswith(".json"):
        return splits.Split.load(Path(file)).indices(dataset, part)
    return splits.named_split(dataset, split)


def _columns(text: str) -> tuple[str, str]:
    image, comma, score = text.partition(",")
    if not (image.strip() and comma and score.strip()):
        raise UsageError(f"--prediction-columns {text}: give two names, such as file,rating")
    return image.strip(), score.strip()


def _check_out(out: Path | None, *read: str | Path | None, models: Sequence[str | None] = ()) -> None:
    """AesError for a result that will find no place or would take that of an image or of what is `read`, before
    anything is measured."""
    if out is None or str(out) == "-":
        return
    require_outputs(
        str(out),
        None,
        [str(path) for path in read if path is not None],
        [str(m) for m in models if m is not None],
    )
    if out.is_dir():
        raise AesError(f"--out {out} is a folder; name a file in it")
    folder = Path(os.path.realpath(out)).parent
    if not folder.is_dir():
        raise AesError(f"--out {out} cannot be written: there is no folder {folder}; make it first")


def _emit(text: str, out: Path | None) -> None:
    """To standard output, or to a file that appears whole."""
    if out is None or str(out) == "-":
        # A name that is not UTF-8, or a terminal that is not, must not cost what was measured.
        encoding = sys.stdout.encoding or "utf-8"
        odd = "backslashreplace" if encoding.lower().replace("-", "") == "utf8" else "replace"
        sys.stdout.write(text.encode(encoding, odd).decode(encoding))
    else:
        write_whole({out: text})
