"""LS4 beside solvers and recurrences as series grow, and the kernel by matrix products: `hyena bench ls4`.

- *steps*: a training step (bound, gradients, AdamW) and the generation of a batch, of LS4, of a latent ODE and of a
  recurrent VAE of the same width, `BATCH` series of one channel. The latent ODE is solved in two ways: four
  evaluations between any two samples (rk4), and as its tolerance of 1e-3 asks for (dopri5), which is the easier the
  smoother the path; here the networks are as they are before training, when paths are smoothest. Up to `LONG` also
  LS4 walking along its states instead of convolving, as on irregular times: the same numbers (*walked*).
- *kernels*: the taps of diagonal state spaces, forward + backward: one exponential for each mode and tap (as
  `hyena.ops.s4.s4d_kernel` and the official code) against blocks (`hyena.ops.vandermonde`). Above 1: blocks are faster.
- *stiff*: a training step of the networks of the quick profile of stiff_transitions, in units of LS4's: what equal
  training time means.

Medians over rounds in which all are timed, so that drift cancels; one round above `LONG`.
"""

from __future__ import annotations

import json
import platform

import torch
from torch import nn

from hyena.experiments.ls4 import StiffTransitions
from hyena.measure import backward, medians, seconds, significant
from hyena.models.generators import RNNVAE, LatentODE
from hyena.models.ls4 import LS4
from hyena.ops.s4 import s4d_kernel
from hyena.ops.vandermonde import blocked_kernel
from hyena.paths import root, write_atomically

LENGTHS, LONG = (80, 320, 1000, 5000, 20_000), 1000
BATCH, WIDTH, STATE, LAYERS, LATENTS = 8, 64, 64, 4, 5
KERNELS = ((64, 64, 80), (64, 64, 1000), (64, 64, 20_000))  # channels, d_state, length
ROUNDS = 3


def main(device: str = "cpu") -> str:
    """Run every case, write `benchmarks/results/ls4.<device>.json` and return the table."""
    kernels = [kernel_row(*case, device) for case in KERNELS]
    stiff = stiff_rows(device)
    steps = [row for length in LENGTHS for row in length_rows(length, device)]
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    about |= {"batch": BATCH, "width": WIDTH, "d_state": STATE, "n_layer": LAYERS}
    metrics = {
        f"{what}_{row['network']}_{row['length']}": row[f"{what} over ls4"]
        for row in steps for what in ("step", "generation") if row["network"] != "ls4"
    } | {f"kernel_{row['length']}": row["kernel"] for row in kernels}  # fmt: skip
    metrics |= {f"stiff_{row['network']}": row["times ls4"] for row in stiff}
    stored = {"about": about, "kernels": kernels, "stiff": stiff, "steps": steps, "metrics": metrics}
    write_atomically(root() / "benchmarks" / "results" / f"ls4.{device}.json", json.dumps(stored, indent=1) + "\n")
    return "\n".join(json.dumps(row) for row in (*kernels, *stiff, *steps))


def length_rows(length: int, device: str) -> list[dict[str, object]]:
    """Seconds of a step and of a generated batch, and the ratio to LS4's: above 1, LS4 is faster."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, length, 1, device=device)
    vae = {"z_dim": LATENTS, "d_model": WIDTH}
    networks = {
        "ls4": LS4(z_dim=LATENTS, d_model=WIDTH, d_state=STATE, n_layer=LAYERS, pool=()),
        "rk4": LatentODE(horizon=float(length), **vae),
        "dopri5": LatentODE(horizon=float(length), method="dopri5", **vae),
        "rnn_vae": RNNVAE(**vae),
    }
    networks = {name: network.to(device) for name, network in networks.items()}
    steps = [step(network, x) for network in networks.values()]
    drawn = [lambda network=network: network.generate(BATCH, length) for network in networks.values()]
    if length <= LONG:
        networks["walked"] = networks["ls4"]
        steps.append(step(networks["ls4"], x, torch.arange(float(length), device=device).expand(BATCH, -1)))
        drawn.append(drawn[0])
    if length > LONG:
        times = [[seconds(run, device) for run in runs] for runs in (steps, drawn)]
    else:
        times = [medians(runs, ROUNDS, device) for runs in (steps, drawn)]
    return [
        {
            "length": length, "network": name, "parameters": sum(p.numel() for p in network.parameters()),
            "step seconds": significant(trained), "step over ls4": significant(trained / times[0][0]),
            "generation seconds": significant(made), "generation over ls4": significant(made / times[1][0]),
        }
        for (name, network), trained, made in zip(networks.items(), *times, strict=True)
    ]  # fmt: skip


def step(network: nn.Module, x: torch.Tensor, times: torch.Tensor | None = None):
    """A training step to be timed."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)

    def once() -> None:
        optimizer.zero_grad()
        network(x, times=times).loss().backward()
        optimizer.step()

    return once


def kernel_row(channels: int, d_state: int, length: int, device: str) -> dict[str, float]:
    """The ratio of one exponential for each mode and tap to blocks."""
    torch.manual_seed(0)
    modes = d_state // 2
    A = torch.complex(-torch.rand(channels, modes) - 0.1, -3.14 * torch.rand(channels, modes) * modes)
    B, C = torch.randn(2, channels, modes, dtype=torch.cfloat)
    system = [x.to(device).requires_grad_() for x in (A, B, C, 0.1 * torch.rand(channels))]
    forms = (s4d_kernel, blocked_kernel)
    direct, blocks = medians(
        [lambda form=form: backward(lambda: form(*system, length)) for form in forms], ROUNDS, device
    )  # fmt: skip
    return {
        "channels": channels, "d_state": d_state, "length": length, "seconds": significant(blocks),
        "kernel": significant(direct / blocks),
    }  # fmt: skip


def stiff_rows(device: str) -> list[dict[str, object]]:
    """A training step of each network of the quick profile, in units of LS4's."""
    experiment = StiffTransitions.configured("quick")
    x = torch.randn(experiment.batch_size, experiment.length, 1, device=device)
    networks = [experiment.network(kind, experiment.length, experiment.sigma, 0) for kind in experiment.operators]
    times = medians([step(network.to(device), x) for network in networks], 3 * ROUNDS, device)
    return [
        {"network": kind, "seconds": significant(time_), "times ls4": significant(time_ / times[0])}
        for kind, time_ in zip(experiment.operators, times, strict=True)
    ]
