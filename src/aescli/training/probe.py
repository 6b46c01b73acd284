"""A linear model of the encoder's pooled levels, in closed form: where the heads' skips start.

Of the two kinds of features that a skip sees it uses the means; the deviations start at zero.
Ridge regression for the scores, one per score head; for the classes, ridge regression of log odds of the soft labels.
The decoder's own heads start at zero beside it. Knows models with skips and batches; knows nothing about data sets.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from aescli.models.momamba import pool_levels
from aescli.training.features import pooled_features
from aescli.training.losses import certainty, soft_classes

_VIEWS = (None, 0)  # the clean pictures and one augmented version of each


STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
_FOLDS = 3


def ridge(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, strengths: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weighted ridge regression on standardised features: x (n, d), y (n, k), weight (n,) → [(k, d), (k,)] each.

    Minimises Σ w (y − z β − b)² / Σ w + strength·‖β‖² with z the standardised features; β is given for raw x.
    """
    w = weight / weight.sum()
    mean = w @ x
    deviation = np.sqrt(w @ (x - mean) ** 2)
    # A channel that is all but dead here may not be dead elsewhere: it must not get a huge weight.
    deviation = np.maximum(deviation, 0.01 * deviation.mean() + 1e-6)
    z = (x - mean) / deviation
    centre = w @ y
    weighted = z * w[:, None]
    gram, product = weighted.T @ z, weighted.T @ (y - centre)
    solutions = []
    for strength in strengths:
        regularised = gram + strength * np.eye(len(gram), dtype=gram.dtype)
        beta = np.linalg.solve(regularised, product) / deviation[:, None]  # (d, k)
        solutions.append((beta.T, centre - mean @ beta))
    return solutions


def ridge_cv(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, picture: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Ridge regression whose strength (of `STRENGTHS`) has the least cross-validated squared error.

    picture (n,) numbers the picture of each row: views of one picture are never parted. Returns β, b, strength.
    """
    part = np.random.default_rng(0).permutation(picture.max() + 1)[picture] % _FOLDS
    error = np.zeros(len(STRENGTHS))
    for k in range(_FOLDS):
        fit, test = part != k, part == k
        for number, (beta, bias) in enumerate(ridge(x[fit], y[fit], weight[fit], STRENGTHS)):
            error[number] += (weight[test, None] * (y[test] - x[test] @ beta.T - bias) ** 2).sum()
    best = STRENGTHS[int(error.argmin())]
    return *ridge(x, y, weight, [best])[0], best


def fit_skips(
    model: nn.Module,
    source,
    targets,
    train: Sequence[int],
    cuts: Sequence[float],
    sigma: float,
    noise: float,
) -> dict[str, float]:
    """Set the skips to the linear solution on the training pictures and the decoder's heads to zero.

    Returns the ridge strengths that cross-validation within `train` chose.
    """
    model.eval()
    cache = source.folder
    everything = np.arange(len(targets.score))

    def pooled(view: int | None) -> np.ndarray:
        return pooled_features(
            lambda batch: pool_levels(model.encoder.upper(source.states(model.encoder, batch))),
            source.batches(everything, 64, view),
            cache and cache / f"pooled-{'clean' if view is None else view}.npy",
        )

    x = np.concatenate([pooled(view)[train] for view in _VIEWS])
    score = targets.score.cpu().numpy()[train].astype(np.float64)
    head = targets.head.cpu().numpy()[train]
    weight = certainty(targets.noise.cpu(), noise).numpy()[train]
    repeat = len(_VIEWS)
    picture = np.tile(np.arange(len(train)), repeat)
    score, head, weight = np.tile(score, repeat), np.tile(head, repeat), np.tile(weight, repeat)
    score, weight = score.astype(np.float32), weight.astype(np.float32)
    chosen: dict[str, float] = {}
    if "regression" in model.skips:
        skip = model.skips["regression"]
        for h in range(skip.out_features):
            own = head == h
            if own.any():
                beta, bias, chosen[f"head {h}"] = ridge_cv(
                    x[own], score[own, None], weight[own], picture[own]
                )
                _assign(skip, h, beta, bias)
        _zero(model.heads["regression"])
    if "classification" in model.skips:
        width = max(sigma, 0.3)  # log odds of hard labels are infinite
        soft = soft_classes(torch.tensor(score), torch.tensor(cuts), width).numpy()
        log_odds = np.log(soft.clip(0.01)) - np.log(soft.clip(0.01)).mean(1, keepdims=True)
        beta, bias, chosen["classes"] = ridge_cv(x, log_odds, weight, picture)
        for c in range(len(beta)):
            _assign(model.skips["classification"], c, beta[c : c + 1], bias[c : c + 1])
        _zero(model.heads["classification"])
    return chosen


def _assign(skip: nn.Linear, row: int, beta: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        skip.weight[row].zero_()
        skip.weight[row, : beta.shape[1]] = torch.from_numpy(beta[0]).to(skip.weight)
        skip.bias[row] = float(bias[0])


def _zero(head: nn.Module) -> None:
    nn.init.zeros_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
