"""A model as a torch.export program: named outputs, any batch size, the scan as one loop.

It knows tracing. It knows no architecture: a model is a module with `answers` that takes images, and tokens where it
reads text, and gives an object with the fields of `OUTPUTS` that it has; files are somebody else's business.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import autocast_mode

from aescli.errors import AesError, first_line
from aescli.models.exported import OUTPUTS, TOKENS
from aescli.runtime import quiet

MAX_BATCH = 65_536


class Scorer(nn.Module):
    """A model that answers with a plain tuple of the outputs it has, in the order of `OUTPUTS`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def named(self, images: Tensor, *tokens: Tensor) -> dict[str, Tensor]:
        """name → tensor, of what the model gives. tokens: as `TOKENS`, for a model that reads text.

        Raises AesError for a model without a score.
        """
        text = (dict(zip(TOKENS, tokens, strict=True)),) if tokens else ()
        output: Any = self.model(images, *text)
        if output.score is None:
            raise AesError(
                "this model gives classes only, no score; export one that was trained for regression too"
            )
        logits = getattr(output, "logits", None)
        # MoMamba's own probabilities are float64, which few runtimes have.
        probabilities = output.probabilities if logits is None else logits.softmax(-1)
        heads = getattr(output, "head_scores", None)
        values = {
            "score": output.score,
            "probabilities": probabilities,
            "head_scores": heads if heads is not None and heads.shape[1] > 1 else None,
            "attribute_scores": output.attribute_scores if self.model.answers.attributes else None,
            "levels": output.levels,
        }
        return {name: values[name] for name in OUTPUTS if values[name] is not None}

    def forward(
        self, images: Tensor, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        tokens = () if input_ids is None else (input_ids, attention_mask)
        return tuple(self.named(images, *tokens).values())


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

    def forward(
        self, images: Tensor, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        inputs = (images,) if input_ids is None else (images, input_ids, attention_mask)
        whole = {name: self.module.get_buffer(name).float() for name in self._halved}
        return torch.func.functional_call(self.module, whole, inputs)


def trace(scorer: nn.Module, inputs: tuple[Tensor, ...], max_tokens: int = 0) -> torch.export.ExportedProgram:
    """The program of a module that takes (B, 3, S, S) and perhaps (B, L) tokens → tuple of tensors.

    inputs: an example with B ≥ 2, L > 2; the program takes any batch size and any L from 2 ([CLS], [SEP]) to
    max_tokens.

    Raises:
        AesError: the model cannot be exported; the reason is torch's.
    """
    axes = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
    shapes = [axes]
    if len(inputs) > 1:
        axes = {**axes, 1: torch.export.Dim("length", min=2, max=max_tokens)}
        shapes += [axes] * (len(inputs) - 1)
    with torch.no_grad(), quiet():
        scorer(*inputs)  # what a model works out at its first call is a finished constant in the graph
        try:
            program = torch.export.export(scorer, inputs, dynamic_shapes=tuple(shapes), strict=False)
        except Exception as error:
            reason = first_line(error)
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
