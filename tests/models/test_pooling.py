"""Channel statistics against numpy; an encoder's two halves give what the whole gives, wherever it is cut."""

import numpy as np
import pytest
import torch

from aescli.models.encoders import EncoderConfig, build_encoder, encoder_statistics
from aescli.models.pooling import PooledEncoder, channel_statistics


def test_statistics_are_numpys():
    levels = [torch.randn(3, 4, 5, 6), torch.randn(3, 2, 1, 1)]
    out = channel_statistics(levels).squeeze((2, 3)).numpy()
    expected = [f(level.numpy(), axis=(2, 3)) for level in levels for f in (np.mean, np.std)]
    np.testing.assert_allclose(out, np.concatenate(expected, 1), atol=2e-4)


def test_a_constant_map_has_finite_gradients():
    level = torch.ones(2, 3, 4, 4, requires_grad=True)
    channel_statistics([level]).sum().backward()
    assert level.grad.isfinite().all()


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 6, 13])
def test_the_halves_are_the_whole(cut):
    encoder = build_encoder(
        EncoderConfig(name="mobilenetv1", levels=(2, 4, 6), image_size=32, pooling="statistics")
    ).eval()
    assert isinstance(encoder, PooledEncoder)
    assert encoder.channels == [2 * (128 + 256 + 512)]
    encoder.set_cut(min(cut, 6))
    x = torch.randn(2, 3, 32, 32)
    whole = encoder(x)[0]
    assert whole.shape == (2, encoder.channels[0], 1, 1)
    torch.testing.assert_close(encoder.upper(encoder.lower(x))[0], whole)
    torch.testing.assert_close(whole[:, encoder.last_mean, 0, 0], encoder.inners[0](x)[-1].mean((2, 3)))
    assert encoder_statistics(encoder) == encoder_statistics(encoder.inners[0])


def test_other_encoders_can_be_summed_up_too():
    encoder = build_encoder(EncoderConfig(name="resnet18", image_size=32, pooling="statistics")).eval()
    encoder.set_cut(1)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder.upper(encoder.lower(x))[0], encoder(x)[0])


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_tiny"])
def test_the_last_level_of_swin_and_convnext_is_normalised(name):
    encoder = build_encoder(EncoderConfig(name=name, image_size=64)).eval()
    last = encoder(torch.randn(1, 3, 64, 64))[-1]
    assert last.shape[1] == 768
    torch.testing.assert_close(last.mean(1), torch.zeros_like(last[:, 0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(last.var(1, correction=0), torch.ones_like(last[:, 0]), atol=1e-2, rtol=0)
