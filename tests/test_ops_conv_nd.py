"""Convolutions over grids: the direct sum, three forms of it, and what a Toeplitz matrix is."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyena.ops import conv_nd as ops
from hyena.ops.conv_nd import conv_nd, dense_conv, dense_kernel, separable_conv, spectral_conv, toeplitz_matrix

FORMS = (separable_conv, spectral_conv, dense_conv)
GRIDS = [(7,), (1,), (4, 6), (5, 1), (3, 4, 5), (2, 3, 2, 3)]
DRAWN = settings(deadline=None, max_examples=25)
pytestmark = pytest.mark.usefixtures("float64")


def made(grid: tuple[int, ...], rank: int = 1, batch: int = 2, channels: int = 3) -> tuple[Tensor, list[Tensor]]:
    u = torch.randn(batch, channels, *grid)
    return u, [torch.randn(rank, channels, 2 * side - 1) for side in grid]


def direct(u: Tensor, kernels: list[Tensor]) -> Tensor:
    """The sum over all places, with the products of taps written out."""
    grid = u.shape[2:]
    places = list(product(*map(range, grid)))
    y = torch.zeros_like(u)
    for t in places:
        for s in places:
            taps = torch.ones(kernels[0].shape[:2])
            for j, side in enumerate(grid):
                taps = taps * kernels[j][:, :, t[j] - s[j] + side - 1]
            y[(..., *t)] += taps.mean(0) * u[(..., *s)]
    return y


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_three_forms_are_the_direct_sum(grid: tuple[int, ...], rank: int) -> None:
    u, kernels = made(grid, rank)
    expected = direct(u, kernels)
    for form in FORMS:
        close(form(u, kernels), expected, 1e-12)


@pytest.mark.parametrize("rank", [1, 4, 5])
def test_the_chosen_form_adds_the_skip(rank: int) -> None:
    u, kernels = made((4, 5), rank)
    skip = torch.randn(3)
    close(conv_nd(u, kernels, skip), direct(u, kernels) + u * skip[:, None, None], 1e-12)


def test_long_axes_are_transforms_with_the_same_numbers(monkeypatch) -> None:
    u, kernels = made((6, 9, 5), 2)
    expected = separable_conv(u, kernels)
    monkeypatch.setattr(ops, "TOEPLITZ_SIDE", 5)
    close(separable_conv(u, kernels), expected, 1e-12)


@pytest.mark.parametrize("rank", [1, 5])
def test_half_precision_is_computed_in_that_of_the_kernels(rank: int) -> None:
    u, kernels = made((4, 5), rank)
    half, kernels = u.bfloat16(), [k.float() for k in kernels]
    expected = conv_nd(half.float(), kernels, torch.ones(3, dtype=torch.float32)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv_nd(half, kernels, torch.ones(3, dtype=torch.float32)), expected)


def test_the_dense_kernel_is_the_mean_of_outer_products() -> None:
    _, (a, b) = made((3, 2), 2)
    close(dense_kernel([a, b]), torch.einsum("rci,rcj->cij", a, b) / 2, 1e-12)


def test_a_toeplitz_matrix_has_its_lags_on_diagonals() -> None:
    k = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0]])
    assert toeplitz_matrix(k)[0].tolist() == [[0.0, -1.0, -2.0], [1.0, 0.0, -1.0], [2.0, 1.0, 0.0]]


@DRAWN
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_linear_in_the_input(grid: list[int], rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    u, kernels = made(tuple(grid), rank)
    v, a = torch.randn_like(u), torch.randn(()).item()
    for form in FORMS:
        close(form(a * u + v, kernels), a * form(u, kernels) + form(v, kernels), 1e-10)


@DRAWN
@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_a_causal_axis_never_reads_what_comes_after(row: int, column: int, seed: int) -> None:
    torch.manual_seed(seed)
    u, kernels = made((4, 5))
    kernels[0][..., :3] = 0  # negative lags of the first axis
    changed = u.clone()
    changed[:, :, row, column] += 1
    for form in FORMS:
        difference = (form(changed, kernels) - form(u, kernels)).abs().amax((0, 1, 3))
        assert (difference[:row] < 1e-12).all() and difference[row] > 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_differences(form) -> None:
    u, kernels = made((3, 4), 2, batch=1, channels=2)
    inputs = [x.requires_grad_() for x in (u, *kernels)]
    assert torch.autograd.gradcheck(lambda u, *k: form(u, list(k)), inputs)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "shapes", [[(1, 3, 7)], [(1, 3, 7), (1, 3, 8)], [(1, 3, 7), (1, 2, 9)], [(1, 3, 7), (2, 3, 9)]]
)
def test_kernels_that_do_not_fit_the_grid_are_refused(shapes: list[tuple[int, ...]]) -> None:
    u = torch.randn(1, 3, 4, 5)
    for form in FORMS:
        with pytest.raises(
            ValueError, match=r"a grid of sides \(4, 5\) with 3 channels takes one kernel per axis.*\[7, 9\]"
        ):
            form(u, [torch.randn(shape) for shape in shapes])
