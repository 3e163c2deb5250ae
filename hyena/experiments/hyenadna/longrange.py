"""Is this DNA read backwards? A question about real DNA that a longer context answers better."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from hyena.data.dna import DnaCorpus, load_dna
from hyena.data.genome import known_tiles, random_windows
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.hyenadna.dna import Dna
from hyena.models.dna_baselines import linear_features
from hyena.models.hyenadna import Classifier
from hyena.results import Result, Row
from hyena.train import Run, train

READ = 2**16  # letters that are read at once in evaluation
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # inverse ones, of the linear model


class Windows(NamedTuple):
    """Windows of DNA, half of them turned around, and which."""

    x: UInt8[np.ndarray, "windows length"]
    y: Int[np.ndarray, " windows"]


@dataclass(frozen=True)
class LongRange(Dna):
    """The question of Table 4.5, does accuracy rise with context?, asked of one genome in place of five.

    Half of the windows are read from their end to their start: not the other strand, whose letters would be
    exchanged too, but a text that no strand has. Frequencies of single letters give nothing away; those of words do
    (in human DNA, CG is rare and GC is not), a little with every letter. A model reads the first `context` letters of
    a window of `length`. Windows of the training part are drawn anew for every step, those that validate and test lie
    in held-out parts. The bar is a logistic regression on counts of five-letter words, for `linear_windows` of the
    training part. Rates and penalty are chosen on validation data, for every context alike.
    """

    paper: ClassVar[str] = "hyenadna"

    length: int = 1_000_000
    batch_bases: int = 1_000_000  # not used: nothing is pretrained
    contexts: tuple[int, ...] = (1024, 32_768, 250_000, 450_000, 1_000_000)  # the longest is `length`; Table 4.5
    batch_size: int = 128
    lr: tuple[float, ...] = (6e-4,)
    linear_windows: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.contexts, default=0) < 1 or max(self.contexts) != self.length:
            raise HyenaError(f"contexts are lengths up to length = {self.length}, itself included; got {self.contexts}")
        for kind in self.operators:
            self.language_model(kind, 1, 0)  # an unknown name is refused before any work

    def run(self, run: Run) -> Result:
        corpus = load_dna(self.dna)
        run = self.with_data(run, corpus.data)
        held_out = [
            half_turned(known_tiles(corpus.genome, corpus.split[part], self.length, limit), 0)
            for part, limit in (("valid", self.valid_tiles), ("test", self.test_tiles))
        ]
        learn = self._drawn(corpus, self.linear_windows, run.seed, 0)
        metrics: dict[str, list[float]] = {}
        curves: list[Row] = []
        tried: list[Row] = []
        for context in sorted(self.contexts):
            chosen = self.compare(run.seed, partial(self._fit, corpus, *held_out, context, run))
            metrics |= {f"{kind}_at_{context}": [t.test for t in trials] for kind, trials in chosen.items()}
            metrics[f"linear_at_{context}"] = [linear_accuracy(learn, *held_out, context)]
            curves += rows(chosen, run.seed, context=float(context))
            tried += sweeps(chosen, context=float(context))
        short, long = min(self.contexts), max(self.contexts)
        for kind in (*self.operators, "linear"):
            metrics[f"gain_{kind}"] = [fmean(metrics[f"{kind}_at_{long}"]) - fmean(metrics[f"{kind}_at_{short}"])]
        return Result(metrics, data=corpus.data, tables={"curves": curves, "sweep": tried})

    def _drawn(self, corpus: DnaCorpus, count: int, seed: int, step: int) -> Windows:
        windows = random_windows(corpus.genome, corpus.split["train"], self.length, count, seed, step)
        return half_turned(windows, seed, step)

    def _fit(
        self, corpus: DnaCorpus, valid: Windows, test: Windows, context: int, run: Run, kind: str, lr: float, seed: int
    ) -> Trial:
        inside = self.language_model(kind, self.length, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Classifier(inside, 2)

        def batch(step: int) -> tuple[Tensor, ...]:
            drawn = self._drawn(corpus, self.batch_size, seed, step)
            return torch.from_numpy(drawn.x[:, :context]).long(), torch.from_numpy(drawn.y)

        curve = train(
            model, batch, lambda m, x, y: F.cross_entropy(m(x), y),
            self.dna_recipe(self.steps, self.warmup, lr, self.evaluations), replace(run, seed=seed),
            f"{kind} context {context} lr {lr:g} seed {seed}",
            evaluate=lambda m: {"accuracy": accuracy(m, valid, context)},
        )  # fmt: skip
        return Trial(lr, curve[-1]["accuracy"], accuracy(model, test, context), model, curve)


def half_turned(windows: UInt8[np.ndarray, "windows length"], *seed: int) -> Windows:
    """Every second window, in random order, read from its end to its start."""
    turned = np.random.default_rng(seed).permutation(len(windows)) % 2
    return Windows(np.where(turned[:, None] == 1, windows[:, ::-1], windows), turned)


@torch.no_grad()
def accuracy(model: Classifier, part: Windows, context: int) -> float:
    """In percent, from the first `context` letters."""
    model.eval()
    device = next(model.parameters()).device
    x = torch.from_numpy(part.x[:, :context]).long()
    said = torch.cat([model(some.to(device)).argmax(-1).cpu() for some in x.split(max(1, READ // context))])
    return 100 * float((said.numpy() == part.y).mean())


def linear_accuracy(learn: Windows, valid: Windows, test: Windows, context: int) -> float:
    """Test accuracy of a linear model of word counts, at the penalty that does best on validation windows."""
    features = [linear_features("kmers", part.x[:, :context].astype(np.int64)) for part in (learn, valid, test)]
    models = [LogisticRegression(C=penalty, max_iter=2000).fit(features[0], learn.y) for penalty in PENALTIES]
    best = max(models, key=lambda model: model.score(features[1], valid.y))
    return 100 * float(best.score(features[2], test.y))
