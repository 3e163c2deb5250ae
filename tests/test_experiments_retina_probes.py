"""Probes of the retina, on cells that are made up: who follows, expects, lags, is ahead, comes back."""

from __future__ import annotations

import numpy as np
import pytest

from hyena.data.retina import SIDE
from hyena.experiments.retina import mechanisms, probes


def cell(respond) -> probes.Respond:
    """A retina of eight equal cells, from a rule that turns one film into a rate."""
    return lambda films: np.stack([np.repeat(respond(film)[:, None], 8, 1) for film in films])


def bump(bins: int, at: float) -> np.ndarray:
    return 20 * np.exp(-((np.arange(bins) - at) ** 2) / 8.0)


def onsets(film: np.ndarray) -> np.ndarray:
    dark = film[:, 0, 0] < 0
    return np.flatnonzero(dark & ~np.roll(dark, 1))


def test_a_cell_that_expects_flashes_has_slope_one() -> None:
    def expects(film: np.ndarray) -> np.ndarray:
        times = onsets(film)
        period = times[1] - times[0] if len(times) > 1 else 99
        return bump(len(film), times[-1] + period + 17)

    rows, found = probes.omitted(cell(expects), [6, 7])
    assert found["slope"] == pytest.approx(1.0) and found["answered"] == len(probes.PERIODS)
    assert [row["peak_ms"] for row in rows] == pytest.approx([170.0] * len(rows)) and mechanisms.omission_follows(found)


def test_a_cell_that_follows_the_last_flash_has_slope_zero() -> None:
    rows, found = probes.omitted(cell(lambda film: bump(len(film), onsets(film)[-1] + 30)), [6])
    assert found["slope"] == pytest.approx(0.0, abs=1e-9) and found["answered"] == len(rows)
    assert not mechanisms.omission_follows(found)


@pytest.mark.parametrize("rule", [lambda n: np.zeros(n), lambda n: np.full(n, 9.0), lambda n: np.linspace(50, 0, n)])
def test_silent_flat_and_falling_cells_answer_nothing(rule) -> None:
    respond = cell(lambda film: rule(len(film)))
    for found in (
        probes.omitted(respond, [6])[1], probes.latency(respond, [0])[1], probes.reversal(respond, 0, 7.5)[1]
    ):  # fmt: skip
        assert found["answered"] == 0
    assert probes.anticipation(respond, {0: 7.5})[1] == {"lead_um": 0.0, "gained_um": 0.0}
    found = mechanisms.phenomena(respond, {0: 7.5, 1: 7.0})
    assert not any(rule(found[name][1]) for name, rule in mechanisms.CRITERIA.items())


def test_latency_is_ordered_if_every_darker_step_is_earlier() -> None:
    def at(bins: float) -> probes.Respond:
        return cell(lambda film: bump(len(film), probes.LEAD + 20 + bins * float(film[-1, 0, 0])))

    found = probes.latency(at(8), [0])[1]
    assert found == pytest.approx({"shift_ms": 72.0, "answered": 5.0, "ordered": 1.0}, abs=1.0)
    assert mechanisms.darker_is_earlier(found)
    assert probes.latency(at(-8), [0])[1]["ordered"] == 0
    assert not mechanisms.darker_is_earlier(probes.latency(at(0), [0])[1])


@pytest.mark.parametrize("at", [20.0, 20.3, 20.5, 20.8])
def test_the_time_of_a_peak_is_finer_than_a_bin(at: float) -> None:
    height, late = probes.peak(bump(50, at), 1.0)
    assert late == pytest.approx(10 * at, abs=0.5) and height == pytest.approx(19.0, abs=0.7)


def place(film: np.ndarray) -> np.ndarray:
    """Column of the bar in every bin, far away where there is none."""
    dark = -film[:, 0]
    return np.where(dark.sum(1) > 0, (dark * np.arange(SIDE)).sum(1) / np.maximum(dark.sum(1), 1e-9), -99.0)


def test_a_cell_with_a_delay_lags_and_gains_nothing() -> None:
    def late(film: np.ndarray) -> np.ndarray:
        near = 20 * np.exp(-((place(film) - 7.0) ** 2) / 2)
        return np.concatenate([np.zeros(4), near[:-4]])

    rows, found = probes.anticipation(cell(late), {0: 7.0})
    assert found["gained_um"] == pytest.approx(0, abs=12) and found["lead_um"] < -20
    assert [row["lead_um"] for row in rows] == pytest.approx([-20, -20, -40, -40], abs=11)
    assert not mechanisms.bar_is_met(found)


def test_a_cell_that_is_ahead_gains() -> None:
    def ahead(film: np.ndarray) -> np.ndarray:
        at = place(film)
        moving = (np.abs(np.diff(at, append=at[-1])) < 1) & (np.diff(at, append=at[-1]) != 0)
        early = 20 * np.exp(-((at + 3 * np.sign(np.diff(at, append=at[-1])) - 7.0) ** 2) / 2) * moving
        seen = (np.abs(at - 7.0) < 0.1) & ~np.roll(np.abs(at - 7.0) < 0.1, 1) & (np.roll(at, 1) < -50)
        return early + (bump(len(film), int(np.flatnonzero(seen)[0]) + 5) if seen.any() else 0)

    found = probes.anticipation(cell(ahead), {0: 7.0, 1: 7.0})[1]
    assert found["lead_um"] > 50 and mechanisms.bar_is_met(found)
    assert not mechanisms.bar_is_met({"lead_um": -20.0, "gained_um": 5.0})
    assert mechanisms.bar_is_met({"lead_um": -10.0, "gained_um": 15.0})


def test_re_entry_has_slope_one_and_an_answer_to_the_turn_slope_zero() -> None:
    def re_entry(film: np.ndarray) -> np.ndarray:
        return 20 * np.exp(-((place(film) - 7.0) ** 2) / 0.5)

    def turn(film: np.ndarray) -> np.ndarray:
        moves = np.diff(place(film), append=np.nan)
        back = np.flatnonzero((moves < -0.05) & (moves > -1))
        return bump(len(film), back[0] + 12) if len(back) else np.zeros(len(film))

    found = probes.reversal(cell(re_entry), 0, 7.0)[1]
    assert found["slope"] == pytest.approx(1.0, abs=0.1) and not mechanisms.turn_is_answered(found)
    found = probes.reversal(cell(turn), 0, 7.0)[1]
    assert found["slope"] == pytest.approx(0.0, abs=0.05) and mechanisms.turn_is_answered(found)


def test_slopes_that_cancel_and_a_bar_that_is_seen_anyway_answer_no_turn() -> None:
    good = {"answered": 8.0, "slope": 0.0, "steepest": 0.1, "unflipped": 0.0}
    assert mechanisms.turn_is_answered(good)
    assert not mechanisms.turn_is_answered(good | {"steepest": -0.5})
    assert not mechanisms.turn_is_answered(good | {"unflipped": 0.5})
