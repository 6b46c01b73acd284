"""A trained model as a function from crops to numbers: device, precision, and what to do when memory runs
out.

It knows torch (imported when a model is loaded, not before) and checkpoints. It knows nothing about files,
faces or rows.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from aescli.errors import AesError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

DTYPES = ("auto", "fp32", "bf16", "fp16")


class Prediction(NamedTuple):
    """scores: (B,) float64 on the model's scale. probabilities: (B, K) float64, rows sum to 1; K may be 0.

    attributes: (B, A) float64, further scores, each on its own scale; A may be 0. features: (B, d) float64, what the
    picture shows, for a personal model.
    """

    scores: np.ndarray
    probabilities: np.ndarray
    attributes: np.ndarray
    features: np.ndarray


class Predictor(Protocol):
    """What the pipeline needs of a model.

    scale: the score's range. classes: K, 0 for a model without probabilities. cuts: the scores at which the classes
    change. distribution: the probabilities are those of the ratings, not of classes. attributes: names of further
    scores. reads_text: it needs what people wrote about each image. digest: identifies the weights.
    preprocessing: size, fit, faces, eye_mouth, eye_y.
    concurrency: how many threads may call `predict` at once with profit; `remote`, where it is set, says that such
    a thread only waits for another process. batch_size: a good one for this device.
    """

    task: str
    scale: tuple[float, float]
    classes: int
    cuts: tuple[float, ...]
    distribution: bool
    attributes: tuple[str, ...]
    reads_text: bool
    digest: str
    preprocessing: Any
    concurrency: int
    batch_size: int

    def predict(self, images: np.ndarray, texts: Sequence[str] = ()) -> Prediction:
        """(B, S, S, 3) uint8 RGB and, for a model that reads them, B texts → Prediction. Thread-safe; each
        image's result is independent of the others."""


