"""The teacher against scikit-learn and against refitting without each picture."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.preprocessing import StandardScaler
from torch import nn

from aescli.models.checkpoint import Preprocessing
from aescli.models.encoders import EncoderConfig, build_encoder
from aescli.models.momamba import MoMambaOutput
from aescli.training import teacher
from aescli.training.config import LossConfig
from aescli.training.features import features_key, pooled_features
from aescli.training.losses import MoMambaLoss
from aescli.training.samples import Pictures, TrainingSample


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


def test_answers_equal_a_gaussian_process_without_the_picture():
    x, y, w = _data()
    fitted = np.arange(len(y)) < 30
    answers, strength = teacher.kernel_ridge(teacher.rbf_kernel(x, 0.5), y, w, fitted, (0.1,))
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


class _Encoder(nn.Module):
    """Two levels that see left and right; counts its calls."""

    cut, calls, levels = 0, 0, (1, 2)

    def forward(self, x):
        self.calls += 1
        return [x[..., : x.shape[-1] // 2], x.mean(1, keepdim=True) ** 2]


@pytest.fixture
def pictures(noise_pictures):
    return noise_pictures(3)


def test_features_are_of_both_sides_and_kept(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "encoder_statistics", lambda _: ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    encoder, device, cache = _Encoder(), torch.device("cpu"), tmp_path / "kept"
    first = teacher.pooled_clean(encoder, pictures, device, cache)
    x = np.stack([pictures.clean(i) for i in range(3)]) / 127.5 - 1
    expected = np.c_[x.mean((1, 2)), (x.mean(-1) ** 2).mean((1, 2))]
    np.testing.assert_allclose(first, expected, atol=1e-2)  # bfloat16 where the processor has it
    calls = encoder.calls
    np.testing.assert_array_equal(teacher.pooled_clean(encoder, pictures, device, cache), first)
    assert encoder.calls == calls
    np.testing.assert_array_equal(teacher.pooled_clean(encoder, pictures, device, None), first)
    assert encoder.calls > calls


def test_broken_off_writing_leaves_no_features_to_be_read(tmp_path, monkeypatch):
    batches, path = [[torch.ones(2, 3, 4, 4)]], tmp_path / "pooled.npy"

    def breaks_off(file, array):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            pooled_features(lambda batch: batch[0].mean((2, 3)), batches, path)
    assert not path.exists()
    np.testing.assert_array_equal(
        pooled_features(lambda batch: batch[0].mean((2, 3)), batches, path), np.ones((2, 3))
    )
    np.testing.assert_array_equal(pooled_features(None, None, path), np.ones((2, 3)))


def test_unknown_opinions_cost_nothing():
    loss = MoMambaLoss(LossConfig(classification=0, regression=0, teacher=2.0), (2.0, 3.0))
    heads = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    output = MoMambaOutput(heads.mean(1), None, heads, {}, heads, heads)
    opinions = torch.tensor([[1.5, torch.nan], [torch.nan, torch.nan]])
    terms = loss(output, torch.zeros(2), torch.ones(2), torch.zeros(2, dtype=torch.long), opinions)
    torch.testing.assert_close(terms["total"], torch.tensor(2.0 * 0.25))
    terms["total"].backward()
    assert (heads.grad != 0).tolist() == [[True, False], [False, False]]


def test_features_of_other_levels_are_other_features(tmp_path):
    Image.new("RGB", (16, 16), (90, 20, 40)).save(tmp_path / "a.png")
    pictures = Pictures(
        [TrainingSample("a", tmp_path / "a.png", 3.0, 0)], Preprocessing(size=16, faces=False)
    )
    keys = set()
    for pooling in ("maps", "statistics"):
        for levels in ((1, 2), (2,)):
            torch.manual_seed(0)
            encoder = build_encoder(EncoderConfig("mobilenetv1", levels, image_size=16, pooling=pooling))
            keys.add(features_key(pictures, encoder, None))
    assert len(keys) == 4
