"""Image encoders behind one interface: pictures in, a list of feature maps out, shallow to deep.

An encoder has `channels` (per level) and `forward(images) → [(B, C_i, H_i, W_i), …]`. It can also run in two
halves, `lower(images)` and `upper(state)`, cut after its frozen part, so that training may compute the frozen
half once. Knows nothing about decoders, tasks or files other than pretrained encoder weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aescli.errors import AesError
from aescli.models.blocks import BlocksEncoder, checked_levels
from aescli.models.efficientnet import EfficientNetEncoder, packaged_weights
from aescli.models.inception_resnet import CHANNELS as INCEPTION_CHANNELS
from aescli.models.inception_resnet import DEPTH, InceptionResNetV1, facenet_state, whitened
from aescli.models.mobilenet import CHANNELS, MobileNetV1, fold_norms
from aescli.models.pooling import PooledEncoder
from aescli.models.rounding import round_convolutions
from aescli.models.vmamba import VARIANTS, VMamba
from aescli.models.weights_file import read_state

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and which of its hidden features the decoder sees.

    name: `mobilenetv1`, `inception_resnet_v1` (FaceNet's), a published VMamba variant (`vmamba_tiny_v0`, …), or any
        timm model (transformers through their blocks, others through `features_only`).
    levels: 1-based block (or, for VMamba and timm's convolutional models, stage) numbers; None takes thirds of the
        depth of a transformer ({3, 6, 9, 12} of twelve) and the last four stages of anything else.
    image_size: side of the square input in pixels.
    pretrained: let timm fetch its own weights when training starts (never when a checkpoint is loaded).
    weights: safetensors file to initialise from; for VMamba also an official .pth checkpoint, for FaceNet the .h5
        file of its Keras conversion.
    drop_path: stochastic depth rate of VMamba and timm models.
    fold_norms: mobilenetv1 and inception_resnet_v1 only; BatchNorms are folded into the convolutions once the
        weights are loaded: the same function with frozen statistics, a third faster in training and scoring.
    bits: below 32, every large convolution works with weights rounded to so many bits, in training already, and a
        checkpoint stores no more than these (`aescli.models.rounding`).
    pooling: "maps" hands on the levels as they are; "statistics" their channels' means and deviations as one level
        of one position. also: with "statistics", further encoders of the same input whose statistics are appended.
    """

    name: str = "vit_base_patch16_224"
    levels: tuple[int, ...] | None = None
    image_size: int = 224
    pretrained: bool = False
    weights: str | None = None
    drop_path: float = 0.0
    fold_norms: bool = False
    bits: Literal[4, 5, 6, 7, 8, 32] = 32
    pooling: Literal["maps", "statistics"] = "maps"
    also: "tuple[EncoderConfig, ...]" = ()

    def without_weights(self) -> "EncoderConfig":
        """The same architecture, nothing to load or fetch."""
        also = tuple(config.without_weights() for config in self.also)
        return replace(self, weights=None, pretrained=False, also=also)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class MobileNetV1Encoder(BlocksEncoder):
    """Features after the chosen blocks of MobileNetV1."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self, levels: Sequence[int] | None) -> None:
        super().__init__()
        self.levels = checked_levels(levels or (6, 9, 11, 13), 13, "block numbers from 1 to 13")
        self.net = MobileNetV1()
        self.channels = [CHANNELS[level - 1] for level in self.levels]

    def stem(self, images: Tensor) -> Tensor:
        return self.net.stem(images)

    def stem_modules(self) -> list[nn.Module]:
        return [self.net.conv, self.net.bn]

    def tap(self, x: Tensor) -> Tensor:
        x = x.view_as(x)
        if x.requires_grad:
            # The decoder's gradient comes in another memory layout, which every block below would inherit.
            x.register_hook(_channels_last)
        return x


class InceptionResNetV1Encoder(BlocksEncoder):
    """Features after the chosen blocks of Inception-ResNet-v1 (16: the last of its B blocks, 17: the reduction)."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self, levels: Sequence[int] | None) -> None:
        super().__init__()
        self.levels = checked_levels(levels or (5, 16, 17, 22), DEPTH, f"block numbers from 1 to {DEPTH}")
        # Blocks above the deepest level would only cost time and parameters.
        self.net = InceptionResNetV1(self.levels[-1])
        self.channels = [INCEPTION_CHANNELS[level - 1] for level in self.levels]

    def stem(self, images: Tensor) -> Tensor:
        return self.net.stem(whitened(images))

    def stem_modules(self) -> list[nn.Module]:
        return [self.net.stem]


