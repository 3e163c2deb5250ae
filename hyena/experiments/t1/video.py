"""Smoke that is predicted frame by frame, from its own predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyena.data.flows import plumes
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, shuffled, sweeps
from hyena.experiments.t1.networks import Networks, kept, ratios, relative_errors
from hyena.experiments.t1.oneshot import AT_ONCE
from hyena.models.t1 import Spectral
from hyena.ops.dct import BASES, analyse, synthesise
from hyena.results import Result, Row
from hyena.train import Run

CONTEXT = 2
Frames = Float[Tensor, "count frames size size"]
Rolled = Float[Tensor, "count predicted size size"]


@dataclass(frozen=True)
class Plume(Networks):
    r"""Claim 3 at our scale: rising smoke of a simulator, two frames of context, `test_rollout` frames predicted.

    Every network adds to the last frame, $x_{t+1} = x_t + f(x_{t-1}, x_t)$, the first order of Section 5's
    configuration for T1, and trains on rollouts of `train_rollout` frames from everywhere in a film, with the mean
    relative L2 error; it is chosen, and tested, on the frames after the first two of other films. T1 goes on from
    coefficient to coefficient: one transform of the context for a whole rollout; what it does not keep stays as in the
    last frame of the context (its floor: `_floor`). Errors at each of `marks` are mean absolute error, symmetric mean
    absolute percentage error (of pixels that are above .01 in one of the two) and peak signal-to-noise ratio (peak 1),
    and of all frames the relative L2 error (`rollout`).
    """

    paper: ClassVar[str] = "t1"

    operators: tuple[str, ...] = ("t1", "t1_fourier", "t1u", "t1_as_long", "fno", "fno_as_short", "unet")
    size: int = 64
    frames: int = 16
    films: int = 64
    held_out_films: int = 20
    train_rollout: int = 3
    test_rollout: int = 10
    marks: tuple[int, ...] = (1, 3, 5, 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.frames - CONTEXT
        if max(self.train_rollout, self.test_rollout) > longest:
            raise HyenaError(
                f"films of {self.frames} frames hold rollouts of at most {longest} after {CONTEXT} of context; "
                f"got {self.train_rollout} to train and {self.test_rollout} to test"
            )
        if not 1 <= min(self.marks) <= max(self.marks) <= self.test_rollout:
            raise HyenaError(f"marks are frames of the rollout, 1 to {self.test_rollout}; got {self.marks}")
        windows = self.films * (longest - self.train_rollout + 1)
        if self.batch_size > windows:
            raise HyenaError(f"a batch of {self.batch_size} takes as many windows, {self.films} films have {windows}")

    def run(self, run: Run) -> Result:
        films = plumes(self.films + 2 * self.held_out_films, self.size, self.frames)
        parts = films.split([self.films, self.held_out_films, self.held_out_films])
        chosen = self.trials(run, partial(self._fit, parts, run))
        test = parts[2][:, : CONTEXT + self.test_rollout]
        seen, truth = test[:, :CONTEXT], test[:, CONTEXT:]
        found = {kind: [rollout(t.model, seen, self.test_rollout) for t in trials] for kind, trials in chosen.items()}
        found |= {name: [frames] for name, frames in untrained(parts[0], seen, truth, self.modes).items()}
        metrics: dict[str, list[float]] = {}
        table: list[Row] = []
        for kind, rolled in found.items():
            scores = [score(frames, truth, self.marks) for frames in rolled]
            metrics |= {f"{kind}_{key}": [s[key] for s in scores] for key in scores[0]}
            table.append({"model": kind, **scores[0]})
        last = {f"plume_{kind}": metrics[f"{kind}_mae_{self.marks[-1]}"] for kind in found}
        metrics |= ratios("plume", last, {kind: trials[0].score for kind, trials in chosen.items()})
        arrays = {f"{kind}_frames": rolled[0][0].numpy() for kind, rolled in found.items()}
        arrays |= {"truth_frames": truth[0].numpy(), "context_frames": seen[0].numpy()}
        tables = {"scores": table, "curves": rows(chosen, run.seed), "sweep": sweeps(chosen)}
        parameters = {kind: sum(p.numel() for p in trials[0].model.parameters()) for kind, trials in chosen.items()}
        parameters |= {f"{kind}_steps": self.n_steps(kind) for kind in chosen}
        return Result(metrics, parameters=parameters, tables=tables, arrays=arrays)

    def _fit(self, parts: tuple[Tensor, ...], run: Run, kind: str, lr: float, seed: int) -> Trial:
        network = self.network(kind, CONTEXT, 1, (self.size, self.size), seed)
        clips = parts[0].unfold(1, CONTEXT + self.train_rollout, 1).flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        loss = coefficient_loss if isinstance(network, Spectral) else grid_loss
        validate, test = (partial(rollout_error, film=film[:, : CONTEXT + self.test_rollout]) for film in parts[1:])
        batch = shuffled((clips.numpy(),), self.batch_size, seed)
        return self.trained(network, kind, lr, replace(run, seed=seed), "plume", batch, loss, validate, test)


def grid_loss(model: nn.Module, film: Frames) -> Float[Tensor, ""]:
    """The mean relative L2 error of the frames after the context."""
    seen, truth = film[:, :CONTEXT], film[:, CONTEXT:]
    return relative_errors(_on_grid(model, seen, truth.shape[1]), truth, 2).mean()


def coefficient_loss(model: Spectral, film: Frames) -> Float[Tensor, ""]:
    """The same where coefficients beyond the block stay 0, from coefficients alone (Parseval); these are a floor."""
    seen, truth = film[:, :CONTEXT], film[:, CONTEXT:]
    block = model.coefficients(truth)
    whole, inside = (part.flatten(2).square().sum(2) for part in (truth, block))
    found = _on_coefficients(model, model.coefficients(seen), truth.shape[1])
    wrong = (found - block).flatten(2).square().sum(2) + (whole - inside).clamp_min(0)
    return (wrong.sqrt() / whole.sqrt()).mean()


@torch.no_grad()
def rollout(model: nn.Module, seen: Frames, count: int) -> Rolled:
    """The frames after a context, each from the two before it."""
    model.eval()
    device = next(model.parameters()).device
    read = _through_coefficients if isinstance(model, Spectral) else _on_grid
    return torch.cat([read(model, part.to(device), count).cpu() for part in seen.split(AT_ONCE)])


def rollout_error(model: nn.Module, film: Frames) -> float:
    """The mean relative L2 error of all frames after the context."""
    truth = film[:, CONTEXT:]
    return float(relative_errors(rollout(model, film[:, :CONTEXT], truth.shape[1]), truth, 2).mean())


def _on_grid(model: nn.Module, seen: Frames, count: int) -> Rolled:
    frames = list(seen.unbind(1))
    for _ in range(count):
        frames.append(frames[-1] + model(torch.stack(frames[-CONTEXT:], 1))[:, 0])
    return torch.stack(frames[CONTEXT:], 1)


def _on_coefficients(model: Spectral, seen: Tensor, count: int) -> Float[Tensor, "batch predicted *modes"]:
    blocks = list(seen.unbind(1))
    for _ in range(count):
        blocks.append(blocks[-1] + model.mapped(model.lifted(torch.stack(blocks[-CONTEXT:], 1)))[:, 0])
    return torch.stack(blocks[CONTEXT:], 1)


def _through_coefficients(model: Spectral, seen: Frames, count: int) -> Rolled:
    """One transform of the context, one back of everything, and what was not kept of the last frame."""
    block = model.coefficients(seen)
    fixed = seen[:, -1:] - model.field(block[:, -1:], seen.shape[2:])
    return model.field(_on_coefficients(model, block, count), seen.shape[2:]) + fixed


def untrained(films: Tensor, seen: Tensor, truth: Rolled, modes: int) -> dict[str, Rolled]:
    """Rules without training: stay, go straight on, the mean film; and the best that a T1 of `modes` can do."""
    count = truth.shape[1]
    steps = torch.arange(1, count + 1)[:, None, None]
    found = {
        "persistence": seen[:, -1:].expand_as(truth),
        "straight_on": (seen[:, -1:] + steps * (seen[:, -1:] - seen[:, -2:-1])).clamp(0, 1),
        "mean_film": films[:, CONTEXT : CONTEXT + count].mean(0, keepdim=True).expand_as(truth),
    }
    for basis in BASES:
        cut = (kept(basis, modes),) * 2
        low = lambda x, cut=cut, basis=basis: synthesise(analyse(x, cut, basis), x.shape[2:], basis)  # noqa: E731
        found[f"{basis}_floor"] = low(truth) + seen[:, -1:] - low(seen[:, -1:])
    return found


def score(found: Frames, truth: Frames, marks: tuple[int, ...]) -> dict[str, float]:
    """The three errors of single frames, in the order of `marks`, and the relative L2 error of all."""
    scores = {"rollout": float(relative_errors(found, truth, 2).mean())}
    for mark in marks:
        a, b = found[:, mark - 1], truth[:, mark - 1]
        off, visible = (a - b).abs(), (a.abs() > 0.01) | (b.abs() > 0.01)
        scores[f"mae_{mark}"] = float(off.mean())
        scores[f"smape_{mark}"] = float((2 * off / (a.abs() + b.abs()).clamp_min(1e-12))[visible].mean())
        scores[f"psnr_{mark}"] = float(-10 * ((a - b) ** 2).flatten(1).mean(1).clamp_min(1e-12).log10().mean())
    return scores
