"""A data set's images scored by a model exactly as `aes score` does, as predictions, and what its card says of them.

Knows the scoring pipeline and checkpoint folders; knows nothing about labels' values or metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aescli.data.datasets.base import Dataset
from aescli.errors import AesError, UsageError
from aescli.evaluation.overlap import Overlap, find_overlap
from aescli.evaluation.predictions import PredictedRows, from_results

if TYPE_CHECKING:
    from aescli.scoring.predictor import Predictor


@dataclass(frozen=True, slots=True)
class ModelScores:
    """A model's predictions. cuts: its class boundaries, None where it has none. overlap: finds its training
    images; None where it lists none."""

    spec: str
    rows: PredictedRows
    cuts: tuple[float, ...] | None
    overlap: Callable[[Dataset], Overlap] | None


def score_with(
    predictor: Predictor,
    dataset: Dataset,
    *,
    spec: str,
    faces: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    step: Callable[[int], None] = lambda n: None,
    observe: Callable[[Any], None] | None = None,
) -> ModelScores:
    """Score the data set's images.

    spec: the model's name or folder. step: called with the images done. observe: called with the model's whole
    output of each batch, if the predictor can. A model that reads what people wrote gets each sample's comment; a
    picture without one cannot be scored.

    Raises:
        UsageError: a model that reads comments, and no picture has one; faces for a model of whole images.
    """
    from aescli.data.finding import Found
    from aescli.models.exported import model_folder
    from aescli.runtime import available_cpus
    from aescli.scoring.pipeline import score_images
    from aescli.scoring.prepare import Preparer
    from aescli.scoring.rows import Layout

    if observe is not None and hasattr(predictor, "observe"):
        predictor.observe = observe
    batches = score_images(
        (Found(str(sample.path)) for sample in dataset.samples),
        Preparer(predictor.preprocessing, faces, text=_comments(predictor, dataset)),
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
        attributes=tuple(predictor.attributes),
    )
    rows = from_results(spec, results, layout)
    return ModelScores(spec, rows, tuple(predictor.cuts) or None, _training_images(model_folder(spec)))


def _comments(predictor: Predictor, dataset: Dataset) -> Callable[[str], str | None] | None:
    """What finds an image's comment; None where the model needs none (a prompt, as piaa's, is not a comment)."""
    if not predictor.reads_text or predictor.task == "piaa":
        return None
    written = {str(sample.path): sample.comment for sample in dataset.samples if sample.comment}
    if not written:
        raise UsageError(
            "this model reads comments, and no picture of --data has one; give labels with comments"
        )
    return written.get


def _training_images(folder: Any) -> Callable[[Dataset], Overlap] | None:
    from aescli.data.duplicates import default_cache
    from aescli.models.checkpoint import TRAINING_IMAGES

    hashes = folder / TRAINING_IMAGES
    if not hashes.is_file():
        return None
    tokens = hashes.read_text(encoding="ascii").split()

    def overlap(measured: Dataset) -> Overlap:
        try:
            return find_overlap([sample.path for sample in measured.samples], tokens, default_cache())
        except ValueError as error:
            raise AesError(f"{hashes}: {error}; take the list from the model's own folder") from None

    return overlap


def either(
    first: Callable[[Dataset], Overlap] | None, second: Callable[[Dataset], Overlap] | None
) -> Callable[[Dataset], Overlap] | None:
    """What at least one of two models was trained on."""
    if first is None or second is None:
        return first or second

    def overlap(measured: Dataset) -> Overlap:
        one, two = first(measured), second(measured)
        same = sorted({*one.same, *two.same})
        return Overlap(same, sorted({*one.near, *two.near} - set(same)))

    return overlap
