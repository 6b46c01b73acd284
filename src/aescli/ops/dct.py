"""Two-dimensional DCT by matrix products, and the split of a feature map into low and high frequencies.

Matrix products run on any device, differentiate, and export as MatMul; no FFT is needed at these sizes.
It knows nothing about the detail-enhancement module that uses it.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=64)
def _dct_matrix(n: int) -> Tensor:
    k = torch.arange(n, dtype=torch.float64).unsqueeze(1)
    i = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi * (i + 0.5) * k / n) * (2.0 / n) ** 0.5
    matrix[0] /= 2.0**0.5
    return matrix


def dct_matrix(n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """The orthonormal DCT-II matrix M (n, n): M @ x is the DCT of x, M.T @ X its inverse. n ≥ 1."""
    if n < 1:
        raise ValueError(f"dct_matrix: the size must be at least 1, got {n}")
    return _dct_matrix(n).to(device=device, dtype=dtype, copy=True)


def dct2(x: Tensor) -> Tensor:
    """Orthonormal 2-D DCT-II over the last two dimensions of x (..., H, W); half types go through float32."""
    return _both_axes(x, inverse=False)


def idct2(X: Tensor) -> Tensor:
    """Inverse of `dct2`: coefficients (..., H, W) → samples (..., H, W)."""
    return _both_axes(X, inverse=True)


def high_frequency_mask(h: int, w: int, alpha: float) -> Tensor:
    """Which DCT coefficients count as high: bool (h, w), True in the bottom-right corner (MoMamba §3.2).

    Whole anti-diagonals, at least one, so many that the number of coefficients is nearest to alpha·h·w
    (the smaller number on a tie): 14x14 → 10, 16x16 → 15, 7x7 → 3 for alpha = 0.05. 0 ≤ alpha ≤ 1.
    """
    if h < 1 or w < 1:
        raise ValueError(f"high_frequency_mask: the map must be at least 1x1, got {h}x{w}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"high_frequency_mask: alpha must lie in 0..1, got {alpha}")
    # With numpy, so that a model's exporter sees a finished mask and not how it comes about.
    from_corner = np.add.outer(np.arange(h)[::-1], np.arange(w)[::-1])  # (h, w)
    counts = np.bincount(from_corner.ravel()).cumsum()  # coefficients in the first k+1 diagonals
    diagonals = int(np.abs(counts - alpha * h * w).argmin()) + 1
    return torch.from_numpy(from_corner < diagonals)


def split_frequencies(x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Split maps x (..., H, W) into (high, low) of the same shape, with high + low = x (MoMamba §3.2).

    Each is the inverse DCT of the coefficients under `high_frequency_mask` and its complement.
    """
    mask = high_frequency_mask(*x.shape[-2:], alpha).to(x.device)
    coefficients = dct2(x)
    high = idct2(coefficients * mask)
    return high, idct2(coefficients * ~mask)


def _both_axes(x: Tensor, inverse: bool) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (dct_matrix(n, dtype, x.device) for n in x.shape[-2:])
        if inverse:
            rows, columns = rows.T, columns.T
        return (rows @ x.to(dtype) @ columns.T).to(x.dtype)
