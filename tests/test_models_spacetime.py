"""SpaceTime: the official layers, network and losses; open and closed loop as one system; any horizon."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from torch import Tensor

from hyena.errors import HyenaError
from hyena.models.spacetime import (
    ClosedLoopSSM,
    CompanionSSM,
    Preprocess,
    SpaceTime,
    forecast_losses,
    normed,
)
from hyena.ops.companion import companion_matrix


def official(reference, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is stored, and the weights in it."""
    stored, _ = reference(f"spacetime_{name}")
    return stored, {key.removeprefix("param."): value for key, value in stored.items() if key.startswith("param.")}


def check_gradients(module: torch.nn.Module, stored: dict[str, Tensor], tolerance: float = 5e-6) -> None:
    for key, parameter in module.named_parameters():
        if f"grad.{key}" in stored and stored[f"grad.{key}"].any():
            close(parameter.grad, stored[f"grad.{key}"], tolerance)


def network(**options) -> SpaceTime:
    return SpaceTime(16, 8, n_kernels=2, n_blocks=2, dropout=0.0, max_window=16, **options)


@pytest.mark.parametrize("name", ["companion", "companion_norm0", "shift"])
def test_open_layers_and_gradients_are_the_official_ones(reference, name: str) -> None:
    stored, weights = official(reference, f"open_{name}")
    layer = CompanionSSM(8, 6, n_kernels=4, norm_order=int(stored["norm_order"]))
    layer.load_state_dict(weights)
    x = stored["x"].requires_grad_()
    y = layer(x)
    close(y, stored["y"], 1e-6)
    (y * stored["cotangent"]).sum().backward()
    close(x.grad, stored["grad_x"], 1e-6)
    check_gradients(layer, stored)


@pytest.mark.parametrize("order", [1, 2])
def test_closed_layers_and_gradients_are_the_official_ones_in_the_released_variant(reference, order: int) -> None:
    stored, weights = official(reference, f"closed_norm{order}")
    layer = ClosedLoopSSM(4, 6, norm_order=order, variant="released")
    layer.load_state_dict(weights)
    x = stored["x"].requires_grad_()
    (y_closed, u_closed), (y_open, u_open) = layer.closed(x, 12), layer.opened(x)
    found = {"y_closed": y_closed, "u_closed": u_closed, "y_open": y_open, "u_open": u_open}
    for name, value in found.items():
        close(value, stored[name], 1e-6)
    sum((found[name] * stored[f"cot_{name}"]).sum() for name in ("y_closed", "y_open", "u_open")).backward()
    close(x.grad, stored["grad_x"], 1e-5)
    check_gradients(layer, stored, 1e-5)


def test_preprocessing_is_the_official_one(reference) -> None:
    stored, weights = official(reference, "preprocess_residual")
    layer = Preprocess(16, max_window=16)
    layer.load_state_dict(weights)
    close(layer(stored["x"]), stored["y"], 1e-6)
    close(layer.taps(40), stored["kernel"])
    assert layer.diff_kernel[:4].tolist() == stored["pascal4"].tolist()


def test_the_network_its_losses_and_gradients_are_the_official_ones(reference) -> None:
    stored, weights = official(reference, "network")
    model = network(variant="released")
    model.load_state_dict(weights)  # strict: every key is there
    found = model(stored["x"], 24)
    for name, value in {"y_closed": found.closed, "y_open": found.opened, "z_pred": found.latent}.items():
        close(value, stored[name], 2e-6)
    losses = forecast_losses(found, stored["x"], stored["y_true"], 8)
    for name, value in zip(("closed", "open", "z"), losses, strict=True):
        close(value, stored[f"loss_{name}"], 2e-6)
    sum(losses).backward()
    check_gradients(model, stored, 1e-5)
    longer, _ = official(reference, "network_longer_horizon")
    close(model(stored["x"], 48).closed, longer["y_closed_48"], 2e-6)


def test_parameters_are_as_many_as_in_the_official_network() -> None:
    assert [sum(p.numel() for p in SpaceTime(n_blocks=n).parameters()) for n in (1, 2)] == [52_737, 93_953]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("order", [0, 1, 2])
