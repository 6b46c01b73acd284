"""The detail enhancement module against scipy's DCT and its own parts."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from aescli.models.dem import DEMConfig, DetailEnhancement


def _dem(**changes) -> DetailEnhancement:
    torch.manual_seed(0)
    return DetailEnhancement(4, DEMConfig(d_state=4, **changes)).eval()


def test_frequencies_agree_with_scipy():
    x = torch.randn(1, 4, 7, 7)
    split = _dem().frequencies(x)[0].detach().double().numpy()
    spectrum = dctn(x[0].double().numpy(), axes=(1, 2), norm="ortho")
    high = np.add.outer(np.arange(7), np.arange(7)) >= 11  # the corner's 3 coefficients at 7×7
    assert high.sum() == 3
    np.testing.assert_allclose(split[:4], idctn(spectrum * high, axes=(1, 2), norm="ortho"), atol=1e-6)
    np.testing.assert_allclose(split[4:], idctn(spectrum * ~high, axes=(1, 2), norm="ortho"), atol=1e-6)


def test_bands_add_up_to_the_input():
    x = torch.randn(2, 4, 14, 14)
    high, low = _dem().frequencies(x).chunk(2, 1)
    torch.testing.assert_close(high + low, x, atol=1e-5, rtol=1e-5)


def test_modes_replace_the_missing_band_by_the_input():
    x = torch.randn(1, 4, 7, 7)
    both = _dem().frequencies(x)
    for mode, kept in (("high", slice(0, 4)), ("low", slice(4, 8))):
        split = _dem(frequency=mode).frequencies(x)
        other = slice(4, 8) if mode == "high" else slice(0, 4)
        torch.testing.assert_close(split[:, kept], both[:, kept])
        torch.testing.assert_close(split[:, other], x)
    torch.testing.assert_close(_dem(frequency="none").frequencies(x), torch.cat([x, x], 1))


@pytest.mark.parametrize("shape", [(1, 4, 7, 7), (3, 4, 14, 14), (2, 4, 5, 9)])
def test_shape_is_kept(shape):
    assert _dem()(torch.randn(shape)).shape == shape


def test_every_part_receives_a_gradient():
    dem = _dem().train()
    dem(torch.randn(2, 4, 7, 7)).square().mean().backward()
    missing = [name for name, p in dem.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


def test_sub_blocks_matter():
    x = torch.randn(1, 4, 8, 8)
    one, four = _dem(sub_blocks=1), _dem(sub_blocks=4)
    four.load_state_dict(one.state_dict())
    assert not torch.allclose(one(x), four(x))


def test_normalised_states_are_bounded_whatever_the_input():
    for scale in (1.0, 1e4):
        captured = []
        dem = _dem(normalise=True)
        dem.fuse.register_forward_pre_hook(lambda _, inputs, kept=captured: kept.append(inputs[0]))
        dem(scale * torch.randn(2, 4, 7, 7))
        states = captured[0][:, 8:]
        assert states.square().mean().sqrt() < 1.01
    plain = DetailEnhancement(4, DEMConfig(d_state=4))
    assert not any("norm_" in name for name in plain.state_dict())  # the paper's has nothing to load
