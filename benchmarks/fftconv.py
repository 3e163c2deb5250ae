"""Causal convolution against the textbook form, in the same process: `hyena bench fftconv`.

The baseline is `irfft(rfft(u, 2L) * rfft(k, 2L))[:L]` and PyTorch's own backward. Ratios above 1 mean that
`causal_conv` is faster. Batch and channels shrink with the length to keep every case within seconds.
"""

from __future__ import annotations

import json
import platform

import torch
from torch.utils.benchmark import Timer

from hyena.ops.fftconv import causal_conv
from hyena.paths import root, write_atomically

CASES = [  # batch, channels, length
    (32, 64, 64),
    (8, 64, 256),
    (8, 128, 1024),
    (8, 128, 4096),
    (4, 128, 8192),
    (2, 128, 32768),
    (1, 64, 131072),
    (1, 8, 1048576),
]
MODES = ("forward", "forward+backward", "frozen kernel")
ROUNDS = 9


def textbook(u: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The form of the papers' listings."""
    length = u.shape[-1]
    n = 2 * length
    return torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(k, n), n)[..., :length]


def main(device: str = "cpu") -> str:
    """Run every case, write `benchmarks/results/fftconv.<device>.json` and return the table."""
    rows = [measure(*case, device) for case in CASES]
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    text = json.dumps({"about": about, "ratio to textbook": rows}, indent=1) + "\n"
    write_atomically(root() / "benchmarks" / "results" / f"fftconv.{device}.json", text)
    lines = [f"{'length':>8}  " + "  ".join(f"{m:>16}" for m in MODES)]
    lines += [f"{r['length']:8}  " + "  ".join(f"{r[m]:15.2f}x" for m in MODES) for r in rows]
    return "\n".join(lines)


def measure(batch: int, channels: int, length: int, device: str) -> dict[str, float]:
    """Speed ratios (textbook time / our time, medians) of one case."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(batch, channels, length, generator=generator).to(device).requires_grad_()
    k = torch.randn(channels, length, generator=generator).to(device).requires_grad_()
    frozen = k.detach()

    def forward(conv):
        with torch.no_grad():
            return conv(u, k)

    def both(conv):
        return torch.autograd.grad(conv(u, k).sum(), (u, k))

    def cached(conv):
        with torch.no_grad():
            return conv(u, frozen)

    row: dict[str, float] = {"batch": batch, "channels": channels, "length": length}
    for mode, run in zip(MODES, (forward, both, cached), strict=True):
        row[mode] = round(ratio(run), 2)
    return row


def ratio(run) -> float:
    """Median over rounds of the textbook form's time by ours; both are timed in every round, so drift cancels."""
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for conv in (textbook, causal_conv):
            timer = Timer("run(conv)", globals={"run": run, "conv": conv}, num_threads=torch.get_num_threads())
            times.append(timer.blocked_autorange(min_run_time=0.1).median)
        ratios.append(times[0] / times[1])
    return sorted(ratios)[ROUNDS // 2]
