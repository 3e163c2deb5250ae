"""T1 beside a correct FNO as the grid grows, and the solver that makes its data: `hyena bench t1`.

- *sizes*: forward and training step (loss, gradients, AdamW), of networks of equal width, layers and modes per axis,
  on `BATCH` fields of one channel. T1's step includes the transform of its input; that of the target is made once (T1)
  or in every step (*uncached*). *padded* is the released form of T1, which computes the same numbers on the whole
  grid: what every layer says is written into zeros, and the head reads every pixel. *textbook* is the FNO with whole
  transforms, as in Li's code, in place of axes that are cut one by one. Ratios are of the FNO's time to T1's; above 1,
  T1 is faster.
- *steps*: a training step of every network of the quick profile of the tasks, and of the long one of Navier-Stokes,
  in units of T1's: what equal training time means.
- *solver*: a step of RK4 with integrating factor and one of Crank-Nicolson with Euler, the scheme of the released data,
  `FIELDS` vorticities of `SIDE` x `SIDE`, and the time that 200 of them take to T = 50 at `DT`.

Medians over rounds in which all are timed, so that drift cancels.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.fluids import Square, gaussian_field, kolmogorov_force, vorticity
from hyena.experiments.base import experiment
from hyena.experiments.t1.networks import relative_errors
from hyena.experiments.t1.video import CONTEXT, coefficient_loss, grid_loss
from hyena.measure import forward, medians, significant
from hyena.models.fno import FNO, SpectralConv, channel_products, with_coordinates
from hyena.models.lm import count_parameters
from hyena.models.t1 import T1, Spectral, relative_l2, target
from hyena.ops.dct import dct
from hyena.paths import root, write_atomically

SIZES, WHOLE = (32, 64, 128, 256, 512), 256  # up to WHOLE also the padded and the textbook form
BATCH, WIDTH, MODES, LAYERS = 4, 20, 12, 4  # width, modes and layers of Li's network
SIDE, FIELDS, DT, EVERY = 64, 20, 0.035, 20  # the step that `hyena.data.flows.navier_stokes` takes there
TRAINED = (("quick", "navier_stokes", 1), ("quick", "airfoil", 3), ("quick", "waves", 1), ("quick", "plume", CONTEXT))
TRAINED += (("long", "navier_stokes", 1),)
EQUAL = ("quick", "navier_stokes", "fno")  # about as many parameters as T1
ROUNDS = 5


def main(device: str = "cpu") -> str:
    """Run every case, write `benchmarks/results/t1.<device>.json` and return the table."""
    sizes = [size_row(size, device) for size in SIZES]
    steps = [row for case in TRAINED for row in step_rows(*case, device)]
    solver = solver_row(device)
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    about |= {"batch": BATCH, "width": WIDTH, "modes": MODES, "layers": LAYERS}
    metrics = {f"{key.replace(' ', '_')}_{row['size']}": row[key] for row in sizes for key in row if key in RATIOS}
    metrics["step_equal_parameters"] = next(
        row["times t1"] for row in steps if (row["profile"], row["task"], row["network"]) == EQUAL
    )
    metrics |= {"solver_minutes": solver["minutes, 200 to T = 50"], "solver_gain": solver["times slower by CN, all"]}
    stored = {"about": about, "sizes": sizes, "steps": steps, "solver": [solver], "metrics": metrics}
    write_atomically(root() / "benchmarks" / "results" / f"t1.{device}.json", json.dumps(stored, indent=1) + "\n")
    return "\n".join(json.dumps(row) for row in (*sizes, *steps, solver))


RATIOS = ("forward", "step", "step uncached", "step textbook", "step padded")


def size_row(size: int, device: str) -> dict[str, float]:
    """How many times as long as T1 the others take on a grid."""
    torch.manual_seed(0)
    grid, modes = (size, size), (MODES, MODES)
    t1, fno = T1(1, 1, modes, WIDTH, LAYERS, grid, init="depth").to(device), FNO(1, 1, modes, WIDTH, LAYERS).to(device)
    x, y = torch.randn(2, BATCH, 1, size, size, device=device)
    kept = target(y, modes)
    ours = [
        lambda: forward(lambda: t1.predict(x)), training(t1, lambda: relative_l2(t1(x), *kept)),
        training(t1, lambda: relative_l2(t1(x), *target(y, modes))),
    ]  # fmt: skip
    theirs = [lambda: forward(lambda: fno(x)), training(fno, lambda: relative_errors(fno(x), y, 1).mean())]
    if size <= WHOLE:
        theirs += [
            training(fno, lambda: relative_errors(textbook_fno(fno, x), y, 1).mean()),
            training(t1, lambda: relative_errors(padded_t1(t1, x), dct(y, (-2, -1)), 1).mean()),
        ]
    read, step, uncached, other_read, other, *whole = medians([*ours, *theirs], ROUNDS, device)
    row = {"t1 step, seconds": step, "fno step, seconds": other}
    row |= {"forward": other_read / read, "step": other / step, "step uncached": other / uncached}
    if whole:
        row |= {"step textbook": whole[0] / step, "step padded": other / whole[1]}
    return {"size": size} | {key: significant(value) for key, value in row.items()}


def step_rows(profile: str, name: str, channels: int, device: str) -> list[dict[str, object]]:
    """Seconds of a training step of every network of an experiment, each once, and the ratio to T1's."""
    made = experiment("t1", name).configured(profile)
    grid = (made.size,) * (1 if name == "waves" else 2)
    torch.manual_seed(0)
    kinds = [kind for kind in made.operators if not kind.endswith(("_as_long", "_as_short"))]
    nets = {kind: made.network(kind, channels, 1, grid, 0).to(device) for kind in kinds}
    frames = CONTEXT + made.train_rollout if name == "plume" else channels
    x = torch.rand(made.batch_size, frames, *grid, device=device)
    losses = [_of_film(net, x) if name == "plume" else _of_map(net, x, x[:, :1]) for net in nets.values()]
    times = medians([training(net, loss) for net, loss in zip(nets.values(), losses, strict=True)], ROUNDS, device)
    return [
        {
            "profile": profile, "task": name, "network": kind, "parameters": count_parameters(net),
            "seconds": significant(t), "times t1": significant(t / times[0]),
        }
        for (kind, net), t in zip(nets.items(), times, strict=True)
    ]  # fmt: skip


