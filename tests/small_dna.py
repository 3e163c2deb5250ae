"""Settings, DNA and tasks that fit on a page."""

from collections.abc import Callable

import numpy as np

from hyena.data.dna import DnaCorpus
from hyena.data.genome import Interval, Loaded
from hyena.data.labelled import Labelled, Task
from hyena.data.nucleotides import BASES, A, N, T, pad

SMALL = {
    "dna": "small", "d_model": 8, "n_layer": 1, "filter_order": 4, "num_heads": 2, "embed_dropout": 0.0, "length": 24,
    "batch_bases": 96, "steps": 4, "warmup": 1, "evaluations": 2, "valid_tiles": 5, "test_tiles": 4, "lr": (0.01,),
    "n_seeds": 1,
}  # fmt: skip
Draw = Callable[[np.random.Generator, int], np.ndarray]  # a sequence of a class


def corpus() -> DnaCorpus:
    letters = np.random.default_rng(0).choice(BASES, 800)
    letters[10::30] = N
    split = {"train": [Interval("r", 0, 400)], "valid": [Interval("r", 400, 600)], "test": [Interval("r", 600, 800)]}
    return DnaCorpus("small", Loaded("small", {"r": letters}), split, {"r": "hash"})


def of_any_length(rng: np.random.Generator, label: int) -> np.ndarray:
    return np.append(rng.choice(BASES, rng.integers(7, 12)), np.uint8((A, T)[label]))


def by_share(rng: np.random.Generator, label: int) -> np.ndarray:
    return rng.choice(BASES, 12, p=((0.7, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.7))[label])


def made(draw: Draw = of_any_length, name: str = "made", length: int = 0, sizes=(35, 10, 20)) -> Task:
    """A task whose two classes take turns, padded to `length`, or to the 12 letters of `of_any_length`."""
    rng, parts = np.random.default_rng(0), []
    for size in sizes:
        sequences = [draw(rng, i % 2) for i in range(size)]
        x, mask = pad(sequences, length or max(12, len(sequences[0])))
        parts.append(Labelled(x, mask, np.arange(size) % 2))
    return Task(name, ("a", "b"), *parts)
