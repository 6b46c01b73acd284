"""The folder of an export: what it may replace, and what lies in it beside the model.

It knows file names and what a checkpoint says about itself. How the model's own file is made is not its business.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from aescli.errors import AesError, UsageError
from aescli.folders import whole_folder
from aescli.models.checkpoint import CARD, CONFIG, METRICS, TRAINING_IMAGES, WEIGHTS, Checkpoint, write_json
from aescli.models.exported import IMAGES, TOKENS
from aescli.models.text import TOKENIZER
from aescli.personalization import prior as priors

FILES = {"onnx": "model.onnx", "torch-export": "model.pt2", "safetensors": WEIGHTS}
"""format → the model's file."""

PREPROCESSING = "preprocessing.json"

_OURS = {*FILES.values(), CARD, CONFIG, METRICS, PREPROCESSING, TOKENIZER, TRAINING_IMAGES, priors.FILE}


def target(out: Path, source: Path) -> Path:
    """The folder that `out` stands for, links followed, after making sure that nothing of anybody is lost with it.

    source: the folder of the model that is exported. What may be replaced is an empty folder, or one that holds an
    earlier export and nothing else.

    Raises:
        UsageError: a file, the current folder, or a folder with the model itself in it.
        AesError: a folder that holds something else.
    """
    folder, source, here = (Path(os.path.realpath(path)) for path in (out, source, os.curdir))
    if folder == source or folder in source.parents:
        raise UsageError(f"--out {out} holds the model that is exported; give another folder")
    if folder == here or folder in here.parents:
        raise UsageError(f"--out {out}: the current folder would be replaced; give a folder in it")
    if not os.path.lexists(folder):
        return folder
    if not folder.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    names = {item.name: item for item in folder.iterdir()}
    foreign = sorted(name for name, item in names.items() if name not in _OURS or not item.is_file())
    if names and not foreign and PREPROCESSING not in names:
        foreign = sorted(names)  # a checkpoint, perhaps of weeks of training
    if foreign:
        raise AesError(
            f"--out {out} holds what no export wrote ({foreign[0]}); give a new or empty folder, or an earlier "
            "export to replace"
        )
    return folder


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """`whole_folder` whose failures name the folder itself, not the hidden one that is being filled."""
    try:
        with whole_folder(folder) as staging:
            try:
                yield staging
            except AesError as error:
                raise type(error)(str(error).replace(str(staging), str(folder))) from error
    except OSError as error:
        raise AesError(
            f"cannot write {folder}: {error.strerror or error}; check the folder and the disk"
        ) from error


def add_companions(checkpoint: Checkpoint, folder: Path, outputs: tuple[str, ...]) -> None:
    """The card, the preprocessing in numbers and words, and the list of training images, beside the model."""
    p = checkpoint.preprocessing
    if (checkpoint.path / CARD).is_file():
        shutil.copyfile(checkpoint.path / CARD, folder / CARD)
    else:
        write_json(folder / CARD, asdict(checkpoint.card))
    face = (
        f"find the face, turn and scale it so that the eyes lie level at {p.eye_y:g} of the height and the distance "
        f"from the eyes to the mouth is {p.eye_mouth:g} of the side"
    )
    inputs = {IMAGES: f"float32 (batch, 3, {p.size}, {p.size}), RGB"}
    if checkpoint.model.answers.reads_text:
        inputs |= dict.fromkeys(TOKENS, f"int64 (batch, length), from {TOKENIZER}")
        shutil.copyfile(checkpoint.path / TOKENIZER, folder / TOKENIZER)
    write_json(
        folder / PREPROCESSING,
        {
            "size": p.size,
            "mean": p.mean,
            "std": p.std,
            "fit": p.fit,
            "faces": p.faces,
            "eye_mouth": p.eye_mouth,
            "eye_y": p.eye_y,
            "inputs": inputs,
            "outputs": outputs,
            "steps": [
                "decode, apply the EXIF orientation, convert to RGB in sRGB",
                face if p.faces else "take the whole image",
                f"resize to {p.size} × {p.size}"
                + (", proportions kept, the rest grey (127)" if p.fit == "pad" and not p.faces else ""),
                "((RGB / 255) − mean) / std",
                f"cut the score off at {checkpoint.card.score_range[0]:g} and {checkpoint.card.score_range[1]:g}",
            ],
        },
    )
    if (checkpoint.path / TRAINING_IMAGES).is_file():
        shutil.copyfile(checkpoint.path / TRAINING_IMAGES, folder / TRAINING_IMAGES)


def add_taste(checkpoint: Checkpoint, folder: Path, digest: str) -> None:
    """The model's prior over tastes, bound to the export, whose features are the same; nothing where there is none.

    digest: of the exported model. Raises AesError for a prior that is damaged or another model's.
    """
    prior = priors.load_prior(checkpoint.path, checkpoint.digest)
    if prior is not None:
        priors.save_prior(replace(prior, base=digest), folder)
