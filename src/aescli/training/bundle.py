"""Turns a finished run into a model that ships: fp16 where that is harmless, a card with the folds' figures.

`python -m aescli.training.bundle RUN --name NAME --card CARD.yaml --images DIR [--folds RUN1 RUN2 …] --out DIR`
Knows checkpoints and scoring; knows nothing about how a run was made.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from aescli.data.faces import FaceDetector
from aescli.data.images import find_images, load_image
from aescli.errors import AesError
from aescli.models.checkpoint import (
    CHECKPOINT,
    METRICS,
    Checkpoint,
    half_precision,
    load_checkpoint,
    save_checkpoint,
)
from aescli.training.augment import clean_crop
from aescli.training.features import to_input

TOLERANCE = 0.001
"""Largest change of a score by fp16 weights, as a share of the score range."""


def sample_crops(checkpoint: Checkpoint, images: list[str], limit: int) -> torch.Tensor:
    """Model inputs of the first faces found in up to `limit` images, evenly spaced over the list."""
    p, detector, crops = checkpoint.preprocessing, FaceDetector(), []
    for path in images[:: max(1, len(images) // limit)]:
        pixels = load_image(path, 2 * p.size).pixels
        faces = detector(pixels) if p.faces else []
        if faces or not p.faces:
            landmarks = faces[0].landmarks if faces else None
            crops.append(clean_crop(pixels, landmarks, p.size, p.eye_mouth, p.eye_y))
    if not crops:
        raise AesError("no usable image to compare fp16 and fp32 on")
    return to_input(crops, p, torch.device("cpu"))


@torch.inference_mode()
def fp16_change(checkpoint: Checkpoint, x: torch.Tensor) -> float:
    """max |score(fp32) − score(fp16 weights)| / score range over the inputs (B, 3, S, S)."""
    model = checkpoint.model
    full = torch.cat([model(part).score for part in x.split(32)])
    state = model.state_dict()
    rounded = {k: v.float() if v.is_floating_point() else v for k, v in half_precision(state).items()}
    kept = {k: v.clone() for k, v in state.items()}
    model.load_state_dict(rounded)
    half = torch.cat([model(part).score for part in x.split(32)])
    model.load_state_dict(kept)
    low, high = checkpoint.card.score_range
    return float((full - half).abs().max() / (high - low))


def fold_table(runs: list[Path]) -> dict[str, Any]:
    """Mean ± sd over fold runs of every figure they report, per data set: {set: {figure: {mean, sd, folds}}}."""
    tables = [json.loads((run / CHECKPOINT / METRICS).read_text()) for run in runs]
    result: dict[str, Any] = {}
    for name in tables[0]:
        if name == "history":
            continue
        result[name] = {"n": [t[name]["n"] for t in tables]}
        for kind in ("score", "own_head", "classes"):
            if kind not in tables[0][name]:
                continue
            for figure in tables[0][name][kind]:
                values = np.array([t[name][kind][figure] for t in tables])
                result[name][f"{kind}.{figure}"] = {
                    "mean": round(float(values.mean()), 4),
                    "sd": round(float(values.std(ddof=1)), 4) if len(values) > 1 else None,
                    "folds": [round(float(v), 4) for v in values],
                }
    return result


def bundle(
    run: Path, name: str, card: dict[str, Any], images: list[str], folds: list[Path], out: Path
) -> float:
    """Write `out`/`name`; returns the fp16 change. The card's fields override the run's."""
    checkpoint = load_checkpoint(run)
    change = fp16_change(checkpoint, sample_crops(checkpoint, images, 400))
    state = checkpoint.model.state_dict()
    if change < TOLERANCE:
        state = half_precision(state)
    metrics = fold_table(folds) if folds else {}
    card = replace(checkpoint.card, name=name, **{**card, "metrics": {**card.get("metrics", {}), **metrics}})
    config = json.loads(json.dumps(checkpoint.config))
    config["model"]["encoder"]["weights"] = None  # where they came from is the card's to say, not a path
    save_checkpoint(out / name, state, config, card, None, set(checkpoint.training_hashes))
    return change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--images", required=True, nargs="+")
    parser.add_argument("--folds", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    images = [found.path for found in find_images(options.images) if not found.error]
    card = yaml.safe_load(options.card.read_text(encoding="utf-8"))
    change = bundle(options.run, options.name, card, images, options.folds, options.out)
    size = (options.out / options.name / "model.safetensors").stat().st_size
    print(
        json.dumps(
            {
                "fp16_change": change,
                "bytes": size,
                "card": asdict(load_checkpoint(options.out / options.name).card),
            }
        )
    )


if __name__ == "__main__":
    main()
