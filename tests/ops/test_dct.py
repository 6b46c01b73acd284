import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn

from aescli.ops.dct import dct2, dct_matrix, high_frequency_mask, idct2, split_frequencies


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 40), w=st.integers(1, 40), seed=st.integers(0, 1000))
def test_transforms_are_scipy_orthonormal_type_2(h, w, seed):
    x = np.random.default_rng(seed).standard_normal((2, 3, h, w))
    np.testing.assert_allclose(dct2(torch.tensor(x)).numpy(), dctn(x, axes=(2, 3), norm="ortho"), atol=1e-12)
    np.testing.assert_allclose(
        idct2(torch.tensor(x)).numpy(), idctn(x, axes=(2, 3), norm="ortho"), atol=1e-12
    )


@pytest.mark.parametrize("n", [1, 2, 7, 14, 64])
def test_matrix_is_orthonormal(n):
    matrix = dct_matrix(n, torch.float64)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64), atol=1e-13, rtol=0)


def test_a_changed_matrix_does_not_change_the_next_one():
    dct_matrix(5, torch.float64).zero_()
    assert dct_matrix(5, torch.float64).abs().sum() > 0


@pytest.mark.parametrize(
    ("h", "w", "alpha", "count"),
    [
        (14, 14, 0.05, 10),
        (16, 16, 0.05, 15),
        (7, 7, 0.05, 3),
        (7, 7, 0.0, 1),  # at least one diagonal
        (1, 1, 0.05, 1),
        (14, 14, 1.0, 196),
        (2, 5, 0.3, 3),  # diagonals of 1, 2, 2, 2, 2, 1
    ],
)
def test_mask_counts(h, w, alpha, count):
    mask = high_frequency_mask(h, w, alpha)
    assert mask.dtype == torch.bool
    assert tuple(mask.shape) == (h, w)
    assert int(mask.sum()) == count


@given(h=st.integers(1, 20), w=st.integers(1, 20), alpha=st.floats(0, 1))
def test_mask_is_the_nearest_whole_set_of_corner_diagonals(h, w, alpha):
    mask = high_frequency_mask(h, w, alpha).numpy()
    distance = np.add.outer(np.arange(h)[::-1], np.arange(w)[::-1])
    taken = distance[mask].max()
    assert (mask == (distance <= taken)).all()
    sizes = [(distance <= k).sum() for k in range(h + w - 1)]
    assert abs(mask.sum() - alpha * h * w) == min(abs(s - alpha * h * w) for s in sizes)


def test_split_adds_up_and_separates():
    x = torch.randn(2, 3, 14, 10, dtype=torch.float64)
    high, low = split_frequencies(x, 0.05)
    mask = high_frequency_mask(14, 10, 0.05)
    torch.testing.assert_close(high + low, x)
    torch.testing.assert_close(dct2(high)[..., ~mask], torch.zeros(2, 3, int((~mask).sum())).double())
    torch.testing.assert_close(dct2(low)[..., mask], torch.zeros(2, 3, int(mask.sum())).double())
    assert high.abs().max() > 1e-3


def test_flat_maps_have_no_high_frequencies():
    high, low = split_frequencies(torch.full((1, 1, 14, 14), 3.0), 0.05)
    assert high.abs().max() < 1e-5
    torch.testing.assert_close(low, torch.full((1, 1, 14, 14), 3.0))


def test_gradients_in_float64():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: split_frequencies(x, 0.1), (x,))


def test_autocast_and_half_types_go_through_float32():
    x = torch.randn(1, 4, 14, 14)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dct2(x)
    assert torch.equal(inside, dct2(x))
    half = dct2(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, dct2(x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize(("h", "w", "alpha"), [(0, 4, 0.1), (4, 0, 0.1), (4, 4, -0.1), (4, 4, 1.1)])
def test_senseless_masks_are_refused(h, w, alpha):
    with pytest.raises(ValueError, match="high_frequency_mask"):
        high_frequency_mask(h, w, alpha)


def test_senseless_matrix_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        dct_matrix(0)
