"""State-aware mixture of experts (MoMamba §3.3, Figs. 3–5): one shared state-space path, one expert path per task.

Knows nothing about encoders, the DEM or what a task's output means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SAMEConfig:
    """The module's sizes; the defaults are the paper's where it states them (§3.3, §4.5).

    states: N of the HSSD. state_axis: over which axis A is normalised. experts: K, 0 builds no experts and no
    router. Expert i has rank rank_min + rank_step·i. top_k: experts kept per sample. attention: off gives F_t
    itself, without HSSD and cross-attention; with no experts this is a shared and a low-rank map for each task, as in
    MTLoRA. residual: add F_t to the cross-attention's output (off is the paper's formula).
    """

    states: int = 49
    state_axis: Literal["state", "length"] = "state"
    experts: int = 9
    rank_min: int = 16
    rank_step: int = 8
    top_k: int = 4
    task_rank: int = 64
    heads: int = 8
    attention: bool = True
    dropout: float = 0.1
    residual: bool = True

    @property
    def ranks(self) -> list[int]:
        return [self.rank_min + self.rank_step * i for i in range(self.experts)]


class HSSD(nn.Module):
    """State-space duality path (§3.3.1): (B, C, H, W) → (B, C, H, W) through N hidden states, no recurrence.

    h = F (A ⊙ B)ᵀ ∈ C×N and y = h C_, with A = softmax(Δ + θ_A).
    """

    def __init__(self, channels: int, states: int = 49, state_axis: str = "state") -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, 3 * states, 1)
        self.mix = nn.Conv2d(3 * states, 3 * states, 3, padding=1, groups=3 * states)
        self.theta = nn.Parameter(torch.zeros(states, 1))
        self.axis = 1 if state_axis == "state" else 2

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)  # (B, C, L)
        b, c, delta = self.mix(self.project(x)).flatten(2).chunk(3, dim=1)  # each (B, N, L)
        a = torch.softmax(delta + self.theta, dim=self.axis)
        hidden = flat @ (a * b).transpose(1, 2)  # (B, C, N)
        return (hidden @ c).reshape(x.shape)


class Router(nn.Module):
    """Spatial × channel attention, pooling, Linear: (B, C, H, W) → gates (B, K), zero outside the top k (§3.3.2)."""

    def __init__(self, channels: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = min(top_k, experts)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.channel = nn.Conv1d(1, 1, 5, padding=2, bias=False)  # ECA, k = 5
        self.logits = nn.Linear(channels, experts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (gates, probabilities), both (B, K); the kept gates are not renormalised."""
        where = torch.sigmoid(self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))
        which = torch.sigmoid(self.channel(x.mean((2, 3)).unsqueeze(1))).squeeze(1)  # (B, C)
        pooled = (x * where).mean((2, 3)) * which
        probabilities = torch.softmax(self.logits(pooled), dim=-1)
        kept = probabilities.topk(self.top_k, dim=-1).indices
        mask = torch.zeros_like(probabilities).scatter(-1, kept, 1.0)
        return probabilities * mask, probabilities


class LowRankConv(nn.Sequential):
    """LoRA for a feature map: Conv1×1_{r→C}(Conv3×3_{C→r}(F)), no non-linearity."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__(
            nn.Conv2d(channels, rank, 3, padding=1, bias=False), nn.Conv2d(rank, channels, 1, bias=False)
        )


class CrossAttention(nn.Module):
    """Multi-head attention with queries from the HSSD and keys, values from F_t (§3.3.3)."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"width {channels} is not divisible by {heads} attention heads")
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(channels, channels, bias=False)
        self.v = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, guide: Tensor, x: Tensor) -> Tensor:
        def heads(t: Tensor) -> Tensor:  # (B, L, C) → (B, heads, L, C/heads)
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        queries, keys = guide.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2)
        q, k, v = heads(self.q(queries)), heads(self.k(keys)), heads(self.v(keys))
        # Written out: at these lengths (49 to 256) the fused CPU kernel's bf16 backward takes ten times as long.
        attended = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1) @ v
        attended = self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return attended.transpose(1, 2).reshape(x.shape)


class StateAwareMixtureOfExperts(nn.Module):
    """SAME: (B, C, H, W) → one (B, C, H, W) map per task, plus the routing probabilities (B, K) per task.

    The experts are linear, so Σ g_i E_i(F) is computed as one 3×3 convolution to Σ r_i channels, a gate on those
    channels per sample, and one 1×1 convolution; tests compare it with the sum written out.
    """

    def __init__(self, channels: int, tasks: Sequence[str], config: SAMEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SAMEConfig()
        self.tasks = tuple(tasks)
        self.hssd = HSSD(channels, config.states, config.state_axis) if config.attention else None
        self.base = nn.Conv2d(channels, channels, 3, padding=1)
        if config.experts:
            total = sum(config.ranks)
            self.experts_down = nn.Conv2d(channels, total, 3, padding=1, bias=False)
            self.experts_up = nn.Conv2d(total, channels, 1, bias=False)
            self.routers = nn.ModuleDict(
                {t: Router(channels, config.experts, config.top_k) for t in self.tasks}
            )
            self.norms = nn.ModuleDict({t: nn.BatchNorm2d(channels) for t in self.tasks})
            owner = torch.repeat_interleave(torch.arange(config.experts), torch.tensor(config.ranks))
            self.register_buffer("owner", owner, persistent=False)  # expert of each rank channel
        self.task_experts = nn.ModuleDict({t: LowRankConv(channels, config.task_rank) for t in self.tasks})
        if config.attention:
            self.attention = nn.ModuleDict(
                {t: CrossAttention(channels, config.heads, config.dropout) for t in self.tasks}
            )

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        guide = None if self.hssd is None else self.hssd(x)
        base = self.base(x)
        low_rank = self.experts_down(x) if self.config.experts else None
        outputs, routing = {}, {}
        for task in self.tasks:
            features = base + self.task_experts[task](x)
            if low_rank is not None:
                gates, routing[task] = self.routers[task](x)
                gated = low_rank * gates[:, self.owner, None, None]
                features = features + self.norms[task](self.experts_up(gated))
            outputs[task] = features
            if guide is not None:
                attended = self.attention[task](guide, features)
                outputs[task] = attended + features if self.config.residual else attended
        return outputs, routing


def load_balance(probabilities: Tensor) -> Tensor:
    """CV² of the mean routing over a batch: 0 when every expert gets the same share. (B, K) → scalar."""
    share = probabilities.mean(0)
    return share.var(unbiased=False) / share.mean().square()
