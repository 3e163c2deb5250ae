"""State-space kernels: the impulse responses of linear systems, as taps for `hyena.ops.fftconv`."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def diagonal_kernel(
    A: Complex[Tensor, "*channels modes"],
    C: Complex[Tensor, "*channels modes"],
    dt: Float[Tensor, "*channels"],
    length: int,
) -> Float[Tensor, "*channels length"]:
    r"""Impulse response of a diagonal state space under zero-order hold, one of each conjugate pair stored.

    $$K_l = 2\,\mathrm{Re} \sum_{n} C_n \frac{e^{\Delta A_n} - 1}{A_n} e^{l \Delta A_n}$$

    (Gu et al. 2022, S4D, arXiv 2206.11893, Section 3; $B$ is absorbed in $C$.) The Vandermonde product costs
    `modes * length` per channel.

    Arguments:
        A: eigenvalues, negative real parts, not zero.
        C: output weights.
        dt: step size, positive.
        length: taps.
    """
    dtA = A * dt[..., None]
    weights = C * torch.expm1(dtA) / A
    steps = torch.arange(length, device=A.device)
    powers = torch.exp(dtA[..., None] * steps)  # (..., modes, length)
    return 2 * torch.einsum("...n,...nl->...l", weights, powers).real


def s4d_lin(modes: int) -> Complex[Tensor, " modes"]:
    r"""The initial eigenvalues $A_n = -\tfrac12 + i\pi n$ (S4D-Lin), one of each conjugate pair."""
    return torch.complex(torch.full((modes,), -0.5), math.pi * torch.arange(modes, dtype=torch.get_default_dtype()))


def rational_kernel(
    b: Float[Tensor, "channels order"], a: Float[Tensor, "channels order"], length: int
) -> Float[Tensor, "channels length"]:
    r"""Impulse response of a transfer function, sampled on the unit circle.

    $$H(z) = \frac{b_0 + b_1 z^{-1} + \dots + b_{N-1} z^{-(N-1)}}{1 + a_1 z^{-1} + \dots + a_N z^{-N}}$$

    evaluated at $2L$ roots of unity and transformed back: the response of the recurrence
    $y_t = \sum_j b_j u_{t-j} - \sum_j a_j y_{t-j}$, apart from what rings on beyond $2L$ steps, which is folded
    onto the start. Costs $O(L \log L)$ whatever the order.
    """
    n = 2 * max(length, b.shape[-1] + 1)
    denominator = torch.nn.functional.pad(a, (1, 0))
    response = torch.fft.rfft(b, n) / (1 + torch.fft.rfft(denominator, n))
    return torch.fft.irfft(response, n)[..., :length]
