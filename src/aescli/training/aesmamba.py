"""Training AesMamba: its targets, its objective and what a run reports.

Composes loss, categories and texts. Knows presets and samples; knows nothing about files, splits or the optimisation.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aescli.data.categories import category_counts
from aescli.errors import UsageError
from aescli.evaluation.metrics import distribution_distances, good_accuracy, regression_metrics
from aescli.models.adaptation import AttributeConfig
from aescli.models.aesmamba import AesMambaConfig, AesMambaOutput
from aescli.models.text import TextTokenizer, pretrained_tokenizer
from aescli.presets import Preset
from aescli.training.aesmamba_loss import AesMambaLoss, AesMambaTargets
from aescli.training.config import TrainConfig
from aescli.training.distil import calibrated, tilted
from aescli.training.distributed import Group
from aescli.training.momamba import Targets
from aescli.training.objective import Blend, Objective, pearson
from aescli.training.samples import Pictures, TrainingSample
from aescli.training.teacher import pooled_clean, teach


def attribute_table(samples: Sequence[TrainingSample], model: AesMambaConfig) -> np.ndarray:
    """(n, A) float64 scores in the order of the model's attributes, NaN where a picture has none."""
    table = np.full((len(samples), len(model.attributes)), np.nan)
    for a, attribute in enumerate(model.attributes):
        if a == model.score_index:
            table[:, a] = [s.score for s in samples]
        else:
            table[:, a] = [s.scores.get(attribute.name, np.nan) for s in samples]
    return table


def distribution_table(samples: Sequence[TrainingSample], attribute: AttributeConfig) -> np.ndarray:
    """(n, K) float64 shares of the votes for each bin, NaN rows where a picture has no votes for that many bins."""
    table = np.full((len(samples), attribute.outputs), np.nan)
    for row, sample in zip(table, samples, strict=True):
        if sample.counts is not None and len(sample.counts) == attribute.outputs and sum(sample.counts) > 0:
            row[:] = np.asarray(sample.counts) / sum(sample.counts)
    return table


