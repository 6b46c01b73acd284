"""Exported models: what an ONNX or torch.export file says about itself, and the latter as a model again.

The description travels inside the file: config, card, preprocessing and the names of the outputs, so that the file
alone can be scored with. Knows nothing about how a model is exported or what runs an ONNX file.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from aescli.errors import AesError, first_line
from aescli.models import checkpoint as checkpoints
from aescli.models.answers import Answers
from aescli.models.checkpoint import Card, Checkpoint, Preprocessing
from aescli.models.checkpoint import _parse as parse
from aescli.models.text import TOKENIZER, TextConfig, TextTokenizer, parse_tokenizer
from aescli.runtime import quiet

SUFFIXES = (".onnx", ".pt2")
IMAGES = "images"
"""The input: (B, 3, S, S) float32, ((RGB / 255) − mean) / std."""

TOKENS = ("input_ids", "attention_mask")
"""The further inputs of a model that reads text: (B, L) int64 each."""

OUTPUTS = ("score", "probabilities", "head_scores", "attribute_scores", "levels")
"""What an exported model may give, in this order: (B,), (B, K), (B, heads), (B, attributes), (B, d). The score is
always there; as in the network itself it is not cut off at the ends of the scale."""

MAX_SIDE = 4096

Shape = Sequence[int | None]
"""Lengths of a tensor's axes; None for one that is any."""

_KEY = "aescli"
_CURE = "export the model again"


@dataclass(frozen=True)
class Description:
    """What belongs to an exported model besides its graph.

    answers: what the outputs hold. tokenizer: the content of its file, empty for a model without text.
    digest: of the checkpoint that it came from. precision: fp32, fp16 (weights stored in half) or int8.
    """

    config: dict[str, Any]
    card: Card
    preprocessing: Preprocessing
    outputs: tuple[str, ...]
    answers: Answers
    tokenizer: str
    digest: str
    precision: str
    version: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (IMAGES, *TOKENS) if self.answers.reads_text else (IMAGES,)

    def load_tokenizer(self, where: Path) -> TextTokenizer:
        """What turns comments into the token inputs. Raises AesError where the extra `text` is not installed."""
        config = parse(TextConfig, self.config["model"]["text"], where)
        return parse_tokenizer(self.tokenizer.encode(), config, where)

    def strings(self) -> dict[str, str]:
        """As the metadata of a file: one entry for each field, JSON, the card and the preprocessing legible alone."""
        return {
            f"{_KEY}.{name}": json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()
        }

    @classmethod
    def read(cls, strings: dict[str, str], where: Path) -> Description:
        """The description in a file's metadata. Raises AesError where there is none, or a damaged one."""
        names = cls.__dataclass_fields__
        try:
            values = {name: json.loads(strings[f"{_KEY}.{name}"]) for name in names}
        except (KeyError, ValueError) as error:
            raise AesError(
                f"{where}: it says nothing about its preprocessing (no {_KEY} metadata); "
                "only files that aes export wrote can be scored with"
            ) from error
        for name, kind in (("card", Card), ("preprocessing", Preprocessing), ("answers", Answers)):
            if isinstance(values[name], dict) and (
                unknown := values[name].keys() - kind.__dataclass_fields__
            ):
                raise AesError(f"{where}: {name}.{min(unknown)}: no such field; {_CURE}")
        try:
            found = parse(cls, values, where)
        except AesError as error:
            raise AesError(f"{error}; {_CURE}") from error
        found._require_sense(where)
        return found

    def _require_sense(self, where: Path) -> None:
        """AesError where a number cannot be meant."""
        p, (low, high) = self.preprocessing, self.card.score_range
        for name, fine in (
            ("preprocessing.size", 1 <= p.size <= MAX_SIDE),
            ("preprocessing.mean", all(map(math.isfinite, p.mean))),
            ("preprocessing.std", all(math.isfinite(value) and value > 0 for value in p.std)),
            ("preprocessing.eye_mouth", 0 < p.eye_mouth < 1),
            ("preprocessing.eye_y", 0 < p.eye_y < 1),
            ("card.score_range", math.isfinite(low) and math.isfinite(high) and low < high),
            ("config.model", isinstance(self.config.get("model"), dict)),
            ("outputs", "score" in self.outputs and {*self.outputs} <= {*OUTPUTS}),
        ):
            if not fine:
                raise AesError(f"{where}: {name} in its metadata makes no sense; {_CURE}")

    def require_fit(self, inputs: dict[str, Shape], outputs: dict[str, Shape], where: Path) -> None:
        """AesError where this does not describe a graph with these inputs and outputs, by name; None: any length."""
        side, model = self.preprocessing.size, self.config["model"]
        widths = {
            "probabilities": self.answers.probabilities,
            "attribute_scores": len(self.answers.attributes),
        }
        if "head_scores" in self.outputs:
            widths["head_scores"] = len(model.get("score_heads", ()))
        fits = (
            inputs.keys() == {*self.inputs}
            and _fits(inputs[IMAGES], (None, 3, side, side))
            and outputs.keys() == {*self.outputs}
            and all(
                _fits(outputs[name], (None, width)) if name in outputs else width == 0
                for name, width in widths.items()
            )
            and (not self.answers.reads_text or isinstance(model.get("text"), dict))
        )
        if not fits:
            raise self.misfit(where)

    @staticmethod
    def misfit(where: Path) -> AesError:
        return AesError(f"{where}: its metadata does not fit its graph; {_CURE}")


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        a == b for a, b in zip(shape, wanted, strict=True) if a is not None and b is not None
    )


