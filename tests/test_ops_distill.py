"""Distilled filters: exact where a state space exists, better with more modes, and the same step by step."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyena.errors import HyenaError
from hyena.models.hyena import HyenaOperator
from hyena.models.lm import LanguageModel
from hyena.ops.distill import Modes, distill, hankel_singular_values
from hyena.ops.fftconv import causal_conv

DRAWN = settings(deadline=None, max_examples=25)


pytestmark = pytest.mark.usefixtures("float64")


def summed(modes: int, length: int, smallest: float = 0.5, largest: float = 0.98) -> Tensor:
    """Two filters, each a sum of `modes` real modes: conjugate pairs at well separated angles, one on the line."""
    t, h = torch.arange(length - 1), torch.zeros(2, length)
    h[:, 0] = torch.randn(2)
    for i in range(modes // 2):
        angle = torch.pi * (i + 0.6) / (modes // 2 + 1)
        radius, phase = smallest + (largest - smallest) * torch.rand(2, 1), 6 * torch.rand(2, 1)
        h[:, 1:] += (1 + torch.rand(2, 1)) * radius**t * torch.cos(angle * t + phase)
    if modes % 2:
        h[:, 1:] += 0.8**t
    return h


def smooth(length: int) -> Tensor:
    """Filters of an operator as a language model starts with them."""
    torch.manual_seed(0)
    mixer = HyenaOperator(8, length, emb_dim=5, w=10.0)
    model = LanguageModel(8, 8, 1, 8, lambda: mixer, l_max=length)
    return model.backbone.layers[0].mixer.filter_fn(length).detach()


def error(h: Tensor, fit: Modes) -> float:
    """Median over filters of the relative error; where a pole had to be moved inwards, more modes may not help."""
    return ((fit.taps(h.shape[-1]) - h).norm(dim=-1) / h.norm(dim=-1)).median().item()


@DRAWN
@given(st.integers(1, 8), st.integers(24, 90), st.integers(0, 2**32 - 1))
def test_a_sum_of_modes_is_recovered(modes: int, length: int, seed: int) -> None:
    torch.manual_seed(seed)
    h = summed(modes, length)
    close(distill(h, [modes])[modes].taps(length), h, 1e-8)


def test_the_recovered_poles_and_residues_are_those_of_the_sum() -> None:
    t = torch.arange(39)
    h = torch.cat([torch.tensor([5.0]), 2 * 0.9**t - 3 * (-0.7) ** t])[None]
    fit = distill(h, [2])[2]
    order = fit.poles.real.argsort()[0]
    close(fit.first, torch.tensor([5.0]))
    close(fit.poles[0, order], torch.tensor([-0.7, 0.9], dtype=torch.complex128), 1e-9)
    close(fit.residues[0, order], torch.tensor([-3, 2], dtype=torch.complex128), 1e-9)


def test_more_modes_fit_a_smooth_filter_better() -> None:
    h = smooth(128)
    errors = [error(h, fit) for fit in distill(h, [1, 2, 4, 8, 16]).values()]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8 < 0.01 < errors[0]


@DRAWN
@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 3))
def test_the_recurrence_is_the_convolution_with_the_taps(modes: int, length: int, batch: int) -> None:
    fit, u = distill(torch.randn(2, 20), [modes])[modes], torch.randn(batch, 2, length)
    state, y = torch.zeros(batch, 2, modes, dtype=torch.complex128), []
    for t in range(length):
        state, out = fit.step(state, u[..., t])
        y.append(out)
    close(torch.stack(y, -1), causal_conv(u, fit.taps(length)), 1e-11)


@pytest.mark.parametrize("growth", [1.0, 1.02, 1.3])
def test_poles_stay_inside_the_unit_circle_whatever_the_filter(growth: float) -> None:
    h = torch.stack([growth ** torch.arange(40.0), torch.randn(40) * growth ** torch.arange(40.0)])
    for fit in distill(h, [1, 3, 12]).values():  # the first filter has one mode: the rest of its matrix is rounding
        assert fit.poles.abs().max() < 1
        assert fit.taps(100_000)[:, -1].isfinite().all()


@pytest.mark.parametrize("modes", [1, 2, 5])
def test_no_singular_value_is_left_beyond_the_number_of_modes(modes: int) -> None:
    values = hankel_singular_values(summed(modes, 60))
    assert values.shape == (2, 30) and torch.equal(values, values.sort(descending=True).values)
    assert (values[:, modes] / values[:, 0]).max() < 1e-13
    assert (values[:, modes - 1] / values[:, 0]).min() > 1e-4


def test_singular_values_are_of_the_matrix_of_later_taps() -> None:
    h = torch.randn(1, 9)
    matrix = torch.stack([h[0, 1 + i : 5 + i] for i in range(4)])
    close(hankel_singular_values(h)[0], torch.linalg.svdvals(matrix))


def test_more_modes_than_a_filter_has_do_no_harm() -> None:
    h = summed(2, 40)
    h[1, 1:] = 0  # none at all: every pole is 0
    for fit in distill(h, [4, 10]).values():
        close(fit.taps(40), h, 1e-8)


def test_a_float32_filter_is_fitted_in_float64() -> None:
    h = summed(3, 40).float()
    fit = distill(h, [3])[3]
    assert fit.taps(40).dtype == torch.float64 and error(h.double(), fit) < 1e-5


def test_a_pole_at_zero_is_one_tap() -> None:
    one = torch.ones(1, 1, dtype=torch.complex128)
    close(Modes(torch.tensor([2.0]), 0 * one, 3 * one).taps(4), torch.tensor([[2.0, 3, 0, 0]]))


@pytest.mark.parametrize("orders", [[], [0], [3, 10], [-1, 2]])
def test_impossible_orders_are_refused_with_the_range(orders: list[int]) -> None:
    with pytest.raises(HyenaError, match=r"1 to 9 for filters of length 20, got \["):
        distill(torch.randn(2, 20), orders)
