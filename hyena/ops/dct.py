r"""Real orthonormal transforms: the cosine transform, the real Fourier transform, and their first m coefficients.

Every basis here is an orthonormal set of rows $\phi_k$ on the N samples of one axis, ordered by frequency, so that
$X = \Phi x$, $x = \Phi^T X$ and $\lVert X \rVert = \lVert x \rVert$; several axes are transformed one after another.
Sample n stands at $(n + 1/2) / N$ of the axis, the centre of its cell, at every N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hyena.errors import HyenaError, unknown

BASES = ("dct", "fourier")


def dct_matrix(
    size: int, modes: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "modes size"]:
    r"""The first rows of the DCT-II: $c_k \cos(\pi k (n + 1/2) / N)$, $c_0 = \sqrt{1/N}$, else $c_k = \sqrt{2/N}$."""
    k, n = _grid(size, modes, device)
    return (_scale(k, size) * torch.cos(math.pi / (2 * size) * (k * (2 * n + 1) % (4 * size)).double())).to(dtype)


def fourier_matrix(
    size: int, modes: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "modes size"]:
    r"""The first rows of the real Fourier basis: a constant, then $\sqrt{2/N}$ times sine and cosine of each frequency.

    Row 2j - 1 is $\sin(2 \pi j (n + 1/2) / N)$, row 2j the cosine; of an even N the last row is the alternating one.
    """
    k, n = _grid(size, modes, device)
    angle = math.pi / size * ((k + 1) // 2 * (2 * n + 1) % (2 * size)).double()
    rows = _scale(k, size) * torch.where(k % 2 == 1, torch.sin(angle), torch.cos(angle))
    if size % 2 == 0 and modes == size:
        rows[-1] /= math.sqrt(2)  # of the alternating row every entry is 1 or -1
    return rows.to(dtype)


def basis_matrix(
    basis: str, size: int, modes: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "modes size"]:
    """The first `modes` rows of a basis on `size` samples.

    Raises:
        HyenaError: an unknown basis, or modes that are not from 1 to `size`.
    """
    if basis not in BASES:
        raise unknown("basis", basis, BASES)
    if not 1 <= modes <= size:
        raise HyenaError(
            f"{modes} modes of an axis of {size} samples do not exist: keep 1 to {size}, or take a finer grid"
        )
    return {"dct": dct_matrix, "fourier": fourier_matrix}[basis](size, modes, dtype, device)


def analyse(x: Tensor, modes: Sequence[int], basis: str = "dct") -> Tensor:
    """The first coefficients along the last `len(modes)` axes, by one matrix product for each: `S_m W x`.

    The last axis is transformed first; cost and memory fall with every axis that has been cut.
    """
    for axis in range(-1, -len(modes) - 1, -1):
        rows = basis_matrix(basis, x.shape[axis], modes[axis], x.dtype, x.device)
        x = _along(x, rows, axis)
    return x


def synthesise(X: Tensor, sizes: Sequence[int], basis: str = "dct") -> Tensor:
    """The field on a grid of `sizes` whose other coefficients are 0: the transpose of `analyse`."""
    for axis in range(-len(sizes), 0):
        rows = basis_matrix(basis, sizes[axis], X.shape[axis], X.dtype, X.device)
        X = _along(X, rows.T, axis)
    return X


def dct(x: Tensor, axes: Sequence[int] = (-1,)) -> Tensor:
    r"""The orthonormal DCT-II along `axes`, each by one FFT of its length (Makhoul 1980, IEEE TASSP 28).

    $v = (x_0, x_2, \dots, x_3, x_1)$, $X_k = c_k\, \mathrm{Re}\, e^{-i \pi k / 2N} \hat v_k$; any length, even or odd.
    """
    for axis in axes:
        x = x.movedim(axis, -1)
        size = x.shape[-1]
        v = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)
        k = torch.arange(size, device=x.device)
        turned = (torch.fft.fft(v) * _turn(k, -size, v.dtype)).real
        x = (turned * _scale(k, size).to(x.dtype)).movedim(-1, axis)
    return x


def idct(X: Tensor, axes: Sequence[int] = (-1,)) -> Tensor:
    r"""The inverse of `dct`: $\hat v_k = e^{i \pi k / 2N} (X_k / c_k - i X_{N-k} / c_{N-k})$, $X_N = 0$, x from v."""
    for axis in axes:
        X = X.movedim(axis, -1)
        size = X.shape[-1]
        k = torch.arange(size, device=X.device)
        X = X / _scale(k, size).to(X.dtype)
        back = torch.cat([torch.zeros_like(X[..., :1]), X[..., 1:].flip(-1)], -1)
        spectrum = torch.complex(X, -back) * _turn(k, size, X.dtype)
        v = torch.fft.irfft(spectrum[..., : size // 2 + 1], n=size)
        x = torch.empty_like(v)
        x[..., ::2], x[..., 1::2] = v[..., : (size + 1) // 2], v[..., (size + 1) // 2 :].flip(-1)
        X = x.movedim(-1, axis)
    return X


def _grid(size: int, modes: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Numbers of rows and samples, as integers: angles are reduced exactly before they meet a float."""
    return torch.arange(modes, device=device)[:, None], torch.arange(size, device=device)


def _scale(k: Tensor, size: int) -> Tensor:
    return torch.where(k == 0, 1.0, 2.0).double().div(size).sqrt()


def _turn(k: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    r"""$e^{i \pi k / 2N}$, the other way round for a negative size."""
    angle = math.pi / (2 * size) * k.double()
    return torch.polar(torch.ones_like(angle), angle).to(torch.promote_types(dtype, torch.complex64))


def _along(x: Tensor, rows: Tensor, axis: int) -> Tensor:
    """`rows` times the vectors of one of the last axes."""
    if axis == -2:
        return rows @ x
    return (x.movedim(axis, -1) @ rows.T).movedim(-1, axis)
