"""The one training loop: from a batch as a function of the step to a trained model and its curve."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from hyena.errors import HyenaError, unknown
from hyena.paths import write_atomically

log = logging.getLogger(__name__)
Row = dict[str, float | int]


@dataclass(frozen=True)
class Run:
    """Where and how an experiment runs; nothing here changes what is computed on one machine but `seed`.

    Arguments:
        seed: of the first repetition; the others count up from it.
        device: "cpu" or "cuda".
        progress: show a bar with loss and remaining time.
        checkpoints: folder of the checkpoints, none if `None`; `save_every` is in seconds.
        fingerprint: of configuration and code; a checkpoint with another one is not resumed.
    """

    seed: int = 0
    device: str = "cpu"
    progress: bool = False
    checkpoints: Path | None = None
    save_every: float = 30.0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise HyenaError(f"seed must be at least 0, got {self.seed}")
        kind = self.device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise HyenaError(f"unknown device {self.device!r}: choose from cpu, cuda")
        if kind == "cuda" and not torch.cuda.is_available():
            raise HyenaError("device cuda was asked for, but this PyTorch sees no GPU; use --device cpu")


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up, a decay and gradient clipping.

    Arguments:
        steps: optimiser steps.
        lr, min_lr: peak and last learning rate; parameters with a rate of their own follow the same shape.
        warmup: steps of linear warm-up.
        schedule: "cosine", "linear" or "constant" after the warm-up.
        clip: largest gradient norm, none if 0.
        accumulate: parts in which a batch is processed.
        precision: "no" (float32) or "bf16".
        eval_every: steps between two rows of the curve.
    """

    steps: int
    lr: float
    min_lr: float = 0.0
    warmup: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    precision: Literal["no", "bf16"] = "no"
    eval_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "eval_every"):
            if getattr(self, name) < 1:
                raise HyenaError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise HyenaError(f"lr must be above 0, got {self.lr}")
        for name, allowed in (("schedule", ("cosine", "linear", "constant")), ("precision", ("no", "bf16"))):
            if getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)

    def factor(self, step: int) -> float:
        """The learning rate of a step as a fraction of the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        low = self.min_lr / self.lr
        shape = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[self.schedule]
        return low + (1 - low) * shape


@dataclass
class State:
    """How far a training has come; `losses` are those since the last row."""

    step: int = 0
    rows: list[Row] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    done: bool = False


class TrainingDiverged(HyenaError):
    """The loss became infinite or not a number."""


def train(
    model: nn.Module,
    batch: Callable[[int], tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    recipe: Recipe,
    run: Run,
    name: str,
    evaluate: Callable[[nn.Module], Row] = lambda model: {},
    stop: Callable[[Row], bool] = lambda row: False,
) -> list[Row]:
    """Train `model` in place and return its curve.

    Everything random is a function of seed and step, so a killed run resumes from its last checkpoint and ends
    with the same numbers; under `accelerate launch` each process takes its share of every batch.

    Arguments:
        batch: tensors of one step, the whole batch, first dimension examples.
        loss: called as `loss(model, *tensors)`, the mean over examples.
        name: of the training, in messages and as the checkpoint's file name.
        evaluate: numbers to add to each row of the curve.
        stop: ends the training early when true of a row.

    Raises:
        TrainingDiverged: the loss is not finite; names the step and the learning rate.
        HyenaError: the batch cannot be shared out evenly, or a checkpoint cannot be written.
    """
    accelerator = _accelerator(recipe, run)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), betas=recipe.betas, fused=True)
    path = run.checkpoints / f"{name}.safetensors" if run.checkpoints else None
    state = resume(path, model, optimizer, run.fingerprint) if path else State()
    if state.done:
        model.to(accelerator.device)
        return state.rows
    bare = model
    model, optimizer = accelerator.prepare(model, optimizer)
    bar = tqdm(
        total=recipe.steps, initial=state.step, desc=name, unit="step", leave=False,
        disable=not (run.progress and accelerator.is_main_process and _watched()),
    )  # fmt: skip
    saved = time.monotonic()
    try:
        with bar:
            if _row_is_due(state, recipe):  # interrupted while it was being measured
                _add_row(state, recipe, bare, evaluate)
            while not _finished(state, recipe, stop):
                value = _step(accelerator, model, optimizer, batch(state.step), loss, recipe, run, state.step)
                _record(state, value, recipe, name)
                bar.update()
                if _row_is_due(state, recipe):
                    _add_row(state, recipe, bare, evaluate)
                    bar.set_postfix({k: f"{v:.4g}" for k, v in state.rows[-1].items() if k not in ("step", "lr")})
                if path and accelerator.is_main_process and time.monotonic() - saved > run.save_every:
                    checkpoint(path, bare, optimizer, state, run.fingerprint)
                    saved = time.monotonic()
    except KeyboardInterrupt:
        if path and accelerator.is_main_process and not _amid_update(optimizer, state):
            checkpoint(path, bare, optimizer, state, run.fingerprint)
        raise
    state.done = True
    if path and accelerator.is_main_process:
        checkpoint(path, bare, optimizer, state, run.fingerprint)
    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # what is measured from here on is float32
    accelerator.free_memory()
    return state.rows


def is_main_process() -> bool:
    """Whether this process writes results: always, but under `accelerate launch` only the first."""
    return os.environ.get("RANK", "0") == "0"


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Optimiser groups; a parameter's `_optim` attribute overrides `lr` and `weight_decay` for it."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        own = getattr(parameter, "_optim", {})
        key = (own.get("lr", recipe.lr), own.get("weight_decay", recipe.weight_decay))
        groups.setdefault(key, []).append(parameter)
    return [{"params": some, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), some in groups.items()]


def checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, mark: str) -> None:
    """Write parameters, buffers, optimiser moments and the curve to one safetensors file, atomically.

    A finished training keeps no moments.
    """
    tensors = dict(_tensors(model))
    if not state.done:
        for name, parameter in model.named_parameters():
            moments = optimizer.state.get(parameter, {})
            tensors |= {f"{key}/{name}": value for key, value in moments.items()}
    about = {"training": json.dumps({"state": vars(state), "fingerprint": mark})}  # one key: safetensors orders none
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, metadata=about))


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, mark: str) -> State:
    """Load what `checkpoint` wrote into `model` and `optimizer`; a fresh state if there is nothing to resume.

    A damaged file, or one of another configuration or code, is not used and not deleted until overwritten.
    """
    if not path.exists():
        return State()
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads(stored.metadata()["training"])
            if about["fingerprint"] != mark:
                log.info("%s belongs to another configuration or code: training starts anew", path)
                return State()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("checkpoint %s is damaged (%s): training starts anew", path, error)
        return State()
    with torch.no_grad():
        for name, tensor in _tensors(model):
            tensor.copy_(tensors.pop(name))
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        key, _, owner = name.partition("/")
        optimizer.state[parameters[owner]][key] = tensor.to(parameters[owner].device if key != "step" else "cpu")
    return State(**about["state"])


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]  # each shared tensor once


def _accelerator(recipe: Recipe, run: Run) -> Accelerator:
    AcceleratorState._reset_state()  # one process trains in several precisions, one after the other
    return Accelerator(
        cpu=run.device == "cpu",
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.accumulate,
    )


def _step(
    accelerator: Accelerator, model: nn.Module, optimizer, batch: tuple[Tensor, ...], loss, recipe: Recipe, run: Run,
    step: int,
) -> float:  # fmt: skip
    """One optimiser step on this process's share of the batch; the mean loss of all processes."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * recipe.factor(step)
    model.train()
    total = torch.zeros((), device=accelerator.device)
    with torch.random.fork_rng():
        torch.manual_seed(hash((run.seed, step, accelerator.process_index)))  # dropout
        for part in _shares(batch, accelerator, recipe.accumulate):
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    value = loss(model, *part)
                accelerator.backward(value)
                if recipe.clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
                optimizer.step()
                optimizer.zero_grad()
            total += value.detach().float() / recipe.accumulate
    return accelerator.reduce(total, "mean").item()


