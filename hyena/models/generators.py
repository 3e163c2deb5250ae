"""What LS4 is compared with: a latent ODE, a recurrent VAE, and a linear autoregressive Gaussian process.

The two networks have one latent vector for a whole series, an encoder that reads it from its end, and the same bound.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hyena.errors import HyenaError
from hyena.models.ls4 import Bound, Gaussian, kl_divergence
from hyena.ops.irregular import gaps


class LatentVAE(nn.Module):
    """An encoder of the whole series into one Gaussian latent, and a decoder of latent and times.

    Arguments:
        d_input, channels, sigma, unit: as in `hyena.models.ls4.LS4`.
        z_dim: latent variables of a series.
        d_model: width of encoder and decoder.
    """

    def __init__(
        self, d_input: int = 1, channels: int = 1, *, z_dim: int = 8, d_model: int = 32, sigma: float = 0.1,
        unit: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        if not sigma > 0:
            raise HyenaError(f"sigma is above 0, got {sigma}")
        self.sigma, self.unit, self.z_dim, self.channels = sigma, unit, z_dim, channels
        self.encoder = nn.GRU(d_input + 1, d_model, batch_first=True)
        self.to_latent = nn.Linear(d_model, 2 * z_dim)

    def decode(self, z: Float[Tensor, "batch z_dim"], times: Float[Tensor, "batch length"]) -> Tensor:
        """(batch, length, channels): the means at all times."""
        raise NotImplementedError

    def posterior(self, seen: Float[Tensor, "batch length d_input"], times: Tensor | None = None) -> Gaussian:
        """What the whole of a series says of its latent: a Gaussian of (batch, z_dim)."""
        gap = gaps(-self._times(seen, times).flip(1), self.unit)[..., None]
        last = self.encoder(torch.cat([seen.flip(1), gap], -1))[1][0]
        mean, log_std = self.to_latent(last).chunk(2, -1)
        return Gaussian(mean, log_std.exp())

    def forward(
        self,
        x: Float[Tensor, "batch length channels"],
        mask: Bool[Tensor, "batch length channels"] | None = None,
        times: Float[Tensor, "batch length"] | None = None,
        seen: Float[Tensor, "batch known d_input"] | None = None,
    ) -> Bound:
        """The terms of the bound; `seen` may be a first part of the series."""
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        x = torch.where(mask, x, torch.zeros_like(x))
        times = self._times(x, times)
        seen = x if seen is None else seen
        q = self.posterior(seen, times[:, : seen.shape[1]])
        z = q.mean + q.std * torch.randn_like(q.mean)
        kl = kl_divergence(q, Gaussian(torch.zeros_like(z), torch.ones_like(z)))[:, None]
        residual = (x - self.decode(z, times)) / self.sigma
        return Bound(kl, (residual**2 / 2 + math.log(self.sigma) + math.log(2 * math.pi) / 2) * mask, mask)

    @torch.no_grad()
    def generate(
        self, count: int, length: int, generator: torch.Generator | None = None, times: Tensor | None = None
    ) -> Float[Tensor, "count length channels"]:
        """The means of latents that the prior draws."""
        z = torch.randn(count, self.z_dim, generator=generator).to(self.to_latent.weight)
        return self.decode(z, self._times(z.new_zeros(count, length, 1), times))

    @torch.no_grad()
    def extrapolate(
        self, seen: Float[Tensor, "batch known d_input"], times: Float[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length channels"]:
        """The means at all times for the posterior's mean of what is seen, the first `known` of them."""
        return self.decode(self.posterior(seen, times[:, : seen.shape[1]]).mean, times)

    def _times(self, x: Tensor, times: Tensor | None) -> Tensor:
        if times is not None:
            return times
        return (self.unit * torch.arange(x.shape[1], device=x.device, dtype=x.dtype)).expand(len(x), -1)


