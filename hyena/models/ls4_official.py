"""Weights of the official LS4 code under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary of the official code under our names; matrices of 1 x 1 convolutions become linear maps."""
    levels = 1 + max((int(m[1]) for name in state if (m := re.search(r"d_layers\.(\d+)", name))), default=-1)
    found = {}
    for name, value in state.items():
        if name.startswith("decoder.x_prior"):
            continue  # of the two-input form, without effect
        ours = _renamed(name, levels)
        if name.endswith("w_imag"):
            value = -value
        if name.endswith("log_dt"):
            value = value[:, None]
        if name.endswith(("weight", "bias")) and value.ndim == (3 if name.endswith("weight") else 2):
            value = value[..., 0]  # of a convolution of one step
        found[ours] = value
    return found


def _renamed(name: str, levels: int) -> str:
    way = 1 if "_back" in name else 0
    name = re.sub(r"^encoder\.latent(_back)?\.", f"posteriors.{way}.", name)
    name = re.sub(r"^decoder\.latent(_back)?\.", f"priors.{way}.", name)
    name = re.sub(r"^decoder\.z_prior(_back)?$", f"z_priors.{way}", name)
    name = re.sub(r"^decoder\.dec\.", "decoder.", name)
    name = re.sub(r"backbone\.d_layers\.(\d+)\.linear", lambda m: f"{_level(int(m[1]))}.down", name)
    name = re.sub(r"backbone\.c_layers\.(\d+)\.", lambda m: f"{_level(levels)}.{_layer(int(m[1]))}.", name)
    name = re.sub(r"backbone\.u_layers\.(\d+)\.0\.linear", lambda m: f"{_level(levels - 1 - int(m[1]))}.up", name)
    name = re.sub(
        r"backbone\.u_layers\.(\d+)\.(\d+)\.",
        lambda m: f"{_level(levels - 1 - int(m[1]))}.core.{_layer(int(m[2]) - 1)}.",
        name,
    )
    name = name.replace(".layer.ff.0.0.", ".1.0.").replace(".layer.ff.2.", ".1.2.")
    name = re.sub(r"(layers\.\d+\.(?:ssm|feed))\.norm", r"\1.0", name)
    name = name.replace(".ssm.layer.", ".ssm.1.").replace(".kernel.kernel.", ".kernel.")
    name = re.sub(r"(\.ssm\.1|\.mean|\.log_std)\.(D|kernel)", r"\1.layer.\2", name)
    name = re.sub(r"\.linear\.(weight|bias)$", r".head.linear.\1", name) if _has_head(name) else name
    name = re.sub(r"\.(mean|log_std)\.", r".head.\1.", name)
    name = re.sub(r"^decoder\.linear\.", "decoder.head.", name)
    for theirs, ours in (("log_dt", "inv_dt"), ("inv_w_real", "A_real"), ("w_imag", "A_imag"), (".L", ".l_kernel")):
        name = re.sub(f"{re.escape(theirs)}$", ours, name)
    return name


def _level(depth: int) -> str:
    return "backbone.stack" + depth * ".inner"


def _layer(i: int) -> str:
    return f"layers.{i // 2}.{('ssm', 'feed')[i % 2]}"


def _has_head(name: str) -> bool:
    return bool(re.match(r"(posteriors|priors)\.\d\.linear\.", name))
