"""What the decoder is trained from: the encoder's lower half, computed per batch or once into files.

A frozen part gives the same features for the same picture, so with `views` > 0 they are computed once for each of
a fixed number of augmented versions (plus the clean one) and read from memory-mapped files ever after; folds and
ablations over the same pictures share them. Knows pictures and encoders; knows nothing about losses.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aescli.models.checkpoint import Preprocessing
from aescli.models.mobilenet import fold_norms
from aescli.models.momamba import mirrored
from aescli.runtime import available_cpus
from aescli.training.config import AugmentConfig
from aescli.training.samples import Pictures

_BATCH = 16
CLEAN = -1  # the view that scoring would see


def to_input(crops: Sequence[np.ndarray], preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """uint8 (S, S, 3) crops → (B, 3, S, S) float32, normalised, channels last."""
    x = torch.from_numpy(np.stack(crops)).to(device).permute(0, 3, 1, 2).float()
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    return ((x / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


class LivePictures:
    """Batches straight from pixels: augmented anew in every epoch."""

    folder = None

    def __init__(self, pictures: Pictures, config: AugmentConfig | None, device: torch.device) -> None:
        self.pictures, self.config, self.device = pictures, config, device

    def batches(self, indices: Sequence[int], batch_size: int, epoch: int | None) -> Iterator[list[Tensor]]:
        """Yield encoder inputs `[images]` for consecutive runs of `indices`; `epoch` None gives clean pictures."""
        crops = self.pictures.crops(indices, epoch, self.config)
        for start in range(0, len(indices), batch_size):
            count = min(batch_size, len(indices) - start)
            yield [to_input([next(crops) for _ in range(count)], self.pictures.preprocessing, self.device)]

    def states(self, encoder: nn.Module, batch: list[Tensor]) -> list[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not encoder.cut):
            return encoder.lower(batch[0])

    def sides(
        self, encoder: nn.Module, batch_size: int, scale: float | None
    ) -> Iterator[tuple[list[Tensor], ...]]:
        """Yield the frozen part's (states, states of the mirror images) of all clean pictures in turn.

        scale: of the mirror images, as `models.momamba.mirrored` has it; None leaves them out.
        """
        for (images,) in self.batches(range(len(self.pictures.samples)), batch_size, None):
            sides = [images] if scale is None else [images, mirrored(images, scale)]
            yield tuple(encoder.lower(side) for side in sides)


class CachedFeatures:
    """The lower half's output for every picture and view, as float16 in memory-mapped files under `folder`."""

    def __init__(
        self, folder: Path, pictures: Pictures, encoder: nn.Module, config: AugmentConfig, views: int,
        device: torch.device, progress=lambda iterable, **_: iterable,
    ) -> None:  # fmt: skip
        self.views, self.device, self.pictures, self.progress = views, device, pictures, progress
        key = features_key(pictures, encoder, config)
        self.folder = folder / key
        self.folder.mkdir(parents=True, exist_ok=True)
        fused = fold_norms(encoder)
        self.arrays = {CLEAN: self._view("clean", self._clean, fused)}
        for view in range(views):

            def augmented(indices: range, view: int = view) -> Tensor:
                return self._input([pictures.augmented(i, view, config) for i in indices])

            self.arrays[view] = self._view(f"view{view}", augmented, fused)

    def _input(self, crops: list[np.ndarray]) -> Tensor:
        return to_input(crops, self.pictures.preprocessing, self.device)

    def _clean(self, indices: range) -> Tensor:
        return self._input([self.pictures.clean(i) for i in indices])

    def _view(self, name: str, images: Callable[[range], Tensor], encoder: nn.Module) -> list[np.ndarray]:
        """The files of one view, made if they are not there; `images` gives the encoder's input for some pictures."""
        index = self.folder / f"{name}.json"
        if not index.is_file():
            count, files, arrays = len(self.pictures.samples), [], []
            batches = self._compute(images, encoder)
            for start, states in self.progress(batches, desc=f"features {name}", total=-(-count // _BATCH)):
                if not arrays:
                    files = [f"{name}-{i}.npy" for i in range(len(states))]
                    arrays = [
                        np.lib.format.open_memmap(
                            self.folder / f"{file}.{os.getpid()}", "w+", np.float16, (count, *state.shape[1:])
                        )
                        for file, state in zip(files, states, strict=True)
                    ]
                for array, state in zip(arrays, states, strict=True):
                    array[start : start + len(state)] = state
            for array, file in zip(arrays, files, strict=True):
                array.flush()
                os.replace(self.folder / f"{file}.{os.getpid()}", self.folder / file)
            index.write_text(json.dumps(files))  # last: its presence says that the view is complete
        return [np.load(self.folder / file, mmap_mode="r") for file in json.loads(index.read_text())]

    def _compute(self, images: Callable[[range], Tensor], encoder: nn.Module):
        """Yield (first index, states) of all pictures. On a CPU, whole batches side by side with one thread each:
        threads inside an operation wait for each other whenever anything else runs."""
        count = len(self.pictures.samples)

        def make(start: int):
            if self.device.type == "cpu":
                torch.set_num_threads(1)  # of this thread only
            with torch.inference_mode():
                states = encoder.lower(images(range(start, min(start + _BATCH, count))))
                return start, [state.half().cpu().numpy() for state in states]

        threads = available_cpus()
        with ThreadPoolExecutor(threads) as pool:
            pending = deque()
            for start in range(0, count, _BATCH):
                pending.append(pool.submit(make, start))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def sides(
        self, encoder: nn.Module, batch_size: int, scale: float | None
    ) -> Iterator[tuple[list[Tensor], ...]]:
        """As of `LivePictures`, from files; those of the mirror images are made when they are asked for first."""
        sides = [self.arrays[CLEAN]]
        if scale is not None:

            def turned(indices: range) -> Tensor:
                return mirrored(self._clean(indices), scale)

            sides.append(self._view(f"mirror{scale:g}", turned, fold_norms(encoder)))
        for start in range(0, len(self.pictures.samples), batch_size):
            part = slice(start, start + batch_size)
            yield tuple(
                self.states(encoder, [self._tensor(array[part]) for array in arrays]) for arrays in sides
            )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device).float()

    def batches(self, indices: Sequence[int], batch_size: int, epoch: int | None) -> Iterator[list[Tensor]]:
        """Yield states for consecutive runs of `indices`; each picture's view changes from epoch to epoch."""
        indices = np.asarray(indices)
        if epoch is None:
            views = np.full(len(indices), CLEAN)
        else:
            # Drawn for every position: an epoch may hold a picture several times. CLEAN is one of them.
            rng = np.random.default_rng((self.pictures.seed, 7, epoch))
            views = rng.integers(CLEAN, self.views, len(indices))
        for start in range(0, len(indices), batch_size):
            part = slice(start, start + batch_size)
            rows = list(zip(views[part], indices[part], strict=True))
            yield [
                self._tensor(np.stack([self.arrays[v][level][i] for v, i in rows]))
                for level in range(len(self.arrays[CLEAN]))
            ]

    def states(self, encoder: nn.Module, batch: list[Tensor]) -> list[Tensor]:
        return [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in batch]


@torch.inference_mode()
def pooled_features(
    pooled: Callable[[list[Tensor]], Tensor], batches: Iterable[list[Tensor]], path: Path | None
) -> np.ndarray:
    """(n, d) float32: the features (B, d) that `pooled` gives for all `batches`, in their order.

    path: a .npy file that keeps them. If it is there it is read and no batch is asked for; else it appears whole.
    """
    if path is not None and path.is_file():
        return np.load(path)
    features = np.concatenate([pooled(batch).float().cpu().numpy() for batch in batches])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f"{path.name}.{os.getpid()}")
        with staging.open("wb") as file:
            np.save(file, features)
        os.replace(staging, path)
    return features


def features_key(pictures: Pictures, encoder: nn.Module, config: AugmentConfig | None) -> str:
    """A hash of what the features depend on: the frozen weights, the cut, the levels, the pictures, their preparation
    and seed."""
    sha = hashlib.sha256()
    levels = [tuple(inner.levels) for inner in getattr(encoder, "inners", [encoder])]
    sha.update(repr((encoder.cut, levels, pictures.preprocessing, config, pictures.seed)).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().float().numpy().tobytes())
    for sample in pictures.samples:
        for path in (sample.path, *sample.alternatives):
            stat = path.stat()
            sha.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return sha.hexdigest()[:16]
