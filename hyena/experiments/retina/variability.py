"""Trials of a network with noise inside: how its spikes vary, by noise and by read-out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float, Int

from hyena.data.recordings import Part
from hyena.data.retina import DT
from hyena.errors import HyenaError
from hyena.experiments.comparison import rows, sweeps
from hyena.experiments.retina.circuitry import first_layer
from hyena.experiments.retina.fits import AT_ONCE, Fitted, data_of
from hyena.experiments.retina.scores import fano, pooled
from hyena.models.retina import CNN
from hyena.results import Result, Row
from hyena.train import Run

READ_OUTS = ("poisson", "one_at_most", "integrate")
SAME_RATE = 0.1  # relative change of the mean rate that noise may make
LONG = 20  # bins of 10 ms, the counts of 0.2 s in which the recordings were looked at
SHOWN = 500

Rates = Float[np.ndarray, "trials bins cells"]
Counts = Int[np.ndarray, "trials bins cells"]


@dataclass(frozen=True)
class Variability(Fitted):
    """Claim 6: variance of spike counts over their mean, of a CNN whose noise stays on, and of the retina.

    Rates of `repeats` trials, each with noise of its own before every ReLU, become spikes in three ways: Poisson
    counts, at most one spike a bin, or a spike whenever the sum of the rate reaches the next whole number. The noise
    of each is the one of `noises` whose Fano factor in counts of .2 s is nearest to the retina's in the first half of
    the test film, of those that leave the mean rate as it is within `SAME_RATE`; the second half is reported.
    `<read-out>_silent` is without noise, `<read-out>_trained` with that of training. Fano factors are means over bins
    with a mean count above .2; `..._long` are of counts in .2 s.
    """

    operators: tuple[str, ...] = ("cnn",)
    noises: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operators != ("cnn",):
            raise HyenaError(f'operators is ("cnn",) here, whose noise stays on; got {self.operators}')

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        tables: dict[str, list[Row]] = {"noise": [], "counts": [], "curves": [], "sweep": []}
        arrays = {}
        recordings = self.recordings()
        for name, recording in recordings.items():
            chosen = self.chosen(recording, run, self.operators)
            test = recording.test.counts[:, 0, recording.test.dropped :]
            early, late = halves(test)
            metrics |= {f"retina_fano_{name}": [fano(late)], f"retina_fano_long_{name}": [fano(pooled(late, LONG))]}
            wanted = fano(pooled(early, LONG))
            per_seed = [self._of_model(t.model, recording.test, wanted, run.seed) for t in chosen["cnn"]]
            for key in per_seed[0][0]:
                metrics[f"{key}_{name}"] = [found[key] for found, _, _ in per_seed]
            tables["noise"] += [{"stimulus": name, **row} for row in per_seed[0][1]]
            for kind, counts in {"retina": late, **per_seed[0][2]}.items():
                tables["counts"] += [{"stimulus": name, "of": kind, **row} for row in mean_and_variance(counts)]
                arrays[f"{name}_{kind}"] = counts[:, :SHOWN]
            metrics |= distances(metrics, name)
            tables["curves"] += rows(chosen, run.seed, trained=name)
            tables["sweep"] += sweeps(chosen, trained=name)
        return Result(
            metrics,
            data=data_of(recordings),
            tables=tables,
            arrays={k: v.astype(np.float32) for k, v in arrays.items()},
        )

    def _of_model(
        self, net: CNN, part: Part, wanted: float, seed: int
    ) -> tuple[dict[str, float], list[Row], dict[str, Counts]]:
        units = first_layer(net, part)
        tried: dict[str, list[tuple[Row, Counts]]] = {read_out: [] for read_out in READ_OUTS}
        for noise in sorted({0.0, self.noise, *self.noises}):
            rates = noisy_rates(net, units, noise, self.repeats, seed)
            for read_out in READ_OUTS:
                early, late = halves(spikes(rates, read_out, np.random.default_rng(seed)))
                row: Row = {
                    "read_out": read_out, "noise": noise, "rate": float(early.mean() / DT),
                    "fano_long_first_half": fano(pooled(early, LONG)), "fano": fano(late),
                    "fano_long": fano(pooled(late, LONG)),
                }  # fmt: skip
                tried[read_out].append((row, late))
        metrics, best = dict[str, float](), dict[str, Counts]()
        for read_out, found in tried.items():
            silent = found[0][0]
            same = [one for one in found if abs(one[0]["rate"] / max(silent["rate"], 1e-9) - 1) <= SAME_RATE]
            nearest, best[read_out] = min(same, key=lambda one: abs(one[0]["fano_long_first_half"] - wanted))
            metrics |= {f"{read_out}_{key}": nearest[key] for key in ("noise", "fano", "fano_long")}
            metrics |= {f"{read_out}_silent": silent["fano"], f"{read_out}_silent_long": silent["fano_long"]}
            metrics[f"{read_out}_trained"] = next(row["fano"] for row, _ in found if row["noise"] == self.noise)
        return metrics, [row for found in tried.values() for row, _ in found], best


def distances(metrics: dict[str, list[float]], stimulus: str) -> dict[str, list[float]]:
    """How far a model's Fano factors are from the retina's, and by how much noise brings that of .2 s nearer."""
    mean = {key: fmean(values) for key, values in metrics.items()}
    found = {}
    for read_out in READ_OUTS:
        retina, retina_long = mean[f"retina_fano_{stimulus}"], mean[f"retina_fano_long_{stimulus}"]
        with_noise = abs(mean[f"{read_out}_fano_long_{stimulus}"] - retina_long)
        silent = abs(mean[f"{read_out}_silent_long_{stimulus}"] - retina_long)
        found[f"{read_out}_from_retina_{stimulus}"] = [abs(mean[f"{read_out}_fano_{stimulus}"] - retina)]
        found[f"{read_out}_from_retina_long_{stimulus}"] = [with_noise]
        found[f"{read_out}_nearer_by_noise_{stimulus}"] = [silent - with_noise]
    return found


def halves(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In time."""
    middle = counts.shape[1] // 2
    return counts[:, :middle], counts[:, middle:]


