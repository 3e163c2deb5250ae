"""Contrast that goes up and down: what adapts in the circuit, in networks without memory and in those with some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import curve_fit

from hyena.data.recordings import Part, Recording, the_retina
from hyena.data.retina import DT, SETTLED, SIDE, Circuit, binned, spike_trains
from hyena.data.retina_stimuli import contrast_steps
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.retina.fits import Fitted, data_of, likelihood, pieces, responses
from hyena.experiments.retina.probes import ABLATIONS
from hyena.models.retina import Encoder
from hyena.models.retina_feedback import FeedbackCNN, OnFeatures
from hyena.models.retina_memory import LNK
from hyena.results import Result, Row
from hyena.train import Run

LOW, HIGH = 0.05, 0.35  # contrasts of the step
PHASE = 2000  # bins of each
SETTLES = 1.0  # seconds after a step that an exponential is not fitted to
SEEN = 0.03  # of the settled rate, by which a rate has to change for a time constant
LAGS = 40  # bins of the filter that a gain is read from
CELLS = (0, 1, 2, 3)  # off_fast and on, which adapt in the circuit
MEMORIES = ("lateral", "static", "lnk", "taught")
TAUGHT_BLOCKS = 6  # of 80 s of steps, the last one for validation
SPANS = {"low": (2, 10, 20), "high_first": (3, 0, 2), "high_late": (3, 10, 20)}  # phase, seconds from and to

Rates = Float[np.ndarray, "trials bins cells"]


@dataclass(frozen=True)
class ContrastAdaptation(Fitted):
    """Claim 7: rates after steps of contrast, of networks fitted to photographs alone.

    "lateral" divides the first layer of a fitted CNN by its own past around every place (`FeedbackCNN`), "static" is
    the same network without, trained on for as many steps; "lnk" is a filter and a pool that wears out. They see
    pieces of `memory_bins` after `warm` ones. "taught" is a control: "lateral", trained on steps of contrast instead
    of photographs. The step is full-field flicker, 5 to 35 to 5 %, 20 s each; every trial has the same flicker, begun
    at another place (`rolled`), so that a mean over trials sees all of it within every half second.

    For the mean of `CELLS`, `..._decay` is the rate at 1 to 2 s of high contrast over that at 15 to 20 s, less 1, and
    `..._undershoot` the rate at .5 to 1 s of low contrast over that at 15 to 20 s; `..._tau_high` and `..._tau_low` are
    time constants of exponentials from 1 s on, 0 where the rate changes by less than `SEEN`. The fast part shows in
    gain, not in rate: `..._gain_<span>` is the largest value of the filter between flicker and rate (spikes/s for a
    contrast of 1 through 10 ms), `..._centre_<span>` its centre of mass in milliseconds, at low contrast, in the first
    two seconds of high contrast, and later, means over cells; `..._fast` is the gain at low contrast over that in the
    first two seconds of high contrast.
    """

    operators: tuple[str, ...] = ("cnn",)
    kernels: tuple[int, ...] = (9, 5)
    memories: tuple[str, ...] = MEMORIES
    warm: int = 1000
    hold: int = 5
    memory_bins: int = 500
    memory_steps: int = 2000
    memory_batch: int = 8
    memory_lr: tuple[float, ...] = (0.015, 0.05, 0.15)
    flicker_trials: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.memories:
            if kind not in MEMORIES:
                raise unknown("memory", kind, MEMORIES)
        if self.recording:
            raise HyenaError("contrast_adaptation is compared with the simulated circuit; leave recording empty")
        if self.operators != ("cnn",):
            raise HyenaError(f'operators is ("cnn",) here, which memory is added to; got {self.operators}')

    def run(self, run: Run) -> Result:
        recordings = self.recordings()
        recording = recordings["ns"]
        chosen = self.chosen(recording, run, self.operators)
        for kind in self.memories:
            films = step_films(recording) if kind == "taught" else recording
            again = replace(self, lr=self.memory_lr)
            chosen[kind] = again.seeds(kind, run.seed, partial(again._remembering, films, run, chosen["cnn"]))
        flicker = rolled(self.flicker_trials, np.random.default_rng(5))
        metrics: dict[str, list[float]] = {}
        table: list[Row] = []
        arrays = {}
        for kind, of_seeds in self._rates(flicker, chosen).items():
            found = []
            for rates in of_seeds:
                some = rates[..., CELLS]
                found.append(adaptation(some.mean((0, 2))) | gains(some, flicker[..., 0, 0]))
            for key in found[0]:
                metrics[f"{kind}_{key}"] = [f[key] for f in found]
            table.append({"of": kind, **found[0]})
            arrays[kind] = by_tenths(of_seeds[0][..., CELLS].mean((0, 2)))
        for kind, of_kind in chosen.items():
            metrics[f"{kind}_likelihood"] = [trial.score for trial in of_kind]
        if {"lateral", "static"} <= chosen.keys():
            metrics["lateral_fast_over_static"] = [fmean(metrics["lateral_fast"]) / fmean(metrics["static_fast"])]
        if "lateral" in chosen:
            arrays["lateral_taus"] = chosen["lateral"][0].model.log_tau.detach().exp().numpy()
        tables = {"steps": table, "curves": rows(chosen, run.seed), "sweep": sweeps(chosen)}
        kept = {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()}
        return Result(metrics, data=data_of({"ns": recording}), tables=tables, arrays=kept)

    def _rates(self, flicker: np.ndarray, chosen: dict[str, list[Trial]]) -> dict[str, list[Rates]]:
        """Of the circuit, of the circuit without its slow and its fast state, and of every network and seed."""
        circuits = {"circuit": Circuit()}
        circuits |= {name: Circuit(**ABLATIONS[name]) for name in ("no_slow_state", "no_fast_gain")}
        found = {name: [the_retina().respond(flicker, circuit)] for name, circuit in circuits.items()}
        for kind, trials in chosen.items():
            found[kind] = [flickered(trial.model, flicker) for trial in trials]
        return found

    def _remembering(self, recording: Recording, run: Run, nets: list[Trial], kind: str, lr: float, seed: int) -> Trial:
        """All but "lnk" go on from the CNN that was fitted to photographs with the same seed, in its units."""
        train, valid = recording.train, recording.valid
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "lnk":
                cells, side = train.counts.shape[-1], train.stimulus.shape[-1]
                net = LNK(cells, side, self.lags, basis=self.basis, warm=self.warm)
                net.take_units(torch.from_numpy(train.stimulus), torch.from_numpy(train.counts[0] / DT).float())
            else:
                inner = self.network("cnn", train, seed)
                inner.load_state_dict(nets[seed - run.seed].model.state_dict())
                net = OnFeatures(FeedbackCNN(inner, self.warm, self.hold, lateral=kind != "static"))
                train, valid = (seen_once(net, part) for part in (train, valid))
        batch = partial(pieces, train, out=self.memory_bins, batch_size=self.memory_batch, seed=seed)
        trial = self.trained(
            net, batch, self.memory_steps, lr, replace(run, seed=seed),
            f"{recording.name} {recording.mark} {kind} lr {lr:g}",
            lambda model: likelihood(model, valid, valid.stimulus.shape[1]),
        )  # fmt: skip
        return trial if kind == "lnk" else trial._replace(model=trial.model.model)


def seen_once(net: OnFeatures, part: Part) -> Part:
    """What the first layer says in place of the film, block by block."""
    film = [net.stacked(torch.from_numpy(block[None])).numpy() for block in part.stimulus]
    return replace(part, stimulus=np.concatenate(film))


def rolled(trials: int, rng: np.random.Generator) -> Float[np.ndarray, "trials bins one one"]:
    """Steps of contrast with one flicker, which begins in each trial by a share of a phase later than in the last."""
    once = contrast_steps(LOW, HIGH, PHASE, 1, rng)[0].reshape(4, PHASE)
    found = [np.roll(once, trial * PHASE // trials, axis=1).reshape(-1, 1, 1) for trial in range(trials)]
    return np.stack(found)


def step_films(recording: Recording) -> Recording:
    """What the simulated retina says to other steps of contrast, in place of a recording's films."""
    rng = np.random.default_rng(6)
    flicker = contrast_steps(LOW, HIGH, PHASE, TAUGHT_BLOCKS, rng)
    counts = binned(spike_trains(the_retina().respond(flicker), rng))[None]
    film = np.tile(flicker, (SIDE, SIDE))
    train, valid = (Part(film[some], counts[:, some], SETTLED) for some in (slice(0, -1), slice(-1, None)))
    return replace(recording, name="steps", train=train, valid=valid)


