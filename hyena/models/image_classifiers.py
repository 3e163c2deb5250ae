"""Classifiers of images and video: two shells, and the layers that stand in them beside S4ND.

Everything is channels last, (batch, *grid, d_model); every layer is called with the `rate` of the grid, which only
state spaces use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError, unknown
from hyena.models.s4 import S4Block
from hyena.models.s4nd import S4ND, Rate, S4NDConv, TiedDropout

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
# Below, GELU and its gradient are zero to 1e-20. Without this bound a convolution at a large learning rate, with many
# dead units, trains at a quarter of its speed: processors are slow with denormal numbers.
VANISHED = -10.0
ISOTROPIC = ("s4nd", "conv")
DROP_INS = ("convnext_depthwise", "convnext_s4nd", "vit_attention", "vit_s4nd", "vit_s4")


class Convolution(nn.Module):
    """A dense convolution with a few taps per axis, and GELU; zeros around the grid."""

    def __init__(self, d_model: int, axes: int, kernel_size: int = 3):
        super().__init__()
        if axes not in CONVOLUTIONS:
            raise HyenaError(f"a convolution has 1, 2 or 3 axes, got {axes}")
        self.conv = CONVOLUTIONS[axes](d_model, d_model, kernel_size, padding="same")

    def forward(
        self, u: Float[Tensor, "batch *grid d_model"], rate: Rate = 1.0
    ) -> Float[Tensor, "batch *grid d_model"]:
        return F.gelu(self.conv(u.movedim(-1, 1)).movedim(1, -1).clamp(min=VANISHED))


class DepthwiseConvolution(nn.Module):
    """A convolution of every feature by itself, 7 x 7 in ConvNeXt; zeros around the image."""

    def __init__(self, d_model: int, kernel_size: int = 7):
        super().__init__()
        self.conv = nn.Conv2d(d_model, d_model, kernel_size, padding="same", groups=d_model)

    def forward(
        self, u: Float[Tensor, "batch rows columns d_model"], rate: Rate = 1.0
    ) -> Float[Tensor, "batch rows columns d_model"]:
        return self.conv(u.movedim(-1, 1)).movedim(1, -1)


class Attention(nn.Module):
    """Multi-head self-attention over all places of the grid."""

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        if d_model % num_heads:
            raise HyenaError(f"num_heads divides d_model, got {num_heads} and {d_model}")
        self.num_heads = num_heads
        self.in_proj, self.out_proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(
        self, u: Float[Tensor, "batch *grid d_model"], rate: Rate = 1.0
    ) -> Float[Tensor, "batch *grid d_model"]:
        heads = self.in_proj(u.flatten(1, -2)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads)  # (batch, heads, places, width)
        return self.out_proj(y.transpose(1, 2).flatten(2)).view(u.shape)


class Raster(nn.Module):
    """An S4 block that reads the places of the grid one after the other, row by row, from both ends."""

    def __init__(self, d_model: int, length: int, **options):
        super().__init__()
        self.block = S4Block(d_model, bidirectional=True, l_max=length, **options)

    def forward(
        self, u: Float[Tensor, "batch *grid d_model"], rate: Rate = 1.0
    ) -> Float[Tensor, "batch *grid d_model"]:
        """On a coarser grid a step along the raster is as many times as long as there are fewer places."""
        rates = [rate] * (u.dim() - 2) if isinstance(rate, int | float) else rate
        return self.block(u.flatten(1, -2), float(math.prod(rates))).view(u.shape)


class IsotropicClassifier(nn.Module):
    """Linear map of every pixel, pre-norm residual layers, LayerNorm, mean over the grid, linear map (S4ND-ISO).

    Arguments:
        layers: each (batch, *grid, d_model) to the same, called with the rate.
        d_input: colours.
        n_classes: outputs.
        d_model: width.
        dropout: of whole features, before each addition.
    """

    def __init__(self, layers: Sequence[nn.Module], d_input: int, n_classes: int, d_model: int, dropout: float = 0.0):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d_input, d_model), nn.Linear(d_model, n_classes)
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in layers)
        self.norm, self.dropout = nn.LayerNorm(d_model), TiedDropout(dropout)

    def forward(self, x: Float[Tensor, "batch *grid d_input"], rate: Rate = 1.0) -> Float[Tensor, "batch classes"]:
        """Logits; `rate` as in `hyena.models.s4nd.S4NDConv`."""
        z = self.encoder(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            z = z + self.dropout(layer(norm(z), rate))
        return self.decoder(self.norm(z).mean(tuple(range(1, z.dim() - 1))))


class PatchClassifier(nn.Module):
    """A convolutional network or Transformer on patches, whose mixer of places can be exchanged.

    * `convnext_…`: z + MLP(LN(mix(z))), ConvNeXt's block (Liu et al. 2022, arXiv 2201.03545), mixing by a depthwise
      7 x 7 convolution or by S4ND without its own activation.
    * `vit_…`: ViT's block (Dosovitskiy et al. 2021, arXiv 2010.11929), mixing by attention with learned places, by
      S4ND on the grid of patches, or by S4D along their raster; both without learned places. State spaces start from
      S4D-Lin, steps from .1 to 1 (along the raster from .01), and train at the learning rate of all else.

    Arguments:
        kind: one of `DROP_INS`.
        d_input, n_classes: colours and outputs.
        side: of the image.
        patch: side of a patch; divides `side`.
        d_model, n_layer, num_heads: width, blocks and heads.
        d_state: of state spaces.
        d_ff: hidden width of the MLP; a smaller one makes up for a mixer with more parameters.

    Raises:
        HyenaError: another kind, or a patch that does not divide the side.
    """

    def __init__(
        self, kind: str, d_input: int, n_classes: int, *, side: int, patch: int, d_model: int, n_layer: int, d_ff: int,
        d_state: int = 12, num_heads: int = 4,
    ):  # fmt: skip
        super().__init__()
        if kind not in DROP_INS:
            raise unknown("network", kind, DROP_INS)
        if side % patch:
            raise HyenaError(f"patch divides side, got {patch} and {side}")
        grid = side // patch
        self.residual_inside = kind.startswith("convnext")
        self.patch = patch
        self.encoder, self.decoder = nn.Linear(d_input * patch**2, d_model), nn.Linear(d_model, n_classes)
        self.place = nn.Parameter(0.02 * torch.randn(grid, grid, d_model)) if kind == "vit_attention" else None
        state = {"d_state": d_state, "lr": None}
        mixers = {
            "convnext_depthwise": lambda: DepthwiseConvolution(d_model),
            "convnext_s4nd": lambda: S4NDConv(d_model, (grid, grid), **state),
            "vit_attention": lambda: Attention(d_model, num_heads),
            "vit_s4nd": lambda: S4ND(d_model, (grid, grid), channels=2, **state),
            "vit_s4": lambda: Raster(d_model, grid**2, channels=2, init="lin", dt_min=0.01, dt_max=1.0, **state),
        }
        self.mixers = nn.ModuleList(mixers[kind]() for _ in range(n_layer))
        self.norms = nn.ModuleList(
            nn.LayerNorm(d_model) for _ in range(n_layer if self.residual_inside else 2 * n_layer)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(), nn.Linear(d_ff, d_model)) for _ in range(n_layer)
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Float[Tensor, "batch side side d_input"], rate: Rate = 1.0) -> Float[Tensor, "batch classes"]:
        """Logits."""
        batch, side, _, colours = x.shape
        grid = side // self.patch
        patches = x.view(batch, grid, self.patch, grid, self.patch, colours).transpose(2, 3).flatten(3)
        z = self.encoder(patches)
        z = z if self.place is None else z + self.place
        for i, (mixer, mlp) in enumerate(zip(self.mixers, self.mlps, strict=True)):
            if self.residual_inside:
                z = z + mlp(self.norms[i](mixer(z, rate)))
            else:
                z = z + mixer(self.norms[2 * i](z), rate)
                z = z + mlp(self.norms[2 * i + 1](z))
        return self.decoder(self.norm(z).mean((1, 2)))


def isotropic(
    kind: str, d_input: int, n_classes: int, l_max: Sequence[int], *, d_model: int, n_layer: int, dropout: float = 0.0,
    kernel_size: int = 3, **options,
) -> IsotropicClassifier:  # fmt: skip
    """An isotropic classifier of `s4nd` layers, or of dense convolutions (`conv`: Conv2D-ISO) of `kernel_size`.

    Arguments:
        l_max: sides of the finest grid.
        options: of `hyena.models.s4nd.S4NDConv`; a convolution has none.

    Raises:
        HyenaError: another kind, or an option that it does not have.
    """
    if kind == "s4nd":
        layers = [S4ND(d_model, l_max, dropout=dropout, **options) for _ in range(n_layer)]
    elif kind == "conv":
        if options:
            raise HyenaError(f"a convolution has no option {', '.join(sorted(options))}")
        layers = [Convolution(d_model, len(l_max), kernel_size) for _ in range(n_layer)]
    else:
        raise unknown("layer of an isotropic classifier", kind, ISOTROPIC)
    return IsotropicClassifier(layers, d_input, n_classes, d_model, dropout)
