"""Encoders that remember, beside loops: lateral feedback, kinetics, state spaces."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from small_retina import film, small
from torch import nn
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.retina_memory import LNK, LateralCNN, S4NDEncoder


def test_without_feedback_a_lateral_network_is_the_one_it_was_made_from() -> None:
    inner, x = small(), film(1, 30, 10, 10)
    off = LateralCNN(inner, warm=8, lateral=False)
    close(off(x), inner(x)[:, 8:], 1e-6)


@pytest.mark.parametrize("hold", [1, 3])
def test_feedback_is_its_recursion(hold: int) -> None:
    torch.manual_seed(0)
    net = LateralCNN(small(), warm=4, hold=hold)
    nn.init.normal_(net.raw)
    z, W, tau = film(1, 12, 3, 6, 6), F.softplus(net.raw), net.log_tau.exp()
    a = 1 - torch.exp(-0.01 * hold / tau)[:, None, None]
    h, found = torch.zeros(1, 3, 6, 6), []
    for t in range(12):
        found.append(z[:, t] / (1 + h))
        if t % hold == hold - 1:
            mean = sum(F.relu(gated) for gated in found[-hold:]) / hold
            h = (1 - a) * h + a * F.conv2d(mean, W, padding=1)
    close(net.gated(z), torch.stack(found, 1), 1e-5)


def test_steady_input_is_divided_more_and_more() -> None:
    net = LateralCNN(small(), warm=4, hold=5)
    nn.init.constant_(net.raw, -3.0)
    z = torch.ones(1, 100, 3, 6, 6)
    gated = net.gated(z)[0, :, 0, 2, 2]
    assert (gated.diff() <= 0).all() and gated[-1] < 0.8


def test_the_network_that_it_was_made_from_stays_as_it_is() -> None:
    inner = small()
    made = LateralCNN(inner, warm=4)
    with torch.no_grad():
        made.net.dense.weight.zero_()
    assert inner.dense.weight.any()


def test_the_network_inside_keeps_its_running_means() -> None:
    net = LateralCNN(small(), warm=4).train()
    before = net.net.norms[0][1].running_mean.clone()
    net(film(1, 20, 10, 10))
    assert torch.equal(net.net.norms[0][1].running_mean, before) and not net.net.training


def test_kinetic_states_sum_to_one_and_wear_out() -> None:
    net = LNK(2, 10, 6, warm=8)
    states = net.states(torch.full((1, 300, 2), 0.9))
    close(sum(states), torch.ones(1, 300, 2), 1e-5)
    active = states[1][0, :, 0]
    assert active.argmax() < 50 and active[-1] < active.max()
    assert all((state > -1e-6).all() for state in states)


def test_kinetic_states_stay_above_zero_however_fast() -> None:
    net = LNK(2, 10, 6, warm=8)
    for raw in net.log_rates.values():
        nn.init.constant_(raw, 8.0)
    assert all((state > -1e-6).all() for state in net.states(torch.rand(1, 100, 2)))


def test_kinetics_follow_their_equations() -> None:
    net, u = LNK(1, 10, 6, warm=8), torch.rand(1, 20, 1)
    k = {name: float(raw.exp()) for name, raw in net.log_rates.items()}
    R, A, slow, slower = 1.0, 0.0, 0.0, 0.0
    for t in range(20):
        v, back = float(u[0, t, 0]), k["ksr"] * float(u[0, t, 0]) + k["ksr2"]
        dR = -k["ka"] * v * R + k["kfr"] * slow
        dA = k["ka"] * v * R - k["kfi"] * A
        dslow = k["kfi"] * A - (k["kfr"] + k["ksi"]) * slow + back * slower
        dslower = k["ksi"] * slow - back * slower
        R, A, slow, slower = R + 0.01 * dR, A + 0.01 * dA, slow + 0.01 * dslow, slower + 0.01 * dslower
    assert [float(s[0, -1, 0]) for s in net.states(u)] == pytest.approx([R, A, slow, slower], abs=1e-5)


def test_a_film_beyond_the_kernels_of_s4nd_is_refused() -> None:
    with pytest.raises(HyenaError, match="longer than the kernels"):
        S4NDEncoder(3, 10, 6, 20, d_model=4, d_state=4)(torch.zeros(1, 30, 10, 10))