class AesMambaObjective(Objective):
    """Every attribute's score or distribution; judged by the mean over attributes of Pearson's r.

    partial: attributes other than the score may be without any training score; they are then not trained.
    distil: the encoder and the classifier whose answers pictures without a rating should keep, and the rated ones'
    targets (n, K).
    """

    def __init__(
        self,
        samples: Sequence[TrainingSample],
        model: AesMambaConfig,
        config: TrainConfig,
        train: Sequence[int],
        tokenizer: TextTokenizer | None,
        device: torch.device,
        distil: tuple[nn.Module, nn.Linear, Tensor] | None = None,
        *,
        partial: bool = False,
    ) -> None:
        super().__init__()
        if config.mixup:
            raise UsageError("train.mixup: categories and comments cannot be blended; set it to 0")
        scores = attribute_table(samples, model)
        self.names = [a.name for a in model.attributes]
        self.scores = torch.from_numpy(scores).float().to(device)
        self.distributions: dict[str, Tensor] = {}
        for a, attribute in enumerate(model.attributes):
            if not np.isfinite(scores[train, a]).any() and not (partial and a != model.score_index):
                raise UsageError(
                    f"model.attributes: no training picture has a score for {attribute.name!r}; "
                    "name the attributes that the data set has"
                )
            if a == model.score_index and any(
                abs(samples[i].scores.get(attribute.name, samples[i].score) - samples[i].score) > 1e-6
                for i in train
            ):
                raise UsageError(
                    f"model.attributes: {attribute.name!r} is the model's score, and --data has a column of this name "
                    "beside its score; make it the score with --score-column, or name another with model.score"
                )
            low, high = attribute.scale
            if (scores[train, a] < low - 1e-6).any() or (scores[train, a] > high + 1e-6).any():
                raise UsageError(
                    f"model.attributes: {attribute.name!r} has training scores outside {low:g} to {high:g}; further "
                    "scores of a table must be on the scale of its main one"
                )
            if distil is not None and a == model.score_index:
                self.distributions[attribute.name] = distil[2].float().to(device)
            elif attribute.outputs > 1:
                votes = distribution_table(samples, attribute)
                if a != model.score_index or not np.isfinite(votes[train]).any():
                    other = {len(s.counts) for s in samples if s.counts is not None} - {attribute.outputs}
                    why = "no training picture says how many votes each got; set its outputs to 1 to learn the mean"
                    if a == model.score_index and other:
                        steps = ", ".join(map(str, sorted(other)))
                        known = {10: "aesmamba-v-ava", 7: "aesmamba-v-photonet"}
                        such = [f"such as {known[k]} for {k}" for k in sorted(other) if k in known]
                        why = ", ".join(
                            [f"the pictures have votes over {steps}; take a preset for these", *such]
                        )
                    raise UsageError(
                        f"model.attributes: {attribute.name!r} is a distribution over {attribute.outputs} ratings, and "
                        f"{why}"
                    )
                self.distributions[attribute.name] = torch.from_numpy(votes).float().to(device)
        self.distil = config.distil
        self.classifier = None
        if distil is not None:
            self.score_name = model.attributes[model.score_index].name
            self.first = copy.deepcopy(distil[0]).requires_grad_(False).eval()
            self.classifier = copy.deepcopy(distil[1]).requires_grad_(False)
            self.bins = torch.tensor(model.attributes[model.score_index].bin_values, device=device)
            self.spoilt = torch.tensor([float(bool(s.degradation)) for s in samples], device=device)
        self.tokenizer, self.tokens = tokenizer, None
        if tokenizer is not None:
            tokens = tokenizer([s.text for s in samples])
            self.tokens = {key: value.to(device) for key, value in tokens.items()}
        counts = (
            category_counts(scores[np.asarray(train)], model.attributes) if model.category_heads else None
        )
        self.loss = AesMambaLoss(config.aesmamba_loss, model.attributes, counts)

    def given(self, rows: Tensor) -> dict[str, Any]:
        if self.tokens is None:
            return {}
        ids, mask = self.tokens["input_ids"][rows], self.tokens["attention_mask"][rows]
        longest = max(1, int(mask.sum(1).max()))  # padding stands at the end
        return {"tokens": {"input_ids": ids[:, :longest], "attention_mask": mask[:, :longest]}}

    def forward(
        self, output: AesMambaOutput, rows: Tensor, blend: Blend | None, states: list[Tensor]
    ) -> dict[str, Tensor]:
        distributions = {name: table[rows] for name, table in self.distributions.items()}
        scores, weight = self.scores[rows], None
        if self.classifier is not None:
            unrated = scores.isnan().all(1)
            target = distributions[self.score_name]
            if unrated.any():
                target[unrated] = self._first_answers(states, rows)[unrated].to(target)
            index = self.names.index(self.score_name)
            scores = scores.clone()
            scores[:, index] = target @ self.bins  # categories are those of the targets, too
            weight = torch.where(unrated, self.distil.weight, 1.0)
        return self.loss(output, AesMambaTargets(scores, distributions, weight))

    @torch.no_grad()
    def _first_answers(self, states: list[Tensor], rows: Tensor) -> Tensor:
        """What the classifier said at first, with a lower mean where the picture was spoilt: (B, K)."""
        pooled = self.first.upper(states)[-1].float().mean((2, 3))
        answers = self.classifier(pooled).softmax(1)
        lower = self.distil.penalty * self.spoilt[rows]
        return tilted(answers, (answers @ self.bins - lower).clamp_min(self.bins[0]), self.bins)

    def judge(self, outputs: AesMambaOutput, indices: np.ndarray) -> tuple[dict[str, float], float]:
        truth = self.scores.cpu().numpy()[indices].astype(np.float64)
        record = {}
        for a, name in enumerate(self.names):
            known = np.isfinite(truth[:, a])
            record[f"val_PC_{name}"] = pearson(outputs.attribute_scores.numpy()[known, a], truth[known, a])
        return record, float(np.mean(list(record.values())))


def check_targets(preset: Preset, samples: Sequence[TrainingSample], train: Sequence[int]) -> None:
    """UsageError for pictures that cannot teach what the preset's model predicts; cheap, before anything is trained."""
    _require_comments(preset, samples)
    if not preset.train.distil.weight:
        AesMambaObjective(samples, preset.model, preset.train, train, None, torch.device("cpu"))


def _require_comments(preset: Preset, samples: Sequence[TrainingSample]) -> None:
    if preset.model.text is not None and preset.task != "piaa" and not any(s.text for s in samples):
        raise UsageError("this model reads comments, and no picture of --data has one")