def describe(checkpoint: Checkpoint, outputs: tuple[str, ...], precision: str) -> Description:
    from aescli import __version__

    answers = checkpoint.model.answers
    tokenizer = (checkpoint.path / TOKENIZER).read_text(encoding="utf-8") if answers.reads_text else ""
    return Description(
        checkpoint.config,
        checkpoint.card,
        checkpoint.preprocessing,
        outputs,
        answers,
        tokenizer,
        checkpoint.digest,
        precision,
        __version__,
    )


def exported_file(spec: str | Path | None) -> Path | None:
    """The exported file that `--model` names: itself, or the one in an export's folder; None for anything else."""
    if spec is None:
        return None
    path = Path(spec)
    if path.suffix.lower() in SUFFIXES:
        if not path.is_file():
            raise AesError(f"{path}: no such model file; check the path")
        return path
    found = [path / f"model{suffix}" for suffix in SUFFIXES if (path / f"model{suffix}").is_file()]
    return found[0] if found else None


def model_folder(spec: str | Path) -> Path:
    """The folder that holds what belongs to a model: a checkpoint's own, or an exported file's."""
    file = exported_file(spec)
    return checkpoints.resolve(spec) if file is None else file.parent


def file_digest(path: Path) -> str:
    """First 16 hex digits of the sha256 of a file."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()[:16]


class ProgramModel(nn.Module):
    """A torch.export program with the attributes of the model that it came from."""

    def __init__(
        self, program: torch.export.ExportedProgram, outputs: tuple[str, ...], answers: Answers
    ) -> None:
        super().__init__()
        self.answers = answers
        # Not a submodule: an exported program refuses eval() and train(), and needs neither.
        self._run = [program.module()]
        self._outputs = outputs

    def forward(self, images: Tensor, tokens: Mapping[str, Tensor] | None = None) -> SimpleNamespace:
        inputs = (images,) if tokens is None else (images, *(tokens[name] for name in TOKENS))
        named = dict(zip(self._outputs, self._run[0](*inputs), strict=True))
        return SimpleNamespace(**{**dict.fromkeys(OUTPUTS), **named})


@dataclass
class ExportedCheckpoint:
    """A torch.export file as a checkpoint: the same fields as `Checkpoint`, of which scoring makes use."""

    model: nn.Module
    description: Description
    path: Path

    def __post_init__(self) -> None:
        self.config, self.card = self.description.config, self.description.card
        self.preprocessing = self.description.preprocessing

    @cached_property
    def digest(self) -> str:
        return file_digest(self.path)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        return self.description.load_tokenizer(self.path)


def load_program(path: Path, device: torch.device) -> ExportedCheckpoint:
    """Load a .pt2 file that `aes export` wrote. Raises AesError where it is none, or damaged."""
    extra = {f"{_KEY}.json": ""}
    try:
        with quiet():
            program = torch.export.load(str(path), extra_files=extra)
        strings = json.loads(extra[f"{_KEY}.json"] or "{}")
    except Exception as error:  # a damaged archive raises nearly anything
        raise AesError(f"{path}: cannot read the exported model: {first_line(error)}; {_CURE}") from error
    description = Description.read(strings, path)
    nodes = {node.name: node for node in program.graph.nodes}
    inputs, outputs = (
        [_shape(nodes[name]) for name in names]
        for names in (program.graph_signature.user_inputs, program.graph_signature.user_outputs)
    )
    if len(inputs) != len(description.inputs) or len(outputs) != len(description.outputs):
        raise description.misfit(path)
    description.require_fit(
        dict(zip(description.inputs, inputs, strict=True)),
        dict(zip(description.outputs, outputs, strict=True)),
        path,
    )
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    model = ProgramModel(program, description.outputs, description.answers)
    return ExportedCheckpoint(model, description, path)


def _shape(node: torch.fx.Node) -> Shape:
    return [length if isinstance(length, int) else None for length in node.meta["val"].shape]


def save_program(program: torch.export.ExportedProgram, path: Path, description: Description) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights that are views of each other, which these are not
        torch.export.save(program, str(path), extra_files={f"{_KEY}.json": json.dumps(description.strings())})
