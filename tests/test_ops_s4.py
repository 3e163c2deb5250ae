"""Structured state spaces: the official matrices and kernels, and the same system as kernel, steps and chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from closeness import close
from conftest import REFERENCE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyena.errors import HyenaError
from hyena.ops.s4 import (
    DIAGONAL,
    LOW_RANK,
    band_limited,
    diagonal_init,
    discretised,
    dplr_discretised,
    dplr_kernel,
    hippo_fourier,
    hippo_legs,
    low_rank_init,
    s4d_kernel,
    s4d_recall,
    s4d_states,
    truncated,
    untruncated,
)

DRAWN = settings(deadline=None, max_examples=25)
SEEDS, LENGTHS = st.integers(0, 2**32 - 1), st.integers(1, 40)
STATES = (4, 8, 16, 64)
pytestmark = pytest.mark.usefixtures("float64")


def system(seed: int, channels: int = 2, modes: int = 3) -> tuple[Tensor, ...]:
    """A, B, C and dt of a stable diagonal system."""
    torch.manual_seed(seed)
    A = torch.complex(-torch.rand(channels, modes) - 0.05, 4 * torch.randn(channels, modes))
    B, C = torch.randn(2, channels, modes, dtype=torch.complex128)
    return A, B, C, 0.05 + torch.rand(channels)


def by_steps(Abar: Tensor, Bbar: Tensor, C: Tensor, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The recurrence of a diagonal system, one input after the other: outputs and the last state."""
    x, y = torch.zeros_like(Bbar) if state is None else state, []
    for t in range(u.shape[-1]):
        x = Abar * x + Bbar * u[..., t, None]
        y.append(2 * (C * x).sum(-1).real)
    return torch.stack(y, -1), x


# Initial matrices


@pytest.mark.parametrize("n", STATES)
def test_hippo_and_its_modes_are_the_official_ones(reference, n: int) -> None:
    stored = _complex("s4_init")
    for found, name in zip(hippo_legs(n), "AB", strict=True):
        close(found, stored[f"legs_{name}_{n}"])
    for name, official, tolerance in (("legs", "legs", 1e-11), ("fourier", "fout", 1e-7)):
        if f"{official}_W_{n}" in stored:
            W, P, B = low_rank_init(name, n)
            w, p, b = (stored[f"{official}_{key}_{n}"] for key in ("W", "P", "Bt"))
            close(W, w, tolerance)
            close(P.conj() * B, p[0].conj() * b, tolerance)  # an eigenvector's phase is free
            close(P.abs(), p[0].abs(), tolerance)


@pytest.mark.parametrize("n", STATES)
@pytest.mark.parametrize("name", DIAGONAL)
def test_diagonal_initial_values_are_the_official_ones(name: str, n: int) -> None:
    stored = _complex("s4_init")
    A, B = diagonal_init(name, n)
    close(A, stored[f"diag_{name}_A_{n}"].to(A.dtype), 2e-6)
    close(B.abs(), stored[f"diag_{name}_B_{n}"].abs().double(), 2e-6)


@pytest.mark.parametrize(("name", "make"), [("legs", hippo_legs), ("fourier", hippo_fourier)])
def test_modes_and_conjugates_have_the_eigenvalues_of_hippo(name: str, make) -> None:
    W, P, _ = low_rank_init(name, 8)
    full, p = torch.cat([W, W.conj()]), torch.cat([P, P.conj()])
    dense = torch.diag(full) - p[:, None] * p.conj()
    found, expected = torch.linalg.eigvals(dense), torch.linalg.eigvals(make(8)[0].to(dense.dtype))
    apart = (found[:, None] - expected).abs()
    assert apart.amin(0).max() < 1e-6 and apart.amin(1).max() < 1e-6


@pytest.mark.parametrize("init", [diagonal_init, low_rank_init])
def test_an_odd_state_or_another_name_is_refused(init) -> None:
    with pytest.raises(HyenaError, match=r"d_state is even.*got 7"):
        init("legs", 7)
    with pytest.raises(HyenaError, match="unknown initial state matrix 'legz': did you mean 'legs'"):
        init("legz", 8)
    assert set(LOW_RANK) == {"legs", "fourier"}


# Diagonal kernels


