"""Reading the published weights of HyenaDNA: every layout they come in, and tensors that must be refused."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from official_files import (
    ALIASES,
    BUFFERS,
    EMBEDDING,
    FILTER,
    FORMATS,
    REFERENCE,
    TOKENS,
    hf,
    lightning,
    refused,
    renamed,
    same,
    written,
)
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from hyena.models.hyenadna import CheckpointedBlock, HyenaDNA
from hyena.models.official import convert, from_pretrained, read_checkpoint

# Layouts


@pytest.mark.parametrize("layout", FORMATS)
def test_a_loaded_model_computes_what_the_stored_one_did(model, weights, tmp_path, layout: str) -> None:
    loaded = from_pretrained(written(weights, tmp_path, layout))
    assert same(loaded, model)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("layout", FORMATS)
def test_all_tensors_come_by_their_official_names(weights, tmp_path, layout: str) -> None:
    found = read_checkpoint(written(weights, tmp_path, layout))
    aliases = {name for name in weights if name.endswith((".3.freq", ".5.freq"))}
    assert weights.keys() - found.keys() == (aliases if layout == "hf" else set())
    assert found.keys() <= weights.keys()
    assert all(torch.equal(t, weights[name]) for name, t in found.items())


@pytest.mark.parametrize("layout", FORMATS)
def test_names_of_activation_checkpointing_are_the_same_tensors(model, weights, tmp_path, layout: str) -> None:
    assert same(from_pretrained(written(renamed(weights), tmp_path, layout)), model)


def test_metrics_are_left_out(model, weights, tmp_path) -> None:
    prefixes = ("torchmetrics", "train_torchmetrics", "val_torchmetrics", "test_torchmetrics")
    state = OrderedDict((f"model.{name}", t) for name, t in weights.items())
    state |= {f"{prefix}.num_tokens.count": torch.tensor(7) for prefix in prefixes}
    state["torchmetrics.never_updated"] = torch.zeros(0)
    path = tmp_path / "weights.ckpt"
    torch.save({"state_dict": state}, path)
    assert same(from_pretrained(path), model)


def test_the_backbone_alone_is_enough_for_the_head_is_tied_to_it(model, weights, tmp_path) -> None:
    bare = {name: t.clone() for name, t in weights.items() if name != "lm_head.weight"}
    save_file(bare, tmp_path / "model.safetensors")
    assert same(from_pretrained(tmp_path), model)
    del bare[EMBEDDING]
    save_file(bare | {"lm_head.weight": weights[EMBEDDING].clone()}, tmp_path / "model.safetensors")
    assert same(from_pretrained(tmp_path), model)


@pytest.mark.parametrize("kept", [[0], [1], [2], [0, 2], [1, 2]])
def test_any_alias_of_the_frequency_is_enough(model, weights, tmp_path, kept: list[int]) -> None:
    names = [name for i, name in enumerate(ALIASES) if i not in kept]
    path = lightning({name: t for name, t in weights.items() if name not in names}, tmp_path / "weights.ckpt")
    assert same(from_pretrained(path), model)


def test_buffers_but_for_one_that_tells_the_length_may_be_absent(model, weights, tmp_path) -> None:
    for kept in ("pos_emb.z", "pos_emb.t"):
        fewer = {name: t for name, t in weights.items() if not name.endswith(BUFFERS) or name.endswith(kept)}
        assert same(from_pretrained(written(fewer, tmp_path, "hf")), model)
    none = written({name: t for name, t in weights.items() if not name.endswith(BUFFERS)}, tmp_path, "hf")
    assert "neither pos_emb.z nor pos_emb.t, which tell the longest input; give l_max" in refused(none)
    assert same(from_pretrained(none, l_max=20), model)


def test_a_view_of_a_larger_storage_is_read_as_that_view(model, weights, tmp_path) -> None:
    name = "backbone.layers.0.mlp.fc1.weight"
    padded = torch.randn(5 + weights[name].shape[1], 3 + weights[name].shape[0])
    view = padded[5:, 3:].T
    view.copy_(weights[name])
    assert not view.is_contiguous()
    path = lightning(weights | {name: view}, tmp_path / "weights.ckpt")
    assert torch.equal(read_checkpoint(path)[name], weights[name])
    assert same(from_pretrained(path), model)
    assert torch.equal(load_file(convert(path, tmp_path / "m.safetensors"))[f"hyena.{name}"], weights[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", FORMATS)
def test_weights_of_other_precision_become_float32(model, weights, tmp_path, layout: str, dtype: torch.dtype) -> None:
    loaded = from_pretrained(written({name: t.to(dtype) for name, t in weights.items()}, tmp_path, layout))
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32}
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, weights[name].to(dtype).float())
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in loaded.named_buffers()), "rebuilt, not rounded"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("layout", FORMATS)
def test_the_official_outputs_are_reproduced(tmp_path, layout: str, dtype: torch.dtype, tolerance: float) -> None:
    """Float32 is 1e7 times less precise, and 6e-5 off whoever computes it: the fixture's filters are rough."""
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE.name} is not there")
    with np.load(REFERENCE) as stored:
        weights = {key[3:]: torch.from_numpy(stored[key]).to(dtype) for key in stored if key.startswith("sd/")}
        tokens, expected = torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"])
    for alias in [name for name in weights if name.endswith((".3.freq", ".5.freq"))]:
        weights[alias] = weights[alias[:-6] + "1.freq"]  # one storage under three keys, as in the official model
    torch.set_default_dtype(dtype)
    try:
        loaded = from_pretrained(written(weights, tmp_path, layout))
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        assert_close(loaded.embed(tokens).double(), expected, rtol=0, atol=tolerance)


