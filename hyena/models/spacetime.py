"""SpaceTime (Zhang et al. 2023, arXiv 2303.09489): companion state spaces that forecast by feeding themselves.

Names of parameters are those of the official code, whose weights load as they are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError, unknown
from hyena.ops.companion import companion_kernel, companion_matrix, krylov
from hyena.ops.fftconv import causal_conv

Variant = Literal["paper", "released"]
DIFFERENCES = 4  # orders 0 to 3, and as many residuals of moving averages
SMALLEST_NORM = 1e-4  # vectors that are smaller than this on average are not divided by their norm


class Forecast(NamedTuple):
    """What the network says about a window.

    Arguments:
        closed: the horizon, from the closed loop.
        opened: for every step of the window the prediction of the next one.
        latent: the same for the decoder's own inputs.
        inputs: those inputs.
    """

    closed: Float[Tensor, "batch horizon outputs"]
    opened: Float[Tensor, "batch lag outputs"]
    latent: Float[Tensor, "batch lag d_model"]
    inputs: Float[Tensor, "batch lag d_model"]


class Preprocess(nn.Module):
    """Fixed filters: differences of order 0 to 3, and what moving averages leave over; eight features in turn.

    Arguments:
        d_model: features, a multiple of 8.
        min_window, max_window: the windows of the averages are drawn from min to max - 1.
    """

    def __init__(self, d_model: int, min_window: int = 4, max_window: int = 64):
        super().__init__()
        groups, rest = divmod(d_model, 2 * DIFFERENCES)
        if rest:
            raise HyenaError(f"d_model is a multiple of {2 * DIFFERENCES}, one for each filter; got {d_model}")
        pascal = torch.zeros(DIFFERENCES, DIFFERENCES)
        pascal[:, 0] = 1
        for order in range(1, DIFFERENCES):
            pascal[order, 1:] = pascal[order - 1, 1:] - pascal[order - 1, :-1]
        windows = torch.randint(min_window, max_window, (groups * DIFFERENCES, 1))
        average = (torch.arange(max_window) < windows) / windows
        self.register_buffer("diff_kernel", pascal.repeat(groups, 1))
        self.register_buffer("ma_r_kernel", F.pad(torch.ones(len(windows), 1), (0, max_window - 1)) - average)

    def taps(self, length: int) -> Float[Tensor, "d_model length"]:
        """The filters, cut or filled with zeros."""
        both = (F.pad(k, (0, max(0, length - k.shape[-1])))[:, :length] for k in (self.diff_kernel, self.ma_r_kernel))
        return torch.stack([k.unflatten(0, (-1, DIFFERENCES)) for k in both], 1).flatten(0, 2)

    def forward(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        return causal_conv(u.mT, self.taps(u.shape[1])).mT


class CompanionSSM(nn.Module):
    r"""Open loop: the input convolved with $K_l = c A^l b$, plus the input times a weight.

    Arguments:
        d_model: features.
        d_state: size of the state, d.
        n_kernels: kernels, each for `d_model / n_kernels` neighbouring features; divides `d_model`.
        norm_order: a is divided by its norm of this order; 0 for none.
    """

    def __init__(self, d_model: int, d_state: int, n_kernels: int | None = None, norm_order: int = 1):
        super().__init__()
        n_kernels = d_model if n_kernels is None else n_kernels
        if d_model % n_kernels:
            raise HyenaError(f"n_kernels divides d_model, got {n_kernels} and {d_model}")
        self.norm_order, self.heads = norm_order, d_model // n_kernels
        self.a, self.b, self.c = (nn.Parameter(torch.randn(n_kernels, d_state)) for _ in range(3))
        self.skip = nn.Parameter(torch.randn(d_model))

    def forward(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        kernel = companion_kernel(normed(self.a, self.norm_order), self.b, self.c, u.shape[1])
        return causal_conv(u.mT, kernel.repeat_interleave(self.heads, 0), self.skip).mT


class ClosedLoopSSM(CompanionSSM):
    r"""A state space that predicts its own next input: $\hat u = k\,x$, and the output $y = c\,x$.

    Open, it reads a sequence and predicts the next step everywhere. Closed, it reads the sequence once and then goes on
    by itself: $y_h = c\,(A + b k)^h x_n$ and $\hat u_h = k\,(A + b k)^h x_n$, $h = 0$ being the step after the last.

    Arguments:
        variant: "paper" divides a, b, c and k by their norms once, for both modes; "released" as the official code,
            which reads with a bare b and answers with a bare k in closed mode, so that what it trains open is another
            system than what it evaluates closed.
    """

    def __init__(self, d_model: int, d_state: int, norm_order: int = 1, variant: Variant = "paper"):
        super().__init__(d_model, d_state, norm_order=norm_order)
        if variant not in ("paper", "released"):
            raise unknown("variant", variant, ("paper", "released"))
        self.variant = variant
        self.k = nn.Parameter(torch.randn(d_model, d_state))

    def opened(self, u: Float[Tensor, "batch length d_model"]) -> tuple[Tensor, Tensor]:
        """Predictions of the next output and of the next input, (batch, length, d_model) each."""
        a, b, c, k = self._system()
        y, ahead = (causal_conv(u.mT, companion_kernel(a, b, out, u.shape[1])).mT for out in (c, k))
        return y, ahead

    def closed(self, u: Float[Tensor, "batch length d_model"], horizon: int) -> tuple[Tensor, Tensor]:
        """Outputs and inputs of the next `horizon` steps, (batch, horizon, d_model) each."""
        a, b, c, k = self._system()
        matrix = companion_matrix(a)
        released = self.variant == "released"
        reading = krylov(matrix, self.b if released else b, u.shape[1]).flip(1)  # (D, L, d)
        state = torch.einsum("hld,blh->bhd", reading, u)
        loop = (matrix + b[:, :, None] * k[:, None, :]).mT
        rows = (krylov(loop, out, horizon) for out in (c, self.k if released else k))
        y, ahead = (torch.einsum("hld,bhd->blh", row, state) for row in rows)
        return y, ahead

    def _system(self) -> list[Tensor]:
        return [normed(vector, self.norm_order) for vector in (self.a, self.b, self.c, self.k)]


class Block(nn.Module):
    """Preprocessing in the first block, an open-loop state space, a residual MLP, and the input of the state space."""

    def __init__(self, pre: nn.Module, ssm: CompanionSSM, dropout: float):
        super().__init__()
        self.pre, self.ssm, self.mlp = pre, ssm, Mlp(len(ssm.skip), len(ssm.skip), dropout)

    def forward(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        z = self.pre(u)
        y = self.ssm(z)
        return y + self.mlp(y) + z


class Mlp(nn.Module):
    """GELU, dropout, linear."""

    def __init__(self, d_in: int, d_out: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(d_in, d_out))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.layers(x)


class SpaceTime(nn.Module):
    """A forecaster: encoder of open-loop blocks, decoder that closes the loop; any horizon at run time.

    Every window is reduced by its mean, which is added to the forecast. The input has one channel, copied to all
    features; several series are several windows.

    Arguments:
        d_model: features, a multiple of 8.
        d_state: size of every state.
        n_kernels: of the first block, each for as many neighbouring features; later ones have one for each feature.
        n_blocks: encoder blocks.
        dropout: after every GELU.
        norm_order, variant: of the state spaces.
        max_window: longest moving average of the preprocessing is below this.
    """

    def __init__(
        self,
        d_model: int = 128,
        d_state: int = 64,
        *,
        n_kernels: int = 16,
        n_blocks: int = 1,
        dropout: float = 0.25,
        norm_order: int = 1,
        variant: Variant = "paper",
        max_window: int = 64,
    ):
        super().__init__()
        self.d_model = d_model
        first = Block(
            Preprocess(d_model, max_window=max_window), CompanionSSM(d_model, d_state, n_kernels, norm_order), dropout
        )
        rest = [
            Block(nn.Identity(), CompanionSSM(d_model, d_state, norm_order=norm_order), dropout)
            for _ in range(n_blocks - 1)
        ]
        self.encoder = nn.ModuleDict({"blocks": nn.Sequential(first, *rest)})
        self.decoder = nn.ModuleDict(
            {"blocks": nn.ModuleDict({"ssm": ClosedLoopSSM(d_model, d_state, norm_order, variant)})}
        )
        self.output = Mlp(d_model, 1, dropout)

    def forward(self, x: Float[Tensor, "batch lag 1"], horizon: int) -> Forecast:
        """The forecast of the next `horizon` steps, and what the losses of training compare."""
        mean = x.mean(1, keepdim=True)
        z = self.encoder["blocks"]((x - mean).expand(-1, -1, self.d_model))
        ssm = self.decoder["blocks"]["ssm"]
        closed, _ = ssm.closed(z, horizon)
        opened, latent = ssm.opened(z)
        return Forecast(self.output(closed) + mean, self.output(opened) + mean, latent, z)


def forecast_losses(
    found: Forecast, x: Float[Tensor, "batch lag 1"], y: Float[Tensor, "batch horizon 1"], d_state: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""The three terms of the loss, root mean squares: closed loop, open loop, and the decoder's own inputs.

    The last two compare every prediction of the window from step `d_state` on with the step that it predicts. (The
    official code drops them after the first epoch.)
    """
    both = torch.cat([x, y], 1)
    lag, known = x.shape[1], d_state - 1
    return (
        _rmse(found.closed, y),
        _rmse(found.opened[:, known:], both[:, d_state : lag + 1]),
        _rmse(found.latent[:, known:-1], found.inputs[:, d_state:]),
    )


def normed(vector: Float[Tensor, "n d"], order: int) -> Float[Tensor, "n d"]:
    """Each row divided by its norm of this order; not where it is 0, or the norms are tiny on average."""
    if not order:
        return vector
    size = torch.linalg.vector_norm(vector, order, -1, keepdim=True)
    return vector / size if size.abs().mean() > SMALLEST_NORM else vector


def _rmse(found: Tensor, truth: Tensor) -> Tensor:
    return torch.sqrt(F.mse_loss(found, truth))
