"""Where the detail enhancement module looks, with and without its frequency bands (MoMamba Fig. 15).

Knows a MoMamba checkpoint and the crops that it scores; knows nothing about labels or the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aescli.evaluation.report.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aescli.models.checkpoint import Checkpoint

MODES = {
    "none": "without frequency",
    "low": "only low",
    "high": "only high",
    "both": "low and high",
}


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


def frequency_maps(checkpoint: Checkpoint, crops: np.ndarray) -> dict[str, np.ndarray]:
    """mode of `MODES` → (n, h, w): the DEM's activation, averaged over its channels, for n crops.

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
    maps = {}
    with torch.inference_mode():
        watch = model.dem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            model.decode(model.encoder(((x - mean) / std).to(device)))
        finally:
            watch.remove()
        features = seen[0]  # (n, C, h, w)
        channels = features.shape[1]
        for mode in MODES:
            maps[mode] = _output(model.dem, features, channels, mode).mean(1).float().cpu().numpy()
    return maps


def _output(dem, features, channels: int, mode: str):
    """The DEM's output with only the bands of `mode`; its fusion takes (high C, low C, states 2C)."""

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


def heatmap_figure(crops: np.ndarray, maps: dict[str, np.ndarray]) -> Figure:
    """A row for each crop: the crop itself, then each mode's map over it, on a scale of its own (blue to red)."""
    figure = new_figure(1.25 * (len(MODES) + 1), 1.25 * len(crops) + 0.35)
    panels = figure.subplots(len(crops), len(MODES) + 1, squeeze=False)
    side = crops.shape[1]
    extent = (0, side, side, 0)
    for row, crop in enumerate(crops):
        for column, mode in enumerate([None, *MODES]):
            axes = panels[row, column]
            axes.imshow(crop, extent=extent)
            if mode is not None:
                values = maps[mode][row]
                spread = np.ptp(values)
                heat = (values - values.min()) / spread if spread > 0 else np.zeros_like(values)
                axes.imshow(
                    heat, cmap="turbo", alpha=0.5, extent=extent, interpolation="bicubic", vmin=0, vmax=1
                )
            axes.set_axis_off()
            if row == 0:
                axes.set_title("input" if mode is None else MODES[mode], fontsize=7.5)
    return figure
