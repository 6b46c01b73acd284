"""Inception-ResNet-v1 (Szegedy et al. 2017, §3.2) as FaceNet trains it for 160-pixel faces (Schroff et al. 2015).

Every picture is whitened by its own mean and deviation first, as its weights expect. Reads the weights of FaceNet in
both layouts met: facenet-pytorch's names and the Keras conversion's `.h5`. Knows nothing about tasks or decoders.
"""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aescli.errors import AesError, first_line
from aescli.models.weights_file import read_state

NORM_EPS = 1e-3  # TensorFlow's default, part of the pretrained weights
DEPTH = 23


class ConvNorm(nn.Module):
    """Convolution without bias, BN, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel, stride: int = 1, padding=0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """x + scale · up([branches of x]), then ReLU unless `last`: (B, C, H, W) → the same."""

    def __init__(
        self, channels: int, branches: list[nn.Sequential], scale: float, last: bool = False
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        joined = sum(branch[-1].conv.out_channels for branch in branches)
        self.up = nn.Conv2d(joined, channels, 1)
        self.scale, self.last = scale, last

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.up(torch.cat([branch(x) for branch in self.branches], 1))
        return x if self.last else F.relu(x)


class Reduction(nn.Module):
    """Branches of stride 2 beside a max pool: (B, C, H, W) → (B, C + Σ branches, ⌊(H − 1)/2⌋, ⌊(W − 1)/2⌋)."""

    def __init__(self, branches: list[nn.Sequential]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(branch(x) for branch in self.branches), F.max_pool2d(x, 3, 2)], 1)


def _block35() -> Residual:
    c = ConvNorm
    branches = [
        nn.Sequential(c(256, 32, 1)),
        nn.Sequential(c(256, 32, 1), c(32, 32, 3, 1, 1)),
        nn.Sequential(c(256, 32, 1), c(32, 32, 3, 1, 1), c(32, 32, 3, 1, 1)),
    ]
    return Residual(256, branches, 0.17)


def _reduction_a() -> Reduction:
    c = ConvNorm
    return Reduction(
        [
            nn.Sequential(c(256, 384, 3, 2)),
            nn.Sequential(c(256, 192, 1), c(192, 192, 3, 1, 1), c(192, 256, 3, 2)),
        ]
    )


def _block17() -> Residual:
    c = ConvNorm
    branches = [
        nn.Sequential(c(896, 128, 1)),
        nn.Sequential(c(896, 128, 1), c(128, 128, (1, 7), 1, (0, 3)), c(128, 128, (7, 1), 1, (3, 0))),
    ]
    return Residual(896, branches, 0.1)


def _reduction_b() -> Reduction:
    c = ConvNorm
    return Reduction(
        [
            nn.Sequential(c(896, 256, 1), c(256, 384, 3, 2)),
            nn.Sequential(c(896, 256, 1), c(256, 256, 3, 2)),
            nn.Sequential(c(896, 256, 1), c(256, 256, 3, 1, 1), c(256, 256, 3, 2)),
        ]
    )


def _block8(last: bool = False) -> Residual:
    c = ConvNorm
    branches = [
        nn.Sequential(c(1792, 192, 1)),
        nn.Sequential(c(1792, 192, 1), c(192, 192, (1, 3), 1, (0, 1)), c(192, 192, (3, 1), 1, (1, 0))),
    ]
    return Residual(1792, branches, 1.0 if last else 0.2, last)


BUILDERS = (
    *[_block35] * 5, _reduction_a, *[_block17] * 10, _reduction_b, *[_block8] * 5, lambda: _block8(last=True),
)  # fmt: skip
CHANNELS = (*[256] * 5, *[896] * 11, *[1792] * 7)


class InceptionResNetV1(nn.Module):
    """A stem and the first `depth` of 23 blocks: 5 Inception-A, reduction, 10 B, reduction, 6 C. No embedding layer.

    22,564,096 parameters at full depth, norms included.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        super().__init__()
        c = ConvNorm
        self.stem = nn.Sequential(
            c(3, 32, 3, 2), c(32, 32, 3), c(32, 64, 3, 1, 1), nn.MaxPool2d(3, 2),
            c(64, 80, 1), c(80, 192, 3), c(192, 256, 3, 2),
        )  # fmt: skip
        self.blocks = nn.ModuleList(build() for build in BUILDERS[:depth])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) whitened → (B, 1792, s, s) at full depth, s = 3 for S = 160."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


def whitened(images: Tensor) -> Tensor:
    """(B, 3, S, S) on any scale → each picture minus its mean, over its deviation (at least 1/√(3S²))."""
    mean = images.mean((1, 2, 3), keepdim=True)
    deviation = images.std((1, 2, 3), keepdim=True, correction=0)
    return (images - mean) / deviation.clamp_min(images[0].numel() ** -0.5)


