"""The one house style of figures, and the way a notebook shows one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from hyena.paths import write_atomically

_PALETTE = sns.color_palette("colorblind").as_hex()
COLOUR = {  # one colour per operator in every notebook
    "hyena": _PALETTE[0],
    "attention": "#6e6e6e",
    "conv1d": _PALETTE[1],
    "h3": _PALETTE[2],
    "rwkv": _PALETTE[3],
    "aft_conv": _PALETTE[4],
    "gss": _PALETTE[5],
    "fno": _PALETTE[6],
    "ssm": _PALETTE[7],
    "transfer_function": _PALETTE[8],
    "ckconv": _PALETTE[9],
    "first": _PALETTE[1],
    "spacetime": "#004949",
    "s4d": "#b66dff",
    "s4": "#db6d00",
    "lstm": "#920000",
    "transformer": "#a6a6a6",
    "nlinear": "#006ddb",
    "dlinear": "#6db6ff",
    "ar": "#e69f00",
    "naive": "#ff6db6",
    "s4nd": "#490092",
    "s4nd_1": "#8a3ffc",
    "s4nd_0.5": "#009e9e",
    "s4nd_0.2": "#74c7c7",
    "conv": "#924900",
    "ls4": "#0f62fe",
    "latent_ode": "#d12771",
    "rnn_vae": "#198038",
    "t1": "#fa4d56",
    "t1_fourier": "#570408",
    "t1u": "#f1c21b",
    "ffno": "#9f1853",
    "unet": "#525252",
    "ln": "#8c6d31",
    "ln_rbf": "#e7ba52",
    "glm": "#637939",
    "cnn": "#ad494a",
}
LETTERS = {"A": _PALETTE[2], "C": _PALETTE[0], "G": _PALETTE[1], "T": _PALETTE[3], "N": "#6e6e6e"}
SEQUENTIAL = "mako_r"


def use_style() -> None:
    """Set the house style; the first cell of every notebook calls it."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.85)
    plt.rcParams.update({
        "figure.dpi": 120, "savefig.dpi": 150, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.alpha": 0.3, "lines.linewidth": 1.6, "legend.frameon": False,
        "figure.constrained_layout.use": True, "svg.hashsalt": "hyena", "font.family": "DejaVu Sans",
    })  # fmt: skip


def show(fig: Figure, name: str, caption: str, beside: str) -> None:
    """Show a figure in the notebook with its caption; keep it as a file when the pipeline asks for files.

    `hyena notebook` and `hyena figures` set `HYENA_FIGURES` to the folder, `HYENA_FIGURE_FORMAT` to png, pdf or
    svg and `HYENA_FIGURE_NAME` to a single figure's name; without them nothing is written.

    Arguments:
        name: file name without ending.
        caption: what the figure shows.
        beside: the figure or table of the paper that it stands beside.
    """
    from IPython.display import Markdown, display

    folder = os.environ.get("HYENA_FIGURES")
    if folder and os.environ.get("HYENA_FIGURE_NAME", name) == name:
        _keep(fig, Path(folder), name, caption, beside)
    plt.show()
    display(Markdown(f"*{caption}* Beside: {beside}."))


def label_end(ax: Axes, x: np.ndarray, y: np.ndarray, text: str, colour: str) -> None:
    """A direct label at the right end of a line."""
    ax.annotate(text, (x[-1], y[-1]), xytext=(5, 0), textcoords="offset points", color=colour, va="center")


def curves(ax: Axes, table: pd.DataFrame, metric: str, per: int = 1) -> None:
    """A metric of every operator while training, mean and range over seeds; one that stopped early stays level.

    Arguments:
        table: rows with operator, seed, step and the metric.
        per: steps per unit of the horizontal axis.
    """
    for operator, rows in table.groupby("operator", sort=False):
        runs = rows.pivot(index="seed", columns="step", values=metric).ffill(axis=1)
        x, colour = runs.columns.to_numpy() / per, COLOUR[operator]
        ax.plot(x, runs.mean(), color=colour, label=operator)
        ax.fill_between(x, runs.min(), runs.max(), color=colour, alpha=0.15, lw=0)