def test_buffers_are_those_of_the_file_unless_it_rounds_them(weights, tmp_path) -> None:
    name = f"{FILTER}.pos_emb.z"
    nudged = weights[name] + 2.0**-23
    assert torch.equal(
        from_pretrained(hf(weights | {name: nudged}, tmp_path / "m.safetensors")).state_dict()[name], nudged
    )
    half = {key: t.half() for key, t in weights.items()}
    assert torch.equal(from_pretrained(hf(half, tmp_path / "m.safetensors")).state_dict()[name], weights[name])


# Options and the caller's state


def test_options_go_to_the_constructor(weights, tmp_path) -> None:
    loaded = from_pretrained(hf(weights, tmp_path / "model.safetensors"), checkpointing=True, embed_dropout=0.4)
    assert isinstance(loaded.backbone.layers[0], CheckpointedBlock)
    assert loaded.backbone.drop.p == 0.4
    with pytest.raises(TypeError, match="checkpoint_all"):
        from_pretrained(tmp_path, checkpoint_all=True)
    assert "shapes differ from the model's: " in refused(tmp_path, l_max=40)


def test_loading_draws_nothing_from_the_callers_generator(weights, tmp_path) -> None:
    hf(weights, tmp_path / "model.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    from_pretrained(tmp_path)
    assert torch.equal(torch.rand(4), expected)


# Tensors that are not the model's


@pytest.mark.parametrize("layout", FORMATS)
def test_missing_and_unexpected_tensors_are_named_five_of_each(weights, tmp_path, layout: str) -> None:
    lacking = {name: t for name, t in weights.items() if ".norm" not in name}
    extra = {f"backbone.layers.0.extra{i}": torch.ones(2) for i in range(7)}
    said = refused(written(lacking | extra, tmp_path, layout))
    assert "missing: backbone.layers.0.norm1.bias, " in said
    assert "and 3 more; unexpected: backbone.layers.0.extra0, " in said
    assert said.endswith("extra4 and 2 more")


def test_a_hole_in_the_numbering_of_layers_is_refused(weights, tmp_path) -> None:
    moved = {name.replace("layers.1.", "layers.1000000000."): t for name, t in weights.items()}
    said = refused(hf(moved, tmp_path / "model.safetensors"))
    assert "missing: backbone.layers.1." in said
    assert "unexpected: backbone.layers.1000000000." in said


def test_a_tensor_under_two_names_is_refused(weights, tmp_path) -> None:
    twice = weights | {"backbone.layers.0.mlp.layer.fc1.bias": weights["backbone.layers.0.mlp.fc1.bias"].clone()}
    assert "are one tensor of the model" in refused(lightning(twice, tmp_path / "weights.ckpt"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("backbone.layers.0.mlp.fc2.bias", (9,)),
        (EMBEDDING, (12, 8)),
        (f"{FILTER}.pos_emb.t", (1, 21, 1)),
        ("backbone.ln_f.weight", (1, 8)),
    ],
)
def test_another_shape_is_refused_never_broadcast(weights, tmp_path, name: str, shape: tuple[int, ...]) -> None:
    changed = {key: t for key, t in weights.items() if key != "lm_head.weight"} | {name: torch.ones(shape)}
    said = refused(hf(changed, tmp_path / "model.safetensors"))
    assert f"shapes differ from the model's: {name} {list(shape)}, not " in said or "lm_head.weight [12, 8]" in said


@pytest.mark.parametrize("name", ["backbone.layers.0.mlp.fc1.weight", EMBEDDING])
def test_a_file_of_something_else_is_refused(weights, tmp_path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"encoder.weight": torch.ones(2, 2)}, path)
    assert "not a HyenaDNA model: no matrix backbone.layers.0.mixer.filter_fn" in refused(path)
    assert refused(hf({key: t for key, t in weights.items() if key not in (name, "lm_head.weight")}, path))


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_that_differ_are_refused(weights, tmp_path, alias: str) -> None:
    path = lightning(weights | {alias: weights[alias] + 1e-3}, tmp_path / "weights.ckpt")
    said = refused(path)
    assert "are one parameter of the model, but differ" in said
    assert "freq" in said


