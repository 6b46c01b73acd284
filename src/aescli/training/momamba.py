"""Training MoMamba: its targets, its objective, how a run starts and what it reports.

Composes loss, linear start and teacher. Knows presets and samples; knows nothing about files, splits or the
optimisation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aescli.data.labels import rated_class
from aescli.evaluation.metrics import classification_metrics, regression_metrics
from aescli.models.momamba import MoMambaOutput, pool_statistics
from aescli.presets import Preset
from aescli.training.config import TrainConfig
from aescli.training.distributed import Group
from aescli.training.features import pooled_features
from aescli.training.losses import MoMambaLoss, certainty
from aescli.training.objective import Blend, Objective, pearson
from aescli.training.probe import fit_skips
from aescli.training.refit import ClosingRidge
from aescli.training.samples import Pictures, TrainingSample
from aescli.training.teacher import teach
from aescli.training.trainer import choose_dtype


@dataclass(frozen=True)
class Targets:
    """score, noise (variance of the mean rating): (n,) float32; head: (n,) int64 index of the score head.

    teacher: (n, heads) float32, what a teacher would answer; None without one.
    """

    score: Tensor
    noise: Tensor
    head: Tensor
    teacher: Tensor | None = None

    @classmethod
    def of(cls, samples: Sequence[TrainingSample]) -> "Targets":
        return cls(
            torch.tensor([s.score for s in samples]),
            torch.tensor([s.noise for s in samples]),
            torch.tensor([s.head for s in samples]),
        )


class MoMambaObjective(Objective):
    """Scores and soft classes of every picture; judged by the mean over score heads of Pearson's r."""

    def __init__(
        self,
        targets: Targets,
        config: TrainConfig,
        cuts: tuple[float, ...],
        train: Sequence[int],
        device: torch.device,
    ) -> None:
        super().__init__()
        everything = (targets.score, targets.noise, targets.head, targets.teacher)
        self.targets = Targets(*(None if t is None else t.to(device) for t in everything))
        self.rater_noise = config.loss.rater_noise
        classes = torch.bucketize(
            targets.score[torch.as_tensor(train)] + 1e-6, torch.tensor(cuts), right=True
        )
        counts = torch.bincount(classes, minlength=len(cuts) + 1).float()
        self.loss = MoMambaLoss(config.loss, cuts, counts)
        self.closing: Callable[[nn.Module], None] | None = None

    def groups(self, rows: Tensor) -> Tensor:
        return self.targets.head[rows]

    def forward(
        self, output: MoMambaOutput, rows: Tensor, blend: Blend | None, states: list[Tensor]
    ) -> dict[str, Tensor]:
        targets = self.targets
        score, head = targets.score[rows], targets.head[rows]
        weight = certainty(targets.noise[rows], self.rater_noise)
        teacher = None if targets.teacher is None else targets.teacher[rows]
        if blend is not None:
            score, weight = blend(score), blend(weight)
            teacher = None if teacher is None else blend(teacher)
        return self.loss(output, score, weight, head, teacher)

    def finish(self, model: nn.Module) -> None:
        if self.closing is not None:
            self.closing(model)

    def judge(self, outputs: MoMambaOutput, indices: np.ndarray) -> tuple[dict[str, float], float]:
        head = self.targets.head.cpu().numpy()[indices]
        truth = self.targets.score.cpu().numpy()[indices].astype(np.float64)
        if outputs.head_scores is None:
            classes = torch.bucketize(
                torch.from_numpy(truth) + 1e-6, self.loss.cuts.cpu().double(), right=True
            )
            accuracy = float((outputs.logits.argmax(1) == classes).double().mean())
            return {"val_ACC": accuracy}, accuracy
        own = outputs.head_scores.numpy()[np.arange(len(head)), head]
        record = {f"val_PC_{h}": pearson(own[head == h], truth[head == h]) for h in np.unique(head)}
        return record, float(np.mean(list(record.values())))


