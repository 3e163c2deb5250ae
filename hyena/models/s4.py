"""S4 and S4D (Gu et al. 2022, arXiv 2111.00396 and 2206.11893): layers of state spaces, and a small network of them.

Names of parameters are those of the official code, whose weights load as they are.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError, unknown
from hyena.ops import s4
from hyena.ops.fftconv import causal_conv, two_sided_conv

Mode = Literal["diag", "dplr"]
SMALLEST = 1e-4  # decay and frequency of a mode at the start, so that their logarithm and gradient exist


class S4Kernel(nn.Module):
    """The taps of `channels` state spaces for each of `d_model` features.

    Arguments:
        d_model: features.
        d_state: size of each state, even; half as many modes are stored.
        channels: kernels for each feature.
        n_ssm: copies of A and B that the features share among them; divides `d_model`.
        mode: "diag" (S4D) or "dplr" (S4, diagonal plus low rank, bilinear).
        init: of A and B: `hyena.ops.s4.DIAGONAL` or, for "dplr", `LOW_RANK`.
        rule: discretisation of "diag".
        dt_min, dt_max: range of the first step sizes, in positions.
        l_max: longest kernel of "dplr", which keeps C in the truncated form that belongs to it; longer ones are had
            by doubling.
        band_limit: share of the Nyquist frequency above which modes are left out, for "diag"; none if not given.
        lr: learning rate of step, A and B, which have no weight decay; the optimiser's if not given.

    Raises:
        HyenaError: options that do not go together, named.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        channels: int = 1,
        n_ssm: int = 1,
        mode: Mode = "diag",
        init: str = "legs",
        rule: s4.Rule = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        l_max: int | None = None,
        band_limit: float | None = None,
        lr: float | None = 0.001,
    ):
        super().__init__()
        if mode not in ("diag", "dplr"):
            raise unknown("mode of a state space", mode, ("diag", "dplr"))
        if d_model % n_ssm:
            raise HyenaError(f"n_ssm divides d_model, got {n_ssm} and {d_model}")
        if not 0 < dt_min <= dt_max:
            raise HyenaError(f"step sizes are 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        if mode == "dplr" and (l_max is None or band_limit is not None):
            raise HyenaError("mode dplr needs l_max, and a band limit would not be exact there; use mode diag for one")
        self.mode, self.rule, self.band_limit = mode, rule, band_limit
        A, *P, B = s4.diagonal_init(init, d_state) if mode == "diag" else s4.low_rank_init(init, d_state)
        steps = torch.rand(d_model, 1) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)
        self.inv_dt = nn.Parameter(steps)
        self.A_real = nn.Parameter(_copies((-A.real).clamp(min=SMALLEST).log(), n_ssm))
        self.A_imag = nn.Parameter(_copies((-A.imag).clamp(min=SMALLEST), n_ssm))
        self.B = nn.Parameter(_copies(torch.view_as_real(B), n_ssm)[None])
        self.C = nn.Parameter(torch.randn(channels, d_model, d_state // 2, 2) / math.sqrt(2))
        for parameter in (self.inv_dt, self.A_real, self.A_imag, self.B):
            parameter._optim = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})
        if mode == "dplr":
            self.P = nn.Parameter(_copies(torch.view_as_real(P[0]), n_ssm)[None])
            self.P._optim = self.B._optim
            self.register_buffer("l_kernel", torch.tensor(l_max))
            with torch.no_grad():
                A, P, B, C, dt = self.system()
                self.C.copy_(torch.view_as_real(s4.truncated(s4.dplr_discretised(A, P, B, dt)[0], C, l_max)))

    def system(self, rate: float = 1.0) -> tuple[Tensor, ...]:
        """A, P (or nothing), B and C, each (d_model, modes), C with channels first, and dt (d_model,) times `rate`."""
        A = torch.complex(-self.A_real.exp(), -self.A_imag)
        copies = len(self.inv_dt) // len(A)
        P = () if self.mode == "diag" else (torch.view_as_complex(self.P)[0].repeat(copies, 1),)
        B, dt = torch.view_as_complex(self.B)[0].repeat(copies, 1), self.inv_dt.exp()[:, 0]
        A, C = A.repeat(copies, 1), torch.view_as_complex(self.C)
        if self.band_limit is not None:
            C = s4.band_limited(A, C, dt, self.band_limit)
        return A, *P, B, C, rate * dt

    def forward(self, length: int, rate: float = 1.0) -> Float[Tensor, "channels d_model length"]:
        """The first taps; at another `rate` those of the same continuous system on a grid `rate` times as coarse."""
        if self.mode == "diag":
            A, B, C, dt = self.system(rate)
            return s4.s4d_kernel(A, B, C, dt, length, self.rule)
        A, P, B, C, dt = self.system(rate)
        known = int(self.l_kernel)
        while round(rate * length) > known:
            power = torch.linalg.matrix_power(s4.dplr_discretised(A, P, B, dt / rate)[0], known)
            full = torch.cat([C, C.conj()], -1)
            C = C + (full[..., None, :] @ power)[..., 0, : C.shape[-1]]  # C (I - A^L) (I + A^L) = C (I - A^2L)
            known *= 2
        return s4.dplr_kernel(A, P, B, C, dt, round(known / rate))[..., :length]

    def recurrence(self, rate: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Abar, Bbar and C of single steps: vectors of modes ("diag"), or dense over modes and conjugates ("dplr")."""
        if self.mode == "diag":
            A, B, C, dt = self.system(rate)
            Abar, gain = s4.discretised(A, dt, self.rule)
            return Abar, gain * B, C
        A, P, B, C, dt = self.system(rate)
        Abar, Bbar = s4.dplr_discretised(A, P, B, dt)
        C = s4.untruncated(s4.dplr_discretised(A, P, B, dt / rate)[0], C, int(self.l_kernel))
        return Abar, Bbar, torch.cat([C, C.conj()], -1)


class S4Conv(nn.Module):
    """State spaces over each feature, and the input times D: (batch, length, d_model) to `channels` times as wide.

    Arguments:
        bidirectional: a second kernel reads from the end: output t sees inputs up to t through the first, and those
            after t through the second.
        l_max: kernels have no taps beyond it; as long as the input if not given.
        options: of `S4Kernel`.
    """

    def __init__(
        self, d_model: int, *, channels: int = 1, bidirectional: bool = False, l_max: int | None = None, **options
    ):
        super().__init__()
        self.channels, self.bidirectional, self.l_max = channels, bidirectional, l_max
        self.D = nn.Parameter(torch.randn(channels, d_model))
        self.kernel = S4Kernel(d_model, channels=channels * (2 if bidirectional else 1), l_max=l_max, **options)

    def forward(
        self, u: Float[Tensor, "batch length d_model"], rate: float = 1.0
    ) -> Float[Tensor, "batch length width"]:
        """The convolution; `rate` as in `S4Kernel`."""
        length = u.shape[1]
        taps = length if self.l_max is None else min(length, round(self.l_max / rate))
        kernel = F.pad(self.kernel(taps, rate), (0, length - taps)).flatten(0, 1)
        x, skip = u.mT.repeat(1, self.channels, 1), self.D.flatten()
        if not self.bidirectional:
            return causal_conv(x, kernel, skip).mT
        past, future = kernel.chunk(2)
        return two_sided_conv(x, torch.cat([future[:, : length - 1].flip(-1), past], -1), skip).mT

    def chunk(
        self, u: Float[Tensor, "batch length d_model"], state: Complex[Tensor, "batch d_model modes"] | None = None
    ) -> tuple[Float[Tensor, "batch length width"], Complex[Tensor, "batch d_model modes"]]:
        """The convolution of the next piece of a sequence, given the state that the piece before has left.

        Raises:
            HyenaError: the layer reads from both sides, or is not diagonal.
        """
        self._one_way()
        if self.kernel.mode != "diag":
            raise HyenaError("chunks hand on a state of modes: they are for mode diag; step works for both")
        A, B, C, dt = self.kernel.system()
        y, x = self.forward(u), u.mT
        if state is not None:
            added = s4.s4d_recall(A, C, dt, state[:, None], u.shape[1], self.kernel.rule)
            y = y + added.flatten(1, 2).mT
        return y, s4.s4d_states(A, B, dt, x, self.kernel.rule, state)

    def step(
        self, u: Float[Tensor, "batch d_model"], state: Complex[Tensor, "batch d_model n"] | None = None
    ) -> tuple[Float[Tensor, "batch width"], Complex[Tensor, "batch d_model n"]]:
        """One position: the output, and the state to hand to the next.

        Raises:
            HyenaError: the layer reads from both sides.
        """
        self._one_way()
        Abar, Bbar, C = self.kernel.recurrence()
        state = torch.zeros_like(Bbar).expand(len(u), -1, -1) if state is None else state
        if self.kernel.mode == "diag":
            state = Abar * state + Bbar * u[..., None]
            y = 2 * torch.einsum("chn,bhn->bch", C, state).real
        else:
            state = torch.einsum("hmn,bhn->bhm", Abar, state) + Bbar * u[..., None]
            y = torch.einsum("chn,bhn->bch", C, state).real
        return (y + self.D * u[:, None]).flatten(1), state

    def _one_way(self) -> None:
        if self.bidirectional:
            raise HyenaError("a bidirectional layer needs the whole sequence: it has no steps and no chunks")


class S4Block(nn.Module):
    """State spaces, GELU, dropout (one mask for all positions), and a linear layer with GLU.

    Arguments: as `S4Conv`.
    """

    def __init__(self, d_model: int, *, channels: int = 1, dropout: float = 0.0, **options):
        super().__init__()
        self.layer = S4Conv(d_model, channels=channels, **options)
        self.dropout = nn.Dropout1d(dropout)
        self.output_linear = nn.Sequential(nn.Linear(d_model * channels, 2 * d_model), nn.GLU(-1))

    def forward(
        self, u: Float[Tensor, "batch length d_model"], rate: float = 1.0
    ) -> Float[Tensor, "batch length d_model"]:
        """`rate` as in `S4Kernel`."""
        x = F.gelu(self.layer(u, rate))
        return self.output_linear(self.dropout(x.mT).mT)

    def step(
        self, u: Float[Tensor, "batch d_model"], state: Complex[Tensor, "batch d_model n"] | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], Complex[Tensor, "batch d_model n"]]:
        """One position, without dropout: the output, and the state to hand to the next."""
        y, state = self.layer.step(u, state)
        return self.output_linear(F.gelu(y)), state


class S4Model(nn.Module):
    """Linear, pre-norm residual `S4Block`s, LayerNorm, linear: for classification (mean) or one output per position.

    Arguments:
        d_input, d_output: width of inputs and outputs.
        n_layer: number of blocks.
        pool: "mean" over positions, or "none".
        options: of the blocks.
    """

    def __init__(
        self, d_input: int, d_output: int, d_model: int, n_layer: int, *, pool: str = "mean", dropout: float = 0.0,
        **options,
    ):  # fmt: skip
        super().__init__()
        if pool not in ("mean", "none"):
            raise unknown("pool", pool, ("mean", "none"))
        self.pool = pool
        self.encoder, self.decoder = nn.Linear(d_input, d_model), nn.Linear(d_model, d_output)
        self.blocks = nn.ModuleList(S4Block(d_model, dropout=dropout, **options) for _ in range(n_layer))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layer))
        self.dropout, self.norm = nn.Dropout1d(dropout), nn.LayerNorm(d_model)

    def forward(self, u: Float[Tensor, "batch length d_input"], rate: float = 1.0) -> Tensor:
        """(batch, d_output) with a pool, (batch, length, d_output) without."""
        x = self.encoder(u)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + self.dropout(block(norm(x), rate).mT).mT
        x = self.norm(x)
        return self.decoder(x.mean(1) if self.pool == "mean" else x)


def _copies(x: Tensor, n_ssm: int) -> Tensor:
    return x.to(torch.get_default_dtype()).expand(n_ssm, *x.shape).clone()
