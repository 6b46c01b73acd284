"""Where the detail enhancement module looks, with and without its frequency bands (MoMamba Fig. 15).

Knows a MoMamba checkpoint and the crops that it scores; knows nothing about labels or the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aescli.evaluation.report.style import new_figure

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from aescli.models.checkpoint import Checkpoint

MODES = {
    "none": "without frequency",
    "low": "only low",
    "high": "only high",
    "both": "low and high",
}
BANDS = {"low": "the low band", "high": "the high band"}


@dataclass(frozen=True, slots=True)
class FrequencyMaps:
    """What the DEM does with n crops.

    output: mode of `MODES` → (n, h, w) activation of the module's output, averaged over its channels.
    bands: band of `BANDS` → (n, h, w) mean magnitude of the band itself, as it enters the module's fusion.
    influence: band → mean |output without it − output| over mean |output|; 0 = the module ignores it.
    """

    output: dict[str, np.ndarray]
    bands: dict[str, np.ndarray]
    influence: dict[str, float]

    def describe(self) -> str:
        """The influences in words."""
        said = [f"without the {band} band {_percent(value)}" for band, value in self.influence.items()]
        return f"How much the module's output changes: {', '.join(said)}."


def has_heatmaps(checkpoint: Checkpoint) -> bool:
    """Whether the model has a DEM that was trained with both bands, so that each can be taken away."""
    dem = getattr(checkpoint.model, "dem", None)
    return dem is not None and dem.config.frequency == "both"


def face_crops(checkpoint: Checkpoint, paths: Sequence[Path], faces: str = "auto") -> np.ndarray:
    """(n, S, S, 3) uint8: what the model sees of each file; files in which nothing can be scored are left out."""
    from aescli.data.finding import Found
    from aescli.scoring.prepare import Preparer

    prepare = Preparer(checkpoint.preprocessing, faces)
    found = [prepare(Found(str(path))).crops for path in paths]
    size = checkpoint.preprocessing.size
    pixels = [crops[0].pixels for crops in found if crops]
    return np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)


def frequency_maps(checkpoint: Checkpoint, crops: np.ndarray) -> FrequencyMaps:
    """Run n crops (n, S, S, 3) through the model's DEM with none, one or both of its frequency bands.

    A band is taken away by silencing its channels at the entrance of the module's fusion; "none" leaves the
    state-space branch alone. One trained model is looked at: its other weights stay as they are. (The paper trains
    a model for each mode.) Raises ValueError where `has_heatmaps` is false.
    """
    import torch

    if not has_heatmaps(checkpoint):
        raise ValueError("the model has no detail enhancement module with both frequency bands")
    p, model = checkpoint.preprocessing, checkpoint.model
    device = next(model.parameters()).device
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (p.mean, p.std))
    x = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 255
    seen: list[torch.Tensor] = []
    with torch.inference_mode():
        watch = model.dem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            model.decode(model.encoder(((x - mean) / std).to(device)))
        finally:
            watch.remove()
        high, low = model.dem.frequencies(seen[0]).abs().chunk(2, 1)  # (n, C, h, w) each
        outputs = {mode: _output(model.dem, seen[0], mode) for mode in MODES}
        both = outputs["both"]
        scale = both.abs().mean().clamp_min(torch.finfo(both.dtype).tiny)
        without = {"low": outputs["high"], "high": outputs["low"]}
        return FrequencyMaps(
            output={mode: _map(values) for mode, values in outputs.items()},
            bands={"low": _map(low), "high": _map(high)},
            influence={band: float((x - both).abs().mean() / scale) for band, x in without.items()},
        )


def _map(values: torch.Tensor) -> np.ndarray:
    """(n, C, h, w) → (n, h, w)."""
    return values.mean(1).float().cpu().numpy()


def _output(dem: torch.nn.Module, features: torch.Tensor, mode: str) -> torch.Tensor:
    """The DEM's output with only the bands of `mode`; its fusion takes (high C, low C, states 2C)."""
    channels = features.shape[1]

    def silence(_, inputs):
        x = inputs[0].clone()
        if mode in ("none", "low"):
            x[:, :channels] = 0
        if mode in ("none", "high"):
            x[:, channels : 2 * channels] = 0
        return (x,)

    hook = dem.fuse.register_forward_pre_hook(silence)
    try:
        return dem(features)
    finally:
        hook.remove()


def heatmap_figure(crops: np.ndarray, maps: FrequencyMaps) -> Figure:
    """A row for each crop: the crop, the output's map in each mode over it, then the two bands' own."""
    columns = [(MODES[mode], maps.output[mode]) for mode in MODES]
    columns += [(BANDS[band], maps.bands[band]) for band in BANDS]
    figure = new_figure(1.2 * (len(columns) + 1), 1.2 * len(crops) + 0.35)
    panels = figure.subplots(len(crops), len(columns) + 1, squeeze=False)
    side = crops.shape[1]
    extent = (0, side, side, 0)
    for row, crop in enumerate(crops):
        for column, (title, heat) in enumerate([("input", None), *columns]):
            axes = panels[row, column]
            axes.imshow(crop, extent=extent)
            if heat is not None:
                over = {"cmap": "turbo", "alpha": 0.5, "interpolation": "bicubic", "vmin": 0, "vmax": 1}
                axes.imshow(_stretched(heat[row]), extent=extent, **over)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=7.5)
    return figure


def _stretched(values: np.ndarray) -> np.ndarray:
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def _percent(share: float) -> str:
    if share == 0:
        return "not at all"
    return f"{100 * share:.1f} %" if share >= 1e-3 else "less than 0.1 %"
