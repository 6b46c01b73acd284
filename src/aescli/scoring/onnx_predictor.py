"""An exported ONNX file as a function from crops to numbers, run by onnxruntime.

It knows onnxruntime and what `aes export` wrote into the file. It knows nothing about torch models' insides, faces or
rows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aescli.errors import AesError, UsageError, first_line
from aescli.models.exported import IMAGES, Description, file_digest
from aescli.scoring.predictor import Prediction

_FURTHER = ("probabilities", "attribute_scores", "levels")
"""Outputs beside the score, in the order of `Prediction`."""


class OnnxPredictor:
    """A `Predictor`. On a CPU several threads predict at once, each with one thread per operation."""

    def __init__(self, path: Path, *, device: str = "auto", dtype: str = "auto"):
        """device: auto, cpu or cuda[:N] (with onnxruntime-gpu). Raises AesError where the file or the device cannot
        be used."""
        if importlib.util.find_spec("onnxruntime") is None:
            raise AesError(f"scoring with {path} needs onnxruntime: pip install 'aescli[onnx]'")
        if dtype not in ("auto", "fp32"):
            raise UsageError(
                f"--dtype {dtype}: the precision of an ONNX file was chosen by aes export --quantize"
            )
        import onnxruntime

        providers, on_gpu = _providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # warnings about its own graph rewriting
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime has a class for each status
            reason = first_line(error)
            raise AesError(
                f"{path}: onnxruntime cannot load it: {reason}; it is damaged or no ONNX file: export the model again"
            ) from error
        self.description = description = Description.read(
            self._session.get_modelmeta().custom_metadata_map, path
        )
        description.require_fit(
            *map(_shapes, (self._session.get_inputs(), self._session.get_outputs())), path
        )
        card, self.preprocessing = description.card, description.preprocessing
        self.task: str = card.task
        self.scale, self.cuts = tuple(card.score_range), tuple(card.class_cuts)
        answers = description.answers
        self.classes, self.distribution = answers.probabilities, answers.distribution
        self.attributes, self.reads_text = answers.attributes, answers.reads_text
        self._tokenize = description.load_tokenizer(path) if self.reads_text else None
        self.digest = file_digest(path)
        self.concurrency = 1 if on_gpu else 64
        self.batch_size = 64 if on_gpu else 8
        self._head: int | None = None
        self._wanted = ["score", *(name for name in _FURTHER if name in description.outputs)]
        self._mean = np.array(self.preprocessing.mean, np.float32).reshape(3, 1, 1)
        self._std = np.array(self.preprocessing.std, np.float32).reshape(3, 1, 1)

    def answer_with(self, head: int) -> None:
        """Let one score head answer instead of the model's mixture of them."""
        self._head, self._wanted[0] = head, "head_scores"
        self.digest += f"-{head}"

    def predict(self, images: np.ndarray, texts: Sequence[str] = ()) -> Prediction:
        """See `Predictor`."""
        x = (images.transpose(0, 3, 1, 2).astype(np.float32, order="C") / 255 - self._mean) / self._std
        inputs = {IMAGES: x}
        if self._tokenize is not None:
            inputs |= {name: value.numpy() for name, value in self._tokenize(texts).items()}
        found = dict(zip(self._wanted, self._session.run(self._wanted, inputs), strict=True))
        chosen = found["score"] if self._head is None else found["head_scores"][:, self._head]
        scores = chosen.astype(np.float64).clip(*self.scale)
        nothing = np.empty((len(scores), 0))
        return Prediction(scores, *(found.get(name, nothing).astype(np.float64) for name in _FURTHER))


def _shapes(arguments: Sequence[Any]) -> dict[str, list[int | None]]:
    """name → lengths of the axes, None for one that is any, of what a session takes or gives."""
    return {a.name: [n if isinstance(n, int) else None for n in a.shape] for a in arguments}


def _providers(device: str, available: list[str]) -> tuple[list, bool]:
    """onnxruntime's execution providers for a --device, and whether that is a GPU."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (":" in device and not (kind == "cuda" and index.isdigit())):
        raise UsageError(f"--device {device}: an ONNX file runs on auto, cpu, cuda or cuda:N")
    gpu = "CUDAExecutionProvider" in available
    if kind == "cuda" and not gpu:
        raise AesError(
            f"--device {device}: this onnxruntime has no CUDA; install onnxruntime-gpu, or use --device cpu"
        )
    if kind == "cpu" or not gpu:
        return ["CPUExecutionProvider"], False
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"], True
