"""The training loss of AesMamba (§3.6): distribution, regression and balanced category terms, summed over attributes.

Pure functions of tensors. Knows nothing about models' insides, data or schedules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pydantic import Field
from torch import Tensor, nn

from aescli.models.adaptation import AttributeConfig
from aescli.models.aesmamba import AesMambaOutput
from aescli.ops.precision import at_least_float32

NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class AesMambaLossConfig:
    """L_reg = MSE + λ·Bal-CE; L_dist = EMD + γ·MSE + λ·Bal-CE (eq. 8).

    gamma: γ, of the MSE over a distribution's bins. mean: of the squared error of a distribution's mean, which is what
    ranks pictures; 0 in the paper. category: λ. balanced: the category term counts how common each
    category is in the training split (Model-C); off is plain cross entropy (Model-B).
    """

    gamma: NotNegative = 10.0
    mean: NotNegative = 0.0
    category: NotNegative = 0.001
    balanced: bool = True


@dataclass(frozen=True)
class AesMambaTargets:
    """What is known about B pictures.

    scores: (B, A) in the order of the attributes, each on its own scale, NaN where unknown; for an attribute that is
        predicted as a distribution, its mean (it decides the category).
    distributions: (B, K) by attribute name, shares or counts of votes per bin; a row of NaN where unknown.
    weight: (B,) of each picture, None = all ones.
    """

    scores: Tensor
    distributions: Mapping[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None


def _same_shape(what: str, prediction: Tensor, target: Tensor, dims: int) -> None:
    """Broadcasting (B,) against (B, 1) would silently average over B × B wrong pairs."""
    if prediction.shape != target.shape or prediction.dim() != dims:
        raise ValueError(
            f"{what}: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must have one shape "
            f"of {dims} dimension{'s' * (dims > 1)}"
        )


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(s − ŝ)² per sample (eq. 7 before its mean): (B,), (B,) → (B,). Raises ValueError for other shapes."""
    _same_shape("squared error", prediction, target, 1)
    return (prediction - target).square()


def earth_movers_distance(p: Tensor, q: Tensor) -> Tensor:
    """sqrt(mean_k (CDF_p − CDF_q)²) per sample (eq. 6, r = 2): (B, K), (B, K) → (B,).

    Zero, with zero gradient, where the two are equal. Raises ValueError for other shapes.
    """
    _same_shape("earth mover's distance", p, q, 2)
    return torch.linalg.vector_norm((p - q).cumsum(1), dim=1) / p.shape[1] ** 0.5


def bin_error(p: Tensor, q: Tensor) -> Tensor:
    """mean_k (p_k − q_k)² per sample: (B, K), (B, K) → (B,). Raises ValueError for other shapes."""
    _same_shape("bin error", p, q, 2)
    return (p - q).square().mean(1)


def balanced_cross_entropy(logits: Tensor, categories: Tensor, log_prior: Tensor | None) -> Tensor:
    """Cross entropy of logits + log(n_j/Σn) per sample (eq. 5): (B, C), (B,) int64 → (B,); no prior = plain.

    Raises ValueError for other shapes.
    """
    if logits.dim() != 2 or categories.shape != logits.shape[:1]:
        raise ValueError(
            f"cross entropy: logits {tuple(logits.shape)} must be (B, C), categories {tuple(categories.shape)} (B,)"
        )
    return F.cross_entropy(logits if log_prior is None else logits + log_prior, categories, reduction="none")


