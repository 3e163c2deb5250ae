"""Classifiers of images: what their layers compute, sizes, and mistakes."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from torch import nn

from hyena.errors import HyenaError
from hyena.models.image_classifiers import (
    DROP_INS,
    Attention,
    Convolution,
    IsotropicClassifier,
    PatchClassifier,
    Raster,
    isotropic,
)
from hyena.models.lm import count_parameters
from hyena.models.s4nd import S4ND, S4NDConv

PATCHES = {"side": 8, "patch": 2, "d_model": 8, "n_layer": 2, "d_ff": 12, "d_state": 4, "num_heads": 2}


def patches(kind: str, **changes: object) -> PatchClassifier:
    torch.manual_seed(0)
    return PatchClassifier(kind, 3, 5, **PATCHES | changes).eval()


@pytest.mark.usefixtures("float64")
def test_a_convolution_is_the_sum_over_neighbours() -> None:
    layer, u = Convolution(3, 2), torch.randn(2, 5, 4, 3)
    padded = nn.functional.pad(u, (0, 0, 1, 1, 1, 1))
    sums = sum(
        torch.einsum("bijc,oc->bijo", padded[:, a : a + 5, b : b + 4], layer.conv.weight[:, :, a, b])
        for a in range(3)
        for b in range(3)
    )
    close(layer(u), nn.functional.gelu(sums + layer.conv.bias), 1e-10)


def test_dead_units_give_and_take_exactly_nothing_and_the_others_are_as_ever() -> None:
    layer, u = Convolution(1, 1, 1), torch.linspace(-20, 5, 500)[None, :, None].requires_grad_()
    nn.init.constant_(layer.conv.weight, 1)
    nn.init.constant_(layer.conv.bias, 0)
    y, expected = layer(u), nn.functional.gelu(u)
    ours, usual = (torch.autograd.grad(z.sum(), u)[0] for z in (y, expected))
    assert torch.allclose(y, expected, atol=1e-20) and torch.allclose(ours, usual, atol=1e-20)
    assert (ours[u < -10] == 0).all()


@pytest.mark.usefixtures("float64")
def test_attention_is_a_weighted_mean_over_all_places() -> None:
    layer, u = Attention(4, 2), torch.randn(2, 3, 2, 4)
    q, k, v = layer.in_proj(u.flatten(1, 2)).chunk(3, -1)
    heads = []
    for part in (slice(0, 2), slice(2, 4)):
        weights = (q[..., part] @ k[..., part].mT / 2**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    close(layer(u), layer.out_proj(torch.cat(heads, -1)).view(u.shape), 1e-10)


@pytest.mark.usefixtures("float64")
def test_a_raster_reads_row_by_row_with_the_product_of_rates() -> None:
    layer, u = Raster(4, 12, d_state=4), torch.randn(2, 3, 2, 4)
    close(layer(u, (1, 2)), layer.block(u.reshape(2, 6, 4), 2.0).view(u.shape), 1e-12)
    close(layer(u[:, :1], 2), layer.block(u[:, 0], 4.0).view(2, 1, 2, 4), 1e-12)


@pytest.mark.parametrize("grid", [(6,), (6, 4), (2, 4, 6)], ids=str)
@pytest.mark.parametrize("kind", ["s4nd", "conv"])
def test_isotropic_classifiers_take_any_number_of_axes_and_coarser_grids(kind: str, grid: tuple[int, ...]) -> None:
    options = {"d_state": 4} if kind == "s4nd" else {}
    model = isotropic(kind, 2, 7, grid, d_model=8, n_layer=2, dropout=0.1, **options)
    assert model(torch.randn(3, *grid, 2)).shape == (3, 7)
    assert model(torch.randn(3, *(side // 2 for side in grid), 2), 2.0).shape == (3, 7)


def test_the_rate_reaches_every_layer() -> None:
    seen = []

    class Note(nn.Module):
        def forward(self, u, rate):
            seen.append(rate)
            return u

    IsotropicClassifier([Note(), Note()], 1, 2, 4)(torch.randn(1, 3, 3, 1), (2, 1))
    assert seen == [(2, 1), (2, 1)]


@pytest.mark.usefixtures("float64")
def test_an_isotropic_classifier_is_encoder_residual_layers_norm_mean_decoder() -> None:
    model = isotropic("conv", 2, 3, (4, 4), d_model=4, n_layer=1)
    x = torch.randn(2, 4, 4, 2)
    z = model.encoder(x)
    z = z + model.layers[0](model.norms[0](z))
    close(model(x), model.decoder(model.norm(z).mean((1, 2))), 1e-12)


@pytest.mark.parametrize(("d_model", "count"), [(256, 198_272), (512, 658_304)])
def test_a_layer_has_as_many_parameters_as_the_released_one(d_model: int, count: int) -> None:
    assert count_parameters(S4ND(d_model, (32, 32), mode="dplr", init="legs")) == count


@pytest.mark.parametrize("kind", DROP_INS)
def test_networks_of_patches_read_every_pixel(kind: str) -> None:
    model, x = patches(kind), torch.randn(2, 8, 8, 3, requires_grad=True)
    y = model(x)
    assert y.shape == (2, 5)
    y.square().sum().backward()
    assert (x.grad.abs().sum(-1) > 0).all()


def test_only_attention_has_learned_places_and_each_family_its_block() -> None:
    assert [kind for kind in DROP_INS if patches(kind).place is not None] == ["vit_attention"]
    assert {kind: len(patches(kind).norms) for kind in DROP_INS} == {
        kind: 4 if kind.startswith("vit") else 2 for kind in DROP_INS
    }
    assert isinstance(patches("convnext_s4nd").mixers[0], S4NDConv)
    assert patches("convnext_depthwise").mixers[0].conv.weight.shape == (8, 1, 7, 7)


@pytest.mark.usefixtures("float64")
def test_the_convolutional_block_adds_after_the_mlp_and_the_transformer_twice() -> None:
    x = torch.randn(2, 8, 8, 3)
    for kind in ("convnext_depthwise", "vit_attention"):
        model = patches(kind, n_layer=1)
        z = model.encoder(x.view(2, 4, 2, 4, 2, 3).transpose(2, 3).flatten(3))
        if kind == "vit_attention":
            z = z + model.place
            z = z + model.mixers[0](model.norms[0](z))
            z = z + model.mlps[0](model.norms[1](z))
        else:
            z = z + model.mlps[0](model.norms[0](model.mixers[0](z)))
        close(model(x), model.decoder(model.norm(z).mean((1, 2))), 1e-12)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: patches("vit_s5"), "unknown network 'vit_s5'"),
        (lambda: patches("vit_s4nd", patch=3), "patch divides side, got 3 and 8"),
        (lambda: patches("vit_attention", num_heads=3), "num_heads divides d_model, got 3 and 8"),
        (lambda: isotropic("conv", 1, 2, (4, 4), d_model=4, n_layer=1, band_limit=0.5), "has no option band_limit"),
        (lambda: isotropic("conv", 1, 2, (4,) * 4, d_model=4, n_layer=1), "has 1, 2 or 3 axes, got 4"),
        (lambda: isotropic("s5nd", 1, 2, (4, 4), d_model=4, n_layer=1), "unknown layer of an isotropic classifier"),
    ],
)
def test_a_mistake_is_named(call, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        call()
