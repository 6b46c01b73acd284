"""A teacher in closed form: kernel ridge regression on frozen encoders' pooled features, one per score head.

It gives every training picture a second opinion for every head: of a picture that it was fitted on, what it says when
that one is left out; of another data set's, what it predicts. A network that learns both the ratings and these
opinions sees less of the ratings' noise, and each head sees all pictures. Knows features and targets; knows nothing
about the network's decoder or the optimisation.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import lapack
from torch import nn

from aescli.models.encoders import EncoderConfig, build_encoder, encoder_statistics
from aescli.models.momamba import pool_levels
from aescli.training.config import TeacherConfig
from aescli.training.features import LivePictures, features_key, pooled_features
from aescli.training.losses import certainty
from aescli.training.trainer import choose_dtype

STRENGTHS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
"""Ridge strengths tried, as shares of the kernel's mean diagonal."""


def standardised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, d) → the same with mean 0 and deviation 1 (float64), and the means and deviations (d,)."""
    mean = x.mean(0, dtype=np.float64)
    z = x - mean
    deviation = z.std(0)
    # As in the probe: an all but dead channel must not count as much as the others.
    deviation = np.maximum(deviation, 0.05 * deviation.mean() + 1e-6)
    z /= deviation
    return z, mean, deviation


def rbf_kernel(x: np.ndarray, gamma: float) -> np.ndarray:
    """exp(−γ/2 · mean squared distance of the standardised features): (n, d) → (n, n) float64."""
    z, *_ = standardised(x)
    square = np.einsum("ij,ij->i", z, z)
    distance = square[:, None] + square[None] - 2 * (z @ z.T)
    return np.exp(-0.5 * gamma * np.maximum(distance, 0) / z.shape[1])


def kernel_ridge(
    kernel: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    fitted: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[np.ndarray, float]:
    """Kernel ridge regression fitted on some rows, its answers for all, and the strength it chose.

    kernel (n, n), y (n,), weight (n,) > 0 certainty of y, fitted (n,) bool. Minimises Σ w (y − f)² + λ‖f‖². For the
    fitted rows the answers are leave-one-out ones, in closed form: y_i − α_i / (A⁻¹)_ii with A = K + λ W⁻¹ and
    α = A⁻¹ (y − mean). The strength has the least weighted leave-one-out error.
    """
    own, y, w = kernel[np.ix_(fitted, fitted)], y[fitted], weight[fitted]
    mean = np.average(y, weights=w)
    best = (np.inf, None, None, 0.0)
    for strength in strengths:
        inverse = _inverse(own + np.diag(strength * own.diagonal().mean() / w))
        alpha = inverse @ (y - mean)
        left_out = y - alpha / inverse.diagonal()
        error = float((w * (y - left_out) ** 2).sum())
        if error < best[0]:
            best = (error, alpha, left_out, strength)
    _, alpha, left_out, strength = best
    answers = mean + kernel[:, fitted] @ alpha
    answers[fitted] = left_out
    return answers, strength


def _inverse(a: np.ndarray) -> np.ndarray:
    """Of a symmetric positive definite matrix, in a third of the time that a general one's takes."""
    factor, failed = lapack.dpotrf(a, lower=True)
    if failed:
        raise np.linalg.LinAlgError("the kernel is not positive definite")
    inverse, _ = lapack.dpotri(factor, lower=True)
    return np.tril(inverse) + np.tril(inverse, -1).T


def teach(
    config: TeacherConfig,
    own: np.ndarray,
    pictures,
    targets,
    train: Sequence[int],
    heads: int,
    noise: float,
    device: torch.device,
    cache: Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> torch.Tensor:
    """(pictures, heads) float32 opinions; NaN for pictures outside `train` and heads without training pictures.

    own: (pictures, d) features of the model's own encoder as it starts; those of `config.encoders` come beside them.
    noise: `loss.rater_noise`.
    """
    train = np.unique(np.asarray(train))
    blocks = [(1.0, own)]
    for extra, share in zip(config.encoders, config.shares or [1.0] * len(config.encoders), strict=True):
        blocks.append((share, pooled_clean(_frozen(extra), pictures, device, cache, extra.image_size)))
    kernel = sum(share * rbf_kernel(x[train], config.gamma) for share, x in blocks)
    score, head = targets.score.cpu().double().numpy()[train], targets.head.cpu().numpy()[train]
    weight = certainty(targets.noise.cpu().double(), noise).numpy()[train]
    opinions = torch.full((len(pictures.samples), heads), torch.nan)
    for h in range(heads):
        own = head == h
        if own.any():
            answers, strength = kernel_ridge(kernel, score, weight, own)
            opinions[train, h] = torch.from_numpy(answers).float()
            r = np.corrcoef(answers[own], score[own])[0, 1]
            log(f"teacher of head {h}: ridge strength {strength:g}, leave-one-out Pearson's r {r:.4f}")
    return opinions


def _frozen(config: EncoderConfig) -> nn.Module:
    return build_encoder(config).eval().requires_grad_(False)


def pooled_clean(
    encoder: nn.Module, pictures, device: torch.device, cache: Path | None, size: int | None = None
) -> np.ndarray:
    """(n, Σ C_i) float32: pooled levels of every clean picture, the mean of it and its mirror image.

    size: of the encoder's input, None = the pictures' own. cache: a folder to keep them in, None = do not.
    """
    mean, std = encoder_statistics(encoder)
    size = size or pictures.preprocessing.size
    mine = pictures.prepared(replace(pictures.preprocessing, mean=mean, std=std, size=size))
    path = None
    if cache is not None:
        key = hashlib.sha256(f"mirrored {features_key(mine, encoder, None)}".encode()).hexdigest()[:16]
        path = cache / f"teacher-{key}.npy"
    encoder = encoder.to(device, memory_format=torch.channels_last).eval()
    dtype = choose_dtype("auto", device)

    def pooled(batch: list[torch.Tensor]) -> torch.Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            sides = encoder(batch[0]), encoder(batch[0].flip(-1))
        return sum(pool_levels([level.float() for level in side]) for side in sides) / 2

    batches = LivePictures(mine, None, device).batches(range(len(mine.samples)), 64, None)
    return pooled_features(pooled, batches, path)
