"""What benchmarks share: seconds, the memory that a run holds, and how a number is stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.profiler import profile


def peak_allocated(run: Callable[[], object]) -> int:
    """The most bytes that PyTorch has allocated at once during one run."""
    with profile(profile_memory=True) as trace:
        run()
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def significant(value: float, digits: int = 3) -> float:
    """Rounded to so many digits that mean something, so that no ratio becomes 0."""
    return float(f"{value:.{digits}g}")


def medians(runs: Sequence[Callable[[], None]], rounds: int, device: str = "cpu") -> list[float]:
    """Median seconds of each over rounds in which all are timed, so that drift cancels; one more round comes first."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for some, run in zip(times, runs, strict=True):
            some.append(seconds(run, device))
    return [sorted(some[1:])[(len(some) - 1) // 2] for some in times]


def seconds(run: Callable[[], None], device: str = "cpu") -> float:
    """Time of one call, work queued on a GPU included."""
    wait = torch.cuda.synchronize if device != "cpu" else (lambda: None)
    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began


def forward(form: Callable[[], Tensor]) -> None:
    """Once, without what a gradient would need."""
    with torch.no_grad():
        form()


def backward(form: Callable[[], Tensor]) -> None:
    """Once, and the gradients of the sum of its outputs."""
    form().sum().backward()
