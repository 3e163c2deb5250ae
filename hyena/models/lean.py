"""Reading a very long sequence in little memory: the same numbers as the model's own forward pass.

Between the two projections of a Hyena operator no channel meets another, so a few channels at a time are carried from
the normalised input to their share of the output, which is added to the residual stream in place. The MLP acts on
each position by itself and goes in pieces of the sequence. What is held is the stream, its normalised copy and one
group of channels, whatever the depth: 5 GB for a million nucleotides at width 256 (`hyena bench genome`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.hyena import HyenaFilter, HyenaOperator
from hyena.models.lm import Backbone, LanguageModel
from hyena.ops.fftconv import causal_conv

POSITIONS = 2**11  # of the sequence at a time where channels meet: what an MLP makes of them stays in cache


@torch.no_grad()
def lean_hidden(
    model: LanguageModel, tokens: Int[Tensor, " length"], *, channels: int = 32, matmul: torch.dtype | None = None
) -> Float[Tensor, "length d_model"]:
    """What `model.backbone` makes of one sequence, in evaluation mode.

    Arguments:
        model: with Hyena operators, whose filters are implicit ones.
        tokens: one sequence.
        channels: how many at a time; fewer take less memory and more time.
        matmul: precision of the factors of matrix products, the model's own if not given; convolutions and sums
            always stay in that.

    Raises:
        HyenaError: the sequence is longer than the model allows, or a mixer is not of this kind.
    """
    if len(tokens) > model.l_max:
        raise HyenaError(f"length {len(tokens):,} exceeds l_max {model.l_max:,}; build the model with a larger l_max")
    backbone: Backbone = model.backbone
    for layer in backbone.layers:
        _check(layer.mixer)
    x = backbone.embeddings(tokens[None])[0]  # (L, D), from here on changed in place
    matmul = x.dtype if matmul is None else matmul
    for layer in backbone.layers:
        _add_mixed(x, layer.norm1, layer.mixer, channels, matmul)
        for part in x.split(POSITIONS):
            part += _linear(
                F.gelu(_linear(layer.norm2(part), layer.mlp.fc1, matmul), approximate="tanh"), layer.mlp.fc2, matmul
            )
    for part in x.split(POSITIONS):
        part.copy_(backbone.ln_f(part))
    return x


@torch.no_grad()
def lean_log_likelihood(
    model: LanguageModel, tokens: Int[Tensor, " length"], **options: object
) -> Float[Tensor, " last"]:
    r"""$\log p(x_t \mid x_{<t})$ in nats of every letter but the first; options as `lean_hidden`."""
    hidden, found = lean_hidden(model, tokens[:-1], **options), []
    for part, targets in zip(hidden.split(POSITIONS), tokens[1:].split(POSITIONS), strict=True):
        found.append(-F.cross_entropy(model.lm_head(part), targets, reduction="none"))
    return torch.cat(found)


def _check(mixer: object) -> None:
    plain = isinstance(mixer, HyenaOperator) and isinstance(mixer.filter_fn, HyenaFilter)
    if not plain or mixer.filter_fn.normalized:
        raise HyenaError(
            "lean reading is for Hyena operators with implicit filters that are not normalised over channels"
        )


def _add_mixed(x: Tensor, norm: torch.nn.Module, mixer: HyenaOperator, channels: int, matmul: torch.dtype) -> None:
    """Add the operator's output for norm(x) to x, a group of channels at a time."""
    normal = torch.empty_like(x, dtype=matmul)
    for part, out in zip(x.split(POSITIONS), normal.split(POSITIONS), strict=True):
        out.copy_(norm(part))
    features = _features(mixer.filter_fn, len(x))
    x += mixer.out_proj.bias
    for group in torch.arange(mixer.d_model, device=x.device).split(channels):
        y = _mix_group(normal, features, mixer, group)  # (channels, L)
        weight = mixer.out_proj.weight[:, group].T.to(matmul)
        for part, some in zip(x.split(POSITIONS), y.split(POSITIONS, dim=1), strict=True):
            part += some.T.to(matmul) @ weight


def _mix_group(normal: Tensor, features: Tensor, mixer: HyenaOperator, group: Tensor) -> Tensor:
    """The gated convolutions of a few channels, as `HyenaOperator.mix`."""
    *gates, v = _project(normal, mixer, group)
    for i, gate in enumerate(reversed(gates[1:])):
        row = _rows(mixer, group, i)
        v = causal_conv((v * gate)[None], _taps(mixer.filter_fn, features, row), mixer.filter_fn.skip()[row])[0]
    return mixer.activation(v * gates[0])


def _project(normal: Tensor, mixer: HyenaOperator, group: Tensor) -> tuple[Tensor, ...]:
    """Gates and value of a few channels, each (channels, L)."""
    rows = torch.cat([group + i * mixer.d_model for i in range(mixer.order + 1)])
    weight, bias = mixer.in_proj.weight[rows].to(normal.dtype), mixer.in_proj.bias[rows, None]
    p = torch.empty(len(rows), len(normal), dtype=bias.dtype, device=bias.device)
    for part, out in zip(normal.split(POSITIONS), p.split(POSITIONS, dim=1), strict=True):
        torch.add(weight @ part.T, bias, out=out)
    taps = mixer.short_filter.weight[rows, 0].flip(-1)  # lag 0 first
    found = torch.addcmul(mixer.short_filter.bias[rows, None], p, taps[:, :1])
    for lag in range(1, taps.shape[1]):
        found[:, lag:].addcmul_(p[:, :-lag], taps[:, lag, None])
    return found.chunk(mixer.order + 1)


def _rows(mixer: HyenaOperator, group: Tensor, i: int) -> Tensor:
    """Where the filter's rows for convolution `i` of some channels stand, as in `HyenaOperator.filters`."""
    return group + i * mixer.d_model if mixer.channel_map == "blocked" else group * (mixer.order - 1) + i


def _features(f: HyenaFilter, length: int) -> Tensor:
    """What the filter network computes before its last layer, which alone knows channels: (length, width)."""
    z = f.pos_emb.z[0, :length]
    return torch.cat([f.implicit_filter[:-1](part) for part in z.split(POSITIONS)])


def _taps(f: HyenaFilter, features: Tensor, rows: Tensor) -> Tensor:
    h = f.implicit_filter[-1].weight[rows] @ features.T
    if f.modulate:
        t = f.pos_emb.t[0, : len(features), 0]
        h *= torch.exp(-t * f.modulation.deltas[0, 0, rows, None].abs()) + f.modulation.shift
    return h


def _linear(x: Tensor, linear: torch.nn.Linear, matmul: torch.dtype) -> Tensor:
    if matmul == linear.bias.dtype:
        return F.linear(x, linear.weight, linear.bias)
    return (x.to(matmul) @ linear.weight.T.to(matmul)).to(linear.bias.dtype) + linear.bias
