"""The layers of LS4: state spaces that convolve, walk irregular times or take single steps, and their arrangement."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.s4 import S4Block
from hyena.ops.fftconv import causal_conv
from hyena.ops.irregular import irregular_response, irregular_states
from hyena.ops.s4 import discretised
from hyena.ops.vandermonde import blocked_kernel


class SSM(S4Block):
    """`hyena.models.s4.S4Block`, A per feature; walks irregular times too, and keeps its recurrence between steps."""

    def __init__(self, d_model: int, d_state: int = 64, *, mode: str = "diag", l_max: int | None = None):
        super().__init__(d_model, d_state=d_state, n_ssm=d_model, mode=mode, l_max=l_max if mode == "dplr" else None)

    def forward(
        self, u: Float[Tensor, "batch length d_model"], gap: Float[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length d_model"]:
        """`gap` as of `hyena.ops.irregular.gaps`; a regular grid, by convolution, if not given.

        Raises:
            HyenaError: irregular times for a state space that is not diagonal.
        """
        if gap is None and self.layer.kernel.mode == "dplr":
            return super().forward(u)
        A, B, C, dt = self._diagonal()
        if gap is None:
            y = causal_conv(u.mT, blocked_kernel(A, B, C[0], dt, u.shape[1]), self.layer.D[0]).mT
        else:
            y = irregular_response(A, B, C[0], dt, gap, u) + self.layer.D[0] * u
        return self.output_linear(F.gelu(y))

    def start(self, batch: int) -> list[Tensor]:
        """The recurrence and the state before the first step."""
        Abar, Bbar, C = self.layer.kernel.recurrence()
        return [torch.zeros_like(Bbar).repeat(batch, 1, 1), Abar, Bbar, C[0]]

    def step(
        self, u: Float[Tensor, "batch d_model"], state: list[Tensor], gap: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch d_model"]:
        """One position; `state[0]` is replaced."""
        x, Abar, Bbar, C = state
        if gap is not None:
            A, B, _, dt = self._diagonal()
            Abar, gain = discretised(A, gap[:, None] * dt)
            Bbar = gain * B
        if self.layer.kernel.mode == "diag":
            state[0] = Abar * x + Bbar * u[..., None]
            y = 2 * torch.einsum("hn,bhn->bh", C, state[0]).real
        else:
            state[0] = torch.einsum("hmn,bhn->bhm", Abar, x) + Bbar * u[..., None]
            y = torch.einsum("hn,bhn->bh", C, state[0]).real
        return self.output_linear(F.gelu(y + self.layer.D[0] * u))

    def _diagonal(self) -> tuple[Tensor, ...]:
        if self.layer.kernel.mode != "diag":
            raise HyenaError("irregular times need a diagonal state space, whose steps can have any length: mode diag")
        return self.layer.kernel.system()


class TwoInputSSM(nn.Module):
    r"""A diagonal state space of two inputs and two outputs, for each feature.

    $$h' = A h + B u + E x, \qquad y = 2\, \mathrm{Re}(C h) + D u + F x, \qquad
    \tilde y = 2\, \mathrm{Re}(\tilde C h) + \tilde D u + \tilde F x$$

    with $B = 1$: one state that both inputs drive, so that each output is two convolutions. GELU, a linear layer and
    GLU follow, with weights of their own for each output (official code, S4DJoint; in none of its configurations).

    Arguments:
        d_model: features of either input.
        d_state: size of the state, even; half as many modes are stored.
        dt_min, dt_max: range of the first step sizes.
        lr: learning rate of step and A, which have no weight decay.
    """

    def __init__(
        self, d_model: int, d_state: int, *, dt_min: float = 0.001, dt_max: float = 0.1, lr: float | None = 0.001
    ):
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise HyenaError(f"d_state is even, since modes come in conjugate pairs; got {d_state}")
        modes = d_state // 2
        self.log_dt = nn.Parameter(torch.rand(d_model) * math.log(dt_max / dt_min) + math.log(dt_min))
        self.log_A_real = nn.Parameter(torch.full((d_model, modes), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(modes).float().repeat(d_model, 1))
        for parameter in (self.log_dt, self.log_A_real, self.A_imag):
            parameter._optim = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})
        self.C, self.C_aux = (nn.Parameter(_ones(d_model, modes)) for _ in range(2))
        self.E = nn.Parameter(torch.randn(d_model, modes, 2) / math.sqrt(2))
        self.skips = nn.Parameter(torch.randn(2, 2, d_model))  # of (u, x) in (y, y_aux)
        self.outputs = nn.ModuleList(nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.GLU(-1)) for _ in range(2))

    def system(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A and E (d_model, modes), C of both outputs (2, d_model, modes), and dt (d_model,)."""
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        C = torch.view_as_complex(torch.stack([self.C, self.C_aux]))
        return A, torch.view_as_complex(self.E), C, self.log_dt.exp()

    def kernels(self, length: int) -> Float[Tensor, "outputs inputs d_model length"]:
        """Taps from (u, x) to (y, y_aux)."""
        A, E, C, dt = self.system()
        drive = torch.stack([torch.ones_like(E), E])
        return blocked_kernel(A, drive, C[:, None], dt, length)

    def forward(
        self,
        u: Float[Tensor, "batch length d_model"],
        x: Float[Tensor, "batch length d_model"],
        gap: Float[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Float[Tensor, "batch length d_model"]]:
        """By convolution on a regular grid, by one walk for each input along irregular times."""
        if gap is None:
            both = torch.cat([u, x], -1).mT.repeat(1, 2, 1)  # (batch, outputs x inputs x d_model, length)
            taps = self.kernels(u.shape[1]).flatten(0, 2)
            y = causal_conv(both, taps, self.skips.flatten()).unflatten(1, (2, 2, -1)).sum(2).movedim(1, 0).mT
        else:
            A, E, C, dt = self.system()
            h = irregular_states(A, torch.ones_like(E), dt, gap, u) + irregular_states(A, E, dt, gap, x)
            y = 2 * torch.einsum("lbhn,ohn->oblh", h, C).real + self._direct(u, x)
        return self._read(y)

    def start(self, batch: int) -> list[Tensor]:
        """The state before the first step."""
        A = self.system()[0]
        return [torch.zeros_like(A).repeat(batch, 1, 1)]

    def step(
        self, u: Float[Tensor, "batch d_model"], x: Float[Tensor, "batch d_model"], state: list[Tensor],
        gap: Float[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch d_model"]]:  # fmt: skip
        """One position; `state[0]` is replaced."""
        A, E, C, dt = self.system()
        Abar, gain = discretised(A, dt if gap is None else gap[:, None] * dt)
        state[0] = Abar * state[0] + gain * (u[..., None] + E * x[..., None])
        return self._read(2 * torch.einsum("bhn,ohn->obh", state[0], C).real + self._direct(u, x))

    def _direct(self, u: Tensor, x: Tensor) -> Tensor:
        return torch.stack([skip[0] * u + skip[1] * x for skip in self.skips])

    def _read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        main, aux = (out(F.gelu(some)) for out, some in zip(self.outputs, y, strict=True))
        return main, aux


class Layer(nn.Module):
    """Two pre-norm residual blocks: a state space, and a feed-forward network."""

    def __init__(self, d_model: int, ff: int, **options):
        super().__init__()
        self.ssm = nn.ModuleList([nn.LayerNorm(d_model), SSM(d_model, **options)])
        self.feed = nn.Sequential(nn.LayerNorm(d_model), feed_forward(d_model, ff))

    def forward(self, x: Float[Tensor, "batch length d_model"], gap: Tensor | None = None) -> Tensor:
        norm, ssm = self.ssm
        x = x + ssm(norm(x), gap)
        return x + self.feed(x)

    def start(self, batch: int) -> list[Tensor]:
        return self.ssm[1].start(batch)

    def step(self, x: Float[Tensor, "batch d_model"], state: list[Tensor], gap: Tensor | None = None) -> Tensor:
        norm, ssm = self.ssm
        x = x + ssm.step(norm(x), state, gap)
        return x + self.feed(x)


class Core(nn.Module):
    """Layers, and around all of them one more residual connection."""

    def __init__(self, d_model: int, n_layer: int, ff: int, **options):
        super().__init__()
        self.layers = nn.ModuleList(Layer(d_model, ff, **options) for _ in range(n_layer))

    def forward(self, x: Float[Tensor, "batch length d_model"], gap: Tensor | None = None) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y, gap)
        return x + y

    def start(self, batch: int) -> list:
        return [layer.start(batch) for layer in self.layers]

    def step(self, x: Float[Tensor, "batch d_model"], state: list, gap: Tensor | None = None) -> Tensor:
        y = x
        for layer, some in zip(self.layers, state, strict=True):
            y = layer.step(y, some, gap)
        return x + y


class Pool(nn.Module):
    """Another, wider arrangement on a grid `factor` times as coarse, whose output a `Core` reads beside the input.

    What the coarse grid says of a group of steps is handed to the group after it, so that nothing is seen early.
    """

    def __init__(self, d_model: int, n_layer: int, ff: int, pool: tuple[int, ...], expand: int, **options):
        super().__init__()
        self.factor, *rest = pool
        wide = expand * d_model
        self.down, self.up = nn.Linear(d_model * self.factor, wide), nn.Linear(wide, d_model * self.factor)
        self.inner = arranged(wide, n_layer, ff, tuple(rest), expand, **options)
        self.core = Core(d_model, n_layer, ff, **options)

    def forward(self, x: Float[Tensor, "batch length d_model"], gap: Tensor | None = None) -> Tensor:
        if gap is not None:
            raise HyenaError("irregular times cannot be pooled into groups of steps: use pool=()")
        if x.shape[1] % self.factor:
            raise HyenaError(f"a length of {x.shape[1]} is not divided by the pool of {self.factor}: pad the series")
        groups = x.unflatten(1, (-1, self.factor)).mT.flatten(2)  # (batch, groups, d_model x factor)
        coarse = self.up(self.inner(self.down(groups)))
        late = F.pad(coarse, (0, 0, 1, -1)).unflatten(2, (-1, self.factor)).mT.flatten(1, 2)
        return self.core(x + late)

    def start(self, batch: int) -> dict:
        empty = self.down.weight.new_zeros(batch, self.down.in_features // self.factor, self.factor)
        return {"inner": self.inner.start(batch), "core": self.core.start(batch), "said": empty, "group": []}

    def step(self, x: Float[Tensor, "batch d_model"], state: dict, gap: Tensor | None = None) -> Tensor:
        if gap is not None:
            raise HyenaError("irregular times cannot be pooled into groups of steps: use pool=()")
        y = self.core.step(x + state["said"][..., len(state["group"])], state["core"])
        state["group"].append(x)
        if len(state["group"]) == self.factor:
            group = torch.stack(state["group"], -1).flatten(1)
            said = self.up(self.inner.step(self.down(group), state["inner"]))
            state["said"], state["group"] = said.unflatten(1, (-1, self.factor)), []
        return y


class Backbone(nn.Module):
    """Levels of `Pool` around a `Core`, and a LayerNorm: as SaShiMi (Goel et al. 2022, arXiv 2202.09729), Section 4."""

    def __init__(
        self, d_model: int, *, n_layer: int = 4, pool: tuple[int, ...] = (1,), expand: int = 2, ff: int = 2, **options
    ):
        super().__init__()
        self.stack = arranged(d_model, n_layer, ff, pool, expand, **options)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Float[Tensor, "batch length d_model"], gap: Tensor | None = None) -> Tensor:
        return self.norm(self.stack(x, gap))

    def start(self, batch: int):
        return self.stack.start(batch)

    def step(self, x: Float[Tensor, "batch d_model"], state, gap: Tensor | None = None) -> Tensor:
        return self.norm(self.stack.step(x, state, gap))


class GaussianHead(nn.Module):
    """A linear map to `width` latents, then one state space for their means and one for the log of their deviations."""

    def __init__(self, d_model: int, width: int, **options):
        super().__init__()
        self.linear = nn.Linear(d_model, width)
        self.mean, self.log_std = SSM(width, **options), SSM(width, **options)

    def forward(self, x: Float[Tensor, "batch length d_model"], gap: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.linear(x)
        return self.mean(h, gap), self.log_std(h, gap).exp()

    def start(self, batch: int) -> list[list[Tensor]]:
        return [self.mean.start(batch), self.log_std.start(batch)]

    def step(self, x: Float[Tensor, "batch d_model"], state: list, gap: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.linear(x)
        return self.mean.step(h, state[0], gap), self.log_std.step(h, state[1], gap).exp()


def arranged(d_model: int, n_layer: int, ff: int, pool: tuple[int, ...], expand: int, **options) -> Core | Pool:
    """The levels that `pool` asks for."""
    return Pool(d_model, n_layer, ff, pool, expand, **options) if pool else Core(d_model, n_layer, ff, **options)


def feed_forward(d_model: int, ff: int) -> nn.Sequential:
    """Linear, GELU, linear, `ff` times as wide in between."""
    return nn.Sequential(nn.Linear(d_model, ff * d_model), nn.GELU(), nn.Linear(ff * d_model, d_model))


def _ones(d_model: int, modes: int) -> Tensor:
    return torch.stack([torch.ones(d_model, modes), torch.zeros(d_model, modes)], -1)
