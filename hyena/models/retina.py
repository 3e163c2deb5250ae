r"""Encoders of the retina (McIntosh et al. 2016, arXiv 1702.01825; Tanaka et al. 2019, arXiv 1912.06207).

Every encoder takes films of contrast (batch, bins, height, width) and returns rates in spikes per second
(batch, bins - lags + 1, cells): it says nothing before it has seen `lags` bins.

>>> net = bn_cnn(cells=5)
>>> net(torch.zeros(1, 42, 50, 50)).shape
torch.Size([1, 3, 5])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError, unknown

Film = Float[Tensor, "batch bins height width"]
Rates = Float[Tensor, "batch out cells"]
NORMS = ("unit", "channel", "none")
OUTPUTS = ("softplus", "parametric", "exp", "relu2", "rbf")
MOST_A_BIN = 10  # spikes of a model that runs freely


class Encoder(nn.Module):
    """What all encoders share: units of stimulus and response, which come from the training part, and checks.

    Arguments:
        cells: ganglion cells, each with a rate.
        side: of the patch in pixels.
        lags: bins that the rate of a bin depends on, its own the last; or that pass before the first rate.
    """

    def __init__(self, cells: int, side: int, lags: int):
        super().__init__()
        if min(cells, side, lags) < 1:
            raise HyenaError(f"cells, side and lags are at least 1; got {cells}, {side} and {lags}")
        self.cells, self.side, self.lags = cells, side, lags
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("level", torch.ones(cells))

    def take_units(self, film: Film, rates: Float[Tensor, "_ _ cells"] | None = None) -> None:
        """From now on contrast is in deviations of this film, and what is said of each cell in those of its rate."""
        self.mean, self.unit = film.mean(), film.std().clamp_min(1e-6)
        if rates is not None:
            self.level = rates.flatten(0, 1).std(0).clamp_min(1e-3)

    def standardised(self, film: Film) -> Film:
        """In units of the training film.

        Raises:
            HyenaError: another number of pixels, or fewer bins than lags.
        """
        if film.shape[2:] != (self.side, self.side):
            raise HyenaError(
                f"this encoder sees {self.side} x {self.side} pixels, got {film.shape[2]} x {film.shape[3]}"
            )
        if film.shape[1] < self.lags:
            raise HyenaError(f"a film of {film.shape[1]} bins is shorter than the {self.lags} that a rate depends on")
        return (film - self.mean) / self.unit


class Windowed(Encoder):
    r"""An encoder whose rate depends on the last `lags` frames alone.

    Arguments:
        basis: frames are replaced by so many sums over lags (`log_cosines`), which is faster; 0 takes them as they are.
    """

    def __init__(self, cells: int, side: int, lags: int = 40, basis: int = 0):
        super().__init__(cells, side, lags)
        self.channels, self.summed = basis or lags, basis > 0
        self.register_buffer("basis", log_cosines(lags, basis) if basis else torch.eye(lags), persistent=False)

    def forward(self, film: Film) -> Rates:
        return self.level * self.read(self.features(film)).unflatten(0, (len(film), -1))

    def features(self, film: Film) -> Float[Tensor, "windows channels height width"]:
        """Of every window of `lags` bins, the frames or sums over them, oldest first."""
        window = self.basis.shape[1]
        some = self.standardised(film)[:, self.lags - window :]
        windows = some.unfold(1, window, 1)  # (batch, out, height, width, window)
        sums = windows @ self.basis.T if self.summed else windows
        return sums.movedim(-1, 2).flatten(0, 1)

    def read(self, features: Float[Tensor, "windows channels height width"]) -> Float[Tensor, "windows cells"]:
        """The rates at the end of windows, in units of `level`."""
        raise NotImplementedError


def log_cosines(lags: int, count: int) -> Float[Tensor, "count lags"]:
    """Bumps that are narrow for recent and broad for remote bins, raised cosines of log time; rows have norm 1."""
    ago = torch.arange(lags - 1, -1, -1, dtype=torch.float64)
    place = torch.log(ago + 1.5)
    centres = torch.linspace(float(place.min()), float(place.max()), count, dtype=torch.float64)
    width = 2 * (centres[1] - centres[0]) if count > 1 else 2 * (place.max() - place.min())
    bumps = torch.cos(((place - centres[:, None]) * math.pi / width).clamp(-math.pi, math.pi)).add(1)
    bumps = bumps * ((place - centres[:, None]).abs() < width)
    return (bumps / bumps.norm(dim=1, keepdim=True)).float()


class CNN(Windowed):
    """Two convolutions of space, with time gone in the first one, and a dense layer: both published networks.

    Convolution, normalisation, noise, ReLU; the same again; one weight for every cell, channel and place; a
    nonlinearity above 0.

    Arguments:
        channels, kernels: of the two convolutions; kernels are odd and not padded.
        norm: "unit" normalises every place of every channel over the batch, as released for Tanaka et al.; "channel"
            every channel; "none" not at all, as in 2016.
        momentum: of the running means that are used after training; the released .01 takes thousands of steps.
        noise: deviation of the Gaussian that is added before each ReLU in training, and afterwards too where
            `noise_in_use` is set.
        stacked: every kernel is a chain of 3 x 3 ones without anything between, which `collapsed` makes one again.
        output: of `Output`; "softplus", or "parametric" as in 2016.

    Raises:
        HyenaError: kernels that are even or larger than what they see, or unknown names.
    """

    def __init__(
        self, cells: int, side: int = 50, lags: int = 40, channels: Sequence[int] = (8, 8),
        kernels: Sequence[int] = (15, 11), *, basis: int = 0, norm: str = "unit", momentum: float = 0.01,
        noise: float = 0.05, stacked: bool = False, output: str = "softplus",
    ):  # fmt: skip
        super().__init__(cells, side, lags, basis)
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        if any(kernel % 2 == 0 or (stacked and kernel < 3) for kernel in kernels) or sum(kernels) - 2 >= side:
            raise HyenaError(
                f"kernels are odd (stacked, 3 or more), and together smaller than the stimulus of {side} x {side}; "
                f"got {tuple(kernels)}"
            )
        self.noise, self.noise_in_use = noise, False
        sides = [side - kernels[0] + 1, side - sum(kernels) + 2]
        inputs = [self.channels, channels[0]]
        make = chain if stacked else nn.Conv2d
        self.convs = nn.ModuleList(make(i, o, k) for i, o, k in zip(inputs, channels, kernels, strict=True))
        self.norms = nn.ModuleList(normaliser(norm, c, s, momentum) for c, s in zip(channels, sides, strict=True))
        self.grids = tuple((c, s, s) for c, s in zip(channels, sides, strict=True))  # of both layers
        self.dense = nn.Linear(channels[1] * sides[1] ** 2, cells, bias=norm == "none")
        self.scale = nn.BatchNorm1d(cells, eps=1e-3, momentum=momentum) if norm != "none" else nn.Identity()
        self.output = Output(output, cells)

    def read(self, features: Float[Tensor, "windows channels height width"]) -> Float[Tensor, "windows cells"]:
        return self.after_first(self.first(features))

    def first(self, features: Float[Tensor, "windows channels height width"]) -> Float[Tensor, "windows units _ _"]:
        """What goes into the first ReLU, without noise."""
        return self.norms[0](self.convs[0](features))

    def after_first(self, z: Float[Tensor, "windows units rows columns"]) -> Float[Tensor, "windows cells"]:
        """From there to the rates, in units of `level`."""
        return self.after_second(self.second(z))

    def after_second(self, z: Float[Tensor, "windows units rows columns"]) -> Float[Tensor, "windows cells"]:
        """From what goes into the second ReLU to the rates, in units of `level`."""
        return self.output(self.drive(z))

    def drive(self, z: Float[Tensor, "windows units rows columns"]) -> Float[Tensor, "windows cells"]:
        """From there to what goes into the output's nonlinearity."""
        return self.scale(self.dense(F.relu(self.noisy(z)).flatten(1)))

    def second(self, z: Float[Tensor, "windows units rows columns"]) -> Float[Tensor, "windows features _ _"]:
        """From what goes into the first ReLU to what goes into the second."""
        return self.norms[1](self.convs[1](F.relu(self.noisy(z))))

    def noisy(self, z: Tensor) -> Tensor:
        """With noise, in training or where it is asked for."""
        if self.noise and (self.training or self.noise_in_use):
            return z + self.noise * torch.randn_like(z)
        return z


