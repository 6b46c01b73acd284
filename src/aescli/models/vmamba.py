"""VMamba: the four-direction state-space image encoder (Liu et al. 2024), its nine published variants.

Maps are channels last, (B, H, W, C), between the layers, so that every projection is one matrix product. Knows
nothing about the files official weights come in, nor about what is decoded from its features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aescli.ops.cross_scan import DIRECTIONS
from aescli.ops.ss2d import selective_scan_2d


@dataclass(frozen=True)
class VMambaConfig:
    """Everything that decides the architecture; the defaults are VMamba-T[s2l5].

    width: channels of the first stage; they double per stage. depths: blocks per stage.
    states: N per channel. ssm_ratio: inner width of SS2D / channels.
    gated: the first release's block, a SiLU gate and no MLP of its own; else no gate, then an MLP.
    mlp_ratio: hidden width of the MLP / channels; 0 leaves the MLP out.
    stem: v1 is one 4x4 convolution of stride 4, v2 two 3x3 of stride 2.
    downsample: v1 merges 2x2 patches (norm, Linear), v3 is a 3x3 convolution of stride 2 (then the norm).
    drop_path: stochastic depth rate of the last block; it rises linearly from 0.
    classes: outputs of the head; 0 leaves it out.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 5, 2)
    states: int = 1
    ssm_ratio: float = 2.0
    gated: bool = False
    mlp_ratio: float = 4.0
    stem: Literal["v1", "v2"] = "v2"
    downsample: Literal["v1", "v3"] = "v3"
    drop_path: float = 0.2
    classes: int = 0

    @property
    def widths(self) -> list[int]:
        return [self.width * 2**i for i in range(len(self.depths))]


class ChannelsLastConv2d(nn.Conv2d):
    """A convolution of maps (B, H, W, C), reading and writing them as they lie in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SS2D(nn.Module):
    """2-D selective scan between its projections: (B, H, W, C) → the same.

    in_proj → depth-wise 3x3 → SiLU → four scans → LayerNorm [· SiLU(z)] → out_proj, no biases but the gated kind's
    in its convolution. Parameters are named and shaped as in the official code; K = 4 directions.
    """

    def __init__(self, width: int, states: int = 16, ratio: float = 2.0, gated: bool = False) -> None:
        super().__init__()
        inner, self.rank, self.states, self.gated = int(ratio * width), math.ceil(width / 16), states, gated
        self.inner = inner
        self.in_proj = nn.Linear(width, 2 * inner if gated else inner, bias=False)
        self.conv2d = ChannelsLastConv2d(inner, inner, 3, padding=1, groups=inner, bias=gated)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, self.rank + 2 * states, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_logs = nn.Parameter(torch.empty(DIRECTIONS * inner, states))
        self.Ds = nn.Parameter(torch.empty(DIRECTIONS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)
        # Decaying these pulls every time constant towards one value; optimisers look for this mark.
        self.A_logs._no_weight_decay = True
        self.Ds._no_weight_decay = True
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 1e-1, dt_floor: float = 1e-4) -> None:
        """The official start: A = -(1..N), D = 1, Δ log-uniform in dt_min..dt_max where its input is 0."""
        for weight in self.x_proj_weight:
            nn.init.kaiming_uniform_(weight, a=5**0.5)  # what nn.Linear starts with
        nn.init.uniform_(self.dt_projs_weight, -(self.rank**-0.5), self.rank**-0.5)
        spread = math.log(dt_max) - math.log(dt_min)
        uniform = torch.rand_like(self.dt_projs_bias)
        dt = torch.exp(uniform * spread + math.log(dt_min)).clamp(min=dt_floor)
        self.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        rates = torch.arange(1, self.states + 1, dtype=torch.float32, device=self.A_logs.device)
        self.A_logs.copy_(rates.log().expand_as(self.A_logs))
        self.Ds.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        if self.gated:
            x, z = x.chunk(2, dim=-1)  # (B, H, W, inner) each
        x = _silu(self.conv2d(x))
        projected = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (DIRECTIONS, -1))
        A = -torch.exp(self.A_logs.float())
        y = self.out_norm(
            selective_scan_2d(x, projected, self.dt_projs_weight, self.dt_projs_bias, A, self.Ds)
        )
        return self.out_proj(y * F.silu(z) if self.gated else y)


class Mlp(nn.Module):
    """Linear → GELU → Linear, (…, C) → (…, C)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: while training, a sample's residual branch is left out with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.rate):
            return x
        kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class VSSBlock(nn.Module):
    """x + SS2D(LN x), then, where there is an MLP, x + MLP(LN x); (B, H, W, C) → the same."""

    def __init__(self, width: int, config: VMambaConfig, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.op = SS2D(width, config.states, config.ssm_ratio, config.gated)
        self.drop_path = DropPath(drop_path)
        hidden = int(config.mlp_ratio * width)
        self.norm2 = nn.LayerNorm(width) if hidden else None
        self.mlp = Mlp(width, hidden) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        return x if self.mlp is None else x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Downsampling v1: 2x2 neighbours side by side → LayerNorm → Linear; (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        quarters = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(quarters, -1)))


