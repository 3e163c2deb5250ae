"""What benchmarks share: the memory that a run holds, and how a number is stored."""

from __future__ import annotations

from collections.abc import Callable

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
