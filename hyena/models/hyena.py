"""The Hyena operator (Poli et al. 2023, arXiv 2302.10866), attribute names as in the official checkpoints."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError, unknown
from hyena.models.convolution import ConvolutionMixer, Convolve, Kernel, check_length
from hyena.ops.fftconv import causal_conv

ChannelMap = Literal["interleaved", "blocked"]

# Options of the official class that this one refuses, each with the reason a user deserves.
REFUSED = {
    "num_blocks": "splitting the sequence into blocks lets an output see later inputs",
    "num_heads": "the official code fails for more than one head",
    "inner_factor": "the official code fails for any factor but 1",
    "outer_mixing": "it multiplies by the sum of the gate over channels instead of the gate",
    "post_order_ffn": "with the one head that works it multiplies by one scalar",
    "filter_dropout": "the official code ignores it",
    "local_order": "the official code ignores it; the short filter is short_filter_order",
}


class Sine(nn.Module):
    """sin(freq * x) with one trainable frequency per feature, shared by all layers of a filter."""

    def __init__(self, width: int, w: float):
        super().__init__()
        self.freq = nn.Parameter(torch.full((1, width), float(w)))

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        return torch.sin(self.freq * x)


class PositionalEmbedding(nn.Module):
    r"""Features of position $t_i = i/(l_{max}-1)$: $[t,\ \cos(f_j w_i),\ -\sin(f_j w_i)]$, $w_i = 2\pi i/l_{max}$.

    The frequencies $f_j$ are `(emb_dim - 1) / 2` numbers from 1e-4 up, one apart (Section 3.3).
    """

    def __init__(self, emb_dim: int, l_max: int, trainable: bool):
        super().__init__()
        bands = (emb_dim - 1) // 2
        t = torch.linspace(0, 1, l_max)[None, :, None]  # (1, l_max, 1)
        w = 2 * math.pi * torch.linspace(0, l_max - 1, l_max)[None, :, None] / l_max
        f = torch.linspace(1e-4, bands - 1, bands)[None, None]  # (1, 1, bands)
        z = torch.cat([t, torch.cos(f * w), -torch.sin(f * w)], dim=-1)  # (1, l_max, emb_dim)
        self.register_buffer("t", t)
        if trainable:
            self.z = nn.Parameter(z)
        else:
            self.register_buffer("z", z)


class ExponentialWindow(nn.Module):
    r"""The decay $e^{-t|\delta_c|} + \text{shift}$ of channel $c$: from 1 to 0.01 within 0.3 to 1.5 of the length."""

    def __init__(self, channels: int, shift: float):
        super().__init__()
        slow, fast, floor = 1.5, 0.3, 1e-2  # fractions of l_max at which a channel has decayed to `floor`
        deltas = torch.linspace(math.log(floor) / slow, math.log(floor) / fast, channels)
        self.register_buffer("deltas", deltas[None, None])
        self.shift = shift

    def forward(self, t: Float[Tensor, "1 length 1"]) -> Float[Tensor, "1 length channels"]:
        return torch.exp(-t * self.deltas.abs()) + self.shift


class HyenaFilter(nn.Module):
    r"""An implicit filter: a small network from position to tap, times a window (Section 3.3, Eq. 7).

    $$h_t = \mathrm{Window}(t) \cdot (\mathrm{FFN} \circ \mathrm{PositionalEncoding})(t)$$

    With fixed positional features the number of parameters does not depend on the length. A shorter input sees the
    first taps of the same filter; nothing is rescaled.

    Arguments:
        channels: number of filters, `d_model * (order - 1)` inside an operator.
        l_max: longest input.
        emb_dim: positional features, odd and at least 3.
        filter_order: width of the network.
        num_inner_mlps: hidden layers after the first.
        w: initial frequency of the sine activations. With the language-model initialisation a `w` below 10
            leaves filters close to zero.
        shift: added to the window; 0 in the language models, 0.05 in HyenaDNA.
        modulate: multiply by the window.
        normalized: divide by the L1 norm over channels at each position, as the official option of this name.
        bias: use the skip weights `bias`.
        lr, lr_pos_emb: learning rate of the network and of the positional features (not trained if 0); `None`
            leaves it to the optimiser. Neither is decayed.
    """

    def __init__(
        self,
        channels: int,
        l_max: int,
        *,
        emb_dim: int = 3,
        filter_order: int = 16,
        num_inner_mlps: int = 2,
        w: float = 1.0,
        shift: float = 0.0,
        modulate: bool = True,
        normalized: bool = False,
        bias: bool = True,
        lr: float | None = None,
        lr_pos_emb: float = 1e-5,
    ):
        super().__init__()
        if emb_dim < 3 or emb_dim % 2 == 0:
            raise HyenaError(
                f"emb_dim is one time feature and pairs of cosines and sines: odd, at least 3; got {emb_dim}"
            )
        if l_max < 1:
            raise HyenaError(f"l_max must be at least 1, got {l_max}")
        self.l_max, self.modulate, self.normalized, self.use_bias = l_max, modulate, normalized, bias
        self.bias = nn.Parameter(torch.randn(channels))
        self.pos_emb = PositionalEmbedding(emb_dim, l_max, trainable=lr_pos_emb > 0)
        sine = Sine(filter_order, w)
        layers: list[nn.Module] = [nn.Linear(emb_dim, filter_order), sine]
        for _ in range(num_inner_mlps):
            layers += [nn.Linear(filter_order, filter_order), sine]
        self.implicit_filter = nn.Sequential(*layers, nn.Linear(filter_order, channels, bias=False))
        self.modulation = ExponentialWindow(channels, shift)  # in the state dict even where it is not used
        self._set_optimiser_options(lr, lr_pos_emb)

    def _set_optimiser_options(self, lr: float | None, lr_pos_emb: float) -> None:
        option = {"weight_decay": 0.0} if lr is None else {"weight_decay": 0.0, "lr": lr}
        for parameter in self.implicit_filter.parameters():
            parameter._optim = option
        if lr_pos_emb > 0:
            self.pos_emb.z._optim = {"weight_decay": 0.0, "lr": lr_pos_emb}

    def forward(self, length: int) -> Float[Tensor, "channels length"]:
        """The first `length` taps of every filter.

        Raises:
            ValueError: `length` exceeds `l_max`.
        """
        check_length(length, self.l_max)
        h = self.implicit_filter(self.pos_emb.z[:, :length])  # (1, length, channels)
        if self.modulate:
            h = h * self.modulation(self.pos_emb.t[:, :length])
        if self.normalized:
            h = h / h.norm(p=1, dim=-1, keepdim=True)
        return h[0].T.to(self.pos_emb.t.dtype)  # taps are never half precision

    def skip(self) -> Float[Tensor, " channels"]:
        """Weight of the input in the output of each convolution."""
        return self.bias if self.use_bias else torch.zeros_like(self.bias)


class HyenaOperator(ConvolutionMixer):
    r"""Gated long convolutions: the drop-in replacement of attention (Definition 3.1, as released).

    With projections $x_0, \dots, x_{N-1}, v$ of the input, each through a short causal convolution,

    $$v \leftarrow h^{(o)} * (x_{N-1-o}\, v) + d^{(o)} x_{N-1-o}\, v,\quad o = 0, \dots, N-2;\qquad
      y = W_{out}\,(x_0\, v)$$

    so order $N$ has $N$ gates and $N-1$ long convolutions, in $O(N D L \log L)$.

    Arguments:
        d_model: width.
        l_max: longest input; a longer one raises, it is never cut.
        order: number of gates, at least 2.
        filter_order: width of the filter network (the rest of the filter's options are `HyenaFilter`'s).
        short_filter_order: taps of the short convolution on the projections.
        dropout: on the gated values.
        activation: applied to the gated output, before the last projection.
        channel_map: how the filter's channels are laid out as (order, width): "interleaved" as in the official
            training code, "blocked" as in the standalone HyenaDNA file. The same for order 2.
        long_filter: makes another parametrisation of the filters from (channels, l_max), such as those of
            `hyena.models.filters`; the filter options then have no effect.
    """

    def __init__(
        self,
        d_model: int,
        l_max: int,
        *,
        order: int = 2,
        filter_order: int = 64,
        short_filter_order: int = 3,
        dropout: float = 0.0,
        activation: Literal["id", "gelu"] = "id",
        channel_map: ChannelMap = "interleaved",
        emb_dim: int = 3,
        num_inner_mlps: int = 2,
        w: float = 1.0,
        shift: float = 0.0,
        modulate: bool = True,
        normalized: bool = False,
        bias: bool = True,
        lr: float | None = None,
        lr_pos_emb: float = 1e-5,
        long_filter: Callable[[int, int], nn.Module] | None = None,
    ):
        super().__init__()
        if order < 2:
            raise HyenaError(f"order must be at least 2 (one long convolution between two gates), got {order}")
        if channel_map not in ("interleaved", "blocked"):
            raise HyenaError(f"channel_map is 'interleaved' or 'blocked', got {channel_map!r}")
        if activation not in ("id", "gelu"):
            raise HyenaError(f"activation is 'id' or 'gelu', got {activation!r}")
        self.d_model, self.l_max, self.order, self.channel_map = d_model, l_max, order, channel_map
        self.in_proj = nn.Linear(d_model, (order + 1) * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        channels = (order + 1) * d_model
        self.short_filter = nn.Conv1d(
            channels, channels, short_filter_order, groups=channels, padding=short_filter_order - 1
        )
        long_filter = long_filter or partial(
            HyenaFilter,
            emb_dim=emb_dim,
            filter_order=filter_order,
            num_inner_mlps=num_inner_mlps,
            w=w,
            shift=shift,
            modulate=modulate,
            normalized=normalized,
            bias=bias,
            lr=lr,
            lr_pos_emb=lr_pos_emb,
        )
        self.filter_fn = long_filter(d_model * (order - 1), l_max)
        self.dropout = nn.Dropout(dropout)
        self.activation = nn.GELU() if activation == "gelu" else nn.Identity()

    def forward(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Causal: output t depends on inputs up to t.

        Raises:
            ValueError: the input is longer than `l_max`.
        """
        length = u.shape[1]
        h, d = self.filters(length)

        def convolve(i: int, x: Tensor) -> Tensor:
            return self.short_filter(x)[..., :length] if i == 0 else causal_conv(x, h[i - 1], d[i - 1])

        return self.mix(u, convolve)

    def mix(self, u: Tensor, convolve: Convolve) -> Tensor:
        *gates, v = self.project(u, convolve)
        for i, x in enumerate(reversed(gates[1:]), start=1):
            v = convolve(i, self.dropout(v * x))
        return self.out_proj(self.activation((v * gates[0]).transpose(1, 2)))

    def kernels(self, length: int) -> list[Kernel]:
        short = Kernel(self.short_filter.weight[:, 0].flip(-1), bias=self.short_filter.bias)
        return [short, *(Kernel(h, d) for h, d in zip(*self.filters(length), strict=True))]

    def project(self, u: Tensor, convolve: Convolve) -> tuple[Tensor, ...]:
        """The gates x_0 … x_{N-1} and the value v, each (batch, d_model, length)."""
        return convolve(0, self.in_proj(u).transpose(1, 2)).split(self.d_model, dim=1)

    def projections(self, u: Float[Tensor, "batch length d_model"]) -> tuple[Tensor, ...]:
        """The gates x_0 … x_{N-1} and the value v of a whole sequence, each (batch, d_model, length)."""
        return self.project(u, lambda _, p: self.short_filter(p)[..., : u.shape[1]])

    def filters(
        self, length: int
    ) -> tuple[Float[Tensor, "convolutions d_model length"], Float[Tensor, "convolutions d_model"]]:
        """The long filters h^(0) … h^(N-2) and their skip weights, in the order they are applied."""
        h, d = self.filter_fn(length), self.filter_fn.skip()
        if self.channel_map == "blocked":
            shape = (self.order - 1, self.d_model)
            return h.view(*shape, length), d.view(shape)
        shape = (self.d_model, self.order - 1)
        return h.view(*shape, length).transpose(0, 1), d.view(shape).T