class TorchPredictor:
    """A checkpoint on a device. On a CPU several threads predict at once, each with one thread per
    operation."""

    def __init__(self, checkpoint: Any, device: torch.device, dtype: torch.dtype, head: int | None = None):
        import torch

        self.checkpoint = checkpoint
        card, preprocessing = checkpoint.card, checkpoint.preprocessing
        self.task: str = card.task
        self.scale, self.cuts = tuple(card.score_range), tuple(card.class_cuts)
        self._model = checkpoint.model.to(device=device, memory_format=torch.channels_last).eval()
        answers = self._model.answers
        self.classes, self.distribution = answers.probabilities, answers.distribution
        self.attributes, self.reads_text = answers.attributes, answers.reads_text
        self._tokenize = checkpoint.tokenizer if self.reads_text else None
        self.digest: str = checkpoint.digest
        self._head = head  # None = the model's own mixture of its score heads
        if head is not None:
            self.digest += f"-{head}"
        self.preprocessing = preprocessing
        self.device, self.dtype = device, dtype
        self._cuda_like = device.type != "cpu"
        self.concurrency = 1 if self._cuda_like else 64
        self.batch_size = 64 if self._cuda_like else 8  # at 8 no buffer of a CNN passes 32 MB (see runtime)
        self._turn = threading.Lock()
        self._largest = 1 << 30  # halved when memory runs out
        self.observe: Callable[[Any], None] | None = None  # called with each whole output of the model
        mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self._mean, self._std = mean, std
        if not self._cuda_like:
            torch.set_num_threads(1)

    def predict(self, images: np.ndarray, texts: Sequence[str] = ()) -> Prediction:
        """See `Predictor`. Out of memory halves the batch, for this call and all later ones; AesError at one
        image."""
        start, parts = 0, []
        while start < len(images):
            count = min(self._largest, len(images) - start)
            try:
                part = self._forward(images[start : start + count], texts[start : start + count])
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if count == 1:
                    raise AesError(
                        f"not enough memory on {self.device} for one image of {images.shape[1]} px; "
                        "close other programs or use --device cpu"
                    ) from error
                self._largest = max(1, count // 2)
                self._release()
                continue
            parts.append(part)
            start += count
        return Prediction(*map(np.concatenate, zip(*parts, strict=True)))

    def _forward(self, images: np.ndarray, texts: Sequence[str]) -> Prediction:
        import torch

        with torch.inference_mode():
            # (B, S, S, 3) bytes seen as (B, 3, S, S) is the channels-last layout that convolutions want.
            x = torch.from_numpy(images).permute(0, 3, 1, 2)
            tokens = self._tokenize(texts) if self._tokenize else None
            if not self._cuda_like:
                return self._run(x, tokens)
            with self._turn:
                return self._run(x.to(self.device, non_blocking=True), tokens)

    def _run(self, x: torch.Tensor, tokens: dict[str, torch.Tensor] | None) -> Prediction:
        import torch

        x = (x.float() / 255 - self._mean) / self._std
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype if low else None, enabled=low):
            if tokens is None:
                output = self._model(x)
            else:
                output = self._model(x, {key: value.to(self.device) for key, value in tokens.items()})
        if output.score is None:
            raise AesError(
                "this model gives classes only, no score; give one that was trained for regression too"
            )
        if self.observe is not None:
            self.observe(output)
        chosen = output.score if self._head is None else output.head_scores[:, self._head]
        # A prediction a little beyond the scale's end means its end.
        scores = chosen.double().clamp(*self.scale).cpu().numpy()
        further = output.attribute_scores if self.attributes else None
        return Prediction(
            scores, *(_array(x, len(scores)) for x in (output.probabilities, further, output.levels))
        )

    def _release(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _array(x: torch.Tensor | None, count: int) -> np.ndarray:
    """(count, K) float64; K = 0 for None."""
    return np.empty((count, 0)) if x is None else x.double().cpu().numpy()


def _out_of_memory(error: BaseException) -> bool:
    """torch says it as OutOfMemoryError on a GPU and as a plain RuntimeError on a CPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


def load_predictor(
    model: str | None,
    *,
    task: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    raters: str | None = None,
) -> Predictor:
    """The predictor for `--model` (a bundled model's name, a checkpoint folder, an exported file) or the task's
    bundled one.

    task: None = what the model is for, without one `DEFAULT_TASK`.
    device: several, with commas between them, work in a process each. raters: the training set whose raters'
    score head answers; None = the model's mixture of its heads. Imports torch, unless there are several devices.
    Raises AesError where there is no such model, or it is for another task or device.
    """
    if "," in device:
        from aescli.scoring.devices import DevicePool

        each = functools.partial(load_predictor, model, task=task, dtype=dtype, raters=raters)
        return DevicePool([name.strip() for name in device.split(",")], each)

    from aescli.models.checkpoint import DEFAULT_TASK, chosen_model, load_checkpoint
    from aescli.models.exported import exported_file, load_program

    spec = chosen_model(model, task)
    if spec is None:
        raise AesError(no_bundled_model(task or DEFAULT_TASK))
    file = exported_file(model)
    if file is not None and file.suffix == ".onnx":
        return _onnx_predictor(file, task, device, dtype, raters)
    chosen = choose_device(device)
    precision = choose_dtype(dtype, chosen)
    checkpoint = load_checkpoint(spec, device="cpu") if file is None else load_program(file, chosen)
    _check_task(checkpoint.card.task, task, spec)
    return TorchPredictor(checkpoint, chosen, precision, _head_of(checkpoint.config, raters, spec))


_PRESETS = {
    "viaa": "aesmamba-v-ava",
    "miaa": "aesmamba-m-ava",
    "fiaa": "aesmamba-f-para",
    "piaa": "aesmamba-p-para",
}


def no_bundled_model(task: str) -> str:
    from aescli.models.checkpoint import DEFAULT_MODELS

    hint = f"; --task {' or '.join(DEFAULT_MODELS)} needs none" if DEFAULT_MODELS else ""
    preset = _PRESETS.get(task, "momamba-lite")
    return (
        f"no model for --task {task} comes with aescli; give the folder of one with --model, trained for example by "
        f"aes train --preset {preset} --data LABELS --images DIR --out runs/{task}{hint}"
    )


def _onnx_predictor(file: Path, task: str | None, device: str, dtype: str, raters: str | None) -> Predictor:
    from aescli.scoring.onnx_predictor import OnnxPredictor

    predictor = OnnxPredictor(file, device=device, dtype=dtype)
    _check_task(predictor.task, task, str(file))
    head = _head_of(predictor.description.config, raters, str(file))
    if head is not None:
        predictor.answer_with(head)
    return predictor


def _check_task(own: str, wanted: str | None, spec: str) -> None:
    if wanted is not None and own != wanted:
        raise AesError(f"the model {spec} is for --task {own}, not --task {wanted}; give the matching one")


def _head_of(config: dict[str, Any], raters: str | None, spec: str) -> int | None:
    """The index of the score head that was trained on the data set `raters`; None for the model's mixture."""
    if raters is None:
        return None
    heads = config.get("model", {}).get("score_heads", [])
    if not raters or raters not in heads:
        known = ", ".join(name for name in heads if name) or "none, it has one score head"
        raise UsageError(f"--raters {raters}: the model {spec} knows no such raters; it knows: {known}")
    return list(heads).index(raters)


def choose_device(name: str) -> torch.device:
    """auto = the first CUDA device, else Apple's GPU, else the CPU. AesError where the device is not
    there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if "," in name:
        raise UsageError(f"--device {name}: one device is wanted here")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: use auto, cpu, cuda, cuda:N or mps") from error
    if device.type not in ("cpu", "cuda", "mps") or (device.type != "cuda" and device.index is not None):
        raise UsageError(f"--device {name}: use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise AesError(f"--device {name}: torch finds no CUDA device here; use --device cpu")
        if (device.index or 0) >= count:
            raise AesError(f"--device {name}: there are {count} CUDA devices here, counted from cuda:0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise AesError(f"--device {name}: torch finds no Apple GPU here; use --device cpu")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto = fp32 on every device, so that the same image has the same score everywhere."""
    import torch

    if name == "fp16" and device.type == "cpu":
        raise UsageError("--dtype fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
