r"""Structured state spaces: initial matrices, discretisation, kernels, single steps and chunks.

$$x'(t) = A\, x(t) + B\, u(t), \qquad y(t) = \mathrm{Re}\; C\, x(t)$$

for one input and one output, with $A = \mathrm{diag}(\Lambda)$ (S4D, Gu et al. 2022, arXiv 2206.11893) or
$A = \mathrm{diag}(\Lambda) - P P^*$ (S4, Gu et al. 2022, arXiv 2111.00396), of which only one of every pair of
conjugate modes is stored: N/2 modes for a state of size N, and every inner product is $2\, \mathrm{Re}(\cdot)$.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from hyena.errors import HyenaError, unknown

Rule = Literal["zoh", "bilinear", "dss"]
RULES = ("zoh", "bilinear", "dss")
DIAGONAL = ("lin", "inv", "inv2", "quad", "real", "legs")
LOW_RANK = ("legs", "fourier")


# Initial matrices


def hippo_legs(n: int) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    r"""HiPPO-LegS, which keeps a history as coefficients of scaled Legendre polynomials, in float64.

    $A_{nk} = -\sqrt{(2n+1)(2k+1)}$ below the diagonal, $-(n+1)$ on it and 0 above; $B_n = \sqrt{2n+1}$.
    """
    i = torch.arange(n, dtype=torch.float64)
    root = torch.sqrt(2 * i + 1)
    return -torch.tril(root[:, None] * root, -1) - torch.diag(i + 1), root


def hippo_fourier(n: int) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """HiPPO-FouT, which keeps a window of history as Fourier coefficients, in float64."""
    frequencies = torch.arange(n // 2, dtype=torch.float64)
    skew = torch.diag(torch.stack([torch.zeros_like(frequencies), frequencies], -1).flatten()[1:], 1)
    B = torch.zeros(n, dtype=torch.float64)
    B[::2] = math.sqrt(2)
    B[0] = 1
    return math.pi * (skew - skew.T) - B[:, None] * B, B


def low_rank_init(
    name: str, n: int
) -> tuple[Complex[Tensor, " modes"], Complex[Tensor, " modes"], Complex[Tensor, " modes"]]:
    r"""$\Lambda$, $P$ and $B$ in which HiPPO is $\mathrm{diag}(\Lambda) - P P^*$; float64.

    `legs` and `fourier` are normal matrices minus one of rank 1 ($P_n = \sqrt{n + 1/2}$; $P = B$); in the
    eigenvectors of the normal part it is diagonal. The modes with negative imaginary part are kept.

    Raises:
        HyenaError: another name, or an odd state.
    """
    if name not in LOW_RANK:
        raise unknown("initial state matrix", name, LOW_RANK)
    _even(n)
    A, B = {"legs": hippo_legs, "fourier": hippo_fourier}[name](n)
    P = torch.sqrt(torch.arange(n, dtype=torch.float64) + 0.5) if name == "legs" else B
    normal = A + P[:, None] * P
    imaginary, V = torch.linalg.eigh(normal * -1j)
    eigenvalues = torch.complex(torch.diagonal(normal).mean().expand(n), imaginary)[: n // 2]
    V = V[:, : n // 2]
    if abs(eigenvalues[-1]) < 1e-4:  # a double zero: take the pair of eigenvectors that are conjugate
        V = V.clone()
        V[:, -1] = 0
        V[:2, -1] = torch.tensor([1, 1j], dtype=V.dtype) / math.sqrt(2)
    into = V.mH
    return eigenvalues, into @ P.to(V.dtype), into @ B.to(V.dtype)


def diagonal_init(name: str, n: int) -> tuple[Complex[Tensor, " modes"], Complex[Tensor, " modes"]]:
    r"""$A$ and $B$ of S4D (its Section 4): $A_n = -\tfrac12 - i \omega_n$ and $B = 1$ for all but `real` and `legs`.

    $\omega_n$ is $\pi n$ (`lin`), $\tfrac N\pi (\tfrac{N}{2n+1} - 1)$ (`inv`), $\tfrac N\pi (\tfrac{N}{n+1} - 1)$
    (`inv2`) or $(2n+1)^2 / \pi$ (`quad`); `real` is $A_n = -(n+1)$; `legs` drops the low-rank part of HiPPO-LegS.
    There, imaginary parts of B are cut at 2.

    Raises:
        HyenaError: another name, or an odd state.
    """
    if name not in DIAGONAL:
        raise unknown("initial state matrix", name, DIAGONAL)
    _even(n)
    i = torch.arange(n // 2, dtype=torch.float64)
    if name == "legs":
        A, _, B = low_rank_init("legs", n)
        return A, torch.complex(B.real, B.imag.clamp(-2, 2))
    frequency = {
        "lin": math.pi * i,
        "inv": n / math.pi * (n / (2 * i + 1) - 1),
        "inv2": n / math.pi * (n / (i + 1) - 1),
        "quad": (2 * i + 1) ** 2 / math.pi,
        "real": 0 * i,
    }[name]
    decay = i + 1 if name == "real" else torch.full_like(i, 0.5)
    return torch.complex(-decay, -frequency), torch.ones(n // 2, dtype=torch.complex128)


# Diagonal


def discretised(
    A: Complex[Tensor, "*#channels modes"], dt: Float[Tensor, "*#channels"], rule: Rule = "zoh"
) -> tuple[Complex[Tensor, "*channels modes"], Complex[Tensor, "*channels modes"]]:
    r"""$\bar A$ and the factor of $B$ in $x_{t+1} = \bar A x_t + \bar B u_t$.

    Zero-order hold: $e^{\Delta A}$ and $(e^{\Delta A} - 1)/A$; bilinear: $(1 + \Delta A/2)/(1 - \Delta A/2)$ and
    $\Delta/(1 - \Delta A/2)$.

    Raises:
        HyenaError: another rule.
    """
    step = dt[..., None]
    if rule == "zoh":
        return torch.exp(step * A), torch.expm1(step * A) / A
    if rule == "bilinear":
        half = step * A / 2
        return (1 + half) / (1 - half), step / (1 - half)
    raise unknown("discretisation", rule, RULES[:2])


def s4d_kernel(
    A: Complex[Tensor, "*#channels modes"],
    B: Complex[Tensor, "*#channels modes"],
    C: Complex[Tensor, "*#channels modes"],
    dt: Float[Tensor, "*#channels"],
    length: int,
    rule: Rule = "zoh",
) -> Float[Tensor, "*channels length"]:
    r"""$K_l = 2\, \mathrm{Re} \sum_n C_n \bar B_n \bar A_n^l$, a Vandermonde product.

    `dss` divides by the sum of the powers over the length (Gupta et al. 2022, arXiv 2203.14343) and, as released,
    takes the real part without the 2.
    """
    powers = torch.arange(length, device=A.device)
    if rule == "dss":
        step = dt[..., None] * A
        weights = B * C * torch.expm1(step) / (torch.expm1(step * length) * A)
        return torch.einsum("...n,...nl->...l", weights, torch.exp(step[..., None] * powers)).real
    Abar, gain = discretised(A, dt, rule)
    weights = B * C * gain
    exponent = dt[..., None] * A if rule == "zoh" else torch.log(Abar)
    return 2 * torch.einsum("...n,...nl->...l", weights, torch.exp(exponent[..., None] * powers)).real


def band_limited(
    A: Complex[Tensor, "*#channels modes"],
    C: Complex[Tensor, "*#channels modes"],
    dt: Float[Tensor, "*#channels"],
    alpha: float,
) -> Complex[Tensor, "*channels modes"]:
    r"""$C$ without the modes that turn faster than $\alpha$ times the Nyquist frequency of the grid of step 1.

    Mode n stays where $\Delta |\mathrm{Im} A_n| / 2\pi < \alpha / 2$ (Nguyen et al. 2022, S4ND, arXiv 2210.06583,
    Section 4), with the step that the layer was trained for, at every resolution.
    """
    frequency = dt[..., None] * A.imag.abs() / (2 * math.pi)
    return C * (frequency < alpha / 2)


def s4d_states(
    A: Complex[Tensor, "*#channels modes"],
    B: Complex[Tensor, "*#channels modes"],
    dt: Float[Tensor, "*#channels"],
    u: Float[Tensor, "batch *#channels length"],
    rule: Rule = "zoh",
    state: Complex[Tensor, "batch *#channels modes"] | None = None,
) -> Complex[Tensor, "batch *channels modes"]:
    r"""The state after an input: $\bar A^L s + \sum_l \bar A^{L-1-l} \bar B u_l$."""
    Abar, gain = discretised(A, dt, rule)
    length = u.shape[-1]
    powers = torch.exp(torch.log(Abar)[..., None] * torch.arange(length - 1, -1, -1, device=u.device))
    reached = gain * B * torch.einsum("...nl,...l->...n", powers, u.to(powers.dtype))
    return reached if state is None else reached + state * Abar**length


def s4d_recall(
    A: Complex[Tensor, "*#channels modes"],
    C: Complex[Tensor, "*#channels modes"],
    dt: Float[Tensor, "*#channels"],
    state: Complex[Tensor, "batch *#channels modes"],
    length: int,
    rule: Rule = "zoh",
) -> Float[Tensor, "batch *channels length"]:
    r"""What a state adds to the outputs that follow it: $2\, \mathrm{Re}\; C \bar A^{l+1} s$."""
    Abar, _ = discretised(A, dt, rule)
    powers = torch.exp(torch.log(Abar)[..., None] * torch.arange(1, length + 1, device=A.device))
    return 2 * torch.einsum("...n,...nl->...l", C * state, powers).real


# Diagonal plus low rank


def dplr_kernel(
    A: Complex[Tensor, "*#channels modes"],
    P: Complex[Tensor, "*#channels modes"],
    B: Complex[Tensor, "*#channels modes"],
    C: Complex[Tensor, "*#channels modes"],
    dt: Float[Tensor, "*#channels"],
    length: int,
) -> Float[Tensor, "*channels length"]:
    r"""The kernel of $\mathrm{diag}(A) - P P^*$ under the bilinear rule, by Cauchy products at the roots of unity.

    `C` is the *truncated* $\tilde C = C (I - \bar A^L)$ of this length (`truncated`). With
    $\rho_{ij}(\omega) = \sum_n 2 i_n j_n / (2(1-\omega) - \Delta A_n (1+\omega))$ over modes and their conjugates,

    $$\hat K(\omega) = \rho_{BC} - \frac{\lambda\, \rho_{BQ}\, \rho_{PC}}{1 + \lambda\, \rho_{PQ}},
    \qquad \omega_k = e^{-2\pi i k / L}, \quad \lambda = \tfrac{1+\omega}{2}, \quad Q = \bar P$$

    (S4, Appendix C.3, multiplied out so that nothing is infinite at $\omega = -1$; $B$ and $P$ carry the step.)
    """
    k = torch.arange(length // 2 + 1, device=A.device, dtype=dt.dtype)
    omega = torch.polar(torch.ones_like(k), -2 * math.pi * k / length)
    step = dt[..., None]
    poles = step * A

    def cauchy(left: Tensor, right: Tensor) -> Tensor:
        """Over modes and conjugates: of the conjugates, what the conjugate numerator has at the conjugate pole."""
        v = step * left * right
        near = 2 * v[..., None] / (2 * (1 - omega) - poles[..., None] * (1 + omega))
        far = 2 * v.conj()[..., None] / (2 * (1 - omega) - poles.conj()[..., None] * (1 + omega))
        return (near + far).sum(-2)

    Q, half = P.conj(), (1 + omega) / 2
    spectrum = cauchy(B, C) - half * cauchy(B, Q) * cauchy(P, C) / (1 + half * cauchy(P, Q))
    return torch.fft.irfft(spectrum, length)


def dplr_discretised(
    A: Complex[Tensor, "*#channels modes"],
    P: Complex[Tensor, "*#channels modes"],
    B: Complex[Tensor, "*#channels modes"],
    dt: Float[Tensor, "*#channels"],
) -> tuple[Complex[Tensor, "*channels n n"], Complex[Tensor, "*channels n"]]:
    r"""Dense $\bar A$ and $\bar B$ of the bilinear rule, modes and then their conjugates: for steps one by one."""
    full, p, b = (_with_conjugates(x) for x in (A, P, B))
    dense = torch.diag_embed(full) - p[..., :, None] * p.conj()[..., None, :]
    half = dt[..., None, None] / 2 * dense
    one = torch.eye(full.shape[-1], dtype=full.dtype, device=full.device)
    both = torch.linalg.solve(one - half, torch.cat(torch.broadcast_tensors(one + half, one), -1))
    Abar, inverse = both.split(full.shape[-1], -1)
    return Abar, dt[..., None] * (inverse @ b[..., None])[..., 0]


def truncated(
    Abar: Complex[Tensor, "*#channels n n"], C: Complex[Tensor, "*#channels modes"], length: int
) -> Complex[Tensor, "*channels modes"]:
    r"""$\tilde C = C (I - \bar A^L)$, which makes the kernel of length L periodic."""
    return (_with_conjugates(C)[..., None, :] @ _remaining(Abar, length))[..., 0, : C.shape[-1]]


def untruncated(
    Abar: Complex[Tensor, "*#channels n n"], C: Complex[Tensor, "*#channels modes"], length: int
) -> Complex[Tensor, "*channels modes"]:
    r"""$C$ from $\tilde C = C (I - \bar A^L)$."""
    return torch.linalg.solve(_remaining(Abar, length).mT, _with_conjugates(C)[..., None])[..., : C.shape[-1], 0]


def _remaining(Abar: Tensor, length: int) -> Tensor:
    return torch.eye(Abar.shape[-1], dtype=Abar.dtype, device=Abar.device) - torch.linalg.matrix_power(Abar, length)


def _with_conjugates(x: Tensor) -> Tensor:
    return torch.cat([x, x.conj()], -1)


def _even(n: int) -> None:
    if n < 2 or n % 2:
        raise HyenaError(f"d_state is even, since modes come in conjugate pairs; got {n}")