def flickered(model: Encoder, flicker: np.ndarray) -> Rates:
    """Rates of every trial; bins before the first one are 0."""
    found = np.zeros((*flicker.shape[:2], model.cells))
    for trial, film in enumerate(flicker):
        found[trial, model.lags - 1 :] = responses(model, film[None])[0]
    return found


def adaptation(rate: Float[np.ndarray, " bins"]) -> dict[str, float]:
    """Measures of a rate through four phases, low, high, low, high, of which the last two count."""
    low, high = rate[2 * PHASE : 3 * PHASE], rate[3 * PHASE : 4 * PHASE]

    def mean(phase: np.ndarray, start: float, end: float) -> float:
        return float(phase[round(start / DT) : round(end / DT)].mean())

    late_high, late_low = mean(high, 15.0, 20.0), mean(low, 15.0, 20.0)
    return {
        "low_settled": late_low, "high_at_once": mean(high, 0.05, 0.15), "high_soon": mean(high, 0.3, 0.6),
        "high_1_2": mean(high, 1.0, 2.0), "high_settled": late_high, "low_at_once": mean(low, 0.2, 0.7),
        "low_soon": mean(low, 0.5, 1.0), "low_4_8": mean(low, 4.0, 8.0),
        "decay": mean(high, 1.0, 2.0) / max(late_high, 1e-6) - 1,
        "undershoot": mean(low, 0.5, 1.0) / max(late_low, 1e-6),
        "tau_high": time_constant(high), "tau_low": time_constant(low),
    }  # fmt: skip


