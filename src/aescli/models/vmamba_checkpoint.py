"""Official VMamba checkpoints: both key layouts, .pth and safetensors, renamed and reshaped to this project's.

Knows nothing about how the network computes.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from aescli.errors import AesError
from aescli.models.vmamba import VARIANTS, VMamba
from aescli.models.weights_file import read_state

Shape = tuple[int, ...]

# The first release's names, then the later ones' numbered layers, each as (pattern, our name).
_RENAMES = [
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^patch_embed\.(?:proj|0)\.(?=weight|bias)", "patch_embed.0.conv."),
        (r"^patch_embed\.(?:norm|2)\.(?=weight|bias)", "patch_embed.0.norm."),
        (r"^patch_embed\.5\.", "patch_embed.2.conv."),
        (r"^patch_embed\.7\.", "patch_embed.2.norm."),
        (r"^classifier\.", ""),
        (r"(?<=\.)ln_1\.", "norm."),
        (r"(?<=\.)self_attention\.", "op."),
        (r"(?<=\.)(x_proj|dt_projs)\.(?=weight|bias)", r"\1_"),
    )
]
_NUMBERED_DOWNSAMPLE = re.compile(r"^(layers\.\d+\.downsample)\.(\d)\.(weight|bias)$")


def canonical_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names, of either layout, turned into those of `VMamba`; names that are ours already stay."""
    renamed = {}
    for key, value in state.items():
        for pattern, ours in _RENAMES:
            key = pattern.sub(ours, key)
        numbered = _NUMBERED_DOWNSAMPLE.match(key)
        if numbered:
            stem, number, kind = numbered.groups()
            # A convolution has its norm after it, as 3; patch merging has 1 and 2, and only its norm is a vector.
            if f"{stem}.3.weight" in state:
                name = "norm" if number == "3" else "conv"
            else:
                name = "norm" if value.dim() == 1 else "reduction"
            key = f"{stem}.{name}.{kind}"
        renamed[key] = value
    return renamed


def load_vmamba(net: VMamba, path: Path) -> None:
    """Initialise a network, with or without its head or last stages, from an official checkpoint or our own.

    Projections may be stored as matrices or as 1x1 convolutions.

    Raises:
        AesError: the file cannot be read or does not fit; the message names the first tensor that does not, its two
            shapes, and the variant that the file belongs to.
    """
    state = canonical_keys(read_state(path))
    own = net.state_dict()
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own and not _left_out(key, net)]
    fitted = {key: _fit(state[key], tuple(own[key].shape)) for key in own if key in state}
    wrong = [key for key, value in fitted.items() if value is None]
    if missing or unknown or wrong:
        raise AesError(f"encoder.weights: {path}: {_mismatch(own, state, missing, unknown, wrong)}")
    net.load_state_dict(fitted)


def matching_variant(state: dict[str, Tensor]) -> str | None:
    """The published variant whose tensors, the head aside, have these names (ours) and shapes."""
    body = {key: value for key, value in state.items() if not key.startswith("head.")}
    for name, config in VARIANTS.items():
        with torch.device("meta"):
            wanted = {key: tuple(value.shape) for key, value in VMamba(config).state_dict().items()}
        if wanted.keys() == body.keys() and all(
            _fit(body[key], shape) is not None for key, shape in wanted.items()
        ):
            return name
    return None


def _mismatch(
    own: dict[str, Tensor],
    state: dict[str, Tensor],
    missing: Iterable[str],
    unknown: Iterable[str],
    wrong: Iterable[str],
) -> str:
    def shapes(key: str) -> str:
        def of(tensors: dict[str, Tensor]) -> str:
            return f"{tuple(tensors[key].shape)}" if key in tensors else "absent"

        return f"{key} is {of(state)} in the file and {of(own)} in the encoder"

    first = next(iter([*wrong, *missing, *unknown]))
    fitting = matching_variant(state)
    if fitting is None:
        advice = "it fits none of the published variants"
    elif first.startswith("head."):
        advice = "its body fits, its head has other classes"
    else:
        advice = f"the file fits encoder.name: {fitting}"
    return f"{shapes(first)}; {advice}"


def _fit(value: Tensor, shape: Shape) -> Tensor | None:
    """The same numbers in this shape, where it differs only in trailing ones or joins the directions; else None."""
    given = _stripped(tuple(value.shape))
    joined = (shape[0] * shape[1], *shape[2:]) if len(shape) == 3 else shape
    return value.reshape(shape) if given in (_stripped(shape), _stripped(joined)) else None


def _stripped(shape: Shape) -> Shape:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _left_out(key: str, net: VMamba) -> bool:
    """Whether a tensor belongs to a part that a full network has and this one was built without."""
    stages = len(net.layers)
    if key.startswith("head."):
        return net.head is None
    if key.startswith("norm."):
        return isinstance(net.norm, nn.Identity)
    stage = re.match(r"layers\.(\d+)\.(downsample)?", key)
    if stage is None or not isinstance(net.norm, nn.Identity):
        return False
    return int(stage[1]) >= stages or (int(stage[1]) == stages - 1 and stage[2] is not None)
