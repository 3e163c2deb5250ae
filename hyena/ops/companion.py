r"""Companion state spaces: kernels and closed-loop roll-outs without powers of matrices.

$$x_{t+1} = A x_t + b u_t, \qquad y_t = c\, x_{t+1}, \qquad A = S + a e_d^\top$$

with $S$ the shift by one ($S_{i+1,i} = 1$) and $a$ the last column (Zhang et al. 2023, SpaceTime, arXiv 2303.09489,
Section 3). The input acts on the output at once, so the kernel is $K_l = c A^l b$ and $K_0 = c\, b$.

Its generating function $K(z) = \sum_l K_l z^l = c\,(I - zA)^{-1} b$ is a ratio of polynomials, because $A$ is a
nilpotent shift and one column. With $\langle u, v \rangle(z) = \sum_i z^i \sum_j u_{j+i} v_j$ for $u (I - zS)^{-1} v$,

$$K(z) = \langle c, b \rangle + \frac{z\, \langle c, a \rangle \langle e_d, b \rangle}{1 - z \langle e_d, a \rangle}$$

by the Sherman-Morrison formula, and the first $L$ coefficients cost $O(d \log d + L \log L)$ by the fast Fourier
transform. (The paper's Algorithm 1 evaluates the same ratio at the roots of unity, and needs $c\,(I - A^L)$ for it, a
power of a matrix. Series do without, and so do points of a smaller circle.)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

FOLD = 1e-10  # share of the coefficients beyond twice the length that is let in
SLACK = 1e-6  # by which a norm of 1 may be missed


def companion_matrix(a: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d d"]:
    """The matrix with ones below the diagonal and `a` as its last column."""
    d = a.shape[-1]
    shift = torch.diag(a.new_ones(d - 1), -1)
    return shift + F.pad(a[..., None], (d - 1, 0))


def krylov(
    matrix: Float[Tensor, "*batch d d"], vector: Float[Tensor, "*batch d"], length: int
) -> Float[Tensor, "*batch length d"]:
    r"""The rows $v, Mv, M^2 v, \dots, M^{L-1} v$, twice as many with each squaring of $M$.

    For any matrix; $O(d^3 \log L + d^2 L)$, in matrix products.
    """
    rows = vector[..., None, :]
    while rows.shape[-2] < length:
        rows = torch.cat([rows, rows @ matrix.mT], dim=-2)
        matrix = matrix @ matrix
    return rows[..., :length, :]


def companion_kernel(
    a: Float[Tensor, "*#batch d"], b: Float[Tensor, "*#batch d"], c: Float[Tensor, "*#batch d"], length: int
) -> Float[Tensor, "*batch length"]:
    r"""$K_l = c A^l b$ for $l < L$, in $O(d \log d + L \log L)$; computed in double precision, since it may grow.

    In single precision and with $\lVert a \rVert_1 \le 1$ it cannot, and a circle takes the place of series:
    several times as fast, and off by $10^{-8} \lVert c \rVert_\infty \lVert b \rVert_1$ at most.
    """
    single = a.dtype == torch.float32
    bounded = single and bool((a.detach().abs().sum(-1) <= 1 + SLACK).all())
    return (_on_circle if bounded else _by_series)(a.double(), b.double(), c.double(), length).to(a.dtype)


def _by_series(a: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    loop = series_inverse(_one_minus_z(a.flip(-1), length))
    rest = product(product(correlation(c, a, length), b.flip(-1), length), loop, length)
    return correlation(c, b, length) + _times_z(rest)


def _on_circle(a: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    r"""From $K(\rho\, \omega)$ at the 2L-th roots of unity $\omega$, with $\rho^{2L} = 10^{-10}$, by an inverse FFT.

    The columns of A sum to 1 at most in absolute value, and so do those of its powers: no $K_l$ exceeds
    $\lVert c \rVert_\infty \lVert b \rVert_1$, and what is folded onto it is $\rho^{2L} K_{l+2L} + \dots$ Rounding
    grows by $\rho^{-L}$, to about as much.
    """
    points, known = 2 * length, min(a.shape[-1], length)
    shrink = FOLD ** (torch.arange(length, device=a.device, dtype=a.dtype) / points)  # powers of the radius

    def at(series: Tensor) -> Tensor:
        return torch.fft.rfft(series[..., :known] * shrink[:known], points)

    angle = -2 * torch.pi * torch.arange(length + 1, device=a.device, dtype=a.dtype) / points
    z = torch.polar(torch.full_like(angle, FOLD ** (1 / points)), angle)
    last = z * at(b.flip(-1)) / (1 - z * at(a.flip(-1)))
    value = at(correlation(c, b, known)) + at(correlation(c, a, known)) * last
    return torch.fft.irfft(value, points)[..., :length] / shrink


def closed_loop(
    a: Float[Tensor, "*#system d"],
    b: Float[Tensor, "*#system d"],
    c: Float[Tensor, "*#system d"],
    k: Float[Tensor, "*#system d"],
    x: Float[Tensor, "*#batch d"],
    length: int,
) -> Float[Tensor, "*out length"]:
    r"""Outputs of a system that is fed its own prediction $k\, x$: $y_h = c\,(A + b k)^h x$ for $h < L$.

    $$y(z) = \langle c, x \rangle + z\, [\langle c, a \rangle\ \langle c, b \rangle]\, (I - z G)^{-1}
    \begin{bmatrix} \langle e_d, x \rangle \\ \langle k, x \rangle \end{bmatrix}, \qquad
    G = \begin{bmatrix} \langle e_d, a \rangle & \langle e_d, b \rangle \\
    \langle k, a \rangle & \langle k, b \rangle \end{bmatrix}$$

    by the Woodbury formula, since $A + bk$ is the shift and two columns. What does not depend on the state `x` is
    computed once for all that share a system; then each costs $O(d \log d + L \log L)$. In double precision, since
    it may grow.
    """
    dtype, (a, b, c, k, x) = x.dtype, (vector.double() for vector in (a, b, c, k, x))
    own, into = a.flip(-1), b.flip(-1)
    read_a, read_b = correlation(k, a, length), correlation(k, b, length)
    # (I - zG)^-1 is the adjugate over the determinant, both polynomials
    minus_own, minus_read = _one_minus_z(own, length), _one_minus_z(read_b, length)
    across = _times_z(_times_z(product(into, read_a, length)))
    determinant = product(minus_own, minus_read, length) - across
    out_a, out_b = correlation(c, a, length), correlation(c, b, length)
    over_state = product(out_a, minus_read, length) + _times_z(product(out_b, read_a, length))
    over_input = product(out_b, minus_own, length) + _times_z(product(out_a, into, length))
    loop = series_inverse(determinant)
    over_state, over_input = product(over_state, loop, length), product(over_input, loop, length)
    rest = product(over_state, x.flip(-1), length) + product(over_input, correlation(k, x, length), length)
    return (correlation(c, x, length) + _times_z(rest)).to(dtype)


def correlation(
    u: Float[Tensor, "*#batch d"], v: Float[Tensor, "*#batch d"], length: int
) -> Float[Tensor, "*batch length"]:
    r"""Coefficients of $u\,(I - zS)^{-1} v$: the sums $\sum_j u_{i+j} v_j$, and zeros beyond `d`."""
    d = u.shape[-1]
    return _fit(_multiply(u, v.flip(-1))[..., d - 1 :], length)


def product(
    u: Float[Tensor, "*#batch n"], v: Float[Tensor, "*#batch m"], length: int
) -> Float[Tensor, "*batch length"]:
    """The first `length` coefficients of the product of two power series."""
    return _fit(_multiply(u[..., :length], v[..., :length]), length)


def series_inverse(series: Float[Tensor, "*batch length"]) -> Float[Tensor, "*batch length"]:
    r"""The first coefficients of $1 / D(z)$ for a power series with $D(0) = 1$.

    Newton's iteration $g \leftarrow g\,(2 - D g)$ doubles the number of right coefficients, so that the last step
    costs about as much as all before it together.
    """
    length, known = series.shape[-1], 1
    inverse = torch.ones_like(series[..., :1])
    while known < length:
        known = min(2 * known, length)
        twice = 2 * F.pad(series.new_ones(1), (0, known - 1))
        inverse = product(inverse, twice - product(series, inverse, known), known)
    return inverse


def _one_minus_z(series: Tensor, length: int) -> Tensor:
    """1 - z f(z)."""
    one = F.pad(series.new_ones(1), (0, length - 1))
    return one - _times_z(_fit(series, length))


def _times_z(series: Tensor) -> Tensor:
    return F.pad(series[..., :-1], (1, 0))


def _fit(series: Tensor, length: int) -> Tensor:
    """Cut or filled with zeros."""
    return F.pad(series[..., :length], (0, max(0, length - series.shape[-1])))


def _multiply(u: Tensor, v: Tensor) -> Tensor:
    n = u.shape[-1] + v.shape[-1] - 1
    return torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(v, n), n)
