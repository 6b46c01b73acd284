"""Checkpoints: a folder with model.safetensors, config.json, card.json (and metrics.json), read and written whole.

A checkpoint says how to build its model, how its input must be prepared, what it was trained on and how good it
is. Weights are safetensors only; nothing here unpickles. Knows nothing about datasets or training.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from aescli.errors import AesError
from aescli.folders import whole_folder, write_text
from aescli.models.aesmamba import AesMamba, AesMambaConfig
from aescli.models.momamba import MoMamba, MoMambaConfig
from aescli.models.rounding import packed, settle, unpack_into
from aescli.models.text import TOKENIZER, TextTokenizer, load_tokenizer

WEIGHTS, CONFIG, CARD, METRICS, TRAINING_IMAGES = (
    "model.safetensors",
    "config.json",
    "card.json",
    "metrics.json",
    "training_images.txt",
)
CHECKPOINT = "checkpoint"  # of a training run's folder
BUNDLED = Path(__file__).resolve().parent.parent / "weights"
DEFAULT_MODELS = {"fbp": "momamba-lite", "viaa": "aesmamba-lite"}
DEFAULT_TASK = "fbp"


def chosen_model(model: str | None, task: str | None) -> str | None:
    """The model that was named, else the task's bundled one (`DEFAULT_TASK`'s for None); None where there is none."""
    return model or DEFAULT_MODELS.get(task or DEFAULT_TASK)


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become model input: ((RGB / 255) − mean) / std at size × size.

    fit: how a whole picture becomes a square: "pad" keeps its proportions on grey, "stretch" does not.
    faces: the input is one face, found and aligned so that the eye line lies at `eye_y` and the distance from the
    eyes to the mouth is `eye_mouth`, both as shares of the side.
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fit: Literal["pad", "stretch"] = "pad"
    faces: bool = True
    eye_mouth: float = 0.36
    eye_y: float = 0.39


@dataclass(frozen=True)
class Card:
    """What a person should know before trusting a model's numbers."""

    name: str
    task: str = "fbp"
    description: str = ""
    score_range: tuple[float, float] = (1.0, 5.0)
    class_cuts: tuple[float, ...] = (1.5, 2.5, 3.5, 4.5)
    data: str = ""
    split: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    origin: str = ""
    limits: str = ""


