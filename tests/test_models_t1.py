"""T1 and T1U: the official numbers, the padded form, the loss by Parseval, other grids, variance through depth."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.fno import with_coordinates
from hyena.models.t1 import (
    INITS,
    T1,
    T1U,
    T1Layer,
    mixing_std,
    relative_l2,
    smallest_modes,
    target,
    truncation_floor,
)
from hyena.models.t1_official import layer_from_official, t1_from_official, t1u_from_official
from hyena.models.unet import UNet
from hyena.ops.dct import BASES, analyse, dct, idct, synthesise

DRAWN = settings(deadline=None, max_examples=10)


def part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}


def field(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.get_default_dtype())


def small(modes: tuple[int, ...] = (5, 4), grid: tuple[int, ...] = (8, 9), **options) -> T1:
    torch.manual_seed(0)
    return T1(2, 3, modes, 6, 2, grid, **{"head_std": 0.0} | options)


def padded(net: T1, x: Tensor) -> Tensor:
    """The released form: lift, transform and head at full resolution, in every layer a block amid zeros."""
    v = F.linear(with_coordinates(x, net.coordinates).movedim(1, -1), net.lift.weight, net.lift.bias).movedim(-1, 1)
    z, block = dct(v, (-2, -1)), (..., slice(0, net.modes[0]), slice(0, net.modes[1]))
    for layer in net.layers:
        mixed = layer.activation(torch.einsum("bixy,xyio->boxy", z[block], layer.channel_mixing))
        mixed = torch.einsum("bcxy,cxo->bcoy", mixed, layer.axis_mixing[0])
        mixed = torch.einsum("bcoy,cyp->bcop", mixed, layer.axis_mixing[1])
        full = torch.zeros_like(z)
        full[block] = z[block] + mixed
        z = full
    h = torch.sin(torch.einsum("hc,bcxy->bhxy", net.head[0], z))
    return torch.einsum("oh,bhxy->boxy", net.head[1], h)


# the official numbers


def test_a_layer_is_the_official_one(reference) -> None:
    stored, _ = reference("t1_layer2d_gelu")
    layer = T1Layer(3, (4, 4), 1.0)
    layer.load_state_dict(layer_from_official(part(stored, "param/")))
    close(layer(stored["x"][..., :4, :4]), stored["y"][..., :4, :4], 1e-6)
    assert not stored["y"][..., 4:, :].any() and not stored["y"][..., 4:].any()


def test_the_released_copy_of_high_coefficients_leaves_some_out(reference) -> None:
    """It copies rows m to -m and columns from m on: low columns of the last m rows are neither computed nor kept."""
    stored, _ = reference("t1_layer2d_keephigh")
    layer = T1Layer(2, (3, 3), 1.0)
    layer.load_state_dict(layer_from_official(part(stored, "param/")))
    z = stored["x"][..., :3, :3]
    close(layer(z) - z, stored["y"][..., :3, :3], 1e-6)  # without the residual
    same = (stored["y"] == stored["x"]).all(0).all(0)
    assert same[3:-3].all() and same[:, 3:].all() and not stored["y"][..., -3:, :3].any()


def test_the_network_is_the_official_one(reference) -> None:
    stored, _ = reference("t1_2d_freq")
    net = T1(1, 1, (6, 6), 8, 3, (16, 16))
    net.load_state_dict(t1_from_official(part(stored, "param/")))
    close(F.pad(net(stored["x"][:, None])[:, 0], (0, 10, 0, 10)), stored["y"], 2e-6)


def test_t1u_is_the_official_one_while_training_and_after(reference) -> None:
    stored, _ = reference("t1u_2d_m24")
    net = T1U(1, 1, (24, 24), 4, (32, 32))
    net.load_state_dict(t1u_from_official(part(stored, "state_before/")))
    x = stored["x"][:, None]
    close(F.pad(net(x)[:, 0], (0, 8, 0, 8)), stored["y_train"], 1e-5)
    after = net.state_dict()
    statistics = part(stored, "state_after/")
    moved = t1u_from_official(part(stored, "state_before/") | statistics)
    checked = [key for key in after if "running" in key]
    assert len(checked) == len(statistics)
    for key in checked:
        close(after[key], moved[key], 1e-5)
    net.eval()
    close(F.pad(net(x)[:, 0], (0, 8, 0, 8)), stored["y_eval_after_one_train_fwd"], 1e-5)


def test_initial_spreads_are_the_official_ones(reference) -> None:
    rows = reference("t1_init_scale")[0]["rows"]
    names = {1: "released", 2: "variance", 3: "tiny", 4: "fan_in"}
    for option, d_input, d_output, points, modes, std in rows.tolist():
        found = mixing_std(names[int(option)], int(d_input), int(d_output), int(points), int(modes))
        assert found == pytest.approx(std, rel=1e-12)
    assert {int(row[0]) for row in rows} == set(names)


def test_the_loss_on_coefficients_is_the_official_one_and_that_on_the_grid(reference) -> None:
    stored, _ = reference("t1_losses")
    y = stored["target_space"][:, None]
    kept = target(y, (8, 8))
    z = stored["pred_freq"][:, None]
    close(relative_l2(z, *kept), stored["rel_l2_dct"])
    close(relative_l2(z, *kept), stored["rel_l2_space"])
    close((z - kept.block).square().mean(), stored["mse_dct"])


# one transform, exactly


@pytest.mark.usefixtures("float64")
@DRAWN
@given(modes=st.tuples(st.integers(1, 8), st.integers(1, 9)), coordinates=st.sampled_from(["endpoints", "centres"]))
def test_the_cut_form_computes_what_the_padded_form_does(modes: tuple[int, int], coordinates: str) -> None:
    net, x = small(modes, coordinates=coordinates), field(2, 2, 8, 9)
    whole = padded(net, x)
    close(F.pad(net(x), (0, 9 - modes[1], 0, 8 - modes[0])), whole, 1e-10)
    close(net.predict(x), idct(whole, (-2, -1)), 1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("sizes", [(12,), (8, 9), (4, 6, 5)])
@pytest.mark.parametrize("basis", BASES)
def test_the_lift_of_coefficients_is_that_of_fields_of_any_number_of_axes(sizes: tuple[int, ...], basis: str) -> None:
    modes = tuple(n - 1 for n in sizes)
    net = small(modes, sizes, basis=basis)
    x = field(2, 2, *sizes)
    lifted = F.linear(with_coordinates(x, "endpoints").movedim(1, -1), net.lift.weight, net.lift.bias).movedim(-1, 1)
    close(net.lifted(net.coefficients(x)), analyse(lifted, modes, basis), 1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("basis", BASES)
def test_the_loss_on_coefficients_has_the_value_and_the_gradients_of_the_one_on_the_grid(basis: str) -> None:
    net, x, y = small(basis=basis), field(2, 2, 8, 9), field(2, 3, 8, 9, seed=1)
    on_grid = ((net.predict(x) - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()
    on_coefficients = relative_l2(net(x), *target(y, net.modes, basis))
    close(on_coefficients, on_grid, 1e-10)
    for a, b in zip(
        torch.autograd.grad(on_grid, net.parameters()), torch.autograd.grad(on_coefficients, net.parameters()),
        strict=True,
    ):  # fmt: skip
        close(b, a, 1e-8)


@pytest.mark.usefixtures("float64")
def test_gradients_of_a_layer_are_right() -> None:
    torch.manual_seed(0)
    layer, z = T1Layer(2, (3, 2), 0.7), field(2, 2, 3, 2).requires_grad_()
    inputs = (z, layer.channel_mixing, *layer.axis_mixing)
    assert torch.autograd.gradcheck(lambda z, *_: layer(z), inputs)


@pytest.mark.usefixtures("float64")
def test_a_layer_sees_channels_at_one_coefficient_and_coefficients_of_one_channel() -> None:
    """Reference: one sum after the other."""
    torch.manual_seed(0)
    layer, z = T1Layer(3, (4, 2), 0.5, activation="tanh"), field(1, 3, 4, 2)
    R, S1, S2 = layer.channel_mixing, *layer.axis_mixing
    expected = z.clone()
    for c in range(3):
        for p in range(4):
            for q in range(2):
                expected[0, c, p, q] += sum(
                    S1[c, x, p] * S2[c, y, q] * torch.tanh(sum(z[0, i, x, y] * R[x, y, i, c] for i in range(3)))
                    for x in range(4)
                    for y in range(2)
                )
    close(layer(z), expected, 1e-12)


# other grids


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("basis", BASES)
def test_on_a_finer_grid_the_prediction_is_the_same_field(basis: str) -> None:
    """An input that both grids hold without loss."""
    net = small((4, 3), (8, 8), basis=basis)
    X = field(2, 2, 4, 3)
    coarse, fine = (net.predict(net.field(X, (n, n))) for n in (8, 24))
    close(net.coefficients(fine), net.coefficients(coarse), 1e-10)


@pytest.mark.usefixtures("float64")
def test_without_units_a_finer_grid_is_three_times_as_loud() -> None:
    net = small((4, 3), (8, 8), coordinates="centres")
    X = field(2, 2, 4, 3)
    fine = synthesise(X, (24, 24)) * 3
    close(net.coefficients(fine), X, 1e-12)
    close(analyse(fine, (4, 3)), 3 * X, 1e-12)


def test_predictions_can_be_read_on_any_grid() -> None:
    net, x = small(), field(2, 2, 8, 9)
    assert net.predict(x, (16, 20)).shape == (2, 3, 16, 20)
    close(net.field(net.coefficients(x), (8, 9)), synthesise(analyse(x, (5, 4)), (8, 9)), 1e-5)


# variance


def test_every_rule_has_its_spread_in_every_layer() -> None:
    stds = {
        init: [layer.channel_mixing.std().item() for layer in small((8, 8), (16, 16), init=init).layers]
        for init in INITS
    }
    fan_in, variance = math.sqrt(1 / 6), math.sqrt(256 / (6 * 64))
    expected = {
        "released": [1 / 36] * 2, "variance": [variance] * 2, "first": [variance, fan_in], "tiny": [1e-8] * 2,
        "fan_in": [fan_in] * 2, "depth": [fan_in] * 2,
    }  # fmt: skip
    for init, found in stds.items():
        assert found == pytest.approx(expected[init], rel=0.1), init


def test_stacked_layers_explode_by_the_printed_rule_and_not_by_that_for_depth() -> None:
    torch.manual_seed(0)
    z0 = torch.randn(4, 16, 8, 8)
    grown = {}
    for init in ("variance", "depth"):
        z = z0
        for layer in T1(1, 1, (8, 8), 16, 8, (24, 24), init=init).layers:
            z = layer(z)
        grown[init] = (z.var() / z0.var()).item()
    assert grown["variance"] > 1e4
    assert 0.5 < grown["depth"] < 2


def test_the_released_head_says_next_to_nothing_at_first() -> None:
    x = field(2, 2, 8, 9)
    assert small(head_std=1e-8)(x).abs().max() < 1e-12 < small()(x).abs().max()


# how many coefficients


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("basis", BASES)
def test_the_floor_is_what_the_best_prediction_leaves(basis: str) -> None:
    y = field(3, 2, 10, 8)
    best = synthesise(analyse(y, (4, 4), basis), (10, 8), basis)
    left = ((best - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()
    assert truncation_floor(y, (4, 4), basis) == pytest.approx(left.item(), rel=1e-9)


@pytest.mark.usefixtures("float64")
@DRAWN
@given(tolerance=st.floats(0.01, 1.0), basis=st.sampled_from(BASES))
def test_the_fewest_modes_reach_the_tolerance_and_one_less_does_not(tolerance: float, basis: str) -> None:
    y = field(3, 1, 10, 8).cumsum(2).cumsum(3)
    m = smallest_modes(y, tolerance, basis)
    cut = lambda m: (m, min(m, 8))  # noqa: E731
    assert truncation_floor(y, cut(m), basis) <= tolerance
    if m > 1:
        assert truncation_floor(y, cut(m - 1), basis) > tolerance


def test_a_floor_far_below_single_precision_is_found() -> None:
    n = (torch.arange(32) + 0.5) / 32
    y = torch.sin(2 * math.pi * n)[None, None, :, None] * torch.ones(32) + 1e-6 * torch.cos(2 * math.pi * 9 * n)
    assert truncation_floor(y, (5, 5), "fourier") == pytest.approx(1e-6, rel=0.1)


@pytest.mark.usefixtures("float64")
def test_fields_that_are_not_square_are_cut_at_their_longer_side() -> None:
    y = field(2, 1, 4, 16)
    assert smallest_modes(y, 1e-6) == 16


# mistakes


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: small((9, 4)), "do not fit a grid"),
        (lambda: small((5,)), "do not fit a grid"),
        (lambda: small(basis="cosine"), "unknown basis"),
        (lambda: small(activation="relu"), "unknown activation"),
        (lambda: small(init="he"), "unknown initialisation"),
        (lambda: small(coordinates="corners"), "unknown kind of coordinates"),
        (lambda: T1U(1, 1, (8, 6), 4, (16, 16)), "as many modes of one axis as of the other"),
        (lambda: UNet(1, 1, 4, 9), "must be even"),
        (lambda: smallest_modes(field(1, 1, 8, 8), -0.1), "at least 0"),
    ],
)
def test_wrong_settings_are_refused(build, words: str) -> None:
    with pytest.raises(HyenaError, match=words):
        build()


@pytest.mark.usefixtures("unchecked")
def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(HyenaError, match="2 sizes"):
        small()(field(2, 2, 8))
    with pytest.raises(HyenaError, match="keep 1 to 4"):
        small()(field(2, 2, 4, 9))
    with pytest.raises(HyenaError, match="fields of 2 channels, got 1"):
        small()(field(2, 1, 8, 9))
    with pytest.raises(HyenaError, match="not finite"):
        small().predict(field(2, 2, 8, 9) / 0)
    with pytest.raises(HyenaError, match="built for 16 x 16"):
        UNet(1, 1, 4, 16)(field(1, 1, 8, 8))


@pytest.mark.parametrize("side", [2, 6, 16, 24, 40, 64])
def test_a_u_net_gives_back_the_side_it_gets(side: int) -> None:
    assert UNet(2, 3, 2, side)(field(2, 2, side, side)).shape == (2, 3, side, side)
