"""Where half precision is not enough."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision values as float32, in which means over bins and losses are taken; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
