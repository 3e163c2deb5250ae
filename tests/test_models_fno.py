"""FNO and F-FNO: the official numbers, the textbook form, and what the public T1 code computes instead."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.fno import FFNO, FNO, FactorizedConv, Pointwise, SpectralConv, with_coordinates
from hyena.models.t1_official import conv_from_official, fno_from_official
from hyena.ops.dct import dct, idct, synthesise

DRAWN = settings(deadline=None, max_examples=10)


def part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}


def field(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.get_default_dtype())


def textbook(conv: SpectralConv, x: Tensor) -> Tensor:
    """Everything is transformed, corners are mixed into an array of zeros, and everything is transformed back."""
    axes = tuple(range(2, x.dim()))
    X, R = torch.fft.rfftn(x, dim=axes), torch.view_as_complex(conv.weight)
    Y = X.new_zeros(len(x), R.shape[-1], *X.shape[2:])
    last = conv.modes[-1]
    rows = [[*range(m), *range(-m, 0)] for m in conv.modes[:-1]]
    places = [()]
    for some in rows:
        places = [(*place, (i, k)) for place in places for i, k in enumerate(some)]
    for place in places:
        here, there = tuple(i for i, _ in place), tuple(k for _, k in place)
        mixed = torch.einsum("bik,kio->bok", X[(..., *there, slice(0, last))], R[(*here, slice(None))])
        Y[(slice(None), slice(None), *there, slice(0, last))] = mixed
    return torch.fft.irfftn(Y, s=x.shape[2:], dim=axes)


def loaded(conv: SpectralConv, *blocks: Tensor) -> SpectralConv:
    conv.load_state_dict({"weight": conv_from_official(*blocks)})
    return conv


def even(y: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The part that is the same at n and at -n."""
    return (y + y.flip(axes).roll((1,) * len(axes), axes)) / 2


# the official numbers


def test_the_convolution_is_lis(reference) -> None:
    stored, _ = reference("fno_spectralconv2d")
    conv = loaded(SpectralConv(3, 5, (4, 3)), stored["param/weights1"], stored["param/weights2"])
    close(conv(stored["x"]), stored["y"], 1e-6)


def test_the_network_is_lis(reference) -> None:
    stored, _ = reference("fno2d_time")
    net = FNO(10, 1, (4, 4), 6, 4)
    net.load_state_dict(fno_from_official(part(stored, "param/")))
    close(net(stored["x"].movedim(-1, 1)), stored["y"].movedim(-1, 1), 1e-6)


def test_relative_errors_are_lis(reference) -> None:
    stored, _ = reference("fno_losses")
    off, y = (t.flatten(1) for t in (stored["pred"] - stored["target"], stored["target"]))
    close((off.norm(dim=1) / y.norm(dim=1)).mean(), stored["rel_l2_mean"], 1e-6)


def test_the_convolution_is_that_of_neuraloperator_2(reference) -> None:
    """Centred rows -m to m - 1 there, and "forward" norms, which give the same map."""
    stored, _ = reference("neuralop200_spectralconv")
    W = stored["param/weight.tensor"]
    conv = loaded(SpectralConv(3, 5, (3, 4)), W[:, :, 3:], W[:, :, :3])
    close(conv(stored["x"]) + stored["param/bias"], stored["y"], 1e-6)


def test_the_network_of_neuraloperator_2_is_made_of_the_same_convolution(reference) -> None:
    stored, _ = reference("neuralop200_fno")
    p = part(stored, "param/")

    def mlp(v: Tensor, name: str) -> Tensor:
        for i in (0, 1):
            v = torch.einsum("oi,bixy->boxy", p[f"{name}.fcs.{i}.weight"][..., 0], v)
            v = v + p[f"{name}.fcs.{i}.bias"][:, None, None]
            v = F.gelu(v) if i == 0 else v
        return v

    axis = torch.arange(16) / 16
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(2, 2, 16, 16)
    v = mlp(torch.cat([stored["x"], places], 1), "lifting")
    for i in (0, 1):
        W = p[f"fno_blocks.convs.{i}.weight.tensor"]
        conv = loaded(SpectralConv(8, 8, (3, 4)), W[:, :, 3:], W[:, :, :3])
        beside = torch.einsum("oi,bixy->boxy", p[f"fno_blocks.fno_skips.{i}.conv.weight"][..., 0], v)
        u = conv(v) + p[f"fno_blocks.convs.{i}.bias"] + beside
        u = F.gelu(u) if i == 0 else u
        v = mlp(u, f"fno_blocks.channel_mlp.{i}") + v * p[f"fno_blocks.channel_mlp_skips.{i}.weight"]
        v = F.gelu(v) if i == 0 else v
    close(mlp(v, "projection"), stored["y"], 1e-6)


