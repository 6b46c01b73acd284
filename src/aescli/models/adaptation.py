"""Multitask balanced adaptation (AesMamba §3.4): one adapter, score head and scale-category head per attribute.

Knows what an attribute is: its scale, its distribution and the rule that cuts its scale into categories.
Knows nothing about encoders, text, losses or data files.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from aescli.errors import AesError
from aescli.models.category_rules import CATEGORY_RULES
from aescli.ops.precision import at_least_float32


@dataclass(frozen=True)
class AttributeConfig:
    """One thing the model says about a picture.

    name: of the attribute; unique in a model. scale: lowest and highest possible score.
    outputs: 1 predicts the score itself; more predict a distribution over that many bins (softmax), whose mean is
        the score. bins: the score each bin stands for; None spreads them evenly over the scale, ends included.
    categories: a name of `CATEGORY_RULES`, a number of categories of equal width, or None for no category task.

    Raises:
        AesError: values that contradict each other.
    """

    name: str = "aesthetic"
    scale: tuple[float, float] = (1.0, 10.0)
    outputs: int = 1
    categories: str | int | None = None
    bins: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        where = f"model.attributes: {self.name!r}"
        low, high = self.scale
        if not low < high:
            raise AesError(f"{where}: scale {low:g}..{high:g} must ascend")
        if self.outputs < 1:
            raise AesError(f"{where}: outputs is {self.outputs}; 1 for a score, more for a distribution")
        if self.bins is not None and (
            len(self.bins) != self.outputs or any(a >= b for a, b in pairwise(self.bins))
        ):
            raise AesError(f"{where}: bins must be {self.outputs} ascending values, one per output")
        rule = self.categories
        if isinstance(rule, str):
            if rule not in CATEGORY_RULES:
                raise AesError(
                    f"{where}: no category rule {rule!r}; known: {', '.join(CATEGORY_RULES)}, or a number"
                )
            if tuple(self.scale) != CATEGORY_RULES[rule][0]:
                own = "{:g}..{:g}".format(*CATEGORY_RULES[rule][0])
                raise AesError(
                    f"{where}: category rule {rule!r} is for scores on {own}, not {low:g}..{high:g}"
                )
        elif rule is not None and rule < 2:
            raise AesError(f"{where}: {rule} categories; a category task needs two or more")

    @property
    def cuts(self) -> tuple[float, ...]:
        """Boundaries between the scale categories, ascending; empty without a category task."""
        if self.categories is None:
            return ()
        if isinstance(self.categories, str):
            return CATEGORY_RULES[self.categories][1]
        (low, high), count = self.scale, self.categories
        return tuple(low + (high - low) * k / count for k in range(1, count))

    @property
    def category_count(self) -> int:
        """Number of scale categories; 0 without a category task."""
        return len(self.cuts) + 1 if self.categories is not None else 0

    @property
    def bin_values(self) -> tuple[float, ...]:
        """The score each of the `outputs` bins stands for; empty for a plain score."""
        if self.outputs == 1:
            return ()
        (low, high), last = self.scale, self.outputs - 1
        return self.bins or tuple(low + (high - low) * k / last for k in range(self.outputs))


class AttributeBranch(nn.Module):
    """f (B, d) → (outputs (B, out), category logits (B, C) or None), from f_i = f + Linear(GELU(Linear(f))) (eq. 4)."""

    def __init__(
        self,
        dim: int,
        attribute: AttributeConfig,
        *,
        reduction: int,
        hidden: int,
        adapter: bool,
        category: bool,
    ) -> None:
        super().__init__()
        narrow = dim // reduction
        self.adapter = (
            nn.Sequential(nn.Linear(dim, narrow), nn.GELU(), nn.Linear(narrow, dim)) if adapter else None
        )
        self.score = _mlp(dim, hidden, attribute.outputs)
        if attribute.outputs == 1:
            # Starting in the middle of the scale saves the first epochs of a regression.
            nn.init.constant_(self.score[-1].bias, sum(attribute.scale) / 2)
        has_category = category and attribute.categories is not None
        self.category = _mlp(dim, hidden, attribute.category_count) if has_category else None

    def forward(self, f: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.adapter is not None:
            f = f + self.adapter(f)
        return self.score(f), None if self.category is None else self.category(f)


def _mlp(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))


class MultitaskBalancedAdaptation(nn.Module):
    """MBA: f (B, d) → scores (B, A), distributions and category logits by attribute name.

    adapter: off feeds every head the same f. category_heads: off leaves the category task out (§4.5.1, Model-A).
    """

    def __init__(
        self,
        dim: int,
        attributes: tuple[AttributeConfig, ...],
        *,
        reduction: int = 4,
        hidden: int = 256,
        adapter: bool = True,
        category_heads: bool = True,
    ) -> None:
        super().__init__()
        names = [a.name for a in attributes]
        if not names or len(set(names)) != len(names):
            raise AesError(f"model.attributes: {names} must be one or more names, each once")
        self.attributes = attributes
        self.branches = nn.ModuleList(
            AttributeBranch(
                dim, a, reduction=reduction, hidden=hidden, adapter=adapter, category=category_heads
            )
            for a in attributes
        )
        for i, attribute in enumerate(attributes):
            self.register_buffer(f"bins_{i}", torch.tensor(attribute.bin_values), persistent=False)

    def forward(
        self, f: Tensor, skip: tuple[int, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Scores (B, A) on each attribute's own scale; distributions (B, K) and category logits (B, C) by name.

        skip: (i, (B, outputs)) is added to what attribute i's score MLP says.
        """
        scores, distributions, categories = [], {}, {}
        for i, (attribute, branch) in enumerate(zip(self.attributes, self.branches, strict=True)):
            out, logits = branch(f)
            if skip is not None and skip[0] == i:
                out = out + skip[1]
            if attribute.outputs > 1:
                p = distributions[attribute.name] = torch.softmax(at_least_float32(out), 1)
                scores.append((p * getattr(self, f"bins_{i}").to(p)).sum(1))
            else:
                scores.append(at_least_float32(out).squeeze(1))
            if logits is not None:
                categories[attribute.name] = logits
        return torch.stack(scores, 1), distributions, categories

    def drop_category_heads(self) -> None:
        """Remove what only training needs (models are exported without it)."""
        for branch in self.branches:
            branch.category = None
