"""Detail enhancement module (MoMamba §3.2, Fig. 2): frequency split and Bi-Mamba over one feature map.

Knows nothing about encoders or tasks.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from aescli.models.mamba import BiMamba
from aescli.ops.dct import split_frequencies


@dataclass(frozen=True)
class DEMConfig:
    """alpha: share of DCT coefficients called high; sub_blocks: consecutive pieces that Bi-Mamba scans apart.

    normalise: LayerNorm before and after Bi-Mamba. Off is the paper's formula, in which nothing bounds that branch: a
    scan is cubic in its input, and in training it was seen to grow to 10⁴ times the frequencies that it is joined
    with.
    """

    alpha: float = 0.05
    sub_blocks: int = 4
    frequency: Literal["none", "low", "high", "both"] = "both"
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    normalise: bool = False


class ConvBNReLU(nn.Sequential):
    """3×3 convolution, batch normalisation, ReLU; spatial size kept."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class DetailEnhancement(nn.Module):
    """F_DEM = ConvBNReLU²(Concat(F_freq, F_ssm)): (B, C, H, W) → (B, C, H, W).

    F_freq concatenates the inverse DCTs of the high and the low band (2C). A band left out by `frequency` is
    replaced by the untouched map, so that the ablation (paper Table 9) compares equal widths: "none" is (F, F).
    """

    def __init__(self, channels: int, config: DEMConfig | None = None) -> None:
        super().__init__()
        self.config = config or DEMConfig()
        self.expand = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.mamba = BiMamba(
            2 * channels,
            sub_blocks=self.config.sub_blocks,
            d_state=self.config.d_state,
            d_conv=self.config.d_conv,
            expand=self.config.expand,
        )
        norm = nn.LayerNorm if self.config.normalise else nn.Identity
        self.norm_in, self.norm_out = norm(2 * channels), norm(2 * channels)
        self.fuse = nn.Sequential(ConvBNReLU(4 * channels, channels), ConvBNReLU(channels, channels))

    def frequencies(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 2C, H, W): the high and the low band (paper eq. for F_freq)."""
        mode = self.config.frequency
        if mode == "none":
            return torch.cat([x, x], 1)
        high, low = split_frequencies(x, self.config.alpha)
        return torch.cat([high if mode in ("high", "both") else x, low if mode in ("low", "both") else x], 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        sequence = self.expand(x).flatten(2).transpose(1, 2)  # (B, L, 2C)
        states = self.norm_out(self.mamba(self.norm_in(sequence))).transpose(1, 2).reshape(b, 2 * c, h, w)
        return self.fuse(torch.cat([self.frequencies(x), states], 1))