def test_both_modes_are_one_system_where_the_released_one_has_two(order: int) -> None:
    torch.manual_seed(1)
    layer, u = ClosedLoopSSM(3, 5, norm_order=order), torch.randn(2, 12, 3)
    for vector in (layer.a, layer.k):
        vector.data /= 5
    for opened, closed in zip(layer.opened(u), layer.closed(u, 4), strict=True):
        close(closed[:, 0], opened[:, -1], 1e-10)
    layer.variant = "released"
    if order:
        assert (layer.closed(u, 4)[0][:, 0] - layer.opened(u)[0][:, -1]).abs().max() > 0.1


@pytest.mark.usefixtures("float64")
def test_the_closed_loop_is_the_open_loop_fed_with_its_own_predictions() -> None:
    layer, u = ClosedLoopSSM(3, 5), torch.randn(2, 9, 3)
    series = u
    for _ in range(6):
        series = torch.cat([series, layer.opened(series)[1][:, -1:]], 1)
    y, ahead = layer.closed(u, 6)
    close(ahead, series[:, 9:], 1e-10)
    close(y[:, 1:], layer.opened(series)[0][:, 9:14], 1e-10)


@pytest.mark.usefixtures("float64")
def test_a_longer_horizon_begins_with_the_shorter_one() -> None:
    model, x = network().eval(), torch.randn(3, 20, 1)
    close(model(x, 30).closed[:, :7], model(x, 7).closed, 1e-10)


@pytest.mark.usefixtures("float64")
def test_the_forecast_moves_with_the_level_of_the_window() -> None:
    model, x = network().eval(), torch.randn(3, 20, 1)
    close(model(x + 100, 7).closed, model(x, 7).closed + 100, 1e-10)


@pytest.mark.usefixtures("float64")
def test_the_encoder_sees_no_future() -> None:
    model, x = network().eval(), torch.randn(1, 20, 1)
    changed = x.clone()
    changed[0, 12] += 1
    changed[0, 15] -= 1  # the mean stays
    close(model(changed, 3).opened[:, :12], model(x, 3).opened[:, :12], 1e-9)


@pytest.mark.usefixtures("float64")
def test_the_losses_compare_each_prediction_with_the_step_it_predicts() -> None:
    x, y = torch.arange(10.0)[None, :, None], torch.arange(10.0, 14.0)[None, :, None]
    right = torch.cat([x, y], 1)[:, 1:11]  # of every step the next one
    inputs = torch.randn(1, 10, 2)
    latent = torch.cat([inputs[:, 1:], torch.full((1, 1, 2), 9.0)], 1)  # what follows the window is not known
    from hyena.models.spacetime import Forecast

    closed, opened, own = forecast_losses(Forecast(y + 2, right + 3, latent, inputs), x, y, 4)
    assert (closed.item(), opened.item(), own.item()) == pytest.approx((2.0, 3.0, 0.0))


def test_a_norm_divides_each_row_unless_all_are_tiny() -> None:
    rows = torch.tensor([[3.0, -4.0], [1.0, 1.0]])
    assert normed(rows, 2)[0].tolist() == pytest.approx([0.6, -0.8])
    assert normed(rows, 1)[1].tolist() == [0.5, 0.5]
    assert normed(rows, 0) is rows and normed(1e-6 * rows, 1).equal(1e-6 * rows)


@pytest.mark.usefixtures("float64")
def test_gradients_of_a_closed_loop() -> None:
    torch.manual_seed(0)
    layer, u = ClosedLoopSSM(2, 3), torch.randn(1, 5, 2, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def run(u: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (u,))

    layer.forward = lambda u: layer.closed(u, 4)[0]
    values = [p.detach().clone().requires_grad_() for p in parameters.values()]
    assert torch.autograd.gradcheck(run, (u, *values))


def test_a_companion_matrix_of_normed_columns_does_not_explode() -> None:
    a = normed(torch.randn(20, 16), 1)
    assert torch.linalg.eigvals(companion_matrix(a)).abs().max() <= 1 + 1e-5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Preprocess(12), "d_model is a multiple of 8"),
        (lambda: CompanionSSM(8, 4, n_kernels=3), "n_kernels divides d_model, got 3 and 8"),
        (lambda: ClosedLoopSSM(8, 4, variant="relaesed"), "unknown variant 'relaesed': did you mean 'released'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_that_do_not_go_together_are_refused(make, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        make()
