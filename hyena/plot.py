"""The one house style of figures, and the way a notebook shows one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyena.paths import write_atomically

_PALETTE = sns.color_palette("colorblind").as_hex()
COLOUR = {  # one colour per operator in every notebook
    "hyena": _PALETTE[0],
    "attention": "#6e6e6e",
    "first": _PALETTE[1],
}
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


def band(ax: Axes, x: np.ndarray, runs: np.ndarray, text: str, colour: str) -> None:
    """Mean over seeds with its range; `runs` is (seeds, points). One seed is drawn as it is."""
    mean = runs.mean(0)
    ax.plot(x, mean, color=colour)
    if len(runs) > 1:
        ax.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.15, lw=0)
    label_end(ax, x, mean, text, colour)


def matrix(ax: Axes, values: np.ndarray, title: str) -> None:
    """A non-negative matrix as an image, row 0 on top."""
    image = ax.imshow(values, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest", vmin=0, vmax=values.max())
    ax.grid(False)
    ax.set_title(title)
    ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02)


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
