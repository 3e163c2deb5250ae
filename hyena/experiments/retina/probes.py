"""Four phenomena: what is shown, what is measured, and what would not prove it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from hyena.data.retina import DT, PIXEL, SIDE, Movie
from hyena.data.retina_stimuli import flashes, moving_bar, reversed_sweep, step, sweep
from hyena.results import Row

ABLATIONS = {  # what is taken out of the circuit
    "no_fast_gain": {"fast_gain": 0.0},
    "no_slow_state": {"slow_gain": 0.0},
    "no_inhibition": {"inhibition": 0.0},
    "no_depression": {"depression": 0.0},
}
Respond = Callable[[Movie], Float[np.ndarray, "films bins cells"]]  # rates in every bin of a film
Measured = tuple[list[Row], dict[str, float]]  # one row for each stimulus, and what they amount to
LEAD = 300  # bins of mean light before a probe, more than any encoder looks back
MS = 1000 * DT
PERIODS = (6, 8, 10, 12, 15, 17)  # bins between flashes: 6 to 17 a second
FLASHES = 12
WINDOW = 60  # bins in which a response to an omission or a turn is looked for
CONTRASTS = (-0.1, -0.2, -0.4, -0.6, -1.0)
SPEEDS = (0.5, 1.0)  # millimetres a second
TURNS = (1.0, 2.0, 3.0, 4.0)  # pixels past the receptive field
BAR = 2.0
PEAK = 1.0  # spikes a second that a response has at least, above what there was without it


def peak(rate: Float[np.ndarray, " bins"], rest: float) -> tuple[float, float]:
    """Height above rest and milliseconds of the largest value that is larger than its neighbours; 0 and 0 if none is.

    The time is that of the top of a parabola through the three. A rate that only falls, or is flat, has none.
    """
    inside = np.flatnonzero((rate[1:-1] >= rate[:-2]) & (rate[1:-1] > rate[2:])) + 1
    if not len(inside):
        return 0.0, 0.0
    at = inside[rate[inside].argmax()]
    height, (before, top, after) = float(rate[at] - rest), rate[at - 1 : at + 2]
    shift = (before - after) / (2 * (before - 2 * top + after))
    return (height, float(MS * (at + shift))) if height > PEAK else (0.0, 0.0)


def slope(x: list[float], y: list[float]) -> float:
    """Of a line through points; 0 if there are fewer than two."""
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else 0.0


def omitted(respond: Respond, cells: list[int], count: int = FLASHES) -> Measured:
    """After how long a response comes to a flash that is left out, by period.

    `peak_ms` counts from the omitted flash. A response to the omission comes at the same time after it at every
    period, so that its time after the last flash grows by one period per period: `slope` is 1. One that only follows
    the last flash has slope 0, whatever it is after the train and however silent during it. `train` is the largest
    rate from the sixth flash (the last, of fewer) to the omission, `single` and `single_ms` what follows one flash.
    """
    rows = []
    for period in PERIODS:
        rate = respond(flashes(period, count, LEAD, 2 * WINDOW)[None])[0][:, cells].mean(1)
        omission, begins = LEAD + count * period, LEAD + min(5, count - 1) * period
        height, late = peak(rate[omission : omission + WINDOW], float(rate[omission]))
        train = float(rate[begins:omission].max())
        rows.append({
            "period_ms": MS * period, "train": train, "omission": height, "peak_ms": late,
            "after_last_ms": late + MS * period if height else 0.0,
        })  # fmt: skip
    answered = [row for row in rows if row["omission"]]
    alone = respond(flashes(PERIODS[0], 1, LEAD, 2 * WINDOW)[None])[0][LEAD:, cells].mean(1)
    height, late = peak(alone, float(alone[0]))
    return rows, {
        "slope": slope([row["period_ms"] for row in answered], [row["after_last_ms"] for row in answered]),
        "answered": float(len(answered)), "least": min(row["omission"] for row in rows),
        "train": max(row["train"] for row in rows), "single": height, "single_ms": late,
    }  # fmt: skip


def latency(respond: Respond, cells: list[int]) -> Measured:
    """When the response to a darkening peaks, by contrast; `shift_ms` is by how much later the weakest does.

    `ordered` is 1 if every darker step is answered earlier.
    """
    rows = []
    for contrast in CONTRASTS:
        rate = respond(step(contrast, LEAD, WINDOW)[None])[0][:, cells].mean(1)
        height, late = peak(rate[LEAD:], float(rate[LEAD - 10 : LEAD].mean()))
        rows.append({"contrast": contrast, "peak": height, "peak_ms": late})
    times = [row["peak_ms"] for row in rows if row["peak"]]
    ordered = len(times) == len(CONTRASTS) and all(a > b for a, b in pairwise(times))
    return rows, {
        "shift_ms": float(times[0] - times[-1]) if times else 0.0, "answered": float(len(times)),
        "ordered": float(ordered),
    }  # fmt: skip


def anticipation(respond: Respond, columns: dict[int, float]) -> Measured:
    """Where a moving bar is when the response to it peaks, and where the delay of a response to a flash would put it.

    `lead_um` is how far the bar is before the receptive field, behind it if below 0; `lag_um` is how far it moves in
    the time that the response to a flashed bar takes to its peak. `lead_um` and `gained_um`, the sum of both, are means
    over cells, speeds and directions; 0 without a response.

    Arguments:
        columns: of the receptive field, in pixels, by cell.
    """
    rows = [row for cell, column in columns.items() for row in anticipated(respond, cell, column)]
    answered = all(row["peak"] and row["lag_um"] for row in rows)
    lead, lag = (float(np.mean([row[key] for row in rows])) for key in ("lead_um", "lag_um"))
    return rows, {"lead_um": lead if answered else 0.0, "gained_um": lead + lag if answered else 0.0}


def anticipated(respond: Respond, cell: int, column: float) -> list[Row]:
    """Lead and lag of one cell, by speed and direction."""
    flashed = np.concatenate([np.full(LEAD, -99.0), np.full(2, column), np.full(WINDOW, -99.0)])
    rate = respond(moving_bar(flashed, SIDE)[None])[0][LEAD:, cell]
    _, delay = peak(rate, float(rate[0]))
    rows = []
    for speed in SPEEDS:
        tracks = [passing(sign * speed, column) for sign in (1, -1)]
        rates = respond(np.stack([moving_bar(track, SIDE) for track, _ in tracks]))[:, LEAD:, cell]
        for sign, (_, passes), rate in zip((1, -1), tracks, rates, strict=True):
            height, late = peak(rate, float(rate[0]))
            ahead = (MS * (passes - LEAD) - late) * speed  # millimetres a second are micrometres a millisecond
            rows.append({
                "cell": cell, "speed": sign * speed, "peak": height, "lead_um": float(ahead) if height else 0.0,
                "lag_um": float(delay * speed),
            })  # fmt: skip
    return rows


def passing(speed: float, column: float) -> tuple[Float[np.ndarray, " bins"], float]:
    """The track of a bar that crosses the patch after `LEAD` bins, and the bin in which it passes `column`."""
    per_bin = speed * 1000 / PIXEL * DT
    start = -BAR if speed > 0 else SIDE - 1 + BAR
    bins = int(np.ceil((SIDE + 2 * BAR) / abs(per_bin))) + WINDOW
    track = np.concatenate([np.full(LEAD, start), sweep(speed, start, bins)])
    return track, LEAD + (column - start) / per_bin


def reversal(respond: Respond, cell: int, column: float) -> Measured:
    """When the response to a bar that turns back peaks, by where it turns: what it adds to a bar that goes on.

    A response to the turn comes at the same time after it wherever it happens: the slope of its time against the time
    of the bar's return to the receptive field is 0. Re-entry gives one that is clearly above, 1 for a cell without
    memory. `slope` is the mean over speeds, `steepest` the one that is furthest from 0; `least` is the smallest such
    response, and `unflipped` the largest share of it that a bar which goes on gives at that time too.
    """
    rows = []
    for speed in SPEEDS:
        bins = int((SIDE + 2 * BAR) / (speed * 1000 / PIXEL * DT)) + 2 * WINDOW
        turned = [reversed_sweep(speed, -BAR, column + turn, bins) for turn in TURNS]
        paths = [sweep(speed, -BAR, bins), *(track for track, _ in turned)]
        films = [moving_bar(np.concatenate([np.full(LEAD, -BAR), path]), SIDE) for path in paths]
        forth, *back = respond(np.stack(films))[:, LEAD:, cell]
        for turn, (_, flip), rate in zip(TURNS, turned, back, strict=True):
            on = forth[flip : flip + WINDOW]
            height, late = peak(rate[flip : flip + WINDOW] - on, 0.0)
            rows.append({
                "speed": speed, "turn": turn, "added": height, "peak_ms": late,
                "return_ms": turn * PIXEL / speed, "unflipped": float(on[round(late / MS)]),
            })  # fmt: skip
    slopes = []
    for speed in SPEEDS:
        some = [row for row in rows if row["speed"] == speed and row["added"]]
        slopes.append(slope([row["return_ms"] for row in some], [row["peak_ms"] for row in some]))
    return rows, {
        "slope": float(np.mean(slopes)), "steepest": max(slopes, key=abs),
        "answered": float(sum(row["added"] > 0 for row in rows)), "least": min(row["added"] for row in rows),
        "unflipped": max((row["unflipped"] / row["added"] for row in rows if row["added"]), default=0.0),
    }  # fmt: skip