def time_constant(phase: Float[np.ndarray, " bins"]) -> float:
    r"""Seconds of $a + b e^{-t/\tau}$, fitted to means of half a second from 1 s on; 0 if it does not change so.

    It changes if it does so, from the first of these means on, by more than `SEEN` of $a$ and than twice the deviation
    that is left, with $\tau$ within the phase.
    """
    width = round(0.5 / DT)
    means = phase[: len(phase) // width * width].reshape(-1, width).mean(1)
    t = (np.arange(len(means)) + 0.5) * 0.5
    t, y = t[t > SETTLES], means[t > SETTLES]

    def curve(t: np.ndarray, a: float, b: float, tau: float) -> np.ndarray:
        return a + b * np.exp(-t / tau)

    try:
        (a, b, tau), _ = curve_fit(
            curve, t, y, (y[-1], y[0] - y[-1], 5.0), bounds=((-1e4, -1e4, 0.5), (1e4, 1e4, 100.0))
        )
    except RuntimeError:  # no fit in as many steps as it takes
        return 0.0
    left, change = float((y - curve(t, a, b, tau)).std()), abs(b) * np.exp(-t[0] / tau)
    return float(tau) if tau < len(phase) * DT and change > max(SEEN * abs(a), 2 * left) else 0.0


def gains(rates: Float[np.ndarray, "trials bins cells"], flicker: Float[np.ndarray, "trials bins"]) -> dict[str, float]:
    """Largest value and centre of mass of the filter from flicker to rate, by reverse correlation, in `SPANS`.

    Means over the filters of the cells; a filter of mean rates would not do, since those of on and off cells cancel.
    """
    found = {}
    for name, (phase, start, end) in SPANS.items():
        bins = np.arange(phase * PHASE + round(start / DT), phase * PHASE + round(end / DT))
        bins = bins[bins >= phase * PHASE + LAGS]
        some = rates[:, bins] - rates[:, bins].mean((0, 1))
        light = [flicker[:, bins - lag, None] for lag in range(LAGS)]
        size = np.abs([(some * then).mean((0, 1)) for then in light]) / max(flicker[:, bins].var(), 1e-12)
        found[f"gain_{name}"] = float(size.max(0).mean())
        centres = (size * np.arange(LAGS)[:, None]).sum(0) / np.maximum(size.sum(0), 1e-12)
        found[f"centre_{name}"] = float(1000 * DT * centres.mean())
    return found | {"fast": found["gain_low"] / max(found["gain_high_first"], 1e-12)}


def by_tenths(rate: Float[np.ndarray, " bins"]) -> Float[np.ndarray, " tenths"]:
    """Means of tenths of a second, of the last three phases."""
    return rate[PHASE:].reshape(-1, 10).mean(1)
