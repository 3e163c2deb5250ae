r"""Convolutions over grids of any number of axes, with kernels that are sums of outer products.

$$y(t) = \sum_s K(t - s)\, u(s) + d\, u(t), \qquad
K(l_1, \dots, l_n) = \frac1R \sum_{r=1}^R \prod_{j=1}^n k^{(r)}_j(l_j)$$

(Nguyen et al. 2022, S4ND, arXiv 2210.06583, Section 4.) Each axis of side $L$ has $2L - 1$ taps; index $l + L - 1$ is
lag $l$, and a causal axis has zeros before the middle. Three ways to the same numbers: `dense_conv` writes $K$ out,
`spectral_conv` multiplies the spectra of the axes, `separable_conv` convolves along one axis after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hyena.ops.fftconv import fft_size, two_sided_conv

# Measured by hand, two CPU cores, float32, forward and backward: axis by axis, 4 outer products of 32 x 32 or 128 x 128
# take a half of the time of spectra, 8 as much; and one axis as a matrix product a little less than by transforms still
# at 512, half at 128.
SEPARABLE_RANKS = 4
TOEPLITZ_SIDE = 512
Kernels = Sequence[Float[Tensor, "rank channels _"]]


def conv_nd(
    u: Float[Tensor, "batch channels *grid"], kernels: Kernels, skip: Float[Tensor, " channels"]
) -> Float[Tensor, "batch channels *grid"]:
    """The convolution, in the precision of the kernels, in the cheaper way.

    That is axis by axis up to rank `SEPARABLE_RANKS`, since every term costs a convolution of its own, and by spectra
    above.

    Arguments:
        u: input.
        kernels: for every axis of the grid its taps, first axis first.
        skip: weight of the input in the output.

    Raises:
        ValueError: taps that do not fit the grid.
    """
    _check(u, kernels)
    cheaper = separable_conv if len(kernels[0]) <= SEPARABLE_RANKS else spectral_conv
    with torch.autocast(u.device.type, enabled=False):
        wide = u.to(kernels[0].dtype)
        return (cheaper(wide, kernels) + _skipped(wide, skip)).to(u.dtype)


def dense_kernel(kernels: Kernels) -> Float[Tensor, "channels ..."]:
    """$K$ itself: the mean over ranks of outer products."""
    total = kernels[0]
    for k in kernels[1:]:
        total = total[..., None] * k.reshape(*k.shape[:2], *[1] * (total.dim() - 2), -1)
    return total.mean(0)


def dense_conv(u: Float[Tensor, "batch channels *grid"], kernels: Kernels) -> Float[Tensor, "batch channels *grid"]:
    """The textbook way: the whole kernel, complex transforms of twice the side of every axis, without `skip`."""
    _check(u, kernels)
    axes, sizes = _axes(u), [2 * side for side in u.shape[2:]]
    spectrum = torch.fft.fftn(u, sizes, axes) * torch.fft.fftn(
        _from_lag_zero(dense_kernel(kernels), u), dim=[a - 1 for a in axes]
    )
    return _cut(torch.fft.ifftn(spectrum, dim=axes).real, u)


def spectral_conv(u: Float[Tensor, "batch channels *grid"], kernels: Kernels) -> Float[Tensor, "batch channels *grid"]:
    """By one transform of the grid; the kernel's is the mean over ranks of products of one-dimensional spectra."""
    _check(u, kernels)
    axes = _axes(u)
    sizes = [fft_size(2 * side - 1) for side in u.shape[2:]]
    total = None
    for j, (k, size) in enumerate(zip(kernels, sizes, strict=True)):
        half = j == len(sizes) - 1
        taps = torch.nn.functional.pad(k, (0, size - k.shape[-1])).roll(-(u.shape[2 + j] - 1), -1)
        one = torch.fft.rfft(taps) if half else torch.fft.fft(taps)
        one = one.reshape(*one.shape[:2], *[1] * j, -1, *[1] * (len(sizes) - 1 - j))
        total = one if total is None else total * one
    spectrum = torch.fft.rfftn(u, sizes, axes) * total.mean(0)
    return _cut(torch.fft.irfftn(spectrum, sizes, axes), u)


def separable_conv(u: Float[Tensor, "batch channels *grid"], kernels: Kernels) -> Float[Tensor, "batch channels *grid"]:
    """By one axis after the other, for every rank: an outer product acts on each axis alone.

    A short axis is a product with the Toeplitz matrix $T_{ts} = k(t - s)$, which a processor does many times as fast as
    it transforms.
    """
    _check(u, kernels)
    total = None
    for r in range(len(kernels[0])):
        y = u
        for j, k in enumerate(kernels):
            y = _along(y, k[r], 2 + j)
        total = y if total is None else total + y
    return total if len(kernels[0]) == 1 else total / len(kernels[0])


def toeplitz_matrix(k: Float[Tensor, "channels taps"]) -> Float[Tensor, "channels side side"]:
    """$T_{ts} = k(t - s)$ of $2L - 1$ taps, which begin at lag $-(L - 1)$."""
    side = (k.shape[-1] + 1) // 2
    return k.flip(-1).unfold(-1, side, 1).flip(-2)


def _along(u: Tensor, k: Tensor, axis: int) -> Tensor:
    """One axis, as a product of matrices: channels first, then the axis (or, if it is the last one, at the end)."""
    side = u.shape[axis]
    if side > TOEPLITZ_SIDE:
        return two_sided_conv(u.movedim((1, axis), (-2, -1)), k).movedim((-2, -1), (1, axis))
    last = axis == u.dim() - 1
    moved = u.movedim(1, 0) if last else u.movedim((1, axis), (0, 1))
    flat = moved.reshape(len(k), -1, side) if last else moved.reshape(len(k), side, -1)
    matrix = toeplitz_matrix(k)
    y = (flat @ matrix.mT if last else matrix @ flat).view(moved.shape)
    return y.movedim(0, 1) if last else y.movedim((0, 1), (1, axis))


def _axes(u: Tensor) -> list[int]:
    return list(range(2, u.dim()))


def _from_lag_zero(kernel: Tensor, u: Tensor) -> Tensor:
    """Lag zero to the front of every axis of twice the side, negative lags to the end."""
    for j, side in enumerate(u.shape[2:]):
        pad = torch.zeros_like(kernel.narrow(1 + j, 0, 1))
        kernel = torch.cat([kernel, pad], 1 + j).roll(-(side - 1), 1 + j)
    return kernel


def _cut(y: Tensor, u: Tensor) -> Tensor:
    return y[(..., *(slice(side) for side in u.shape[2:]))]


def _skipped(u: Tensor, skip: Tensor) -> Tensor:
    return u * skip.view(-1, *[1] * (u.dim() - 2))


def _check(u: Tensor, kernels: Kernels) -> None:
    wanted = [2 * side - 1 for side in u.shape[2:]]
    found = [k.shape[-1] for k in kernels]
    if found != wanted or any(k.shape[:2] != (len(kernels[0]), u.shape[1]) for k in kernels):
        raise ValueError(
            f"a grid of sides {tuple(u.shape[2:])} with {u.shape[1]} channels takes one kernel per axis, (rank, "
            f"{u.shape[1]}, taps) with {wanted} taps; got {[tuple(k.shape) for k in kernels]}"
        )
