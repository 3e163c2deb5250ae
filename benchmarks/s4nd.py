"""Convolution of a grid with separable kernels, and S4ND beside convolution and attention: `hyena bench s4nd`.

- *forms*: the convolution alone, `CHANNELS` channels, float32, forward and forward + backward: axis by axis (ours)
  against spectra of the grid (real transforms) and against the textbook (the whole kernel written out, complex
  transforms of twice the side); time, and the most memory held. Ratios above 1: axis by axis is cheaper.
- *layers*: S4ND's layer, a dense convolution of 3 x 3 and fused attention over all pixels, forward + backward, width
  `D_MODEL`, as the side of an image grows. Attention is left out above `MOST_PLACES`.
- *steps*: a training step of isotropic classifiers, those of progressive resizing in the quick profile, AdamW
  included, at each side, in units of that at 32.

Medians over rounds in which all are timed, so that drift cancels.
"""

from __future__ import annotations

import json
import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from hyena.data.images import SIDE
from hyena.measure import backward, forward, medians, peak_allocated, significant
from hyena.models.image_classifiers import Attention, Convolution, isotropic
from hyena.models.s4nd import S4ND
from hyena.ops.conv_nd import dense_conv, separable_conv, spectral_conv
from hyena.paths import root, write_atomically

SIDES = (16, 32, 64, 128, 256)
CHANNELS, PLACES = 32, 2**16  # of every batch, so that small images come in larger batches
D_MODEL, MOST_PLACES = 64, 128**2
STEP_SIDES, STEP_BATCH, STEP_WIDTH, STEP_LAYERS, STEP_STATE = (8, 16, 32), 50, 32, 2, 32
SHARE = 0.8  # of a training that progressive resizing spends on the smaller grid
ROUNDS = 5


def main(device: str = "cpu") -> str:
    """Run every case, write `benchmarks/results/s4nd.<device>.json` and return the table."""
    forms = [form_row(side, device) for side in SIDES]
    layers = [row for side in SIDES for row in layer_rows(side, device)]
    steps = step_rows(device)
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    about |= {"channels": CHANNELS, "places": PLACES, "d_model": D_MODEL}
    metrics = {
        f"{name}_{row['side']}": row[f"{name} forward+backward"] for row in forms for name in ("spectral", "textbook")
    }
    metrics |= saved(steps)
    per_place = {row["side"]: row["microseconds per place"] for row in layers if row["layer"] == "s4nd"}
    metrics["growth"] = significant(per_place[max(SIDES)] / per_place[min(SIDES)])
    stored = {"about": about, "forms": forms, "layers": layers, "steps": steps, "metrics": metrics}
    write_atomically(root() / "benchmarks" / "results" / f"s4nd.{device}.json", json.dumps(stored, indent=1) + "\n")
    return "\n".join(json.dumps(row) for row in (*forms, *layers, *steps))


def form_row(side: int, device: str) -> dict[str, float]:
    """Ratios of the other forms to axis by axis."""
    torch.manual_seed(0)
    u = torch.randn(max(1, PLACES // side**2), CHANNELS, side, side, device=device, requires_grad=True)
    kernels = [torch.randn(1, CHANNELS, 2 * side - 1, device=device, requires_grad=True) for _ in range(2)]
    forms = {"separable": separable_conv, "spectral": spectral_conv, "textbook": dense_conv}
    row: dict[str, float] = {"side": side, "batch": len(u)}
    for mode, run in (("forward", forward), ("forward+backward", backward)):
        runs = [lambda f=f, run=run: run(lambda: f(u, kernels)) for f in forms.values()]
        ours, *others = medians(runs, ROUNDS, device)
        row[f"{mode} seconds"] = significant(ours)
        row |= {f"{n} {mode}": significant(t / ours) for n, t in zip(list(forms)[1:], others, strict=True)}
    ours, *others = (peak_allocated(lambda f=f: backward(lambda: f(u, kernels))) for f in forms.values())
    return row | {f"{n} memory": significant(m / ours) for n, m in zip(list(forms)[1:], others, strict=True)}


def layer_rows(side: int, device: str) -> list[dict[str, object]]:
    """Forward + backward of whole layers, and the ratio to S4ND's."""
    torch.manual_seed(0)
    u = torch.randn(max(1, PLACES // side**2), side, side, D_MODEL, device=device, requires_grad=True)
    layers: dict[str, nn.Module] = {"s4nd": S4ND(D_MODEL, (side, side)), "conv": Convolution(D_MODEL, 2)}
    if side**2 <= MOST_PLACES:
        layers["attention"] = Attention(D_MODEL, 4)
    layers = {name: layer.to(device) for name, layer in layers.items()}
    runs = [lambda f=f: backward(lambda: f(u)) for f in layers.values()]
    times = medians(runs, ROUNDS, device)
    held = [peak_allocated(run) for run in runs]
    return [
        {
            "side": side, "layer": name, "microseconds per place": significant(1e6 * t / (len(u) * side**2)),
            "times s4nd": significant(t / times[0]), "memory, times s4nd": significant(m / held[0]),
        }
        for name, t, m in zip(layers, times, held, strict=True)
    ]  # fmt: skip


def step_rows(device: str) -> list[dict[str, object]]:
    """Seconds of a training step of both classifiers at every side."""
    rows = []
    for kind in ("s4nd", "conv"):
        torch.manual_seed(0)
        options = {"d_state": STEP_STATE} if kind == "s4nd" else {}
        model = isotropic(kind, 3, 10, (SIDE, SIDE), d_model=STEP_WIDTH, n_layer=STEP_LAYERS, dropout=0.1, **options)
        optimizer = torch.optim.AdamW(model.to(device).parameters(), fused=True)
        y = torch.arange(STEP_BATCH, device=device) % 10
        images = {side: torch.randn(STEP_BATCH, side, side, 3, device=device) for side in STEP_SIDES}

        def step(x: Tensor, model: nn.Module = model, y: Tensor = y, optimizer: Optimizer = optimizer) -> None:
            F.cross_entropy(model(x, SIDE / x.shape[1]), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        times = medians([lambda x=x: step(x) for x in images.values()], ROUNDS, device)
        rows += [
            {"network": kind, "side": side, "seconds": significant(t), "of that at 32": significant(t / times[-1])}
            for side, t in zip(STEP_SIDES, times, strict=True)
        ]
    return rows


def saved(steps: list[dict[str, object]]) -> dict[str, float]:
    """Percent of the time of a training at 32 that is saved where `SHARE` of the steps run at the side before."""
    cheaper = {row["network"]: row["of that at 32"] for row in steps if row["side"] == STEP_SIDES[-2]}
    return {f"{kind}_saved": significant(100 * SHARE * (1 - ratio)) for kind, ratio in cheaper.items()}


if __name__ == "__main__":
    print(main())
