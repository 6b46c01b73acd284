"""Scores beside the generic one, a column for each user: who is meant by --user, and a predictor that answers for all.

It knows the folders of personal models and the predictor they are bound to. It knows nothing about images or rows.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aescli.errors import AesError, UsageError
from aescli.personalization.adapter import load_adapter, personal_scores
from aescli.personalization.folder import (
    CARD,
    CHANGES,
    USERS,
    WEIGHTS,
    home_of,
    owner_of,
    require_base,
    safe_name,
)
from aescli.scoring.predictor import Prediction, Predictor, TorchPredictor

_PROFILES = (".yaml", ".yml")


_Scores = Callable[[np.ndarray, Prediction], np.ndarray]
"""(images, what the base says of them) → the user's scores."""


def find_users(given: Sequence[str], paths: Sequence[str], task: str) -> list[Path]:
    """The folders of the personal models that --user names, each once, in the order given (a pattern's sorted).

    A folder, the name of one in users/ (the person's one for `task`, where there are several), the person's name, a
    profile (the model made from it lies in users/), or a pattern of these; what else a pattern matches, models for
    other tasks too, is passed over. Raises UsageError where there is nothing, for nobody where the task needs a person,
    and where the shell has spread a pattern over the `paths` to score.
    """
    if task == "piaa" and not given:
        raise UsageError("--task piaa scores as one person would; name whom with --user")
    found: dict[Path, Path] = {}
    for text in given:
        folders = [_folder_of(text, task)]
        if folders == [None] and glob.has_magic(text):
            matches = sorted(glob.glob(text)) or sorted(map(str, USERS.glob(text)))
            folders = [folder for match in matches if (folder := _folder_of(match, task))]
            able = [folder for folder in folders if (owner := owner_of(folder)) is None or owner[1] == task]
            if not folders:
                raise UsageError(f"--user {text}: matches no personal model; aes personalize makes one")
            folders = able or folders  # for another task all of them: one is refused by name
        for folder in folders:
            if folder is None:
                raise UsageError(_nothing(text, task))
            found.setdefault(folder.resolve(), folder)
    stray = next((path for path in paths if os.path.isfile(os.path.join(path, CARD))), None)
    if found and stray is not None:
        raise UsageError(f"{stray} is a personal model, not photos; quote a pattern: --user '{USERS}/*'")
    return list(found.values())


def _folder_of(text: str, task: str) -> Path | None:
    path = Path(text)
    if _is_profile(path):
        return _of_person(_name_in(path), task)
    if (path / CARD).is_file():
        return path
    # A folder's name in users/, which may be that of a model for another task, or a person's.
    named = USERS / text
    owner = owner_of(named)
    if owner is not None:
        return (owner[1] != task and _of_person(owner[0], task)) or named
    return named if (named / CARD).is_file() else _of_person(text, task)


def _of_person(user: str, task: str) -> Path | None:
    folder = home_of(user, task)
    owner = owner_of(folder)
    theirs = owner is None or owner[0] == user  # who owns a damaged one is not known: reading it says more
    return folder if theirs and (folder / CARD).is_file() else None


def _is_profile(path: Path) -> bool:
    return path.suffix in _PROFILES and path.is_file()


def _name_in(profile: Path) -> str:
    from aescli.data.profiles import read_name

    return read_name(profile)


def _nothing(text: str, task: str) -> str:
    path = Path(text)
    how = "" if task == "fbp" else f" --task {task}"
    if _is_profile(path):
        folder = home_of(_name_in(path), task)
        owner = owner_of(folder)
        there = f"no personal model in {folder} yet"
        if owner is not None:
            there = f"{folder} is the model of '{owner[0]}', not of '{_name_in(path)}'"
            how += " --out DIR"
        return f"--user {text}: {there}; aes personalize --user {text}{how} makes it"
    if path.is_dir():
        return f"--user {text}: no personal model there (no {CARD}); aes personalize makes one"
    for beside in (Path(f"{text}{suffix}") for suffix in _PROFILES):
        if beside.is_file():
            return f"--user {text}: no personal model yet; aes personalize --user {beside}{how} makes it"
    places = dict.fromkeys((path, USERS / text, USERS / safe_name(text)))
    return f"--user {text}: no personal model in {' or '.join(map(str, places))}; aes personalize makes one"


def column_of(user: str) -> str:
    """The user's column, a name that --where can ask for."""
    return "score_" + re.sub(r"\W", "_", safe_name(user))


def with_users(predictor: Predictor, folders: Sequence[Path]) -> Predictor:
    """The predictor, or one that answers for these users too; see `PersonalPredictor`."""
    return PersonalPredictor(predictor, folders) if folders else predictor


class PersonalPredictor:
    """A predictor whose attributes are followed by each user's score, on the user's scale.

    What the picture shows is computed once for all adapters; a model tuned to one person looks for itself. Raises
    AesError for a personal model bound to another base, UsageError where two users would have the same column.
    """

    def __init__(self, base: Predictor, folders: Sequence[Path]):
        self._base = base
        self._users: list[_Scores] = []
        columns: list[str] = []
        taken = {"score_100": "--normalize", **dict.fromkeys(base.attributes, "the model")}
        sha = hashlib.sha256()
        for folder in folders:
            user, scores, weights = _personal(base, folder)
            column = column_of(user)
            if column in taken:
                raise UsageError(f"--user {folder}: its column {column} is that of {taken[column]} already")
            taken[column] = str(folder)
            columns.append(column)
            self._users.append(scores)
            sha.update((folder / CARD).read_bytes() + weights.read_bytes())
        self.attributes = (*base.attributes, *columns)
        # Without a person's prompt a model of persons answers for nobody in particular: the generic score.
        self.reads_text = base.reads_text and base.task != "piaa"
        self.digest = f"{base.digest}+{sha.hexdigest()[:16]}"

    def __getattr__(self, name: str):
        return getattr(self._base, name)

    def predict(self, images: np.ndarray, texts: Sequence[str] = ()) -> Prediction:
        """See `Predictor`."""
        if self._base.reads_text and not self.reads_text:
            texts = [""] * len(images)
        found = self._base.predict(images, texts)
        own = [scores(images, found) for scores in self._users]
        return found._replace(attributes=np.column_stack([found.attributes, *own]))


def _personal(base: Predictor, folder: Path) -> tuple[str, _Scores, Path]:
    """(the user's name, their scores, the file of weights)."""
    if (folder / CHANGES).is_file():
        from aescli.personalization.tuning import TunedPredictor, load_tuned

        if not isinstance(base, TorchPredictor):
            raise AesError(
                f"--user {folder}: a whole model was tuned to this person; give its checkpoint as --model, one device"
            )
        tuned = load_tuned(folder)
        require_base(tuned, base, folder)
        predictor = TunedPredictor(base, tuned, str(folder))
        return tuned.user, lambda images, _: predictor.personal(images), folder / CHANGES
    adapter = load_adapter(folder)
    require_base(adapter, base, folder)

    def scores(_: np.ndarray, found: Prediction) -> np.ndarray:
        if not found.features.shape[1]:
            raise AesError("this model gives no image features, so it cannot be made personal")
        return personal_scores(found.features, found.scores, adapter)

    return adapter.user, scores, folder / WEIGHTS
