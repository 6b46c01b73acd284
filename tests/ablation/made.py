"""Made-up data and a tiny model for the studies: 40 pictures whose score is their brightness, in five folds."""

import csv

import numpy as np
from PIL import Image

SMALL = (
    "model.encoder={name: mobilenetv1, levels: [4, 6], image_size: 32}",
    "model.width=8",
    "model.dem={d_state: 2, expand: 1, sub_blocks: 2}",
    "model.same={states: 3, rank_min: 2, rank_step: 1, task_rank: 2, heads: 2}",
    "preprocessing.faces=false",
    "train.epochs=2",
    "train.batch_size=8",
    "train.frozen_blocks=6",
    "train.views=1",
    "train.lr=3e-3",
)


def make_faces(root):
    """labels.csv and images/ under `root`, named as SCUT-FBP5500's; returns `root`."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        level = rng.uniform(0.1, 0.9)
        pixels = (255 * level + rng.normal(0, 12, (40, 40, 3))).clip(0, 255).astype(np.uint8)
        name = f"{('AF', 'AM', 'CF', 'CM')[i % 4]}{i}.png"
        Image.fromarray(pixels).save(root / "images" / name)
        rows.append((name, round(1 + 4 * level, 4), name[:2], i % 5 + 1, "train"))
    write_labels(root, rows)
    return root


def write_labels(root, rows):
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "score", "group", "fold", "split6040"), *rows])


def read_labels(root):
    with (root / "labels.csv").open() as file:
        return list(csv.reader(file))[1:]