class AesMambaLoss(nn.Module):
    """All terms of `AesMambaLossConfig` for the attributes of one model.

    class_counts: {attribute name: (C,)} pictures of the training split per scale category
    (`aescli.data.categories.category_counts`); needed by a balanced loss for every attribute with a category task. A
    category that no training picture has counts as one picture, so that a validation picture in it costs much but
    not infinitely much.

    Raises:
        ValueError: counts that are missing or of another length.
    """

    def __init__(
        self,
        config: AesMambaLossConfig,
        attributes: Sequence[AttributeConfig],
        class_counts: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.attributes = config, tuple(attributes)
        for i, attribute in enumerate(self.attributes):
            prior = None
            if config.balanced and attribute.cuts:
                if class_counts is None or attribute.name not in class_counts:
                    raise ValueError(
                        f"a balanced loss needs the training split's category counts of {attribute.name!r}"
                    )
                counts = torch.as_tensor(class_counts[attribute.name], dtype=torch.float32).clamp_min(1)
                if counts.shape != (attribute.category_count,):
                    raise ValueError(
                        f"{attribute.name!r} has {attribute.category_count} categories, counts {tuple(counts.shape)}"
                    )
                prior = (counts / counts.sum()).log()
            self.register_buffer(f"log_prior_{i}", prior)
            self.register_buffer(f"cuts_{i}", torch.tensor(attribute.cuts))

    def forward(self, output: AesMambaOutput, targets: AesMambaTargets) -> dict[str, Tensor]:
        """Named terms, each summed over attributes (before γ and λ), and `total`: what is minimised.

        Each attribute's term is the weighted mean over the pictures for which it is known; 0 when there is none.

        Raises:
            ValueError: a target of another shape, or no target distribution for an attribute that predicts one.
        """
        predicted = at_least_float32(output.attribute_scores)
        _same_shape("scores", predicted, targets.scores, 2)
        if predicted.shape[1] != len(self.attributes):
            raise ValueError(f"{predicted.shape[1]} scores for {len(self.attributes)} attributes")
        weight = targets.weight if targets.weight is not None else torch.ones_like(predicted[:, 0])
        _same_shape("sample weight", predicted[:, 0], weight, 1)
        terms: dict[str, Tensor] = {}
        for i, attribute in enumerate(self.attributes):
            for name, term in self._terms(i, attribute, predicted[:, i], output, targets, weight).items():
                terms[name] = terms.get(name, 0) + term
        factors = {"bins": self.config.gamma, "mean": self.config.mean, "category": self.config.category}
        total = sum(factors.get(name, 1.0) * term for name, term in terms.items())
        return {**terms, "total": total}

    def _terms(
        self,
        i: int,
        attribute: AttributeConfig,
        predicted: Tensor,
        output: AesMambaOutput,
        targets: AesMambaTargets,
        weight: Tensor,
    ) -> dict[str, Tensor]:
        score = targets.scores[:, i].to(predicted)
        known = score.isfinite()
        score = score.masked_fill(~known, sum(attribute.scale) / 2)
        terms = {}
        if attribute.outputs > 1:
            if attribute.name not in targets.distributions:
                raise ValueError(
                    f"attribute {attribute.name!r} is a distribution and has no target distribution"
                )
            p = at_least_float32(output.distributions[attribute.name])
            q = targets.distributions[attribute.name].to(p)
            _same_shape(f"distribution of {attribute.name!r}", p, q, 2)
            q_known = q.isfinite().all(1) & (q.sum(1) > 0)
            q = torch.where(q_known[:, None], q, torch.ones_like(q))
            q = q / q.sum(1, keepdim=True)
            terms["emd"] = _known_mean(earth_movers_distance(p, q), q_known, weight)
            terms["bins"] = _known_mean(bin_error(p, q), q_known, weight)
            if self.config.mean:
                wanted = q @ torch.tensor(attribute.bin_values).to(q)
                terms["mean"] = _known_mean(squared_error(predicted, wanted), q_known, weight)
        else:
            terms["mse"] = _known_mean(squared_error(predicted, score), known, weight)
        logits = output.category_logits.get(attribute.name)
        if logits is not None:
            # 1e-6 as in `score_to_class`: a score that is a cut up to rounding lies on it.
            categories = torch.bucketize(score + 1e-6, getattr(self, f"cuts_{i}").to(score), right=True)
            log_prior = getattr(self, f"log_prior_{i}")
            per_sample = balanced_cross_entropy(at_least_float32(logits), categories, log_prior)
            terms["category"] = _known_mean(per_sample, known, weight)
        return terms


def _known_mean(per_sample: Tensor, known: Tensor, weight: Tensor) -> Tensor:
    """Mean of weight × value over the known samples; 0, still part of the graph, where none is known."""
    values = (weight.to(per_sample) * per_sample).masked_fill(~known, 0)
    return values.sum() / known.sum().clamp_min(1)
