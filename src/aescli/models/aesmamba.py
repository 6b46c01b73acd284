"""AesMamba: image aesthetics in one framework of four variants (ACM Multimedia 2024).

image encoder [+ text encoder] → modal-adaptive integration (MAI) → multitask balanced adaptation (MBA).
Knows nothing about files, presets or how it is trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aescli.errors import AesError
from aescli.models.adaptation import AttributeConfig, MultitaskBalancedAdaptation
from aescli.models.answers import Answers
from aescli.models.encoders import EncoderConfig, build_encoder, pretrained_classifier
from aescli.models.fusion import ModalAdaptiveIntegration
from aescli.models.text import TextConfig, TextEncoder

PARA_ATTRIBUTES = (
    "aesthetic",
    "quality",
    "composition",
    "color",
    "dof",
    "light",
    "content",
    "contentPreference",
    "willingnessToShare",
)
BENCHMARKS: dict[str, AttributeConfig] = {
    "ava": AttributeConfig("aesthetic", (1.0, 10.0), outputs=10, categories="ava"),
    "para": AttributeConfig("aesthetic", (1.0, 5.0), categories="para"),
    "aadb": AttributeConfig("aesthetic", (0.0, 1.0), categories="aadb"),
    "tad66k": AttributeConfig("aesthetic", (0.0, 10.0), categories="tad66k"),
    "photonet": AttributeConfig("aesthetic", (1.0, 7.0), outputs=7, categories="photonet"),
}
"""What the one-score variants (V, M) predict on each benchmark."""
FINE_GRAINED = tuple(AttributeConfig(name, (1.0, 5.0), categories="para") for name in PARA_ATTRIBUTES)
"""What F and P predict (PARA)."""


def _vmamba_tiny() -> EncoderConfig:
    return EncoderConfig(name="vmamba_tiny_v0", levels=(4,))


@dataclass(frozen=True)
class AesMambaConfig:
    """Everything that decides the architecture.

    encoder: only its last feature map is used. text: None for a model that reads images only (V, F).
    attributes: what is predicted; score: the name of the one that is "the score", None for the first.
    heads, head_dim: of the cross-attention (CMF). reduction: the adapters narrow d to d / reduction. hidden: width
        of the score and category MLPs.
    adapter, category_heads: parts of the MBA (§4.5.1). Model-A is category_heads off; Model-B and Model-C (the full
        model) have both and differ in the loss (`balanced` off and on); both off is the bare encoder of Table 3.
    width: the integrated feature is standardised (BatchNorm without weights, with dropout before it) and projected to
        this many channels, with a ReLU; None (the paper's model) takes it as it is.
    head_skip: the score's outputs also see the integrated feature through a linear map, which starts as the
        classifier that the encoder's weights bring along, if it has as many outputs, else at zero; the score MLP then
        learns what that leaves. Off is the paper's model.
    dropout: on the integrated feature where it is projected, and behind the projection.
    flip_average: outside training, answer with the mean over a picture and its mirror image, at twice the cost.
    """

    encoder: EncoderConfig = field(default_factory=_vmamba_tiny)
    text: TextConfig | None = None
    attributes: tuple[AttributeConfig, ...] = (BENCHMARKS["ava"],)
    score: str | None = None
    heads: int = 12
    head_dim: int = 64
    reduction: int = 4
    hidden: int = 256
    adapter: bool = True
    category_heads: bool = True
    width: int | None = None
    head_skip: bool = False
    dropout: float = 0.0
    flip_average: bool = False

    def __post_init__(self) -> None:
        names = [a.name for a in self.attributes]
        if not names or len(set(names)) != len(names):
            raise AesError(f"model.attributes: {names} must be one or more names, each once")
        if self.score is not None and self.score not in names:
            raise AesError(f"model.score: no attribute {self.score!r}; there are {', '.join(names)}")

    @property
    def score_index(self) -> int:
        """Which of `attributes` is the score."""
        return 0 if self.score is None else [a.name for a in self.attributes].index(self.score)

    @property
    def score_range(self) -> tuple[float, float]:
        """The scale of the score."""
        return self.attributes[self.score_index].scale


class AesMambaOutput(NamedTuple):
    """What the model says about B images.

    score: (B,) on the scale of the score attribute. attribute_scores: (B, A) in the order of the attributes, each on
    its own scale. probabilities: (B, K) distribution behind `score`; None where the score is predicted directly.
    distributions, category_logits: (B, K) and (B, C) by attribute name, for those that have them.
    features: (B, d) the integrated feature, before the adapters. levels: (B, C) the encoder's last level, pooled: what
    the picture shows, less bound to the score than `features`.
    """

    score: Tensor
    attribute_scores: Tensor
    probabilities: Tensor | None
    distributions: dict[str, Tensor]
    category_logits: dict[str, Tensor]
    features: Tensor
    levels: Tensor | None = None

    def halves_averaged(self) -> "AesMambaOutput":
        """Of 2B answers, the means of the i-th and the (B + i)-th (logits too)."""

        def mean(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.unflatten(0, (2, -1)).mean(0)

        return AesMambaOutput(
            *map(mean, self[:3]),
            {name: mean(p) for name, p in self.distributions.items()},
            {name: mean(logits) for name, logits in self.category_logits.items()},
            mean(self.features),
            mean(self.levels),
        )


class AesMamba(nn.Module):
    """The whole model; see `AesMambaConfig`. Input (B, 3, S, S), normalised, and tokens; output `AesMambaOutput`.

    `config` is the one it was built with, the text encoder's architecture filled in: what a checkpoint records.
    """

    def __init__(self, config: AesMambaConfig, *, initialise_encoder: bool = True) -> None:
        super().__init__()
        self.encoder = build_encoder(config.encoder, initialise=initialise_encoder)
        self.text = TextEncoder(config.text, initialise=initialise_encoder) if config.text else None
        self.config = replace(config, text=self.text.config) if self.text else config
        dim = self.encoder.channels[-1]
        if dim < config.reduction:
            raise AesError(f"model.reduction: {config.reduction} is more than the encoder's {dim} features")
        text_dim = self.text.dim if self.text else None
        self.integrate = ModalAdaptiveIntegration(dim, text_dim, config.heads, config.head_dim)
        self.skips = None
        if config.head_skip:
            self.skips = nn.Linear(dim, config.attributes[config.score_index].outputs)
            self._start_skip(config.encoder if initialise_encoder else None)
        self.project = None
        if config.width is not None:
            norm = nn.BatchNorm1d(dim, affine=False)
            drop = nn.Dropout(config.dropout)
            self.project = nn.Sequential(
                norm, drop, nn.Linear(dim, config.width), nn.ReLU(), nn.Dropout(config.dropout)
            )
            dim = config.width
        self.mba = MultitaskBalancedAdaptation(
            dim,
            config.attributes,
            reduction=config.reduction,
            hidden=config.hidden,
            adapter=config.adapter,
            category_heads=config.category_heads,
        )

    def forward(self, images: Tensor, tokens: Mapping[str, Tensor] | None = None) -> AesMambaOutput:
        """tokens: {"input_ids", "attention_mask"}, (B, L) each, or one row for all images; None = no text.

        Raises:
            ValueError: text for a model without a text encoder, or of another batch size.
        """
        text = self.read(tokens)
        if not self.config.flip_average or self.training:
            return self._decode(self.encoder(images), text)
        if text is not None and len(text[0]) > 1:
            text = tuple(torch.cat([t, t]) for t in text)
        return self._decode(self.encoder(torch.cat([images, images.flip(-1)])), text).halves_averaged()

    def read(self, tokens: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        """Token features (B, L, d_t) and mask (B, L) of a text; None for no text."""
        if tokens is None:
            return None
        if self.text is None:
            raise ValueError("this model reads images only: it has no text encoder and was given text")
        return self.text(tokens)

    def decode(self, levels: list[Tensor], tokens: Mapping[str, Tensor] | None = None) -> AesMambaOutput:
        """Everything after the image encoder, from its feature maps."""
        return self._decode(levels, self.read(tokens))

    def _decode(self, levels: list[Tensor], text: tuple[Tensor, Tensor] | None) -> AesMambaOutput:
        features = self.integrate(levels[-1], *(text or ()))
        index = self.config.score_index
        skip = None if self.skips is None else (index, self.skips(features))
        if self.project is not None:
            features = self.project(features)
        scores, distributions, category_logits = self.mba(features, skip)
        return AesMambaOutput(
            score=scores[:, index],
            attribute_scores=scores,
            probabilities=distributions.get(self.config.attributes[index].name),
            distributions=distributions,
            category_logits=category_logits,
            features=features,
            levels=levels[-1].float().mean((2, 3)),
        )

    @property
    def answers(self) -> Answers:
        config = self.config
        outputs = config.attributes[config.score_index].outputs
        names = tuple(a.name for a in config.attributes) if len(config.attributes) > 1 else ()
        return Answers(outputs if outputs > 1 else 0, True, names, config.text is not None)

    def _start_skip(self, encoder: EncoderConfig | None) -> None:
        nn.init.zeros_(self.skips.weight)
        nn.init.zeros_(self.skips.bias)
        found = pretrained_classifier(Path(encoder.weights)) if encoder and encoder.weights else None
        where = getattr(self.encoder, "last_mean", slice(None))
        with torch.no_grad():
            if found is not None and found[0].shape == self.skips.weight[:, where].shape:
                self.skips.weight[:, where] = found[0]
                self.skips.bias.copy_(found[1])

    def drop_category_heads(self) -> None:
        """Remove what only training needs; scores stay the same."""
        self.mba.drop_category_heads()
        self.config = replace(self.config, category_heads=False)


def aesmamba_v(dataset: str = "ava", *, initialise_encoder: bool = True, **changes) -> AesMamba:
    """V: one score from an image, as on one of `BENCHMARKS`. `changes` are fields of `AesMambaConfig`."""
    config = AesMambaConfig(**{"attributes": (_benchmark(dataset),), **changes})
    return AesMamba(config, initialise_encoder=initialise_encoder)


def aesmamba_m(dataset: str = "ava", *, initialise_encoder: bool = True, **changes) -> AesMamba:
    """M: one score from an image and a comment; BERT-base-uncased reads it."""
    config = AesMambaConfig(**{"attributes": (_benchmark(dataset),), "text": TextConfig(), **changes})
    return AesMamba(config, initialise_encoder=initialise_encoder)


def aesmamba_f(*, initialise_encoder: bool = True, **changes) -> AesMamba:
    """F: PARA's nine attributes from an image."""
    config = AesMambaConfig(**{"attributes": FINE_GRAINED, **changes})
    return AesMamba(config, initialise_encoder=initialise_encoder)


def aesmamba_p(*, initialise_encoder: bool = True, **changes) -> AesMamba:
    """P: F's outputs for one person, from an image and that person's prompt (`aescli.models.prompts`)."""
    config = AesMambaConfig(**{"attributes": FINE_GRAINED, "text": TextConfig(), **changes})
    return AesMamba(config, initialise_encoder=initialise_encoder)


def _benchmark(dataset: str) -> AttributeConfig:
    if dataset not in BENCHMARKS:
        raise AesError(f"no benchmark {dataset!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[dataset]
