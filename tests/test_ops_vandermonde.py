"""The blocked kernel is the sum over modes, and so are its gradients."""

import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena.ops.vandermonde import blocked_kernel


def system(modes: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    some = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=some, dtype=dtype)  # noqa: E731
    A = torch.complex(-0.1 - draw(2, modes).abs(), 5 * draw(2, modes))
    B, C = (torch.complex(draw(2, modes), draw(2, modes)) for _ in range(2))
    return A, B, C, 0.01 + draw(2).abs() / 10


def direct(A, B, C, dt, length: int) -> torch.Tensor:
    """By the recurrence of every mode, tap after tap."""
    state, taps = B * (torch.exp(dt[:, None] * A) - 1) / A, []
    for _ in range(length):
        taps.append(2 * (C * state).sum(-1).real)
        state = state * torch.exp(dt[:, None] * A)
    return torch.stack(taps, -1)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 130), st.integers(1, 6), st.integers(0, 1000))
def test_taps_are_those_of_the_recurrence(length, modes, seed):
    close(blocked_kernel(*system(modes, seed), length), direct(*system(modes, seed), length), 1e-11)


def test_single_precision_keeps_its_digits():
    double = blocked_kernel(*system(8, 0), 5000)
    single = blocked_kernel(*(x.to(torch.cfloat if x.is_complex() else torch.float) for x in system(8, 0)), 5000)
    close(single.double(), double, 1e-5)


def test_gradients():
    parameters = [x.requires_grad_() for x in system(3, 0)]
    assert torch.autograd.gradcheck(lambda *system: blocked_kernel(*system, 7), parameters)