@pytest.mark.parametrize("rule", ["zoh", "bilinear", "dss"])
@pytest.mark.parametrize("init", ["lin", "inv", "legs"])
def test_diagonal_kernels_at_three_rates_and_all_gradients_are_the_official_ones(reference, rule, init) -> None:
    if (rule, init) == ("zoh", "legs"):
        pytest.skip("no official numbers of this pair")
    stored, _ = reference(f"s4d_kernel_{rule}_diag-{init}")
    parameters = {key: value.double().requires_grad_() for key, value in stored.items() if key.startswith("param.")}
    tolerance = 3e-5 if rule == "dss" else 2e-6  # float32 there, and near 0 / 0
    for name, rate in {"K": 1.0, "K_rate2": 2.0, "K_rate05": 0.5}.items():
        close(official(parameters, rule, rate), stored[name].double(), tolerance)
    (official(parameters, rule) * stored["cotangent"]).sum().backward()
    for name, parameter in parameters.items():
        close(parameter.grad, stored[name.replace("param.", "grad.")].double(), 10 * tolerance)


def official(parameters: dict[str, Tensor], rule: str = "zoh", rate: float = 1.0, length: int = 24) -> Tensor:
    A, B, C, dt = unpacked(parameters)
    return s4d_kernel(A, B, C, rate * dt, length, rule)


def unpacked(parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
    A = -torch.exp(parameters["param.A_real"]) - 1j * parameters["param.A_imag"]
    B, C = (torch.view_as_complex(parameters[f"param.{name}"]) for name in "BC")
    copies = C.shape[1] // len(A)
    return A.repeat(copies, 1), B[0].repeat(copies, 1), C, torch.exp(parameters["param.inv_dt"])[:, 0]


@pytest.mark.parametrize("alpha", ["None", "0.2", "0.5", "1.0"])
def test_band_limited_kernels_are_the_official_ones_at_both_rates(reference, alpha: str) -> None:
    stored, _ = reference(f"s4d_kernel_bandlimit_{alpha}")
    A, B, C, dt = unpacked({key: value.double() for key, value in stored.items()})
    kept = C if alpha == "None" else band_limited(A, C, dt, float(alpha))
    close(s4d_kernel(A, B, kept, dt, 32), stored["K_rate1"].double(), 2e-6)
    close(s4d_kernel(A, B, kept, 2 * dt, 16), stored["K_rate2"].double(), 2e-6)


def test_the_band_limit_keeps_what_turns_slower_than_its_share_of_nyquist() -> None:
    frequency = torch.tensor([0.05, 0.15, 0.24, 0.26, 0.6])  # turns per step
    A, C = torch.complex(-torch.ones(1, 5), -2 * math.pi * frequency[None] / 0.5), torch.ones(1, 5, dtype=torch.cdouble)
    assert band_limited(A, C, torch.tensor([0.5]), 0.5).real.tolist() == [[1, 1, 1, 0, 0]]


@DRAWN
@given(LENGTHS, st.sampled_from(["zoh", "bilinear"]), SEEDS)
def test_a_diagonal_kernel_is_its_recurrence(length, rule, seed) -> None:
    A, B, C, dt = system(seed)
    Abar, gain = discretised(A, dt, rule)
    impulse = torch.zeros(2, length)
    impulse[:, 0] = 1
    close(s4d_kernel(A, B, C, dt, length, rule), by_steps(Abar, gain * B, C, impulse)[0], 1e-11)


@DRAWN
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["zoh", "bilinear"]), SEEDS)
def test_chunks_that_hand_their_state_on_are_the_whole(first, second, rule, seed) -> None:
    A, B, C, dt = system(seed)
    u = torch.randn(3, 2, first + second)
    Abar, gain = discretised(A, dt, rule)
    whole, last = by_steps(Abar, gain * B, C, u)
    state = s4d_states(A, B, dt, u[..., :first], rule)
    fresh, _ = by_steps(Abar, gain * B, C, u[..., first:])
    close(fresh + s4d_recall(A, C, dt, state, second, rule), whole[..., first:], 1e-11)
    close(s4d_states(A, B, dt, u[..., first:], rule, state), last, 1e-11)


def test_a_coarser_grid_sees_every_second_value_of_the_same_continuous_kernel() -> None:
    A, B, C, _ = system(0)
    fine, coarse = (s4d_kernel(A, B, C, torch.full((2,), dt), n) for dt, n in ((0.001, 400), (0.002, 200)))
    close(coarse, 2 * fine[:, ::2], 0.01)


