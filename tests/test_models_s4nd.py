"""S4ND: official outputs and gradients, resolution, symmetry, what the kernel is, inflation and mistakes."""

from __future__ import annotations

import re

import pytest
import torch
from closeness import close
from conftest import REFERENCE
from torch import Tensor

from hyena.errors import HyenaError
from hyena.models.s4nd import S4ND, S4NDConv, TiedDropout, inflated
from hyena.ops import s4
from hyena.ops.conv_nd import dense_kernel, spectral_conv

OFFICIAL = sorted(path.stem for path in REFERENCE.glob("s4nd2d_*trank*.npz"))


def official(reference, name: str) -> tuple[S4NDConv, dict[str, Tensor]]:
    """The layer with the official weights. Where they limited the band of a "dplr" one, C is masked beforehand."""
    stored, _ = reference(name)
    weights = {key.removeprefix("param."): value for key, value in stored.items() if key.startswith("param.")}
    mode = "dplr" if "dplr" in name else "diag"
    found = re.search(r"bl(None|[\d.]+)", name)
    limit = None if found is None or found[1] == "None" else float(found[1])
    options = {"d_state": 16, "mode": mode, "init": "legs", "rank": 2 if name.endswith("trank2") else 1}
    options |= {"band_limit": limit} if mode == "diag" else {}
    kind = S4NDConv if "linear" in name else S4ND
    grid = (6, 8, 8) if "3d" in name else (16, 16)
    layer = kind(4, grid, bidirectional="uni" not in name, **options)
    layer.load_state_dict(weights)  # strict: every key is there
    if mode == "dplr" and limit:
        mask_kernels(layer, limit)
    return layer.eval(), stored


@torch.no_grad()
def mask_kernels(layer: S4NDConv, limit: float) -> None:
    for kernel in layer.kernel:
        A, _, _, C, dt = kernel.system()
        kernel.C.copy_(torch.view_as_real(s4.band_limited(A, C, dt, limit)))


@pytest.mark.parametrize("name", OFFICIAL)
def test_outputs_at_all_resolutions_and_gradients_are_the_official_ones(reference, name: str) -> None:
    layer, stored = official(reference, name)
    tolerance = 5e-6 if "dplr" in name else 1e-6
    x = stored["x"].requires_grad_()
    y = layer(x)
    close(y, stored["y"], tolerance)
    for grid, rate, expected in (("x8", 2, "y8_rate2"), ("x8", 1, "y8_rate1"), ("x_rect", 1, "y_rect")):
        close(layer(stored[grid], rate), stored[expected], tolerance)
    (y * stored["cotangent"]).sum().backward()
    close(x.grad, stored["grad_x"], 2 * tolerance)
    for key, parameter in layer.named_parameters():
        expected = stored[f"grad.{key}"]
        kept = parameter != 0 if key.endswith("C") else torch.ones_like(parameter, dtype=torch.bool)
        close(parameter.grad * kept, expected, 2e-5)  # the mask of a "dplr" band limit is in the weights here


@pytest.mark.parametrize("name", OFFICIAL)
def test_kernels_of_the_axes_are_the_official_ones(reference, name: str) -> None:
    layer, stored = official(reference, name)
    for axis, kernel in enumerate(layer.kernel):
        close(kernel(16), stored[f"k_axis{axis}"], 1e-5)
        close(kernel(8, 2.0), stored[f"k_axis{axis}_rate2"], 1e-5)


@pytest.mark.parametrize("name", ["s4nd2d_diag_linear_uni", "s4nd3d_diag_linear_cv1"])
def test_the_bare_convolution_is_the_official_one(reference, name: str) -> None:
    layer, stored = official(reference, name)
    close(layer(stored["x"].movedim(1, -1)).movedim(-1, 1), stored["y"], 1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"channels": 2}, {"bidirectional": False}], ids=str)
def test_any_number_of_axes_is_the_sum_of_outer_products(axes: int, options: dict) -> None:
    grid = (3, 4, 5)[:axes]
    layer = S4NDConv(3, grid, d_state=4, **options)
    channels = options.get("channels", 1)
    u = torch.randn(2, *grid, 3)
    repeated = u.repeat(*[1] * (axes + 1), channels).movedim(-1, 1)
    skip = layer.D.flatten().view(-1, *[1] * axes)
    expected = spectral_conv(repeated, layer.taps(grid)) + skip * repeated
    close(layer(u), expected.movedim(1, -1), 1e-10)


@pytest.mark.usefixtures("float64")
def test_a_rank_reduces_in_every_dimension() -> None:
    """The released code forgets this in one and three dimensions and returns twice the channels."""
    layer = S4NDConv(3, (4, 4, 4), d_state=4, rank=2)
    assert layer(torch.randn(1, 4, 4, 4, 3)).shape == (1, 4, 4, 4, 3)
    a, b, c = layer.taps((4, 4, 4))
    close(dense_kernel([a, b, c]), torch.einsum("rhi,rhj,rhk->hijk", a, b, c) / 2, 1e-12)


@pytest.mark.usefixtures("float64")
def test_a_bidirectional_kernel_covers_all_quadrants_and_a_causal_one_the_first() -> None:
    both, one = (S4NDConv(2, (4, 4), d_state=4, bidirectional=which) for which in (True, False))
    quadrants = dense_kernel(both.taps((4, 4))).abs()
    assert (quadrants > 0).all()
    causal = dense_kernel(one.taps((4, 4)))
    assert (causal[:, :3] == 0).all() and (causal[:, :, :3] == 0).all() and (causal[:, 3:, 3:] != 0).all()


