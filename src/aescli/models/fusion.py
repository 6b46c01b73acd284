"""Modal-adaptive integration (AesMamba §3.3): one feature vector from an image, or from an image and its text.

Without text it is the mean token (AAP), with text the cross-modal fusion (CMF).
Knows nothing about encoders, tokens or what the vector is used for.
"""

import torch
from torch import Tensor, nn


class TextAttention(nn.Module):
    """Cross-attention of one query over text tokens (eq. 2): 12 heads × 64, q/k/v without and out with bias."""

    def __init__(self, dim: int, text_dim: int, heads: int = 12, head_dim: int = 64) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.q = nn.Linear(dim, inner, bias=False)
        self.k = nn.Linear(text_dim, inner, bias=False)
        self.v = nn.Linear(text_dim, inner, bias=False)
        self.out = nn.Linear(inner, dim)

    def forward(self, query: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """query (B, d), text (B, L, d_t), mask (B, L) true where there is a token → (B, d), finite for any mask."""
        q = self.q(query).unflatten(-1, (self.heads, -1))  # (B, heads, 64)
        k = self.k(text).unflatten(-1, (self.heads, -1))  # (B, L, heads, 64)
        v = self.v(text).unflatten(-1, (self.heads, -1))
        logits = torch.einsum("bhd,blhd->bhl", q, k) * q.shape[-1] ** -0.5
        # The lowest finite number, not −∞: a row of padding alone would become 0/0 and spoil the batch's gradients.
        logits = logits.masked_fill(~mask[:, None], torch.finfo(logits.dtype).min)
        weights = torch.softmax(logits, dim=-1).to(v.dtype)
        return self.out(torch.einsum("bhl,blhd->bhd", weights, v).flatten(1))


class CrossModalFusion(nn.Module):
    """CMF (Fig. 5, eq. 3): f' = f + CA(LN f, LN T), then f' + FFN(LN f'); (B, d), (B, L, d_t) → (B, d).

    A sample whose mask is empty has no text and keeps its f, exactly as if it had been given alone without text.
    """

    def __init__(
        self, dim: int, text_dim: int, heads: int = 12, head_dim: int = 64, expansion: int = 4
    ) -> None:
        super().__init__()
        self.norm_image, self.norm_text, self.norm_ffn = (
            nn.LayerNorm(dim),
            nn.LayerNorm(text_dim),
            nn.LayerNorm(dim),
        )
        self.attention = TextAttention(dim, text_dim, heads, head_dim)
        self.ffn = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        fused = image + self.attention(self.norm_image(image), self.norm_text(text), mask)
        fused = fused + self.ffn(self.norm_ffn(fused))
        return torch.where(mask.any(1, keepdim=True), fused, image.to(fused.dtype))


class ModalAdaptiveIntegration(nn.Module):
    """MAI: feature map (B, d, H, W) [+ text tokens (B or 1, L, d_t) with their mask] → (B, d).

    One row of text serves every image: a person's prompt beside a batch of photos.
    """

    def __init__(self, dim: int, text_dim: int | None = None, heads: int = 12, head_dim: int = 64) -> None:
        super().__init__()
        self.fusion = CrossModalFusion(dim, text_dim, heads, head_dim) if text_dim else None

    def forward(self, maps: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Raises ValueError for text without its mask, of another batch size, or where there is no fusion."""
        pooled = maps.mean((2, 3))
        if text is None:
            return pooled
        if self.fusion is None:
            raise ValueError("this model reads images only: it has no text encoder and was given text")
        if mask is None or mask.shape != text.shape[:2]:
            raise ValueError("text needs a mask of its own (B, L)")
        texts, batch = (
            text.shape[0],
            pooled.shape[0],
        )  # not len(): it would fix the batch of an exported model
        if texts not in (1, batch):
            raise ValueError(f"{texts} texts for {batch} images")
        return self.fusion(pooled, text.expand(batch, -1, -1), mask.expand(batch, -1))
