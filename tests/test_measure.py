"""What benchmarks share: medians, memory, rounding."""

import pytest
import torch

from hyena import measure
from hyena.measure import backward, forward, medians, peak_allocated, significant


@pytest.mark.parametrize(("value", "stored"), [(0.000123456, 0.000123), (12.345, 12.3), (1234.5, 1230.0)])
def test_no_ratio_is_stored_as_nothing(value: float, stored: float) -> None:
    assert significant(value) == stored


def test_the_peak_counts_what_is_held_at_once() -> None:
    def together() -> None:
        kept = [torch.empty(10_000) for _ in range(3)]
        del kept

    def in_turn() -> None:
        for _ in range(3):
            torch.empty(10_000)

    assert peak_allocated(together) == 3 * peak_allocated(in_turn) >= 3 * 40_000


def test_a_median_is_over_rounds_in_each_of_which_all_run_once_and_the_first_does_not_count(monkeypatch) -> None:
    order: list[str] = []
    times = iter([100.0, 200.0, 3.0, 4.0, 1.0, 8.0, 2.0, 6.0])
    monkeypatch.setattr(measure, "seconds", lambda run, device: run() or next(times))
    assert medians([lambda: order.append("a"), lambda: order.append("b")], 3) == [2.0, 6.0]
    assert "".join(order) == "ab" * 4


def test_a_forward_pass_keeps_no_graph_and_a_backward_pass_fills_gradients() -> None:
    x, graphs = torch.ones(3, requires_grad=True), []
    forward(lambda: graphs.append((2 * x).requires_grad))
    assert graphs == [False] and x.grad is None
    backward(lambda: 2 * x)
    assert x.grad.tolist() == [2, 2, 2]
