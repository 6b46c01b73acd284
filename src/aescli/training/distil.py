"""Learning from what a model knew before: its own first answers as targets, ratings brought to their scale.

A photo without a rating is worth what the model's pretrained classifier says of it, less a penalty where it was spoilt
on purpose. Ratings of another scale and of other raters are shifted to those answers' mean and deviation, so that one
score can follow both. Knows distributions over ratings; knows nothing about pictures, models or schedules.
"""

import torch
from torch import Tensor

_HALVINGS = 40
_STEEPEST = 6.0  # of the tilt, per bin


def tilted(p: Tensor, mean: Tensor, bins: Tensor) -> Tensor:
    """The distributions nearest to p (B, K) by Kullback–Leibler divergence with means `mean` (B,) over `bins` (K,).

    q_k ∝ p_k·exp(θ·b_k); the mean rises with θ, which is found by halving −6..6. A mean beyond is approached as far
    as that.
    """
    log_p, bins, mean = p.double().clamp_min(1e-12).log(), bins.double(), mean.double()
    low, high = torch.full_like(mean, -_STEEPEST), torch.full_like(mean, _STEEPEST)
    for _ in range(_HALVINGS):
        theta = (low + high) / 2
        below = torch.softmax(log_p + theta[:, None] * bins, 1) @ bins < mean
        low, high = torch.where(below, theta, low), torch.where(below, high, theta)
    return torch.softmax(log_p + ((low + high) / 2)[:, None] * bins, 1)


def calibrated(scores: Tensor, answers: Tensor, train: Tensor, bins: Tensor, spread: float) -> Tensor:
    """Target distributions (n, K) of rated pictures on the scale of the model's first answers.

    scores: (n,) on any scale, NaN where unknown (there the row is NaN). answers: (n, K) first answers to the same
    pictures. Mean and deviation are matched over `train` (bool), `spread` is a factor on the deviation; the shape is
    that of the mean answer, tilted.
    """
    known = train & scores.isfinite()
    own, said = scores[known].double(), answers[known].double() @ bins.double()
    factor = spread * said.std() / own.std().clamp_min(1e-9)
    wanted = said.mean() + factor * (scores.double() - own.mean())
    rows = scores.isfinite()
    out = torch.full_like(answers, torch.nan)
    typical = answers[known].mean(0, keepdim=True).expand(int(rows.sum()), -1)
    out[rows] = tilted(typical, wanted[rows], bins).to(out)
    return out