class StridedConv(nn.Module):
    """A strided convolution with bias, then LayerNorm; maps (B, H, W, C)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = ChannelsLastConv2d(channels, out, kernel, stride, padding)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Stage(nn.Module):
    """The blocks of one resolution, and the way down to the next one (None in the last stage)."""

    def __init__(self, blocks: Sequence[VSSBlock], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class VMamba(nn.Module):
    """Stem, stages, a final LayerNorm per token and, with `classes`, mean over tokens and a linear head."""

    def __init__(self, config: VMambaConfig) -> None:
        super().__init__()
        self.config = config
        widths, total = config.widths, sum(config.depths)
        if config.stem == "v1":
            stem: list[nn.Module] = [StridedConv(3, widths[0], 4, 4, 0)]
        else:
            half = widths[0] // 2
            stem = [StridedConv(3, half, 3, 2, 1), nn.GELU(), StridedConv(half, widths[0], 3, 2, 1)]
        self.patch_embed = nn.Sequential(*stem)
        rates = iter(torch.linspace(0, config.drop_path, total, device="cpu").tolist())
        self.layers = nn.ModuleList()
        for width, depth, last in zip(
            widths, config.depths, [False] * (len(widths) - 1) + [True], strict=True
        ):
            down = (
                PatchMerging(width) if config.downsample == "v1" else StridedConv(width, 2 * width, 3, 2, 1)
            )
            blocks = [VSSBlock(width, config, next(rates)) for _ in range(depth)]
            self.layers.append(Stage(blocks, None if last else down))
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], config.classes) if config.classes else None
        self.apply(_initialise)

    def stages(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) → each stage's output before its downsampling, [(B, S/4, S/4, C), …], not normalised."""
        images = images.contiguous(memory_format=torch.channels_last)
        x = self.patch_embed(images.permute(0, 2, 3, 1))
        outputs = []
        for stage in self.layers:
            x = stage(x)
            outputs.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → normalised tokens (B, S/32, S/32, C) or, with a head, logits (B, classes)."""
        tokens = self.norm(self.stages(images)[-1])
        return tokens if self.head is None else self.head(tokens.mean((1, 2)))


def _initialise(module: nn.Module) -> None:
    """The official start of projections: truncated normal of deviation 0.02, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _silu(x: Tensor) -> Tensor:
    """SiLU, in place where no gradient needs its input."""
    return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


_T_V0 = VMambaConfig(depths=(2, 2, 9, 2), states=16, gated=True, mlp_ratio=0.0, stem="v1", downsample="v1")
_T_S2L5 = VMambaConfig()
_T_S1L8 = VMambaConfig(depths=(2, 2, 8, 2), ssm_ratio=1.0)

# The published variants; drop path as in their ImageNet training (AesMamba fine-tunes with 0 (T) and 0.6 (B)).
VARIANTS: dict[str, VMambaConfig] = {
    "vmamba_tiny_v0": _T_V0,
    "vmamba_small_v0": replace(_T_V0, depths=(2, 2, 27, 2), drop_path=0.3),
    "vmamba_base_v0": replace(_T_V0, width=128, depths=(2, 2, 27, 2), drop_path=0.6),
    "vmamba_tiny_s2l5": _T_S2L5,
    "vmamba_small_s2l15": replace(_T_S2L5, depths=(2, 2, 15, 2), drop_path=0.3),
    "vmamba_base_s2l15": replace(_T_S2L5, width=128, depths=(2, 2, 15, 2), drop_path=0.6),
    "vmamba_tiny_s1l8": _T_S1L8,
    "vmamba_small_s1l20": replace(_T_S1L8, depths=(2, 2, 20, 2), drop_path=0.3),
    "vmamba_base_s1l20": replace(_T_S1L8, width=128, depths=(2, 2, 20, 2), drop_path=0.6),
}


def _build(variant: str, changes: dict) -> VMamba:
    return VMamba(replace(VARIANTS[variant], **changes))


def vmamba_tiny_v0(**changes) -> VMamba:
    """VMamba-T of the first release ("vanilla"), AesMamba's default encoder: 22,124,448 parameters."""
    return _build("vmamba_tiny_v0", changes)


def vmamba_small_v0(**changes) -> VMamba:
    """VMamba-S of the first release: 43,648,416 parameters."""
    return _build("vmamba_small_v0", changes)


def vmamba_base_v0(**changes) -> VMamba:
    """VMamba-B of the first release: 75,229,056 parameters."""
    return _build("vmamba_base_v0", changes)


def vmamba_tiny_s2l5(**changes) -> VMamba:
    """VMamba-T[s2l5]: 29,936,832 parameters."""
    return _build("vmamba_tiny_s2l5", changes)


def vmamba_small_s2l15(**changes) -> VMamba:
    """VMamba-S[s2l15]: 49,378,752 parameters."""
    return _build("vmamba_small_s2l15", changes)


def vmamba_base_s2l15(**changes) -> VMamba:
    """VMamba-B[s2l15], AesMamba's larger encoder (1,024 pooled features): 87,532,800 parameters."""
    return _build("vmamba_base_s2l15", changes)


def vmamba_tiny_s1l8(**changes) -> VMamba:
    """VMamba-T[s1l8]: 29,480,064 parameters."""
    return _build("vmamba_tiny_s1l8", changes)


def vmamba_small_s1l20(**changes) -> VMamba:
    """VMamba-S[s1l20]: 48,243,840 parameters."""
    return _build("vmamba_small_s1l20", changes)


def vmamba_base_s1l20(**changes) -> VMamba:
    """VMamba-B[s1l20]: 85,589,504 parameters."""
    return _build("vmamba_base_s1l20", changes)
