r"""Flows that are simulated here: vorticity in two dimensions, smoke that rises, Burgers and Kuramoto-Sivashinsky.

All are periodic and pseudo-spectral, with the 2/3 rule and one integrator. Fields are (batch, x, y) or (batch, x) on
axes of length 1, unless another length is given; sample n stands at $(n + 1/2)/N$, the centre of its cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hyena.errors import HyenaError

STABLE = 2.8  # of RK4 on the imaginary axis
LOOK = 20  # steps between two looks at the Courant number
Step = Callable[[Tensor], Tensor]


def integrating_factor_rk4(linear: Tensor, nonlinear: Step, dt: float) -> Step:
    r"""One step of $\hat u' = \lambda \hat u + N(\hat u)$: RK4 for $e^{-\lambda t} \hat u$, so that $\lambda$ is exact.

    Fourth order in `dt`, less where the linear part is stiff; that sets no limit to a stable `dt`.
    """
    half, whole = torch.exp(linear * dt / 2), torch.exp(linear * dt)

    def step(u: Tensor) -> Tensor:
        a = nonlinear(u)
        b = nonlinear(half * (u + dt / 2 * a))
        c = nonlinear(half * u + dt / 2 * b)
        d = nonlinear(whole * u + dt * half * c)
        return whole * (u + dt / 6 * a) + dt / 3 * half * (b + c) + dt / 6 * d

    return step


def vorticity(
    w0: Float[Tensor, "batch size size"], force: Float[Tensor, "size size"], viscosity: float, dt: float, every: int,
    records: int,
) -> Float[Tensor, "records batch size size"]:  # fmt: skip
    r"""$\partial_t w + u \cdot \nabla w = \nu \Delta w + f$, $u = (\psi_y, -\psi_x)$, $-\Delta \psi = w$, on a torus.

    The equation of the FNO's data (Li et al. 2021, arXiv 2010.08895, Section 5.3). Advection is
    $(\partial_{xx} - \partial_{yy})(uv) + \partial_{xy}(v^2 - u^2)$, two transforms each way. The 2/3 rule is for
    what advection brings forth; higher frequencies that `w0` has are aliased until they have decayed, as in that code.

    Arguments:
        every: steps between two records; the first record is after so many.

    Raises:
        HyenaError: fields that are not square, not finite, a viscosity or step that is not above 0, or a step too long
            for the speed of the flow (looked at every `LOOK` steps).
    """
    check_fields(w0, force)
    check_settings(viscosity, dt, every, records)
    waves = Square(w0.shape[-1], w0)
    forced = torch.fft.rfft2(force)

    def nonlinear(w: Tensor) -> Tensor:
        u, v = waves.velocity(w)
        product, difference = waves.to(u * v), waves.to(v * v - u * u)
        return forced - waves.keep * ((waves.ky**2 - waves.kx**2) * product - waves.kx * waves.ky * difference)

    step = integrating_factor_rk4(-viscosity * waves.square, nonlinear, dt)
    return _recorded(waves, waves.to(w0), step, dt, every, records, lambda w: w)


def kolmogorov_force(size: int, like: Tensor, offset: float = 0.5) -> Float[Tensor, "size size"]:
    r"""$f = 0.1 (\sin 2\pi(x + y) + \cos 2\pi(x + y))$, of samples at $(n + \mathrm{offset})/N$."""
    x = ((torch.arange(size) + offset) / size).to(like)
    angle = 2 * math.pi * (x[:, None] + x)
    return 0.1 * (torch.sin(angle) + torch.cos(angle))


def gaussian_spectrum(size: int, alpha: float = 2.5, tau: float = 7.0) -> Float[Tensor, "size size"]:
    r"""Standard deviations of a field's coefficients: $\sqrt2 N^2 \tau^{\alpha-1} (4\pi^2|k|^2 + \tau^2)^{-\alpha/2}$.

    Of complex coefficients, of whose inverse transform the field is the real part. As in the code that made the FNO's
    data; the paper prints an amplitude $7^{3/4}$ times smaller. That of k = 0 is 0.
    """
    k = 2 * math.pi * torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    root = size**2 * math.sqrt(2) * tau ** (alpha - 1) * (k[:, None] ** 2 + k**2 + tau**2) ** (-alpha / 2)
    root[0, 0] = 0
    return root


def gaussian_field(
    count: int, size: int, generator: torch.Generator, alpha: float = 2.5, tau: float = 7.0
) -> Float[Tensor, "count size size"]:
    """Random periodic fields: the initial vorticity of the FNO's data."""
    noise = torch.randn(count, size, size, generator=generator, dtype=torch.complex128)
    return torch.fft.ifft2(gaussian_spectrum(size, alpha, tau) * noise).real


