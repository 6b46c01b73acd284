"""How close `aes score` comes to the speed of its parts: python tests/benchmarks/bench_score.py [--count
1000].

Makes its own JPEGs (12 megapixels and small ones) from the portrait in tests/photos. Then, in rounds, because
the speed of a machine drifts: every stage alone on all cores, the whole run, and the loop that one would
write first (Pillow, one forward pass per image). The bound is 1 / (1/decode + 1/detect + 1/model).
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aescli.runtime import available_cpus, keep_freed_memory, one_thread_per_operation

one_thread_per_operation()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from aescli.data.faces import FaceDetector, align_face  # noqa: E402
from aescli.data.finding import find_images  # noqa: E402
from aescli.data.images import load_image  # noqa: E402
from aescli.scoring.output import StreamOutput  # noqa: E402
from aescli.scoring.predictor import Predictor, load_predictor  # noqa: E402
from aescli.scoring.prepare import Preparer  # noqa: E402
from aescli.scoring.rows import Layout  # noqa: E402
from aescli.scoring.run import run  # noqa: E402
from aescli.scoring.writers import open_writer  # noqa: E402

PHOTOS = Path(__file__).parents[1] / "photos"
SIZES = {"12 MP": (4000, 3000), "small": (512, 512)}
DIFFERENT = 8  # pictures that are really different; the others are copies under other names


def portrait() -> Path:
    """The photo of tests/photos with the largest share of face."""
    detector = FaceDetector()

    def share(path: Path) -> float:
        pixels = load_image(path).pixels
        return max((f.area for f in detector(pixels)), default=0) / pixels[..., 0].size

    return max((Path(f.path) for f in find_images([PHOTOS])), key=share)


def make_jpegs(folder: Path, source: Path, size: tuple[int, int], count: int) -> None:
    """`count` JPEGs of `size` that show the portrait, with shifted frames, brightness and camera-like
    noise."""
    random = np.random.default_rng(0)
    with Image.open(source) as image:
        image = image.convert("RGB")
    for number in range(min(DIFFERENT, count)):
        width, height = image.size
        ratio = size[0] / size[1]
        w = min(width, height * ratio) * random.uniform(0.9, 1.0)
        h = w / ratio
        x, y = random.uniform(0, width - w), random.uniform(0, (height - h) * 0.3)
        picture = image.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
        noise = random.normal(0, 4, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(picture) * random.uniform(0.8, 1.1) + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
        for copy in range(number, count, DIFFERENT):
            (folder / f"{copy:05d}.jpg").write_bytes(buffer.getvalue())


def rate(work: Callable[[], int]) -> tuple[float, float]:
    """(images per second, milliseconds of processor time per image)."""
    start, used = time.perf_counter(), time.process_time()
    count = work()
    return count / (time.perf_counter() - start), (time.process_time() - used) / count * 1000


class Bench:
    def __init__(self, folder: Path, predictor: Predictor, workers: int, part: int):
        self.files = [f.path for f in find_images([folder])]
        self.part = self.files[:part]  # a stage alone needs fewer images than the whole run
        self.predictor, self.workers = predictor, workers
        self.preparer = Preparer(predictor.preprocessing)
        self.target = self.preparer.target
        self.detector = FaceDetector()
        self.threads = ThreadPoolExecutor(workers)
        self.decoded = [load_image(path, self.target).pixels for path in self.part[:DIFFERENT]]
        p = predictor.preprocessing
        faces = [self.detector(pixels)[0] for pixels in self.decoded]
        crops = [
            align_face(x, f.landmarks, p.size, p.eye_mouth, p.eye_y)
            for x, f in zip(self.decoded, faces, strict=True)
        ]
        self.batch = np.stack([crops[k % len(crops)] for k in range(predictor.batch_size)])

    def decode(self) -> int:
        return len(list(self.threads.map(lambda path: load_image(path, self.target).scale, self.part)))

    def detect(self) -> int:
        jobs = [self.decoded[k % len(self.decoded)] for k in range(len(self.part))]
        return len(list(self.threads.map(self._face, jobs)))

    def _face(self, pixels: np.ndarray) -> None:
        p = self.predictor.preprocessing
        align_face(pixels, self.detector(pixels)[0].landmarks, p.size, p.eye_mouth, p.eye_y)

    def model(self) -> int:
        calls = max(2 * self.workers, len(self.part) // len(self.batch))
        list(self.threads.map(lambda _: self.predictor.predict(self.batch), range(calls)))
        return calls * len(self.batch)

    def whole(self) -> int:
        sink = io.BytesIO()
        writer = open_writer("csv", sink, Layout())
        summary = run(
            find_images(self.files),
            self.preparer,
            self.predictor,
            StreamOutput(sink, writer),
            batch_size=self.predictor.batch_size,
            workers=self.workers,
        )
        assert summary.ok == len(self.files), summary
        return summary.images

    def naive(self) -> int:
        """Full decode by Pillow, the same detector and crop, one forward pass per image, on all cores."""
        import torch

        p = self.predictor.preprocessing
        torch.set_num_threads(self.workers)
        for path in self.part[: max(8, len(self.part) // 8)]:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            marks = self.detector(pixels)[0].landmarks
            self.predictor.predict(align_face(pixels, marks, p.size, p.eye_mouth, p.eye_y)[None])
        torch.set_num_threads(1)
        return max(8, len(self.part) // 8)


def measure(name: str, bench: Bench, rounds: int) -> None:
    stages = {"decode": bench.decode, "detect": bench.detect, "model": bench.model}
    stages |= {"end to end": bench.whole, "naive": bench.naive}
    rates: dict[str, list[float]] = {stage: [] for stage in stages}
    work: dict[str, list[float]] = {stage: [] for stage in stages}
    for _ in range(rounds):
        for stage, run_stage in stages.items():
            speed, used = rate(run_stage)
            rates[stage].append(speed)
            work[stage].append(used)
    median = statistics.median
    bounds = [1 / sum(1 / rates[s][k] for s in ("decode", "detect", "model")) for k in range(rounds)]
    ratios = [rates["end to end"][k] / bounds[k] for k in range(rounds)]
    for stage in stages:
        print(
            f"{name}: {stage:10s} {median(rates[stage]):8.1f} img/s {median(work[stage]):7.1f} ms processor"
        )
    print(f"{name}: {'bound':10s} {median(bounds):8.1f} img/s")
    print(f"{name}: end to end / bound = {median(ratios):.3f} ({' '.join(f'{r:.3f}' for r in ratios)})")
    # Less disturbed by other programs: the work of the stages over the work of the whole run, both cores kept busy.
    parts = sum(median(work[s]) for s in ("decode", "detect", "model"))
    print(f"{name}: processor time of the stages / end to end = {parts / median(work['end to end']):.3f}")
    print(f"{name}: end to end / naive = {median(rates['end to end']) / median(rates['naive']):.1f}")


def command_line(name: str, folder: Path, options: list[str]) -> None:
    """The program itself as a process of its own: time to the first row, and the rate with its start
    included."""
    count = len(list(folder.iterdir()))
    start = time.perf_counter()
    command = [sys.executable, "-c", "from aescli.cli import main; main()", "score", str(folder), "--quiet"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        first = time.perf_counter() - start
        process.stdout.read()
    seconds = time.perf_counter() - start
    print(f"{name}: aes score: first row after {first:.2f} s, {count / seconds:.1f} img/s with its start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="images per size (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--model", default=None, help="bundled model or checkpoint folder (default: bundled)")
    parser.add_argument("--device", default="auto", help="as for aes score (default: auto)")
    parser.add_argument(
        "--workers", type=int, default=available_cpus(), help="threads (default: one per core)"
    )
    parser.add_argument("--photo", type=Path, default=None, help="a portrait (default: from tests/photos)")
    parser.add_argument("--no-tuned-memory", action="store_true", help="leave the C allocator as it is")
    options = parser.parse_args()
    tuned = not options.no_tuned_memory and keep_freed_memory()
    predictor = load_predictor(options.model, device=options.device)
    source = options.photo or portrait()
    print(
        f"{options.workers} threads, {os.cpu_count()} cores, device {options.device}, tuned memory: {tuned}"
    )
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make_jpegs(folder, source, size, options.count)
            measure(
                name, Bench(folder, predictor, options.workers, max(16, options.count // 4)), options.rounds
            )
            more = ["--device", options.device, *(["--model", options.model] if options.model else [])]
            command_line(name, folder, more)


if __name__ == "__main__":
    main()
