"""How many seconds of retina are simulated in a second, and what encoders cost: `hyena bench retina`.

- *simulator*: the circuit on a patch of 16 x 16 for `SECONDS`, by part: interneurons and ganglion cells, and spikes of
  `TRIALS` trials; in seconds of retina per second.
- *encoders*: a training step of `BATCH` windows in units of the LN's, and the rates of a film in bins per second.

Medians over rounds in which all are timed, so that drift cancels.
"""

from __future__ import annotations

import copy
import json
import platform

import numpy as np
import torch
from torch import nn

from hyena.data.retina import DT, SIDE, calibrated, spike_trains
from hyena.data.retina_stimuli import white_noise
from hyena.measure import forward, medians, significant
from hyena.models.lm import count_parameters
from hyena.models.retina import CNN, LN
from hyena.paths import root, write_atomically

SECONDS, TRIALS, BATCH, FILM = 10, 20, 512, 1000
LAGS, BASIS, CHANNELS, KERNELS = 40, 10, (8, 8), (9, 5)
ROUNDS = 5


def main(device: str = "cpu") -> str:
    """Run every case, write `benchmarks/results/retina.<device>.json` and return the table."""
    simulator, encoders = simulator_row(), encoder_rows(device)
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    about |= {"side": SIDE, "seconds": SECONDS, "trials": TRIALS, "batch": BATCH, "film": FILM}
    about |= {"lags": LAGS, "basis": BASIS, "channels": CHANNELS, "kernels": KERNELS}
    metrics = {f"simulated_{key.replace(' ', '_')}": value for key, value in simulator.items()}
    stored = {"about": about, "simulator": [simulator], "encoders": encoders, "metrics": metrics}
    write_atomically(root() / "benchmarks" / "results" / f"retina.{device}.json", json.dumps(stored, indent=1) + "\n")
    return "\n".join(json.dumps(row) for row in (simulator, *encoders))


def simulator_row() -> dict[str, float]:
    """Seconds of retina per second: one film, and spikes of all trials together."""
    film = white_noise(round(SECONDS / DT), SIDE, np.random.default_rng(0))[None]
    retina = calibrated([film[:, :400]], skip=100)
    rates = retina.respond(film).repeat(TRIALS, 0)
    runs = [lambda: retina.respond(film), lambda: spike_trains(rates, np.random.default_rng(0))]
    cells, spikes = medians(runs, ROUNDS, "cpu")
    return {"cells": significant(SECONDS / cells), "spikes of all trials": significant(SECONDS * TRIALS / spikes)}


def encoder_rows(device: str) -> list[dict[str, object]]:
    """A step of AdamW and a forward pass of LN and CNN, with frames and with sums over them."""
    nets = {
        "ln": LN(8, SIDE, LAGS, basis=BASIS),
        "cnn": CNN(8, SIDE, LAGS, CHANNELS, KERNELS, basis=BASIS, norm="channel"),
        "cnn, all lags": CNN(8, SIDE, LAGS, CHANNELS, KERNELS, norm="channel"),
    }
    nets = {name: net.to(device) for name, net in nets.items()}
    windows = torch.randn(BATCH, LAGS, SIDE, SIDE, device=device)
    film = torch.randn(1, FILM + LAGS - 1, SIDE, SIDE, device=device)
    steps = [step(net, windows) for net in nets.values()]
    reads = [lambda net=net: forward(lambda: net(film)) for net in (copy.deepcopy(net).eval() for net in nets.values())]
    times = medians([*steps, *reads], ROUNDS, device)
    return [
        {
            "encoder": name, "parameters": count_parameters(net), "seconds": significant(times[i]),
            "times ln": significant(times[i] / times[0]), "bins a second": significant(FILM / times[len(nets) + i]),
        }
        for i, (name, net) in enumerate(nets.items())
    ]  # fmt: skip


def step(net: nn.Module, windows: torch.Tensor):
    """A training step on the mean rate."""
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)

    def run() -> None:
        optimizer.zero_grad()
        net(windows).mean().backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    print(main())
