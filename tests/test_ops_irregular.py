"""State spaces on irregular times: the solution of the equation, the convolution on a grid, and refused times."""

import math

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from hyena.errors import HyenaError
from hyena.ops.irregular import gaps, irregular_response, irregular_states, linear_recurrence
from hyena.ops.s4 import s4d_kernel

LONG = torch.float64


def system(channels: int, modes: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    some = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=some, dtype=LONG)  # noqa: E731
    A = torch.complex(-0.2 - draw(channels, modes).abs(), 3 * draw(channels, modes))
    B, C = (torch.complex(draw(channels, modes), draw(channels, modes)) for _ in range(2))
    return A, B, C, 0.1 + draw(channels).abs()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_on_a_regular_grid_it_is_the_convolution(length, seed):
    A, B, C, dt = system(3, 4, seed)
    u = torch.randn(2, length, 3, dtype=LONG, generator=torch.Generator().manual_seed(seed))
    found = irregular_response(A, B, C, dt, torch.ones(2, length, dtype=LONG), u)
    kernel = s4d_kernel(A, B, C, dt, length)
    direct = torch.stack([
        sum(kernel[:, t - s] * u[:, s] for s in range(t + 1)) for t in range(length)
    ], 1)  # fmt: skip
    close(found, direct, 1e-10)


def test_between_observations_it_solves_the_differential_equation():
    A, B, _, dt = system(1, 1)
    times = torch.tensor([[0.0, 0.7, 1.0, 3.5]], dtype=LONG)
    u = torch.tensor([[[0.3], [-1.0], [2.0], [0.5]]], dtype=LONG)
    found = irregular_states(A, B, dt, gaps(times), u)[:, 0, 0, 0]
    state, spans = 0j, [1.0, 0.7, 0.3, 2.5]
    for i, span in enumerate(spans):
        slope = lambda _, s, i=i: complex(dt[0]) * (complex(A[0, 0]) * s + complex(B[0, 0]) * float(u[0, i, 0]))  # noqa: E731
        state = solve_ivp(slope, (0, span), [state], rtol=1e-10, atol=1e-12).y[0, -1]
        assert abs(complex(found[i]) - state) < 1e-8


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_output_never_depends_on_the_future(seed, at):
    A, B, C, dt = system(2, 3, seed)
    some = torch.Generator().manual_seed(seed)
    u, gap = (torch.rand(1, 10, *rest, dtype=LONG, generator=some) for rest in ((2,), ()))
    later, wider = u.clone(), gap.clone()
    later[:, at:] += 1
    wider[:, at:] += 1
    before = irregular_response(A, B, C, dt, gap, u)[:, :at]
    assert torch.equal(before, irregular_response(A, B, C, dt, wider, later)[:, :at])


def test_an_observation_that_adds_nothing_changes_no_other():
    """Splitting a gap in two, with the same input held over both halves, is the same system."""
    A, B, C, dt = system(2, 3)
    u = torch.randn(1, 3, 2, dtype=LONG, generator=torch.Generator().manual_seed(1))
    coarse = irregular_response(A, B, C, dt, torch.tensor([[1.0, 2.0, 1.5]], dtype=LONG), u)
    fine = irregular_response(A, B, C, dt, torch.tensor([[1.0, 0.4, 1.6, 1.5]], dtype=LONG), u[:, [0, 1, 1, 2]])
    close(fine[:, [0, 2, 3]], coarse, 1e-12)


def test_the_recurrence_has_the_gradient_of_its_loop():
    some = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 2, 3, dtype=torch.complex128, generator=some, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(linear_recurrence, (a, b))
    x = [b[0]]
    for i in range(1, 5):
        x.append(a[i] * x[-1] + b[i])
    close(linear_recurrence(a, b), torch.stack(x), 1e-12)


def test_the_response_has_gradients():
    A, B, C, dt = system(2, 2)
    some = torch.Generator().manual_seed(0)
    gap, u = torch.rand(2, 4, dtype=LONG, generator=some) + 0.1, torch.randn(2, 4, 2, dtype=LONG, generator=some)
    assert torch.autograd.gradcheck(irregular_response, tuple(x.requires_grad_() for x in (A, B, C, dt, gap, u)))


def test_gaps_count_in_units_and_begin_with_one():
    assert torch.equal(gaps(torch.tensor([[0.0, 2.0, 8.0]]), 2.0), torch.tensor([[1.0, 1.0, 3.0]]))


@pytest.mark.parametrize(
    ("times", "what"),
    [
        ([0.0, 2.0, 1.0], "series 0 at position 1: times go back"),
        ([0.0, 1.0, 1.0], "series 0 at position 1: two observations have the same time"),
        ([0.0, math.nan, 1.0], "series 0 at position 1 has a time that is no number"),
    ],
)
def test_times_in_disorder_are_refused(times, what):
    with pytest.raises(HyenaError, match=what):
        gaps(torch.tensor([times]))


def test_a_unit_of_time_is_above_zero():
    with pytest.raises(HyenaError, match="unit of time"):
        gaps(torch.tensor([[0.0, 1.0]]), 0.0)
