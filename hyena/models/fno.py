r"""Fourier neural operators: FNO (Li et al. 2021, arXiv 2010.08895) and F-FNO (Tran et al. 2023, arXiv 2111.13802).

Fields are (batch, channels, *sizes) in one, two or three dimensions. Both networks transform to frequencies and back in
every layer; the spectrum between is complex.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from hyena.errors import HyenaError, unknown
from hyena.ops.products import batched

COORDINATES = ("centres", "endpoints")


class SpectralConv(nn.Module):
    r"""A convolution given by the lowest frequencies of its kernel: $y = W^{-1} R\, S_m W x$.

    $S_m$ keeps, of the complex transform, frequencies 0 to $m_d - 1$ of the last axis and $-m_a$ to $m_a - 1$ of every
    other; $R$ is a matrix between channels for each (Section 4, equations 4 and 5). Axes are cut as soon as they are
    transformed, which gives the same numbers as one transform of everything and costs less.

    Arguments:
        modes: $m_a$ for every axis.

    Raises:
        HyenaError: an axis of the input is too short for its modes.
    """

    def __init__(self, d_input: int, d_output: int, modes: Sequence[int]):
        super().__init__()
        self.modes = tuple(modes)
        kept = [2 * m for m in self.modes[:-1]] + [self.modes[-1]]
        self.weight = nn.Parameter(torch.rand(*kept, d_input, d_output, 2) / (d_input * d_output))

    def forward(self, x: Float[Tensor, "batch d_input *sizes"]) -> Float[Tensor, "batch d_output *sizes"]:
        sizes = x.shape[2:]
        self.check(sizes)
        X = channel_products(self.kept(x), torch.view_as_complex(self.weight))
        for axis, (m, size) in enumerate(zip(self.modes[:-1], sizes[:-1], strict=True), start=2):
            low, high = X.split(m, axis)
            gap = X.new_zeros(*X.shape[:axis], size - 2 * m, *X.shape[axis + 1 :])
            X = torch.fft.ifft(torch.cat([low, gap, high], axis), dim=axis)
        return torch.fft.irfft(X, n=sizes[-1])

    def kept(self, x: Float[Tensor, "batch d_input *sizes"]) -> Complex[Tensor, "batch d_input *kept"]:
        """The coefficients that are kept, of axes but the last in the order 0, ..., m - 1, -m, ..., -1."""
        X = torch.fft.rfft(x)[..., : self.modes[-1]]
        for axis, m in enumerate(self.modes[:-1], start=2):
            X = torch.fft.fft(X, dim=axis)
            X = torch.cat([X.narrow(axis, 0, m), X.narrow(axis, X.shape[axis] - m, m)], axis)
        return X

    def check(self, sizes: Sequence[int]) -> None:
        """Refuse grids that are too coarse."""
        if len(sizes) != len(self.modes):
            raise HyenaError(f"modes {self.modes} are for fields of {len(self.modes)} axes, got sizes {tuple(sizes)}")
        least = [2 * m for m in self.modes[:-1]] + [2 * self.modes[-1] - 1]
        if any(size < need for size, need in zip(sizes, least, strict=True)):
            raise HyenaError(
                f"a grid of {tuple(sizes)} is too coarse for modes {self.modes}: it takes at least {tuple(least)}"
            )


def channel_products(
    X: Complex[Tensor, "batch d_input *kept"], R: Complex[Tensor, "*kept d_input d_output"]
) -> Complex[Tensor, "batch d_output *kept"]:
    """A matrix between channels for every coefficient."""
    mixed = batched(X.flatten(2).permute(2, 0, 1), R.flatten(0, -3))
    return mixed.permute(1, 2, 0).unflatten(2, X.shape[2:])


class FNO(nn.Module):
    r"""$v \leftarrow \mathrm{gelu}(K v + W v + b)$, four times in Li's networks, the last without the activation.

    $K$ is a `SpectralConv`, $W$ a matrix on every point; before stands a linear lift of input and coordinates, after it
    a head of two linear layers with a gelu between. These are the released scripts; the paper's text has ReLU and batch
    normalisation instead, and another width (Section 5).

    Arguments:
        width: channels of every layer.
        coordinates: of the samples of an axis: "endpoints", n / (N - 1) (released), or "centres" of cells,
            (n + 1/2) / N, which is the place itself on every grid.
        padding: zeros that are put behind the end of every axis before the first layer, and cut off after the last,
            as a share of its length. Fields that are not periodic need them, since a layer joins the ends of an axis.

    Raises:
        HyenaError: unknown coordinates, a negative padding, or an axis that is too short for its modes.
    """

    def __init__(
        self, d_input: int, d_output: int, modes: Sequence[int], width: int = 20, n_layer: int = 4, d_head: int = 128,
        coordinates: str = "endpoints", padding: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        check_coordinates(coordinates)
        self.coordinates, self.padding = coordinates, check_padding(padding)
        self.lift = Pointwise(d_input + len(modes), width)
        self.convs = nn.ModuleList(SpectralConv(width, width, modes) for _ in range(n_layer))
        self.mixes = nn.ModuleList(Pointwise(width, width) for _ in range(n_layer))
        self.head = nn.Sequential(Pointwise(width, d_head), nn.GELU(), Pointwise(d_head, d_output))

    def forward(self, x: Float[Tensor, "batch d_input *sizes"]) -> Float[Tensor, "batch d_output *sizes"]:
        v = padded(self.lift(with_coordinates(x, self.coordinates)), self.padding)
        for i, (conv, mix) in enumerate(zip(self.convs, self.mixes, strict=True)):
            v = conv(v) + mix(v)
            if i + 1 < len(self.convs):
                v = F.gelu(v)
        return self.head(cropped(v, x.shape[2:]))


class FactorizedConv(nn.Module):
    """The sum of a convolution along each axis, given by its lowest frequencies: `SpectralConv` for one axis each.

    Arguments:
        gain: of Xavier's initialisation, .1 in the released configuration.
    """

    def __init__(self, width: int, modes: Sequence[int], gain: float = 0.1):
        super().__init__()
        self.modes = tuple(modes)
        self.weights = nn.ParameterList(
            gain * math.sqrt(2 / (2 * m * 2 * width)) * torch.randn(m, width, width, 2) for m in self.modes
        )

    def forward(self, x: Float[Tensor, "batch width *sizes"]) -> Float[Tensor, "batch width *sizes"]:
        total = torch.zeros_like(x)
        for axis, (m, weight) in enumerate(zip(self.modes, self.weights, strict=True), start=2):
            if x.shape[axis] < 2 * m - 1:
                raise HyenaError(f"{m} modes take an axis of at least {2 * m - 1} samples, got {x.shape[axis]}")
            X = torch.fft.rfft(x.movedim(axis, -1))[..., :m]
            lines = X.movedim(1, -1).movedim(-2, 0)  # (modes, batch, *others, width)
            mixed = batched(lines.flatten(1, -2), torch.view_as_complex(weight)).view(lines.shape)
            X = mixed.movedim(0, -2).movedim(-1, 1)
            total = total + torch.fft.irfft(X, n=x.shape[axis]).movedim(-1, axis)
        return total


class FFNO(nn.Module):
    r"""$x \leftarrow x + \mathrm{FF}(\sum_a K_a x)$: convolutions along single axes, shared by all layers.

    FF is a network of two weight-normed linear layers on every point, `factor` times as wide between, with a ReLU. As
    in the released code the output is read from what the last layer adds, by two linear layers without activation.
    Other arguments are those of `FNO`.
    """

    def __init__(
        self, d_input: int, d_output: int, modes: Sequence[int], width: int = 64, n_layer: int = 24, factor: int = 4,
        d_head: int = 128, coordinates: str = "endpoints", padding: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        check_coordinates(coordinates)
        self.coordinates, self.padding = coordinates, check_padding(padding)
        self.lift = weight_norm(Pointwise(d_input + len(modes), width))
        self.conv = FactorizedConv(width, modes)
        self.feedforwards = nn.ModuleList(feedforward(width, factor) for _ in range(n_layer))
        self.head = nn.Sequential(weight_norm(Pointwise(width, d_head)), weight_norm(Pointwise(d_head, d_output)))

    def forward(self, x: Float[Tensor, "batch d_input *sizes"]) -> Float[Tensor, "batch d_output *sizes"]:
        v = padded(self.lift(with_coordinates(x, self.coordinates)), self.padding)
        for layer in self.feedforwards:
            added = layer(self.conv(v))
            v = v + added
        return self.head(cropped(added, x.shape[2:]))


class Pointwise(nn.Linear):
    """One matrix between channels at every point of a field."""

    def forward(self, x: Float[Tensor, "batch d_input *sizes"]) -> Float[Tensor, "batch d_output *sizes"]:
        weight, points = self.weight.expand(len(x), -1, -1), x.flatten(2)
        y = weight @ points if self.bias is None else torch.baddbmm(self.bias[:, None], weight, points)
        return y.unflatten(2, x.shape[2:])


def feedforward(width: int, factor: int) -> nn.Sequential:
    """The network between two layers of an F-FNO."""
    return nn.Sequential(
        weight_norm(Pointwise(width, factor * width)), nn.ReLU(), weight_norm(Pointwise(factor * width, width))
    )


def padded(v: Float[Tensor, "batch channels *sizes"], padding: float) -> Float[Tensor, "batch channels *longer"]:
    """Zeros behind the end of every axis, `padding` of its length."""
    return F.pad(v, [part for n in reversed(v.shape[2:]) for part in (0, round(padding * n))]) if padding else v


def cropped(v: Float[Tensor, "batch channels *longer"], sizes: Sequence[int]) -> Tensor:
    """The first samples of every axis."""
    return v[(..., *[slice(size) for size in sizes])]


def with_coordinates(x: Float[Tensor, "batch d_input *sizes"], coordinates: str) -> Tensor:
    """The field with one channel more for every axis, which holds the place along it."""
    places = torch.meshgrid(*[axis_coordinates(n, coordinates).to(x) for n in x.shape[2:]], indexing="ij")
    return torch.cat([x, *[p.expand(len(x), 1, *p.shape) for p in places]], 1)


def axis_coordinates(size: int, coordinates: str) -> Float[Tensor, " size"]:
    """Places of the samples along an axis of length 1."""
    if coordinates == "endpoints":
        return torch.linspace(0, 1, size, dtype=torch.float64)
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def check_coordinates(coordinates: str) -> None:
    """Refuse another name."""
    if coordinates not in COORDINATES:
        raise unknown("kind of coordinates", coordinates, COORDINATES)


def check_padding(padding: float) -> float:
    """Refuse less than none."""
    if padding < 0:
        raise HyenaError(f"padding is a share of an axis, 0 or more, got {padding:g}")
    return padding
