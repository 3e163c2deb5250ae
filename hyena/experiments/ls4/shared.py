"""What the experiments with generators share: the networks and how one is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyena.data.panels import Panel
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Trial
from hyena.experiments.spacetime.seeds import EverySeed
from hyena.models.generators import RNNVAE, LatentODE
from hyena.models.ls4 import LS4, Bound
from hyena.train import Row, Run, train

NETWORKS = ("ls4", "latent_ode", "rnn_vae")


@dataclass(frozen=True)
class Generators(EverySeed):
    """Fields of the networks; all minimise `hyena.models.ls4.Bound.loss` with one weight of the KL.

    Defaults are those of the released Monash configurations (Section 5.1), except that the learning rate falls
    by a cosine instead of at plateaus, gradients are clipped at norm 1, and there is no moving average of parameters.
    LS4 has a latent vector of `z_dim` for each step, the others one of `z_series` for each series. The latent ODE has
    `ode_share` times as many steps, as for equal training time. With a `pool` of 0 the networks have one level.
    """

    may_be_zero: ClassVar[tuple[str, ...]] = ("warmup", "pool")

    operators: tuple[str, ...] = NETWORKS
    z_dim: int = 5
    kl_weight: float = 0.2  # 1 / z_dim
    z_series: int = 16
    d_model: int = 64
    d_state: int = 64
    n_layer: int = 4
    pool: int = 1
    mode: str = "dplr"
    d_rival: int = 64
    steps: int = 10_000
    ode_share: float = 1.0
    warmup: int = 0
    evaluations: int = 10
    batch_size: int = 64
    lr: tuple[float, ...] = (1e-3,)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.operators:
            if kind not in NETWORKS:
                raise unknown("generator", kind, NETWORKS)

    def network(
        self, kind: str, length: int, sigma: float, seed: int, d_input: int = 1, bidirectional: bool = False,
        unit: float = 1.0,
    ) -> nn.Module:  # fmt: skip
        """An untrained generator of series of one channel, initialised by `seed`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "ls4":
                levels = (self.pool,) if self.pool else ()
                return LS4(
                    d_input, z_dim=self.z_dim, d_model=self.d_model, d_state=self.d_state, n_layer=self.n_layer,
                    pool=levels, mode=self.mode, l_max=length, sigma=sigma, bidirectional=bidirectional, unit=unit,
                )  # fmt: skip
            options = {"z_dim": self.z_series, "d_model": self.d_rival, "sigma": sigma, "unit": unit}
            if kind == "latent_ode":
                return LatentODE(d_input, horizon=unit * length, **options)
            return RNNVAE(d_input, **options)

    def fit(
        self, network: nn.Module, kind: str, lr: float, run: Run, seed: int, name: str,
        batch: Callable[[int], tuple[Tensor, ...]], bound: Callable[..., Bound],
        validate: Callable[[nn.Module], float], test: Callable[[nn.Module], float],
    ) -> Trial:  # fmt: skip
        """Train at one rate; `validate` gives an error (lower is better), which the rate is chosen by."""
        steps = max(1, round(self.steps * (self.ode_share if kind == "latent_ode" else 1)))
        recipe = self.recipe(steps, self.warmup, lr, max(1, steps // self.evaluations))

        def loss(*parts) -> Tensor:
            return bound(*parts).loss(self.kl_weight)

        def evaluate(model: nn.Module) -> Row:
            return {"validation": validate(model)}

        training = f"{name} {kind} lr {lr:g} seed {seed}"
        curve = train(network, batch, loss, recipe, replace(run, seed=seed), training, evaluate=evaluate)
        return Trial(lr, -curve[-1]["validation"], test(network.eval()), network, curve)


def training_name(panel: Panel) -> str:
    """The panel's name and the first letters of its files' hashes, so that other data never resumes a training."""
    return " ".join([panel.name, *(digest[:8] for digest in panel.data.values())])


@torch.no_grad()
def drawn(model: nn.Module, count: int, length: int, seed: int) -> Float[np.ndarray, "count length 1"]:
    """New series, the decoder's means."""
    return model.generate(count, length, torch.Generator().manual_seed(seed)).cpu().numpy()


@torch.no_grad()
def bound_per_value(model: nn.Module, x: Tensor, seed: int) -> float:
    """The true negative bound in nats per value, at one sample of the posterior."""
    device = next(model.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return float(model(x.to(device)).negative_elbo().mean()) / x[0].numel()


def one_each(name: str, values: tuple, wanted: tuple) -> None:
    """Refuse a tuple of settings that is not as long as the names it belongs to."""
    if len(values) != len(wanted):
        raise HyenaError(f"{name} takes one value for each of {', '.join(wanted)}; got {len(values)}")