def solver_row(device: str) -> dict[str, float]:
    """A step of both schemes; Crank-Nicolson and Euler take 35 times as many, of 1e-3, for a worse error."""
    w = gaussian_field(FIELDS, SIDE, torch.Generator().manual_seed(0)).float().to(device)
    force = kolmogorov_force(SIDE, w)
    runs = [lambda: vorticity(w, force, 1e-3, DT, EVERY, 1), lambda: crank_nicolson_euler(w, force, 1e-3, 1e-3, EVERY)]
    rk4, cn = (t / EVERY for t in medians(runs, ROUNDS, device))
    return {
        "size": SIDE, "fields": FIELDS, "rk4, seconds a step": significant(rk4), "cn, seconds a step": significant(cn),
        "minutes, 200 to T = 50": significant(rk4 * 50 / DT * 200 / FIELDS / 60),
        "times slower by CN, all": significant(cn * DT / 1e-3 / rk4),
    }  # fmt: skip


def crank_nicolson_euler(w: Tensor, force: Tensor, viscosity: float, dt: float, steps: int) -> Tensor:
    """The scheme of the released data: advection by Euler in its advective form, viscosity by Crank-Nicolson."""
    waves = Square(w.shape[-1], w)
    W, f, decay = waves.to(w), waves.to(force), dt / 2 * viscosity * waves.square
    for _ in range(steps):
        (u, v), x, y = waves.velocity(W), waves.back(1j * waves.kx * W), waves.back(1j * waves.ky * W)
        advected = waves.keep * waves.to(u * x + v * y)
        W = ((1 - decay) * W + dt * (f - advected)) / (1 + decay)
    return waves.back(W)


def padded_t1(net: T1, x: Tensor) -> Tensor:
    """The released form, coefficients of the whole grid."""
    z = dct(at_every_point(net.lift.weight, with_coordinates(x, net.coordinates), net.lift.bias), (-2, -1))
    block = (..., slice(0, net.modes[0]), slice(0, net.modes[1]))
    for layer in net.layers:
        full = torch.zeros_like(z)
        full[block] = layer(z[block])
        z = full
    return at_every_point(net.head[1], torch.sin(at_every_point(net.head[0], z)))


def at_every_point(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """One matrix between channels, as fast as the FNO's (`hyena.models.fno.Pointwise`)."""
    wide, points = weight.expand(len(x), -1, -1), x.flatten(2)
    return (wide @ points if bias is None else torch.baddbmm(bias[:, None], wide, points)).unflatten(2, x.shape[2:])


def textbook_fno(net: FNO, x: Tensor) -> Tensor:
    """The same network with transforms of everything."""
    v = net.lift(with_coordinates(x, net.coordinates))
    for i, (conv, mix) in enumerate(zip(net.convs, net.mixes, strict=True)):
        v = textbook_conv(conv, v) + mix(v)
        v = F.gelu(v) if i + 1 < len(net.convs) else v
    return net.head(v)


def textbook_conv(conv: SpectralConv, x: Tensor) -> Tensor:
    """Corners of the whole spectrum, mixed into an array of zeros."""
    X, R, (m, n) = torch.fft.rfft2(x), torch.view_as_complex(conv.weight), conv.modes
    Y = torch.zeros_like(X)
    Y[:, :, :m, :n] = channel_products(X[:, :, :m, :n], R[:m])
    Y[:, :, -m:, :n] = channel_products(X[:, :, -m:, :n], R[m:])
    return torch.fft.irfft2(Y, s=x.shape[2:])


def training(net: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step of AdamW."""
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def _of_film(net: nn.Module, film: Tensor) -> Callable[[], Tensor]:
    loss = coefficient_loss if isinstance(net, Spectral) else grid_loss
    return lambda: loss(net, film)


def _of_map(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    if isinstance(net, Spectral):
        kept = target(y, net.modes, net.basis)
        return lambda: relative_l2(net(x), *kept)
    return lambda: relative_errors(net(x), y, 1).mean()


if __name__ == "__main__":
    print(main())
