"""`aes export` as one call: a checkpoint in, a checked export folder out, complete or absent.

It puts tracing, file formats and the parity check together. It prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aescli.errors import AesError, UsageError
from aescli.export import onnx_file, parity
from aescli.export.folder import FILES, add_companions, add_taste, staged, target
from aescli.export.program import HalfWeights, Scorer, trace
from aescli.models.checkpoint import (
    WEIGHTS,
    Checkpoint,
    half_precision,
    load_checkpoint,
    resolve,
    save_checkpoint,
)
from aescli.models.exported import TOKENS, describe, exported_file, save_program
from aescli.scoring.predictor import Predictor, TorchPredictor, load_predictor

COMPARED = 32
"""Crops that an fp32 or fp16 export is compared on."""

CALIBRATION, HELD_OUT, LEAST = 128, 256, 40
"""int8: crops that calibrate, and others that are compared; fewer than LEAST in all cannot show a rank correlation."""


@dataclass(frozen=True)
class Export:
    """What was written and how well it agrees. size: bytes; full_size: of the same format in fp32 (int8, fp16)."""

    file: Path
    precision: str
    parity: parity.Parity
    pictures: str
    size: int
    full_size: int | None


def export(
    spec: str,
    out: Path,
    *,
    format: str = "onnx",
    precision: str = "fp32",
    images: Sequence[str] = (),
    opset: int | None = None,
    note: Callable[[str], Any] = lambda text: None,
) -> Export:
    """Export the checkpoint or bundled model `spec` into the folder `out`.

    format: one of `FILES`. precision: fp32, fp16 (weights only) or int8 (ONNX; calibrated on `images`). images: files
    or folders that the exported model is compared on. note: is told what is going on.

    Raises:
        AesError: nothing to export, a folder in the way, or scores beyond the tolerance; `out` is then as it was.
    """
    _check(spec, format, precision, images)
    source = resolve(spec)
    folder = target(out, source)
    if format == "onnx":
        onnx_file.require_onnx()
    checkpoint = _without_category_heads(load_checkpoint(spec))
    if precision == "int8" and checkpoint.model.answers.reads_text:
        raise UsageError(
            f"--quantize int8: --model {spec} also reads text; use fp16, or leave --quantize out"
        )
    least = CALIBRATION + HELD_OUT if precision == "int8" else COMPARED
    crops, pictures = parity.sample_crops(checkpoint.preprocessing, images, least)
    if precision == "int8" and len(crops) < LEAST:
        raise AesError(
            f"--quantize int8: only {len(crops)} of your images can be scored; give at least {LEAST}, better 400"
        )
    with staged(folder) as staging:
        made = _write(checkpoint, staging, format, precision, crops, opset, note)
        add_companions(checkpoint, staging, made.outputs)
        note("comparing with the checkpoint")
        reference = TorchPredictor(checkpoint, torch.device("cpu"), torch.float32)
        baseline = _predictor(made.full, checkpoint) if precision == "int8" and made.full else None
        compared = crops[made.calibrated :]
        exported = _predictor(made.file, checkpoint)
        found = parity.compare(exported, reference, compared, baseline)
        parity.check(found, precision)
        if isinstance(exported, TorchPredictor):  # only with such a one a prior over tastes is used
            add_taste(checkpoint, staging, exported.digest)
        target(out, source)  # minutes have passed
        size, full_size = made.file.stat().st_size, made.full_size
        if made.full is not None:
            made.full.unlink()
    return Export(out / FILES[format], precision, found, pictures, size, full_size)


def _without_category_heads(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without what only training needs; scores stay the same."""
    drop = getattr(checkpoint.model, "drop_category_heads", None)
    if drop is None:
        return checkpoint
    drop()
    model = {**checkpoint.config["model"], "category_heads": False}
    return replace(checkpoint, config={**checkpoint.config, "model": model})


def _check(spec: str, format: str, precision: str, images: Sequence[str]) -> None:
    if precision == "int8" and format != "onnx":
        raise UsageError(
            f"--quantize int8 is for --format onnx, not {format}; use fp16, or leave --quantize out"
        )
    if precision == "int8" and not images:
        raise UsageError(
            "--quantize int8 needs --images: photos of your kind that its number ranges are taken from"
        )
    if exported_file(spec) is not None:
        raise UsageError(f"--model {spec} is an exported file already; give the checkpoint that it came from")


@dataclass
class _Made:
    """file: the export. full: its fp32 version, to be compared with and removed. calibrated: crops used up."""

    file: Path
    outputs: tuple[str, ...]
    full: Path | None = None
    full_size: int | None = None
    calibrated: int = 0


def _write(
    checkpoint: Checkpoint,
    folder: Path,
    format: str,
    precision: str,
    crops: np.ndarray,
    opset: int | None,
    note: Callable[[str], Any],
) -> _Made:
    scorer = Scorer(checkpoint.model).eval()
    inputs, max_tokens = _example(checkpoint)
    with torch.no_grad():
        outputs = tuple(scorer.named(*inputs))
    file = folder / FILES[format]
    if format == "safetensors":
        state = checkpoint.model.state_dict()
        save_checkpoint(
            folder / "weights",
            half_precision(state) if precision == "fp16" else state,
            checkpoint.config,
            checkpoint.card,
            tokenizer=checkpoint.tokenizer if checkpoint.model.answers.reads_text else None,
        )
        for part in (folder / "weights").iterdir():
            part.rename(folder / part.name)
        (folder / "weights").rmdir()
        return _Made(file, outputs)
    description = describe(checkpoint, outputs, precision)
    note("tracing the model")
    program = trace(HalfWeights(scorer).eval() if precision == "fp16" else scorer, inputs, max_tokens)
    if format == "torch-export":
        save_program(program, file, description)
        return _Made(file, outputs)
    note("writing ONNX")
    if precision != "int8":
        onnx_file.write_onnx(program, file, description, opset)
        return _Made(file, outputs)
    full = folder / "full.onnx"
    onnx_file.write_onnx(program, full, describe(checkpoint, outputs, "fp32"), opset)
    calibrated = min(CALIBRATION, len(crops) // 2)
    note(f"calibrating on {calibrated} images")
    onnx_file.quantize(full, file, parity.normalised(crops[:calibrated], checkpoint.preprocessing))
    onnx_file.add_description(file, description)
    return _Made(file, outputs, full, full.stat().st_size, calibrated)


def _example(checkpoint: Checkpoint) -> tuple[tuple[torch.Tensor, ...], int]:
    """Inputs for two images as the model takes them, and the most tokens of a text (0 without text)."""
    side = checkpoint.preprocessing.size
    images = torch.zeros(2, 3, side, side)
    if not checkpoint.model.answers.reads_text:
        return (images,), 0
    tokens = checkpoint.tokenizer(parity.TEXTS[:2])
    return (images, *(tokens[name] for name in TOKENS)), checkpoint.model.config.text.max_tokens


def _predictor(file: Path, checkpoint: Checkpoint) -> Predictor:
    spec = file.parent if file.name == WEIGHTS else file
    return load_predictor(str(spec), task=checkpoint.card.task, device="cpu")