@pytest.mark.usefixtures("float64")
def test_on_a_grid_half_as_fine_smooth_images_give_the_same_outputs_there() -> None:
    """A smooth image, sampled at twice the step: the output is that of the fine grid at every second place, roughly."""
    torch.manual_seed(0)
    layer = S4NDConv(4, (64, 64), d_state=8, dt_min=0.02, dt_max=0.05, band_limit=0.5)
    layer.D.data.zero_()
    t = torch.linspace(0, 3, 64)
    image = (torch.sin(t)[:, None] * torch.cos(2 * t))[None, :, :, None].expand(1, 64, 64, 4)
    fine, coarse = layer(image)[:, ::2, ::2], layer(image[:, ::2, ::2], rate=2)
    untold = layer(image[:, ::2, ::2], rate=1)
    error, unscaled = ((y - fine).abs().mean() / fine.abs().mean() for y in (coarse, untold))
    assert error < 0.15 and unscaled > 3 * error


@pytest.mark.usefixtures("float64")
def test_axes_have_rates_of_their_own() -> None:
    layer = S4NDConv(3, (8, 8), d_state=4)
    wide = torch.randn(1, 4, 8, 3)
    a, b = layer.taps((4, 8), (2, 1))
    close(a, layer.taps((4, 4), 2)[0], 1e-12)
    close(b, layer.taps((8, 8), 1)[1], 1e-12)
    assert not torch.allclose(layer(wide, (2, 1)), layer(wide, (1, 1)))


@pytest.mark.usefixtures("float64")
def test_a_band_limit_removes_fast_modes_at_every_rate() -> None:
    torch.manual_seed(0)
    layer = S4NDConv(5, (32,), d_state=16, band_limit=0.2)
    assert torch.equal(layer.kernel[0].system(2.0)[2], layer.kernel[0].system()[2]), "the same modes at every rate"
    spectrum = torch.fft.rfft(layer.kernel[0](512)).abs()[0]
    free = S4NDConv(5, (32,), d_state=16)
    free.load_state_dict(layer.state_dict())
    loud = torch.fft.rfft(free.kernel[0](512)).abs()[0]
    high = slice(128, None)  # above half the Nyquist frequency
    assert spectrum[:, high].mean() < 0.3 * loud[:, high].mean()


def test_dropout_takes_whole_features_and_rests_in_evaluation() -> None:
    drop, x = TiedDropout(0.5), torch.ones(4, 3, 3, 32)
    dropped = drop(x)
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(x)) and set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(drop.eval()(x), x)


# Inflation


@pytest.mark.parametrize("kind", [S4ND, S4NDConv])
def test_inflation_keeps_space_and_adds_time(kind) -> None:
    flat = kind(4, (6, 7), d_state=4, rank=2, band_limit=0.7)
    deep = inflated(flat, 5)
    assert type(deep) is kind and deep.l_max == (5, 6, 7) and deep.D is not flat.D
    taps, old = deep.taps((5, 6, 7)), flat.taps((6, 7))
    assert torch.equal(taps[1], old[0]) and torch.equal(taps[2], old[1])
    assert deep.kernel[0].inv_dt.exp().allclose(torch.tensor(2 / 5))
    assert deep.kernel[2].band_limit == 0.7
    assert deep(torch.randn(1, 5, 6, 7, 4)).shape == (1, 5, 6, 7, 4)
    if kind is S4ND:
        assert torch.equal(deep.output_linear[0].weight, flat.output_linear[0].weight)


def test_inflated_weights_are_copies() -> None:
    flat = S4ND(4, (6, 6), d_state=4)
    deep = inflated(flat, 3)
    before = flat.kernel[0].C.clone()
    with torch.no_grad():
        deep.kernel[1].C.zero_()
    assert torch.equal(flat.kernel[0].C, before)


# Mistakes


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: S4NDConv(4, (8, 8))(torch.randn(1, 8, 4)), "has 2 axes, so its input is .*; got 1 sides"),
        (lambda: S4NDConv(4, (8, 8))(torch.randn(1, 8, 9, 4)), "a side of 9 at rate 1 .* reach l_max / rate = 8"),
        (lambda: S4NDConv(4, (8, 8))(torch.randn(1, 8, 8, 4), 2), "a side of 8 at rate 2 .* l_max 16"),
        (lambda: S4NDConv(4, (8, 8))(torch.randn(1, 8, 8, 4), (1, 1, 1)), "one positive number, or one for each of"),
        (lambda: S4NDConv(4, (8, 8))(torch.randn(1, 8, 8, 4), 0), "rate is one positive number"),
        (lambda: S4NDConv(4, (8, 8), mode="dplr", init="legs", band_limit=0.5), "use mode diag"),
        (lambda: S4NDConv(4, (8, 8), band_limit=-1.0), "band_limit is above 0, or None for all modes; got -1.0"),
        (lambda: S4NDConv(4, (8, 8), d_state=5), "d_state is even"),
        (lambda: S4NDConv(4, ()), "a side of 1 or more for every axis"),
        (lambda: S4NDConv(4, (8, 0)), "a side of 1 or more"),
        (lambda: S4NDConv(4, (8, 8), rank=0), "channels and rank are at least 1"),
        (lambda: inflated(S4NDConv(4, (8, 8)), 0), "a side of 1 or more"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_to_do(call, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        call()


def test_a_mistyped_option_is_refused() -> None:
    with pytest.raises(TypeError, match="bandlimit"):
        S4NDConv(4, (8, 8), bandlimit=0.5)
