"""What the experiments on the retina share: which encoders, how one is fitted to a recording, and what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyena.data.recordings import STIMULI, Part, Recording, Session, load_recording, simulated_recording
from hyena.data.retina import DT
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Trial
from hyena.experiments.spacetime.seeds import EverySeed
from hyena.models.retina import CNN, GLM, LN, Encoder
from hyena.models.retina_memory import S4NDEncoder
from hyena.source import closure, digest
from hyena.train import Row, Run, TrainingDiverged, train

ENCODERS = ("ln", "ln_rbf", "glm", "cnn", "s4nd")
SHORT = {"naturalscene": "ns", "whitenoise": "wn"}
AT_ONCE = 1000  # windows that are read together where no gradient is asked for
CUT_OUT = 11  # pixels on either side of a cell that its LN and GLM see, on patches that are larger (Section 3)
ALL = ("lags", "basis", "steps", "warmup", "evaluations", "batch_size", "weight_decay", "accumulate", "precision")
OWN = {  # fields that a fit depends on, beside those of all
    "cnn": ("channels", "kernels", "norm", "momentum", "noise"),
    "glm": ("history", "history_basis"),
    "s4nd": ("d_model", "n_layer", "d_state", "sequence"),
}


@dataclass(frozen=True)
class Fitted(EverySeed):
    """Fields of the recording, of the encoders, and of their training.

    Defaults are those of the released network (Section 3) and need a `recording` of 50 x 50 pixels. Other than there,
    the rate falls by a cosine instead of at plateaus, weights decay apart from the gradient, the target is the counts
    and not a smoothed rate, and all encoders get as many steps, of `batch_size` windows; S4ND gets pieces of
    `sequence` bins, which have as many rates together. Fits are kept in one place for all experiments on the retina: a
    fit to the same data with the same settings is made once.

    Arguments:
        recording: a folder with recordings in the public layout; the simulated retina if empty.
        seconds, block_seconds, test_seconds, repeats: of the simulation, for each stimulus.
        lags: bins that an encoder looks back; `basis` sums over them stand for single frames, 0 for frames.
        channels, kernels, norm, momentum, noise: of the CNN.
        history, history_basis: bins that the GLM remembers its spikes, and sums over them.
        d_model, n_layer, d_state, sequence: of S4ND.
    """

    paper: ClassVar[str] = "retina"
    may_be_zero: ClassVar[tuple[str, ...]] = ("warmup", "basis", "history_basis")

    operators: tuple[str, ...] = ENCODERS
    recording: str = ""
    seconds: int = 1800
    block_seconds: int = 60
    test_seconds: int = 60
    repeats: int = 20
    lags: int = 40
    basis: int = 0
    channels: tuple[int, ...] = (8, 8)
    kernels: tuple[int, ...] = (15, 11)
    norm: str = "unit"
    momentum: float = 0.01
    noise: float = 0.05
    history: int = 40
    history_basis: int = 8
    d_model: int = 8
    n_layer: int = 2
    d_state: int = 16
    sequence: int = 100
    steps: int = 18_000
    warmup: int = 0
    evaluations: int = 10
    batch_size: int = 5000
    lr: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.operators:
            if kind not in ENCODERS:
                raise unknown("encoder", kind, ENCODERS)
        if self.seconds % self.block_seconds:
            raise HyenaError(f"seconds is a multiple of block_seconds, {self.block_seconds}; got {self.seconds}")
        if self.repeats < 2:
            raise HyenaError(f"repeats must be at least 2, for two halves of the trials; got {self.repeats}")

    def recordings(self) -> dict[str, Recording]:
        """By stimulus, "ns" and "wn"."""
        if self.recording:
            return {SHORT[kind]: load_recording(Path(self.recording) / f"{kind}.h5") for kind in STIMULI}
        per_second = round(1 / DT)
        blocks, block = self.seconds // self.block_seconds, self.block_seconds * per_second
        session = Session(blocks, block, self.test_seconds * per_second, self.repeats)
        return {SHORT[kind]: load_recording(simulated_recording(kind, session)) for kind in STIMULI}

    def network(self, kind: str, part: Part, seed: int) -> Encoder:
        """An untrained encoder for the cells of a recording, in units of its stimulus."""
        cells, side = part.counts.shape[-1], part.stimulus.shape[-1]
        linear = {"basis": self.basis, "centres": centres(part, self.lags) if side > 2 * CUT_OUT + 1 else None}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "cnn":
                net = CNN(
                    cells, side, self.lags, self.channels, self.kernels, basis=self.basis, norm=self.norm,
                    momentum=self.momentum, noise=self.noise,
                )  # fmt: skip
            elif kind == "glm":
                history = {"history": self.history, "history_basis": self.history_basis}
                net = GLM(cells, side, self.lags, output="softplus", **history, **linear)
            elif kind == "s4nd":
                options = {"d_model": self.d_model, "n_layer": self.n_layer, "d_state": self.d_state}
                net = S4NDEncoder(cells, side, self.lags, self.lags - 1 + self.sequence, **options)
            else:
                net = LN(cells, side, self.lags, output="rbf" if kind == "ln_rbf" else "softplus", **linear)
        net.take_units(torch.from_numpy(part.stimulus), torch.from_numpy(part.counts[0] / DT).float())
        return net

    def fit(self, recording: Recording, run: Run, kind: str, lr: float, seed: int) -> Trial:
        """Fit one encoder by its Poisson likelihood; its score is that of the validation block."""
        out = self.sequence if kind == "s4nd" else 1
        batch = partial(pieces, recording.train, out=out, batch_size=max(1, self.batch_size // out), seed=seed)
        settings = json.dumps({field: getattr(self, field) for field in (*ALL, *OWN.get(kind, ()))})
        data = f"{recording.name} {recording.mark} {len(recording.train.stimulus)} blocks"
        return self.trained(
            self.network(kind, recording.train, seed), batch, self.steps, lr, replace(shared(run), seed=seed),
            f"{data} {kind} {digest(settings)[:8]} lr {lr:g}",
            lambda model: likelihood(model, recording.valid, self.chunk(kind)),
        )  # fmt: skip

    def trained(
        self, net: Encoder, batch: Callable, steps: int, lr: float, run: Run, name: str,
        validate: Callable[[nn.Module], float],
    ) -> Trial:  # fmt: skip
        """One training; its encoder comes back on the processor. One that diverges is worse than any other."""

        def evaluate(model: nn.Module) -> Row:
            return {"likelihood": validate(model)}

        recipe = self.recipe(steps, self.warmup, lr, max(1, steps // self.evaluations))
        loss = forced_loss if isinstance(net, GLM) else free_loss
        try:
            curve = train(net, batch(lags=net.lags), loss, recipe, run, f"{name} seed {run.seed}", evaluate=evaluate)
        except TrainingDiverged:
            return Trial(lr, -math.inf, math.nan, net, [])
        score = curve[-1]["likelihood"]
        return Trial(lr, score if math.isfinite(score) else -math.inf, score, net.cpu().eval(), curve)

    def chunk(self, kind: str) -> int:
        """Rates that an encoder gives at once."""
        return self.sequence if kind == "s4nd" else AT_ONCE

    def chosen(self, recording: Recording, run: Run, kinds: tuple[str, ...]) -> dict[str, list[Trial]]:
        """Every encoder at its best rate, one for each seed."""
        return {kind: self.seeds(kind, run.seed, partial(self.fit, recording, run)) for kind in kinds}

    def seeds(self, kind: str, seed: int, fit: Callable) -> list[Trial]:
        """At the best rate, from every seed.

        Raises:
            TrainingDiverged: at every rate, or from a later seed.
        """
        found = self.from_every_seed(kind, seed, fit)
        if not all(math.isfinite(trial.score) for trial in found):
            raise TrainingDiverged(f"{kind}: the loss was not finite at the rate of {found[0].lr:g}; try smaller ones")
        return found


def shared(run: Run) -> Run:
    """The same run, with checkpoints where all experiments on the retina find them."""
    folder = run.checkpoints.parent / "fits" if run.checkpoints else None
    return replace(run, checkpoints=folder, fingerprint=f"{code()} {run.device}")


@cache
def code() -> str:
    """A digest of the code that fits run."""
    return digest(closure(Path(__file__)))


def data_of(recordings: dict[str, Recording]) -> dict[str, str]:
    """Hashes of the files that recordings come from."""
    return {key: value for recording in recordings.values() for key, value in recording.data.items()}


def centres(part: Part, lags: int) -> list[tuple[int, int]]:
    """Row and column of every cell: where the mean film before its spikes varies most over time."""
    film = part.stimulus - part.stimulus.mean((0, 1))
    found = []
    for cell in range(part.counts.shape[-1]):
        spikes = part.counts[0, :, lags:, cell].astype(np.float32)
        means = [np.tensordot(spikes, film[:, lags - ago : film.shape[1] - ago], 2) for ago in range(lags)]
        found.append(tuple(int(i) for i in np.unravel_index(np.var(means, 0).argmax(), film.shape[2:])))
    return found


def pieces(part: Part, *, lags: int, out: int, batch_size: int, seed: int) -> Callable[[int], tuple[Tensor, ...]]:
    """Of every step: pieces of film with `out` rates to predict, their spikes bin for bin, and rates in spikes/s.

    Pieces do not overlap in what is predicted, and come in an order drawn from seed and epoch.

    Raises:
        HyenaError: a block is shorter than a piece, or a batch takes more pieces than there are.
    """
    film, counts = torch.from_numpy(part.stimulus), torch.from_numpy(part.counts[0]).float()
    first = max(part.dropped, lags - 1)
    starts = torch.arange(first, max(first, film.shape[1] - out + 1), out)
    every = torch.cartesian_prod(torch.arange(len(film)), starts)
    if len(every) < batch_size:
        raise HyenaError(
            f"a batch takes {batch_size} pieces of {lags - 1 + out} bins, the training part has {len(every)}; "
            "record for longer, or lower batch_size"
        )
    span, per_epoch = torch.arange(1 - lags, out), len(every) // batch_size

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(every)))

    def batch(step: int) -> tuple[Tensor, ...]:
        epoch, i = divmod(step, per_epoch)
        block, start = every[order(epoch)[i * batch_size : (i + 1) * batch_size]].T
        bins = start[:, None] + span
        some = counts[block[:, None], bins]
        return film[block[:, None], bins], some, some[:, lags - 1 :] / DT

    return batch


def poisson(rates: Tensor, wanted: Tensor) -> Tensor:
    """The Poisson loss of rates in spikes per second, up to what does not depend on them."""
    return (rates - wanted * torch.log(rates + 1e-6)).mean()


def free_loss(model: Encoder, film: Tensor, spikes: Tensor, wanted: Tensor) -> Tensor:
    """From the film alone."""
    return poisson(model(film), wanted)


def forced_loss(model: GLM, film: Tensor, spikes: Tensor, wanted: Tensor) -> Tensor:
    """From film and spikes before."""
    return poisson(model(film, spikes), wanted)


@torch.no_grad()
def predicted(model: nn.Module, part: Part, chunk: int = AT_ONCE) -> Float[np.ndarray, "blocks out cells"]:
    """Rates in every bin that counts; of a GLM, the mean over trials of what it says given their spikes."""
    model.eval()
    device, first = next(model.parameters()).device, max(part.dropped, model.lags - 1)
    found = []
    for block, film in enumerate(part.stimulus):
        rates = []
        for start in range(first, len(film), chunk):
            some = slice(start - model.lags + 1, start + chunk)
            seen = (torch.from_numpy(film[None, some]).to(device),)
            if isinstance(model, GLM):
                seen += (torch.from_numpy(part.counts[:, block, some]).float().to(device),)
            rates.append(model(*seen).mean(0).cpu())
        found.append(torch.cat(rates))
    return torch.stack(found).numpy()


def likelihood(model: nn.Module, part: Part, chunk: int) -> float:
    """Mean over bins and cells, higher is better."""
    rates = predicted(model, part, chunk)
    wanted = part.counts[0][:, -rates.shape[1] :] / DT
    return -float(poisson(torch.from_numpy(rates), torch.from_numpy(wanted)))


@torch.no_grad()
def responses(model: Encoder, films: Float[np.ndarray, "films bins _ _"]) -> Float[np.ndarray, "films out cells"]:
    """Rates by probes; those of one pixel are the same everywhere. The first rate is that of bin `lags - 1`."""
    wide = np.broadcast_to(films, (*films.shape[:2], model.side, model.side))
    return np.concatenate([model(torch.from_numpy(np.array(film[None]))).numpy() for film in wide])
