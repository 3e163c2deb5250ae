r"""A simulated retina whose every cell is known: cones, horizontal, bipolar, amacrine and ganglion cells.

>>> layers = interneurons(np.zeros((1, 50, 16, 16)), Circuit())
>>> layers["bipolar_off"].shape
(1, 50, 16, 16)

Time runs in bins of 10 ms, space in pixels of 50 micrometres; a stimulus is Weber contrast, 0 the mean light and -1
darkness. Stimuli are (trials, bins, height, width); those that are the same everywhere may have one pixel, which gives
the same numbers, since no blur changes a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import brentq
from scipy.signal import lfilter

from hyena.errors import HyenaError

DT = 0.01  # seconds in a bin, the 100 frames a second of the public recordings
PIXEL = 50.0  # micrometres, as there
SIDE = 16
TYPES = ("off_fast", "on", "off_texture", "osr")
PER_TYPE = 2
DELAY = 2  # bins from a bipolar to a ganglion cell by way of an amacrine cell, tuned
LAYERS = (
    "cone", "horizontal", "bipolar_off", "bipolar_on", "release_off", "release_on", "amacrine_off", "amacrine_on",
    "amacrine_wide", "osr_excitation", "osr_inhibition",
)  # fmt: skip
SETTLED = 2000  # bins after which the slow state has forgotten all but e^-2.5 of the start
WIRING = {  # of every type of ganglion cell: layers, the deviation in pixels of their weights in space, and their sum
    "off_fast": {"release_off": (1.5, 1.0), "amacrine_off": (3.0, -0.8), "amacrine_on": (3.0, -0.3)},
    "on": {"release_on": (1.5, 1.0), "amacrine_on": (3.0, -0.8), "amacrine_off": (3.0, -0.3)},
    "off_texture": {"release_off": (1.5, 1.0), "release_on": (1.5, 0.3), "amacrine_wide": (3.0, -0.9)},
    "osr": {"osr_excitation": (1.5, 1.0), "osr_inhibition": (3.0, -4.5)},
}
REFRACTORY = 6  # milliseconds, tuned; Berry and Meister 1998 give the form, free rate times recovery
STEEPNESS = 6.0  # of the soft threshold, in units of one over the drive's deviation, tuned

Movie = Float[np.ndarray, "trials bins height width"]


@dataclass(frozen=True)
class Circuit:
    """What can be taken out of the circuit; all numbers of this module are tuned, unless a source is named.

    The defaults are the whole circuit.

    Arguments:
        fast_gain: gain of the divisive state of bipolar terminals, 80 ms; 0 takes it out.
        slow_gain: gain of the subtractive state of bipolar terminals, 8 s (of the order of the slow adaptation of Kim
            and Rieke 2001 and Baccus and Meister 2002: 4 to 18 s); 0 takes it out.
        inhibition: share of what amacrine cells, and the depressing pathway of osr cells, do to ganglion cells.
        depression: rate at which that pathway is used up, 1/s (of a form as in Ebert et al. 2023); 0 takes it out.
    """

    fast_gain: float = 8.0
    slow_gain: float = 1.5
    inhibition: float = 1.0
    depression: float = 1110.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise HyenaError(f"{name} must be 0 or more, got {value}")


def low_pass(x: Float[np.ndarray, "trials bins *space"], tau: float, n: int = 1) -> np.ndarray:
    r"""$y_t = a y_{t-1} + (1 - a) x_t$ with $a = e^{-dt/\tau}$, from 0, `n` times; tau in seconds."""
    a = math.exp(-DT / tau)
    for _ in range(n):
        x = lfilter([1 - a], [1, -a], x, axis=1)
    return x


def blur(x: Float[np.ndarray, "*first height width"], pixels: float) -> np.ndarray:
    """A Gaussian over space, cut off at three deviations; beyond an edge it sees the nearest pixel."""
    rows, columns = (gaussian_filter1d(np.eye(n), pixels, axis=0, mode="nearest", truncate=3) for n in x.shape[-2:])
    return rows @ x @ columns.T


def rectified(x: np.ndarray) -> np.ndarray:
    """The positive part."""
    return np.maximum(x, 0)


def delayed(x: Float[np.ndarray, "trials bins *space"], bins: int) -> np.ndarray:
    """Later by some bins, 0 before."""
    return np.pad(x, [(0, 0), (bins, 0), *[(0, 0)] * (x.ndim - 2)])[:, : x.shape[1]]


def interneurons(stimulus: Movie, circuit: Circuit) -> dict[str, Float[np.ndarray, "trials bins height width"]]:
    r"""Every cell before the ganglion cells, one of each kind at every pixel, by name of its layer (`LAYERS`).

    With $L_\tau^n$ for `low_pass` and $G_s$ for `blur`, times in milliseconds:

    $c = L_{35}^3 s$, $h = L_{20} G_4 c$, $o = G_{.8} c - .6 h$;
    bipolar potentials $b_{off} = -(L_{10} o - .8 L_{80}^2 o)$, $b_{on} = L_{20}^2 o - .7 L_{120}^2 o$, their release
    $B$ as in `terminals` of $5 b$;
    amacrine cells $A = D\, L_{30} G_2 B$ of each polarity and $W = D\, L_{40} G_5 (B_{off} + B_{on})$, $D$ a delay of
    20 ms; the pathway of osr cells has excitation $e = [L_{44} o - .985 L_{145} o]_+$ and inhibition as in `depressed`
    of $G_2 [-L_{67} o]_+$.

    Raises:
        HyenaError: a stimulus that is not finite.
    """
    if not np.isfinite(stimulus).all():
        raise HyenaError("the stimulus has values that are not finite")
    c = low_pass(stimulus.astype(np.float64), 0.035, 3)
    h = low_pass(blur(c, 4.0), 0.02)
    o = blur(c, 0.8) - 0.6 * h
    off = -(low_pass(o, 0.01) - 0.8 * low_pass(o, 0.08, 2))
    on = low_pass(o, 0.02, 2) - 0.7 * low_pass(o, 0.12, 2)
    released = terminals(5 * np.stack([off, on]), circuit)
    local = delayed(low_pass(blur(released, 2.0).reshape(-1, *o.shape[1:]), 0.03), DELAY).reshape(released.shape)
    wide = delayed(low_pass(blur(released.sum(0), 5.0), 0.04), DELAY)
    excitation = rectified(low_pass(o, 0.044) - 0.985 * low_pass(o, 0.145))
    inhibition = depressed(blur(rectified(low_pass(-o, 0.067)), 2.0), circuit)
    found = (c, h, off, on, *released, *local, wide, excitation, inhibition)
    return dict(zip(LAYERS, found, strict=True))


def terminals(u: Float[np.ndarray, "kinds trials bins height width"], circuit: Circuit) -> np.ndarray:
    r"""What bipolar cells release: a fast divisive gain and a slow subtractive state, both driven by the output.

    In every bin, in this order: $y = u / (1 + v^2)$; $v \mathrel{+}= dt/.08\,(8 [y]_+ - v)$;
    $s \mathrel{+}= dt/8\,(1.5 [y]_+ - s)$; the release is $[y + .04 - s]_+$.
    """
    v, s, out = np.zeros_like(u[:, :, 0]), np.zeros_like(u[:, :, 0]), np.empty_like(u)
    for t in range(u.shape[2]):
        y = u[:, :, t] / (1 + v * v)
        positive = rectified(y)
        v += DT / 0.08 * (circuit.fast_gain * positive - v)
        s += DT / 8 * (circuit.slow_gain * positive - s)
        out[:, :, t] = rectified(y + 0.04 - s)
    return out


def depressed(a: Float[np.ndarray, "trials bins height width"], circuit: Circuit) -> np.ndarray:
    r"""A synapse that is used up: $q = n a$, then $n \mathrel{+}= dt\,(7.1 (1 - n) - 1110 q)$, within 0 and 1."""
    n, out = np.ones_like(a[:, 0]), np.empty_like(a)
    for t in range(a.shape[1]):
        out[:, t] = n * a[:, t]
        n = np.clip(n + DT * (7.1 * (1 - n) - circuit.depression * out[:, t]), 0, 1)
    return out


@dataclass(frozen=True)
class Retina:
    """Ganglion cells on a patch: where they are and how their drive becomes a rate.

    Arguments:
        centres: row and column, in pixels; cells stand in the order of `TYPES`, `PER_TYPE` of each.
        threshold, deviation, gain, most: of the rate (`rates`), one for each cell.
        side: of the patch, in pixels.
    """

    centres: Float[np.ndarray, "cells two"]
    threshold: Float[np.ndarray, " cells"]
    deviation: Float[np.ndarray, " cells"]
    gain: Float[np.ndarray, " cells"]
    most: Float[np.ndarray, " cells"]
    side: int = SIDE

    @property
    def types(self) -> tuple[str, ...]:
        """Of every cell."""
        return tuple(kind for kind in TYPES for _ in range(PER_TYPE))

    def drives(self, stimulus: Movie, circuit: Circuit = Circuit()) -> Float[np.ndarray, "trials bins cells"]:
        """What reaches the ganglion cells, before threshold."""
        return ganglion_drives(interneurons(stimulus, circuit), self.centres, self.side, circuit)

    def rates(self, drives: Float[np.ndarray, "*trials bins cells"]) -> Float[np.ndarray, "*trials bins cells"]:
        r"""Spikes/s: $r_0 / (1 + r_0 / r_{most})$, $r_0 = k \log(1 + e^{6z}) / 6$, $z$ the drive in deviations."""
        r0 = self.gain * soft((drives - self.threshold) / self.deviation)
        return r0 / (1 + r0 / self.most)

    def respond(self, stimulus: Movie, circuit: Circuit = Circuit()) -> Float[np.ndarray, "trials bins cells"]:
        """Rates, from stimuli on the patch or of one pixel.

        Raises:
            HyenaError: another number of pixels.
        """
        if stimulus.shape[2:] not in ((self.side, self.side), (1, 1)):
            raise HyenaError(
                f"this retina sees {self.side} x {self.side} pixels, or one if it is the same everywhere; "
                f"got {' x '.join(map(str, stimulus.shape[2:]))}"
            )
        return self.rates(self.drives(stimulus, circuit))


def soft(z: np.ndarray) -> np.ndarray:
    """A threshold at 0 that is a little soft."""
    return np.logaddexp(0, STEEPNESS * z) / STEEPNESS


def ganglion_drives(
    layers: dict[str, Movie], centres: Float[np.ndarray, "cells two"], side: int, circuit: Circuit
) -> Float[np.ndarray, "trials bins cells"]:
    r"""Sums over space (`WIRING`), with Gaussian weights of sum 1; osr cells low-pass theirs, $L_{17.5}$."""
    found = np.empty((*layers["cone"].shape[:2], len(centres)))
    for i, kind in enumerate(TYPES):
        cells = slice(i * PER_TYPE, (i + 1) * PER_TYPE)
        found[..., cells] = sum(inputs(layers, kind, centres[cells], side, circuit).values())
    return found


def inputs(
    layers: dict[str, Movie], kind: str, centres: Float[np.ndarray, "cells two"], side: int, circuit: Circuit
) -> dict[str, Float[np.ndarray, "trials bins cells"]]:
    """What each layer adds to the drive of cells of one type."""
    uniform = layers["cone"].shape[-1] == 1
    found = {}
    for name, (pixels, weight) in WIRING[kind].items():
        over = np.ones((len(centres), 1)) if uniform else weights(centres, side, pixels)
        share = circuit.inhibition if weight < 0 else 1.0
        sums = share * weight * (layers[name].reshape(*layers[name].shape[:2], -1) @ over.T)
        found[name] = low_pass(sums, 0.0175) if kind == "osr" else sums
    return found


def weights(centres: Float[np.ndarray, "cells two"], side: int, pixels: float) -> Float[np.ndarray, "cells places"]:
    """Gaussians around the centres, of sum 1."""
    rows, columns = np.mgrid[:side, :side]
    square = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    w = np.exp(-square / (2 * pixels**2)).reshape(len(centres), -1)
    return w / w.sum(1, keepdims=True)


def calibrated(stimuli: list[Movie], seed: int = 0, skip: int = 1500, mean: float = 6.0) -> Retina:
    """A retina whose thresholds are a quantile of the drive by given stimuli, and whose mean rates are `mean` spikes/s.

    The quantile is .75, of osr cells .6; the largest rate is 150, of osr cells 50 spikes/s.

    Arguments:
        stimuli: each on the patch; the first `skip` bins of each are left out.
        seed: of the places of the cells, within 2.5 pixels of the middle.
    """
    count, side = len(TYPES) * PER_TYPE, stimuli[0].shape[-1]
    centres = (side - 1) / 2 + np.random.default_rng(seed).uniform(-2.5, 2.5, (count, 2))
    some = [ganglion_drives(interneurons(s, Circuit()), centres, side, Circuit())[:, skip:] for s in stimuli]
    drive = np.concatenate([part.reshape(-1, count) for part in some])
    osr = np.repeat([kind == "osr" for kind in TYPES], PER_TYPE)
    threshold = np.where(osr, np.quantile(drive, 0.6, axis=0), np.quantile(drive, 0.75, axis=0))
    retina = Retina(centres, threshold, drive.std(0), np.ones(count), np.where(osr, 50.0, 150.0), side)
    gain = [
        brentq(lambda k, i=i: replace(retina, gain=np.full(count, k)).rates(drive)[:, i].mean() - mean, 1e-3, 1e5)
        for i in range(count)
    ]
    return replace(retina, gain=np.array(gain))


def spike_trains(
    rates: Float[np.ndarray, "trials bins cells"], rng: np.random.Generator
) -> Bool[np.ndarray, "trials milliseconds cells"]:
    r"""Spikes of given rates, one draw every millisecond, none for 6 ms after a spike.

    The chance is that of a rate of $r / \max(1 - .006 r, .2)$, which makes up for the time that is lost, up to 133
    spikes a second.
    """
    per_bin = round(1000 * DT)
    chance = rates / np.maximum(1 - REFRACTORY / 1000 * rates, 0.2) / 1000
    found = np.zeros((len(rates), rates.shape[1] * per_bin, rates.shape[2]), dtype=bool)
    rest = np.zeros((len(rates), rates.shape[2]), dtype=np.int64)
    for t in range(rates.shape[1]):
        draws = rng.random((per_bin, *rest.shape))
        for i in range(per_bin):
            fired = (draws[i] < chance[:, t]) & (rest <= 0)
            rest = np.where(fired, REFRACTORY, rest - 1)
            found[:, t * per_bin + i] = fired
    return found


def binned(spikes: Bool[np.ndarray, "trials milliseconds cells"]) -> Int[np.ndarray, "trials bins cells"]:
    """Counts in bins."""
    return spikes.reshape(len(spikes), -1, round(1000 * DT), spikes.shape[-1]).sum(2)
