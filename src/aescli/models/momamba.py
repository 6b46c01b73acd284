"""MoMamba: facial beauty as five-class classification and score regression at once (Symmetry 2025, 17(10), 1600).

encoder → level fusion + detail enhancement (DEM) → state-aware mixture of experts (SAME) → one head per task.
Knows nothing about files, presets or how it is trained.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from aescli.errors import AesError
from aescli.models.answers import Answers
from aescli.models.dem import ConvBNReLU, DEMConfig, DetailEnhancement
from aescli.models.encoders import EncoderConfig, build_encoder
from aescli.models.same import SAMEConfig, StateAwareMixtureOfExperts
from aescli.ops.precision import at_least_float32

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class MoMambaConfig:
    """Everything that decides the architecture.

    modules: what the decoder holds; "B" is the paper's baseline (fusion, one ConvBNReLU, heads), the others add
        the DEM (D) and the SAME module (S) (paper Tables 5, 6).
    tasks: both for the multi-task model, one for the single-task baselines.
    width: decoder channels C; None takes the encoder's deepest width.
    fusion: gated sum of the earlier levels; off uses the last level only.
    classes: beauty classes. score_range: the scale of the score.
    score_heads: names of the training sets that have a rating scale (a population of raters) of their own. Each
        gets its own linear score head on the shared features; one unnamed head is the paper's model.
    score_weights: `score` is this mixture of the heads (None = equal weights).
    head_dropout: on the pooled features of both heads.
    head_skip: the heads also see means and deviations of the encoder's levels through a linear map, which training
        can fit in closed form before it starts (`train.probe`) and once more at its end (`train.refit`); the decoder
        learns what a linear model of them misses. Off is the paper's model.
    flip_average: outside training, answer with the mean over a picture and its mirror image, at twice the cost.
    mirror_scale: the mirror image is enlarged by this factor before the encoder sees it, so that the two answers
        come from two scales; its square is what the second answer costs.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    modules: Literal["B", "B+D", "B+S", "B+D+S"] = "B+D+S"
    tasks: tuple[Task, ...] = ("classification", "regression")
    width: int | None = None
    fusion: bool = True
    dem: DEMConfig = field(default_factory=DEMConfig)
    same: SAMEConfig = field(default_factory=SAMEConfig)
    classes: int = 5
    score_range: tuple[float, float] = (1.0, 5.0)
    score_heads: tuple[str, ...] = ("",)
    score_weights: tuple[float, ...] | None = None
    head_dropout: float = 0.0
    head_skip: bool = False
    flip_average: bool = False
    mirror_scale: Annotated[float, Field(gt=0, le=4)] = 1.0