@torch.no_grad()
def noisy_rates(net: CNN, units: Float[np.ndarray, "bins units"], noise: float, trials: int, seed: int) -> Rates:
    """Rates of trials with noise of this deviation before each ReLU."""
    z = torch.from_numpy(units).unflatten(1, net.grids[0])
    before, net.noise, net.noise_in_use = net.noise, noise, True
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parts = [[net.level * net.after_first(some) for some in z.split(AT_ONCE)] for _ in range(trials)]
    finally:
        net.noise, net.noise_in_use = before, False
    return torch.stack([torch.cat(part) for part in parts]).numpy()


def spikes(rates: Rates, read_out: str, rng: np.random.Generator) -> Counts:
    """Counts in bins; "integrate" starts every trial at a phase of its own."""
    expected = rates * DT
    if read_out == "poisson":
        return rng.poisson(expected)
    if read_out == "one_at_most":
        return (rng.random(expected.shape) < expected).astype(np.int64)
    total = np.floor(np.cumsum(expected, axis=1) + rng.random((len(rates), 1, rates.shape[2])))
    return np.diff(total, axis=1, prepend=0).astype(np.int64)


def mean_and_variance(counts: Counts) -> list[Row]:
    """Of counts of .2 s between trials, mean variance of those whose means are alike."""
    some = pooled(counts, LONG)
    mean, variance = some.mean(0).ravel(), some.var(0, ddof=1).ravel()
    edges = np.array([0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12])
    found = []
    for low, high in pairwise(edges):
        inside = (mean > low) & (mean <= high)
        if inside.sum() >= 5:
            found.append({"mean": float(mean[inside].mean()), "variance": float(variance[inside].mean())})
    return found
