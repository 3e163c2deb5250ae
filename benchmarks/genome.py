"""Long DNA on this machine: `hyena bench genome`.

- *runtime*: the smallest published geometry (2 layers, width 128; Figure 4.1) against the same blocks around fused
  attention, batch 1, forward and training step with every block recomputed (gradient checkpointing). Ratios above 1
  mean that HyenaDNA is faster; attention is run up to the length at which it would take more than `SECONDS`.
- *million*: one sequence through the largest published geometry (8 layers, width 256), a few channels at a time
  (`hyena.models.lean`): seconds and peak memory of the process; with products in bfloat16 too where this processor
  is faster at them, and what difference they make.
- *training*: the largest geometry's training step with recomputed blocks, at growing lengths as long as the process
  stays below `MEMORY` bytes.

Weights are random: what is measured does not depend on them. Each case of the last two has a process of its own, so
that its peak memory is its own.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from hyena.measure import significant
from hyena.models.attention import CausalAttention
from hyena.models.hyenadna import HyenaDNA
from hyena.models.lean import lean_hidden
from hyena.models.lm import LanguageModel, next_token_loss
from hyena.paths import root, write_atomically

LENGTHS = tuple(4**i for i in range(5, 11))
SECONDS = 60.0
ROUNDS = 3
MILLION = 1_000_000
COMPARED = 1024  # letters on which bfloat16 is compared with float32
TRAINED = tuple(2**i for i in range(14, 20, 2))
MEMORY = 16 * 2**30
SMALL, LARGE = (128, 2), (256, 8)  # width and layers


def main(device: str = "cpu") -> str:
    """Run every case, write `benchmarks/results/genome.<device>.json` and return the table."""
    if device != "cpu":
        raise SystemExit("this benchmark measures a CPU and its memory")
    runtime = measured_runtime()
    kinds = ["float32", "bfloat16"] if bfloat16_is_faster() else ["float32"]
    million = [alone("forward", MILLION, kind) for kind in kinds]
    error = difference()
    training = []
    for length in TRAINED:
        training.append(alone("training", length, "float32"))
        if 4 * training[-1]["peak GB"] * 2**30 > MEMORY:
            break
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    compared = [row for row in runtime if row["training step"]]
    metrics = {"step_longest": compared[-1]["training step"], "step_longest_length": compared[-1]["length"]}
    metrics |= {"million_seconds": million[0]["seconds"], "million_gb": million[0]["peak GB"]}
    stored = {
        "about": about, "attention / hyena": runtime, "million": million, "bfloat16 error": error,
        "training": training, "metrics": metrics,
    }  # fmt: skip
    write_atomically(root() / "benchmarks" / "results" / f"genome.{device}.json", json.dumps(stored, indent=1) + "\n")
    lines = [json.dumps(row) for row in (*runtime, *million, *training)]
    return "\n".join([*lines, f"bfloat16 products against float32: {error:.2e} (relative)"])


def measured_runtime() -> list[dict[str, float | None]]:
    """Seconds of HyenaDNA, and the ratio to attention, at every length."""
    rows: list[dict[str, float | None]] = []
    modes = {"forward": forward, "training step": training_step}
    open_modes = set(modes)  # in which attention is still run
    for length in LENGTHS:
        row: dict[str, float | None] = {"length": length}
        for mode, run in modes.items():
            ours = seconds(partial(run, HyenaDNA(*SMALL, length, checkpointing=True), letters(length)[None]))
            row |= {f"{mode} seconds": significant(ours), mode: None}
            if mode in open_modes:
                theirs = seconds(partial(run, attention_model(length), letters(length)[None]))
                row[mode] = significant(theirs / ours)
                if 16 * theirs > SECONDS:  # four times the length takes sixteen times as long
                    open_modes.remove(mode)
        rows.append(row)
    return rows


def attention_model(length: int) -> LanguageModel:
    width, layers = SMALL
    return LanguageModel(
        12, width, layers, 4 * width, lambda: CausalAttention(width, 8), l_max=length, positions=True
    )  # fmt: skip


def letters(length: int) -> Tensor:
    return torch.randint(7, 11, (length,), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def forward(model: nn.Module, tokens: Tensor) -> None:
    model.eval()(tokens)


def training_step(model: nn.Module, tokens: Tensor) -> None:
    next_token_loss(model.train()(tokens)[:, :-1], tokens[:, 1:]).backward()


def seconds(run: Callable[[], object]) -> float:
    """Median of a few runs after one that does not count; of one alone where that is long."""
    times = []
    while len(times) < ROUNDS + 1:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        if times[0] > SECONDS / 10:
            return times[0]
    return median(times[1:])


def alone(what: str, length: int, kind: str) -> dict[str, float | str]:
    """A case in a process of its own."""
    command = [sys.executable, __file__, what, str(length), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def case(what: str, length: int, kind: str) -> dict[str, float | str]:
    """Seconds, and the most memory that this process has held."""
    torch.manual_seed(0)
    model = HyenaDNA(*LARGE, length, checkpointing=True)
    start = time.perf_counter()
    if what == "forward":
        lean_hidden(model.eval(), letters(length), matmul=getattr(torch, kind))
    else:
        training_step(model, letters(length)[None])
    took = time.perf_counter() - start
    return {
        "length": length,
        "products": kind,
        "seconds": significant(took),
        "peak GB": significant(peak_bytes() / 2**30),
    }


def peak_bytes() -> int:
    """The most memory that this process has held; getrusage would count what its parent held before it, on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def bfloat16_is_faster() -> bool:
    """Whether this processor multiplies matrices faster in half precision; those without such units crawl."""
    a, b = torch.randn(1024, 256), torch.randn(256, 256)
    return seconds(lambda: a.bfloat16() @ b.bfloat16()) < seconds(lambda: a @ b)


def difference() -> float:
    """Root mean square difference of hidden states with bfloat16 products, relative to those in float32."""
    torch.manual_seed(0)
    model, tokens = HyenaDNA(*LARGE, COMPARED).eval(), letters(COMPARED)
    exact, rounded = lean_hidden(model, tokens), lean_hidden(model, tokens, matmul=torch.bfloat16)
    return float(f"{((rounded - exact).norm() / exact.norm()).item():.2g}")


if __name__ == "__main__":
    print(json.dumps(case(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
