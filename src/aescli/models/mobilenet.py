"""MobileNetV1 (Howard et al. 2017, width 1.0) with TensorFlow's SAME padding and ReLU6.

The face and photo backbones that initialise the bundled models were converted from TensorFlow, so every stride-2
convolution pads right and bottom only; with symmetric padding the pretrained weights see shifted input.
Knows nothing about tasks or decoders.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
NORM_EPS = 1e-3  # TensorFlow's default, part of the pretrained weights


def _same_pad(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1, 0, 1))


class SeparableBlock(nn.Module):
    """Depth-wise 3×3, BN, ReLU6, point-wise 1×1, BN, ReLU6: (B, C, H, W) → (B, C', H/stride, W/stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        padding = 1 if stride == 1 else 0
        self.dw = nn.Conv2d(channels_in, channels_in, 3, stride, padding, groups=channels_in, bias=False)
        self.b1 = nn.BatchNorm2d(channels_in, eps=NORM_EPS)
        self.pw = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.b2 = nn.BatchNorm2d(channels_out, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            x = _same_pad(x)
        x = F.relu6(self.b1(self._depth_wise(x)), inplace=True)
        return F.relu6(self.b2(self.pw(x)), inplace=True)

    def _depth_wise(self, x: Tensor) -> Tensor:
        if self.stride == 1 or x.device.type != "cpu" or not (torch.is_grad_enabled() and x.requires_grad):
            return self.dw(x)
        # oneDNN's backward of a depth-wise convolution is three times as fast without a stride, four outputs for one.
        dense = F.conv2d(x, self.dw.weight, self.dw.bias, groups=self.dw.groups)
        return dense[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)


class MobileNetV1(nn.Module):
    """The thirteen separable blocks behind a stride-2 stem; no classifier. 3,206,976 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, 2, bias=False)
        self.bn = nn.BatchNorm2d(32, eps=NORM_EPS)
        channels = (32, *CHANNELS)
        self.blocks = nn.ModuleList(
            SeparableBlock(channels[i], channels[i + 1], STRIDES[i]) for i in range(13)
        )

    def stem(self, x: Tensor) -> Tensor:
        return F.relu6(self.bn(self.conv(_same_pad(x))), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, 1024, S/32, S/32)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


def fold_norms(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose BatchNorms are folded into the convolutions before them; the same function.

    Only where names pair them up as MobileNetV1 does (conv, bn; dw, b1; pw, b2); anything else is left alone.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for conv, norm in (("conv", "bn"), ("dw", "b1"), ("pw", "b2")):
            pair = getattr(module, conv, None), getattr(module, norm, None)
            if isinstance(pair[0], nn.Conv2d) and isinstance(pair[1], nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(*pair).to(memory_format=torch.channels_last))
                setattr(module, norm, nn.Identity())
    return model
