"""The pictures of a training run: which files, which targets, where their faces are, and their crops.

Several data sets become one list on the model's score scale; each keeps the index of its score head. Knows data
sets and faces; knows nothing about models or optimisation.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aescli.data.datasets import Dataset, ReadReport, Sample
from aescli.data.faces import FaceDetector
from aescli.data.images import ImageError, find_images, load_image
from aescli.data.labels import map_scale
from aescli.errors import UsageError
from aescli.models.checkpoint import Preprocessing
from aescli.runtime import available_cpus
from aescli.training.augment import DEGRADATIONS, augmented_crop, clean_crop, degraded
from aescli.training.config import AugmentConfig

UNLABELLED = "unlabelled"
"""Name of the data sets that have pictures and no scores."""


@dataclass(frozen=True)
class TrainingSample:
    """One labelled picture. score: on the model's scale. noise: variance of its mean rating there, 0 if unknown.

    path: the picture that is scored; alternatives: other pictures of the same rating (the whole photo it was cut
    from). head: index of its data set's score head. scores: further named scores on the model's scale. counts: votes
    for each step of the data set's scale. text: what people wrote about it. degradation: how the picture is spoilt, one
    of `augment.DEGRADATIONS`, or empty.
    """

    name: str
    path: Path
    score: float
    head: int
    noise: float = 0.0
    alternatives: tuple[Path, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    counts: tuple[float, ...] | None = None
    text: str = ""
    degradation: str = ""


def training_samples(
    dataset: Dataset, head: int, scale: tuple[float, float], originals: Dataset | None = None
) -> list[TrainingSample]:
    """A data set's samples on `scale`. `originals`: whole photos under the same names, used as alternatives."""
    scores = map_scale([s.score for s in dataset.samples], dataset.scale, scale)
    unit = (scale[1] - scale[0]) / (dataset.scale[1] - dataset.scale[0])
    photos = {s.name: s.path for s in originals.samples} if originals else {}
    return [
        TrainingSample(
            name=s.name,
            path=Path(s.path),
            score=float(score),
            head=head,
            noise=(s.std * unit) ** 2 / s.n_ratings if s.std and s.n_ratings else 0.0,
            alternatives=(photos[s.name],) if s.name in photos and photos[s.name] != s.path else (),
            scores=_mapped(s.scores, dataset.scale, scale),
            counts=s.counts,
            text=s.comment or "",
            degradation=s.group.get("degradation", "") if dataset.name == UNLABELLED else "",
        )
        for s, score in zip(dataset.samples, scores, strict=True)
    ]


def _mapped(
    scores: Mapping[str, float], source: tuple[float, float], target: tuple[float, float]
) -> dict[str, float]:
    """A data set's further scores are on the scale of its main one."""
    if not scores:
        return {}
    return dict(zip(scores, map_scale(list(scores.values()), source, target).tolist(), strict=True))


def unlabelled(folder: Path) -> Dataset:
    """The pictures of a folder as a data set without scores, each as it is and once for each of `DEGRADATIONS`.

    Raises UsageError for a folder without pictures.
    """
    found = [item.path for item in find_images([str(folder)]) if not item.error]
    if not found:
        raise UsageError(f"--unlabelled {folder}: no pictures there")
    samples = [
        Sample(Path(path), f"{path}#{kind}" if kind else path, math.nan, {"degradation": kind})
        for path in found
        for kind in ("", *DEGRADATIONS)
    ]
    return Dataset(UNLABELLED, samples, (0.0, 1.0), ReadReport(folder, folder, len(found), len(found)))


class Pictures:
    """Decoded pictures with their faces, as crops: clean (what scoring sees) or augmented, seeded by (epoch, index).

    Faces are found once. A picture in which none is found is used whole; `without_face` counts them.
    """

    def __init__(
        self, samples: Sequence[TrainingSample], preprocessing: Preprocessing, seed: int = 0
    ) -> None:
        self.samples = list(samples)
        self.preprocessing = preprocessing
        self.seed = seed
        self._workers = available_cpus()
        self._faces: dict[Path, np.ndarray | None] = {}
        if preprocessing.faces:
            self._find_faces()

    @property
    def without_face(self) -> int:
        return sum(1 for s in self.samples if self.preprocessing.faces and self._faces.get(s.path) is None)

    def _find_faces(self) -> None:
        detector = FaceDetector()

        def find(path: Path) -> np.ndarray | None:
            try:
                pixels = self._pixels(path)
            except ImageError:  # an alternative: the samples' own pictures are known to be readable
                return None
            found = detector(pixels)
            # Relative to the size: `prepared` may ask for another one, and crops come from that decode.
            return found[0].landmarks / pixels.shape[1::-1] if found else None

        paths = [path for s in self.samples for path in (s.path, *s.alternatives)]
        with ThreadPoolExecutor(self._workers) as pool:
            self._faces = dict(zip(paths, pool.map(find, paths), strict=True))
        # A whole photo without a recognisable face cannot stand in for the crop of one.
        self.samples = [
            replace(s, alternatives=tuple(a for a in s.alternatives if self._faces[a] is not None))
            for s in self.samples
        ]

    def prepared(self, preprocessing: Preprocessing) -> "Pictures":
        """The same pictures and faces, prepared otherwise."""
        other = copy.copy(self)
        other.preprocessing = preprocessing
        return other

    def part(self, indices: Sequence[int]) -> "Pictures":
        """Some of the pictures, in that order, with the same faces."""
        other = copy.copy(self)
        other.samples = [self.samples[i] for i in indices]
        return other

    def _pixels(self, path: Path) -> np.ndarray:
        """(H, W, 3) uint8, decoded as for scoring: faces seldom fill a photo."""
        return load_image(path, 2 * self.preprocessing.size).pixels

    def _load(self, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        pixels = self._pixels(path)
        landmarks = self._faces.get(path)
        return pixels, None if landmarks is None else landmarks * pixels.shape[1::-1]

    def clean(self, index: int) -> np.ndarray:
        """(S, S, 3) uint8."""
        sample = self.samples[index]
        crop = clean_crop(*self._load(sample.path), self.preprocessing)
        if not sample.degradation:
            return crop
        return degraded(crop, sample.degradation, np.random.default_rng((self.seed, index)))

    def augmented(self, index: int, epoch: int, config: AugmentConfig) -> np.ndarray:
        """(S, S, 3) uint8; the same for the same seed, epoch and index."""
        sample = self.samples[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        choices = (sample.path, *sample.alternatives)
        path = choices[rng.integers(len(choices))]
        crop = augmented_crop(*self._load(path), self.preprocessing, config, rng)
        return degraded(crop, sample.degradation, rng) if sample.degradation else crop

    def crops(self, indices: Sequence[int], epoch: int | None, config: AugmentConfig | None = None):
        """Yield (S, S, 3) uint8 crops in order, decoded ahead by threads; `epoch` None gives clean ones."""
        window = 4 * self._workers + 16

        def make(index: int) -> np.ndarray:
            return self.clean(index) if epoch is None else self.augmented(index, epoch, config)

        with ThreadPoolExecutor(self._workers) as pool:
            pending = [pool.submit(make, i) for i in indices[:window]]
            for k in range(len(indices)):
                yield pending[k].result()
                pending[k] = None
                if k + window < len(indices):
                    pending.append(pool.submit(make, indices[k + window]))