def ratios(ax: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    """Columns of speed ratios against the index, a length, on log axes with the break-even line; labelled directly."""
    for name, colour in colours.items():
        column = table[name].dropna()
        ax.loglog(column.index, column, marker="o", ms=4, color=colour)
        label_end(ax, column.index, column.to_numpy(), name, colour)
    ax.axhline(1, color="k", lw=0.8, ls=":")
    ax.set_xlabel("length $L$ (tokens)")


def heatmap(ax: Axes, table: pd.DataFrame, label: str) -> None:
    """Percentages as colours and numbers."""
    sns.heatmap(
        table, ax=ax, annot=True, fmt=".0f", cmap=SEQUENTIAL, vmin=0, vmax=100, linewidths=0.5,
        cbar_kws={"label": label},
    )  # fmt: skip
    ax.grid(False)


def logo(ax: Axes, letters: str, heights: np.ndarray) -> None:
    """A sequence with each letter as tall as its number, below the line where that is negative."""
    for i, (letter, height) in enumerate(zip(letters, heights, strict=True)):
        shape = TextPath((0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
        box = shape.get_extents()
        scale = Affine2D().translate(-box.x0, -box.y0).scale(0.9 / box.width, height / box.height)
        ax.add_patch(PathPatch(scale.translate(i - 0.45, 0).transform_path(shape), color=LETTERS[letter], lw=0))
    ax.set(xlim=(-0.6, len(letters) - 0.4), ylim=(min(0, 1.05 * heights.min()), 1.05 * heights.max()))
    ax.axhline(0, color="k", lw=0.6)
    ax.grid(False)


def matrix(ax: Axes, values: np.ndarray, title: str) -> None:
    """A non-negative matrix as an image, row 0 on top."""
    image = ax.imshow(values, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest", vmin=0, vmax=values.max())
    ax.grid(False)
    ax.set_title(title)
    ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02)


def wiring(ax: Axes, places: dict[str, tuple[float, float]], edges: list[tuple[str, str, float]]) -> None:
    """A circuit: cells in boxes; arrows excite, T ends inhibit, wider for larger weights.

    Arguments:
        places: of every cell, across and up.
        edges: from, to and weight, negative where it inhibits.
    """
    for source, target, weight in edges:
        style, colour = ("-|>", _PALETTE[0]) if weight > 0 else ("|-|,widthA=0,widthB=.35", _PALETTE[1])
        ax.annotate("", places[target], places[source], arrowprops={
            "arrowstyle": style, "color": colour, "lw": 0.6 + min(1.4, abs(weight)), "shrinkA": 24, "shrinkB": 26,
            "connectionstyle": "arc3,rad=0.08", "mutation_scale": 9,
        })  # fmt: skip
    for name, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": "#6e6e6e", "lw": 0.8}
        ax.text(x, y, name.replace("_", "\n"), ha="center", va="center", fontsize=7, bbox=box, zorder=3)
    across, up = zip(*places.values(), strict=True)
    ax.set(xlim=(min(across) - 0.4, max(across) + 0.4), ylim=(min(up) - 0.5, max(up) + 0.5))
    ax.axis("off")


def axes(columns: int, height: float = 2.9) -> tuple[Figure, np.ndarray]:
    """A figure of the house width with one row of axes."""
    fig, grid = plt.subplots(1, columns, figsize=(8.4, height), squeeze=False)
    return fig, grid[0]


def _keep(fig: Figure, folder: Path, name: str, caption: str, beside: str) -> None:
    kind = os.environ.get("HYENA_FIGURE_FORMAT", "png")
    folder.mkdir(parents=True, exist_ok=True)
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    part = folder / f".{name}.{kind}.part"
    fig.savefig(part, format=kind, metadata=undated, bbox_inches="tight")
    os.replace(part, folder / f"{name}.{kind}")
    captions = folder / "captions.json"
    known = json.loads(captions.read_text()) if captions.exists() else {}
    known[name] = {"caption": caption, "beside": beside, "notebook": os.environ.get("HYENA_NOTEBOOK", "")}
    write_atomically(captions, json.dumps(known, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