def test_the_factorised_network_of_the_public_t1_code_is_made_of_our_convolution(reference) -> None:
    """A copy of F-FNO that has no coordinates, subtracts, and shares no weights."""
    stored, _ = reference("t1repo_ffno2d")
    p = part(stored, "param/")
    v = F.linear(stored["x"][..., None], p["in_proj.weight"], p["in_proj.bias"])
    conv = FactorizedConv(8, (4, 4))
    for i in range(3):
        along = [p[f"spectral_layers.{i}.fourier_weight.{k}"].permute(2, 0, 1, 3) for k in (1, 0)]
        conv.load_state_dict({f"weights.{k}": weight for k, weight in enumerate(along)})
        layers = part(p, f"spectral_layers.{i}.backcast_ff.layers.")
        h = F.relu(F.linear(conv(v.movedim(-1, 1)).movedim(1, -1), layers["0.0.weight"], layers["0.0.bias"]))
        added = F.linear(h, layers["1.0.weight"], layers["1.0.bias"])
        v = v - added
    h = F.linear(added, p["out.0.weight"], p["out.0.bias"])
    close(F.linear(h, p["out.1.weight"], p["out.1.bias"])[..., 0], stored["y"], 1e-6)


# what the public T1 code computes instead


def shipped_dct(x: Tensor, weight: Tensor) -> Tensor:
    """A second block at the last rows, where a DCT has its highest frequencies, with the weight of the first."""
    X, m = dct(x, (-2, -1)), weight.shape[-1]
    Y = torch.zeros_like(X)
    for rows in (slice(0, m), slice(-m, None)):
        Y[:, :, rows, :m] = torch.einsum("bixy,oixy->boxy", X[:, :, rows, :m], weight)
    return idct(Y, (-2, -1))


def test_the_cosine_layers_of_the_public_t1_code_are_these(reference) -> None:
    one, _ = reference("t1repo_conv1d_dct")
    X = torch.einsum("bik,oik->bok", dct(one["x"])[..., :4], one["param/weights1"])
    close(synthesise(X, (16,)), one["y"], 1e-6)
    two, _ = reference("t1repo_conv2d_dct")
    close(shipped_dct(two["x"], two["param/weights1"]), two["y"], 1e-6)


def test_the_cosine_network_of_the_public_t1_code_is_this(reference) -> None:
    stored, _ = reference("t1repo_fno2d_dctconv")
    p = part(stored, "param/")
    places = with_coordinates(stored["x"][:, None], "endpoints").movedim(1, -1)
    v = F.linear(places, p["fc0.weight"], p["fc0.bias"]).movedim(-1, 1)
    for i in (0, 1):
        mixed = F.conv2d(v, p[f"layers.{i}.w.weight"], p[f"layers.{i}.w.bias"])
        v = F.gelu(shipped_dct(v, p[f"layers.{i}.conv.weights1"]) + v + mixed)
    h = F.gelu(F.linear(v.movedim(1, -1), p["fc1.weight"], p["fc1.bias"]))
    close(F.linear(h, p["fc2.weight"], p["fc2.bias"])[..., 0], stored["y"], 1e-6)


@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
def test_the_fourier_layers_of_the_public_t1_code_keep_only_the_even_part(reference, axes: tuple[int, ...]) -> None:
    """Complex products are written into a real array there: a correct layer differs, by what is odd in its output."""
    stored, _ = reference(f"t1repo_conv{len(axes)}d_dft_AS_PUBLISHED_drops_imag")
    blocks = [torch.view_as_complex(stored[f"param/weights{i}"]) for i in range(1, 1 + len(axes))]
    y = loaded(SpectralConv(3, 3, (4,) * len(axes)), *blocks)(stored["x"])
    assert (y - stored["y"]).norm() > 0.5 * y.norm()
    close(even(y, axes), stored["y"], 1e-6)


# the operators


@pytest.mark.usefixtures("float64")
@DRAWN
@given(sizes=st.lists(st.integers(6, 9), min_size=1, max_size=3), m=st.integers(1, 3))
def test_cutting_axis_by_axis_is_the_textbook_form(sizes: list[int], m: int) -> None:
    conv = SpectralConv(2, 3, (m,) * len(sizes))
    nn.init.normal_(conv.weight)
    close(conv(field(2, 2, *sizes)), textbook(conv, field(2, 2, *sizes)), 1e-10)


@pytest.mark.usefixtures("float64")
def test_a_convolution_commutes_with_shifts_and_is_linear() -> None:
    conv = SpectralConv(2, 2, (3, 3))
    nn.init.normal_(conv.weight)
    a, b = field(2, 2, 8, 9), field(2, 2, 8, 9).flip(-1)
    close(conv(a.roll((2, 3), (-2, -1))), conv(a).roll((2, 3), (-2, -1)), 1e-10)
    close(conv(2 * a - b), 2 * conv(a) - conv(b), 1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["spectral", "factorised"])
def test_gradients_are_right(kind: str) -> None:
    conv = SpectralConv(2, 2, (2, 2)) if kind == "spectral" else FactorizedConv(2, (2, 2))
    x = field(1, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (x, *conv.parameters()))


