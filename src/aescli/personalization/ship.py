"""Learns the prior over tastes that ships with a model: `python -m aescli.personalization.ship --help`.

It knows MEBeauty's individual ratings and how features are computed from crops. It knows nothing about one person.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from aescli.data.datasets import mebeauty, read_dataset
from aescli.data.datasets.ratings import read_ratings
from aescli.data.labels import map_scale
from aescli.models.checkpoint import resolve
from aescli.models.encoders import EncoderConfig, build_encoder
from aescli.personalization.learning import beside_consensus, express, guided_components, learn_prior
from aescli.personalization.prior import principal_components, save_prior
from aescli.scoring.predictor import Predictor, load_predictor
from aescli.training.samples import Pictures, TrainingSample, training_samples
from aescli.training.teacher import pooled_clean

_FOLDS = 5
_GUIDED, _PLAIN = 48, 32
GENERIC_ERROR = 0.05
"""Mean squared difference between the bundled model's scores of unseen images and their mean ratings on 1–5, beyond the
noise of the means."""


@torch.inference_mode()
def describe(
    samples: Sequence[TrainingSample], predictor: Predictor, guide: Path | None = None
) -> dict[str, np.ndarray]:
    """features (n, d) and scores (n,) of the samples' clean crops; with a guide, its pooled last level (n, e) too.

    guide: MobileNetV1 weights of a face recogniser; each crop counts with its mirror image.
    """
    pictures = Pictures(samples, predictor.preprocessing)
    rows: dict[str, list[np.ndarray]] = {"features": [], "scores": []}
    part: list[np.ndarray] = []
    for index, crop in enumerate(pictures.crops(range(len(samples)), None)):
        part.append(crop)
        if len(part) < 16 and index + 1 < len(samples):
            continue
        pixels = np.stack(part)
        prediction = predictor.predict(pixels)
        rows["features"].append(prediction.features)
        rows["scores"].append(prediction.scores)
        part = []
    found = {name: np.concatenate(parts) for name, parts in rows.items()}
    if guide is not None:
        config = EncoderConfig("mobilenetv1", (13,), weights=str(guide), fold_norms=True)
        found["guide"] = pooled_clean(
            build_encoder(config), pictures, torch.device("cpu"), None, config.image_size
        )
    return found


def cross_fitted(features: np.ndarray, guide: np.ndarray, wanted: int) -> np.ndarray:
    """What `guided_components` makes of the first `wanted` images, each expressed without itself.

    Features explain a guide better on the images that the expression was fitted on than on a person's own photos.
    """
    centre, projection = principal_components(guide, _GUIDED)
    targets = (guide - centre) @ projection
    fold = np.random.default_rng(0).permutation(len(features)) % _FOLDS
    guided = np.empty((wanted, targets.shape[1]))
    for k in range(_FOLDS):
        rows = np.flatnonzero(fold[:wanted] == k)
        centre, projection = express(features[fold != k], targets[fold != k])
        guided[rows] = (features[rows] - centre) @ projection
    centre, projection = principal_components(features, _PLAIN)
    return np.hstack([guided, (features[:wanted] - centre) @ projection]) / np.sqrt(2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="bundled model or checkpoint folder; gets the prior")
    parser.add_argument("--data", type=Path, required=True, help="MEBeauty's folder, with ratings.csv")
    parser.add_argument(
        "--more", type=Path, nargs="*", default=[], help="data sets for the guided components"
    )
    parser.add_argument("--guide", type=Path, required=True, help="MobileNetV1 weights of a face recogniser")
    parser.add_argument(
        "--cache", type=Path, help=".npz that keeps features, scores and guide (default: none)"
    )
    options = parser.parse_args(arguments)
    predictor = load_predictor(options.model)
    scale = predictor.scale
    dataset = mebeauty.read(options.data / "labels.csv", options.data)
    if options.cache and options.cache.is_file():
        known = dict(np.load(options.cache))
    else:
        sets = [dataset, *(read_dataset("auto", path) for path in options.more)]
        samples = [sample for one in sets for sample in training_samples(one, 0, scale)]
        known = describe(samples, predictor, options.guide)
        if options.cache:
            np.savez(options.cache, **known)
    place = {sample.name: i for i, sample in enumerate(dataset.samples)}
    table = read_ratings("mebeauty", options.data)
    image = np.array([place.get(name, -1) for name in table.images])[table.image]
    kept = image >= 0
    positions, raters = image[kept], np.array(table.users)[table.user[kept]]
    scores = map_scale(table.score[kept], table.scale, scale)
    features = known["features"].astype(np.float64)
    prior = learn_prior(
        predictor.digest,
        scale,
        features,
        beside_consensus(positions, raters, scores, known["scores"][: len(place)]),
        generic_error=GENERIC_ERROR,
        reduction=guided_components(features, known["guide"], _GUIDED, _PLAIN),
        components=cross_fitted(features, known["guide"], len(place)),
        origin=f"learned from {len(set(raters))} raters of MEBeauty",
    )
    path = save_prior(prior, resolve(options.model))
    print(f"{path}: {path.stat().st_size / 1000:.0f} KB, noise {prior.noise:.3f}, spread {prior.spread:.3f}")


if __name__ == "__main__":
    main()
