"""Learning the next nucleotide: against Markov chains, with longer context, and from short windows to long ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from hyena.data.dna import DnaCorpus, load_dna
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.hyenadna.dna import Dna
from hyena.models.lm import count_parameters
from hyena.models.markov import MarkovChain
from hyena.results import Result, Row
from hyena.train import Run

SMOOTHING = (4.0, 16.0, 64.0, 256.0, 1024.0)  # tried on validation tiles


@dataclass(frozen=True)
class Pretraining(Dna):
    """Figures 1.2 and 3.2: perplexity per nucleotide on held-out DNA; 4 is chance, lower is better.

    Every model is scored on the same letters, read in windows of its own length. The learning rate is swept at the
    longest length and taken over by the shorter ones. The warm-up doubles the length from the shortest to the
    longest with an equal share of the letters for each. Markov chains of every order up to `markov_order` are
    counted on the training part; order and smoothing are chosen on the validation part.
    """

    paper: ClassVar[str] = "hyenadna"

    lengths: tuple[int, ...] = (64, 256, 1024)  # divide the longest, which is `length`
    lr: tuple[float, ...] = (6e-4,)  # Section A.1: 1.5e-4 to 6e-4
    markov_order: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = self.lengths and min(self.lengths) > 0 and max(self.lengths) == self.length
        if not whole or any(self.length % n or self.batch_bases % n for n in self.lengths):
            raise HyenaError(
                f"lengths divide the longest, which is length = {self.length}, and batch_bases = {self.batch_bases}; "
                f"got {self.lengths}"
            )
        for kind in self.operators:
            self.language_model(kind, 1, 0)  # an unknown name is refused before any work
        if "hyena" not in self.operators:
            raise HyenaError(f"operators are hyena and what it is compared with, got {self.operators}")

    def run(self, run: Run) -> Result:
        corpus = load_dna(self.dna)
        run = self.with_data(run, corpus.data)
        chain, orders = self._markov(corpus)  # reads every letter: a bad one is found before any training
        chosen = self.compare(
            run.seed, lambda kind, lr, seed: self.pretrain(corpus, kind, (self.length,), lr, seed, run)
        )
        lr = chosen["hyena"][0].lr
        seeds = range(run.seed, run.seed + self.n_seeds)
        shorter = {
            length: [self.pretrain(corpus, "hyena", (length,), lr, seed, run) for seed in seeds]
            for length in sorted(self.lengths)[:-1]
        }
        warmed = [self.pretrain(corpus, "hyena", tuple(sorted(self.lengths)), lr, seed, run) for seed in seeds]
        return Result(
            self._metrics(chosen, shorter, warmed, chain),
            parameters={kind: count_parameters(trials[0].model) for kind, trials in chosen.items()},
            data=corpus.data,
            tables={
                "curves": rows(chosen, run.seed, warmed=0.0) + rows({"hyena": warmed}, run.seed, warmed=1.0),
                "markov": orders,
                "sweep": sweeps(chosen),
            },
        )

    def _metrics(
        self, chosen: dict[str, list[Trial]], shorter: dict[int, list[Trial]], warmed: list[Trial], chain: float
    ) -> dict[str, list[float]]:
        metrics = {f"perplexity_{kind}": [t.test for t in trials] for kind, trials in chosen.items()}
        metrics |= {f"lr_{kind}": [trials[0].lr] for kind, trials in chosen.items()}
        metrics |= {f"perplexity_at_{length}": [t.test for t in trials] for length, trials in shorter.items()}
        metrics |= {"perplexity_warmed": [t.test for t in warmed], "perplexity_markov": [chain]}
        ours = metrics["perplexity_hyena"]
        metrics["bits_below_markov"] = [math.log2(chain / p) for p in ours]
        metrics["warmup_gain"] = [a - b for a, b in zip(ours, metrics["perplexity_warmed"], strict=True)]
        if shorter:
            first = metrics[f"perplexity_at_{min(shorter)}"]
            metrics["context_gain"] = [a - b for a, b in zip(first, ours, strict=True)]
        if "perplexity_attention" in metrics:
            theirs = metrics["perplexity_attention"]
            metrics["gain_over_attention"] = [a - b for a, b in zip(theirs, ours, strict=True)]
        return metrics

    def _markov(self, corpus: DnaCorpus) -> tuple[float, list[Row]]:
        """Test perplexity of the chain that does best on validation tiles, and a row for every order."""
        chain = MarkovChain(self.markov_order, corpus.letters("train"))
        valid = corpus.tiles("valid", self.length, self.valid_tiles)
        tried = {alpha: _perplexities(chain, valid, alpha) for alpha in SMOOTHING}
        test = corpus.tiles("test", self.length, self.test_tiles)
        tested = {alpha: _perplexities(chain, test, alpha) for alpha in SMOOTHING}
        table: list[Row] = []
        for order in range(self.markov_order + 1):
            alpha = min(SMOOTHING, key=lambda a: tried[a][order])
            table.append({
                "order": order, "smoothing": alpha, "validation": tried[alpha][order], "test": tested[alpha][order]
            })  # fmt: skip
        return min(table, key=lambda row: row["validation"])["test"], table


def _perplexities(chain: MarkovChain, tiles: UInt8[np.ndarray, "tiles length"], alpha: float) -> list[float]:
    """Of every order, over all known letters but the first of each tile."""
    return np.exp(-np.nanmean(chain.log_probability(tiles, alpha), axis=(1, 2))).tolist()
