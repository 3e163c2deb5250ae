"""hyena: long-convolution and state-space papers as executed notebooks on one package."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Public names and the modules that define them; loaded on first use, so that `import hyena` costs nothing.
PUBLIC = {
    "causal_conv": "hyena.ops.fftconv",
    "two_sided_conv": "hyena.ops.fftconv",
    "OnlineConvolution": "hyena.ops.streaming",
    "diagonal_kernel": "hyena.ops.ssm",
    "distill": "hyena.ops.distill",
    "HyenaFilter": "hyena.models.hyena",
    "HyenaOperator": "hyena.models.hyena",
    "hyena_matrix": "hyena.models.hyena",
    "operator_from_official": "hyena.models.hyena",
    "toeplitz": "hyena.models.hyena",
    "HyenaDNA": "hyena.models.hyenadna",
    "Classifier": "hyena.models.hyenadna",
    "SoftPrompt": "hyena.models.hyenadna",
    "mutagenesis": "hyena.models.hyenadna",
    "LS4": "hyena.models.ls4",
    "LatentODE": "hyena.models.generators",
    "S4Block": "hyena.models.s4",
    "S4Model": "hyena.models.s4",
    "S4ND": "hyena.models.s4nd",
    "S4NDConv": "hyena.models.s4nd",
    "inflated": "hyena.models.s4nd",
    "SpaceTime": "hyena.models.spacetime",
    "T1": "hyena.models.t1",
    "T1U": "hyena.models.t1",
    "FNO": "hyena.models.fno",
    "FFNO": "hyena.models.fno",
    "dct": "hyena.ops.dct",
    "idct": "hyena.ops.dct",
    "navier_stokes": "hyena.data.flows",
    "vorticity": "hyena.data.fluids",
    "CNN": "hyena.models.retina",
    "bn_cnn": "hyena.models.retina",
    "LN": "hyena.models.retina",
    "GLM": "hyena.models.retina",
    "FeedbackCNN": "hyena.models.retina_feedback",
    "LateralCNN": "hyena.models.retina_memory",
    "LNK": "hyena.models.retina_memory",
    "attributed": "hyena.models.attribution",
    "Session": "hyena.data.recordings",
    "load_recording": "hyena.data.recordings",
    "simulated_recording": "hyena.data.recordings",
    "conv_nd": "hyena.ops.conv_nd",
    "from_pretrained": "hyena.models.official",
    "lean_hidden": "hyena.models.lean",
    "lean_log_likelihood": "hyena.models.lean",
    "CausalAttention": "hyena.models.attention",
    "mixer": "hyena.models.mixers",
    "LanguageModel": "hyena.models.lm",
    "count_parameters": "hyena.models.lm",
    "next_token_loss": "hyena.models.lm",
    "associative_recall": "hyena.data.synthetic",
    "induction": "hyena.data.tasks",
    "majority": "hyena.data.tasks",
    "counting": "hyena.data.tasks",
    "addition": "hyena.data.tasks",
    "linear_functions": "hyena.data.tasks",
    "open_fasta": "hyena.data.genome",
    "load_dna": "hyena.data.dna",
    "load_task": "hyena.data.labelled",
    "load_images": "hyena.data.images",
    "load_corpus": "hyena.data.text",
    "load_panel": "hyena.data.panels",
    "HyenaError": "hyena.errors",
}
__all__ = sorted(PUBLIC)


def __getattr__(name: str) -> object:
    if name in PUBLIC:
        return getattr(importlib.import_module(PUBLIC[name]), name)
    raise AttributeError(f"module 'hyena' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
