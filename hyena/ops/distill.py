"""A long filter as a small state space: constant time and memory per step, at the price of an error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from hyena.errors import HyenaError

LARGEST_POLE = 1 - 1e-6  # on or outside the unit circle the recurrence would not forget its rounding errors


class Modes(NamedTuple):
    r"""The filter $\hat h_0 = h_0$, $\hat h_t = \mathrm{Re} \sum_n R_n \lambda_n^{t-1}$ for $t \ge 1$."""

    first: Float[Tensor, " channels"]
    poles: Complex[Tensor, "channels modes"]
    residues: Complex[Tensor, "channels modes"]

    def taps(self, length: int) -> Float[Tensor, "channels length"]:
        """The filter written out."""
        powers = _powers(self.poles, length - 1)
        rest = torch.einsum("cn,cnl->cl", self.residues, powers).real
        return torch.cat([self.first[:, None], rest.to(self.first.dtype)], dim=-1)

    def step(
        self, state: Complex[Tensor, "batch channels modes"], u: Float[Tensor, "batch channels"]
    ) -> tuple[Complex[Tensor, "batch channels modes"], Float[Tensor, "batch channels"]]:
        r"""One step of the recurrence: $y_t = h_0 u_t + \mathrm{Re} \sum R s_{t-1}$, $s_t = \lambda s_{t-1} + u_t$."""
        y = self.first * u + (self.residues * state).sum(-1).real.to(u.dtype)
        return self.poles * state + u[..., None], y


def hankel_singular_values(h: Float[Tensor, "channels length"]) -> Float[Tensor, "channels half"]:
    """Singular values of the Hankel matrix of h_1, h_2, …: how many modes a filter needs, largest first."""
    return torch.linalg.svdvals(_hankel(h))


def distill(h: Float[Tensor, "channels length"], orders: list[int]) -> dict[int, Modes]:
    r"""Fit state spaces of several sizes to filters in closed form (Kung's method), in float64.

    The Hankel matrix $H_{ij} = h_{1+i+j}$ of a filter with $d$ modes has rank $d$, and its column space is
    invariant under a shift by one row. The poles are the eigenvalues of that shift on the $d$ leading singular
    vectors; the residues follow from them by least squares on all taps. The task of Massaroli et al. 2023
    (Laughing Hyena, arXiv 2310.18780), there solved by gradient descent.

    Arguments:
        h: filters.
        orders: numbers of modes, each below half of the length.

    Raises:
        HyenaError: an order that the length does not allow.
    """
    half = h.shape[-1] // 2
    if not orders or min(orders) < 1 or max(orders) >= half:
        raise HyenaError(f"an order is 1 to {half - 1} for filters of length {h.shape[-1]}, got {orders}")
    device, h = h.device, h.double().cpu()  # least squares of deficient rank has no CUDA version
    vectors, values, _ = torch.linalg.svd(_hankel(h), full_matrices=False)
    values = values.where(values > torch.finfo(values.dtype).eps * values[:, :1], 0)  # or denormals reach `eigvals`
    observed = vectors * values[:, None].sqrt()  # the observability matrix, (channels, half, half)
    return {d: Modes(*(x.to(device) for x in _modes(h, observed[..., :d]))) for d in orders}


def _modes(h: Tensor, observed: Tensor) -> Modes:
    shift = torch.linalg.lstsq(observed[:, :-1], observed[:, 1:], driver="gelsd").solution
    poles = torch.linalg.eigvals(shift)
    poles = poles * (LARGEST_POLE / poles.abs()).clamp(max=1)
    powers = _powers(poles, h.shape[-1] - 1).transpose(1, 2)  # (channels, taps, modes)
    target = h[:, 1:, None].to(powers.dtype)
    residues = torch.linalg.lstsq(powers, target, driver="gelsd").solution[..., 0]
    return Modes(h[:, 0], poles, residues)


def _powers(poles: Tensor, count: int) -> Tensor:
    """Powers 0 to count - 1 of each pole along a new last axis; that of a complex 0 to the 0 is NaN in PyTorch."""
    powers = poles[..., None] ** torch.arange(count, device=poles.device)
    powers[..., :1] = 1
    return powers


def _hankel(h: Tensor) -> Tensor:
    half = h.shape[-1] // 2
    return h[:, 1:].double().unfold(-1, half, 1)[:, :half].clone()