class LatentODE(LatentVAE):
    r"""$z' = f(z)$ from the latent, $x_t$ a function of $z_t$ (Chen et al. 2018, arXiv 1806.07366, Section 5).

    Arguments:
        method: of torchdiffeq: "rk4" takes `substeps` steps between two neighbouring times, "dopri5" as many as its
            tolerance asks for.
        horizon: the time that is 1 to the network; the field is $f / horizon$.
    """

    def __init__(
        self, *args, horizon: float, method: str = "rk4", substeps: int = 1, tolerance: float = 1e-3, **options
    ):
        super().__init__(*args, **options)
        d_model = self.to_latent.in_features
        self.horizon, self.method, self.substeps, self.tolerance = horizon, method, substeps, tolerance
        self.field = nn.Sequential(
            nn.Linear(self.z_dim, d_model), nn.Tanh(), nn.Linear(d_model, d_model), nn.Tanh(),
            nn.Linear(d_model, self.z_dim),
        )  # fmt: skip
        self.output = nn.Sequential(nn.Linear(self.z_dim, d_model), nn.Tanh(), nn.Linear(d_model, self.channels))
        self.evaluations = 0

    def decode(self, z: Float[Tensor, "batch z_dim"], times: Float[Tensor, "batch length"]) -> Tensor:
        """Solved once for the batch, at the union of its times; each series takes those that are its own."""
        from torchdiffeq import odeint  # here, so that the package works without it

        times = times - times[:, :1]  # the latent is the state at a series' own first time, whatever the others' are
        union, index = torch.unique(times, return_inverse=True)
        options = {"rtol": self.tolerance, "atol": self.tolerance}
        grid = self._refined(union) if self.method == "rk4" else union
        path = odeint(self._slope, z, grid / self.horizon, method=self.method, **options)
        path = path[:: self.substeps] if self.method == "rk4" else path
        rows = torch.arange(len(z), device=z.device)[:, None]
        return self.output(path[index, rows])

    def _slope(self, _: Tensor, z: Tensor) -> Tensor:
        self.evaluations += 1
        return self.field(z)

    def _refined(self, times: Tensor) -> Tensor:
        parts = torch.arange(self.substeps, device=times.device) / self.substeps
        inner = times[:-1, None] + times.diff()[:, None] * parts
        return torch.cat([inner.flatten(), times[-1:]])


class RNNVAE(LatentVAE):
    """A GRU that is given the latent and the gap at every step and starts from a function of the latent."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        d_model = self.to_latent.in_features
        self.start = nn.Linear(self.z_dim, d_model)
        self.decoder = nn.GRU(self.z_dim + 1, d_model, batch_first=True)
        self.output = nn.Sequential(nn.Linear(d_model, d_model), nn.Tanh(), nn.Linear(d_model, self.channels))

    def decode(self, z: Float[Tensor, "batch z_dim"], times: Float[Tensor, "batch length"]) -> Tensor:
        """All steps by one pass of the GRU."""
        gap = gaps(times, self.unit)[..., None]
        given = torch.cat([z[:, None].expand(-1, times.shape[1], -1), gap], -1)
        h, _ = self.decoder(given, torch.tanh(self.start(z))[None])
        return self.output(h)


class ARGaussian:
    r"""$x_t = w_0 + \sum_{i=1}^p w_i x_{t-i} + \varepsilon_t$, by least squares over all series; the first p values are
    jointly Gaussian.

    Arguments:
        order: p, smaller than the length.
    """

    def __init__(self, x: Float[np.ndarray, "series length"], order: int):
        if not 0 < order < x.shape[1]:
            raise HyenaError(f"the order of an autoregression is 1 to {x.shape[1] - 1} here, got {order}")
        self.order = order
        past = np.lib.stride_tricks.sliding_window_view(x, order, axis=1)[:, :-1].reshape(-1, order)
        design, wanted = np.concatenate([np.ones((len(past), 1)), past], 1), x[:, order:].reshape(-1)
        self.weights = np.linalg.lstsq(design, wanted, rcond=None)[0]
        self.sd = max(1e-12, float((wanted - design @ self.weights).std()))
        self.mean, self.covariance = x[:, :order].mean(0), np.atleast_2d(np.cov(x[:, :order], rowvar=False))

    def generate(self, count: int, length: int, rng: np.random.Generator) -> Float[np.ndarray, "count length"]:
        """New series, noise included."""
        x = np.zeros((count, max(length, self.order)))
        x[:, : self.order] = rng.multivariate_normal(self.mean, self.covariance, count)
        noise = self.sd * rng.standard_normal(x.shape)
        for t in range(self.order, length):
            x[:, t] = self.weights[0] + x[:, t - self.order : t] @ self.weights[1:] + noise[:, t]
        return x[:, :length]

    def nll(self, x: Float[np.ndarray, "series length"]) -> float:
        """Nats per value, of those after the first p."""
        past = np.lib.stride_tricks.sliding_window_view(x, self.order, axis=1)[:, :-1]
        residual = (x[:, self.order :] - self.weights[0] - past @ self.weights[1:]) / self.sd
        return float((residual**2 / 2).mean() + math.log(self.sd) + math.log(2 * math.pi) / 2)


def linear_interpolation(
    x: Float[np.ndarray, "series length"], shown: Bool[np.ndarray, "series length"],
    times: Float[np.ndarray, "series length"],
) -> Float[np.ndarray, "series length"]:  # fmt: skip
    """The line between neighbours that are shown; beyond the last one, its value."""
    rows = zip(times, x, shown, strict=True)
    return np.stack([np.interp(t, t[known], values[known]) for t, values, known in rows])
