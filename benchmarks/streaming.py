"""Generating a sequence output by output, three ways, in the same process: `hyena bench streaming`.

Each of the L outputs is asked for before the next input is known, from a kernel with L taps.

- *recompute*: the parallel convolution over all inputs so far, at every step, of which the last output is used;
- *dot product*: the kernel against the whole history, kept ready in one buffer, at every step;
- *online*: `OnlineConvolution`, its construction and the spectra of its kernel included.

The first two would take minutes at the largest lengths. They are measured at `SAMPLES` evenly spaced steps, the
midpoints of as many equal parts of the sequence, and their mean is taken for all L steps (midpoint rule); *online*
is measured in full. Ratios above 1 mean that *online* is faster. "Cost per step" is the mean over all steps,
relative to the shortest length. All are medians over rounds in which every way is timed, so that drift cancels.
"""

from __future__ import annotations

import json
import platform

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from hyena.ops.fftconv import causal_conv
from hyena.ops.streaming import OnlineConvolution
from hyena.paths import root, write_atomically

BATCH, CHANNELS = 1, 64
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
WAYS = ("recompute", "dot product", "online")
SAMPLES = 24
ROUNDS = 5


def main(device: str = "cpu") -> str:
    """Run every length, write `benchmarks/results/streaming.<device>.json` and return the table."""
    rows = compare([measure(length, device) for length in LENGTHS])
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    about |= {"batch": BATCH, "channels": CHANNELS, "sampled steps": SAMPLES}
    metrics = {f"recompute_{row['length']}": row["recompute / online"] for row in rows}
    text = json.dumps({"about": about, "generation": rows, "metrics": metrics}, indent=1) + "\n"
    write_atomically(root() / "benchmarks" / "results" / f"streaming.{device}.json", text)
    names = list(rows[0])
    lines = ["  ".join(names)]
    lines += ["  ".join(f"{row[name]:>{len(name)}.4g}" for name in names) for row in rows]
    return "\n".join(lines)


def compare(measured: list[dict[str, float]]) -> list[dict[str, float]]:
    """Seconds become ratios: to *online* at the same length, and to the same way at the first length."""
    return [
        {
            "length": row["length"],
            "recompute / online": round(row["recompute / online"], 2),
            "dot product / online": round(row["dot product / online"], 2),
        }
        | {f"{way}, cost per step": round(row[way] / measured[0][way], 2) for way in WAYS}
        | {"largest difference": float(f"{row['largest difference']:.1e}")}
        for row in measured
    ]


def measure(length: int, device: str) -> dict[str, float]:
    """Medians over rounds of seconds per step and of their ratios; the difference is relative to the largest output."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(BATCH, CHANNELS, length, generator=generator).to(device)
    k = torch.randn(CHANNELS, length, generator=generator).to(device)
    inputs, reversed_k = [x.contiguous() for x in u.unbind(-1)], k.flip(-1)
    steps = [(2 * i + 1) * length // (2 * SAMPLES) for i in range(SAMPLES)]
    rounds = []
    for _ in range(ROUNDS):
        once = {
            "recompute": sum(seconds(recompute, u, k, t) for t in steps) / SAMPLES,
            "dot product": sum(seconds(dot_product, u, reversed_k, t) for t in steps) / SAMPLES,
            "online": seconds(online, inputs, k, number=1) / length,
        }
        rounds.append(once | {f"{way} / online": once[way] / once["online"] for way in WAYS[:2]})
    row = {name: sorted(r[name] for r in rounds)[ROUNDS // 2] for name in rounds[0]}
    expected = causal_conv(u, k)
    difference = (torch.stack(online(inputs, k), -1) - expected).abs().max() / expected.abs().max()
    return row | {"length": length, "largest difference": difference.item()}


def recompute(u: Tensor, k: Tensor, t: int) -> Tensor:
    """Output t of the parallel form."""
    return causal_conv(u[..., : t + 1], k)[..., t]


def dot_product(u: Tensor, reversed_k: Tensor, t: int) -> Tensor:
    """Output t as the sum that defines it, which `vecdot` computes faster than `einsum` or a product and a sum."""
    return torch.linalg.vecdot(u[..., : t + 1], reversed_k[:, u.shape[-1] - 1 - t :])


def online(inputs: list[Tensor], k: Tensor) -> list[Tensor]:
    """All outputs, one by one."""
    conv = OnlineConvolution(k, batch=BATCH, steps=len(inputs))
    return [conv.step(u) for u in inputs]


def seconds(run, *arguments, number: int = 5) -> float:
    """Seconds for one call, after a few that do not count."""
    timer = Timer("run(*arguments)", globals={"run": run, "arguments": arguments}, num_threads=torch.get_num_threads())
    return timer.timeit(number).mean
