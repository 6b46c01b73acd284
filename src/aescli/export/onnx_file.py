"""ONNX files: written from a traced program, and quantised to int8 with the user's own images.

It knows the onnx and onnxruntime packages (extra `onnx`). What the file must agree with, and how well, is
`aescli.export.parity`'s.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aescli.errors import AesError, first_line
from aescli.models.exported import IMAGES, Description
from aescli.runtime import quiet

if TYPE_CHECKING:
    import torch

_CALIBRATION_BATCH = 8
_EARLY, _ANSWERS = 3, 16
"""What an int8 model computes in fp32: that many convolutions in a row from the image on, and the products with at
most that many results."""


def require_onnx() -> None:
    """AesError with the cure where a package is missing. Called before any work is done."""
    missing = [n for n in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(n) is None]
    if missing:
        raise AesError(f"ONNX export needs {', '.join(missing)}: pip install 'aescli[onnx]'")


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, description: Description, opset: int | None = None
) -> None:
    """One self-contained file. opset: the ONNX operator set; None takes torch's default.

    Raises:
        AesError: the program has operators that this ONNX version cannot say.
    """
    import torch

    try:
        with quiet(), torch.no_grad(), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            made = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=list(description.inputs),
                output_names=list(description.outputs),
                dynamic_shapes=tuple(
                    {0: "batch"} if name == IMAGES else {0: "batch", 1: "length"}
                    for name in description.inputs
                ),
            )
            made.save(str(path), external_data=False)
    except Exception as error:
        reason = first_line(error)
        raise AesError(f"the model cannot be written as ONNX: {reason}; try another --opset") from error
    got = _opset(path)
    if opset not in (None, got):
        raise AesError(
            f"--opset {opset}: torch can only write this model in set {got}; give another, or leave it out"
        )
    add_description(path, description)


def _opset(path: Path) -> int:
    import onnx

    imports = onnx.load(path, load_external_data=False).opset_import
    return next(item.version for item in imports if item.domain in ("", "ai.onnx"))


def add_description(path: Path, description: Description) -> None:
    """Put the card, the preprocessing and the rest into the file's metadata."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, description.strings())
    model.producer_name, model.producer_version = "aescli", description.version
    model.doc_string = f"{description.card.name}: {description.card.description}".strip(": ")
    # Traces of the machine that exported it: source lines and paths in every node.
    for graph in _graphs(model.graph):
        for node in graph.node:
            del node.metadata_props[:]
        del graph.metadata_props[:]
    onnx.save(model, path)


def _graphs(graph) -> Iterator:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def quantize(source: Path, target: Path, images: np.ndarray) -> None:
    """Write an int8 version of an ONNX file: weights per channel, activations by the ranges that `images` show.

    images: (N, 3, S, S) float32, as the model takes them. Scans and everything that is no matrix product keep fp32, and
    so does what loses most and gains little: the convolutions next to the image, where 256 levels have to do for all
    channels together (a MobileNet's first depthwise convolution alone costs .01 of the rank correlation), and the
    last products, whose few results are the answers (they alone change the class of every sixth face).
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared = os.path.join(folder, "prepared.onnx")
        # Folds norms into convolutions first. Symbolic shape inference knows no scans, and is not needed.
        quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            str(target),
            _Calibration(images),
            quant_format=QuantFormat.QDQ,
            # The activations are named so that a convolution's range is taken after its cut-off, not before it:
            # without them a MobileNet's rank correlation falls from .997 to .980.
            op_types_to_quantize=["Conv", "MatMul", "Gemm", "Clip", "Relu"],
            nodes_to_exclude=_kept(onnx.load(prepared).graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def _kept(graph) -> list[str]:
    """The names of the nodes that keep fp32; see `quantize`."""
    sizes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    depth: dict[str, int] = {}  # tensor → convolutions on the longest way to it
    kept = []
    for node in graph.node:  # in the order in which they are computed
        before = max((depth.get(name, 0) for name in node.input), default=0)
        after = before + (node.op_type == "Conv")
        depth.update(dict.fromkeys(node.output, after))
        # A convolution's cut-off belongs to it.
        early = 0 < after <= _EARLY and node.op_type in ("Conv", "Clip", "Relu")
        last = node.op_type == "Gemm" and min(sizes.get(node.input[1], (_ANSWERS + 1,))) <= _ANSWERS
        if early or last:
            kept.append(node.name)
    return kept


class _Calibration:
    """The images in small batches, as onnxruntime asks for them."""

    def __init__(self, images: np.ndarray):
        starts = range(0, len(images), _CALIBRATION_BATCH)
        self._batches = iter(images[k : k + _CALIBRATION_BATCH] for k in starts)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {IMAGES: batch}
