"""How like real series are new ones: the three scores of the paper, as released and corrected, and two more.

R are real test series, G as many new ones of the same length.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from scipy.spatial.distance import pdist, squareform
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.s4 import S4Block
from hyena.train import Recipe, parameter_groups

BINS = 50
LAST = 10  # positions that the predictor is asked for
EPOCHS = 100
WIDTH, STATE = 16, 16  # of the networks that score
OPTIMISER = Recipe(steps=1, lr=0.01, weight_decay=0.0)
Series = Float[np.ndarray, "_series _length _channels"]


def marginal(real: Series, fake: Series, bins: int = BINS) -> float:
    r"""$\frac1{50} \sum_j |p_j - q_j|$ of the densities of values in 50 bins over the range of R, a mean over channels.

    Lower is better. Densities: it grows with the inverse of the range, and what G has outside of it is not counted.
    """
    scores = []
    for r, g in _channels(real, fake):
        edges, width = _edges(r, bins)
        p = np.histogram(r, edges)[0] / (len(r) * width)
        centres = (edges[1:] + edges[:-1]) / 2
        q = (np.abs(g[:, None] - centres) < width / 2).mean(0) / width
        scores.append(np.abs(p - q).mean())
    return float(np.mean(scores))


def marginal_distance(real: Series, fake: Series, bins: int = BINS) -> float:
    r"""Total variation $\frac12 \sum_j |P_j - Q_j|$ of shares in the same bins and beyond both ends: 0 to 1."""
    found = [np.abs(shares(r, r, bins) - shares(r, g, bins)).sum() / 2 for r, g in _channels(real, fake)]
    return float(np.mean(found))


def shares(real: np.ndarray, values: np.ndarray, bins: int = BINS) -> Float[np.ndarray, " bins_and_2"]:
    """The shares of values below, in the bins of, and above the range of R."""
    edges = _edges(real, bins)[0]
    edges = np.concatenate([[-np.inf], edges[:-1], [np.nextafter(edges[-1], np.inf), np.inf]])
    return np.histogram(values, edges)[0] / values.size


class ScoreNetwork(nn.Module):
    """Linear, one residual S4D layer with a norm after it, linear; a mean over time before the last one if `pooled`.

    As released: A of each feature, C that begins at 1, B fixed at 1.
    """

    def __init__(self, channels: int, outputs: int, pooled: bool):
        super().__init__()
        self.pooled = pooled
        self.input, self.output = nn.Linear(channels, WIDTH), nn.Linear(WIDTH, outputs)
        self.ssm = S4Block(WIDTH, d_state=STATE, mode="diag", init="lin", n_ssm=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        kernel = self.ssm.layer.kernel
        kernel.B.requires_grad_(False)
        with torch.no_grad():
            kernel.C.copy_(torch.tensor([1.0, 0.0]).expand_as(kernel.C))

    def forward(self, x: Float[Tensor, "batch length channels"]) -> Tensor:
        """(batch, outputs), or (batch, length, outputs) where nothing is pooled."""
        h = self.input(x)
        h = self.norm(h + self.ssm(h))
        return self.output(h.mean(1) if self.pooled else h)


def classification(real: Series, fake: Series, seed: int, epochs: int = EPOCHS, held: float = 0.0) -> float:
    """Binary cross-entropy, in nats, of telling R from G, on a fifth of both: higher is better, .693 is chance.

    As released, after the last epoch, which overfits few series to values above .693; but a mean over test series, not
    a sum over batches. With `held` above 0: after the epoch at which such a share of the other series, from which
    nothing is learned, is told best.
    """
    x = torch.from_numpy(np.concatenate([real, fake]).astype(np.float32))
    y = torch.cat([torch.zeros(len(real)), torch.ones(len(fake))])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    learned, tested = order[: int(0.8 * len(x))], order[int(0.8 * len(x)) :]

    def loss(network: nn.Module, some: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(network(x[some])[:, 0], y[some])

    return _fit(lambda: ScoreNetwork(x.shape[2], 1, True), loss, learned, tested, seed, epochs, held)


def prediction(real: Series, fake: Series, seed: int, epochs: int = EPOCHS, held: float = 0.0) -> float:
    """Mean square error on the last ten values of R of a network that learned on G to predict the next value.

    Lower is better; a mean over series. With `held` above 0: after the epoch that does best on such a share of G.
    """
    x = torch.from_numpy(np.concatenate([fake, real]).astype(np.float32))
    made = torch.from_numpy(np.random.default_rng(seed).permutation(len(fake)))
    tested = torch.arange(len(fake), len(x))

    def loss(network: nn.Module, some: Tensor) -> Tensor:
        return F.mse_loss(network(x[some][:, :-1])[:, -LAST:], x[some][:, 1:][:, -LAST:])

    return _fit(lambda: ScoreNetwork(x.shape[2], x.shape[2], False), loss, made, tested, seed, epochs, held)


def _fit(
    build: Callable[[], nn.Module], loss: Callable[[nn.Module, Tensor], Tensor], learned: Tensor, tested: Tensor,
    seed: int, epochs: int, held: float,
) -> float:  # fmt: skip
    """The test loss after the last epoch, or after the one that does best on a share `held` of `learned`."""
    apart, fitted = learned[: int(held * len(learned))], learned[int(held * len(learned)) :]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build()
        trained = nn.ParameterList(p for p in network.parameters() if p.requires_grad)
        optimizer = torch.optim.AdamW(parameter_groups(trained, OPTIMISER), OPTIMISER.lr)
        best = (np.inf, np.nan)
        for epoch in range(epochs):
            for some in fitted[torch.randperm(len(fitted))].split(128):
                optimizer.zero_grad()
                loss(network, some).backward()
                optimizer.step()
            with torch.no_grad():
                if len(apart):
                    best = min(best, (loss(network, apart).item(), loss(network, tested).item()))
                elif epoch == epochs - 1:
                    best = (np.nan, loss(network, tested).item())
    return best[1]


def discrepancy(real: Series, fake: Series, permutations: int = 200, seed: int = 0) -> tuple[float, float]:
    r"""The unbiased squared maximum mean discrepancy of whole series, and its p-value (Gretton et al. 2012).

    Gaussian kernel whose width is the median distance of series of R; labels are permuted for the p-value.
    """
    flat = [x.reshape(len(x), -1).astype(float) for x in (real, fake)]
    square = squareform(pdist(np.concatenate(flat), "sqeuclidean"))
    kernel = np.exp(-square / np.median(pdist(flat[0], "sqeuclidean")))
    np.fill_diagonal(kernel, 0)
    m, n = len(real), len(fake)

    def statistic(order: np.ndarray) -> float:
        k = kernel[np.ix_(order, order)]
        within = k[:m, :m].sum() / (m * (m - 1)) + k[m:, m:].sum() / (n * (n - 1))
        return within - 2 * k[:m, m:].mean()

    found, rng = statistic(np.arange(m + n)), np.random.default_rng(seed)
    others = [statistic(rng.permutation(m + n)) for _ in range(permutations)]
    return float(found), float(1 + sum(other >= found for other in others)) / (1 + permutations)


def boosted_auroc(real: Series, fake: Series, seed: int = 0) -> float:
    """Area under the curve of boosted trees that tell R from G by `features`, a mean over five folds: .5 to 1.

    Series of R are standardised one by one, so those of G are first, lest trees see that alone.
    """
    fake = fake.astype(float)
    fake = (fake - fake.mean(1, keepdims=True)) / np.maximum(fake.std(1, keepdims=True), 1e-12)
    x = np.concatenate([features(real), features(fake)])
    y = np.concatenate([np.zeros(len(real)), np.ones(len(fake))])
    found = []
    for fitted, held in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, y):
        trees = HistGradientBoostingClassifier(max_iter=60, min_samples_leaf=5, random_state=seed)
        found.append(roc_auc_score(y[held], trees.fit(x[fitted], y[fitted]).predict_proba(x[held])[:, 1]))
    return float(np.mean(found))


def features(x: Series) -> Float[np.ndarray, "series features"]:
    """Of every channel: shape, quantiles, roughness, autocorrelations, its ends, and where the largest value stands."""
    found = []
    for c in range(x.shape[2]):
        s = x[..., c].astype(float)
        centred = s - s.mean(1, keepdims=True)
        power = (centred**2).sum(1) + 1e-12
        found += [np.diff(s, axis=1).std(1), np.diff(s, 2, axis=1).std(1)]
        found += [np.nan_to_num(stats.skew(s, axis=1)), np.nan_to_num(stats.kurtosis(s, axis=1))]
        found += list(np.quantile(s, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1), axis=1))
        for lag in (1, 2, 3, 5, 7, 12, 24):
            if lag < s.shape[1] - 1:
                found.append((centred[:, lag:] * centred[:, :-lag]).sum(1) / power)
        found += [s.argmax(1) / s.shape[1], s[:, 0], s[:, -1]]
    return np.stack(found, 1)


def _channels(real: Series, fake: Series) -> list[tuple[np.ndarray, np.ndarray]]:
    if real.shape[2] != fake.shape[2]:
        raise HyenaError(f"real series have {real.shape[2]} channels, generated ones {fake.shape[2]}")
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise HyenaError("a value of a series is not finite: a score of it would say nothing")
    flat = [[x[..., c].reshape(-1).astype(float) for c in range(x.shape[2])] for x in (real, fake)]
    return list(zip(*flat, strict=True))


def _edges(values: np.ndarray, bins: int) -> tuple[np.ndarray, float]:
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise HyenaError(f"all real values are {low:g}: there is no range to divide into bins")
    return np.linspace(low, high, bins + 1), (high - low) / bins
