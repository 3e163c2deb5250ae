"""State-space kernels: equal to their recurrences, the official S4D's numbers, differentiable."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from hyena.ops.ssm import diagonal_kernel, rational_kernel, s4d_lin

DRAWN = settings(deadline=None, max_examples=25)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stable(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues in the left half-plane, output weights and steps of (..., modes) drawn at random."""
    A = torch.complex(-torch.rand(*shape) - 0.01, 5 * torch.randn(*shape))
    return A, torch.randn(*shape, dtype=torch.complex128), 0.01 + torch.rand(shape[:-1])


# Diagonal


@DRAWN
@given(st.lists(st.integers(1, 3), max_size=2).map(tuple), st.integers(1, 5), st.integers(1, 40), SEEDS)
def test_a_diagonal_kernel_is_the_response_of_its_recurrence_to_an_impulse(channels, modes, length, seed) -> None:
    torch.manual_seed(seed)
    A, C, dt = stable(*channels, modes)
    decay = torch.exp(dt[..., None] * A)
    x, taps = (decay - 1) / A, []  # the state after an impulse held for one step
    for _ in range(length):
        taps.append(2 * (C * x).sum(-1).real)
        x = decay * x
    kernel = diagonal_kernel(A, C, dt, length)
    assert kernel.shape == (*channels, length)
    close(kernel, torch.stack(taps, -1))


OFFICIAL = {"A_real": (2, 8), "A_imag": (2, 8), "B": (1, 2, 8, 2), "C": (2, 4, 8, 2), "inv_dt": (4, 1)}


def official_kernel(parameters: dict[str, Tensor], rate: float) -> Tensor:
    """Ours from the official parameters: two copies of (A, B), channel h takes number h mod 2."""
    A = torch.complex(-parameters["A_real"].exp(), -parameters["A_imag"]).repeat(2, 1)  # (4, 8)
    B, C = (torch.view_as_complex(parameters[name]) for name in ("B", "C"))
    dt = rate * parameters["inv_dt"][:, 0].exp()
    both = C * B.repeat(1, 2, 1)  # (2, 4, 8)
    return diagonal_kernel(A.expand(2, -1, -1), both, dt.expand(2, -1), 24)


@pytest.mark.parametrize("init", ["lin", "inv"])
def test_kernels_at_three_rates_and_all_gradients_are_the_official_s4ds(reference, init: str) -> None:
    stored, _ = reference(f"s4d_kernel_zoh_diag-{init}")
    parameters = {name: stored[f"param.{name}"].double().requires_grad_() for name in OFFICIAL}
    assert {name: tuple(p.shape) for name, p in parameters.items()} == OFFICIAL
    for name, rate in {"K": 1.0, "K_rate2": 2.0, "K_rate05": 0.5}.items():
        close(official_kernel(parameters, rate), stored[name].double(), 1e-5)
    (official_kernel(parameters, 1.0) * stored["cotangent"]).sum().backward()
    for name, parameter in parameters.items():
        close(parameter.grad, stored[f"grad.{name}"].double(), 1e-5)


def test_gradients_of_a_diagonal_kernel() -> None:
    torch.manual_seed(0)
    arguments = [x.requires_grad_() for x in stable(2, 3)]
    assert torch.autograd.gradcheck(lambda A, C, dt: diagonal_kernel(A, C, dt, 6), arguments)


def test_the_first_eigenvalues_are_half_decay_and_multiples_of_pi() -> None:
    A = s4d_lin(4)
    close(A.real, torch.full((4,), -0.5))
    close(A.imag, torch.pi * torch.arange(4.0))


# Rational


def response(b: Tensor, a: Tensor, length: int) -> Tensor:
    """The recurrence y_t = sum b_j u_{t-j} - sum a_j y_{t-j}, j from 1 in the second, for an impulse u."""
    order, taps = b.shape[-1], []
    for t in range(length):
        y = b[:, t] if t < order else torch.zeros_like(b[:, 0])
        taps.append(y - sum(a[:, j - 1] * taps[t - j] for j in range(1, min(order, t) + 1)))
    return torch.stack(taps, -1)


def with_poles(radius: float, order: int) -> tuple[Tensor, Tensor]:
    """Two systems of (b, a) with all poles at `radius` or closer to 0."""
    a = torch.ones(2, 1)
    for pole in radius * (2 * torch.rand(order, 2, 1) - 1):
        a = pad(a, (0, 1)) - pole * pad(a, (1, 0))  # times 1 - pole / z
    return torch.randn(2, order), a[:, 1:]


@DRAWN
@given(st.integers(1, 5), st.integers(1, 40), SEEDS)
def test_a_rational_kernel_is_the_response_of_its_recurrence_to_an_impulse(order, length, seed) -> None:
    torch.manual_seed(seed)
    b, a = with_poles(0.02, order)  # forgotten within the shortest period, 2 (order + 1)
    close(rational_kernel(b, a, length), response(b, a, length), 1e-6)
    b, a = with_poles(0.6, order)
    long = 40 + length
    close(rational_kernel(b, a, long), response(b, a, long), 1e-10)


@pytest.mark.parametrize("length", [1, 3, 5, 6, 20])
def test_without_poles_a_rational_kernel_is_its_numerator(length: int) -> None:
    b = torch.randn(3, 5)
    expected = pad(b, (0, max(0, length - 5)))[:, :length]
    close(rational_kernel(b, torch.zeros(3, 5), length), expected)


@pytest.mark.parametrize("length", [3, 16])
def test_what_rings_on_beyond_two_lengths_is_folded_onto_the_start(length: int) -> None:
    torch.manual_seed(0)
    b, a = with_poles(0.97, 4)
    period = 2 * max(length, 5)
    periods = response(b, a, 100 * period).unflatten(1, (100, period))
    assert periods[:, 1].abs().max() > 1e-2, "it does ring on"
    close(rational_kernel(b, a, length), periods.sum(1)[:, :length], 1e-10)


def test_gradients_of_a_rational_kernel() -> None:
    torch.manual_seed(0)
    arguments = [x.requires_grad_() for x in with_poles(0.5, 3)]
    assert torch.autograd.gradcheck(lambda b, a: rational_kernel(b, a, 7), arguments)
