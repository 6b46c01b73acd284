"""The optimisation loop: epochs, schedule, averaged weights, validation, and a state that can be resumed exactly.

It is given a model, a source of batches and an objective; it knows nothing about data sets, files of images, commands
or what a model's answers mean.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from aescli.errors import AesError, UsageError
from aescli.training.config import TrainConfig
from aescli.training.distributed import Group
from aescli.training.objective import Objective, stack_outputs

STATE, LOG = "state.pt", "log.jsonl"


class Source(Protocol):
    """`LivePictures` or `CachedFeatures`."""

    def batches(
        self, indices: Sequence[int], batch_size: int, epoch: int | None
    ) -> Iterator[list[Tensor]]: ...
    def states(self, encoder: nn.Module, batch: list[Tensor]) -> list[Tensor]: ...


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: bf16 on a GPU that has it and on CPUs with AMX or AVX-512 BF16, else fp32 (emulated bf16 is slower)."""
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        capable = (
            getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
            or getattr(torch.cpu, "_is_amx_tile_supported", bool)()
        )
        return torch.bfloat16 if capable else torch.float32
    return torch.float32


class Trainer:
    """Trains one model on one split. Everything random depends on the seed and the epoch only."""

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        objective: Objective,
        train: Sequence[int],
        validation: Sequence[int],
        config: TrainConfig,
        out: Path,
        device: torch.device,
        log: Callable[[str], None] = print,
        group: Group | None = None,
        *,
        keep_state: bool = True,
    ) -> None:
        """keep_state: off writes nothing to `out`, for trainings of seconds that need no resuming."""
        self.keep_state = keep_state
        self.model, self.source, self.config, self.out, self.log = model, source, config, out, log
        self.group = group or Group()
        self.batch_size = max(1, config.batch_size // self.group.size)
        self.device = device
        self.objective = objective.to(device)
        self.train_indices, self.validation_indices = np.asarray(train), np.asarray(validation)
        self.dtype = choose_dtype(config.dtype, device)
        self.optimiser = torch.optim.AdamW(
            self._parameter_groups(),
            lr=config.lr,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
        )
        self.base_rates = [group["lr"] for group in self.optimiser.param_groups]
        shared = math.ceil(len(self.train_indices) / self.group.size)
        self.steps_per_epoch = math.ceil(shared / self.batch_size)
        self.average = _state(model) if config.ema else None
        self.epoch, self.step, self.best, self.best_state = 0, 0, -math.inf, None
        self.history: list[dict[str, Any]] = []

    def _parameter_groups(self) -> list[dict[str, Any]]:
        config = self.config
        depths = depths_below_last(name for name, _ in self.model.named_parameters())
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in [*self.model.named_parameters(), *self.objective.named_parameters()]:
            if not parameter.requires_grad:
                continue
            rate = config.lr
            if name.startswith("encoder."):
                rate *= config.encoder_lr * config.layer_decay ** depths[name]
            elif name.startswith("skips."):
                rate *= config.skip_lr
            decayed = parameter.dim() > 1 and not getattr(parameter, "_no_weight_decay", False)
            decay = config.weight_decay if decayed else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        if not groups:
            raise AesError("train.frozen_blocks: nothing is left to train")
        return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]

    def run(self, resume: bool = False) -> None:
        """Train to the last epoch; the model then holds the selected weights."""
        if resume:
            self._load()
        while self.epoch < self.config.epochs:
            start = time.monotonic()
            losses = self._epoch()
            self.epoch += 1
            record = {
                "epoch": self.epoch,
                **losses,
                **self._validate(),
                "seconds": round(time.monotonic() - start, 1),
            }
            self.history.append(record)
            if self.group.first and self.keep_state:
                self._save(record)
            self.log(
                " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
            )
        self.model.load_state_dict(self.best_state if self.best_state is not None else self._averaged())

    def _epoch(self) -> dict[str, float]:
        config, model = self.config, self.model
        model.train()
        if config.freeze_norms:
            for module in model.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        elif model.encoder.cut:
            _freeze_statistics(model.encoder)
        torch.manual_seed(hash((config.seed, self.epoch)) % 2**31)
        shuffled = np.random.default_rng((config.seed, self.epoch)).permutation(len(self.train_indices))
        order = self.group.share(self.train_indices[shuffled])
        # BatchNorm cannot normalise a single sample.
        normalises = any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()
        )
        if normalises and self.batch_size < 2:
            raise UsageError(
                "train.batch_size: 1 is too small for a model with BatchNorm; set it to 2 or more"
            )
        sums: dict[str, float] = {}
        start = 0
        for number, batch in enumerate(self.source.batches(order, self.batch_size, self.epoch)):
            self._set_rate(self.epoch * self.steps_per_epoch + number)
            rows = torch.from_numpy(order[start : start + len(batch[0])]).to(self.device)
            start += len(rows)
            if len(rows) < 2 and normalises:
                continue
            terms = self._step(batch, rows)
            for key, value in terms.items():
                sums[key] = sums.get(key, 0.0) + float(value) * len(rows)
        # Every process has seen other pictures.
        self.group.average(b for b in model.buffers() if b.is_floating_point())
        if self.average is not None:
            self.group.average(v for v in self.average.values() if v.is_floating_point())
        means = {key: value / max(1, start) for key, value in sums.items()}
        if not all(math.isfinite(value) for value in means.values()):
            raise AesError(
                f"the loss is not finite after epoch {self.epoch + 1}; lower train.lr or set train.clip"
            )
        return means

    def _step(self, batch: list[Tensor], rows: Tensor) -> dict[str, Tensor]:
        # Not under autocast: a frozen part gives what the cached features hold.
        batch = self.source.states(self.model.encoder, batch)
        blend = None
        if self.config.mixup:
            blend = self._blender(self.objective.groups(rows))
            batch = [blend(state) for state in batch]
        with self._autocast():
            output = self.model.decode(self.model.encoder.upper(batch), **self.objective.given(rows))
        terms = self.objective(output, rows, blend, batch)
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        parameters = [p for g in self.optimiser.param_groups for p in g["params"]]
        self.group.average_gradients(parameters)
        if self.config.clip:
            nn.utils.clip_grad_norm_(parameters, self.config.clip)
        self.optimiser.step()
        if self.average is not None:
            # Early on the average must not remember the untrained weights.
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for key, value in self.model.state_dict(keep_vars=True).items():
                    if isinstance(value, nn.Parameter) and not value.requires_grad:
                        continue
                    if value.is_floating_point():
                        self.average[key].lerp_(value.detach(), 1 - decay)
                    else:
                        self.average[key].copy_(value)
        return {key: value.detach() for key, value in terms.items()}

    def _blender(self, group: Tensor) -> Callable[[Tensor], Tensor]:
        """Blends every sample with another one of its group; the larger share is its own."""
        alpha = self.config.mixup
        share = torch.distributions.Beta(alpha, alpha).sample((len(group),)).to(group.device)
        share = torch.maximum(share, 1 - share)
        partner = torch.arange(len(group), device=group.device)
        for g in group.unique():
            own = (group == g).nonzero().squeeze(1)
            partner[own] = own[torch.randperm(len(own)).to(own.device)]

        def blend(x: Tensor) -> Tensor:
            return x.lerp(x[partner], (1 - share).view(-1, *[1] * (x.dim() - 1)).to(x))

        return blend

    def _set_rate(self, step: int) -> None:
        self.step = step
        total = self.config.epochs * self.steps_per_epoch
        warm = int(self.config.warmup * total)
        factor = (
            (step + 1) / warm
            if step < warm
            else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
        )
        for group, rate in zip(self.optimiser.param_groups, self.base_rates, strict=True):
            floor = self.config.min_lr * rate / self.config.lr
            group["lr"] = floor + (rate - floor) * factor

    def _autocast(self):
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @torch.inference_mode()
    def predict(self, indices: Sequence[int], batch_size: int = 64) -> NamedTuple:
        """The model's answers to clean pictures, in the order of `indices`, as one output."""
        self.model.eval()
        encoder, indices = self.model.encoder, np.asarray(indices)

        def answers():
            start = 0
            for batch in self.source.batches(indices, batch_size, None):
                rows = torch.from_numpy(indices[start : start + len(batch[0])]).to(self.device)
                start += len(rows)
                levels = encoder.upper(self.source.states(encoder, batch))
                yield self.model.decode(levels, **self.objective.given(rows))

        return stack_outputs(answers())

    def _validate(self) -> dict[str, float]:
        """Validation figures; also keeps the weights when they are the best so far."""
        if not len(self.validation_indices):
            return {}
        current = _state(self.model)
        self.model.load_state_dict(self._averaged())
        record, quality = self.objective.judge(self.predict(self.validation_indices), self.validation_indices)
        if self.config.selection == "best" and quality > self.best:
            self.best, self.best_state = quality, _state(self.model)
        self.model.load_state_dict(current)
        return record

    def _averaged(self) -> dict[str, Tensor]:
        return self.average if self.average is not None else self.model.state_dict()

    def _save(self, record: dict[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "epoch": self.epoch,
            "best": self.best,
            "model": _state(self.model),
            "average": self.average,
            "best_state": self.best_state,
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": json.dumps(self.history),
        }
        staging = self.out / f"{STATE}.{os.getpid()}"
        torch.save(state, staging)
        os.replace(staging, self.out / STATE)
        with (self.out / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _load(self) -> None:
        path = self.out / STATE
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.objective.load_state_dict(state["objective"])
            self.optimiser.load_state_dict(state["optimiser"])
        except Exception as error:
            raise AesError(
                f"{path}: cannot be resumed ({error}); train without --resume or into another --out"
            ) from error
        self.average, self.best_state = state["average"], state["best_state"]
        self.epoch, self.best = state["epoch"], state["best"]
        self.history = json.loads(state["history"])


def depths_below_last(names: Iterable[str]) -> dict[str, int]:
    """How many blocks lie above each encoder parameter, by the order of names: 0 for the last block and what follows
    it, the number of all blocks for what comes before the first (stem, embeddings)."""
    seen: dict[str, int] = {}
    place = {}
    for name in names:
        if not name.startswith("encoder."):
            continue
        parts = name.split(".")
        if "blocks" in parts[:-1]:
            seen.setdefault(".".join(parts[: parts.index("blocks") + 2]), len(seen))
        place[name] = len(seen)
    return {name: len(seen) - number for name, number in place.items()}


def _freeze_statistics(encoder: nn.Module) -> None:
    """BatchNorms whose weights are frozen keep their statistics too."""
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
            module.eval()


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}
