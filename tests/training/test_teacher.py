"""The teacher against scikit-learn and against refitting without each picture."""

import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.preprocessing import StandardScaler

from aescli.models.momamba import MoMambaOutput
from aescli.training import teacher
from aescli.training.config import LossConfig
from aescli.training.losses import MoMambaLoss


def _data(n=40, d=6):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) * rng.uniform(0.5, 3, d)
    y = 3 + np.sin(x[:, 0]) + 0.1 * rng.normal(size=n)
    return x, y, rng.uniform(0.4, 1, n)


def test_kernel_is_sklearns_rbf():
    x, *_ = _data()
    z = StandardScaler().fit_transform(x)
    expected = RBF(np.sqrt(z.shape[1] / 0.5))(z)
    np.testing.assert_allclose(teacher.rbf_kernel(x, 0.5), expected, atol=1e-10)


def test_answers_equal_a_gaussian_process_without_the_picture(monkeypatch):
    x, y, w = _data()
    monkeypatch.setattr(teacher, "STRENGTHS", (0.1,))
    fitted = np.arange(len(y)) < 30
    answers, strength = teacher.kernel_ridge(teacher.rbf_kernel(x, 0.5), y, w, fitted)
    assert strength == 0.1
    z = StandardScaler().fit_transform(x)
    mean = np.average(y[:30], weights=w[:30])

    def process(rows):
        fit = GaussianProcessRegressor(RBF(np.sqrt(6 / 0.5)), alpha=0.1 / w[rows], optimizer=None)
        return fit.fit(z[rows], y[rows] - mean)

    np.testing.assert_allclose(answers[30:], mean + process(np.arange(30)).predict(z[30:]), atol=1e-8)
    for left in (0, 7, 29):
        rows = np.setdiff1d(np.arange(30), [left])
        np.testing.assert_allclose(answers[left], mean + process(rows).predict(z[[left]])[0], atol=1e-8)


def test_unknown_opinions_cost_nothing():
    loss = MoMambaLoss(LossConfig(classification=0, regression=0, teacher=2.0), (2.0, 3.0))
    heads = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    output = MoMambaOutput(heads.mean(1), None, heads, {}, heads)
    opinions = torch.tensor([[1.5, torch.nan], [torch.nan, torch.nan]])
    terms = loss(output, torch.zeros(2), torch.ones(2), torch.zeros(2, dtype=torch.long), opinions)
    torch.testing.assert_close(terms["total"], torch.tensor(2.0 * 0.25))
    terms["total"].backward()
    assert (heads.grad != 0).tolist() == [[True, False], [False, False]]
