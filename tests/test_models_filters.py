"""Other parametrisations of a long filter: what each is, its shape, its bound, and how it starts."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import close
from torch import Tensor

from hyena.errors import HyenaError
from hyena.models.filters import (
    CKConvFilter,
    ExplicitFilter,
    FixedFilter,
    FourierFilter,
    StateSpaceFilter,
    TransferFunctionFilter,
)
from hyena.models.hyena import HyenaFilter, HyenaOperator
from hyena.models.lm import LanguageModel
from hyena.models.mixers import FILTERS, H3

CHANNELS, L_MAX = 3, 20


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=FILTERS)
def name(request) -> str:
    return request.param


def fixed(channels: int = CHANNELS, l_max: int = L_MAX) -> FixedFilter:
    return FixedFilter(torch.randn(channels, l_max), torch.randn(channels))


# What all share


@pytest.mark.parametrize("length", [1, 7, L_MAX])
@torch.no_grad()
def test_a_shorter_input_sees_the_first_taps_of_the_same_filter(name: str, length: int) -> None:
    for made in (FILTERS[name](CHANNELS, L_MAX), fixed()):
        taps = made(length)
        assert taps.shape == (CHANNELS, length) and made.skip().shape == (CHANNELS,)
        close(taps, made(L_MAX)[:, :length])


def test_a_filter_has_no_taps_beyond_its_bound(name: str) -> None:
    for made in (FILTERS[name](CHANNELS, L_MAX), fixed()):
        with pytest.raises(HyenaError, match=r"length 21 exceeds l_max 20.*build the model with l_max=21"):
            made(L_MAX + 1)


def test_an_operator_refuses_what_its_filter_does_not_reach(name: str) -> None:
    for operator in (HyenaOperator(4, 8, order=3, long_filter=FILTERS[name]), H3(4, 8)):
        operator(torch.randn(2, 8, 4))
        with pytest.raises(HyenaError, match="length 9 exceeds l_max 8"):
            operator(torch.randn(2, 9, 4))
        with pytest.raises(HyenaError, match="length 9 exceeds l_max 8"):
            operator.stream(batch=2, prompt=4, steps=5)


def test_all_but_the_skip_weight_is_exempt_from_weight_decay(name: str) -> None:
    parameters = dict(FILTERS[name](CHANNELS, L_MAX).named_parameters())
    assert not hasattr(parameters.pop("bias"), "_optim")
    assert parameters
    assert [p._optim for p in parameters.values()] == [{"weight_decay": 0.0}] * len(parameters)


def test_every_number_of_a_filter_learns(name: str) -> None:
    made = FILTERS[name](CHANNELS, L_MAX)
    taps = made(L_MAX)
    (taps * torch.randn_like(taps)).sum().backward()
    for parameter in (p for n, p in made.named_parameters() if n != "bias"):
        assert parameter.grad.isfinite().all() and parameter.grad.any()


@torch.no_grad()
def test_all_start_with_comparable_energy_in_a_language_model() -> None:
    def energy(long_filter) -> float:
        mixer = HyenaOperator(32, 256, w=10.0, emb_dim=5, long_filter=long_filter)
        LanguageModel(8, 32, 1, 8, lambda: mixer, l_max=256)
        return mixer.filter_fn(256).square().sum(1).mean().item()

    energies = [energy(made) for made in (None, *FILTERS.values())]
    assert max(energies) < 100 * min(energies)


@torch.no_grad()
def test_taps_are_float32_under_autocast(name: str) -> None:
    made = FILTERS[name](CHANNELS, L_MAX).float()
    with torch.autocast("cpu", torch.bfloat16):
        taps = made(L_MAX)
    assert taps.dtype == torch.float32
    close(taps, made(L_MAX), 0.05)


# What each is


@torch.no_grad()
def test_explicit_taps_are_zero_beyond_their_number() -> None:
    made = ExplicitFilter(CHANNELS, L_MAX, taps=6)
    close(made(L_MAX), torch.cat([made.taps, torch.zeros(CHANNELS, 14)], dim=1))
    assert ExplicitFilter(CHANNELS, 4, taps=6)(4).shape == (CHANNELS, 4)


@pytest.mark.parametrize("l_max", [20, 21])
@pytest.mark.parametrize("modes", [1, 4, 64])
@torch.no_grad()
def test_a_fourier_filter_is_its_real_fourier_sum(l_max: int, modes: int) -> None:
    made = FourierFilter(CHANNELS, l_max, modes)
    expected = torch.zeros(CHANNELS, l_max)
    for m in range(min(modes, l_max // 2 + 1)):
        share = 1 if m == 0 or 2 * m == l_max else 2  # the others stand for their conjugates too
        for t in range(l_max):
            angle = 2 * math.pi * m * t / l_max
            real, imaginary = made.coefficients[:, m].T
            expected[:, t] += share * (real * math.cos(angle) - imaginary * math.sin(angle)) / math.sqrt(l_max)
    close(made(l_max), expected)


@torch.no_grad()
def test_a_state_space_filter_is_the_response_of_its_recurrence() -> None:
    made = StateSpaceFilter(CHANNELS, L_MAX, d_state=8)
    A = torch.complex(-made.log_A_real.exp(), made.A_imag)
    C, dtA = torch.complex(*made.C.unbind(-1)), made.log_dt.exp()[:, None] * A
    assert A.shape == C.shape == (CHANNELS, 4), "one of each conjugate pair"
    x = (dtA.exp() - 1) / A
    for tap in made(L_MAX).T:
        close(tap, 2 * (C * x).sum(1).real)
        x = dtA.exp() * x


@torch.no_grad()
def test_a_state_space_starts_as_s4d_lin_with_steps_within_its_range() -> None:
    made = StateSpaceFilter(500, L_MAX, d_state=6, dt_min=0.01, dt_max=0.02)
    close(made.log_A_real.exp(), torch.full((500, 3), 0.5))
    close(made.A_imag, math.pi * torch.arange(3.0).expand(500, 3))
    dt = made.log_dt.exp()
    assert 0.01 <= dt.min() < 0.0105 and 0.019 < dt.max() <= 0.02
    assert 0.9 < made.C.square().sum(-1).mean() < 1.1


@torch.no_grad()
def test_a_transfer_function_is_its_recurrence() -> None:
    made = TransferFunctionFilter(CHANNELS, 80, order=3)
    close(made(80)[:, :3], made.numerator)
    assert made(80)[:, 3:].abs().max() < 1e-12, "starts as free taps"
    made.denominator += 0.2 * (2 * torch.rand(CHANNELS, 3) - 1)
    b, a, h = made.numerator, made.denominator, []
    for t in range(80):
        h.append((b[:, t] if t < 3 else 0) - sum(a[:, j] * h[t - 1 - j] for j in range(min(3, t))))
    close(made(80), torch.stack([torch.as_tensor(tap) for tap in h], dim=1), 1e-10)


@torch.no_grad()
def test_a_ckconv_filter_is_a_sine_network_of_position() -> None:
    made = CKConvFilter(CHANNELS, L_MAX, width=5, w=7.0)
    first, sine, second, same, last = made.network
    assert sine is same and torch.equal(sine.freq, torch.full((1, 5), 7.0)) and last.bias is None
    for i, tap in enumerate(made(L_MAX).T):
        x = torch.tensor([-1 + 2 * i / (L_MAX - 1)])
        x = torch.sin(7 * (first.weight @ x + first.bias))
        x = torch.sin(7 * (second.weight @ x + second.bias))
        close(tap, last.weight @ x)


@torch.no_grad()
def test_a_fixed_filter_in_place_of_a_trained_one_leaves_the_operator_as_it_was() -> None:
    operator, u = HyenaOperator(4, 16, order=3), torch.randn(2, 12, 4)
    before, learned = operator(u), operator.filter_fn
    operator.filter_fn = FixedFilter(learned(16), learned.skip())
    assert isinstance(learned, HyenaFilter)
    close(operator(u), before)
    assert not list(operator.filter_fn.parameters()) and len(operator.filter_fn.state_dict()) == 2


def test_a_fixed_filter_keeps_its_own_copy() -> None:
    taps, skip = torch.randn(2, 5, requires_grad=True), torch.randn(2)
    made, before = FixedFilter(taps, skip), taps.detach().clone()
    with torch.no_grad():
        taps.zero_()
    assert torch.equal(made(5), before) and not made(5).requires_grad


def test_numbers_are_drawn_as_those_of_a_depthwise_convolution() -> None:
    def spread(x: Tensor) -> tuple[float, float]:
        return x.abs().max().item(), x.std().item()

    taps, conv = ExplicitFilter(2000, 64, taps=16).taps, torch.nn.Conv1d(2000, 2000, 16, groups=2000).weight
    assert spread(taps.detach()) == pytest.approx(spread(conv.detach()), rel=0.02)
    assert spread(taps.detach())[0] <= 0.25
