"""The U-Net of Deep Flow Prediction (Thuerey et al. 2020, arXiv 1810.08217), for fields and blocks of a spectrum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyena.errors import HyenaError


class Down(NamedTuple):
    """A convolution of stride 2, by its channels in multiples of the first ones."""

    width: int
    kernel: int
    padding: int


class Up(NamedTuple):
    """A bilinear enlargement and a convolution."""

    width: int
    kernel: int
    padding: int
    factor: int


# Of a block of 24 x 24 coefficients, as T1U uses it: sizes 12, 6, 3, 3, 3, 4, 1 and back.
BLOCK_24 = (
    [Down(1, 4, 1), Down(2, 4, 1), Down(2, 4, 1), Down(4, 2, 2), Down(8, 2, 2), Down(8, 2, 3), Down(8, 3, 0)],
    [Up(8, 1, 1, 2), Up(8, 2, 0, 1), Up(4, 3, 1, 1), Up(2, 3, 1, 1), Up(2, 3, 1, 2), Up(1, 3, 1, 2)],
)
WIDTHS = (1, 2, 2, 4, 8, 8, 8)


def halvings(size: int) -> tuple[list[Down], list[Up]]:
    """The layers for sides that a power of two divides: 4 x 4 kernels down to 8, then 2 x 2, until a side is odd.

    Raises:
        HyenaError: an odd side.
    """
    if size % 2:
        raise HyenaError(f"a U-Net halves its input: the side must be even, got {size}")
    down: list[Down] = []
    while size % 2 == 0 and len(down) < len(WIDTHS):
        kernel, padding = (4, 1) if size > 8 else (2, 0)
        down.append(Down(WIDTHS[len(down)], kernel, padding))
        size //= 2
    up = [
        Up(d.width, *((3, 1) if e.kernel == 4 else (1, 0)), 2) for d, e in zip(down[-2::-1], down[:0:-1], strict=True)
    ]
    return down, up


class UNet(nn.Module):
    """Convolutions that halve the grid, and as many that enlarge it again, each joined with what had its size.

    Downwards a leaky ReLU (.2) stands before and a batch normalisation after each layer, upwards a ReLU and again a
    batch normalisation; the first, the innermost and the last layer have none.

    Arguments:
        width: channels of the first layer; the others have up to 8 times as many.
        side: of the square input; 24 has the layers of the released T1U, others are halved.

    Raises:
        HyenaError: an input of another side.
    """

    def __init__(self, d_input: int, d_output: int, width: int, side: int):
        super().__init__()
        down, up = BLOCK_24 if side == 24 else halvings(side)
        self.side = side
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        before = d_input
        for i, layer in enumerate(down):
            after = width * layer.width
            inner = [] if i == 0 else [nn.LeakyReLU(0.2)]
            inner.append(nn.Conv2d(before, after, layer.kernel, 2, layer.padding))
            self.down.append(nn.Sequential(*inner, *([nn.BatchNorm2d(after)] if 0 < i < len(down) - 1 else [])))
            before = after
        for i, layer in enumerate(up):
            joined = before if i == 0 else before + width * down[-1 - i].width
            before = width * layer.width
            self.up.append(nn.Sequential(
                nn.ReLU(), nn.Upsample(scale_factor=layer.factor, mode="bilinear"),
                nn.Conv2d(joined, before, layer.kernel, 1, layer.padding), nn.BatchNorm2d(before),
            ))  # fmt: skip
        self.last = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(before + width, d_output, 4, 2, 1))

    def forward(self, x: Float[Tensor, "batch d_input side side"]) -> Float[Tensor, "batch d_output side side"]:
        if x.shape[2:] != (self.side, self.side):
            raise HyenaError(f"this U-Net is built for {self.side} x {self.side}, got {tuple(x.shape[2:])}")
        kept = []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
        for i, layer in enumerate(self.up):
            x = layer(x if i == 0 else torch.cat([x, kept[-1 - i]], 1))
        return self.last(torch.cat([x, kept[0]], 1))
