"""The Hyena operator against attention, whole layers with their projections: `hyena bench attention`.

- *fused*: `CausalAttention`, PyTorch's `scaled_dot_product_attention`, which never forms the matrix of scores;
- *naive*: the same layer with the scores formed and masked, as in the textbook; where its three matrices of L by L
  would take more than `NAIVE_BYTES`, it is not run;
- *hyena*: `HyenaOperator` of order 2, its filters computed anew at every call;
- *kept*: the same with its filters computed once, as in generation or evaluation (forward only).

Batch 1, float32, random input. Ratios above 1 mean that Hyena is faster; of medians over rounds in which all are timed,
so that drift cancels. The crossover is where the ratio passes 1, interpolated in the logarithms of length and ratio.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from hyena.measure import seconds, significant
from hyena.models.attention import CausalAttention
from hyena.models.filters import FixedFilter
from hyena.models.hyena import HyenaOperator
from hyena.paths import root, write_atomically

D_MODEL, NUM_HEADS, FILTER_ORDER = 64, 1, 64
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
NAIVE_BYTES = 4 * 2**30
ROUNDS, SECONDS = 10, 40.0  # at most, of one case; but never fewer than 3 rounds
Layers = dict[str, nn.Module]


class NaiveAttention(CausalAttention):
    """The same layer; the L by L scores are written to memory."""

    def forward(self, u: Tensor) -> Tensor:
        q, k, v = self._heads(u)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=u.device).triu(1)
        return self._merge(scores.masked_fill(future, -math.inf).softmax(-1) @ v)


def main(device: str = "cpu") -> str:
    """Run every length, write `benchmarks/results/attention.<device>.json` and return the table."""
    rows = [row for length in LENGTHS for row in measure(length, device)]
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    about |= {"d_model": D_MODEL, "num_heads": NUM_HEADS, "filter_order": FILTER_ORDER, "batch": 1}
    crossover = {mode: crossing(rows, mode) for mode in ("forward", "forward+backward")}
    metrics = {f"fused_{row['length']}": row["fused"] for row in rows if row["mode"] == "forward"}
    stored = {"about": about, "times slower than hyena": rows, "crossover with fused": crossover, "metrics": metrics}
    text = json.dumps(stored, indent=1)
    write_atomically(root() / "benchmarks" / "results" / f"attention.{device}.json", text + "\n")
    lines = [f"{'length':>7} {'mode':>17} {'fused':>7} {'naive':>7} {'kept':>7}"]
    for row in rows:
        numbers = " ".join("      –" if row[n] is None else f"{row[n]:7.2f}" for n in ("fused", "naive", "kept"))
        lines.append(f"{row['length']:7} {row['mode']:>17} {numbers}")
    return "\n".join([*lines, f"crossover with fused attention: {crossover}"])


def measure(length: int, device: str) -> list[dict[str, object]]:
    """Times of the attentions, and of Hyena with kept filters, in times of Hyena: a row for each mode."""
    torch.manual_seed(0)
    layers = build(length)
    u = torch.randn(1, length, D_MODEL, device=device)
    layers = {name: layer.to(device).eval() for name, layer in layers.items()}

    def forward(layer: nn.Module) -> None:
        with torch.no_grad():
            layer(u)

    def both(layer: nn.Module) -> None:
        layer(u).sum().backward()

    rows = []
    for mode, run in (("forward", forward), ("forward+backward", both)):
        some = {n: m for n, m in layers.items() if mode == "forward" or n != "kept"}
        times = medians(some, run, device)
        ratios = {n: significant(times[n] / times["hyena"]) if n in times else None for n in ("fused", "naive", "kept")}
        rows.append({"length": length, "mode": mode, **ratios})
    return rows


def build(length: int) -> Layers:
    """The layers to compare, by name."""
    hyena = HyenaOperator(D_MODEL, length, filter_order=FILTER_ORDER, emb_dim=5, w=10.0, lr_pos_emb=0.0)
    kept = HyenaOperator(D_MODEL, length, filter_order=FILTER_ORDER, emb_dim=5, w=10.0, lr_pos_emb=0.0)
    with torch.no_grad():
        kept.filter_fn = FixedFilter(hyena.filter_fn(length), hyena.filter_fn.skip())
    layers: Layers = {"hyena": hyena, "kept": kept, "fused": CausalAttention(D_MODEL, NUM_HEADS)}
    if 3 * 4 * NUM_HEADS * length**2 <= NAIVE_BYTES:
        layers["naive"] = NaiveAttention(D_MODEL, NUM_HEADS)
    return layers


def medians(layers: Layers, run: Callable[[nn.Module], None], device: str) -> dict[str, float]:
    """Median seconds of each layer; all are timed in every round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in layers}
    began = time.perf_counter()
    while len(times["hyena"]) < 4 or (len(times["hyena"]) <= ROUNDS and time.perf_counter() - began < SECONDS):
        for name, layer in layers.items():
            times[name].append(seconds(lambda layer=layer: run(layer), device))
    return {name: sorted(some[1:])[(len(some) - 1) // 2] for name, some in times.items()}


def crossing(rows: list[dict[str, object]], mode: str) -> int | None:
    """The length at which fused attention becomes slower than Hyena; none if it does not within the lengths."""
    points = [(row["length"], row["fused"]) for row in rows if row["mode"] == mode]
    for (a, below), (b, above) in pairwise(points):
        if below < 1 <= above:
            share = math.log(1 / below) / math.log(above / below)
            return round(a * (b / a) ** share)
    return None