class _WholeEncoder(nn.Module):
    """Encoders that are either frozen as a whole (cut = all) or trained as a whole (cut = 0)."""

    cut = 0
    whole = True
    fixed_size = False
    """Whether only pictures of the config's `image_size` can be read."""

    def set_cut(self, blocks: int) -> None:
        self.cut = blocks
        self.requires_grad_(blocks == 0)

    def features(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def lower(self, images: Tensor) -> list[Tensor]:
        return self.features(images) if self.cut else [images]

    def upper(self, state: list[Tensor]) -> list[Tensor]:
        return state if self.cut else self.features(state[0])

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.features(images)


class TransformerEncoder(_WholeEncoder):
    """A timm vision transformer; each chosen block's tokens as a C×H×W map (MoMamba §3.1)."""

    fixed_size = True  # its position embeddings

    def __init__(self, model: nn.Module, levels: Sequence[int] | None) -> None:
        super().__init__()
        depth = len(model.blocks)
        thirds = [round(depth * k / 4) for k in (1, 2, 3, 4)]
        self.levels = checked_levels(levels or thirds, depth, f"block numbers from 1 to {depth}")
        # Blocks above the deepest level would only cost time and parameters.
        model.blocks = model.blocks[: self.levels[-1]]
        model.head, model.fc_norm = nn.Identity(), nn.Identity()
        self.net = model
        self.channels = [model.embed_dim] * len(self.levels)

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self.net.forward_intermediates(
            images, indices=[level - 1 for level in self.levels], output_fmt="NCHW", intermediates_only=True
        )
        # The encoder's output is normalised; earlier levels get their own LayerNorm in the fusion.
        maps[-1] = self.net.norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return maps


class VMambaEncoder(_WholeEncoder):
    """A published VMamba variant; levels are stages, 1-based, each as it leaves its last block.

    The last stage's map goes through the final LayerNorm, per position; without that stage nothing is normalised.
    """

    def __init__(self, name: str, levels: Sequence[int] | None, drop_path: float = 0.0) -> None:
        super().__init__()
        config = replace(VARIANTS[name], drop_path=drop_path)
        stages = len(config.depths)
        what = f"stage numbers from 1 to {stages} of {name}"
        self.levels = checked_levels(levels or range(1, stages + 1), stages, what)
        # Stages above the deepest level would only cost time and parameters.
        self.net = VMamba(replace(config, depths=config.depths[: self.levels[-1]]))
        if self.levels[-1] < stages:
            self.net.norm = nn.Identity()
        self.channels = [config.widths[level - 1] for level in self.levels]

    def features(self, images: Tensor) -> list[Tensor]:
        stages = self.net.stages(images)
        stages[-1] = self.net.norm(stages[-1])
        return [stages[level - 1].permute(0, 3, 1, 2) for level in self.levels]


class StageEncoder(_WholeEncoder):
    """Any timm model with `features_only`: convolutional or hierarchical; levels are stages, 1-based."""

    def __init__(self, name: str, levels: Sequence[int] | None, **options) -> None:
        super().__init__()
        import timm

        stages = len(
            timm.create_model(name, features_only=True, **{**options, "pretrained": False}).feature_info
        )
        self.levels = tuple(levels or range(max(1, stages - 3), stages + 1))
        if any(not 1 <= level <= stages for level in self.levels):
            raise AesError(
                f"encoder.levels: {list(self.levels)} must be stage numbers from 1 to {stages} of {name}"
            )
        indices = tuple(level - 1 for level in self.levels)
        self.net = timm.create_model(name, features_only=True, out_indices=indices, **options)
        self.channels = self.net.feature_info.channels()
        self.fixed_size = "img_size" in options
        self.norm = _final_norm(timm.create_model(name, **options)) if stages in self.levels else None

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self.net(images)
        # Swin and its kin return channels last.
        maps = [
            m.permute(0, 3, 1, 2) if m.shape[1] != c and m.shape[-1] == c else m
            for m, c in zip(maps, self.channels, strict=True)
        ]
        if self.norm is not None:
            last, norm = maps[-1].permute(0, 2, 3, 1), self.norm
            last = F.layer_norm(last, (last.shape[-1],), norm.weight, norm.bias, norm.eps)
            maps[-1] = last.permute(0, 3, 1, 2)
        return maps


def _final_norm(model: nn.Module) -> nn.Module | None:
    """The LayerNorm between the last stage and the classifier (Swin, ConvNeXt), which `features_only` leaves out."""
    norm = getattr(model, "norm", None) or getattr(getattr(model, "head", None), "norm", None)
    return norm if isinstance(norm, nn.LayerNorm) else None


OWN: dict[str, type[BlocksEncoder]] = {
    "mobilenetv1": MobileNetV1Encoder,
    "inception_resnet_v1": InceptionResNetV1Encoder,
}


def build_encoder(config: EncoderConfig, *, initialise: bool = True) -> nn.Module:
    """The encoder of a config, with pretrained weights when `initialise` is true and the config names some.

    Raises:
        AesError: unknown name, impossible levels, or weights that do not fit.
    """
    if config.name in OWN:
        encoder: nn.Module = OWN[config.name](config.levels)
        if initialise and config.pretrained:
            raise AesError(
                f"encoder.pretrained: {config.name} has no weights to fetch; name a file in encoder.weights"
            )
    elif config.name in VARIANTS:
        encoder = VMambaEncoder(config.name, config.levels, config.drop_path)
        if initialise and config.pretrained:
            raise AesError(
                f"encoder.pretrained: {config.name} has no weights to fetch; name an official checkpoint in "
                "encoder.weights"
            )
    else:
        encoder = _timm_encoder(config, pretrained=initialise and config.pretrained)
    if initialise and config.weights:
        load_pretrained(encoder, Path(config.weights))
    if config.fold_norms:
        if config.name not in OWN:
            raise AesError(
                f"encoder.fold_norms: {config.name} cannot fold its norms; only {' and '.join(OWN)} can"
            )
        encoder.net = fold_norms(encoder.net)
    if config.bits < 32:
        round_convolutions(encoder, config.bits, fit=initialise)
    if config.pooling == "statistics":
        if any(c.bits != config.bits for c in config.also):  # a checkpoint stores them all alike
            raise AesError(f"encoder.also: set bits to {config.bits} for all, as the first encoder has it")
        others = [build_encoder(replace(c, pooling="maps"), initialise=initialise) for c in config.also]
        if any(encoder_statistics(other) != encoder_statistics(encoder) for other in others):
            raise AesError("encoder.also: all encoders must want the same mean and deviation of their input")
        return PooledEncoder([encoder, *others])
    if config.also:
        raise AesError("encoder.also: only encoder.pooling: statistics can join encoders")
    return encoder


def _timm_encoder(config: EncoderConfig, *, pretrained: bool) -> nn.Module:
    from aescli.torch_compat import prepare_torchvision

    prepare_torchvision()
    import timm

    if config.name.startswith("vmamba"):
        raise AesError(f"encoder.name: no VMamba named {config.name!r}; published: {', '.join(VARIANTS)}")
    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name.split('_')[0]}*")[:4]
        hint = f"; similar: {', '.join(near)}" if near else ""
        raise AesError(f"encoder.name: no encoder named {config.name!r}{hint}")
    options = {"pretrained": pretrained}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    try:
        is_transformer = hasattr(timm.models.vision_transformer, config.name) or config.name.startswith(
            ("vit_", "deit", "beit", "eva")
        )
        if is_transformer:
            model = timm.create_model(config.name, img_size=config.image_size, num_classes=0, **options)
            return TransformerEncoder(model, config.levels)
        if config.name.startswith(("efficientnet_", "tf_efficientnet_")):
            return EfficientNetEncoder(timm.create_model(config.name, **options), config.levels)
        try:
            return StageEncoder(config.name, config.levels, img_size=config.image_size, **options)
        except TypeError:  # convolutional models take any size and no img_size
            return StageEncoder(config.name, config.levels, **options)
    except AesError:
        raise
    except Exception as error:
        raise AesError(f"encoder.name: cannot build {config.name!r}: {error}") from error


