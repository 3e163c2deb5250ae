r"""T1, Transform Once (Poli et al. 2022, arXiv 2211.14453): one transform of the input, then layers on coefficients.

A network that transforms in every layer is $v \leftarrow \sigma(v + W^{-1} S_m^T A\, S_m W v)$. T1 keeps to the m
first coefficients of each axis, $z_0 = S_m W\,\mathrm{lift}(x)$, $z_{l+1} = \mathrm{layer}_l(z_l)$, and compares its
output with those of the target. With a real orthonormal basis (`hyena.ops.dct`) everything is real.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError, unknown
from hyena.models.fno import axis_coordinates, check_coordinates
from hyena.models.unet import UNet
from hyena.ops.dct import BASES, analyse, basis_matrix, synthesise
from hyena.ops.products import batched

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "sin": torch.sin, "tanh": torch.tanh}
INITS = ("released", "variance", "first", "tiny", "fan_in", "depth")


def mixing_std(init: str, d_input: int, d_output: int, points: int, modes: int) -> float:
    r"""Standard deviation of the channel matrices R of a layer, for fields of `points` of which `modes` are kept.

    * "released": $1 / (c_{in} c_{out})$, as in the FNO's code;
    * "variance" and "first": $\sqrt{N / (c_{in} m)}$, which preserves the total variance of a layer that transforms
      back; a network with "first" has it in its first layer only, and "fan_in" in the others;
    * "tiny": $10^{-8}$;
    * "fan_in" and "depth": $\sqrt{1 / c_{in}}$, which preserves that of the coefficients that are kept.

    Raises:
        HyenaError: another name.
    """
    if init not in INITS:
        raise unknown("initialisation", init, INITS)
    if init == "released":
        return 1 / (d_input * d_output)
    if init in ("variance", "first"):
        return math.sqrt(points / (d_input * modes))
    return 1e-8 if init == "tiny" else math.sqrt(1 / d_input)


class T1Layer(nn.Module):
    r"""$z \leftarrow z + T_d \cdots T_1\, \sigma(R z)$ on a block of coefficients.

    R is a matrix between channels for every coefficient; $T_a$ one between the coefficients of axis a for every
    channel, drawn with standard deviation $\sqrt{1 / m_a}$.

    Arguments:
        modes: $m_a$, coefficients of every axis.
        std: of the entries of R, see `mixing_std`.
        branch: factor of what the layer adds at initialisation, carried by $T_1$.
        activation: "gelu" (Navier-Stokes), "sin" or "tanh".
    """

    def __init__(self, width: int, modes: Sequence[int], std: float, branch: float = 1.0, activation: str = "gelu"):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.activation = ACTIVATIONS[activation]
        self.channel_mixing = nn.Parameter(std * torch.randn(*modes, width, width))  # (*modes, in, out)
        self.axis_mixing = nn.ParameterList(  # (channel, in, out)
            (branch if axis == 0 else 1.0) * math.sqrt(1 / m) * torch.randn(width, m, m) for axis, m in enumerate(modes)
        )

    def forward(self, z: Float[Tensor, "batch width *modes"]) -> Float[Tensor, "batch width *modes"]:
        modes = z.shape[2:]
        by_mode = z.flatten(2).permute(2, 0, 1)  # (modes, batch, width)
        mixed = self.activation(batched(by_mode, self.channel_mixing.flatten(0, -3)))
        v = mixed.permute(2, 1, 0).unflatten(2, modes)  # (width, batch, *modes)
        for axis, T in enumerate(self.axis_mixing, start=2):
            lines = v.movedim(axis, -1)
            v = batched(lines.flatten(1, -2), T).view(lines.shape).movedim(-1, axis)
        return z + v.transpose(0, 1)


class Spectral(nn.Module):
    """What T1 and T1U share: the lift of a field to a block of coefficients, and the field that coefficients stand for.

    The lift is a matrix on the channels of every point, coordinates among them. It commutes with the transform, so
    that only the coefficients that are kept are ever computed: of the input by one product per axis, of coordinates
    and bias by formula. Coefficients are in units of `grid`: on a grid of N points those of a field are $\\sqrt N$
    times its size, and are divided by that, so that what was learned on one grid is right on another, up to the little
    by which the coefficients of one field differ from grid to grid. Coordinates are those of `grid` everywhere.

    Arguments:
        modes: coefficients kept of every axis.
        grid: sizes of the fields that the network is trained on.
        basis: "dct" or, for periodic fields, "fourier".

    Raises:
        HyenaError: fields of another number of axes or channels, more modes than samples; in `predict`, values that are
            not finite.
    """

    def __init__(
        self, d_input: int, width: int, modes: Sequence[int], grid: Sequence[int], basis: str, coordinates: str
    ):
        super().__init__()
        if basis not in BASES:
            raise unknown("basis", basis, BASES)
        if len(modes) != len(grid) or any(not 1 <= m <= n for m, n in zip(modes, grid, strict=True)):
            raise HyenaError(f"modes {tuple(modes)} do not fit a grid of {tuple(grid)}: 1 to its size along every axis")
        check_coordinates(coordinates)
        self.modes, self.grid, self.basis, self.coordinates = tuple(modes), tuple(grid), basis, coordinates
        self.lift = nn.Linear(d_input + len(modes), width)
        self.register_buffer("constants", self._constants(), persistent=False)

    def coefficients(self, x: Float[Tensor, "batch channels *sizes"]) -> Float[Tensor, "batch channels *modes"]:
        """$S_m W x$ in units of `grid`: the one transform."""
        if x.dim() != 2 + len(self.modes):
            raise HyenaError(f"fields are (batch, channels, {len(self.modes)} sizes), got {tuple(x.shape)}")
        return analyse(x, self.modes, self.basis) * self.unit(x.shape[2:])

    def lifted(self, X: Float[Tensor, "batch d_input *modes"]) -> Float[Tensor, "batch width *modes"]:
        r"""$S_m W\,\mathrm{lift}(x) = W_x X + W_g S_m W g + b \sqrt N \delta_0$, X coefficients, g coordinates."""
        expected = self.lift.in_features - len(self.modes)
        if X.shape[1] != expected:
            raise HyenaError(f"this network reads fields of {expected} channels, got {X.shape[1]}")
        *places, one = self.constants
        channels = torch.cat([X, torch.stack(places).expand(len(X), len(places), *self.modes)], 1)
        bias = self.lift.bias.view(-1, *[1] * len(self.modes))
        return (self.lift.weight @ channels.flatten(2)).unflatten(2, self.modes) + bias * one

    def _constants(self) -> Tensor:
        """Coefficients of the coordinates, one field for each axis, and last of the field 1: (axes + 1, *modes)."""
        one, place = [], []
        for n, m in zip(self.grid, self.modes, strict=True):
            rows = basis_matrix(self.basis, n, m, torch.float64)
            one.append(rows.sum(1))
            place.append(rows @ axis_coordinates(n, self.coordinates))
        parts = [[*one[:a], place[a], *one[a + 1 :]] for a in range(len(one))] + [one]
        return torch.stack([_outer(vectors) for vectors in parts]).to(torch.get_default_dtype())

    def unit(self, sizes: Sequence[int]) -> float:
        """By what coefficients of a field on `sizes` are multiplied."""
        return math.sqrt(math.prod(self.grid) / math.prod(sizes))

    def predict(
        self, x: Float[Tensor, "batch d_input *sizes"], sizes: Sequence[int] | None = None
    ) -> Float[Tensor, "batch d_output *finer"]:
        """The predicted field on the grid of the input, or on another: forward and one inverse transform."""
        if not torch.isfinite(x).all():
            raise HyenaError("the input holds values that are not finite: mend or leave out those fields")
        return self.field(self(x), x.shape[2:] if sizes is None else sizes)

    def field(
        self, z: Float[Tensor, "batch channels *modes"], sizes: Sequence[int]
    ) -> Float[Tensor, "batch channels *sizes"]:
        """What coefficients in units of `grid` stand for, on a grid of `sizes`: the inverse of `coefficients`."""
        return synthesise(z, tuple(sizes), self.basis) / self.unit(sizes)

    def forward(self, x: Float[Tensor, "batch d_input *sizes"]) -> Float[Tensor, "batch d_output *modes"]:
        """Coefficients of the output, in units of `grid`; `predict` for the field."""
        return self.mapped(self.lifted(self.coefficients(x)))

    def mapped(self, z: Float[Tensor, "batch width *modes"]) -> Float[Tensor, "batch d_output *modes"]:
        """The layers between the lift and the output."""
        raise NotImplementedError


class T1(Spectral):
    r"""Lift, `n_layer` times `T1Layer`, and a head of two matrices with a sine between, on the kept coefficients.

    The cost is that of one product of the input per axis and, whatever the grid, $O(L c\,m (c + \sum_a m_a))$ for
    $m = \prod_a m_a$ coefficients.

    Arguments:
        width: channels c.
        init: of R: one of `mixing_std`. With "variance" every stacked layer multiplies the variance of the kept
            coefficients by about 1 + N/2m; with "depth", where $T_1$ is scaled by $\sqrt{1/L}$, by at most 1 + 1/2L.
        head_std: of both matrices of the head, $10^{-8}$ in the released code, fan-in if 0.
        d_head: between them.

    Raises:
        HyenaError: as `Spectral`, or an unknown activation or initialisation.
    """

    def __init__(
        self, d_input: int, d_output: int, modes: Sequence[int], width: int, n_layer: int, grid: Sequence[int], *,
        basis: str = "dct", activation: str = "gelu", init: str = "depth", head_std: float = 1e-8, d_head: int = 128,
        coordinates: str = "endpoints",
    ):  # fmt: skip
        super().__init__(d_input, width, modes, grid, basis, coordinates)
        later = "fan_in" if init == "first" else init
        stds = [
            mixing_std(i, width, width, math.prod(grid), math.prod(modes)) for i in [init] + [later] * (n_layer - 1)
        ]
        branch = math.sqrt(1 / n_layer) if init == "depth" else 1.0
        self.layers = nn.ModuleList(T1Layer(width, modes, std, branch, activation) for std in stds)
        self.head = nn.ParameterList(
            (head_std or math.sqrt(1 / a)) * torch.randn(b, a) for a, b in ((width, d_head), (d_head, d_output))
        )

    def mapped(self, z: Float[Tensor, "batch width *modes"]) -> Float[Tensor, "batch d_output *modes"]:
        for layer in self.layers:
            z = layer(z)
        return (self.head[1] @ torch.sin(self.head[0] @ z.flatten(2))).unflatten(2, self.modes)


class T1U(Spectral):
    """Lift, one `T1Layer` as wide as the input with its coordinates, and a U-Net that reads the block as an image.

    Arguments:
        modes: coefficients kept of either axis, the same number: 24 (Navier-Stokes), or even.
        width: channels of the U-Net's first layer, 64 in the released configuration.
        init: of the layer's R, see `mixing_std`.
    """

    def __init__(
        self, d_input: int, d_output: int, modes: Sequence[int], width: int, grid: Sequence[int], *, basis: str = "dct",
        activation: str = "gelu", init: str = "fan_in", coordinates: str = "endpoints",
    ):  # fmt: skip
        if len(modes) != 2 or modes[0] != modes[1]:
            raise HyenaError(f"T1U takes as many modes of one axis as of the other, got {tuple(modes)}")
        inner = d_input + 2
        super().__init__(d_input, inner, modes, grid, basis, coordinates)
        self.layer = T1Layer(
            inner, modes, mixing_std(init, inner, inner, math.prod(grid), math.prod(modes)), 1.0, activation
        )
        self.unet = UNet(inner, d_output, width, modes[0])

    def mapped(self, z: Float[Tensor, "batch width *modes"]) -> Float[Tensor, "batch d_output *modes"]:
        return self.unet(self.layer(z))


class Target(NamedTuple):
    """What the loss needs of a field: computed once, for every epoch."""

    block: Float[Tensor, "batch channels *modes"]
    rest: Float[Tensor, " batch"]  # squared norm of the other coefficients
    norm: Float[Tensor, " batch"]


def target(y: Float[Tensor, "batch channels *sizes"], modes: Sequence[int], basis: str = "dct") -> Target:
    """The kept coefficients of a field on the network's own grid, and by Parseval the norm of all others."""
    block = analyse(y.double(), modes, basis)  # the rest is a small difference of large sums
    total, kept = (t.flatten(1).square().sum(1) for t in (y.double(), block))
    return Target(*(t.to(y.dtype) for t in (block, (total - kept).clamp_min(0), total.sqrt())))


