"""What it costs to decode a photo (reduced and in full) and to find its faces.

    python tests/benchmarks/bench_decode.py [--photo FILE] [--rounds N]

Everything runs on one thread; the tasks take turns, so that other load hits all alike. Medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from aescli.data import faces, framing
from aescli.data.images import load_image

PORTRAIT = Path(__file__).resolve().parent.parent / "photos" / "portrait.jpg"


def twelve_megapixels(folder: Path, photo: Path) -> dict[str, Path]:
    """The photo enlarged to 4000×3000, with a sensor's noise (smooth pictures decode too fast)."""
    image = Image.open(photo).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (3000, 4000, 1))
    image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    paths = {"JPEG": folder / "a.jpg", "progressive JPEG": folder / "p.jpg", "PNG": folder / "a.png"}
    image.save(paths["JPEG"], quality=90)
    image.save(paths["progressive JPEG"], quality=90, progressive=True)
    image.save(paths["PNG"], compress_level=1)
    return paths


def medians(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds a call, median over rounds, the tasks taking turns."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            begin = time.perf_counter()
            task()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures of one size."""
    return float(20 * np.log10(255 / np.sqrt(((a.astype(float) - b) ** 2).mean())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photo", type=Path, default=PORTRAIT, help="a photo to enlarge (default: the sample portrait)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="repetitions (default: 7)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = twelve_megapixels(Path(folder), options.photo)
        decode = {
            f"{kind}, target {target}": (path, target)
            for kind, path in paths.items()
            for target in (224, 448)
        }
        decode |= {f"{kind}, in full": (path, 10_000) for kind, path in paths.items()}
        cost = medians({n: lambda a=a: load_image(*a) for n, a in decode.items()}, options.rounds)
        print("decode of 12 megapixels, one thread")
        full = framing.square_resize(load_image(paths["JPEG"], 10_000).pixels, 256)
        for name, (path, target) in decode.items():
            agreement = ""
            if "full" not in name:
                quality = decibels(framing.square_resize(load_image(path, target).pixels, 256), full)
                agreement = f"  {quality:5.1f} dB against full, at 256 px"
            print(f"  {name:30} {cost[name]:7.1f} ms {1e3 / cost[name]:6.1f} img/s{agreement}")

        detector = faces.FaceDetector()
        portrait = load_image(paths["JPEG"]).pixels
        empty = np.ascontiguousarray(np.full_like(portrait, 127))
        (found, *_) = detector(portrait)
        tasks: dict[str, Callable[[], object]] = {
            "a portrait": lambda: detector(portrait),
            "a portrait, all faces": lambda: detector(portrait, find_all=True),
            "a photo without a face": lambda: detector(empty),
            "align to 224 px": lambda: faces.align_face(portrait, found.landmarks),
        }
        print(f"faces in {portrait.shape[1]}×{portrait.shape[0]} pixels, one thread")
        for name, value in medians(tasks, options.rounds).items():
            print(f"  {name:30} {value:7.1f} ms {1e3 / value:6.1f} img/s")


if __name__ == "__main__":
    main()