def encoder_statistics(encoder: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (0..1 RGB) that the encoder's weights expect."""
    if isinstance(encoder, PooledEncoder):
        encoder = encoder.inners[0]
    if isinstance(encoder, tuple(OWN.values())):
        return encoder.mean, encoder.std
    config = getattr(encoder.net, "pretrained_cfg", None) or {}
    return tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))


def pretrained_classifier(path: Path) -> tuple[Tensor, Tensor] | None:
    """Weight (K, C) and bias (K,) of the classifier `fc` that a safetensors file carries; None where it has none."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        if not {"fc.weight", "fc.bias"} <= set(file.keys()):
            return None
        return file.get_tensor("fc.weight").float(), file.get_tensor("fc.bias").float()


def load_pretrained(encoder: nn.Module, path: Path) -> None:
    """Initialise an encoder from a safetensors file (VMamba: an official .pth too), in the layouts met in practice.

    MobileNetV1 files may hold weights for BGR input in 0..255 minus a mean (Caffe style; recognised by the face
    model's gender head `g.weight`); they are rewritten for RGB in −1..1, exactly, by folding both into the first
    convolution and its BatchNorm.
    """
    if isinstance(encoder, VMambaEncoder):
        from aescli.models.vmamba_checkpoint import load_vmamba

        load_vmamba(encoder.net, path)
        return
    if isinstance(encoder, InceptionResNetV1Encoder):
        state = facenet_state(path, len(encoder.net.blocks))
    else:
        state = read_state(path)
    if isinstance(encoder, MobileNetV1Encoder):
        body = {k: v for k, v in state.items() if k.startswith(("conv.", "bn.", "blocks."))}
        if "g.weight" in state:
            _from_caffe_input(body)
        target: nn.Module = encoder.net
    else:
        target = encoder.net
        body = state
        if isinstance(encoder, TransformerEncoder):
            from timm.models.vision_transformer import checkpoint_filter_fn

            body = checkpoint_filter_fn(dict(state), target)
        elif isinstance(encoder, EfficientNetEncoder) and "_conv_stem.weight" in state:
            body = packaged_weights(state, target)
    missing, unexpected = target.load_state_dict(body, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing:
        raise AesError(
            f"encoder.weights: {path} lacks {len(missing)} tensors that {type(encoder).__name__} needs, "
            f"first {missing[0]!r}; it holds {len(unexpected)} others"
        )


def _from_caffe_input(state: dict[str, Tensor]) -> None:
    """conv(BGR·255 − m) rewritten for x = (RGB − 0.5)/0.5: BGR·255 = 127.5·x + 127.5 (channel order reversed).

    The constant part 127.5 − m passes through the bias-free convolution as Σ w·(127.5 − m) at every interior
    position, which BatchNorm's running mean absorbs. At the padded right and bottom edge the original pads with
    zeros after the subtraction; the folded form pads with mid grey, a difference of one row and column.
    """
    weight = state["conv.weight"]
    offset = 127.5 - torch.tensor([103.939, 116.779, 123.68])
    state["bn.running_mean"] = state["bn.running_mean"] - (weight * offset.view(1, 3, 1, 1)).sum((1, 2, 3))
    state["conv.weight"] = weight.flip(1) * 127.5
