"""AesMamba-P: a copy of the generic model tuned whole to one person's ratings, who the person is as its prompt.

It knows checkpoints, training and how what tuning changed is stored. It knows nothing about profiles' files.

Paper §3.5, §4.4: AdamW, lr 4e-5, 50 epochs, batches of 10 for 10 shots and of 50 for 100.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aescli.data.datasets.ratings import RatingsTable
from aescli.data.labels import map_scale
from aescli.errors import AesError
from aescli.models.checkpoint import Checkpoint
from aescli.models.prompts import subject_prompt
from aescli.models.text import TextTokenizer
from aescli.personalization.folder import CHANGES, damaged, read_card, write_folder
from aescli.personalization.protocol import Answer, Rater
from aescli.presets import load_preset
from aescli.scoring.predictor import TorchPredictor
from aescli.training.aesmamba import AesMambaObjective
from aescli.training.config import TrainConfig
from aescli.training.features import LivePictures
from aescli.training.samples import Pictures, TrainingSample
from aescli.training.trainer import Trainer

_PRESET = "aesmamba-p-para"
_MANY, _BATCHES = 100, (10, 50)
_READ = ("prompt.features", "prompt.mask")
FOLDS = 5
"""Of the shots, where none is held back: each fifth is answered by a copy tuned to the others."""


@dataclass(frozen=True)
class Tuned:
    """base, task, model: digest of the generic model, its task and name. scale: the user's.

    prompt: "" where nothing is known about the person.
    changes: tensor name → what tuning added to it, bfloat16; what it left as it was is missing, and so is what scoring
    for the person does not need (`changes_of`).
    read: what the tuned text encoder makes of the prompt, features (1, L, d) and mask (1, L), in its place.
    """

    user: str
    base: str
    scale: tuple[float, float]
    prompt: str
    changes: dict[str, Tensor]
    read: tuple[Tensor, Tensor]
    task: str = "piaa"
    model: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


def prompt_of(
    experience: Mapping[str, str], traits: Mapping[str, float], characters: Mapping[str, str]
) -> str:
    """The sentences about whatever is known of a person, "" for nothing."""
    return subject_prompt(
        art=experience.get("art"), photo=experience.get("photo"), traits=traits, characters=characters
    )


def schedule(shots: int) -> TrainConfig:
    """The paper's, by the number of ratings to learn from."""
    train = load_preset(_PRESET).train
    return replace(train, batch_size=_BATCHES[shots >= _MANY])


def samples_of(
    paths: Sequence[str | Path],
    ratings: Sequence[float],
    scale: tuple[float, float],
    prompt: str,
    model_scale: tuple[float, float],
    attributes: Mapping[str, Sequence[float]] | None = None,
) -> list[TrainingSample]:
    """One person's ratings (k,) on `scale`; attributes: their further ratings by name, (k,) on the same scale, NaN
    where there is none."""
    scores = map_scale(ratings, scale, model_scale)
    further = {name: map_scale(values, scale, model_scale) for name, values in (attributes or {}).items()}
    return [
        TrainingSample(
            name=str(path), path=Path(path), score=float(scores[i]), head=0, text=prompt,
            scores={name: float(values[i]) for name, values in further.items() if np.isfinite(values[i])},
        )
        for i, path in enumerate(paths)
    ]  # fmt: skip


def tuned_copy(
    checkpoint: Checkpoint,
    samples: Sequence[TrainingSample],
    shots: np.ndarray,
    tests: np.ndarray,
    train: TrainConfig,
    device: torch.device,
    *,
    tune: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, np.ndarray]:
    """(a copy of the model tuned to the shots, its (tests, A) scores of the tests).

    shots, tests: positions in `samples`. Attributes that no shot has a score for are not trained. tune: off gives the
    generic model's answers. log: called with a line for each epoch.
    """
    train = replace(train, validation=0.0, selection="last")
    model = copy.deepcopy(checkpoint.model)
    pictures = Pictures(samples, checkpoint.preprocessing, train.seed)
    torch.manual_seed(train.seed)
    model.encoder.set_cut(train.frozen_blocks)
    tokenizer = checkpoint.tokenizer if model.text is not None else None
    objective = AesMambaObjective(
        pictures.samples, model.config, train, shots, tokenizer, device, partial=True
    )
    source = LivePictures(pictures, train.augment, device)
    trainer = Trainer(model, source, objective, shots, [], train, Path(), device, log, keep_state=False)
    if tune:
        trainer.run()
    if not len(tests):
        return model.eval(), np.empty((0, len(model.config.attributes)))
    return model, trainer.predict(tests).attribute_scores.numpy()


