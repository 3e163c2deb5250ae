r"""Which hidden units make a response: integrated gradients, and networks of a few channels (Tanaka et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hyena.errors import HyenaError
from hyena.models.retina import CNN, Film


class Attribution(NamedTuple):
    """Of one cell in every bin, spikes per second: what each channel adds to the response to no stimulus."""

    channels: Float[Tensor, "bins channels"]
    response: Float[Tensor, " bins"]
    baseline: float

    @property
    def incompleteness(self) -> float:
        """How far the sum over channels is from what is to be explained, relative to its largest value."""
        wanted = self.response - self.baseline
        return float((self.channels.sum(1) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))

    def ranked(self) -> list[int]:
        """Channels from the one that adds most, in absolute value over all bins, to the one that adds least."""
        return self.channels.abs().sum(0).argsort(descending=True).tolist()


@torch.no_grad()
def attributed(net: CNN, film: Film, cell: int, steps: int = 500) -> Attribution:
    r"""Integrated gradients from no stimulus to the film, by channel of the first layer, summed over space.

    $$A_c(t) = \sum_{u \in c} \sum_{k=1}^S \frac{\partial r}{\partial z_u}\Big|_{\alpha_k}
    \big(z_u(k/S) - z_u((k-1)/S)\big), \qquad \alpha_k = \frac{k - 1/2}{S}$$

    with $z_u(\alpha)$ what goes into the first ReLU when the contrast is $\alpha$ times that of the film. Sums over all
    channels are $r(X) - r(0)$ up to the error of the sum (`Attribution.incompleteness`).

    Raises:
        HyenaError: a network in training, several films, a cell that the network does not have, or no steps.
    """
    check_quiet(net)
    if len(film) != 1 or not 0 <= cell < net.cells or steps < 1:
        raise HyenaError(
            f"attribution takes one film, a cell below {net.cells} and a step or more; got {len(film)} films, "
            f"cell {cell} and {steps} steps"
        )
    start, end = rest(net), net.first(net.features(film))
    change, total = end - start, end.new_zeros(len(end), end.shape[1])
    for k in range(steps):
        gradient = slope(net, start + (k + 0.5) / steps * change, cell)
        total += (gradient * change).sum((2, 3)) / steps
    response, baseline = (net.level[cell] * net.after_first(z)[:, cell] for z in (end, start))
    return Attribution(total, response, float(baseline[0]))


def check_quiet(net: CNN) -> None:
    """Refuse a network with noise or with the statistics of a batch."""
    if net.training or net.noise_in_use:
        raise HyenaError("attribution takes a network without noise: call net.eval(), and leave noise_in_use off")


def rest(net: CNN) -> Float[Tensor, "one channels rows columns"]:
    """What goes into the first ReLU when there is mean light."""
    return net.first(net.features(torch.zeros(1, net.lags, net.side, net.side, device=net.level.device)))


@torch.enable_grad()
def slope(net: CNN, z: Float[Tensor, "bins channels rows columns"], cell: int) -> Tensor:
    """How the rate of a cell changes with every unit of the first layer."""
    z = z.detach().requires_grad_()
    return net.level[cell] * torch.autograd.grad(net.after_first(z)[:, cell].sum(), z)[0]


@torch.no_grad()
def with_channels(net: CNN, film: Film, kept: list[int]) -> Float[Tensor, "out cells"]:
    """Rates of the network with all other channels of the first layer as in mean light; nothing is fitted."""
    check_quiet(net)
    z = rest(net).expand(film.shape[1] - net.lags + 1, -1, -1, -1).clone()
    z[:, kept] = net.first(net.features(film))[:, kept]
    return net.level * net.after_first(z)


def kept_variance(reduced: Float[Tensor, " bins"], full: Float[Tensor, " bins"]) -> float:
    """One less the mean square difference over the variance of the full response; 0 where that does not vary."""
    variance = full.var(correction=0)
    return float(1 - (reduced - full).square().mean() / variance) if variance > 0 else 0.0


def fewest(attribution: Attribution, share: float, response: Callable[[list[int]], Tensor]) -> int:
    """How many channels, the greatest first, keep a share of the variance of the response; all if no fewer do."""
    ranked = attribution.ranked()
    for count in range(1, len(ranked)):
        if kept_variance(response(ranked[:count]), attribution.response) >= share:
            return count
    return len(ranked)


def summed(attribution: Attribution, kept: list[int]) -> Float[Tensor, " bins"]:
    """The response in mean light and what is attributed to some channels, without the others."""
    return attribution.baseline + attribution.channels[:, kept].sum(1)
