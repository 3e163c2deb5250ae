"""Weights of the public code as ours: T1 and T1U (DiffEqML/kairos), Li's original FNO (neuraloperator)."""

from __future__ import annotations

import torch
from torch import Tensor

Weights = dict[str, Tensor]
DOWN = ("layer1", "layer2", "layer2b", "layer3", "layer4", "layer5", "layer6")


def t1_from_official(weights: Weights) -> Weights:
    """The state of a `T1` that computes what the official T1_2d does, on the block of coefficients."""
    state = {"lift.weight": weights["fc0.weight"], "lift.bias": weights["fc0.bias"]}
    state |= {"head.0": weights["fc1"].T, "head.1": weights["fc2"].T}
    for i in range(sum(key.endswith("ch_mixing_1") for key in weights)):
        state |= layer_from_official(weights, f"layers.{i}.", f"layers.{i}.")
    return state


def t1u_from_official(weights: Weights) -> Weights:
    """The state of a `T1U` with 24 modes, running statistics included."""
    state = {"lift.weight": weights["fc0.weight"], "lift.bias": weights["fc0.bias"]}
    state |= layer_from_official(weights, "op_layer.", "layer.")
    for i, name in enumerate(DOWN):
        state |= _moved(weights, name, "conv", f"unet.down.{i}.", convolution=min(i, 1))
    for i, name in enumerate(DOWN[:0:-1]):
        state |= _moved(weights, f"d{name}", "tconv", f"unet.up.{i}.", convolution=2)
    return state | _moved(weights, "dlayer1", "tconv", "unet.last.", convolution=1)


def layer_from_official(weights: Weights, prefix: str = "", to: str = "") -> Weights:
    """The state of a `T1Layer`: (in, out, x, y) to (x, y, in, out), and (in, out, channel) to (channel, in, out)."""
    return {
        f"{to}channel_mixing": weights[f"{prefix}ch_mixing_1"].permute(2, 3, 0, 1),
        f"{to}axis_mixing.0": weights[f"{prefix}spatial_mixing_1"].permute(2, 0, 1),
        f"{to}axis_mixing.1": weights[f"{prefix}spatial_mixing_2"].permute(2, 0, 1),
    }


def fno_from_official(weights: Weights) -> Weights:
    """The state of an `FNO` from Li's two-dimensional one; unused entries of batch normalisations are left behind."""
    state = {"lift.weight": weights["fc0.weight"], "lift.bias": weights["fc0.bias"]}
    for i in range(sum(key.endswith("weights1") for key in weights)):
        state[f"convs.{i}.weight"] = conv_from_official(weights[f"conv{i}.weights1"], weights[f"conv{i}.weights2"])
        state |= {f"mixes.{i}.weight": weights[f"w{i}.weight"].flatten(1), f"mixes.{i}.bias": weights[f"w{i}.bias"]}
    for ours, theirs in (("head.0", "fc1"), ("head.2", "fc2")):
        state |= {f"{ours}.{key}": weights[f"{theirs}.{key}"] for key in ("weight", "bias")}
    return state


def conv_from_official(*blocks: Tensor) -> Tensor:
    """The weight of a `SpectralConv` from blocks of rows, (in, out, *kept) and complex: first those from 0, then -m."""
    joined = torch.cat(blocks, 2)
    return torch.view_as_real(joined.movedim((0, 1), (-2, -1)).contiguous())


def _moved(weights: Weights, name: str, kind: str, to: str, convolution: int) -> Weights:
    """Convolution and, behind it, batch normalisation of one layer of the U-Net."""
    old = f"dfpnet.{name}.{name}_"
    parts = {f"{old}{kind}.": f"{to}{convolution}.", f"{old}bn.": f"{to}{convolution + 1}."}
    return {
        new + key.removeprefix(start): value
        for start, new in parts.items()
        for key, value in weights.items()
        if key.startswith(start)
    }