def relative_l2(
    z: Float[Tensor, "batch channels *modes"], block: Tensor, rest: Tensor, norm: Tensor
) -> Float[Tensor, ""]:
    r"""$\frac1B \sum_b \lVert \hat y_b - y_b \rVert / \lVert y_b \rVert$ of the fields, from coefficients alone.

    Since the basis is orthonormal this is exactly the loss on the grid. What lies outside the block is a floor.
    """
    return ((((z - block) ** 2).flatten(1).sum(1) + rest).sqrt() / norm).mean()


def truncation_floor(y: Float[Tensor, "batch channels *sizes"], modes: Sequence[int], basis: str = "dct") -> float:
    """The mean relative L2 error of fields of which only the first coefficients are kept: no T1 can do better."""
    kept = target(y.double(), modes, basis)
    return float((kept.rest.sqrt() / kept.norm).mean())


def smallest_modes(y: Float[Tensor, "batch channels *sizes"], tolerance: float, basis: str = "dct") -> int:
    """The fewest coefficients per axis, the same number for each, with a `truncation_floor` of at most `tolerance`.

    By the cumulative energy of squares around the origin, all sizes at once.

    Raises:
        HyenaError: a tolerance below 0.
    """
    if tolerance < 0:
        raise HyenaError(f"the tolerance is a relative error, at least 0, got {tolerance}")
    sizes = y.shape[2:]
    energy = analyse(y.double(), sizes, basis).square().sum(1)
    for axis in range(1, 1 + len(sizes)):
        energy = energy.cumsum(axis)
    most = max(sizes)
    inside = torch.stack([energy[(slice(None), *[min(m, n) - 1 for n in sizes])] for m in range(1, most + 1)], 1)
    total = energy.flatten(1)[:, -1:]
    floors = ((total - inside).clamp_min(0) / total).sqrt().mean(0)
    fits = (floors <= tolerance).nonzero()
    return int(fits[0]) + 1 if len(fits) else most


def _outer(vectors: Sequence[Tensor]) -> Tensor:
    product = vectors[0]
    for vector in vectors[1:]:
        product = product[..., None] * vector
    return product