class MoMambaOutput(NamedTuple):
    """What the model says about B images.

    score: (B,) on the score range, the mixture of the heads; None without the regression task.
    logits: (B, classes); None without the classification task.
    head_scores: (B, number of score heads). routing: per task, probabilities over the experts (B, K).
    features: (B, C) pooled input of the regression head (of the classification head where there is no other).
    levels: (B, Σ C_i) the encoder's pooled levels: what the picture shows, less bound to the score than `features`.
    """

    score: Tensor | None
    logits: Tensor | None
    head_scores: Tensor | None
    routing: dict[str, Tensor]
    features: Tensor
    levels: Tensor | None = None

    @property
    def probabilities(self) -> Tensor | None:
        """(B, classes), rows sum to 1, float64; None without the classification task."""
        return None if self.logits is None else self.logits.double().softmax(-1)

    def averaged(self, other: "MoMambaOutput") -> "MoMambaOutput":
        """Means of both answers (logits too)."""

        def mean(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None else (a + b) / 2

        plain = zip(self[:3], other[:3], strict=True)
        routing = {task: mean(values, other.routing[task]) for task, values in self.routing.items()}
        return MoMambaOutput(
            *(mean(a, b) for a, b in plain),
            routing,
            mean(self.features, other.features),
            mean(self.levels, other.levels),
        )


def pool_levels(levels: list[Tensor]) -> Tensor:
    """Global averages of all levels side by side: [(B, C_i, H_i, W_i)] → (B, Σ C_i)."""
    return torch.cat([level.mean((2, 3)) for level in levels], 1)


def pool_statistics(levels: list[Tensor]) -> Tensor:
    """Means, then deviations over the positions of all levels: [(B, C_i, H_i, W_i)] → (B, 2 Σ C_i) float32."""
    levels = [at_least_float32(level) for level in levels]
    spread = [(x - x.mean((2, 3), keepdim=True)).square().mean((2, 3)).add(1e-6).sqrt() for x in levels]
    return torch.cat([pool_levels(levels), *spread], 1)


def mirrored(images: Tensor, scale: float = 1.0) -> Tensor:
    """Mirror images, enlarged: (B, 3, S, S) → (B, 3, round(scale S), round(scale S))."""
    if scale == 1:
        return images.flip(-1)
    size = [round(scale * side) for side in images.shape[-2:]]
    return F.interpolate(images.flip(-1), size=size, mode="bilinear", align_corners=False)


class LevelFusion(nn.Module):
    """ "Dynamically extracts" (§3.1): every earlier level projected to C, weighted by a gate, summed.

    Levels of other resolutions are pooled to the last one's. The gate is a softmax over all levels of a Linear on
    the pooled last feature; the last level itself goes through the DEM and is not part of the sum.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.gate = nn.Linear(channels[-1], len(channels) - 1)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Levels [(B, C_i, H_i, W_i)] → (projected last level, gated sum of the others), both (B, width, H, W)."""
        size = levels[-1].shape[-2:]
        projected = []
        for level, norm, project in zip(levels, self.norms, self.projections, strict=True):
            pooled = F.adaptive_avg_pool2d(level, size) if level.shape[-2:] != size else level
            projected.append(project(norm(pooled.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
        weights = torch.softmax(self.gate(levels[-1].mean((2, 3))), dim=-1)  # (B, earlier levels)
        earlier = sum(
            w[:, None, None, None] * p for w, p in zip(weights.unbind(1), projected[:-1], strict=True)
        )
        return projected[-1], earlier


class Head(nn.Module):
    """Global average pool → LayerNorm → Linear: (B, C, H, W) → ((B, out), pooled (B, C))."""

    def __init__(self, width: int, out: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.norm(x.mean((2, 3)))
        return self.linear(self.dropout(pooled)), pooled


class MoMamba(nn.Module):
    """The whole model; see `MoMambaConfig`. Input (B, 3, S, S), normalised; output `MoMambaOutput`."""

    def __init__(self, config: MoMambaConfig, *, initialise_encoder: bool = True) -> None:
        super().__init__()
        if not config.tasks or len(set(config.tasks)) != len(config.tasks):
            raise AesError(f"model.tasks: {list(config.tasks)} must name one or both tasks, each once")
        self.config = config
        weights = torch.tensor(config.score_weights or [1.0] * len(config.score_heads), dtype=torch.float32)
        if len(weights) != len(config.score_heads) or not weights.sum() > 0:
            raise AesError("model.score_weights: one weight for each of model.score_heads, of positive sum")
        self.register_buffer("score_weights", weights / weights.sum(), persistent=False)
        self.encoder = build_encoder(config.encoder, initialise=initialise_encoder)
        if config.mirror_scale != 1 and getattr(self.encoder, "fixed_size", False):
            name, size = config.encoder.name, config.encoder.image_size
            raise AesError(f"model.mirror_scale: {name} reads pictures of {size} pixels only; set it to 1")
        channels = self.encoder.channels
        width = config.width or channels[-1]
        if "S" in config.modules and width % config.same.heads:
            raise AesError(
                f"model.width: {width} is not divisible by the {config.same.heads} attention heads"
            )
        if config.fusion and len(channels) > 1:
            self.fusion: nn.Module | None = LevelFusion(channels, width)
        else:
            self.fusion = None
            self.project = nn.Conv2d(channels[-1], width, 1) if channels[-1] != width else nn.Identity()
        has_dem = "D" in config.modules
        self.dem = DetailEnhancement(width, config.dem) if has_dem else None
        self.plain = None if has_dem else ConvBNReLU(width, width)
        self.same = (
            StateAwareMixtureOfExperts(width, config.tasks, config.same) if "S" in config.modules else None
        )
        outputs = {"classification": config.classes, "regression": len(config.score_heads)}
        self.heads = nn.ModuleDict(
            {task: Head(width, outputs[task], config.head_dropout) for task in config.tasks}
        )
        if "regression" in config.tasks:
            # Starting in the middle of the scale saves the first epochs of a regression.
            nn.init.constant_(self.heads["regression"].linear.bias, sum(config.score_range) / 2)
        self.skips = None
        if config.head_skip:
            self.skips = nn.ModuleDict(
                {task: nn.Linear(2 * sum(channels), outputs[task]) for task in config.tasks}
            )
            for skip in self.skips.values():
                nn.init.zeros_(skip.weight)
                nn.init.zeros_(skip.bias)

    @property
    def answers(self) -> Answers:
        return Answers(probabilities=self.config.classes if "classification" in self.config.tasks else 0)

    def forward(self, images: Tensor) -> MoMambaOutput:
        if not self.config.flip_average or self.training:
            return self.decode(self.encoder(images))
        other = mirrored(images, self.config.mirror_scale)
        return self.decode(self.encoder(images)).averaged(self.decode(self.encoder(other)))

    def decode(self, levels: list[Tensor]) -> MoMambaOutput:
        """Everything after the encoder, from its feature maps."""
        if self.fusion is not None:
            last, earlier = self.fusion(levels)
        else:
            last, earlier = self.project(levels[-1]), None
        x = self.dem(last) if self.dem is not None else self.plain(last)
        if earlier is not None:
            x = x + earlier
        routing: dict[str, Tensor] = {}
        if self.same is not None:
            maps, routing = self.same(x)
        else:
            maps = dict.fromkeys(self.config.tasks, x)
        results = {task: self.heads[task](maps[task]) for task in self.config.tasks}
        if self.skips is not None:
            statistics = pool_statistics(levels)
            results = {task: (out + self.skips[task](statistics), x) for task, (out, x) in results.items()}
        head_scores = results["regression"][0] if "regression" in results else None
        return MoMambaOutput(
            score=head_scores @ self.score_weights.to(head_scores) if head_scores is not None else None,
            logits=results["classification"][0] if "classification" in results else None,
            head_scores=head_scores,
            routing=routing,
            features=results.get("regression", results.get("classification"))[1],
            levels=pool_levels(levels),
        )


def momamba_vit_b16(**changes) -> MoMamba:
    """The paper's model: ViT-B/16 at 224 px, hidden features of blocks 3, 6, 9, 12, nine experts, top 4."""
    return MoMamba(MoMambaConfig(**changes))
