"""Four phenomena in circuit and models, what makes them in a fitted network, and whether that is what makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np
import torch

import hyena.experiments.retina.circuitry as circuitry  # by module: the package imports every experiment
import hyena.experiments.retina.probes as probes
from hyena.data.recordings import Recording, the_retina
from hyena.data.retina import DT, SETTLED, SIDE, Circuit, Retina, interneurons
from hyena.data.retina_stimuli import flashes, moving_bar, reversed_sweep, step
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.retina.fits import Fitted, data_of, pieces, responses
from hyena.experiments.retina.scores import correlations
from hyena.models.attribution import Attribution, attributed, fewest, kept_variance, summed, with_channels
from hyena.models.retina import CNN, Encoder
from hyena.results import Result, Row
from hyena.train import Run

FLASHERS, MOVERS = [6, 7], [0, 1]  # osr and off_fast cells
ATTRIBUTED_PERIOD = 10
SHARE, FEW = 0.9, 4  # of the variance, by so many channels at most
BIPOLAR, AMACRINE = ("bipolar_off", "bipolar_on"), ("amacrine_off", "amacrine_on", "amacrine_wide")
SLOW_SECONDS = 60
CALIBRATED = 10  # batches that give an untrained network its running means


@dataclass(frozen=True)
class Mechanisms(Fitted):
    """Claims 5, 8 to 11: phenomena, their attribution to channels, interneurons and inhibition, in simulation alone.

    Subjects of the phenomena are the circuit, the circuit without each of its parts, CNN and LN (with a learned
    nonlinearity) fitted to either stimulus, and an untrained CNN. `<subject>_<phenomenon>_holds` is 1 if the criterion
    holds (`CRITERIA`). Attribution is of the CNN fitted to photographs, to each phenomenon's stimulus; `kept_<k>_...`
    is the share of the variance of the response that the k first channels keep, "masked" with the others at rest,
    "summed" as what is attributed to them. `..._agreement` is the correlation of what channels of one polarity add to
    the rate with what cells of that polarity add to it in the circuit. `recovered_<subject>_<stimulus>_<layer>` is the
    correlation of interneurons with the units that follow them best.
    """

    operators: tuple[str, ...] = ("cnn", "ln_rbf")
    kernels: tuple[int, ...] = (9, 5)
    attribution_steps: int = 1500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recording:
            raise HyenaError("mechanisms are checked on cells that only the simulation knows; leave recording empty")
        if "cnn" not in self.operators:
            raise HyenaError('operators takes "cnn", whose channels are looked into')

    def run(self, run: Run) -> Result:
        retina, recordings = the_retina(), self.recordings()
        chosen = {name: self.chosen(recording, run, self.operators) for name, recording in recordings.items()}
        fitted = {f"{kind}_{name}": trials for name, found in chosen.items() for kind, trials in found.items()}
        fitted["untrained"] = self._untrained(recordings["ns"], run)
        metrics: dict[str, list[float]] = {}
        names = ("phenomena", "responses", "attribution", "recovery", "widths")
        tables: dict[str, list[Row]] = {name: [] for name in names}
        self._phenomena(retina, fitted, metrics, tables)
        arrays = self._attribution(retina, fitted, metrics, tables["attribution"])
        self._recovery(recordings, fitted, metrics, tables["recovery"])
        self._inhibition(retina, fitted, metrics, tables["widths"])
        tables["curves"] = [row for name in chosen for row in rows(chosen[name], run.seed, trained=name)]
        tables["sweep"] = [row for name in chosen for row in sweeps(chosen[name], trained=name)]
        return Result(
            metrics,
            data=data_of(recordings),
            tables=tables,
            arrays={k: np.asarray(v, dtype=np.float32) for k, v in arrays.items()},
        )

    def _untrained(self, recording: Recording, run: Run) -> list[Trial]:
        """With the running means of films that it has seen, as the others have them."""
        nets = [self.network("cnn", recording.train, 1000 + seed) for seed in range(run.seed, run.seed + self.n_seeds)]
        batch = pieces(recording.train, lags=self.lags, out=1, batch_size=self.batch_size, seed=run.seed)
        for net in nets:
            calibrate(net, [batch(i)[0] for i in range(CALIBRATED)])
        return [Trial(0.0, 0.0, 0.0, net.eval(), []) for net in nets]

    def _phenomena(
        self, retina: Retina, fitted: dict[str, list[Trial]], metrics: dict[str, list[float]],
        tables: dict[str, list[Row]],
    ) -> None:  # fmt: skip
        subjects: dict[str, list[probes.Respond]] = {"circuit": [retina.respond]}
        for name, change in probes.ABLATIONS.items():
            subjects[name] = [partial(retina.respond, circuit=Circuit(**change))]
        subjects |= {name: [reader(trial.model) for trial in trials] for name, trials in fitted.items()}
        columns = {cell: float(retina.centres[cell, 1]) for cell in MOVERS}
        for subject, readers in subjects.items():
            found = [phenomena(respond, columns) for respond in readers]
            for name in found[0]:
                for key in found[0][name][1]:
                    metrics[f"{subject}_{name}_{key}"] = [f[name][1][key] for f in found]
                if name in CRITERIA:
                    metrics[f"{subject}_{name}_holds"] = [float(CRITERIA[name](f[name][1])) for f in found]
                summary = {key: fmean(f[name][1][key] for f in found) for key in found[0][name][1]}
                tables["phenomena"] += [
                    {"subject": subject, "phenomenon": name, "measure": key, "value": value}
                    for key, value in summary.items()
                ]
                tables["responses"] += [
                    {"subject": subject, "phenomenon": name, "row": i, "measure": key, "value": value}
                    for i, row in enumerate(found[0][name][0])
                    for key, value in row.items()
                ]

    def _attribution(
        self, retina: Retina, fitted: dict[str, list[Trial]], metrics: dict[str, list[float]], table: list[Row]
    ) -> dict[str, np.ndarray]:
        arrays = {}
        for name, (film, cell) in attributed_stimuli(float(retina.centres[MOVERS[0], 1])).items():
            arrays[f"{name}_film"] = film[0, :, SIDE // 2]
            arrays[f"{name}_circuit"] = retina.respond(film)[0, :, cell]
            paths = circuitry.pathways(retina, interneurons(film, Circuit()), cell)
            paths = circuitry.contributions(retina, paths, cell, probes.LEAD - 1)
            for subject in ("cnn_ns", "cnn_wn", "untrained"):
                found = [
                    self._explained(trial.model, film, cell, paths, f"{subject}_{name}") for trial in fitted[subject]
                ]
                for key in found[0][0]:
                    metrics[key] = [metric[key] for metric, _ in found]
                net, first = fitted[subject][0].model, found[0][1]
                arrays[f"{subject}_{name}_channels"] = first.channels.numpy()
                arrays[f"{subject}_{name}_response"] = first.response.numpy()
                about = {"subject": subject, "phenomenon": name}
                table += [about | row for row in by_rank(net, torch.from_numpy(film), cell, first)]
        summaries = {
            f"kept_{FEW}_masked": min, f"kept_{FEW}_summed": min, "fewest_masked": max, "incompleteness": max,
            "agreement": min,
        }  # fmt: skip
        for name, pick in summaries.items():  # the worst over stimuli
            of = [values for key, values in metrics.items() if key.startswith("cnn_ns_") and key.endswith(f"_{name}")]
            metrics[name] = [pick(values) for values in zip(*of, strict=True)]
        return arrays

    def _explained(
        self, net: CNN, film: np.ndarray, cell: int, paths: dict[str, np.ndarray], name: str
    ) -> tuple[dict[str, float], Attribution]:
        """Of one network and stimulus: how complete, how few channels, and how far polarities add what pathways add."""
        tensor = torch.from_numpy(film)
        found = attributed(net, tensor, cell, self.attribution_steps)
        reduced: dict[str, Callable[[list[int]], torch.Tensor]] = {
            "masked": lambda kept: with_channels(net, tensor, kept)[:, cell],
            "summed": partial(summed, found),
        }
        metrics = {f"{name}_incompleteness": found.incompleteness}
        for how, response in reduced.items():
            metrics[f"{name}_kept_{FEW}_{how}"] = kept_variance(response(found.ranked()[:FEW]), found.response)
            metrics[f"{name}_fewest_{how}"] = float(fewest(found, SHARE, response))
        polarity = np.array(circuitry.polarities(net))
        for sign, path in paths.items():
            ours = found.channels[:, polarity == sign].sum(1).numpy()
            theirs = path[net.lags - 1 :]
            metrics[f"{name}_{sign}_agreement"] = float(correlations(ours[:, None], theirs[:, None])[0])
        return metrics, found

    def _recovery(
        self, recordings: dict[str, Recording], fitted: dict[str, list[Trial]], metrics: dict[str, list[float]],
        table: list[Row],
    ) -> None:  # fmt: skip
        for tested, recording in recordings.items():
            for subject in ("cnn_ns", "cnn_wn", "untrained"):
                found = [
                    circuitry.recovered(
                        circuitry.first_layer(trial.model, recording.test), recording.truth, recording.test.dropped
                    )
                    for trial in fitted[subject]
                ]
                for layer in found[0]:
                    values = [f[layer] for f in found]
                    metrics[f"recovered_{subject}_{tested}_{layer}"] = values
                    table.append({"subject": subject, "tested": tested, "layer": layer, "r": fmean(values)})
                for group, layers in (("bipolar", BIPOLAR), ("amacrine", AMACRINE)):
                    of = [metrics[f"recovered_{subject}_{tested}_{layer}"] for layer in layers]
                    metrics[f"recovered_{subject}_{tested}_{group}"] = [fmean(v) for v in zip(*of, strict=True)]
            for group in ("bipolar", "amacrine"):
                mean = {s: fmean(metrics[f"recovered_{s}_{tested}_{group}"]) for s in ("cnn_ns", "cnn_wn", "untrained")}
                for control in ("untrained", "cnn_wn"):
                    metrics[f"recovered_more_than_{control}_{tested}_{group}"] = [mean["cnn_ns"] - mean[control]]

    def _inhibition(
        self, retina: Retina, fitted: dict[str, list[Trial]], metrics: dict[str, list[float]], table: list[Row]
    ) -> None:
        film = circuitry.slow_flicker(SETTLED + SLOW_SECONDS * round(1 / DT), seed=4)
        widths = {"circuit": [circuitry.circuit_sharpness(retina, film)]}
        widths |= {s: [circuitry.sharpness(t.model, film) for t in fitted[s]] for s in ("cnn_ns", "cnn_wn")}
        for subject, found in widths.items():
            table += [
                {
                    "subject": subject, "cell": i, "type": retina.types[i], "whole_ms": fmean(w[i] for w, _ in found),
                    "without_ms": fmean(o[i] for _, o in found),
                }
                for i in range(len(retina.types))
            ]  # fmt: skip
            metrics[f"width_ratio_{subject}"] = [float(np.median(w / o)) for w, o in found]


def by_rank(net: CNN, film: torch.Tensor, cell: int, found: Attribution) -> list[Row]:
    """Channels from the greatest to the least, and what is kept of the response with those so far."""
    ranked, polarity = found.ranked(), circuitry.polarities(net)
    return [
        {
            "rank": n, "channel": channel, "polarity": polarity[channel],
            "mean_abs": float(found.channels[:, channel].abs().mean()),
            "masked": kept_variance(with_channels(net, film, ranked[:n])[:, cell], found.response),
            "summed": kept_variance(summed(found, ranked[:n]), found.response),
        }
        for n, channel in enumerate(ranked, start=1)
    ]  # fmt: skip


def reader(model: Encoder) -> Callable[[np.ndarray], np.ndarray]:
    """Rates in every bin of a film; before the first one they are as then."""
    before = ((0, 0), (model.lags - 1, 0), (0, 0))
    return lambda films: np.pad(responses(model, films), before, mode="edge")


def phenomena(respond: probes.Respond, columns: dict[int, float]) -> dict[str, tuple[list[Row], dict[str, float]]]:
    """All measures of one subject; `columns` are those of the receptive fields of `MOVERS`."""
    return {
        "omission": probes.omitted(respond, FLASHERS),
        "omission_of_five": probes.omitted(respond, FLASHERS, 5),
        "latency": probes.latency(respond, MOVERS),
        "anticipation": probes.anticipation(respond, columns),
        "reversal": probes.reversal(respond, MOVERS[0], columns[MOVERS[0]]),
    }


def omission_follows(found: dict[str, float]) -> bool:
    """A response at every period, larger than any in the train, at a time after the last flash of slope 1."""
    every = found["answered"] == len(probes.PERIODS)
    return every and abs(found["slope"] - 1) <= 0.1 and found["least"] > found["train"]


def darker_is_earlier(found: dict[str, float]) -> bool:
    """Every darker step is answered earlier, the darkest 20 ms or more before the lightest."""
    return found["ordered"] == 1 and found["shift_ms"] >= 20


def bar_is_met(found: dict[str, float]) -> bool:
    """The peak stands at most half as far behind the receptive field as the delay of a flash would put it."""
    lag = found["gained_um"] - found["lead_um"]
    return lag > 0 and found["lead_um"] >= -lag / 2


def turn_is_answered(found: dict[str, float]) -> bool:
    """Every turn is answered, at a time after it that does not depend on where it is, and by no bar that goes on."""
    every = found["answered"] == len(probes.SPEEDS) * len(probes.TURNS)
    return every and abs(found["steepest"]) <= 0.25 and found["unflipped"] <= 0.25


CRITERIA = {
    "omission": omission_follows, "latency": darker_is_earlier, "anticipation": bar_is_met,
    "reversal": turn_is_answered,
}  # fmt: skip


@torch.no_grad()
def calibrate(net: CNN, films: list[torch.Tensor]) -> None:
    """Give a network the running means of some films, without training it."""
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean of all
    net.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for film in films:
            net(film)
    net.eval()


def attributed_stimuli(column: float) -> dict[str, tuple[np.ndarray, int]]:
    """A film of the patch and the cell whose response to it is explained, by phenomenon."""
    lead, speed, patch = probes.LEAD, probes.SPEEDS[0], (SIDE, SIDE)
    track, _ = probes.passing(speed, column)
    turned, _ = reversed_sweep(speed, -probes.BAR, column + probes.TURNS[1], len(track) - lead)
    still = np.full(lead, -probes.BAR)
    films = {
        "omission": (np.tile(flashes(ATTRIBUTED_PERIOD, probes.FLASHES, lead, 2 * probes.WINDOW), patch), FLASHERS[0]),
        "latency": (np.tile(step(-0.6, lead, probes.WINDOW), patch), MOVERS[0]),
        "anticipation": (moving_bar(track, SIDE), MOVERS[0]),
        "reversal": (moving_bar(np.concatenate([still, turned]), SIDE), MOVERS[0]),
    }
    return {name: (film[None], cell) for name, (film, cell) in films.items()}