def make_objective(
    preset: Preset,
    model: nn.Module,
    source,
    pictures: Pictures,
    train: Sequence[int],
    device: torch.device,
    features: Path | None,
    log: Callable[[str], None],
    group: Group,
) -> Objective:
    """The run's objective. A model that reads text gets every picture's tokens once."""
    _require_comments(preset, pictures.samples)
    tokenizer = None
    if model.text is not None:
        without = sum(not s.text for s in pictures.samples)
        # What P learns here is everybody's taste; a person's prompt comes with that person's ratings.
        if without:
            log(f"{without} pictures have no comment: they are learnt from the image alone")
        tokenizer = pretrained_tokenizer(model.config.text)
    distil = None
    if preset.train.distil.weight:
        distil = model.encoder, model.skips, _targets(preset, model, pictures, train, device, features, log)
    return AesMambaObjective(pictures.samples, preset.model, preset.train, train, tokenizer, device, distil)


def _targets(
    preset: Preset,
    model: nn.Module,
    pictures: Pictures,
    train: Sequence[int],
    device: torch.device,
    features: Path | None,
    log: Callable[[str], None],
) -> Tensor:
    """(n, K) distributions that the rated pictures should have, on the scale of the model's first answers."""
    config, samples = preset.train.distil, pictures.samples
    attribute = preset.model.attributes[preset.model.score_index]
    if model.skips is None or attribute.outputs == 1:
        raise UsageError("train.distil: needs model.head_skip and a distribution as the score")
    if not model.skips.weight.any():
        raise UsageError(
            f"train.distil: encoder.weights must hold a classifier fc of {attribute.outputs} ratings; there is none"
        )
    # Of all rated pictures, test ones too, so that folds share the features; what is fitted sees `train` only.
    rated = np.array([i for i, s in enumerate(samples) if np.isfinite(s.score)])
    mine = pictures.part(rated)
    fitted = np.isin(rated, train)
    pooled = pooled_clean(model.encoder, mine, device, features)
    with torch.inference_mode():
        answers = model.skips(torch.from_numpy(pooled).to(device)).softmax(1).cpu()
    scores = torch.tensor([s.score for s in mine.samples])
    if config.opinions:
        targets = Targets.of(mine.samples)
        targets = replace(targets, head=torch.zeros_like(targets.head))
        noise = preset.train.loss.rater_noise
        opinions = teach(
            preset.train.teacher,
            pooled,
            mine,
            targets,
            np.flatnonzero(fitted),
            1,
            noise,
            device,
            features,
            log,
        )[:, 0]
        scores = torch.where(opinions.isfinite(), scores.lerp(opinions, config.opinions), scores)
    bins = torch.tensor(attribute.bin_values)
    out = torch.full((len(samples), attribute.outputs), torch.nan)
    out[torch.from_numpy(rated)] = calibrated(
        scores, answers, torch.from_numpy(fitted), bins, config.spread
    ).float()
    return out


def test_metrics(
    outputs: AesMambaOutput, samples: Sequence[TrainingSample], preset: Preset
) -> dict[str, Any]:
    """Figures of the score and of every further attribute, each on its own scale."""
    model = preset.model
    # As in scoring, a prediction beyond the scale's end means its end.
    low, high = np.array([attribute.scale for attribute in model.attributes]).T
    truth, predicted = attribute_table(samples, model), outputs.attribute_scores.numpy().clip(low, high)
    above = preset.data.class_cuts[-1] if preset.data.class_cuts else sum(model.score_range) / 2
    metrics: dict[str, Any] = {"n": len(samples)}
    for a, attribute in enumerate(model.attributes):
        known = np.isfinite(truth[:, a])
        if not known.any():
            continue
        figures = regression_metrics(predicted[known, a], truth[known, a])
        if a == model.score_index:
            figures = {"ACC": good_accuracy(predicted[known, a], truth[known, a], above), **figures}
            if attribute.outputs > 1:
                votes = distribution_table(samples, attribute)
                voted = np.isfinite(votes).all(1)
                answers = outputs.distributions[attribute.name].numpy()
                if voted.any():
                    distances = distribution_distances(answers[voted], votes[voted])
                    figures["EMD"] = float(distances.mean())
            metrics["score"] = figures
        else:
            metrics.setdefault("attributes", {})[attribute.name] = figures
    return metrics


def prediction_rows(outputs: AesMambaOutput, samples: Sequence[TrainingSample]) -> list[dict[str, Any]]:
    """What a run keeps of each test picture: its name, its label and the model's answers."""
    scores, attributes = outputs.score.tolist(), outputs.attribute_scores.tolist()
    probabilities = None if outputs.probabilities is None else outputs.probabilities.tolist()
    return [
        {
            "name": s.name,
            "score": s.score,
            "predicted": scores[i],
            "attributes": attributes[i],
            "probabilities": None if probabilities is None else probabilities[i],
        }
        for i, s in enumerate(samples)
    ]
