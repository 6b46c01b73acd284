"""An encoder whose feature maps are summed up as statistics: mean and deviation of every channel of every level.

Knows the encoders' interface; knows nothing about which encoder it wraps.
"""

import torch
from torch import Tensor, nn


def channel_statistics(levels: list[Tensor]) -> Tensor:
    """Mean and standard deviation over positions, level by level: [(B, C_i, H_i, W_i)] → (B, 2·ΣC_i, 1, 1) float32.

    Deviations tell texture, sharpness and noise, which a mean of deep features hardly knows (style statistics: Gatys
    et al., CVPR 2016).
    """
    parts = []
    for level in levels:
        level = level.float()
        parts += [level.mean((2, 3)), level.var((2, 3), correction=0).clamp_min(1e-8).sqrt()]
    return torch.cat(parts, 1)[:, :, None, None]


class PooledEncoder(nn.Module):
    """Wraps an encoder; its one level is `channel_statistics` of the inner one's levels.

    Its lower half sums up the levels that are frozen, so that cached features stay small. `last_mean` says where the
    means of the deepest level lie among the channels.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        total = 2 * sum(inner.channels)
        self.channels = [total]
        self.last_mean = slice(total - 2 * inner.channels[-1], total - inner.channels[-1])

    @property
    def net(self) -> nn.Module:
        return self.inner.net

    @property
    def cut(self) -> int:
        return self.inner.cut

    def set_cut(self, blocks: int) -> None:
        self.inner.set_cut(blocks)

    def lower(self, images: Tensor) -> list[Tensor]:
        """[the inner state, statistics of the levels below it], or the statistics of all where all is frozen."""
        if self.inner.whole and self.cut:
            return [channel_statistics(self.inner.lower(images))]
        state, *below = self.inner.lower(images)
        return [state, *([channel_statistics(below)] if below else [])]

    def upper(self, state: list[Tensor]) -> list[Tensor]:
        if self.inner.whole and self.cut:
            return state
        statistics = channel_statistics(self.inner.upper(state[:1]))
        return [torch.cat([*state[1:], statistics], 1)]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [channel_statistics(self.inner(images))]
