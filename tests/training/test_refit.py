"""The closing ridge regression against scikit-learn, and what it makes of a model's scores."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.preprocessing import StandardScaler

from aescli.models.dem import DEMConfig
from aescli.models.encoders import EncoderConfig
from aescli.models.momamba import MoMamba, MoMambaConfig, mirrored, pool_statistics
from aescli.models.same import SAMEConfig
from aescli.training import refit
from aescli.training.losses import certainty
from aescli.training.momamba import Targets
from aescli.training.refit import ClosingRidge


def _data(n=60, d=9):
    rng = np.random.default_rng(0)
    x = (rng.normal(2, 1, (n, d)) * np.linspace(0.5, 3, d)).astype(np.float32)
    score = 3 + x @ rng.normal(size=d) / 6 + rng.normal(0, 0.5, n)
    head = torch.arange(n) % 2
    noise = torch.from_numpy(rng.uniform(0, 0.2, n)).float()
    return x, Targets(torch.from_numpy(score).float(), noise, head)


@pytest.mark.parametrize("scale", [0.0, 0.35])
def test_solution_is_scikit_learns_with_the_certainties_as_weights(monkeypatch, scale):
    monkeypatch.setattr(refit, "STRENGTHS", (0.7,))
    x, targets = _data()
    train = np.arange(10, 60)
    ridge = ClosingRidge(x, targets, train, scale)
    for head in (0, 1):
        rows = train[targets.head.numpy()[train] == head]
        y, w = targets.score.double().numpy()[rows], certainty(targets.noise.double()[rows], scale).numpy()
        scaler = StandardScaler().fit(x[rows].astype(np.float64))
        z = scaler.transform(x[rows]) / np.sqrt(x.shape[1])
        mean = np.average(y, weights=w)
        reference = Ridge(alpha=0.7, fit_intercept=False).fit(z, y - mean, sample_weight=w)
        slope, bias = ridge.solve(x, head)
        expected = mean + scaler.transform(x) @ reference.coef_ / np.sqrt(x.shape[1])
        np.testing.assert_allclose(x @ slope + bias, expected, atol=1e-5)


def test_strength_has_the_least_error_on_pictures_left_out():
    x, targets = _data()
    own = np.arange(0, 60, 2)
    ridge = ClosingRidge(x, targets, np.arange(60), 0.0)
    y = targets.score.double().numpy()[own]
    z = StandardScaler().fit_transform(x[own].astype(np.float64)) / 3
    errors = []
    for strength in refit.STRENGTHS:
        plain = Ridge(alpha=strength, fit_intercept=False)
        answers = y.mean() + cross_val_predict(plain, z, y - y.mean(), cv=LeaveOneOut())
        errors.append(((answers - y) ** 2).sum())
    assert ridge.strengths[0] == refit.STRENGTHS[int(np.argmin(errors))]


def _model():
    torch.manual_seed(0)
    return MoMamba(
        MoMambaConfig(
            encoder=EncoderConfig("mobilenetv1", (2, 4), image_size=32),
            width=8,
            dem=DEMConfig(d_state=2, sub_blocks=2),
            same=SAMEConfig(states=3, experts=2, rank_min=2, rank_step=1, top_k=1, task_rank=2, heads=2),
            score_heads=("one", "other", "nobody's"),
            head_skip=True,
            flip_average=True,
            mirror_scale=1.5,
        )
    ).eval()


@torch.inference_mode()
def test_scores_become_the_mean_of_both():
    model, images = _model(), torch.rand(60, 3, 32, 32)
    _, targets = _data()
    sides = (model.encoder(images), model.encoder(mirrored(images, 1.5)))
    features = (sum(pool_statistics(side) for side in sides) / 2).numpy()
    ridge = ClosingRidge(features, targets, np.arange(60), 0.0)
    closed = copy.deepcopy(model)
    ridge.close(closed, features, 0.25)
    before, after = model(images), closed(images)
    for head in (0, 1):
        slope, bias = ridge.solve(features, head)
        expected = 0.75 * before.head_scores[:, head] + 0.25 * torch.from_numpy(features @ slope + bias)
        torch.testing.assert_close(after.head_scores[:, head].double(), expected.double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.head_scores[:, 2], before.head_scores[:, 2])
    torch.testing.assert_close(after.logits, before.logits)
