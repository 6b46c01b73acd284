"""The last word of the score heads' linear skips: ridge regression in closed form on the trained encoder's features.

What gradient descent finds on a few thousand pictures varies with the order of the batches; a ridge regression on the
same features does not, and errs elsewhere. Their mean is again a network of the same shape. Its strength is chosen
before training, by leaving one picture out: afterwards the encoder knows the training pictures too well to ask.
Knows models with skips and features; knows nothing about how either came to be.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from aescli.training.losses import certainty
from aescli.training.teacher import kernel_ridge, standardised

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Ridge strengths tried, as shares of the kernel's mean diagonal."""


class ClosingRidge:
    """Ridge regression for every score head that has pictures in `train`, on standardised features.

    features: (pictures, d) of the encoder as it starts; they only choose `strengths`, {head: strength}. noise:
    `loss.rater_noise`.
    """

    def __init__(self, features: np.ndarray, targets, train: Sequence[int], noise: float) -> None:
        train = np.unique(np.asarray(train))
        score, head = targets.score.cpu().double().numpy(), targets.head.cpu().numpy()[train]
        weight = certainty(targets.noise.cpu().double(), noise).numpy()
        self.parts = {int(h): train[head == h] for h in np.unique(head)}
        self.scores = {h: score[rows] for h, rows in self.parts.items()}
        self.weights = {h: weight[rows] for h, rows in self.parts.items()}
        self.strengths = {}
        for h, rows in self.parts.items():
            z, *_ = standardised(features[rows])
            every = np.ones(len(rows), bool)
            _, self.strengths[h] = kernel_ridge(
                z @ z.T / z.shape[1], self.scores[h], self.weights[h], every, STRENGTHS
            )

    def solve(self, features: np.ndarray, head: int) -> tuple[np.ndarray, float]:
        """(d,) weights and bias on raw features (pictures, d): least Σ w (y − ȳ − z β / √d)² + λ‖β‖²."""
        z, mean, deviation = standardised(features[self.parts[head]])
        y, w = self.scores[head], self.weights[head]
        centre = np.average(y, weights=w)
        kernel = z @ z.T / z.shape[1]
        penalty = self.strengths[head] * kernel.diagonal().mean() / w
        slope = z.T @ np.linalg.solve(kernel + np.diag(penalty), y - centre) / z.shape[1] / deviation
        return slope, float(centre - mean @ slope)

    @torch.no_grad()
    def close(self, model: nn.Module, features: np.ndarray, share: float) -> None:
        """Make every score (1 − share) × the model's + share × the ridge regression's on features of its encoder now.

        features: (pictures, d), what the skips see of each picture.
        """
        skip, out = model.skips["regression"], model.heads["regression"].linear
        for h in self.parts:
            slope, bias = self.solve(features, h)
            out.weight[h] *= 1 - share
            out.bias[h] *= 1 - share
            skip.weight[h].lerp_(torch.from_numpy(slope).to(skip.weight), share)
            skip.bias[h].lerp_(torch.tensor(bias).to(skip.bias), share)