@pytest.mark.parametrize("rule", ["zoh", "bilinear", "dss"])
def test_gradients_of_diagonal_kernels(rule: str) -> None:
    arguments = [x.requires_grad_() for x in system(0)]
    assert torch.autograd.gradcheck(lambda *s: s4d_kernel(*s, 5, rule), arguments)


@pytest.mark.usefixtures("unchecked")
def test_another_rule_is_refused() -> None:
    A, B, C, dt = system(0)
    with pytest.raises(HyenaError, match="unknown discretisation 'zho': did you mean 'zoh'"):
        s4d_kernel(A, B, C, dt, 4, "zho")


# Diagonal plus low rank


@pytest.mark.parametrize("name", ["legs_lmax24", "legs_lmaxNone", "fout_lmax24", "fout_lmaxNone", "hippo_lmaxNone"])
def test_low_rank_kernels_and_their_steps_are_the_official_ones(reference, name: str) -> None:
    stored, _ = reference(f"s4_dplr_kernel_{name}")
    matrices = _complex(f"s4_dplr_kernel_{name}")
    parameters = {key: value.double().requires_grad_() for key, value in stored.items() if key.startswith("param.")}
    A, B, C, dt = unpacked(parameters)
    P = torch.view_as_complex(parameters["param.P"])[0].repeat(len(A) // parameters["param.P"].shape[1], 1)
    tolerance = 2e-6 if name.startswith("legs") else 6e-5  # of float32 there
    kernel = dplr_kernel(A, P, B, C, dt, 24)
    close(kernel, stored["K"].double(), tolerance)
    close(dplr_kernel(A, P, B, C, 2 * dt, 12), stored["K_rate2_half"].double(), tolerance)
    (kernel * stored["cotangent"]).sum().backward()
    for key in ("inv_dt", "C", "B", "A_real", "A_imag", "P"):
        # the last Fourier mode is nearly zero: in float32 the gradient of its frequency is noise, ours and theirs
        kept = slice(0, 7) if key == "A_imag" else slice(None)
        close(parameters[f"param.{key}"].grad[..., kept], stored[f"grad.{key}"][..., kept].double(), 15 * tolerance)
    Abar, Bbar = dplr_discretised(A, P, B, dt)
    close(Abar, matrices["dA"].to(Abar.dtype), 2e-6)
    close(Bbar, matrices["dB"].to(Bbar.dtype), 2e-6)
    before = torch.view_as_complex(stored["init.C"].double())
    close(truncated(Abar, before, 24), C.detach(), 5e-6)


@DRAWN
@given(st.integers(1, 30), SEEDS)
def test_a_low_rank_kernel_is_powers_of_its_dense_matrix(length, seed) -> None:
    A, B, C, dt = system(seed)
    P = torch.randn_like(A)
    Abar, x = dplr_discretised(A, P, B, dt)
    full, expected = torch.cat([C, C.conj()], -1), []
    for _ in range(length):
        expected.append((full * x).sum(-1).real)
        x = (Abar @ x[..., None])[..., 0]
    short = truncated(Abar, C, length)
    close(dplr_kernel(A, P, B, short, dt, length), torch.stack(expected, -1), 1e-9)
    close(untruncated(Abar, short, length), C, 1e-6)


def test_without_a_low_rank_part_it_is_the_diagonal_kernel() -> None:
    A, B, C, dt = system(3)
    Abar, _ = dplr_discretised(A, torch.zeros_like(A), B, dt)
    for length in (1, 2, 7, 16):
        found = dplr_kernel(A, torch.zeros_like(A), B, truncated(Abar, C, length), dt, length)
        close(found, s4d_kernel(A, B, C, dt, length, "bilinear"), 1e-10)


def test_gradients_of_low_rank_kernels() -> None:
    A, B, C, dt = (x.requires_grad_() for x in system(0))
    P = torch.randn(2, 3, dtype=torch.cdouble, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *s: dplr_kernel(*s, 6), (A, P, B, C, dt))


def _complex(name: str) -> dict[str, Tensor]:
    """All arrays of a file, complex ones too."""
    with np.load(REFERENCE / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored if stored[key].dtype.kind in "fc"}
