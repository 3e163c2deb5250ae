"""Lateral feedback at several time scales, and its training from features that are worked out once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.models.retina import CNN, Encoder, Film, Rates
from hyena.models.retina_memory import LateralCNN

Features = Float[Tensor, "batch taken units _ _"]


class FeedbackCNN(LateralCNN):
    r"""A `LateralCNN` with several states for every channel: $z_t = z^{ff}_t / (1 + \sum_s h_{s,t})$.

    Each state has weights $W_s$ and time constants $\tau_s$ of its own, all of them learned, so that a channel can
    adapt within a tenth of a second and over many seconds at once.

    Arguments:
        net, warm, hold, dt, lateral: as for `LateralCNN`.
        taus: seconds, one for every state, at first.
    """

    def __init__(
        self, net: CNN, warm: int = 1000, hold: int = 5, dt: float = 0.01, taus: tuple[float, ...] = (0.1, 8.0),
        lateral: bool = True,
    ):  # fmt: skip
        super().__init__(net, warm, hold, dt, lateral=lateral)
        channels = net.grids[0][0]
        self.log_tau = nn.Parameter(torch.tensor(taus).log()[:, None].repeat(1, channels))
        self.raw = nn.Parameter(torch.full((len(taus) * channels, channels, 3, 3), -5.0))
        self.raw._optim = self.log_tau._optim = {"weight_decay": 0.0}  # neither is small at 0

    def forward(self, film: Film) -> Rates:
        self.standardised(film)  # checks alone
        return self.read(self.seen(film))

    @torch.no_grad()
    def seen(self, film: Film) -> Features:
        """What goes into the first ReLU without feedback, from the bin on in which the network has seen enough."""
        return self.net.first(self.net.features(film)).unflatten(0, (len(film), -1))

    def read(self, z: Features) -> Rates:
        """The rates after `warm` bins of it."""
        out = self.lags - self.net.lags
        z = self.gated(z)[:, out:] if self.lateral else z[:, out:]
        return self.net.level * self.net.after_first(z.flatten(0, 1)).unflatten(0, (len(z), -1))

    def gated(self, z: Features) -> Features:
        """Divided by one plus the sum of the states, bin for bin."""
        W = F.softplus(self.raw)
        a = (1 - torch.exp(-self.hold * self.dt / self.log_tau.exp()))[..., None, None]
        h, found = z.new_zeros(len(z), len(a), *z.shape[2:]), []
        for part in z.split(self.hold, 1):
            gated = part / (1 + h.sum(1)[:, None])
            drive = F.conv2d(F.relu(gated).mean(1), W, padding=1).unflatten(1, (len(a), -1))
            h = (1 - a) * h + a * drive
            found.append(gated)
        return torch.cat(found, 1)


class OnFeatures(Encoder):
    """A `FeedbackCNN` that reads what its first layer said, with channels one below the other, in place of a film.

    The first layer is fixed, so that this is worked out once (`stacked`), and a step of training does without it.
    """

    def __init__(self, model: FeedbackCNN):
        super().__init__(model.cells, model.side, model.lags - model.net.lags + 1)
        self.model = model

    def forward(self, z: Float[Tensor, "batch taken _ _"]) -> Rates:
        return self.model.read(z.unflatten(2, self.model.net.grids[0][:2]))

    def stacked(self, film: Film) -> Float[Tensor, "batch bins _ _"]:
        """What the first layer says of a film, in as many bins; 0 before it has seen enough."""
        z = self.model.seen(film).flatten(2, 3)
        return F.pad(z, (0, 0, 0, 0, self.model.net.lags - 1, 0))
