"""`aes export`: options, one call, printing. How a model leaves the tool is `aescli.export`'s."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aescli.cli.common import ModelOption, QuietOption, TaskOption, note, option
from aescli.errors import AesError

if TYPE_CHECKING:
    from aescli.export.run import Export


class ExportFormat(StrEnum):
    onnx = "onnx"
    torch_export = "torch-export"
    safetensors = "safetensors"


class Quantize(StrEnum):
    none = "none"
    fp16 = "fp16"
    int8 = "int8"


def export(
    out: Annotated[Path, option("--out", "-o", metavar="DIR", help="Folder of the export (no default).")],
    task: TaskOption = None,
    model: ModelOption = None,
    format: Annotated[
        ExportFormat,
        option("--format", "-f", help="ONNX, a torch.export program, or bare weights (default: onnx)."),
    ] = ExportFormat.onnx,
    quantize: Annotated[
        Quantize,
        option(
            "--quantize",
            help="fp16: weights at half size, arithmetic as before; int8: a quarter of the size and faster, for onnx, "
            "needs --images (default: none).",
        ),
    ] = Quantize.none,
    images: Annotated[
        list[str] | None,
        option(
            "--images",
            metavar="PATH",
            help="Photos that the export is compared on, and int8 is calibrated on; a folder, file or @list.txt, may "
            "be repeated (default: two sample photos).",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        option("--opset", metavar="N", min=17, help="ONNX operator set (default: the exporter's own)."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Export a model as ONNX, torch.export or safetensors, and compare it with the original on real images.

    The folder gets the model, its card (card.json) and what must be done to a photo first (preprocessing.json); an
    ONNX or torch.export file also carries both inside and can be given to aes score --model. Above the tolerance (a
    score off by 1e-4 of the range in fp32, 1e-3 in fp16; a rank correlation below 0.99 in int8, on images that did
    not calibrate it) nothing is written.

    Examples:
        aes export --format onnx --out exported
        aes export --format onnx --quantize int8 --images ./photos --out exported8
    """
    from aescli.runtime import one_thread_per_operation

    one_thread_per_operation()

    from aescli.export.run import export as run
    from aescli.models.checkpoint import chosen_model
    from aescli.scoring.predictor import no_bundled_model

    spec = chosen_model(model, task)
    if spec is None:
        raise AesError(no_bundled_model(task))
    done = run(
        spec,
        out,
        format=format.value,
        precision="fp32" if quantize is Quantize.none else quantize.value,
        images=images or [],
        opset=opset,
        note=lambda text: note(f"aes: {text} …", quiet=quiet),
    )
    for line in _lines(done):
        note(f"aes: {line}", quiet=quiet)


def _lines(done: Export) -> list[str]:
    parity = done.parity
    size = f"{done.size / 1e6:.1f} MB"
    if done.full_size:
        size += f", {done.size / done.full_size:.2f} of the fp32 file"
    agreement = f"largest difference of a score {parity.score:.1e} of the range"
    if parity.probability is not None:
        agreement += f", of a probability {parity.probability:.1e}"
    if parity.attribute is not None:
        agreement += f", of an attribute {parity.attribute:.1e} of its largest value"
    if parity.srcc is not None:
        agreement += f"; SRCC {parity.srcc:.4f}"
    if done.precision == "int8":
        agreement += f"; another class for {parity.classes:.1%}"
    other = "the fp32 file" if done.precision == "int8" else "torch"
    return [
        f"wrote {done.file} ({done.precision}, {size})",
        f"{agreement}; on {parity.images} {done.pictures}",
        f"{parity.speed:.2f} times as fast as {other} on one core of this CPU",
    ]
