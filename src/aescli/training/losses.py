"""The training loss of MoMamba: classification and regression terms, per sample weighted, summed.

Pure functions of tensors. Knows nothing about models' insides, data or schedules.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aescli.models.momamba import MoMambaOutput
from aescli.models.same import load_balance
from aescli.ops.precision import at_least_float32
from aescli.training.config import LossConfig


def soft_classes(scores: Tensor, cuts: Tensor, sigma: float) -> Tensor:
    """Class probabilities of N(score, σ²) cut at `cuts`: scores (B,), cuts (C−1,) → (B, C), rows sum to 1."""
    z = (cuts[None] - scores[:, None]) / (sigma * 2**0.5)
    below = 0.5 * (1 + torch.erf(z))  # (B, C−1): probability below each cut
    edge = torch.ones_like(below[:, :1])
    return torch.diff(torch.cat([0 * edge, below, edge], 1), dim=1)


def certainty(noise: Tensor, scale: float) -> Tensor:
    """Weight of a mean rating of variance `noise`: s²/(s² + noise) with s = `scale` > 0, all ones for scale 0."""
    return scale**2 / (scale**2 + noise) if scale else torch.ones_like(noise)


def correlation_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 − weighted Pearson's r of a batch, (B,) each → scalar; 0 for fewer than three samples."""
    if len(prediction) < 3:
        return prediction.sum() * 0
    weight = weight / weight.sum()
    p = prediction - (weight * prediction).sum()
    t = target - (weight * target).sum()
    covariance = (weight * p * t).sum()
    scale = ((weight * p * p).sum() * (weight * t * t).sum()).clamp_min(1e-12).sqrt()
    return 1 - covariance / scale


class MoMambaLoss(nn.Module):
    """All terms of `LossConfig`. Holds the two log variances when their weights are learnt."""

    def __init__(
        self, config: LossConfig, cuts: tuple[float, ...], class_counts: Tensor | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cuts", torch.tensor(cuts))
        weights = None
        if config.balanced:
            if class_counts is None:
                raise ValueError("a balanced loss needs the class counts of the training split")
            weights = class_counts.sum() / (len(class_counts) * class_counts.clamp_min(1))
        self.register_buffer("class_weights", weights)
        if config.uncertainty:
            self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(
        self,
        output: MoMambaOutput,
        score: Tensor,
        weight: Tensor,
        head: Tensor,
        teacher: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """score (B,) on the model's scale, weight (B,), head (B,) index of the score head → named terms and `total`.

        teacher: (B, heads) the teacher's opinions, NaN where it has none.
        """
        config, terms = self.config, {}
        total = score.new_zeros(())
        if output.logits is not None:
            term = self._classification(at_least_float32(output.logits), score, weight)
            terms["classification"] = term
            total = total + self._weigh(term * config.classification, 0)
        if output.head_scores is not None:
            predicted = at_least_float32(output.head_scores).gather(1, head[:, None]).squeeze(1)
            term = (weight * (predicted - score).square()).mean()
            terms["regression"] = term
            total = total + self._weigh(term * config.regression, 1)
            if teacher is not None:
                known = teacher.isfinite()
                difference = (at_least_float32(output.head_scores) - teacher).masked_fill(~known, 0)
                terms["teacher"] = difference.square().sum() / known.sum().clamp_min(1)
                total = total + config.teacher * terms["teacher"]
            if config.correlation:
                present = head.unique().tolist()
                parts = [
                    correlation_loss(predicted[head == h], score[head == h], weight[head == h])
                    * (head == h).float().mean()
                    for h in present
                ]
                terms["correlation"] = sum(parts)
                total = total + config.correlation * terms["correlation"]
        if config.load_balance and output.routing:
            terms["load_balance"] = sum(load_balance(p.float()) for p in output.routing.values())
            total = total + config.load_balance * terms["load_balance"]
        return {**terms, "total": total}

    def _classification(self, logits: Tensor, score: Tensor, weight: Tensor) -> Tensor:
        if self.config.label_sigma:
            target = soft_classes(score, self.cuts, self.config.label_sigma)
        else:
            # 1e-6 as in `score_to_class`: a score that is a cut up to rounding lies on it.
            target = torch.bucketize(score + 1e-6, self.cuts, right=True)
        per_sample = F.cross_entropy(logits, target, weight=self.class_weights, reduction="none")
        return (weight * per_sample).mean()

    def _weigh(self, term: Tensor, index: int) -> Tensor:
        if not self.config.uncertainty:
            return term
        s = self.log_variance[index]
        return torch.exp(-s) * term + 0.5 * s
