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

from aescli.data.datasets import read_dataset
from aescli.data.faces import FaceDetector
from aescli.data.images import find_images, load_image
from aescli.errors import AesError
from aescli.evaluation.bootstrap import Predictions, bootstrap
from aescli.models.checkpoint import (
    CHECKPOINT,
    CONFIG,
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
            crops.append(clean_crop(pixels, landmarks, p))
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


def fold_table(
    runs: list[Path], groups: dict[str, dict[str, str]], weights: list[float] | None = None
) -> dict[str, Any]:
    """Figures of fold runs, per data set: {set: {"folds": mean ± sd, "pooled": with interval, "groups": …}}.

    groups: {data set: {image name: subgroup}}. The score's correlations are those of the data set's own head, which
    is what a fold run of several data sets is asked about; `score` is the mixture by `weights`, which `aes score`
    prints.
    """
    tables = [json.loads((run / CHECKPOINT / METRICS).read_text()) for run in runs]
    result: dict[str, Any] = {}
    for name in (key for key in tables[0] if key != "history"):
        entry: dict[str, Any] = {"images": [t[name]["n"] for t in tables], "folds": {}}
        for kind in [k for k in ("own_head", "classes") if k in tables[0][name]] or ["score"]:
            for figure in tables[0][name][kind]:
                if kind == "score" and not figure.endswith(("PLCC", "SRCC", "KRCC")):
                    continue  # the labels' scale was brought to the model's, not the other way round
                entry["folds"][f"{kind} {figure}"] = _spread([t[name][kind][figure] for t in tables])
        rows = [json.loads((run / f"test_{name}.json").read_text()) for run in runs]
        own = _own_head(runs[0], name) if tables[0][name].get("own_head") else None
        truth = np.array([row["score"] for fold in rows for row in fold])
        member = groups.get(name, {})
        if own is None:  # one score, no heads of its own for each data set
            entry["pooled SRCC score"] = _with_interval(
                np.array([row["predicted"] for fold in rows for row in fold]), truth
            )
            entry["groups pooled SRCC"] = _pooled_by_group(rows, member)
        else:
            heads = np.array([row["heads"] for fold in rows for row in fold])
            mixture = np.array(weights or [1.0] * heads.shape[1])
            mixture /= mixture.sum()
            for kind, predicted in (("score", heads @ mixture), ("own_head", heads[:, own])):
                entry[f"pooled SRCC {kind}"] = _with_interval(predicted, truth)
            entry["groups own_head PC"] = {
                group: _spread([_group_pearson(fold, own, member, group) for fold in rows])
                for group in sorted(set(member.values()))
            }
        result[name] = entry
    return result


def _own_head(run: Path, name: str) -> int:
    heads = json.loads((run / CHECKPOINT / CONFIG).read_text())["model"]["score_heads"]
    return heads.index(name) if name in heads else 0


def _spread(values: list[float]) -> dict[str, Any]:
    array = np.array(values, dtype=np.float64)
    sd = round(float(array.std(ddof=1)), 4) if len(array) > 1 else None
    return {"mean": round(float(array.mean()), 4), "sd": sd, "folds": [round(float(v), 4) for v in array]}


def _pooled_by_group(rows: list[list[dict[str, Any]]], member: dict[str, str]) -> dict[str, list[float]]:
    """[SRCC, low, high, images] of each subgroup over all folds."""
    everything = [row for fold in rows for row in fold]
    result = {}
    for group in sorted(set(member.values())):
        chosen = [row for row in everything if member.get(row["name"]) == group]
        predicted, truth = (np.array([row[key] for row in chosen]) for key in ("predicted", "score"))
        result[group] = [*_with_interval(predicted, truth), len(chosen)]
    return result


def _group_pearson(rows: list[dict[str, Any]], own: int, member: dict[str, str], group: str) -> float:
    chosen = [row for row in rows if member.get(row["name"]) == group]
    return float(np.corrcoef([row["heads"][own] for row in chosen], [row["score"] for row in chosen])[0, 1])


def _with_interval(predicted: np.ndarray, truth: np.ndarray) -> list[float]:
    """[SRCC, low, high]: 95 % bootstrap over the images."""
    from scipy.stats import spearmanr

    low, high = bootstrap(Predictions(predicted, truth)).interval("SRCC")
    return [round(float(v), 4) for v in (spearmanr(predicted, truth)[0], low, high)]


def bundle(
    run: Path,
    name: str,
    card: dict[str, Any],
    images: list[str],
    metrics: dict[str, Any],
    out: Path,
    weights: list[float] | None = None,
) -> float:
    """Write `out`/`name`; returns the fp16 change. The card's fields override the run's, `weights` its mixture."""
    checkpoint = load_checkpoint(run)
    if weights:
        checkpoint.config["model"]["score_weights"] = weights
        checkpoint.model.score_weights.copy_(torch.tensor(weights) / sum(weights))
    change = fp16_change(checkpoint, sample_crops(checkpoint, images, 400))
    state = checkpoint.model.state_dict()
    if change < TOLERANCE:
        state = half_precision(state)
    card = replace(checkpoint.card, name=name, **{**card, "metrics": {**card.get("metrics", {}), **metrics}})
    config = json.loads(json.dumps(checkpoint.config))
    for encoder in (config["model"]["encoder"], *config["model"]["encoder"].get("also", [])):
        encoder["weights"] = None  # where they came from is the card's to say, not a path
    save_checkpoint(out / name, state, config, card, None, set(checkpoint.training_hashes))
    return change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--images", required=True, nargs="+")
    parser.add_argument("--folds", type=Path, nargs="*", default=[])
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="the folds' data sets, for their subgroups"
    )
    parser.add_argument(
        "--score-weights", type=float, nargs="*", default=None, help="mixture of the score heads"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    images = [found.path for found in find_images(options.images) if not found.error]
    card = yaml.safe_load(options.card.read_text(encoding="utf-8"))
    groups = {}
    for source in options.data:
        dataset = read_dataset("auto", source)
        groups[dataset.name] = {s.name: next(iter(s.group.values()), "") for s in dataset.samples}
    metrics = fold_table(options.folds, groups, options.score_weights) if options.folds else {}
    change = bundle(options.run, options.name, card, images, metrics, options.out, options.score_weights)
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
