"""S4ND (Nguyen et al. 2022, arXiv 2210.06583): state spaces along every axis of an image or video.

Names of parameters are those of the official code, whose weights load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.s4 import S4Kernel
from hyena.ops.conv_nd import conv_nd

Rate = float | int | Sequence[float | int]


class S4NDConv(nn.Module):
    r"""Convolution with a continuous kernel, and the input times D: (batch, \*grid, d_model), any number of axes.

    $$K(l_1, \dots, l_n) = \frac1R \sum_{r=1}^R \prod_{j=1}^n k^{(r)}_j(l_j)$$

    Every $k_j$ is the impulse response of a state space of its own (Section 4). It is a function of a continuous
    variable, so the layer takes grids of any resolution: on a grid `rate` times as coarse as the one of sides `l_max`,
    the same function is sampled at steps `rate` times as long.

    Arguments:
        d_model: features, each with kernels of its own.
        l_max: sides of the finest grid, one for every axis.
        channels: outputs for each feature.
        rank: R, the number of outer products in a kernel.
        bidirectional: whether each axis is read from both ends; else from its start alone.
        options: of `hyena.models.s4.S4Kernel`; among them `band_limit`, for mode "diag".

    Raises:
        HyenaError: no axis, a side or number below 1, or options that do not go together.
    """

    def __init__(
        self, d_model: int, l_max: Sequence[int], *, channels: int = 1, rank: int = 1, bidirectional: bool = True,
        d_state: int = 64, init: str = "lin", dt_min: float = 0.1, dt_max: float = 1.0, **options,
    ):  # fmt: skip
        super().__init__()
        if not l_max or min(*l_max, channels, rank) < 1:
            raise HyenaError(f"l_max has a side of 1 or more for every axis, and channels and rank are at least 1; got "
                             f"l_max {tuple(l_max)}, channels {channels}, rank {rank}")  # fmt: skip
        if options.get("band_limit") is not None and options["band_limit"] <= 0:
            raise HyenaError(f"band_limit is above 0, or None for all modes; got {options['band_limit']}")
        self.l_max, self.channels, self.rank, self.bidirectional = tuple(l_max), channels, rank, bidirectional
        self.options = {"d_state": d_state, "init": init, "dt_min": dt_min, "dt_max": dt_max} | options
        self.D = nn.Parameter(torch.randn(channels, d_model))
        self.kernel = nn.ModuleList(self.axis_kernel(d_model, side) for side in l_max)

    def axis_kernel(self, d_model: int, side: int, **changes: object) -> S4Kernel:
        """A new kernel for an axis, with the layer's options."""
        count = self.channels * self.rank * (2 if self.bidirectional else 1)
        return S4Kernel(d_model, channels=count, **self.options | {"l_max": side} | changes)

    def taps(self, grid: Sequence[int], rate: Rate = 1.0) -> list[Float[Tensor, "rank features _"]]:
        """The kernels of all axes for a grid of these sides, as `hyena.ops.conv_nd` takes them.

        Raises:
            HyenaError: another number of axes or rates than the layer has, or a side that its kernels do not reach.
        """
        rates = self._rates(grid, rate)
        return [
            self._two_sided(kernel(side, r), side) for kernel, side, r in zip(self.kernel, grid, rates, strict=True)
        ]

    def convolve(self, u: Float[Tensor, "batch *grid d_model"], rate: Rate = 1.0) -> Float[Tensor, "batch *grid width"]:
        """The convolution alone."""
        grid = u.shape[1:-1]
        if self.channels > 1:
            u = u.repeat(*[1] * (u.dim() - 1), self.channels)
        return conv_nd(u.movedim(-1, 1), self.taps(grid, rate), self.D.flatten()).movedim(1, -1)

    def forward(self, u: Float[Tensor, "batch *grid d_model"], rate: Rate = 1.0) -> Float[Tensor, "batch *grid width"]:
        """`rate` is how many times as coarse the grid is as one of sides `l_max`: one number, or one for each axis."""
        return self.convolve(u, rate)

    def _two_sided(self, k: Float[Tensor, "kernels d_model side"], side: int) -> Float[Tensor, "rank features _"]:
        """From kernels for past and future (or for the past alone) to taps from lag -(side - 1) to side - 1."""
        if self.bidirectional:
            past, future = k.chunk(2)
            both = torch.cat([future[..., : side - 1].flip(-1), past], -1)
        else:
            both = F.pad(k, (side - 1, 0))
        return both.unflatten(0, (self.channels, self.rank)).transpose(0, 1).flatten(1, 2)

    def _rates(self, grid: Sequence[int], rate: Rate) -> list[float]:
        axes = len(self.l_max)
        if len(grid) != axes:
            raise HyenaError(
                f"this layer has {axes} axes, so its input is (batch, {axes} sides, d_model); got {len(grid)} sides"
            )
        rates = [float(rate)] * axes if isinstance(rate, Real) else [float(r) for r in rate]
        if len(rates) != axes or min(rates) <= 0:
            raise HyenaError(f"rate is one positive number, or one for each of {axes} axes; got {rate}")
        for side, reach, r in zip(grid, self.l_max, rates, strict=True):
            if side > round(reach / r):
                raise HyenaError(
                    f"a side of {side} at rate {r:g} is longer than the kernels, which reach l_max / rate = "
                    f"{round(reach / r)}; give rate {reach / side:g}, or build the layer with l_max {round(side * r)}"
                )
        return rates