def bn_cnn(cells: int, side: int = 50, lags: int = 40) -> CNN:
    """The network of Tanaka et al. 2019: 8 kernels of 15, then 8 of 11, every unit normalised."""
    return CNN(cells, side, lags)


def cnn_2016(cells: int, side: int = 50, lags: int = 40) -> CNN:
    """The network of McIntosh et al. 2016 as its scripts build it: 16 kernels of 15, then 8 of 9.

    Numbers that stand in the same scripts unused are `channels=(8, 16), kernels=(15, 7)`.
    """
    return CNN(cells, side, lags, (16, 8), (15, 9), norm="none", noise=0.1, output="parametric")


def normaliser(norm: str, channels: int, side: int, momentum: float) -> nn.Module:
    """Of every unit, of every channel, or none; constants as in Keras."""
    if norm == "unit":
        flat = nn.BatchNorm1d(channels * side**2, eps=1e-3, momentum=momentum)
        return nn.Sequential(nn.Flatten(), flat, nn.Unflatten(1, (channels, side, side)))
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=momentum) if norm == "channel" else nn.Identity()


def chain(d_input: int, d_output: int, kernel: int) -> nn.Sequential:
    """Convolutions of 3 x 3 one behind the other, which see as much as one of `kernel`."""
    inputs = [d_input] + [d_output] * ((kernel - 1) // 2 - 1)
    return nn.Sequential(*[nn.Conv2d(i, d_output, 3, bias=n == len(inputs) - 1) for n, i in enumerate(inputs)])


def collapsed(convs: nn.Sequential) -> nn.Conv2d:
    """The one convolution that equals a chain of them."""
    kernel = convs[0].weight
    for conv in list(convs)[1:]:
        grown = F.conv2d(kernel.transpose(0, 1), conv.weight.flip(2, 3), padding=2)
        kernel = grown.transpose(0, 1)
    made = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2])
    made.weight, made.bias = nn.Parameter(kernel.detach()), nn.Parameter(convs[-1].bias.detach())
    return made


