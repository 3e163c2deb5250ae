"""How well rates match a retina: correlation, explained variance, and what the retina does itself."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter1d

from hyena.data.retina import DT

SMOOTHING = 1.0  # bins, 10 ms, as in the released scores
SPLITS = 20
LEAST_SIGNAL = 0.05

Counts = Int[np.ndarray, "trials bins cells"]
Rates = Float[np.ndarray, "bins cells"]


def smoothed(rates: np.ndarray) -> np.ndarray:
    """Over bins, by a Gaussian of 10 ms; bins are the last axis but one."""
    return gaussian_filter1d(rates, SMOOTHING, axis=-2)


def correlations(a: Rates, b: Rates) -> Float[np.ndarray, " cells"]:
    """Pearson's r of every cell; 0 where one of the two does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    norms = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), norms, out=np.zeros(a.shape[1]), where=norms > 0)


def reliability(counts: Counts, seed: int = 0) -> dict[str, Float[np.ndarray, " cells"]]:
    r"""How far trials agree.

    "half" is the correlation $c$ of the means of two halves of the trials, mean over `SPLITS` splits; "ceiling" is
    what the true rate would have with the mean of all trials, $\sqrt{2c / (1 + c)}$; "one" is one trial with the mean
    of the others, mean over trials.
    """
    rng, trials = np.random.default_rng(seed), len(counts)
    rates = smoothed(counts / DT)
    halves = []
    for _ in range(SPLITS):
        order = rng.permutation(trials)
        halves.append(correlations(rates[order[: trials // 2]].mean(0), rates[order[trials // 2 :]].mean(0)))
    c = np.mean(halves, axis=0)
    others = [correlations(rates[i], np.delete(rates, i, 0).mean(0)) for i in range(trials)]
    return {
        "half": c,
        "ceiling": np.sqrt(np.clip(2 * c / np.maximum(1 + c, 1e-6), 0, 1)),
        "one": np.mean(others, axis=0),
    }


def explained(rates: Rates, counts: Counts) -> Float[np.ndarray, " cells"]:
    r"""The fraction of explainable variance: $1 - (\mathrm{mse} - s/R) / (\mathrm{var} - s/R)$.

    $s$ is the variance between the R trials, mean over bins, so that $s/R$ is what noise adds to both. Cells of whose
    variance less than `LEAST_SIGNAL` is signal have 0.
    """
    single = counts / DT
    noise = single.var(0, ddof=1).mean(0) / len(counts)
    mean = single.mean(0)
    signal = mean.var(0) - noise
    found = 1 - (((rates - mean) ** 2).mean(0) - noise) / np.maximum(signal, 1e-12)
    return np.where(signal > LEAST_SIGNAL * mean.var(0), found, 0.0)


def fano(counts: Counts, least: float = 0.2) -> float:
    """Variance over mean of counts between trials, mean over bins and cells with a mean above `least`; 0 if none is."""
    mean, variance = counts.mean(0), counts.var(0, ddof=1)
    busy = mean > least
    return float((variance[busy] / mean[busy]).mean()) if busy.any() else 0.0


def pooled(counts: Counts, bins: int) -> Int[np.ndarray, "trials longer cells"]:
    """Counts in longer bins."""
    whole = counts.shape[1] // bins * bins
    return counts[:, :whole].reshape(len(counts), -1, bins, counts.shape[2]).sum(2)