@dataclass
class Checkpoint:
    """A model ready to run (eval mode, float32) with everything that belongs to it."""

    model: nn.Module
    config: dict[str, Any]
    card: Card
    preprocessing: Preprocessing
    path: Path

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 over config, weights (and tokenizer): two equal digests score alike."""
        sha = hashlib.sha256()
        for name in (CONFIG, WEIGHTS, TOKENIZER):
            if (path := self.path / name).is_file():
                sha.update(path.read_bytes())
        return sha.hexdigest()[:16]

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """What turns comments into tokens for a model that reads text.

        Raises:
            AesError: the extra `text` is not installed, or the tokenizer's file is missing or damaged.
        """
        return load_tokenizer(self.path, self.model.config.text)

    @cached_property
    def training_hashes(self) -> frozenset[str]:
        """Content hashes (16 hex digits) of the images the weights were trained on; empty when not recorded."""
        path = self.path / TRAINING_IMAGES
        return frozenset(path.read_text().split()) if path.is_file() else frozenset()


BUILDERS: dict[str, tuple[type, Callable[..., nn.Module]]] = {
    "momamba": (MoMambaConfig, MoMamba),
    "aesmamba": (AesMambaConfig, AesMamba),
}


def build_model(config: dict[str, Any], *, initialise_encoder: bool = True) -> nn.Module:
    """The model of a config {"architecture": …, "model": {…}}.

    Raises:
        AesError: unknown architecture, or fields that do not fit it.
    """
    architecture = config.get("architecture")
    if architecture not in BUILDERS:
        raise AesError(f"config: unknown architecture {architecture!r}; known: {', '.join(BUILDERS)}")
    config_type, build = BUILDERS[architecture]
    try:
        parsed = TypeAdapter(config_type).validate_python(config.get("model", {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise AesError(f"config: model.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return build(parsed, initialise_encoder=initialise_encoder)


def resolve(spec: str | Path) -> Path:
    """The folder of a bundled model's name or of a checkpoint path.

    Raises:
        AesError: neither exists; the message lists what is bundled.
    """
    folder = Path(spec)
    if folder.is_file() and folder.name in (WEIGHTS, CONFIG):
        folder = folder.parent
    for candidate in (folder, folder / CHECKPOINT):
        if (candidate / CONFIG).is_file():
            return candidate
    bundled = BUNDLED / str(spec)
    if str(spec) in bundled_models():
        return bundled
    names = ", ".join(bundled_models()) or "none"
    if folder.exists():
        if folder.suffix.lower() in (".pth", ".pt", ".bin", ".ckpt", ".safetensors"):
            raise AesError(
                f"{spec}: a file of weights does not say of which model; an encoder's start a training (aes train "
                f"--init {spec}), whose folder --model takes; bundled models: {names}"
            )
        raise AesError(f"{spec}: not a checkpoint folder (no {CONFIG}); bundled models: {names}")
    raise AesError(f"{spec}: no such checkpoint folder or bundled model; bundled models: {names}")


def bundled_models() -> list[str]:
    """Names of the models installed with the package."""
    return sorted(p.parent.name for p in BUNDLED.glob(f"*/{CONFIG}"))


def load_checkpoint(spec: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a bundled model by name, or a checkpoint folder.

    Raises:
        AesError: nothing there, damaged files, or weights that do not fit the config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = resolve(spec)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        card = json.loads((folder / CARD).read_text(encoding="utf-8")) if (folder / CARD).is_file() else {}
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise AesError(f"{folder}: cannot read the checkpoint: {error}") from error
    model = build_model(config, initialise_encoder=False)
    unpack_into(state, model)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    load_weights(model, state, where=str(folder / WEIGHTS))
    settle(model)
    return Checkpoint(
        model=model.eval().to(device),
        config=config,
        card=_parse(Card, {"name": folder.name, **card}, folder / CARD),
        preprocessing=_parse(Preprocessing, config.get("preprocessing", {}), folder / CONFIG),
        path=folder,
    )


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], *, where: str) -> None:
    """`load_state_dict` that names the first tensor that is missing, unknown or of another shape."""
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    if missing or unknown:
        kind, key = ("lacks", missing[0]) if missing else ("has an unknown", unknown[0])
        raise AesError(
            f"{where}: {kind} tensor {key!r} ({len(missing)} missing, {len(unknown)} unknown in all): "
            "weights and config.json belong to different models"
        )
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise AesError(
                f"{where}: {key} is {tuple(value.shape)}, the config needs {tuple(own[key].shape)}"
            )
    model.load_state_dict(state, strict=False)


def _parse(kind: type, values: dict[str, Any], where: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise AesError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def save_checkpoint(
    folder: Path,
    state: dict[str, torch.Tensor],
    config: dict[str, Any],
    card: Card,
    metrics: dict[str, Any] | None = None,
    training_hashes: set[str] | None = None,
    tokenizer: TextTokenizer | None = None,
) -> None:
    """Write a checkpoint folder, which is either complete or absent; a model that reads text needs its tokenizer.

    Rounded weights (`aescli.models.rounding`) take their bits and no more.
    """
    from safetensors.torch import save_file

    with whole_folder(folder) as staging:
        state = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        if (bits := config.get("model", {}).get("encoder", {}).get("bits", 32)) < 32:
            state = packed(state, bits)
        save_file(state, staging / WEIGHTS)
        write_json(staging / CONFIG, config)
        write_json(staging / CARD, asdict(card))
        if metrics is not None:
            write_json(staging / METRICS, metrics)
        if training_hashes:
            (staging / TRAINING_IMAGES).write_text("\n".join(sorted(training_hashes)) + "\n")
        if tokenizer is not None:
            tokenizer.save(staging)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def half_precision(state: dict[str, torch.Tensor], smallest: int = 9_000) -> dict[str, torch.Tensor]:
    """Large weight matrices as fp16, for shipping; the rest as it is.

    Norms, biases and tensors of fewer than `smallest` elements cost nothing and matter most: early convolutions span
    a wide range, and a BatchNorm's variance may be beyond fp16's.
    """
    return {
        k: v.half()
        if v.is_floating_point() and v.dim() > 1 and v.numel() >= smallest and v.abs().max() < 6e4
        else v
        for k, v in state.items()
    }
