"""Encoders side by side: trained on one stimulus, tested on both and on films."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from hyena.data.pixels import FILMS
from hyena.data.recordings import Part, shown, the_retina
from hyena.data.retina import DT, SETTLED, binned, spike_trains
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.retina.fits import SHORT, Fitted, data_of, predicted
from hyena.experiments.retina.scores import correlations, explained, reliability, smoothed
from hyena.models.lm import count_parameters
from hyena.models.retina import GLM
from hyena.results import Result, Row
from hyena.train import Run

LINEAR = ("ln", "ln_rbf")
SHOWN = 1000  # bins of responses that are kept for figures
FREE_TRIALS = 20  # of a GLM that runs on its own spikes
FILM_SECONDS = 10


@dataclass(frozen=True)
class Encoding(Fitted):
    """Claims 1 and 3: correlation with the mean response of the test trials, of encoders fitted to either stimulus.

    `<encoder>_<trained>_<tested>` is the mean over cells of Pearson's r with the trial-averaged rate, smoothed by
    10 ms; `ns` are photographs, `wn` white noise, and `film` two films, which nothing is fitted to. `..._fev` is the
    fraction of explainable variance, `reliability_ceiling_<tested>` what the true rate would have with that mean
    (`hyena.experiments.retina.scores.reliability`). A GLM runs freely on its own spikes; `glm_forced` is given those of
    the retina, trial by trial, which no other encoder sees. `ln_best` is the LN with the nonlinearity that does better
    on validation data.
    """

    def run(self, run: Run) -> Result:
        recordings = self.recordings()
        tests = {name: recording.test for name, recording in recordings.items()}
        if not self.recording:
            tests["film"] = film_part(self.repeats)
        metrics: dict[str, list[float]] = {}
        tables: dict[str, list[Row]] = {"cells": [], "curves": [], "sweep": []}
        arrays = {f"{name}_counts": part.counts[:, 0, part.dropped :][:, :SHOWN] for name, part in tests.items()}
        for name, part in tests.items():
            self._reliability(name, part, metrics, tables["cells"])
        parameters = {}
        for name, recording in recordings.items():
            chosen = self.chosen(recording, run, self.operators)
            for tested, part in tests.items():
                for kind, at_seeds in self._rates(chosen, part, run):
                    self._score(f"{kind}_{name}_{tested}", at_seeds, part, metrics, tables["cells"])
                    if tested == name:
                        arrays[f"{kind}_{name}_{tested}"] = at_seeds[0][:SHOWN]
            for kind, trials in chosen.items():
                parameters[kind] = count_parameters(trials[0].model)
            tables["curves"] += rows(chosen, run.seed, trained=name)
            tables["sweep"] += sweeps(chosen, trained=name)
        metrics |= contrasts(metrics)
        kept = {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()}
        return Result(metrics, parameters=parameters, data=data_of(recordings), tables=tables, arrays=kept)

    def _rates(self, chosen: dict[str, list[Trial]], part: Part, run: Run) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Rates of every encoder, one for each seed."""
        for kind, trials in chosen.items():
            rates = [predicted(trial.model, part, self.chunk(kind))[0] for trial in trials]
            yield "glm_forced" if kind == "glm" else kind, rates
            if kind == "glm":
                yield "glm", [free(trial.model, part, run.seed + i) for i, trial in enumerate(trials)]
            if kind == better_linear(chosen):
                yield "ln_best", rates

    def _score(
        self, name: str, at_seeds: list[np.ndarray], part: Part, metrics: dict[str, list[float]], cells: list[Row]
    ) -> None:
        counts = part.counts[:, 0, -len(at_seeds[0]) :]
        mean = smoothed(counts.mean(0) / DT)
        r = [correlations(rates, mean) for rates in at_seeds]
        fev = [explained(rates, counts) for rates in at_seeds]
        metrics[name] = [float(values.mean()) for values in r]
        metrics[f"{name}_fev"] = [float(values.mean()) for values in fev]
        kind, trained, tested = name.rsplit("_", 2)
        cells += [
            {
                "encoder": kind, "trained": trained, "tested": tested, "cell": cell,
                "r": fmean(float(v[cell]) for v in r), "fev": fmean(float(v[cell]) for v in fev),
            }
            for cell in range(len(r[0]))
        ]  # fmt: skip

    def _reliability(self, name: str, part: Part, metrics: dict[str, list[float]], cells: list[Row]) -> None:
        found = reliability(part.counts[:, 0, part.dropped :])
        for key, values in found.items():
            metrics[f"reliability_{key}_{name}"] = [float(values.mean())]
            cells += [
                {"encoder": f"reliability_{key}", "trained": "", "tested": name, "cell": i, "r": float(v), "fev": None}
                for i, v in enumerate(values)
            ]


def better_linear(chosen: dict[str, list[Trial]]) -> str:
    """The LN that does better on validation data; none if there is none."""
    return max((kind for kind in LINEAR if kind in chosen), key=lambda kind: chosen[kind][0].score, default="")


def contrasts(metrics: dict[str, list[float]]) -> dict[str, list[float]]:
    """Differences that claims are judged by, of means over seeds."""
    mean = {key: fmean(values) for key, values in metrics.items()}
    found = {}
    for name in SHORT.values():
        own = f"{name}_{name}"
        for rival in ("ln_best", "glm", "s4nd"):
            if {f"cnn_{own}", f"{rival}_{own}"} <= mean.keys():
                found[f"cnn_less_{rival}_{own}"] = [mean[f"cnn_{own}"] - mean[f"{rival}_{own}"]]
        if f"cnn_{own}" in mean:
            found[f"reliability_less_cnn_{name}"] = [mean[f"reliability_ceiling_{name}"] - mean[f"cnn_{own}"]]
    for trained, tested in (("ns", "wn"), ("wn", "ns")):
        ours, theirs = f"cnn_{trained}_{tested}", f"ln_best_{trained}_{tested}"
        if {ours, theirs} <= mean.keys():
            found[f"cnn_less_ln_best_{trained}_{tested}"] = [mean[ours] - mean[theirs]]
    return found


def film_part(repeats: int) -> Part:
    """Two films, ten seconds of each, as a test block of the simulated retina; other parts of them settle it."""
    rng = np.random.default_rng(3)
    bins = FILM_SECONDS * round(1 / DT)
    films = [(name, SETTLED // len(FILMS)) for name in FILMS] + [(name, bins) for name in FILMS]
    stimulus = np.concatenate([shown(name, "test", count, rng) for name, count in films], 1)
    rates = the_retina().respond(stimulus).repeat(repeats, axis=0)
    return Part(stimulus, binned(spike_trains(rates, rng))[:, None], SETTLED)


def free(model: GLM, part: Part, seed: int) -> np.ndarray:
    """Mean rate of trials on the model's own spikes."""
    film = torch.from_numpy(part.stimulus[:, max(0, part.dropped - model.lags + 1) :])
    return model.free(film, torch.Generator().manual_seed(seed), DT, FREE_TRIALS)[0].numpy()