def hyena_matrix(
    operator: HyenaOperator, u: Float[Tensor, "batch length d_model"]
) -> Float[Tensor, "batch d_model length length"]:
    r"""The data-controlled matrix $H(u)$ of Section 3.2, for which the operator is $y = W_{out} (H(u)\, v)$.

    $$H(u) = D_{x_0} S_{h^{(N-2)}} D_{x_1} \cdots S_{h^{(0)}} D_{x_{N-1}}$$

    with $D_x$ diagonal and $S_h$ the lower-triangular Toeplitz matrix of a filter, skip weight on its diagonal.
    Quadratic in length: for looking at, not for computing with.
    """
    *gates, _ = operator.projections(u)
    length = u.shape[1]
    matrix = torch.diag_embed(gates[-1])  # (B, D, L, L)
    for x, h, d in zip(reversed(gates[:-1]), *operator.filters(length), strict=True):
        matrix = x[..., None] * (toeplitz(h, d) @ matrix)
    return matrix


def toeplitz(
    h: Float[Tensor, "channels length"], skip: Float[Tensor, " channels"]
) -> Float[Tensor, "channels length length"]:
    """S[t, s] = h[t - s] for s <= t and 0 above; `skip` is added to the diagonal."""
    length = h.shape[-1]
    padded = F.pad(h, (length - 1, 0))  # index t - s + length - 1
    rows = padded.unfold(-1, length, 1)  # rows[t, j] = padded[t + j] = h[t + j - length + 1]
    return rows.flip(-1) + torch.diag_embed(skip[:, None].expand(-1, length))


def operator_from_official(config: dict[str, object]) -> HyenaOperator:
    """An operator from the keyword arguments of the official class.

    Raises:
        HyenaError: an option that the official code gets wrong is set (`REFUSED` says why), or is unknown.
    """
    harmless = {"num_blocks": 1, "num_heads": 1, "inner_factor": 1, "filter_dropout": 0.0}
    allowed = inspect.signature(HyenaOperator).parameters
    ours: dict[str, object] = {}
    for name, value in config.items():
        if name in allowed:
            ours[name] = value
        elif name not in REFUSED:
            raise unknown("option", name, allowed)
        elif value and value != harmless.get(name):
            raise HyenaError(f"{name}={value!r} is not supported: {REFUSED[name]}")
    return HyenaOperator(**ours)
