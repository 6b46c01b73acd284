"""Encoders whose feature maps are summed up as statistics: mean and deviation of every channel of every level.

Knows the encoders' interface; knows nothing about which encoders it wraps.
"""

from collections.abc import Sequence

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
    """Wraps one or more encoders of the same input; its one level is the `channel_statistics` of all their levels.

    Its lower half sums up the levels that are frozen, so that cached features stay small. `last_mean` says where the
    means of the first encoder's deepest level lie among the channels.
    """

    def __init__(self, inners: Sequence[nn.Module]) -> None:
        super().__init__()
        self.inners = nn.ModuleList(inners)
        self.channels = [2 * sum(sum(inner.channels) for inner in inners)]
        end = 2 * sum(inners[0].channels)
        self.last_mean = slice(end - 2 * inners[0].channels[-1], end - inners[0].channels[-1])

    @property
    def net(self) -> nn.Module:
        return self.inners[0].net

    @property
    def cut(self) -> int:
        return self.inners[0].cut

    def set_cut(self, blocks: int) -> None:
        """Freeze so many blocks of the first encoder, and all but the last of the others where blocks is not 0."""
        self.inners[0].set_cut(blocks)
        for inner in self.inners[1:]:
            inner.set_cut(blocks and max(1, max(inner.levels) - 1))

    def lower(self, images: Tensor) -> list[Tensor]:
        """[each encoder's state, then for each that has levels below its state their statistics].

        The state of an encoder that is frozen as a whole is the statistics of all its levels.
        """
        states, below = [], []
        for inner in self.inners:
            if inner.whole and inner.cut:
                states.append(channel_statistics(inner.lower(images)))
                continue
            state, *levels = inner.lower(images)
            states.append(state)
            if levels:
                below.append(channel_statistics(levels))
        return states + below

    def upper(self, state: list[Tensor]) -> list[Tensor]:
        count = len(self.inners)
        below, parts = iter(state[count:]), []
        for inner, own in zip(self.inners, state[:count], strict=True):
            if inner.whole and inner.cut:
                parts.append(own)
                continue
            if any(level < inner.cut for level in inner.levels):
                parts.append(next(below))
            parts.append(channel_statistics(inner.upper([own])))
        return [torch.cat(parts, 1)]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.cat([channel_statistics(inner(images)) for inner in self.inners], 1)]