class Output(nn.Module):
    r"""From one number for every cell to a rate.

    "softplus" $\log(1 + e^u)$; "parametric" $a \log(1 + e^{bu})$ with $a = .2$, $b = 5$ at first, of every cell;
    "exp" $e^u$; "relu2" $[u]_+^2$; "rbf" a softplus of thirty Gaussians over -6 to 6, learned.
    """

    def __init__(self, kind: str, cells: int):
        super().__init__()
        if kind not in OUTPUTS:
            raise unknown("output", kind, OUTPUTS)
        self.kind = kind
        if kind == "parametric":
            self.a, self.b = nn.Parameter(torch.full((cells,), 0.2)), nn.Parameter(torch.full((cells,), 5.0))
        if kind == "rbf":
            self.register_buffer("centres", torch.linspace(-6, 6, 30), persistent=False)
            self.weight = nn.Parameter(self.centres.repeat(cells, 1) / 2)

    def forward(self, u: Float[Tensor, "*batch cells"]) -> Float[Tensor, "*batch cells"]:
        if self.kind == "parametric":
            return self.a * F.softplus(self.b * u)
        if self.kind == "rbf":
            bumps = torch.exp(-((u[..., None] - self.centres) ** 2) / (2 * 0.4**2))
            return F.softplus((bumps * self.weight).sum(-1))
        if self.kind == "exp":
            return u.clamp(-20, 20).exp()
        return F.softplus(u) if self.kind == "softplus" else F.relu(u).square()