class S4ND(S4NDConv):
    """The layer of the paper: the convolution, GELU, dropout (one mask for all positions), linear with GLU.

    Arguments: as `S4NDConv`, and `dropout`.
    """

    def __init__(self, d_model: int, l_max: Sequence[int], *, channels: int = 1, dropout: float = 0.0, **options):
        super().__init__(d_model, l_max, channels=channels, **options)
        self.dropout = TiedDropout(dropout)
        self.output_linear = nn.Sequential(nn.Linear(d_model * channels, 2 * d_model), nn.GLU(-1))

    def forward(
        self, u: Float[Tensor, "batch *grid d_model"], rate: Rate = 1.0
    ) -> Float[Tensor, "batch *grid d_model"]:
        """`rate` as in `S4NDConv`."""
        return self.output_linear(self.dropout(F.gelu(self.convolve(u, rate))))


class TiedDropout(nn.Module):
    """Dropout of whole features: one mask for all positions of an example."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "batch *grid d_model"]) -> Float[Tensor, "batch *grid d_model"]:
        if not self.training or not self.p:
            return x
        mask = F.dropout(x.new_ones(len(x), *[1] * (x.dim() - 2), x.shape[-1]), self.p)
        return x * mask


@torch.no_grad()
def inflated(layer: S4NDConv, frames: int) -> S4NDConv:
    """A layer for video from one for images: the kernels of space as they are, a new one for time (Section 5.3).

    The new one starts with step 2 / frames, so that its memory is about as long as the clip.

    Arguments:
        layer: of two axes; `S4ND` or `S4NDConv`.
        frames: longest clip, the side of the new first axis.
    """
    kind, options = type(layer), dict(layer.options)
    if kind is S4ND:
        options["dropout"] = layer.dropout.p
    d_model = layer.D.shape[1]
    deeper = kind(
        d_model, (frames, *layer.l_max), channels=layer.channels, rank=layer.rank, bidirectional=layer.bidirectional,
        **options,
    )  # fmt: skip
    deeper.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("kernel.")}, strict=False)
    deeper.kernel[0] = layer.axis_kernel(d_model, frames, dt_min=2 / frames, dt_max=2 / frames)
    for new, old in zip(deeper.kernel[1:], layer.kernel, strict=True):
        new.load_state_dict(old.state_dict())
    return deeper.to(layer.D)
