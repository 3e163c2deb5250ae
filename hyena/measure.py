"""What benchmarks measure besides time."""

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
