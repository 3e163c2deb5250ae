"""Autoregressive processes: the recurrence, its noise, its roots."""

import numpy as np
import pytest

from hyena.data.processes import PROCESSES, autoregressive, best_predictions
from hyena.errors import HyenaError


@pytest.mark.parametrize("name", PROCESSES)
def test_what_the_best_prediction_leaves_over_is_unit_noise(name: str) -> None:
    y, phi = autoregressive(name, 400, 100, np.random.default_rng(0))
    rest = y[:, len(phi) :] - best_predictions(y, phi)
    assert y.shape == (400, 100) and abs(rest.std() - 1) < 0.02 and abs(rest.mean()) < 0.02
    assert abs(np.mean(rest[:, 1:] * rest[:, :-1])) < 0.02, "and has no memory"


def test_roots_are_inside_on_and_equally_far_out() -> None:
    size = {name: abs(np.roots([1, *(-np.array(phi))])) for name, phi in PROCESSES.items()}
    assert sorted(size["distinct_roots"]) == pytest.approx([0.8, 0.8, 0.95, 0.95])
    assert size["pure_lag"] == pytest.approx(0.9 ** (1 / 12))
    assert size["seasonal_unit_root"] == pytest.approx(1.0) and size["random_walk"] == pytest.approx(1.0)


def test_stationary_processes_are_shown_after_their_start_and_walks_begin_at_zero() -> None:
    rng = np.random.default_rng(0)
    lag, _ = autoregressive("pure_lag", 4000, 5, rng)
    walk, _ = autoregressive("random_walk", 4000, 5, rng)
    assert lag[:, 0].var() == pytest.approx(1 / (1 - 0.81), rel=0.1)
    assert walk.var(0) == pytest.approx(np.arange(1, 6), rel=0.1)


def test_another_name_is_refused() -> None:
    with pytest.raises(HyenaError, match="unknown process 'pure_leg': did you mean 'pure_lag'"):
        autoregressive("pure_leg", 1, 1, np.random.default_rng(0))
