"""Cosine and real Fourier transforms: against their sums, the official numbers, and what orthonormal means."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyena.errors import HyenaError
from hyena.ops.dct import BASES, analyse, basis_matrix, dct, idct, synthesise

DRAWN = settings(deadline=None, max_examples=25)
SIZES = (1, 2, 3, 8, 9, 16, 31)


def field(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_sum(x: Tensor) -> Tensor:
    """X_k = c_k sum_n x_n cos(pi (n + 1/2) k / N), term by term."""
    n = x.shape[-1]
    scale = [math.sqrt((1 if k == 0 else 2) / n) for k in range(n)]
    rows = [[scale[k] * math.cos(math.pi * (i + 0.5) * k / n) for i in range(n)] for k in range(n)]
    return torch.stack([sum(x[..., i] * rows[k][i] for i in range(n)) for k in range(n)], -1)


@pytest.mark.parametrize("size", SIZES)
def test_dct_is_its_sum(size: int) -> None:
    x = field(2, size)
    close(dct(x), by_sum(x), 1e-12)
    close(analyse(x, (size,)), by_sum(x), 1e-12)


def test_dct_and_its_inverse_are_the_official_ones(reference) -> None:
    stored, _ = reference("t1_dct")
    close(dct(stored["x1"]), stored["dct1"])
    close(dct(stored["x2"], (-2, -1)), stored["dct2"])
    close(idct(stored["dct2"], (-2, -1)), stored["x2"])


@pytest.mark.parametrize("size", SIZES)
def test_dct_agrees_with_scipy_along_any_axis(size: int) -> None:
    x = field(3, size, 4)
    close(dct(x, (1,)), torch.from_numpy(scipy.fft.dct(x.numpy(), axis=1, norm="ortho")))


@DRAWN
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_the_inverse_undoes_the_transform_along_all_axes(sizes: list[int]) -> None:
    x, axes = field(2, *sizes), tuple(range(1, 1 + len(sizes)))
    close(idct(dct(x, axes), axes), x, 1e-12)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("size", SIZES)
def test_bases_are_orthonormal(basis: str, size: int) -> None:
    rows = basis_matrix(basis, size, size, torch.float64)
    close(rows @ rows.T, torch.eye(size, dtype=torch.float64), 1e-12)


def test_the_fourier_rows_span_what_the_fft_keeps() -> None:
    x = field(16)
    X = torch.fft.rfft(x, norm="ortho")
    found = analyse(x, (7,), "fourier")  # the mean, and sine and cosine of three frequencies
    close(found[0], X[0].real)
    close(found[1::2] ** 2 + found[2::2] ** 2, 2 * X[1:4].abs() ** 2)


def test_low_frequencies_come_first() -> None:
    n = (torch.arange(12, dtype=torch.float64) + 0.5) / 12
    slow, fast = torch.cos(2 * math.pi * n), torch.cos(2 * math.pi * 4 * n)
    for basis, first in (("dct", 3), ("fourier", 3)):
        close(synthesise(analyse(slow, (first,), basis), (12,), basis), slow)
        assert analyse(fast, (first,), basis).abs().max() < 1e-12


@pytest.mark.parametrize("basis", BASES)
def test_parseval_holds_and_cut_coefficients_are_the_first_of_all(basis: str) -> None:
    x = field(2, 6, 9)
    everything = analyse(x, (6, 9), basis)
    close(everything.square().sum(), x.square().sum())
    close(analyse(x, (4, 5), basis), everything[..., :4, :5])


@pytest.mark.parametrize("basis", BASES)
def test_synthesis_is_the_transpose_of_analysis(basis: str) -> None:
    x, X = field(1, 6, 9), field(1, 4, 5).flip(-1)
    close((analyse(x, (4, 5), basis) * X).sum(), (x * synthesise(X, (6, 9), basis)).sum())


def test_three_axes_are_transformed_one_after_another() -> None:
    x = field(2, 3, 4, 5)
    close(analyse(x, (3, 4, 5)), torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(1, 2, 3), norm="ortho")))


def test_gradients_are_those_of_a_linear_map() -> None:
    x = field(2, 7).requires_grad_()
    assert torch.autograd.gradcheck(dct, (x,)) and torch.autograd.gradcheck(idct, (x,))


def test_long_axes_lose_no_digits_in_single_precision() -> None:
    rows = basis_matrix("dct", 4096, 8)
    close(rows.double(), basis_matrix("dct", 4096, 8, torch.float64), 1e-6)
    x = np.random.default_rng(0).standard_normal(4096)
    close(dct(torch.from_numpy(x).float()).double(), dct(torch.from_numpy(x)), 1e-6)


@pytest.mark.parametrize("modes", [0, 9])
def test_more_modes_than_samples_are_refused(modes: int) -> None:
    with pytest.raises(HyenaError, match="keep 1 to 8"):
        analyse(field(8), (modes,))


def test_unknown_bases_are_refused() -> None:
    with pytest.raises(HyenaError, match="did you mean 'fourier'"):
        analyse(field(8), (3,), "furier")