def test_a_head_that_is_not_the_embedding_is_used_as_it_is(model, weights, tmp_path) -> None:
    head = weights["lm_head.weight"] + 1e-3
    loaded = from_pretrained(hf(weights | {"lm_head.weight": head}, tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(loaded.embed(TOKENS), model.embed(TOKENS))
        assert torch.equal(loaded(TOKENS), loaded.embed(TOKENS) @ head.T)


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_that_were_trained_or_defined_otherwise_are_refused(weights, tmp_path, buffer: str, dtype) -> None:
    name = f"{FILTER}.{buffer}"
    largest = weights[name].abs().max()
    nudge, push = (5e-7, 3e-6) if dtype == torch.float32 else (3e-3, 3e-2)
    stored = {key: t.to(dtype) for key, t in weights.items()}
    path = tmp_path / "model.safetensors"
    from_pretrained(hf(stored | {name: (weights[name] + nudge * largest).to(dtype)}, path))
    said = refused(hf(stored | {name: (weights[name] - push * largest).to(dtype)}, path))
    assert f"{name} is off its definition by " in said
    assert f"{name} is off" in refused(hf(stored | {name: torch.full_like(stored[name], torch.nan)}, path))


def test_features_for_another_length_are_refused(weights, tmp_path) -> None:
    longer = HyenaDNA(8, 2, 40, d_inner=16, filter_order=6).state_dict()
    cropped = {name: longer[name][:, :20] for name in weights if "pos_emb" in name}
    assert "pos_emb." in refused(hf(weights | cropped, tmp_path / "model.safetensors"))


def test_a_sequence_classifier_is_refused_as_such(weights, tmp_path) -> None:
    path = hf(weights | {"score.weight": torch.ones(2, 8)}, tmp_path / "model.safetensors")
    assert "a classifier, whose head is score.weight; only language models are loaded" in refused(path)


def test_numbers_that_are_no_weights_are_refused(weights, tmp_path) -> None:
    path = hf(weights | {"backbone.ln_f.bias": torch.ones(8, dtype=torch.int64)}, tmp_path / "model.safetensors")
    assert "not weights: backbone.ln_f.bias" in refused(path)
    hf(weights | {EMBEDDING: torch.ones(16, 0)}, path)
    assert f"not weights: {EMBEDDING}" in refused(path)
