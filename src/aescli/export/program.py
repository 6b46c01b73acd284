"""A model as a torch.export program: named outputs, any batch size, the scan as one loop.

It knows tracing. It knows no architecture: a model is a module that takes images and gives an object with `score`
and perhaps `logits` or `probabilities`, `head_scores`, `attribute_scores`; files are somebody else's business.
"""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import autocast_mode

from aescli.errors import AesError
from aescli.models.exported import OUTPUTS

MAX_BATCH = 65_536


class Scorer(nn.Module):
    """A model that answers with a plain tuple of the outputs it has, in the order of `OUTPUTS`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """name → tensor, of what the model gives. Raises AesError for a model without a score."""
        output: Any = self.model(images)
        if output.score is None:
            raise AesError(
                "this model gives classes only, no score; export one that was trained for regression too"
            )
        logits = getattr(output, "logits", None)
        probabilities = getattr(output, "probabilities", None)
        if probabilities is None and logits is not None:
            probabilities = logits.softmax(-1)
        heads = getattr(output, "head_scores", None)
        values = {
            "score": output.score,
            "probabilities": probabilities,
            "head_scores": heads if heads is not None and heads.shape[1] > 1 else None,
            "attribute_scores": getattr(output, "attribute_scores", None),
        }
        return {name: values[name] for name in OUTPUTS if values[name] is not None}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())


class HalfWeights(nn.Module):
    """A module whose large weights are stored in fp16 and turned back for the arithmetic, which stays fp32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        from aescli.models.checkpoint import half_precision

        self.module = copy.deepcopy(module)
        state = half_precision(self.module.state_dict())
        self._halved = []
        for name, value in state.items():
            if value.dtype == torch.float16:
                owner, _, leaf = name.rpartition(".")
                parent = self.module.get_submodule(owner)
                delattr(parent, leaf)
                parent.register_buffer(leaf, value)
                self._halved.append(name)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        whole = {name: self.module.get_buffer(name).float() for name in self._halved}
        return torch.func.functional_call(self.module, whole, (images,))


def trace(scorer: nn.Module, size: int) -> torch.export.ExportedProgram:
    """The program of a module (B, 3, size, size) → tuple of tensors, for any batch size.

    Raises:
        AesError: the model cannot be exported; the reason is torch's.
    """
    images = torch.zeros(2, 3, size, size)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with torch.no_grad(), quiet():
        scorer(images)  # what a model works out at its first call is a finished constant in the graph
        try:
            program = torch.export.export(scorer, (images,), dynamic_shapes=({0: batch},), strict=False)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AesError(f"the model cannot be exported: {reason}; --debug shows where") from error
    _without_autocast(program)
    return program


def _without_autocast(program: torch.export.ExportedProgram) -> None:
    """Remove the marks of regions that switch autocast off: a program runs without it, and cannot be saved with
    them."""
    marks = (autocast_mode._enter_autocast, autocast_mode._exit_autocast)
    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            for node in reversed(list(graph.graph.nodes)):
                if node.target in marks:
                    graph.graph.erase_node(node)
            graph.recompile()


class quiet:  # noqa: N801  used like a function
    """Keep the exporter's remarks to its developers off the terminal."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._level)
        self._warnings.__exit__(None, None, None)
