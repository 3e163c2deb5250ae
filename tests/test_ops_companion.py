"""Companion state spaces: equal to powers of the matrix, the official kernels, and autoregressive processes."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyena.ops import companion
from hyena.ops.companion import (
    closed_loop,
    companion_kernel,
    companion_matrix,
    correlation,
    krylov,
    product,
    series_inverse,
)

DRAWN = settings(deadline=None, max_examples=30)
SEEDS, SIZES, LENGTHS = st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40)
pytestmark = pytest.mark.usefixtures("float64")


def by_powers(matrix: Tensor, c: Tensor, x: Tensor, length: int) -> Tensor:
    """c M^l x, one product with the matrix after the other."""
    found = []
    for _ in range(length):
        found.append((c * x).sum(-1))
        x = (matrix @ x[..., None])[..., 0]
    return torch.stack(found, -1)


def system(*shape: int) -> list[Tensor]:
    """a, b, c and k of (..., d), the first and last small enough that nothing explodes."""
    a, b, c, k = torch.randn(4, *shape)
    return [a / a.abs().sum(-1, keepdim=True), b, c, 0.3 * k / k.abs().sum(-1, keepdim=True)]


@DRAWN
@given(SIZES, LENGTHS, st.lists(st.integers(1, 3), max_size=2).map(tuple), SEEDS)
def test_a_kernel_is_powers_of_the_matrix(d, length, batch, seed) -> None:
    torch.manual_seed(seed)
    a, b, c, _ = system(*batch, d)
    close(companion_kernel(a, b, c, length), by_powers(companion_matrix(a), c, b, length))


@DRAWN
@given(SIZES, LENGTHS, st.integers(1, 3), SEEDS)
def test_a_closed_loop_is_powers_of_the_matrix_with_feedback(d, length, heads, seed) -> None:
    torch.manual_seed(seed)
    a, b, c, k = system(heads, d)
    x = torch.randn(2, heads, d)
    matrix = companion_matrix(a) + b[..., :, None] * k[..., None, :]
    close(closed_loop(a, b, c, k, x, length), by_powers(matrix, c, x, length), 1e-9)


@DRAWN
@given(SIZES, LENGTHS, SEEDS)
def test_krylov_rows_are_powers_of_any_matrix(d, length, seed) -> None:
    torch.manual_seed(seed)
    matrix, v = torch.randn(2, d, d) / d, torch.randn(2, d)
    unit = torch.eye(d)
    expected = torch.stack([by_powers(matrix, unit[i].expand_as(v), v, length) for i in range(d)], -1)
    close(krylov(matrix, v, length), expected)


@pytest.mark.parametrize("size", ["d8_l24", "d16_l16", "d25_l9"])
def test_kernels_and_gradients_are_those_of_the_official_code(reference, size: str) -> None:
    found, _ = reference(f"spacetime_companion_kernel_{size}")
    a, b, c = (found[name].requires_grad_() for name in "abc")
    kernel = companion_kernel(a, b, c, found["K"].shape[-1])
    close(kernel, found["K"])
    close(companion_matrix(a), found["A"])
    (kernel * found["cotangent"]).sum().backward()
    for name, tensor in zip("abc", (a, b, c), strict=True):
        close(tensor.grad, found[f"grad_{name}"])


@pytest.mark.parametrize("length", [1, 5, 16])
def test_gradients_are_right(length: int) -> None:
    a, b, c, k = (t.requires_grad_() for t in system(2, 4))
    x = torch.randn(3, 2, 4, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *s: companion_kernel(*s, length), (a, b, c))
    assert torch.autograd.gradcheck(lambda *s: closed_loop(*s, length), (a, b, c, k, x))


def test_a_shift_register_is_an_autoregressive_predictor() -> None:
    phi, first = torch.tensor([0.5, -0.3, 0.2, 0.1]), torch.eye(4)[0]
    kernel = companion_kernel(torch.zeros(4), first, phi, 9)
    close(kernel, torch.cat([phi, torch.zeros(5)]))


def test_the_free_run_of_a_companion_matrix_obeys_the_recurrence_of_its_last_column() -> None:
    a = torch.tensor([0.1, 0.2, -0.3, 0.5])
    y = by_powers(companion_matrix(a), torch.randn(4), torch.randn(4), 20)
    phi = a.flip(0)  # weight of the value one step ago first
    recurrence = torch.stack([phi @ y[t - 4 : t].flip(0) for t in range(4, 20)])
    close(y[4:], recurrence)


@pytest.mark.parametrize(
    "phi", [[0.5, -0.3, 0.2], [0.0, 0.0, 0.0, 1.0], [1.0]], ids=["stable", "seasonal unit root", "random walk"]
)
def test_a_closed_loop_continues_an_autoregressive_process(phi: list[float]) -> None:
    weights = torch.tensor(phi)
    d, past = len(phi), torch.randn(10)
    state = past.flip(0)[:d]  # what a shift register holds after reading the past
    zero, first = torch.zeros(d), torch.eye(d)[0]
    series = past.tolist()
    for _ in range(12):
        series.append(float(weights @ torch.tensor(series[-d:]).flip(0)))
    close(closed_loop(zero, first, weights, weights, state, 12), torch.tensor(series[10:]))


def test_a_closed_loop_is_the_open_loop_fed_with_its_own_predictions() -> None:
    a, b, _, k = system(5)
    past, steps = torch.randn(7), 9
    inputs = past.tolist()
    for _ in range(steps):
        kernel = companion_kernel(a, b, k, len(inputs)).flip(0)
        inputs.append(float(kernel @ torch.tensor(inputs)))
    state = (past.flip(0)[:, None] * krylov(companion_matrix(a), b, 7)).sum(0)
    close(closed_loop(a, b, k, k, state, steps), torch.tensor(inputs[7:]))


@DRAWN
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), SEEDS)
def test_correlation_and_product_are_sums_by_hand(n, m, length, seed) -> None:
    torch.manual_seed(seed)
    u, v, w = torch.randn(n), torch.randn(n), torch.randn(m)
    close(
        correlation(u, v, length),
        torch.stack([(u[i:] * v[: max(0, n - i)]).sum() if i < n else torch.zeros(()) for i in range(length)]),
        1e-11,
    )
    by_hand = [sum(u[j] * w[i - j] for j in range(n) if 0 <= i - j < m) + torch.zeros(()) for i in range(length)]
    close(product(u, w, length), torch.stack(by_hand), 1e-11)


@DRAWN
@given(st.integers(1, 33), SEEDS)
def test_a_series_times_its_inverse_is_one(length, seed) -> None:
    torch.manual_seed(seed)
    series = torch.cat([torch.ones(1), 0.3 * torch.randn(length - 1)])
    one = torch.zeros(length)
    one[0] = 1
    inverse = series_inverse(series)
    close(product(series, inverse, length), one, 1e-12 * max(1.0, inverse.abs().max().item()))


@DRAWN
@given(SIZES, st.integers(1, 300), SEEDS)
def test_a_circle_gives_what_series_give_and_their_gradients(d, length, seed) -> None:
    torch.manual_seed(seed)
    roots = torch.eye(d) * torch.where(torch.rand(d, 1) < 0.5, -1, 1)  # each on the unit circle, d times
    a = torch.cat([system(4, d)[0], roots])
    given = [vector.requires_grad_() for vector in (a, *torch.randn(2, d + 4, d))]
    series, circle = (form(*given, length) for form in (companion._by_series, companion._on_circle))
    bound = 1e-8 * given[2].abs().amax(-1) * given[1].abs().sum(-1)
    assert ((series - circle).abs() <= bound[:, None]).all()
    weights = torch.randn_like(series)
    slopes = [torch.autograd.grad((form * weights).sum(), given) for form in (series, circle)]
    for wanted, found in zip(*slopes, strict=True):
        assert_close(found, wanted, atol=1e-5 * (1 + wanted.abs().max().item()), rtol=0)


@pytest.mark.parametrize(("excess", "road"), [(0.0, "_on_circle"), (1e-3, "_by_series")], ids=["bounded", "growing"])
def test_a_circle_is_for_single_precision_and_norms_up_to_one(monkeypatch, excess: float, road: str) -> None:
    taken = []
    for name in ("_on_circle", "_by_series"):
        form = getattr(companion, name)
        monkeypatch.setattr(companion, name, lambda *args, n=name, f=form: taken.append(n) or f(*args))
    a, b, c, _ = system(3, 6)
    companion_kernel(*(vector.float() for vector in ((1 + excess) * a, b, c)), 20)
    companion_kernel(a, b, c, 20)
    assert taken == [road, "_by_series"]


@pytest.mark.parametrize(("growth", "length"), [(1, 4096), (4, 100)], ids=["stable", "growing"])
def test_single_precision_keeps_six_digits(growth: int, length: int) -> None:
    a, b, c, k = (vector.float() for vector in system(8, 16))
    a, x = growth * a, torch.randn(4, 8, 16, dtype=torch.float32)
    kernel, run = companion_kernel(a, b, c, length), closed_loop(a, b, c, k, x, length)
    a, b, c, k, x = (vector.double() for vector in (a, b, c, k, x))
    exact = companion_kernel(a, b, c, length)
    close(kernel.double(), exact, 3e-6)
    close(run.double(), closed_loop(a, b, c, k, x, length), 3e-6)
    assert growth == 1 or exact.abs().max() > 1e6