def left_out_answers(
    checkpoint: Checkpoint,
    samples: Sequence[TrainingSample],
    shots: np.ndarray,
    device: torch.device,
    log: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """(shots, A) scores of the shots, each by a copy tuned to four fifths of them without it.

    log: called with a line for each epoch; there are `schedule(…).epochs` for each of the fifths.
    """
    fold = np.random.default_rng(0).permutation(len(shots)) % FOLDS
    answers = np.empty((len(shots), len(checkpoint.model.config.attributes)))
    for k in range(min(FOLDS, len(shots))):
        out = fold == k
        train = schedule(int((~out).sum()))
        _, answers[out] = tuned_copy(checkpoint, samples, shots[~out], shots[out], train, device, log=log)
    return answers


def tuning_answer(
    checkpoint: Checkpoint,
    table: RatingsTable,
    paths: Sequence[str],
    generic: np.ndarray,
    device: torch.device,
) -> Answer:
    """How the model answers in the protocol for raters of `paths`, whose generic scores these are: tuned to the shots'
    ratings of everything the table has, with what it knows of the rater as the prompt."""
    index, scale = checkpoint.model.config.score_index, checkpoint.model.config.score_range
    image = {str(path): i for i, path in enumerate(table.paths)}

    def answer(rater: Rater, shots: np.ndarray, tests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = table.characters.get(rater.name)
        # The paper's prompt: who rates, not also PARA's age, gender and education.
        prompt = prompt_of(known.experience, known.traits, {}) if known else ""
        asked = np.r_[shots, tests]
        files = [paths[position] for position in rater.positions[asked]]
        own = table.rows_of(rater.name)
        row_of = dict(zip(table.image[own].tolist(), own.tolist(), strict=True))
        rows = np.array([row_of[image[file]] for file in files])
        further = {name: column[rows] for name, column in table.attributes.items()}
        samples = samples_of(files, rater.scores[asked], table.scale, prompt, scale, further)
        k = len(shots)
        train = schedule(k)
        _, scores = tuned_copy(checkpoint, samples, np.arange(k), np.arange(k, len(samples)), train, device)
        return scores[:, index].astype(np.float64), generic[rater.positions[tests]]

    return answer


def changes_of(base: nn.Module, tuned: nn.Module) -> dict[str, Tensor]:
    """What has to be added to `base` for `tuned`: the tensors that differ, bfloat16 (relative error of a change at most
    2⁻⁸). Left out are the category heads, which only training needs, and the text encoder, by far the largest part: the
    one text that it will ever read is read already (`prompt_read`)."""
    before = base.state_dict()
    return {
        name: (after - before[name]).to("cpu", torch.bfloat16)
        for name, after in tuned.state_dict().items()
        if after.is_floating_point()
        and not name.startswith("text.")
        and ".category." not in name
        and not torch.equal(after, before[name])
    }


@torch.no_grad()
def prompt_read(tuned: nn.Module, tokenizer: TextTokenizer, prompt: str) -> tuple[Tensor, Tensor]:
    """The prompt's features (1, L, d) and mask (1, L) by the tuned model's text encoder."""
    device = next(tuned.parameters()).device
    features, mask = tuned.eval().text({key: value.to(device) for key, value in tokenizer([prompt]).items()})
    return features.float().cpu(), mask.cpu()


class KnownText(nn.Module):
    """In the place of a text encoder that has read one text: whatever the tokens, that text's features and mask."""

    def __init__(self, features: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.register_buffer("mask", mask)

    def forward(self, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.features, self.mask


def apply_changes(model: nn.Module, changes: Mapping[str, Tensor], where: str) -> None:
    """Add them in place. Raises AesError where they are another model's."""
    state = model.state_dict()
    for name, change in changes.items():
        if name not in state or state[name].shape != change.shape:
            raise AesError(f"{where}: damaged (no {name} of {tuple(change.shape)} in the model); tune again")
        state[name] += change.to(state[name])


def save_tuned(tuned: Tuned, folder: Path) -> None:
    """Write the folder so that it is either the old one or the new one, complete."""
    from safetensors.torch import save_file

    tensors = {name: change.contiguous() for name, change in tuned.changes.items()}
    tensors |= {name: tensor.contiguous() for name, tensor in zip(_READ, tuned.read, strict=True)}
    card = {f.name: getattr(tuned, f.name) for f in fields(tuned) if f.name not in ("changes", "read")}
    write_folder(folder, lambda staging: save_file(tensors, staging / CHANGES), card)


def load_tuned(folder: Path) -> Tuned:
    """Raises AesError where its files are damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / CHANGES)
        if not set(_READ) <= set(tensors):
            raise AesError(f"{folder} was made by an earlier version of aes; make it again: aes personalize")
        read = tuple(tensors.pop(name) for name in _READ)
        return Tuned(**read_card(folder, {"prompt": str}), changes=tensors, read=read)
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(folder, error) from None


class TunedPredictor(TorchPredictor):
    """The generic predictor's model as tuned to one person; the person's prompt is read once for a batch."""

    def __init__(self, generic: TorchPredictor, tuned: Tuned, where: str):
        model = copy.deepcopy(generic.checkpoint.model)
        apply_changes(model, tuned.changes, where)
        model.text = KnownText(*tuned.read).to(generic.device)
        super().__init__(replace(generic.checkpoint, model=model), generic.device, generic.dtype)
        self._prompt, self._user_scale = tuned.prompt, tuned.scale

    def personal(self, images: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 → (B,) float64 scores on the user's scale."""
        return map_scale(self.predict(images).scores, self.scale, self._user_scale)

    def _forward(self, images: np.ndarray, texts: Sequence[str]):
        return super()._forward(images, [self._prompt])
