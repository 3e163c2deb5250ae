"""The companion kernel by polynomials against powers of the matrix, and whole forecasters: `hyena bench companion`.

- *kernels*: `CHANNELS` kernels, float32, forward and forward + backward, against the dense form of the official code
  (rows of the Krylov space, twice as many with each squaring of the matrix); and the same for a closed loop of one
  state per channel. Ratios above 1 mean that polynomials are faster, or need less memory.
- *networks*: a training step of the paper's forecaster (batch 50, lag 336, horizon 720) with all three losses, and of
  the LSTM and the Transformer of `hyena.models.forecasters` at the same width and windows.
- *lags*: the same steps as the window grows to 16 thousand values, with as many values in every batch.

Medians over rounds in which all are timed, so that drift cancels.
"""

from __future__ import annotations

import json
import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.measure import backward, forward, medians, peak_allocated, significant
from hyena.models.forecasters import DLinear, LSTMForecaster, TransformerForecaster
from hyena.models.spacetime import SpaceTime, forecast_losses
from hyena.ops.companion import closed_loop, companion_kernel, companion_matrix, krylov
from hyena.paths import root, write_atomically

CHANNELS = 128
CASES = ((64, 336), (64, 1024), (64, 4096), (64, 16_384), (256, 1024), (256, 4096))  # d_state, length
BATCH, LAG, HORIZON, D_MODEL, D_STATE = 50, 336, 720, 128, 64
LAGS, VALUES = (256, 1024, 4096, 16_384), 16_384  # values in a batch, of each of the longer windows
ROUNDS = 5


def main(device: str = "cpu") -> str:
    """Run every case, write `benchmarks/results/companion.<device>.json` and return the table."""
    kernels = [kernel_row(d, length, device) for d, length in CASES]
    networks = network_rows(BATCH, LAG, device)
    lags = [row for lag in LAGS for row in network_rows(VALUES // lag, lag, device)]
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    about |= {"channels": CHANNELS, "batch": BATCH, "lag": LAG, "horizon": HORIZON}
    metrics = {f"kernel_{row['d_state']}_{row['length']}": row["kernel"] for row in kernels}
    step = {row["network"]: row["seconds"] for row in networks}
    metrics |= {"step_seconds": step["spacetime"]}
    metrics |= {
        f"{name}_over_spacetime": significant(step[name] / step["spacetime"]) for name in ("lstm", "transformer")
    }
    stored = {
        "about": about, "dense / polynomials": kernels, "networks": networks, "lags": lags, "metrics": metrics
    }  # fmt: skip
    text = json.dumps(stored, indent=1) + "\n"
    write_atomically(root() / "benchmarks" / "results" / f"companion.{device}.json", text)
    return "\n".join(json.dumps(row) for row in (*kernels, *networks, *lags))


def kernel_row(d: int, length: int, device: str) -> dict[str, float]:
    """Ratios of the dense form to ours, of time and of the most memory held."""
    torch.manual_seed(0)
    a, b, c, k = torch.randn(4, CHANNELS, d, device=device)
    a, b, k = (vector / vector.abs().sum(-1, keepdim=True) for vector in (a, b, k))
    x = torch.randn(CHANNELS, d, device=device)
    system = [vector.requires_grad_() for vector in (a, b, c, k)]
    row: dict[str, float] = {"d_state": d, "length": length}
    forms = {
        "kernel": (lambda: dense_kernel(a, b, c, length), lambda: companion_kernel(a, b, c, length)),
        "closed loop": (lambda: dense_loop(*system, x, length), lambda: closed_loop(*system, x, length)),
    }
    for name, (dense, ours) in forms.items():
        for mode, run in (("", forward), (" forward+backward", backward)):
            slow, fast = medians([lambda f=f, run=run: run(f) for f in (dense, ours)], ROUNDS, device)
            row |= {f"{name}{mode} seconds": significant(fast), name + mode: significant(slow / fast)}
        held = [peak_allocated(lambda f=f: backward(f)) for f in (dense, ours)]
        row[f"{name} memory"] = significant(held[0] / max(1, held[1]))
    return row


def dense_kernel(a: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    """By powers of the companion matrix."""
    return (krylov(companion_matrix(a), b, length) @ c[..., None])[..., 0]


def dense_loop(a: Tensor, b: Tensor, c: Tensor, k: Tensor, x: Tensor, length: int) -> Tensor:
    """The same of the matrix with feedback, from a state."""
    return (krylov(companion_matrix(a) + b[:, :, None] * k[:, None, :], x, length) @ c[..., None])[..., 0]


def network_rows(batch: int, lag: int, device: str) -> list[dict[str, object]]:
    """Seconds and parameters of a training step of every network, and the ratio to SpaceTime's."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, lag, 1, device=device), torch.randn(batch, HORIZON, 1, device=device)
    networks = {
        "spacetime": SpaceTime(D_MODEL, D_STATE),
        "lstm": LSTMForecaster(HORIZON, D_MODEL),
        "transformer": TransformerForecaster(lag, HORIZON, D_MODEL),
        "dlinear": DLinear(lag, HORIZON),
    }
    networks = {name: network.to(device).train() for name, network in networks.items()}

    def step(network: nn.Module) -> None:
        if isinstance(network, SpaceTime):
            sum(forecast_losses(network(x, HORIZON), x, y, D_STATE)).backward()
        else:
            F.mse_loss(network(x), y).backward()

    times = medians([lambda network=network: step(network) for network in networks.values()], ROUNDS, device)
    return [
        {
            "lag": lag, "network": name, "parameters": sum(p.numel() for p in network.parameters()),
            "seconds": significant(time_), "times spacetime": significant(time_ / times[0]),
        }
        for (name, network), time_ in zip(networks.items(), times, strict=True)
    ]  # fmt: skip
