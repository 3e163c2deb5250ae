"""Files in the layouts of the published weights of HyenaDNA, made from a small model."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hyena.errors import HyenaError
from hyena.models.hyenadna import HyenaDNA
from hyena.models.official import from_pretrained

REFERENCE = Path(__file__).parent / "reference" / "hyenadna_reduced_perturbed_exactfp64.npz"
TOKENS = torch.tensor([[7, 8, 9, 10, 11, 7, 7, 10, 9, 8, 8, 1], [0, 10, 9, 8, 7, 6, 7, 8, 9, 10, 11, 1]])
EMBEDDING = "backbone.embeddings.word_embeddings.weight"
FILTER = "backbone.layers.1.mixer.filter_fn"
ALIASES = [f"{FILTER}.implicit_filter.{i}.freq" for i in (1, 3, 5)]
BUFFERS = ("pos_emb.z", "pos_emb.t", "modulation.deltas")
FORMATS = ("hf", "ckpt")
Weights = dict[str, Tensor]


def hf(weights: Weights, path: Path) -> Path:
    """A file as on the hub: tensors that share memory are stored once, under the first of their names."""
    kept = {name: t for name, t in weights.items() if ".3.freq" not in name and ".5.freq" not in name}
    save_file({name.replace("backbone.", "hyena.backbone."): t.clone() for name, t in kept.items()}, path)
    return path


def lightning(weights: Weights, path: Path, **beside: object) -> Path:
    """A file as PyTorch Lightning writes it, with what a training run keeps beside the weights."""
    state = OrderedDict((f"model.{name}", t) for name, t in weights.items())
    rest = {"epoch": 3, "pytorch-lightning_version": "1.8", "optimizer_states": [{"exp_avg": torch.zeros(3)}]}
    torch.save({"state_dict": state, **rest, **beside}, path)
    return path


def written(weights: Weights, folder: Path, layout: str) -> Path:
    if layout == "hf":
        return hf(weights, folder / "model.safetensors")
    return lightning(weights, folder / "weights.ckpt")


def renamed(weights: Weights) -> Weights:
    """Names of a model trained with activation checkpointing."""
    return {name.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer."): t for name, t in weights.items()}


def refused(path: Path | str, **options: object) -> str:
    with pytest.raises(HyenaError) as caught:
        from_pretrained(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(loaded: HyenaDNA, model: HyenaDNA) -> bool:
    """Outputs equal in every bit, aliases still shared."""
    assert loaded.lm_head.weight is loaded.backbone.embeddings.word_embeddings.weight
    with torch.no_grad():
        return torch.equal(loaded(TOKENS), model(TOKENS)) and torch.equal(loaded.embed(TOKENS), model.embed(TOKENS))


def zipped(records: dict[str, bytes], path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return path
