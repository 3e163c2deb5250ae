"""Causal convolution against the textbook form, in the same process: `hyena bench fftconv`.

The baseline is `irfft(rfft(u, 2L) * rfft(k, 2L))[:L]` and PyTorch's own backward. Ratios above 1 mean that
`causal_conv` is faster, or smaller. Batch and channels shrink with the length to keep every case within seconds.
Memory is the peak of what PyTorch allocates during one run beyond its inputs, by the profiler's trace, which is the
same in every run; the libraries' own scratch space is not in it. With a frozen kernel it is that of a first run,
the remembered spectrum included. The leads are timed by switching one off: its gain is time without / time with.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.benchmark import Timer

from hyena.measure import peak_allocated, significant
from hyena.ops import fftconv
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
LEADS = [  # name, constant of hyena.ops.fftconv, its value without the lead, case
    ("blocks of channels", "BLOCK_BYTES", 2**62, CASES[3]),
    ("blocks of channels", "BLOCK_BYTES", 2**62, CASES[5]),
    ("spectra kept for backward", "KEEP_BYTES", 0, CASES[1]),
    ("spectra kept for backward", "KEEP_BYTES", 0, CASES[2]),
    ("folded transforms", "FOLD_LENGTH", 2**62, CASES[7]),
]
ROUNDS = 5

Conv = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def textbook(u: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The form of the papers' listings."""
    length = u.shape[-1]
    n = 2 * length
    return torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(k, n), n)[..., :length]


def main(device: str = "cpu") -> str:
    """Run every case, write `benchmarks/results/fftconv.<device>.json` and return the table."""
    rows = [measure(*case, device) for case in CASES]
    leads = [lead(*each, device) for each in LEADS]
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    text = json.dumps({"about": about, "ratio to textbook": rows, "leads": leads}, indent=1) + "\n"
    write_atomically(root() / "benchmarks" / "results" / f"fftconv.{device}.json", text)
    lines = [f"{'length':>8}  " + "  ".join(f"{m:>16}" for m in MODES) + "  (speed, memory)"]
    lines += [f"{r['length']:8}  " + "  ".join(f"{r[m]:7.2f}x {r[m + ' memory']:6.2f}x" for m in MODES) for r in rows]
    lines += [f"{r['lead']} at {r['length']}: {r['gain']:.2f}x" for r in leads]
    return "\n".join(lines)


def measure(batch: int, channels: int, length: int, device: str) -> dict[str, float]:
    """Ratios (textbook / ours) of one case: time, and peak memory where the device's allocations are traced."""
    row: dict[str, float] = {"batch": batch, "channels": channels, "length": length}
    for mode, run in modes(batch, channels, length, device).items():
        row[mode] = significant(ratio(lambda run=run: run(textbook), lambda run=run: run(causal_conv)))
    for mode, run in modes(batch, channels, length, device).items():  # new tensors: nothing is remembered of them
        row[f"{mode} memory"] = significant(
            peak_allocated(lambda run=run: run(textbook)) / peak_allocated(lambda run=run: run(causal_conv))
        )
    return row


def lead(name: str, constant: str, without: int, case: tuple[int, int, int], device: str) -> dict[str, str | float]:
    """What one lead gains in forward+backward."""

    def off() -> None:
        with replaced(constant, without):
            run(causal_conv)

    run = modes(*case, device)["forward+backward"]
    return {"lead": name, "length": case[-1], "gain": significant(ratio(off, lambda: run(causal_conv)))}


@contextmanager
def replaced(constant: str, value: int) -> Iterator[None]:
    before = getattr(fftconv, constant)
    setattr(fftconv, constant, value)
    try:
        yield
    finally:
        setattr(fftconv, constant, before)


def modes(batch: int, channels: int, length: int, device: str) -> dict[str, Callable[[Conv], object]]:
    """What is run, by mode, on inputs of its own."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(batch, channels, length, generator=generator).to(device).requires_grad_()
    k = torch.randn(channels, length, generator=generator).to(device).requires_grad_()
    frozen = k.detach().clone()

    def forward(conv: Conv):
        with torch.no_grad():
            return conv(u, k)

    def both(conv: Conv):
        return torch.autograd.grad(conv(u, k).sum(), (u, k))

    def cached(conv: Conv):
        with torch.no_grad():
            return conv(u, frozen)

    return dict(zip(MODES, (forward, both, cached), strict=True))


def ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Median over rounds of the first's time by the second's; both are timed in every round, so drift cancels."""
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for run in (first, second):
            timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
            times.append(timer.blocked_autorange(min_run_time=0.1).median)
        ratios.append(times[0] / times[1])
    return sorted(ratios)[ROUNDS // 2]
