"""The Mamba block and the bidirectional one of the detail-enhancement module.

Parameters are named and initialised as in mamba_ssm, so its checkpoints of one block load here. Neither block
normalises or adds its input: that is the caller's. It knows nothing about images.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aescli.ops.selective_scan import selective_scan


class Mamba(nn.Module):
    """Selective state-space block (Mamba, Gu & Dao 2023, fig. 3): (batch, L, d_model) → the same.

    Args:
        d_model: channels. d_state: N, states per inner channel. d_conv: taps of the causal convolution.
        expand: inner width / d_model. dt_rank: rank of Δ's projection, ceil(d_model / 16) by default.
        backend: which `selective_scan` backend to use.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.d_state = d_state
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.backend = backend
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=True
        )
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.D = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        # Decaying these pulls every time constant towards one value; optimisers look for this mark.
        self.A_log._no_weight_decay = True
        self.D._no_weight_decay = True
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 1e-1, dt_floor: float = 1e-4) -> None:
        """mamba_ssm's start: A = -(1..N), D = 1, and Δ log-uniform in dt_min..dt_max where its input is 0."""
        self.A_log.copy_(torch.arange(1, self.d_state + 1, dtype=torch.float32).log().expand_as(self.A_log))
        self.D.fill_(1.0)
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        spread = math.log(dt_max) - math.log(dt_min)
        dt = torch.exp(torch.rand(self.d_inner) * spread + math.log(dt_min)).clamp(min=dt_floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, L, d_model) → (batch, L, d_model); the state starts at zero for each sequence."""
        length = x.shape[1]
        u, z = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)  # (batch, d_inner, L) each
        u = F.silu(self.conv1d(u)[..., :length])
        dt, B, C = self.x_proj(u.transpose(1, 2)).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y = selective_scan(
            u,
            F.linear(dt, self.dt_proj.weight).transpose(1, 2),
            -torch.exp(self.A_log.float()),
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D,
            z=z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            backend=self.backend,
        )
        return self.out_proj(y.transpose(1, 2))


class BiMamba(nn.Module):
    """Bi-Mamba over sub-blocks (MoMamba §3.2): (batch, L, d_model) → the same.

    The sequence is cut into `sub_blocks` parts as `torch.tensor_split` cuts it. Each goes through a forward
    Mamba and, reversed, through a backward Mamba (own weights per direction, shared by the parts, the state
    starts anew in each); the two are summed and the parts joined again. Parts of equal length are one batch.
    """

    def __init__(self, d_model: int, sub_blocks: int = 4, **mamba) -> None:
        """sub_blocks ≥ 1; `mamba` are the arguments of `Mamba`."""
        super().__init__()
        if sub_blocks < 1:
            raise ValueError(f"BiMamba: sub_blocks must be at least 1, got {sub_blocks}")
        self.sub_blocks = sub_blocks
        self.forward_mamba = Mamba(d_model, **mamba)
        self.backward_mamba = Mamba(d_model, **mamba)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, L, d_model) → (batch, L, d_model)."""
        short, longer = divmod(x.shape[1], self.sub_blocks)  # the first `longer` parts have one more element
        border = longer * (short + 1)
        parts = []
        if longer:
            parts.append(self._both_directions(x[:, :border], short + 1))
        if short:
            parts.append(self._both_directions(x[:, border:], short))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _both_directions(self, x: Tensor, size: int) -> Tensor:
        blocks = x.reshape(-1, size, x.shape[2])  # (batch·parts, size, d_model)
        out = self.forward_mamba(blocks) + self.backward_mamba(blocks.flip(1)).flip(1)
        return out.reshape(x.shape)