def facenet_state(path: Path, depth: int) -> dict[str, Tensor]:
    """The tensors of a FaceNet file under this module's names, those of the first `depth` blocks.

    path: `.h5`, the Keras conversion (the layers' own names tell them apart), or anything `read_state` reads, with
    facenet-pytorch's names or this module's.
    """
    if path.suffix == ".h5":
        state = {_from_keras(name): value for name, value in _read_keras(path).items()}
    else:
        state = {_from_facenet_pytorch(name): value for name, value in read_state(path).items()}
    state = {k: v for k, v in state.items() if k.startswith("stem.") or _block_of(k) in range(depth)}
    for name in [k for k in state if k.endswith("bn.bias")]:
        # The Keras conversion's norms have no scale: it is one.
        state.setdefault(name.replace("bn.bias", "bn.weight"), torch.ones_like(state[name]))
    return state


def _block_of(name: str) -> int:
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else -1


STEM = {"1a": 0, "2a": 1, "2b": 2, "3b": 4, "4a": 5, "4b": 6}
FIRST = {"repeat_1": 0, "repeat_2": 6, "repeat_3": 17, "Block35": -1, "Block17": 5, "Block8": 16}
ALONE = {"mixed_6a": 5, "mixed_7a": 16, "block8": 22}


def _from_facenet_pytorch(name: str) -> str:
    name = re.sub(r"^conv2d_(\d[ab])\.", lambda m: f"stem.{STEM[m[1]]}.", name)
    name = re.sub(r"^(repeat_\d)\.(\d)\.", lambda m: f"blocks.{FIRST[m[1]] + int(m[2])}.", name)
    name = re.sub(r"^(mixed_6a|mixed_7a|block8)\.", lambda m: f"blocks.{ALONE[m[1]]}.", name)
    name = re.sub(r"\.branch(\d)\.(\d)\.", r".branches.\1.\2.", name)
    name = re.sub(r"\.branch(\d)\.(conv|bn)\.", r".branches.\1.0.\2.", name)
    return name.replace(".conv2d.", ".up.")


REDUCTION_ENDS = {"Mixed_6a": (0, 2), "Mixed_7a": (1, 1, 2)}
KERAS_TENSORS = {
    "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip


def _from_keras(name: str) -> str:
    """`Block17_2_Branch_1_Conv2d_0b_1x7[_BatchNorm]/kernel` → `blocks.7.branches.1.1.conv.weight`."""
    layer, tensor = name.split("/")
    part = "bn" if layer.endswith("_BatchNorm") else "conv"
    layer, tensor = layer.removesuffix("_BatchNorm"), KERAS_TENSORS.get(tensor, tensor)
    if found := re.fullmatch(r"Conv2d_(\d[ab])_\dx\d", layer):
        return f"stem.{STEM[found[1]]}.{part}.{tensor}"
    if found := re.fullmatch(r"(Block\d+)_(\d+)_Conv2d_1x1", layer):
        return f"blocks.{FIRST[found[1]] + int(found[2])}.up.{tensor}"
    found = re.fullmatch(
        r"(?:(Block\d+)_(\d+)|(Mixed_[67]a))_Branch_(\d)_Conv2d_(?:(\d)([abc])_)?\dx\d", layer
    )
    if not found:
        return name
    block = FIRST[found[1]] + int(found[2]) if found[1] else ALONE[found[3].lower()]
    # A reduction's last convolution is called 1a, however many stand before it in its branch.
    position = "abc".index(found[6]) if found[6] else 0
    if found[5] == "1":
        position = REDUCTION_ENDS[found[3]][int(found[4])]
    return f"blocks.{block}.branches.{found[4]}.{position}.{part}.{tensor}"


def _read_keras(path: Path) -> dict[str, Tensor]:
    """{layer/tensor: values in PyTorch's order} of a Keras `.h5` file.

    Raises AesError for a file that is missing or damaged, or when h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise AesError(
            f"encoder.weights: {path}: reading .h5 needs h5py: pip install 'aescli[facenet]'"
        ) from None
    state: dict[str, Tensor] = {}

    def collect(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            *_, layer, tensor = name.split("/")
            value = torch.from_numpy(item[()]).float()
            state[f"{layer}/{tensor.split(':')[0]}"] = (
                value.permute(3, 2, 0, 1) if value.dim() == 4 else value
            )

    try:
        with h5py.File(path) as file:
            file.visititems(collect)
    except OSError as error:
        raise AesError(f"encoder.weights: {path}: not an HDF5 file: {first_line(error)}") from None
    return {name: value.contiguous() for name, value in state.items()}