class LN(Windowed):
    """One filter of space and time for every cell, and a nonlinearity.

    Arguments:
        output: the nonlinearity, of `Output`.
        centres: row and column of every cell; with it a filter sees only what is within `half_width` pixels.
    """

    def __init__(
        self, cells: int, side: int = 50, lags: int = 40, *, basis: int = 0, output: str = "softplus",
        centres: Sequence[tuple[Real, Real]] | None = None, half_width: int = 11,
    ):  # fmt: skip
        super().__init__(cells, side, lags, basis)
        self.filter = nn.Linear(self.channels * side**2, cells)
        nn.init.normal_(self.filter.weight, std=1e-3)
        seen = torch.ones(cells, side, side)
        if centres is not None:
            places = torch.arange(side)
            for cell, (row, column) in enumerate(centres):
                near = [(places - middle).abs() <= half_width for middle in (row, column)]
                seen[cell] = (near[0][:, None] & near[1]).float()
        self.register_buffer("seen", seen[:, None].expand(-1, self.channels, -1, -1).flatten(1), persistent=False)
        # Bumps stand on -6 to 6, so what they see is standardised.
        self.norm = nn.BatchNorm1d(cells, affine=False) if output == "rbf" else nn.Identity()
        self.output = Output(output, cells)

    def drive(self, features: Float[Tensor, "windows channels height width"]) -> Float[Tensor, "windows cells"]:
        """What goes into the nonlinearity."""
        return self.norm(F.linear(features.flatten(1), self.filter.weight * self.seen, self.filter.bias))

    def read(self, features: Float[Tensor, "windows channels height width"]) -> Float[Tensor, "windows cells"]:
        return self.output(self.drive(features))


class GLM(LN):
    r"""An LN that hears what all cells have just fired.

    $u_i = k_i \cdot X_t + b_i + \sum_j \sum_\tau h_{ji}(\tau)\, n_j(t - \tau)$, with $\tau$ from 1 to `history` bins.

    Arguments:
        lags: frames that a filter sees; the first rate comes when it has seen them and the history is full.
        history: bins that are remembered.
        history_basis: bumps (`log_cosines`) that a history filter is a sum of; 0 takes every bin as it is.
    """

    def __init__(
        self, cells: int, side: int = 50, lags: int = 40, *, basis: int = 0, output: str = "exp", history: int = 40,
        history_basis: int = 0, centres: Sequence[tuple[Real, Real]] | None = None,
    ):  # fmt: skip
        super().__init__(cells, side, lags, basis=basis, output=output, centres=centres)
        self.history, self.lags = history, max(lags, history + 1)
        bumps = log_cosines(history, history_basis) if history_basis else torch.eye(history)
        self.register_buffer("bumps", bumps, persistent=False)
        self.coupling = nn.Parameter(torch.zeros(cells, cells, len(bumps)))  # to, from, bump

    def after(self, past: Float[Tensor, "windows history cells"]) -> Float[Tensor, "windows cells"]:
        """What the last spikes, oldest first, add to the drive."""
        return torch.einsum("whj,bh,ijb->wi", past, self.bumps, self.coupling)

    def forward(
        self, film: Film, spikes: Float[Tensor, "trials bins cells"] | None = None
    ) -> Float[Tensor, "_ out cells"]:
        """Rates given the counts that were recorded, bin for bin as the film; none if not given.

        Several trials of one film are read together.

        Raises:
            HyenaError: another number of bins than the film has, or of trials than there are films.
        """
        if spikes is not None and (spikes.shape[1] != film.shape[1] or len(film) not in (1, len(spikes))):
            raise HyenaError(
                f"spikes stand bin for bin beside one film or one each; got {len(spikes)} trials of {spikes.shape[1]} "
                f"bins and {len(film)} films of {film.shape[1]}"
            )
        drive = self.drive(self.features(film)).unflatten(0, (len(film), -1))
        if spikes is None:
            return self.level * self.output(drive)
        past = spikes.unfold(1, self.history, 1)[:, self.lags - 1 - self.history : -1]  # (trials, out, cells, history)
        heard = self.after(past.flatten(0, 1).mT).unflatten(0, (len(spikes), -1))
        return self.level * self.output(drive + heard)

    @torch.no_grad()
    def free(self, film: Film, generator: torch.Generator, dt: float, trials: int) -> Rates:
        """Mean rate of trials in which the model's own Poisson counts are its history.

        Rates are cut off at ten spikes a bin, so that a model that runs away ends.
        """
        u = self.drive(self.features(film)).unflatten(0, (len(film), -1))
        past = u.new_zeros(trials * len(film), self.history, self.cells)
        found = []
        for t in range(u.shape[1]):
            rates = self.level * self.output(u[:, t].repeat(trials, 1) + self.after(past))
            rates = rates.clamp_max(MOST_A_BIN / dt)
            found.append(rates.unflatten(0, (trials, -1)).mean(0))
            fired = torch.poisson(rates * dt, generator=generator)
            past = torch.cat([past[:, 1:], fired[:, None]], 1)
        return torch.stack(found, 1)
