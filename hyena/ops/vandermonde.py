r"""The kernel of a diagonal state space by one real matrix product.

Powers are split as $\bar A^{cm + j} = \bar A^{cm} \bar A^j$ with $c \approx \sqrt L$, so that only about $2 \sqrt L$
exponentials per mode are taken, and the sum over modes is a product of a (L/c, N) and an (N, c) matrix.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def blocked_kernel(
    A: Complex[Tensor, "*#channels modes"],
    B: Complex[Tensor, "*#channels modes"],
    C: Complex[Tensor, "*#channels modes"],
    dt: Float[Tensor, "*#channels"],
    length: int,
) -> Float[Tensor, "*channels length"]:
    r"""$K_l = 2\, \mathrm{Re} \sum_n C_n B_n \frac{e^{\Delta A_n} - 1}{A_n} e^{l \Delta A_n}$.

    The same numbers as `hyena.ops.s4.s4d_kernel` under zero-order hold (S4D, Gu et al. 2022, arXiv 2206.11893,
    Section 3), for the same arguments.
    """
    columns = max(1, math.isqrt(length))
    rows = -(-length // columns)
    step = A * dt[..., None]
    weights = 2 * B * C * torch.expm1(step) / A
    inner = torch.exp(step[..., None] * torch.arange(columns, device=A.device))  # (..., modes, columns)
    outer = weights[..., None] * torch.exp(step[..., None] * (columns * torch.arange(rows, device=A.device)))
    left = torch.cat([outer.real, -outer.imag], -2).mT  # (..., rows, 2 modes)
    right = torch.cat([inner.real, inner.imag], -2)
    return (left @ right).flatten(-2)[..., :length]
