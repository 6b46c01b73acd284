"""How large a model is and what one image costs: parameters per part, multiply–adds, milliseconds.

Knows presets and models; knows nothing about data.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from aescli.models.checkpoint import build_model
from aescli.presets import Preset


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Parameters of the whole model and of each direct part."""
    counts = {"total": sum(p.numel() for p in model.parameters())}
    for name, part in model.named_children():
        counts[name] = sum(p.numel() for p in part.parameters())
    return {name: count for name, count in counts.items() if count}


def forward_cost(model: nn.Module, size: int) -> tuple[float, float]:
    """(billions of multiply–adds, milliseconds) of one image, eval mode, on this machine's CPU.

    Multiply–adds of matrix products, convolutions and attention, as torch counts them; the scan's are not.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model.eval()
    # A model that reads text is measured with a comment of 64 tokens.
    tokens = {
        "input_ids": torch.ones(1, 64, dtype=torch.long),
        "attention_mask": torch.ones(1, 64, dtype=torch.long),
    }
    inputs = (torch.zeros(1, 3, size, size), *([tokens] if model.answers.reads_text else []))
    with torch.inference_mode():
        counter = FlopCounterMode(display=False)
        with counter:
            model(*inputs)
        seconds = min(_seconds(lambda: model(*inputs)) for _ in range(3))  # the first may compile something
    return counter.get_total_flops() / 2e9, 1e3 * seconds


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def describe_model(preset: Preset) -> list[str]:
    """Lines for a person: parameters and forward cost."""
    from dataclasses import asdict, replace

    # Nothing is fetched; a file given is loaded.
    unfetched = {"encoder": replace(preset.model.encoder, pretrained=False)}
    if getattr(preset.model, "text", None) is not None:
        unfetched["text"] = replace(preset.model.text, pretrained=False)
    config = replace(preset.model, **unfetched)
    model = build_model({"architecture": preset.architecture, "model": asdict(config)})
    counts = parameter_counts(model)
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name != "total")
    multiply_adds, milliseconds = forward_cost(model, preset.model.encoder.image_size)
    return [
        f"parameters {counts['total']:,} ({parts})",
        f"forward, one {preset.model.encoder.image_size} px image: {multiply_adds:.2f} G multiply–adds, "
        f"{milliseconds:.0f} ms on this CPU",
    ]
