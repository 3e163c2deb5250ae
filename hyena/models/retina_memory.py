"""Encoders of the retina that remember more than a window: lateral feedback, kinetics, and state spaces."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.models.retina import CNN, LN, Encoder, Film, Output, Rates
from hyena.models.s4nd import S4ND


class LateralCNN(Encoder):
    r"""A `CNN` whose first layer is divided by its own past around every place: $z_t = z^{ff}_t / (1 + h_t)$.

    $$h_t = (1 - a) h_{t-1} + a\, W * [z_{t-1}]_+, \qquad a = 1 - e^{-dt/\tau}$$

    $W \ge 0$ goes between channels over 3 x 3 places; $\tau$ is learned, one for every channel. The state is held for
    `hold` bins and takes their mean, so that dt is their length. The first rate comes after `warm` bins more than the
    network takes. Features are fixed: the first layer is not trained further. With `lateral` off it is the network it
    was made from, of which it has a copy.

    Arguments:
        net: whose weights and units are taken as they are; the copy goes on with its running means.
        warm: bins that the state runs before the first rate.
        taus: seconds, from shortest to longest, at first.
    """

    def __init__(
        self, net: CNN, warm: int = 1000, hold: int = 5, dt: float = 0.01, taus: tuple[float, float] = (0.3, 10.0),
        lateral: bool = True,
    ):  # fmt: skip
        super().__init__(net.cells, net.side, net.lags + warm)
        self.net, self.hold, self.dt, self.lateral = copy.deepcopy(net), hold, dt, lateral
        channels = net.grids[0][0]
        span = torch.linspace(math.log(taus[0]), math.log(taus[1]), channels)
        self.log_tau = nn.Parameter(span)
        self.raw = nn.Parameter(torch.full((channels, channels, 3, 3), -5.0))

    def take_units(self, film: Film, rates: Float[Tensor, "_ _ cells"] | None = None) -> None:
        """Those of the network inside."""
        self.net.take_units(film, rates)

    def train(self, mode: bool = True) -> LateralCNN:
        """The network inside keeps its running means and has no noise."""
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, film: Film) -> Rates:
        self.standardised(film)  # checks alone
        out = self.lags - self.net.lags
        with torch.no_grad():
            z = self.net.first(self.net.features(film if self.lateral else film[:, out:]))
        if self.lateral:
            z = self.gated(z.unflatten(0, (len(film), -1)))[:, out:].flatten(0, 1)
        return self.net.level * self.net.after_first(z).unflatten(0, (len(film), -1))

    def gated(self, z: Float[Tensor, "batch bins units rows columns"]) -> Float[Tensor, "batch bins units _ _"]:
        """Divided by one plus the state, bin for bin."""
        W = F.softplus(self.raw)
        a = 1 - torch.exp(-self.hold * self.dt / self.log_tau.exp())[:, None, None]
        h, found = torch.zeros_like(z[:, 0]), []
        for part in z.split(self.hold, 1):
            gated = part / (1 + h[:, None])
            h = (1 - a) * h + a * F.conv2d(F.relu(gated).mean(1), W, padding=1)
            found.append(gated)
        return torch.cat(found, 1)


# Where training begins, tuned; slow rates are above 0, as a logarithm takes.
KINETICS = {"ka": 23.0, "kfi": 50.0, "kfr": 87.0, "ksi": 0.1, "ksr": 0.1, "ksr2": 0.1}  # 1/s


class LNK(Encoder):
    r"""A filter, a sigmoid, and a pool that wears out (Ozuysal & Baccus 2012), for every cell.

    With $u$ the sigmoid of the filtered stimulus, states of sum 1 and rates per second, by Euler steps of `dt`:

    $\dot R = -k_a u R + k_{fr} I_1$, $\dot A = k_a u R - k_{fi} A$,
    $\dot I_1 = k_{fi} A - (k_{fr} + k_{si}) I_1 + (k_{sr} u + k_{sr2}) I_2$,
    $\dot I_2 = k_{si} I_1 - (k_{sr} u + k_{sr2}) I_2$; the rate is a softplus of a line in A.

    The rates at which a state empties are cut off where a step would take more than .95 of it.

    Arguments:
        warm: bins that the states run before the first rate.
    """

    def __init__(self, cells: int, side: int, lags: int = 40, *, basis: int = 0, warm: int = 1000, dt: float = 0.01):
        super().__init__(cells, side, lags + warm)
        self.linear, self.dt = LN(cells, side, lags, basis=basis), dt
        self.log_rates = nn.ParameterDict(
            {name: nn.Parameter(torch.full((cells,), math.log(rate))) for name, rate in KINETICS.items()}
        )
        self.scale, self.shift = nn.Parameter(torch.full((cells,), 10.0)), nn.Parameter(torch.zeros(cells))

    def take_units(self, film: Film, rates: Float[Tensor, "_ _ cells"] | None = None) -> None:
        super().take_units(film, rates)
        self.linear.take_units(film)

    def forward(self, film: Film) -> Rates:
        self.standardised(film)
        u = torch.sigmoid(self.linear.drive(self.linear.features(film))).unflatten(0, (len(film), -1))
        active = self.states(u)[1][:, self.lags - self.linear.lags :]
        return self.level * F.softplus(self.scale * active + self.shift)

    def states(self, u: Float[Tensor, "batch bins cells"]) -> tuple[Rates, Rates, Rates, Rates]:
        """R, A, I1 and I2 after every bin; all are in R at first."""
        k = {name: raw.exp() for name, raw in self.log_rates.items()}
        for leaving in (("ka",), ("kfi",), ("kfr", "ksi"), ("ksr", "ksr2")):  # no step empties a state
            share = (0.95 / self.dt / sum(k[name] for name in leaving)).clamp_max(1)
            k |= {name: share * k[name] for name in leaving}
        R = torch.ones_like(u[:, 0])
        A, I1, I2 = torch.zeros_like(R), torch.zeros_like(R), torch.zeros_like(R)
        found = []
        for v in u.unbind(1):
            back = k["ksr"] * v + k["ksr2"]
            moves = [k["ka"] * v * R, k["kfi"] * A, k["kfr"] * I1, k["ksi"] * I1, back * I2]
            woken, tired, ready, slow, returned = (self.dt * m for m in moves)
            R, A = R - woken + ready, A + woken - tired
            I1, I2 = I1 + tired - ready - slow + returned, I2 + slow - returned
            found.append(torch.stack([R, A, I1, I2]))
        return tuple(torch.stack(found, 2))


class S4NDEncoder(Encoder):
    """State spaces over time, rows and columns (`S4ND`), then one weight for every cell, feature and place.

    Time is read from the past alone, space from both sides. The memory is as long as the film, not `lags`.

    Arguments:
        d_model: features at every place.
        l_max: bins of the longest film; a longer one is refused.
    """

    def __init__(
        self, cells: int, side: int, lags: int, l_max: int, *, d_model: int = 8, n_layer: int = 2, d_state: int = 16,
        dt_min: float = 0.01, dt_max: float = 0.5,
    ):  # fmt: skip
        super().__init__(cells, side, lags)
        self.lift = nn.Linear(1, d_model)
        grid, options = (l_max, side, side), {"d_state": d_state, "dt_min": dt_min, "dt_max": dt_max}
        self.layers = nn.ModuleList(CausalS4ND(d_model, grid, **options) for _ in range(n_layer))
        later = (nn.LayerNorm(d_model) for _ in range(n_layer - 1))
        self.norms = nn.ModuleList([nn.Identity(), *later])  # a norm over copies of one number would only keep its sign
        self.dense = nn.Linear(d_model * side**2, cells)
        self.output = Output("softplus", cells)

    def forward(self, film: Film) -> Rates:
        v = self.lift(self.standardised(film)[..., None])
        for layer, norm in zip(self.layers, self.norms, strict=True):
            v = v + layer(norm(v))
        return self.level * self.output(self.dense(v[:, self.lags - 1 :].flatten(2)))


class CausalS4ND(S4ND):
    """`S4ND` whose first axis, time, is read from the past alone."""

    def taps(self, grid: Sequence[int], rate: float = 1.0) -> list[Float[Tensor, "rank features _"]]:
        time, *space = super().taps(grid, rate)
        past = torch.arange(time.shape[-1], device=time.device) >= grid[0] - 1
        return [time * past, *space]
