"""Convolutions whose weights lie on a grid of a few bits, in training already, so that a checkpoint can store the bits.

Training keeps precise weights, works with the rounded ones and passes gradients straight through the rounding
(Bengio et al. 2013; Jacob et al. 2018, §3), so what is learnt, tested and shipped is the rounded model. Knows tensors
and convolutions; knows nothing about models or files.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

SMALLEST = 8_000
"""Smaller tensors cost nothing and matter most (early convolutions span a wide range)."""
WEIGHT, SCALE = ".weight", ".scale"


def best_scale(weight: Tensor, bits: int) -> Tensor:
    """(O, I, h, w) → (O, 1, 1, 1): step size per output channel of least squared error; > 0.

    Cutting off the few largest weights of a channel makes finer steps for all others.
    """
    top = 2 ** (bits - 1) - 1
    largest = weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    best = error = None
    for share in torch.linspace(0.5, 1.0, 11).tolist():
        scale = largest * share / top
        e = (on_grid(weight, scale, bits) - weight).square().sum((1, 2, 3), keepdim=True)
        best = scale if best is None else torch.where(e < error, scale, best)
        error = e if error is None else torch.minimum(e, error)
    return best


def steps(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Whole numbers −2^(bits−1)+1 … 2^(bits−1)−1, as float."""
    top = 2 ** (bits - 1) - 1
    return (weight / scale).round().clamp(-top, top)


def on_grid(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    return steps(weight, scale, bits) * scale


class RoundedConv2d(nn.Conv2d):
    """A convolution that works with its weights rounded to `bits` bits, on a grid fixed when it was made.

    scale: (O, 1, 1, 1), the step size of each output channel. Until `settle` has replaced the weights by the rounded
    ones, every forward pass rounds.
    """

    def __init__(self, conv: nn.Conv2d, bits: int, *, fit: bool = True) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            conv.groups, conv.bias is not None, device="meta",
        )  # fmt: skip
        self.weight, self.bias, self.bits, self.settled = conv.weight, conv.bias, bits, False
        scale = best_scale(conv.weight.detach(), bits) if fit else torch.ones(conv.out_channels, 1, 1, 1)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not self.settled:
            rounded = on_grid(weight.detach(), self.scale, self.bits)
            weight = weight + (rounded - weight).detach() if torch.is_grad_enabled() else rounded
        return self._conv_forward(x, weight, self.bias)

    @torch.no_grad()
    def settle(self) -> None:
        self.weight.copy_(on_grid(self.weight, self.scale, self.bits))
        self.settled = True


def round_convolutions(module: nn.Module, bits: int, *, fit: bool = True) -> None:
    """Replace every large convolution by a rounded one, in place. fit=False leaves the scales to be loaded."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and child.weight.numel() >= SMALLEST:
                setattr(parent, name, RoundedConv2d(child, bits, fit=fit))


def settle(module: nn.Module) -> None:
    """Put the weights of every rounded convolution on their grids for good."""
    for layer in module.modules():
        if isinstance(layer, RoundedConv2d):
            layer.settle()


def packed(state: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """A state dict whose rounded weights (those with a scale) are strings of `bits`-bit numbers, as uint8 (n,)."""
    result = dict(state)
    for name in state:
        if name.endswith(SCALE) and (weight := name.removesuffix(SCALE) + WEIGHT) in state:
            top = 2 ** (bits - 1) - 1
            numbers = steps(state[weight].float(), state[name].float(), bits).add(top).to(torch.uint8)
            each = np.unpackbits(numbers.contiguous().numpy().reshape(-1, 1), axis=1)[:, 8 - bits :]
            result[weight] = torch.from_numpy(np.packbits(each.reshape(-1)))
    return result


def unpack_into(state: dict[str, Tensor], model: nn.Module) -> None:
    """Replace packed weights in `state` by what a model's rounded convolutions hold; others stay as they are.

    Strings of another length than the convolution's stay, too: who loads them finds that shapes differ.
    """
    for name, layer in model.named_modules():
        key = name + WEIGHT
        if not isinstance(layer, RoundedConv2d) or key not in state or state[key].dtype != torch.uint8:
            continue
        count, bits, text = layer.weight.numel(), layer.bits, state[key].numpy()
        scale = state.get(name + SCALE)
        if scale is None or scale.shape != layer.scale.shape or text.size != -(-count * bits // 8):
            continue
        each = np.unpackbits(text, count=count * bits).reshape(-1, bits)
        numbers = np.packbits(each, axis=1)[:, 0] >> (8 - bits)
        value = torch.from_numpy(numbers.astype(np.float32)) - (2 ** (bits - 1) - 1)
        state[key] = value.view(layer.weight.shape) * scale.float()