def _shares(batch: tuple[Tensor, ...], accelerator: Accelerator, parts: int) -> list[tuple[Tensor, ...]]:
    count, processes = len(batch[0]), accelerator.num_processes
    if count % (processes * parts):
        raise HyenaError(
            f"a batch of {count} cannot be shared by {processes} processes in {parts} parts each; "
            f"choose a batch size that {processes * parts} divides"
        )
    mine = [t[accelerator.process_index :: processes].to(accelerator.device) for t in batch]
    return list(zip(*(t.chunk(parts) for t in mine), strict=True))


def _record(state: State, value: float, recipe: Recipe, name: str) -> None:
    if not math.isfinite(value):
        rate = recipe.lr * recipe.factor(state.step)
        raise TrainingDiverged(
            f"{name}: the loss is {value} at step {state.step} (learning rate {rate:.3g}); "
            "try a smaller lr, a longer warm-up or clipping"
        )
    state.step += 1
    state.losses.append(value)


def _add_row(state: State, recipe: Recipe, model: nn.Module, evaluate) -> None:
    model.eval()
    with torch.no_grad():
        measured = evaluate(model)
    mean = sum(state.losses) / len(state.losses)
    rate = recipe.lr * recipe.factor(state.step - 1)
    state.rows.append({"step": state.step, "lr": rate, "loss": mean, **measured})
    state.losses = []


def _row_is_due(state: State, recipe: Recipe) -> bool:
    return bool(state.losses) and (state.step % recipe.eval_every == 0 or state.step == recipe.steps)


def _finished(state: State, recipe: Recipe, stop: Callable[[Row], bool]) -> bool:
    measured = bool(state.rows) and state.rows[-1]["step"] == state.step
    return state.step >= recipe.steps or (measured and stop(state.rows[-1]))


def _amid_update(optimizer: torch.optim.Optimizer, state: State) -> bool:
    """Whether the optimiser has gone, partly or wholly, beyond the step that `state` has counted."""
    return any(moments["step"] > state.step for moments in optimizer.state.values())
