"""A model's further scores (AesMamba-F's nine of PARA) against the labels' scores of the same names.

Knows joined predictions and samples; knows nothing about data sets' files or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from aescli.data.datasets.base import Sample, Scale
from aescli.evaluation.estimates import Subset, measure
from aescli.evaluation.predictions import PredictedRow

_RESAMPLES = 2_000  # enough for an interval's two digits; the score itself gets all that were asked for


def measure_attributes(
    rows: Sequence[PredictedRow],
    samples: Sequence[Sample],
    source: Scale,
    scale: Scale,
    resamples: int,
    seed: int,
    *,
    declared: bool = True,
) -> tuple[list[Subset], list[str]]:
    """(a subset for each attribute that is predicted and labelled, notes on those that cannot be measured).

    rows[i] predicts samples[i]. Labels are mapped linearly from `source` to `scale`, as for the score. An image
    without a label for an attribute does not count for it. declared: the rows' attributes are known to be such;
    otherwise those without labels are some tool's further columns, and nobody's concern.
    """
    import numpy as np

    from aescli.data.labels import map_scale
    from aescli.evaluation.bootstrap import Predictions

    names = list(dict.fromkeys(name for row in rows for name in row.attributes))
    found, missing, elsewhere, copied = [], [], [], []
    for name in names:
        pairs = [
            (sample.name, row.attributes[name], sample.scores[name])
            for row, sample in zip(rows, samples, strict=True)
            if name in row.attributes and math.isfinite(sample.scores.get(name, math.nan))
        ]
        if not pairs:
            missing.append(name)
            continue
        if not declared and all(said == true for _, said, true in pairs):
            copied.append(name)
            continue
        if not all(source[0] <= true <= source[1] for *_, true in pairs):
            elsewhere.append(name)
            continue
        images, predicted, true = zip(*pairs, strict=True)
        # As the score is: a model cannot mean what the scale does not have.
        data = Predictions(np.clip(np.array(predicted, float), *scale), map_scale(true, source, scale))
        found.append(Subset(name, list(images), measure(data, min(resamples, _RESAMPLES), seed), data))
    notes = []
    if elsewhere:
        notes.append(
            f"not measured, because their labels lie outside the score's scale of {source[0]:g}–{source[1]:g}: "
            f"{', '.join(elsewhere)}"
        )
    if copied:
        notes.append(
            f"not measured, because these columns of the predictions are the labels': {', '.join(copied)}"
        )
    if missing and declared:
        why = "not measured, because the labels do not name them:"
        alone = "measured is the score alone; the labels have no columns"
        notes.append(f"{why if found else alone} {', '.join(missing)}")
    if found and resamples > _RESAMPLES:
        notes.append(f"intervals of the attributes: {_RESAMPLES:,} draws")
    return found, notes