def resampled(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Periodic fields on a finer or coarser grid along their last axes: the spectrum is cut or filled up.

    Samples stay at centres of cells: those of the new grid are not among those of the old one. The alternating mode of
    an even grid, whose phase no grid knows, is left out.
    """
    for axis, size in enumerate(sizes, start=-len(sizes)):
        old = x.shape[axis]
        if old == size:
            continue
        X = torch.fft.rfft(x.movedim(axis, -1))
        kept = (min(old, size) + 1) // 2
        k = torch.arange(kept, device=x.device, dtype=x.dtype)
        X = X[..., :kept] * torch.exp(1j * math.pi * k * (1 / size - 1 / old)) * (size / old)
        x = torch.fft.irfft(X, n=size).movedim(-1, axis)
    return x


def smoke(
    source: Float[Tensor, "batch size size"], w0: Float[Tensor, "batch size size"], buoyancy: float, viscosity: float,
    dt: float, every: int, records: int,
) -> Float[Tensor, "records batch size size"]:  # fmt: skip
    r"""The density of smoke that rises along the second axis, from a source, into air with some motion `w0`.

    $\partial_t \rho + u \cdot \nabla \rho = \nu \Delta \rho + s (1 - \rho) - \eta \rho$ and $\partial_t w + u \cdot
    \nabla w = \nu \Delta w + b\, \partial_x \rho - \eta w$. $\eta$ is a sponge at both ends of the second axis, so
    that nothing comes back from below: the density is periodic across but not along the plume.

    Arguments:
        source: s, per unit of time.
        buoyancy: b.

    Raises:
        HyenaError: as `vorticity`.
    """
    check_fields(w0, source)
    check_settings(viscosity, dt, every, records)
    waves = Square(w0.shape[-1], w0)
    y = ((torch.arange(w0.shape[-1]) + 0.5) / w0.shape[-1]).to(w0)
    sponge = 20 * torch.exp(-((torch.minimum(y, 1 - y) / 0.06) ** 2))

    def advected(q: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return 1j * waves.kx * waves.to(u * q) + 1j * waves.ky * waves.to(v * q)

    def nonlinear(state: Tensor) -> Tensor:
        (u, v), (w, rho) = waves.velocity(state[0]), waves.back(state)
        w_rate = 1j * waves.kx * buoyancy * state[1] - waves.to(sponge * w) - advected(w, u, v)
        rho_rate = waves.to(source * (1 - rho) - sponge * rho) - advected(rho, u, v)
        return waves.keep * torch.stack([w_rate, rho_rate])

    step = integrating_factor_rk4(-viscosity * waves.square, nonlinear, dt)
    start = torch.stack([waves.keep * waves.to(w0), torch.zeros_like(waves.to(w0))])
    return _recorded(waves, start, step, dt, every, records, lambda state: state[0])[:, 1]


def burgers(
    u0: Float[Tensor, "batch size"], viscosity: float, dt: float, every: int, records: int
) -> Float[Tensor, "records batch size"]:
    r"""$\partial_t u + \partial_x u^2/2 = \nu\, \partial_{xx} u$ on the unit circle (Li et al. 2021, Section 5.1)."""
    check_finite(u0)
    check_settings(viscosity, dt, every, records)
    k, keep = _wavenumbers_1d(u0.shape[-1], 1.0, u0)
    return _advected(u0, -viscosity * k**2, k, keep, dt, every, records)


def kuramoto_sivashinsky(
    u0: Float[Tensor, "batch size"], length: float, dt: float, every: int, records: int
) -> Float[Tensor, "records batch size"]:
    r"""$\partial_t u + \partial_x u^2/2 + \partial_{xx} u + \partial_{xxxx} u = 0$, chaotic from `length` 22 on."""
    check_finite(u0)
    check_settings(length, dt, every, records, "length")
    k, keep = _wavenumbers_1d(u0.shape[-1], length, u0)
    return _advected(u0, k**2 - k**4, k, keep, dt, every, records)


def gaussian_field_1d(
    count: int, size: int, generator: torch.Generator, alpha: float = 2.0, tau: float = 5.0, sigma: float = 25.0
) -> Float[Tensor, "count size"]:
    r"""Random functions of covariance $\sigma^2 (-\Delta + \tau^2)^{-\alpha}$, by default as the FNO's Burgers data."""
    k = 2 * math.pi * torch.arange(size // 2 + 1, dtype=torch.float64)
    noise = torch.randn(count, len(k), generator=generator, dtype=torch.complex128)
    spread = sigma * (k**2 + tau**2) ** (-alpha / 2)
    spread[0] = 0
    return torch.fft.irfft(spread * noise * size, n=size)


class Square:
    """Transforms of square fields of one size, and the velocity that belongs to a vorticity."""

    def __init__(self, size: int, like: Tensor):
        self.size = size
        kx = 2 * math.pi * torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)[:, None]  # radians per unit length
        ky = 2 * math.pi * torch.arange(size // 2 + 1, dtype=torch.float64)
        self.kx, self.ky, self.square = kx.to(like), ky.to(like), (kx**2 + ky**2).to(like)
        top = highest_kept(size)
        self.keep = ((kx.abs() < top) & (ky < top)).to(like.device)
        self.inverse = torch.where(self.square == 0, 0.0, 1 / self.square.clamp_min(1))

    def to(self, x: Tensor) -> Tensor:
        """Coefficients of fields."""
        return torch.fft.rfft2(x)

    def back(self, X: Tensor) -> Tensor:
        """Fields of coefficients."""
        return torch.fft.irfft2(X, s=(self.size, self.size))

    def velocity(self, w: Tensor) -> tuple[Tensor, Tensor]:
        r"""$u = \partial_y \psi$, $v = -\partial_x \psi$."""
        psi = 1j * self.inverse * w
        return self.back(self.ky * psi), self.back(-self.kx * psi)


def longest_step(w: Float[Tensor, "batch size size"]) -> float:
    """The step at which RK4 just follows the fastest wave that the speed of a flow carries; 0 if it is not finite."""
    u, v = Square(w.shape[-1], w).velocity(torch.fft.rfft2(w))
    turn = float((u.abs() + v.abs()).max()) * 2 / 3 * math.pi * w.shape[-1]
    return STABLE / max(turn, 1e-12) if math.isfinite(turn) else 0.0


def check_fields(w: Tensor, other: Tensor) -> None:
    """Refuse what no solver can start from."""
    if w.dim() != 3 or w.shape[-1] != w.shape[-2] or other.shape[-2:] != w.shape[-2:]:
        raise HyenaError(
            f"fields are (batch, size, size), square and of one size, got {tuple(w.shape)} and {tuple(other.shape)}"
        )
    check_finite(w)
    check_finite(other)


def check_settings(viscosity: float, dt: float, every: int, records: int, what: str = "viscosity") -> None:
    """Refuse numbers with which there is nothing to solve."""
    if not (viscosity > 0 and dt > 0):
        raise HyenaError(f"{what} and dt must be above 0, got {viscosity} and {dt}")
    if every < 1 or records < 1:
        raise HyenaError(f"every and records are at least 1, got {every} and {records}")


def check_finite(x: Tensor) -> None:
    """Refuse not-a-number and infinity, and say where they are."""
    bad = ~torch.isfinite(x)
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise HyenaError(
            f"{int(bad.sum())} values are not finite, the first at {first}: mend or leave out those fields"
        )


def check_courant(w: Float[Tensor, "batch size size"], dt: float) -> None:
    """Refuse a step in which the fastest wave turns by more than what the integrator can follow."""
    longest = longest_step(w)
    if not dt <= longest:
        raise HyenaError(
            f"dt = {dt:g} breaks the Courant condition on {w.shape[-1]} points a side: "
            + (f"take at most {0.95 * longest:.2g}" if longest else "the flow has blown up; take a shorter step")
        )


def _recorded(
    waves: Square,
    state: Tensor,
    step: Step,
    dt: float,
    every: int,
    records: int,
    vorticity_of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Fields after every so many steps; the Courant number is looked at every `LOOK` of them."""
    found = []
    check_courant(waves.back(vorticity_of(state)), dt)
    for i in range(1, records * every + 1):
        state = step(state)
        if i % LOOK == 0 or i % every == 0:
            check_courant(waves.back(vorticity_of(state)), dt)
        if i % every == 0:
            found.append(waves.back(state))
    return torch.stack(found)


def _wavenumbers_1d(size: int, length: float, like: Tensor) -> tuple[Tensor, Tensor]:
    k = torch.arange(size // 2 + 1, dtype=torch.float64) * 2 * math.pi
    return (k / length).to(like), (k < highest_kept(size)).to(like.device)


def highest_kept(size: int) -> float:
    """Just below a third of `size` waves, in radians: the 2/3 rule. A wave of N/3 itself would feed itself."""
    return 2 / 3 * math.pi * (size - 0.5)


def _advected(
    u0: Tensor, linear: Tensor, k: Tensor, keep: Tensor, dt: float, every: int, records: int
) -> Float[Tensor, "records batch size"]:
    def nonlinear(u: Tensor) -> Tensor:
        return -0.5j * k * keep * torch.fft.rfft(torch.fft.irfft(u, n=u0.shape[-1]) ** 2)

    step, u, found = integrating_factor_rk4(linear, nonlinear, dt), torch.fft.rfft(u0), []
    for _ in range(records):
        for _ in range(every):
            u = step(u)
        found.append(torch.fft.irfft(u, n=u0.shape[-1]))
        if not torch.isfinite(found[-1]).all():
            raise HyenaError(f"the solution has blown up: dt = {dt:g} is too long for it, take a shorter step")
    return torch.stack(found)