@pytest.mark.usefixtures("float64")
def test_on_a_finer_grid_a_convolution_is_the_same_operator() -> None:
    conv = SpectralConv(1, 1, (3, 3))
    nn.init.normal_(conv.weight)
    n = torch.arange(24) / 24
    wave = torch.sin(2 * torch.pi * (n[:, None] + 2 * n)) + torch.cos(2 * torch.pi * n)
    close(conv(wave[None, None])[..., ::3, ::3], conv(wave[None, None, ::3, ::3]), 1e-10)


@pytest.mark.usefixtures("float64")
def test_a_factorised_convolution_is_a_sum_over_axes() -> None:
    conv, x = FactorizedConv(2, (2, 3)), field(1, 2, 6, 7)
    only = FactorizedConv(2, (2, 3))
    total = torch.zeros_like(x)
    for axis in (0, 1):
        only.load_state_dict({f"weights.{k}": w * (k == axis) for k, w in enumerate(conv.weights)})
        total += only(x)
    close(conv(x), total, 1e-12)


@pytest.mark.parametrize("sizes", [(16,), (12, 16), (8, 8, 8)])
@pytest.mark.parametrize("net", [FNO, FFNO])
def test_networks_are_for_one_to_three_axes(net: type, sizes: tuple[int, ...]) -> None:
    built = net(2, 3, (3,) * len(sizes), width=4, n_layer=2)
    y = built(field(2, 2, *sizes))
    assert y.shape == (2, 3, *sizes)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())


def test_one_layer_of_all_shares_its_convolution_in_f_fno() -> None:
    few, many = (sum(p.numel() for p in FFNO(1, 1, (4, 4), 8, n).conv.parameters()) for n in (2, 5))
    assert few == many == 2 * 4 * 8 * 8 * 2


def test_the_last_layer_of_an_fno_has_no_activation() -> None:
    net = FNO(1, 1, (2, 2), 4, 1)
    x = field(1, 1, 8, 8)
    v = net.lift(with_coordinates(x, "endpoints"))
    close(net(x), net.head(net.convs[0](v) + net.mixes[0](v)), 1e-6)


def test_pointwise_is_a_matrix_at_every_point() -> None:
    layer, x = Pointwise(2, 3), field(2, 2, 4, 5)
    close(layer(x), F.conv2d(x, layer.weight[..., None, None], layer.bias), 1e-6)


@pytest.mark.parametrize("sizes", [(15,), (8, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_without_bias_and_in_one_dimension(sizes: tuple[int, ...], bias: bool) -> None:
    layer, x = Pointwise(2, 3, bias=bias), field(2, 2, *sizes)
    close(layer(x), F.linear(x.movedim(1, -1), layer.weight, layer.bias).movedim(-1, 1), 1e-6)


def test_padding_adds_zeros_behind_the_lift_and_is_cut_off_before_the_head() -> None:
    fno, x = FNO(1, 1, (2, 3), 4, 1, padding=0.25), field(2, 1, 8, 16)
    v = F.pad(fno.lift(with_coordinates(x, "endpoints")), (0, 4, 0, 2))
    assert v.shape[2:] == (10, 20)
    close(fno(x), fno.head((fno.convs[0](v) + fno.mixes[0](v))[:, :, :8, :16]), 1e-6)
    ffno = FFNO(1, 1, (2, 3), 4, 1, padding=0.25)
    v = F.pad(ffno.lift(with_coordinates(x, "endpoints")), (0, 4, 0, 2))
    close(ffno(x), ffno.head(ffno.feedforwards[0](ffno.conv(v))[:, :, :8, :16]), 1e-6)


@pytest.mark.parametrize("net", [FNO, FFNO])
def test_padding_changes_what_is_said_and_not_on_which_grid(net: type) -> None:
    plain, wider = (net(1, 1, (2,), 4, 2, padding=p) for p in (0.0, 0.5))
    wider.load_state_dict(plain.state_dict())
    x = field(1, 1, 16)
    assert wider(x).shape == plain(x).shape
    assert not torch.allclose(wider(x), plain(x))
    wider.padding = 0.0
    assert torch.equal(wider(x), plain(x))


# mistakes


@pytest.mark.parametrize("net", [FNO, FFNO])
def test_negative_padding_is_refused(net: type) -> None:
    with pytest.raises(HyenaError, match=r"0 or more, got -0\.5"):
        net(1, 1, (2, 2), 4, 1, padding=-0.5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (lambda: SpectralConv(1, 1, (4, 4)), (1, 1, 7, 16), "too coarse"),
        (lambda: SpectralConv(1, 1, (4, 4)), (1, 1, 16, 6), "too coarse"),
        (lambda: SpectralConv(1, 1, (4, 4)), (1, 1, 16), "2 axes"),
        (lambda: FactorizedConv(1, (4, 4)), (1, 1, 6, 16), "at least 7 samples"),
    ],
)
def test_grids_that_are_too_coarse_are_refused(net, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(HyenaError, match=words):
        net()(field(*shape))


def test_unknown_coordinates_are_refused() -> None:
    with pytest.raises(HyenaError, match="did you mean 'centres'"):
        FNO(1, 1, (2, 2), 4, 1, coordinates="centers")
