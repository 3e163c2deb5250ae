"""Lateral feedback at several time scales: against its recurrence, and from features worked out once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import close
from small_retina import film, small

from hyena.models.retina_feedback import FeedbackCNN, OnFeatures

WARM, HOLD, DT = 6, 2, 0.01


def network(lateral: bool = True) -> FeedbackCNN:
    torch.manual_seed(0)
    net = FeedbackCNN(small(), warm=WARM, hold=HOLD, taus=(0.05, 2.0), lateral=lateral).eval()
    torch.nn.init.normal_(net.raw, -2.0)
    torch.nn.init.normal_(net.log_tau, -2.0)
    return net


def test_states_follow_their_recurrence() -> None:
    net = network()
    z = torch.randn(1, 9, *net.net.grids[0])
    W = torch.nn.functional.softplus(net.raw).detach().numpy().reshape(2, len(net.raw) // 2, *net.raw.shape[1:])
    a = 1 - np.exp(-HOLD * DT / np.exp(net.log_tau.detach().numpy()))
    channels, rows, columns = net.net.grids[0]
    h, found = np.zeros((2, channels, rows, columns)), np.zeros(z.shape[1:])
    for start in range(0, 9, HOLD):
        bins = slice(start, min(start + HOLD, 9))
        found[bins] = z[0, bins].numpy() / (1 + h.sum(0))
        seen = np.pad(np.maximum(found[bins], 0).mean(0), ((0, 0), (1, 1), (1, 1)))
        for s in range(2):
            for c in range(channels):
                drive = sum(
                    W[s, c, other, i, j] * seen[other, i : i + rows, j : j + columns]
                    for other in range(channels) for i in range(3) for j in range(3)
                )  # fmt: skip
                h[s, c] += a[s, c] * (drive - h[s, c])
    close(net.gated(z)[0], torch.from_numpy(found).float(), 1e-5)


def test_without_feedback_it_is_the_network_it_was_made_from() -> None:
    net, x = network(lateral=False), film(1, 30, 10, 10)
    close(net(x), net.net(x)[:, WARM:], 1e-6)
    assert not torch.allclose(network()(x), net(x))


def test_features_worked_out_once_give_the_same_rates() -> None:
    net, x = network(), film(1, 30, 10, 10)
    once = OnFeatures(net)
    stacked = once.stacked(x)
    assert stacked.shape[:2] == x.shape[:2] and once.lags == WARM + 1
    late = once(stacked[:, net.net.lags - 1 :])
    close(late, net(x), 1e-6)


def test_the_first_layer_is_fixed_and_the_rest_is_trained() -> None:
    net = network()
    net(film(1, 30, 10, 10)).sum().backward()
    assert all(p.grad is None for p in net.net.convs[0].parameters())
    assert net.raw.grad.abs().sum() > 0 and net.log_tau.grad.abs().sum() > 0 and net.net.dense.weight.grad is not None


@pytest.mark.parametrize("later", [12, 20])
def test_what_comes_later_changes_nothing_before(later: int) -> None:
    net, x = network(), film(1, 30, 10, 10)
    changed = x.clone()
    changed[:, later:] += 1
    before = later - net.lags + 1
    assert torch.equal(net(x)[:, :before], net(changed)[:, :before])
    assert not torch.allclose(net(x)[:, before:], net(changed)[:, before:])
