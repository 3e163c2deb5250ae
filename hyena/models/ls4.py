r"""LS4 (Zhou et al. 2022, arXiv 2212.12749): latent state-space models that generate time series.

$$p(z_t \mid z_{<t}), \qquad p(x_t \mid z_{\le t}), \qquad q(z_t \mid x_{\le t})$$

Prior, decoder and posterior are networks of state spaces: whole series at once by convolution when all of $z$ is
known, which is in training, and step by step when it is not, which is when we generate. Two decoders: "latent", of $z$
alone, as in every released configuration, and "joint", of $z_{\le t}$ and $x_{<t}$, which share one state.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError, unknown
from hyena.models.ls4_layers import Backbone, GaussianHead, TwoInputSSM, feed_forward
from hyena.ops.irregular import gaps

DECODERS = ("latent", "joint")
OUTPUTS = ("identity", "sigmoid")


class Gaussian(NamedTuple):
    """Independent normal distributions."""

    mean: Float[Tensor, "*batch width"]
    std: Float[Tensor, "*batch width"]


class Bound(NamedTuple):
    """The terms of the evidence lower bound in nats, 0 where nothing is observed, and what is."""

    kl: Float[Tensor, "batch latent_steps z_dim"]
    nll: Float[Tensor, "batch length channels"]
    mask: Bool[Tensor, "batch length channels"]

    def negative_elbo(self) -> Float[Tensor, " batch"]:
        """The true bound: every term summed over steps, channels and latents."""
        return self.kl.sum((1, 2)) + self.nll.sum((1, 2))

    def loss(self, kl_weight: float | None = None) -> Float[Tensor, ""]:
        """What is minimised: the KL times a weight, and the likelihood, each a mean over steps that are observed.

        With a weight of 1 and one channel it is the bound per step; `None` is 1 / z_dim, as in the official code.
        """
        weight = 1 / self.kl.shape[-1] if kl_weight is None else kl_weight
        kl = weight * self.kl.sum((1, 2)) / self.mask.any(-1).sum(1)
        nll = self.nll.sum(1) / self.mask.sum(1).clamp(min=1)
        return (kl + nll.sum(-1)).mean()


class Network(nn.Module):
    """Linear, `Backbone`, then a linear map or a Gaussian head: (batch, length, d_input) to as long a sequence."""

    def __init__(self, d_input: int, d_output: int, head: Literal["linear", "gaussian"], d_model: int, **options):
        super().__init__()
        self.encoder = nn.Linear(d_input, d_model)
        self.backbone = Backbone(d_model, **options)
        ssm = {k: v for k, v in options.items() if k not in ("n_layer", "pool", "expand", "ff")}
        self.head = nn.Linear(d_model, d_output) if head == "linear" else GaussianHead(d_model, d_output, **ssm)

    def forward(self, x: Float[Tensor, "batch length d_input"], gap: Tensor | None = None):
        """A tensor or a `Gaussian`; `gap` as of `hyena.ops.irregular.gaps`, a regular grid if not given."""
        h = self.backbone(self.encoder(x), gap)
        return Gaussian(*self.head(h, gap)) if isinstance(self.head, GaussianHead) else self.head(h)

    def start(self, batch: int) -> list:
        """The state before the first step."""
        gaussian = isinstance(self.head, GaussianHead)
        return [self.backbone.start(batch), self.head.start(batch) if gaussian else None]

    def step(self, x: Float[Tensor, "batch d_input"], state: list, gap: Float[Tensor, " batch"] | None = None):
        """One position; `state` is updated in place."""
        h = self.backbone.step(self.encoder(x), state[0], gap)
        return self.head.step(h, state[1], gap) if isinstance(self.head, GaussianHead) else self.head(h)


class JointDecoder(nn.Module):
    """$p(x_t | z_{<=t}, x_{<t})$: layers of two inputs, which share a state and hand on two outputs."""

    def __init__(self, z_dim: int, channels: int, d_model: int, d_state: int, n_layer: int, ff: int = 2):
        super().__init__()
        self.encode_z, self.encode_x = nn.Linear(z_dim, d_model), nn.Linear(channels, d_model)
        self.layers = nn.ModuleList(TwoInputSSM(d_model, d_state) for _ in range(n_layer))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(3 * n_layer))
        self.feeds = nn.ModuleList(feed_forward(d_model, ff) for _ in range(n_layer))
        self.norm, self.linear = nn.LayerNorm(d_model), nn.Linear(d_model, channels)

    def forward(
        self, z: Float[Tensor, "batch length z_dim"], x: Float[Tensor, "batch length channels"], gap: Tensor | None
    ) -> Float[Tensor, "batch length channels"]:
        """`x` is shifted here: the mean of $x_t$ sees those before it alone."""
        x = F.pad(x, (0, 0, 1, -1))
        return self._through(z, x, lambda layer, u, v, _: layer(u, v, gap), [None] * len(self.layers))

    def start(self, batch: int) -> list:
        """The states before the first step."""
        return [layer.start(batch) for layer in self.layers]

    def step(
        self, z: Float[Tensor, "batch z_dim"], x: Float[Tensor, "batch channels"], states: list,
        gap: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels"]:  # fmt: skip
        """One position, given the latent and the value before (0 at first)."""
        return self._through(z, x, lambda layer, u, v, state: layer.step(u, v, state, gap), states)

    def _through(self, z: Tensor, x: Tensor, apply, states: list) -> Tensor:
        u, v = self.encode_z(z), self.encode_x(x)
        for i, (layer, feed) in enumerate(zip(self.layers, self.feeds, strict=True)):
            norm_u, norm_v, norm_feed = self.norms[3 * i : 3 * i + 3]
            y, y_aux = apply(layer, norm_u(u), norm_v(v), states[i])
            u, v = u + y, v + y_aux
            u = u + feed(norm_feed(u))
        return self.linear(self.norm(u))


class LS4(nn.Module):
    r"""Prior, posterior and decoder.

    Arguments:
        d_input: width of what the posterior sees; one for values, two for values and whether they are known.
        channels: of the series.
        z_dim: latent variables of each step.
        d_model, d_state, n_layer: width, state and residual layers of each network.
        pool: steps that become one on each level of the networks; (1,) is one level that only widens, () none.
        expand, ff: how many times as wide the next level is, and the middle of a feed-forward network.
        sigma: standard deviation of $p(x_t | z)$, in units of the series.
        output: "identity", or "sigmoid" for series between 0 and 1.
        decoder: "latent" or "joint".
        bidirectional: a second prior and posterior read from the end; the decoder sees both latents. For
            interpolation.
        unit: time between two steps of a regular grid.
        mode, l_max: as in `hyena.models.s4.S4Kernel`; "diag" is exact in every mode and on irregular times, "dplr" is
            the released one.

    Raises:
        HyenaError: options that do not go together, named.
    """

    def __init__(
        self, d_input: int = 1, channels: int = 1, *, z_dim: int = 5, d_model: int = 64, d_state: int = 64,
        n_layer: int = 4, pool: tuple[int, ...] = (1,), expand: int = 2, ff: int = 2, sigma: float = 0.1,
        output: str = "identity", decoder: str = "latent", bidirectional: bool = False, unit: float = 1.0,
        mode: str = "diag", l_max: int | None = None,
    ):  # fmt: skip
        super().__init__()
        if output not in OUTPUTS:
            raise unknown("output", output, OUTPUTS)
        if decoder not in DECODERS:
            raise unknown("decoder", decoder, DECODERS)
        if not sigma > 0:
            raise HyenaError(f"sigma is above 0, got {sigma}")
        self.sigma, self.output, self.unit, self.z_dim, self.channels = sigma, output, unit, z_dim, channels
        options = {
            "d_model": d_model, "d_state": d_state, "n_layer": n_layer, "pool": pool, "expand": expand, "ff": ff,
            "mode": mode, "l_max": l_max,
        }  # fmt: skip
        ways = 2 if bidirectional else 1
        self.posteriors = nn.ModuleList(Network(d_input, z_dim, "gaussian", **options) for _ in range(ways))
        self.priors = nn.ModuleList(Network(z_dim, z_dim, "gaussian", **options) for _ in range(ways))
        self.z_priors = nn.ParameterList(torch.zeros(z_dim) for _ in range(ways))
        if decoder == "latent":
            self.decoder = Network(ways * z_dim, channels, "linear", **options)
        else:
            self.decoder = JointDecoder(ways * z_dim, channels, d_model, d_state, n_layer, ff)

    # In training: whole series

    def posterior(self, seen: Float[Tensor, "batch length d_input"], times: Tensor | None = None) -> list[Gaussian]:
        """$q(z_t | x_{<=t})$; with two ways a second one, $q(z_t | x_{>=t})$, in the order of time as well."""
        self._check(seen)
        return [
            _from_end(net(x, gap), way)
            for way, (net, x, gap) in enumerate(zip(self.posteriors, self._ways(seen), self._gaps(times), strict=True))
        ]

    def prior(self, z: list[Float[Tensor, "batch length z_dim"]], times: Tensor | None = None) -> list[Gaussian]:
        """$p(z_t | z_{<t})$, and from the end $p(z_t | z_{>t})$."""
        found = []
        for way, (net, gap) in enumerate(zip(self.priors, self._gaps(times), strict=True)):
            latents = z[way].flip(1) if way else z[way]
            first = self.z_priors[way].expand(len(latents), 1, -1)
            found.append(_from_end(net(torch.cat([first, latents[:, :-1]], 1), gap), way))
        return found

    def decode(
        self, z: list[Float[Tensor, "batch length z_dim"]], times: Tensor | None = None, x: Tensor | None = None
    ) -> Float[Tensor, "batch length channels"]:
        """The mean of $p(x_t | z)$, of which a joint decoder needs the series as well."""
        gap, latents = self._gaps(times)[0], torch.cat(z, -1)
        if isinstance(self.decoder, JointDecoder):
            if x is None:
                raise HyenaError("a joint decoder reads the series before each step: give x, or generate")
            return self._activated(self.decoder(latents, x, gap))
        return self._activated(self.decoder(latents, gap))

    def forward(
        self,
        x: Float[Tensor, "batch length channels"],
        mask: Bool[Tensor, "batch length channels"] | None = None,
        times: Float[Tensor, "batch length"] | None = None,
        seen: Float[Tensor, "batch length d_input"] | None = None,
        noise: list[Float[Tensor, "batch length z_dim"]] | None = None,
    ) -> Bound:
        """The terms of the bound.

        Arguments:
            mask: of the values of `x` that are to be explained; all if not given.
            times: of the steps, a regular grid if not given.
            seen: what the posterior reads; `x` if not given. For interpolation, values that are to be found are not
                in it.
            noise: of the posterior's samples, drawn if not given.

        Raises:
            HyenaError: values that are no numbers, a series without any observed value, times out of order.
        """
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        if not mask.any((1, 2)).all():
            raise HyenaError(f"series {int((~mask.any((1, 2))).nonzero()[0])} of the batch has no observed value")
        x = torch.where(mask, x, torch.zeros_like(x))
        self._check(x)
        q = self.posterior(x if seen is None else seen, times)
        noise = [torch.randn_like(g.mean) for g in q] if noise is None else noise
        z = [g.mean + g.std * e for g, e in zip(q, noise, strict=True)]
        p = self.prior(z, times)
        valid = mask.any(-1, keepdim=True)
        kl = sum(kl_divergence(a, b) for a, b in zip(q, p, strict=True)) * valid
        residual = (x - self.decode(z, times, x)) / self.sigma
        nll = (residual**2 / 2 + math.log(self.sigma) + math.log(2 * math.pi) / 2) * mask
        return Bound(kl, nll, mask)

    # Step by step

    @torch.no_grad()
    def roll(
        self, past: Float[Tensor, "batch known z_dim"], noise: Float[Tensor, "batch steps z_dim"],
        times: Tensor | None = None, way: int = 0,
    ) -> Float[Tensor, "batch length z_dim"]:  # fmt: skip
        """Latents that begin with `past` and go on by the prior: mean plus its deviation times `noise` at each step."""
        net, gap = self.priors[way], self._gaps(times)[way]
        state, z = net.start(len(noise)), [*past.unbind(1)]
        last = self.z_priors[way].expand(len(noise), -1)
        for t in range(past.shape[1] + noise.shape[1]):
            mean, std = net.step(last, state, None if gap is None else gap[:, t])
            if t >= past.shape[1]:
                z.append(mean + std * noise[:, t - past.shape[1]])
            last = z[t]
        return torch.stack(z, 1)

    @torch.no_grad()
    def generate(
        self, count: int, length: int, generator: torch.Generator | None = None, times: Tensor | None = None
    ) -> Float[Tensor, "count length channels"]:
        """New series: latents by the prior, step by step; then the means of the decoder."""
        nothing = self.z_priors[0].new_zeros(count, 0, self.z_dim)
        z = []
        for way in range(len(self.priors)):
            noise = torch.randn(count, length, self.z_dim, generator=generator).to(nothing)
            found = self.roll(nothing, noise, times, way)
            z.append(found.flip(1) if way else found)
        if isinstance(self.decoder, JointDecoder):
            return self._decode_stepwise(torch.cat(z, -1), generator, times)
        return self.decode(z, times)

    @torch.no_grad()
    def extrapolate(
        self, seen: Float[Tensor, "batch known d_input"], noise: Float[Tensor, "batch steps z_dim"],
        times: Tensor | None = None,
    ) -> Float[Tensor, "batch length channels"]:  # fmt: skip
        """The series that goes on after what is seen: the posterior's means, the prior's steps, the decoder's means.

        The posterior never sees what comes after; with `noise` of 0 every step is the mean of the prior.

        Raises:
            HyenaError: a model that reads from both sides, or whose decoder needs the series.
        """
        if len(self.priors) > 1 or isinstance(self.decoder, JointDecoder):
            raise HyenaError("extrapolation goes one way and decodes latents: bidirectional=False, decoder='latent'")
        known = seen.shape[1]
        q = self.posterior(seen, None if times is None else times[:, :known])[0]
        return self.decode([self.roll(q.mean, noise, times)], times)

    def _decode_stepwise(self, z: Tensor, generator: torch.Generator | None, times: Tensor | None) -> Tensor:
        state, gap, means = self.decoder.start(len(z)), self._gaps(times)[0], []
        x = z.new_zeros(len(z), self.channels)
        for t in range(z.shape[1]):
            means.append(self._activated(self.decoder.step(z[:, t], x, state, None if gap is None else gap[:, t])))
            x = means[-1] + self.sigma * torch.randn(x.shape, generator=generator).to(x)
        return torch.stack(means, 1)

    def _activated(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) if self.output == "sigmoid" else x

    def _ways(self, x: Tensor) -> list[Tensor]:
        return [x, x.flip(1)][: len(self.posteriors)]

    def _gaps(self, times: Tensor | None) -> list[Tensor | None]:
        if times is None:
            return [None] * len(self.posteriors)
        return [gaps(t, self.unit) for t in (times, -times.flip(1))[: len(self.posteriors)]]

    def _check(self, x: Tensor) -> None:
        if not torch.isfinite(x).all():
            raise HyenaError("a value is not finite; mark missing values in the mask instead of leaving NaN")


def kl_divergence(q: Gaussian, p: Gaussian) -> Float[Tensor, "*batch width"]:
    r"""$\tfrac12 (2 \log \sigma_p - 2 \log \sigma_q + (\sigma_q^2 + (\mu_q - \mu_p)^2) / \sigma_p^2 - 1)$."""
    ratio = (q.std / p.std) ** 2
    return (ratio - torch.log(ratio) + ((q.mean - p.mean) / p.std) ** 2 - 1) / 2


def _from_end(found: Gaussian, way: int) -> Gaussian:
    return Gaussian(*(x.flip(1) for x in found)) if way else found
