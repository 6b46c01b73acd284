"""Scores beside the generic one, a column for each user: who is meant by --user, and a predictor that answers for all.

It knows the folders of personal models and the predictor they are bound to. It knows nothing about images or rows.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aescli.errors import AesError, UsageError
from aescli.personalization.adapter import (
    CARD,
    USERS,
    WEIGHTS,
    Adapter,
    load_adapter,
    personal_scores,
    require_base,
    safe_name,
)
from aescli.scoring.predictor import Prediction, Predictor

_PROFILES = (".yaml", ".yml")


def find_users(given: Sequence[str], paths: Sequence[str], task: str) -> list[Path]:
    """The folders of the personal models that --user names, each once, in the order given (a pattern's sorted).

    A folder, the name of one in users/, a profile (the model made from it lies in users/), or a pattern of these; what
    else a pattern matches is passed over. Raises UsageError where there is nothing, for nobody where the task needs a
    person, and where the shell has spread a pattern over the `paths` to score.
    """
    if task == "piaa" and not given:
        raise UsageError("--task piaa scores as one person would; name whom with --user")
    found: dict[Path, Path] = {}
    for text in given:
        folders = [_folder_of(text)]
        if folders == [None] and glob.has_magic(text):
            matches = sorted(glob.glob(text)) or sorted(map(str, USERS.glob(text)))
            folders = [folder for match in matches if (folder := _folder_of(match))]
            if not folders:
                raise UsageError(f"--user {text}: matches no personal model; aes personalize makes one")
        for folder in folders:
            if folder is None:
                raise UsageError(_nothing(text))
            found.setdefault(folder.resolve(), folder)
    stray = next((path for path in paths if os.path.isfile(os.path.join(path, CARD))), None)
    if found and stray is not None:
        raise UsageError(f"{stray} is a personal model, not photos; quote a pattern: --user '{USERS}/*'")
    return list(found.values())


def _folder_of(text: str) -> Path | None:
    path = Path(text)
    places = [path, USERS / text]
    if path.suffix in _PROFILES and path.is_file():
        places = [USERS / safe_name(_name_in(path))]
    return next((place for place in places if (place / CARD).is_file()), None)


def _name_in(profile: Path) -> str:
    from aescli.data.profiles import read_name

    return read_name(profile)


def _nothing(text: str) -> str:
    path = Path(text)
    if path.suffix in _PROFILES and path.is_file():
        name = safe_name(_name_in(path))
        return (
            f"--user {text}: no personal model in {USERS / name} yet; aes personalize --user {text} makes it"
        )
    if path.is_dir():
        return f"--user {text}: no personal model there (no {CARD}); aes personalize makes one"
    return f"--user {text}: no personal model in {path} or {USERS / text}; aes personalize makes one"


def column_of(user: str) -> str:
    """The user's column, a name that --where can ask for."""
    return "score_" + re.sub(r"\W", "_", safe_name(user))


def with_users(predictor: Predictor, folders: Sequence[Path]) -> Predictor:
    """The predictor, or one that answers for these users too; see `PersonalPredictor`."""
    return PersonalPredictor(predictor, folders) if folders else predictor


class PersonalPredictor:
    """A predictor whose attributes are followed by each user's score, on the user's scale.

    The features are computed once for all users. Raises AesError for a model bound to another base, UsageError where
    two users would have the same column.
    """

    def __init__(self, base: Predictor, folders: Sequence[Path]):
        self._base = base
        self.adapters: list[Adapter] = []
        taken = {"score_100": "--normalize", **dict.fromkeys(base.attributes, "the model")}
        sha = hashlib.sha256()
        for folder in folders:
            adapter = load_adapter(folder)
            require_base(adapter, base.digest)
            column = column_of(adapter.user)
            if column in taken:
                raise UsageError(f"--user {folder}: its column {column} is that of {taken[column]} already")
            taken[column] = str(folder)
            self.adapters.append(adapter)
            sha.update((folder / CARD).read_bytes() + (folder / WEIGHTS).read_bytes())
        self.attributes = (*base.attributes, *(column_of(adapter.user) for adapter in self.adapters))
        self.digest = f"{base.digest}+{sha.hexdigest()[:16]}"

    def __getattr__(self, name: str):
        return getattr(self._base, name)

    def predict(self, images: np.ndarray, texts: Sequence[str] = ()) -> Prediction:
        """See `Predictor`."""
        found = self._base.predict(images, texts)
        if not found.features.shape[1]:
            raise AesError("this model gives no image features, so it cannot be made personal")
        own = [personal_scores(found.features, found.scores, adapter) for adapter in self.adapters]
        return found._replace(attributes=np.column_stack([found.attributes, *own]))