def check_targets(preset: Preset, samples: Sequence[TrainingSample], train: Sequence[int]) -> None:
    """Any score will do: every score head has a data set, and classes are cut from scores."""


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
    """The run's objective; also gives the model its linear start where the preset asks for one.

    The first of several processes does what is done once; the others get its results.
    """
    config, cuts = preset.train, preset.data.class_cuts
    targets = Targets.of(pictures.samples)
    loss, closing = config.loss, None
    has_score_skips = model.skips is not None and "regression" in model.skips
    share = config.refit if has_score_skips else 0.0
    if config.probe and model.skips is not None:
        if group.first:
            chosen = fit_skips(model, source, targets, train, cuts, loss.label_sigma, loss.rater_noise)
            log("linear probe, ridge strengths: " + ", ".join(f"{k} {v:g}" for k, v in chosen.items()))
        group.spread([*model.skips.parameters(), *model.heads.parameters()])
    own = None
    if group.first and (loss.teacher or share):
        name = f"skips-{mirror_scale(model)}.npy"
        own = skip_features(model, source, source.folder and source.folder / name)
    if loss.teacher:
        heads = len(preset.model.score_heads)
        opinions = torch.empty(len(pictures.samples), heads, device=device)
        if group.first:
            noise = loss.rater_noise
            opinions = teach(
                config.teacher, own, pictures, targets, train, heads, noise, device, features, log
            ).to(device)  # fmt: skip
        group.spread([opinions])
        targets = replace(targets, teacher=opinions)
    if share and group.first:
        ridge = ClosingRidge(own, targets, train, loss.rater_noise)
        found = ", ".join(f"head {h} {strength:g}" for h, strength in ridge.strengths.items())
        log(f"closing ridge regression, strengths: {found}")

        def closing(trained: nn.Module) -> None:
            ridge.close(trained, skip_features(trained, source, None), share)

    objective = MoMambaObjective(targets, config, cuts, train, device)
    objective.closing = closing
    return objective


def mirror_scale(model: nn.Module) -> float | None:
    """How the model sees a picture's mirror image in scoring; None: not at all."""
    return model.config.mirror_scale if model.config.flip_average else None


def skip_features(model: nn.Module, source, cache: Path | None) -> np.ndarray:
    """(pictures, d): what the model's skips see of every clean picture in scoring. cache: a file to keep it in."""
    kind = source.device.type
    dtype = choose_dtype("auto", source.device)

    def pooled(sides: tuple[list[Tensor], ...]) -> Tensor:
        with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
            levels = [model.encoder.upper(side) for side in sides]
        return sum(pool_statistics(side) for side in levels) / len(levels)

    model.eval()
    with torch.inference_mode():
        return pooled_features(pooled, source.sides(model.encoder, 64, mirror_scale(model)), cache)


def test_metrics(outputs: MoMambaOutput, samples: Sequence[TrainingSample], preset: Preset) -> dict[str, Any]:
    """Figures on the model's scale: of the combined score, of the data set's own head, and of the classes."""
    truth = np.array([s.score for s in samples])
    metrics: dict[str, Any] = {"n": len(samples)}
    if outputs.head_scores is not None:
        # As in scoring, a prediction beyond the scale's end means its end.
        low, high = preset.model.score_range
        metrics["score"] = regression_metrics(outputs.score.numpy().clip(low, high), truth)
        head = np.array([s.head for s in samples])
        own = outputs.head_scores.numpy()[np.arange(len(head)), head].clip(low, high)
        metrics["own_head"] = regression_metrics(own, truth)
    if outputs.logits is not None:
        classes = rated_class(truth, preset.data.class_cuts)
        p = outputs.logits.softmax(-1).numpy()
        metrics["classes"] = classification_metrics(p.argmax(1), classes, p, p.shape[1])
    for task, values in outputs.routing.items():
        metrics[f"expert_share_{task}"] = [round(float(v), 4) for v in values.mean(0)]
    return metrics


def prediction_rows(outputs: MoMambaOutput, samples: Sequence[TrainingSample]) -> list[dict[str, Any]]:
    """What a run keeps of each test picture: its name, its label and the model's answers."""
    scores = None if outputs.score is None else outputs.score.tolist()
    probabilities = None if outputs.logits is None else outputs.logits.softmax(-1).tolist()
    heads = None if outputs.head_scores is None else outputs.head_scores.tolist()
    return [
        {
            "name": s.name,
            "score": s.score,
            "predicted": None if scores is None else scores[i],
            "heads": None if heads is None else heads[i],
            "probabilities": None if probabilities is None else probabilities[i],
        }
        for i, s in enumerate(samples)
    ]
