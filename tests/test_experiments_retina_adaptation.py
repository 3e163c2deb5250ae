"""Adaptation to contrast: what is measured on rates that are known, and where films and features stand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_retina import sixteen

from hyena.data.recordings import Part
from hyena.data.retina import DT, SIDE
from hyena.experiments.retina import adaptation
from hyena.experiments.retina.fits import predicted
from hyena.models.retina_feedback import FeedbackCNN, OnFeatures

RNG = np.random.default_rng


def steps_of(decay: float) -> np.ndarray:
    t = np.arange(adaptation.PHASE) * DT
    low, high = 4 - decay * np.exp(-t / 7), 10 + 3 * decay * np.exp(-t / 7)
    return np.concatenate([low, high, low, high])


def test_an_exponential_gives_its_time_constant_and_a_constant_none() -> None:
    found = adaptation.adaptation(steps_of(2.0))
    assert found["tau_high"] == pytest.approx(7, rel=0.05) and found["tau_low"] == pytest.approx(7, rel=0.05)
    assert found["decay"] > 0.3 and found["undershoot"] < 0.7
    assert adaptation.time_constant(np.linspace(8, 4, adaptation.PHASE)) == 0  # falls to the end of the phase
    assert adaptation.time_constant(np.full(adaptation.PHASE, 3.0)) == 0
    flat = adaptation.adaptation(steps_of(0.0) + RNG(0).normal(0, 0.05, 4 * adaptation.PHASE))
    assert flat["tau_high"] == flat["tau_low"] == 0 and abs(flat["decay"]) < 0.01


def test_gains_are_those_of_known_filters_even_if_they_would_cancel() -> None:
    flicker = RNG(0).standard_normal((30, 4 * adaptation.PHASE))
    kernel = np.array([0.0, 1.0, 3.0, 1.0])
    off = -np.stack([np.convolve(light, kernel)[: len(light)] for light in flicker])
    found = adaptation.gains(50 + np.stack([off, -off], 2), flicker)
    for name in adaptation.SPANS:
        assert found[f"gain_{name}"] == pytest.approx(3.0, rel=0.05)
        assert found[f"centre_{name}"] < 60  # 20 ms, and what noise adds
    assert found["fast"] == pytest.approx(1.0, rel=0.05)


def test_a_network_without_memory_is_flat_to_rolled_flicker() -> None:
    flicker = adaptation.rolled(40, RNG(0))
    assert flicker.shape == (40, 4 * adaptation.PHASE, 1, 1)
    assert np.array_equal(np.sort(flicker[0, : adaptation.PHASE], 0), np.sort(flicker[7, : adaptation.PHASE], 0))
    found = adaptation.adaptation(np.maximum(flicker[..., 0, 0] + 0.1, 0).mean(0))
    assert found["decay"] == pytest.approx(0, abs=1e-5) and found["undershoot"] == pytest.approx(1, abs=1e-5)
    assert found["tau_high"] == found["tau_low"] == 0


def test_flickered_rates_stand_in_their_bins_and_features_seen_once_give_them() -> None:
    flicker = adaptation.rolled(1, RNG(0))[:, :60]
    net = sixteen()
    model = FeedbackCNN(net, warm=10, hold=2)
    found = adaptation.flickered(model, flicker)
    film = torch.from_numpy(np.tile(flicker, (SIDE, SIDE)))
    assert (found[:, : model.lags - 1] == 0).all()
    np.testing.assert_allclose(found[:, model.lags - 1 :], model(film).detach(), rtol=1e-5)
    part = Part(film.numpy(), np.zeros((1, 1, 60, 8), dtype=int), 20)
    once = OnFeatures(model)
    rates = predicted(once, adaptation.seen_once(once, part))
    assert rates.shape == (1, 40, 8)
    np.testing.assert_allclose(rates, predicted(model, part), rtol=1e-5)
