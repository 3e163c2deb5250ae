"""Learning in context: what stands before a sequence tells a model what to answer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.dna import load_dna
from hyena.data.labelled import Labelled, Task, load_task
from hyena.data.nucleotides import SEP, A, G, N
from hyena.errors import HyenaError
from hyena.experiments.comparison import Fit, Trial, shuffled
from hyena.experiments.hyenadna.dna import Dna
from hyena.models.hyenadna import HyenaDNA, SoftPrompt
from hyena.results import Result, Row
from hyena.train import Run, train

LABELS = {2: (A, N), 3: (A, G, N)}  # Section 3.3: letters answer for classes
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # inverse ones, of the linear probe
READ = 2**16  # letters that are read at once in evaluation


Batch = Callable[[int], tuple[Tensor, ...]]  # of a step


class Examples(NamedTuple):
    """Sequences that end with [SEP], and the letters that answer them."""

    x: Int[np.ndarray, "examples length"]
    y: Int[np.ndarray, " examples"]


class Parts(NamedTuple):
    """Examples to learn from, to choose by and to be tested on."""

    train: Examples
    valid: Examples
    test: Examples


@dataclass(frozen=True)
class InContext(Dna):
    """Figures 4.2 and A.1: accuracy on test sequences in percent; the likeliest of all tokens is the answer.

    *Prompts*: so many trained vectors before the sequence, all weights frozen; those of a pretrained model and, to
    see what pretraining has to do with it, random ones. *Shots*: so many demonstrations of each class before the
    sequence, drawn from the training part (the released code draws them from the test split), after all weights were
    tuned for one epoch on so many rows of the same form. The bar is a linear probe on the mean output of the frozen
    model. Rates, and the penalty of the probe, are chosen on validation data.
    """

    paper: ClassVar[str] = "hyenadna"

    task: str = "oct4-mafk"
    prompts: tuple[int, ...] = (2, 32, 128, 512, 2048, 8192, 32_768)  # vectors
    shots: tuple[int, ...] = (0, 2, 16, 32)  # of each class
    tuned: tuple[int, ...] = (0, 2, 16, 64, 256)  # rows
    epochs: int = 20  # of the prompts
    batch_size: int = 16
    tuning_batch: int = 2
    lr: tuple[float, ...] = (1e-3,)
    pretrain_lr: float = 6e-4
    most_examples: int = 1_000_000  # of each part

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("prompts", 1), ("shots", 0), ("tuned", 0)):
            if min(getattr(self, name), default=-1) < least:
                raise HyenaError(f"{name} are numbers of at least {least}, got {getattr(self, name)}")
        if any(0 < n < self.tuning_batch for n in self.tuned):
            raise HyenaError(f"tuned counts rows: 0, or at least a batch of {self.tuning_batch}; got {self.tuned}")

    def run(self, run: Run) -> Result:
        task = load_task(self.task)
        if len(task.classes) not in LABELS:
            raise HyenaError(f"{task.name} has {len(task.classes)} classes; letters answer for 2 or 3")
        parts = Parts(*(_examples(part, task, self.most_examples) for part in (task.train, task.valid, task.test)))
        if max(self.shots) >= (least := np.unique(parts.train.y, return_counts=True)[1].min()):
            raise HyenaError(f"shots go up to {least - 1}: the rarest class has {least} examples to learn from")
        shown = max(self.shots) * len(task.classes)
        l_max = max(self.length, task.length + 1 + max(self.prompts), (shown + 1) * (task.length + 3))
        corpus = load_dna(self.dna)
        run = self.with_data(run, corpus.data, task.data)
        trained = self.pretrain(corpus, "hyena", (self.length,), self.pretrain_lr, run.seed, run, l_max)
        metrics = {"majority": [100 * float(np.bincount(parts.test.y).max()) / len(parts.test.y)]}
        metrics["perplexity"] = [trained.test]
        tables: dict[str, list[Row]] = {"prompts": [], "shots": []}
        for kind, model in (
            ("pretrained", trained.model), ("untrained", self.language_model("hyena", l_max, run.seed))
        ):  # fmt: skip
            metrics[f"probe_{kind}"] = [probed(model, parts)]
            for n in self.prompts:
                fit = partial(self._prompted, model, n, parts, run)
                trials = self._repeated(f"prompt {n} {kind}", run.seed, fit)
                metrics[f"prompt_{n}_{kind}"] = [trial.test for trial in trials]
                tables["prompts"].append({"model": kind, "vectors": n, **_summary(trials)})
        for k in self.shots:
            for n in self.tuned:
                fit = partial(self._shown, trained.model, k, n, parts, run)
                name = f"shots {k} tuned {n}"
                trials = self._repeated(name, run.seed, fit) if n else [fit(name, 0.0, run.seed)]
                metrics[f"shots_{k}_tuned_{n}"] = [trial.test for trial in trials]
                tables["shots"].append({"shots": k, "tuned": n, **_summary(trials)})
        return Result(metrics | self._gains(metrics), data=corpus.data | task.data, tables=tables)

    def _gains(self, metrics: dict[str, list[float]]) -> dict[str, list[float]]:
        """Points of accuracy: of the longest prompt over the commonest class, over the probe and over random weights;
        and of the most shots over the fewest, a mean over all numbers of tuning rows."""
        best = metrics[f"prompt_{max(self.prompts)}_pretrained"]
        others = {
            "majority": metrics["majority"],
            "probe": metrics["probe_pretrained"],
            "untrained": metrics[f"prompt_{max(self.prompts)}_untrained"],
        }
        gains = {f"prompt_over_{name}": [fmean(best) - fmean(theirs)] for name, theirs in others.items()}
        mean = {k: fmean(fmean(metrics[f"shots_{k}_tuned_{n}"]) for n in self.tuned) for k in self.shots}
        return gains | {"shots_gain": [mean[max(self.shots)] - mean[min(self.shots)]]}

    def _repeated(self, name: str, seed: int, fit: Fit) -> list[Trial]:
        """At the best rate, from every seed."""
        best = self.sweep(name, seed, fit)
        return [best, *(fit(name, best.lr, s) for s in range(seed + 1, seed + self.n_seeds))]

    def _prompted(self, model: HyenaDNA, n: int, parts: Parts, run: Run, name: str, lr: float, seed: int) -> Trial:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            prompted = SoftPrompt(copy.deepcopy(model), n)
        size = min(self.batch_size, len(parts.train.y))
        return self._taught(
            prompted, shuffled(parts.train, size, seed), parts.valid, parts.test,
            self.epochs * (len(parts.train.y) // size), lr, replace(run, seed=seed), name,
        )  # fmt: skip

    def _shown(self, model: HyenaDNA, k: int, n: int, parts: Parts, run: Run, name: str, lr: float, seed: int) -> Trial:
        rng = np.random.default_rng((seed, k))
        some = rng.permutation(len(parts.train.y))[:n]
        rows = with_shots(parts.train, parts.train, k, rng, own=some)
        valid, test = (with_shots(part, parts.train, k, rng) for part in (parts.valid, parts.test))
        return self._taught(
            Answer(copy.deepcopy(model)), shuffled(rows, self.tuning_batch, seed), valid, test,
            len(rows.y) // self.tuning_batch, lr, replace(run, seed=seed), name,
        )  # fmt: skip

    def _taught(
        self, model: nn.Module, batch: Batch, valid: Examples, test: Examples, steps: int, lr: float, run: Run,
        name: str,
    ) -> Trial:  # fmt: skip
        """Train, if there are steps to take, and score."""
        curve = []
        if steps:
            curve = train(
                model, batch, lambda m, x, y: F.cross_entropy(m(x), y),
                self.dna_recipe(steps, steps // 10, lr, min(steps, self.evaluations)), run,
                f"{name} lr {lr:g} seed {run.seed}", evaluate=lambda m: {"accuracy": accuracy(m, valid)},
            )  # fmt: skip
        return Trial(lr, accuracy(model, valid), accuracy(model, test), model, curve)


class Answer(nn.Module):
    """What a language model puts after its input."""

    def __init__(self, model: HyenaDNA):
        super().__init__()
        self.model = model

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Tensor:
        """Logits of the next token."""
        return self.model(tokens)[:, -1]


def with_shots(
    asked: Examples, pool: Examples, k: int, rng: np.random.Generator, own: Int[np.ndarray, " rows"] | None = None
) -> Examples:
    """Rows {X1, SEP, Y1, SEP, ..., X, SEP} with `k` demonstrations of each class out of `pool`, in random order.

    With `own`, the rows asked for are these of the pool, and none is its own demonstration.
    """
    x, y = (asked.x, asked.y) if own is None else (asked.x[own], asked.y[own])
    members = [np.flatnonzero(pool.y == label) for label in np.unique(pool.y)]
    rows = []
    for i, query in enumerate(x):
        others = (np.setdiff1d(some, () if own is None else own[i : i + 1]) for some in members)
        chosen = rng.permutation(np.concatenate([rng.choice(some, k, replace=False) for some in others]))
        answered = [np.append(pool.x[j], (pool.y[j], SEP)) for j in chosen]
        rows.append(np.concatenate([*answered, query]))
    return Examples(np.stack(rows) if rows else x, y)


@torch.no_grad()
def accuracy(model: nn.Module, part: Examples) -> float:
    """In percent, of all tokens' likeliest."""
    model.eval()
    device = next(model.parameters()).device
    batches = torch.from_numpy(part.x).split(max(1, READ // part.x.shape[1]))
    answers = torch.cat([model(x.to(device)).argmax(-1).cpu() for x in batches])
    return 100 * float((answers.numpy() == part.y).mean())


@torch.no_grad()
def probed(model: HyenaDNA, parts: Parts) -> float:
    """Accuracy of a logistic regression on the mean output of the frozen model over each sequence."""
    model.eval()
    device = next(model.parameters()).device
    size = max(1, READ // parts.train.x.shape[1])
    read = (torch.from_numpy(part.x[:, :-1]).split(size) for part in parts)
    features = [torch.cat([model.embed(x.to(device)).mean(1).cpu() for x in some]).numpy() for some in read]
    tried = []
    for penalty in PENALTIES:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000))
        probe.fit(features[0], parts.train.y)
        tried.append([100 * probe.score(x, part.y) for x, part in zip(features[1:], parts[1:], strict=True)])
    return max(tried, key=lambda scores: scores[0])[1]


def _examples(part: Labelled, task: Task, most: int) -> Examples:
    if not part.mask.all():
        raise HyenaError(f"the sequences of {task.name} have several lengths; prompts are for sequences of one length")
    some = np.sort(np.random.default_rng(0).permutation(len(part.y))[:most])
    x = np.pad(part.x[some], ((0, 0), (0, 1)), constant_values=SEP).astype(np.int64)
    return Examples(x, np.array(LABELS[len(task.classes)])[part.y[some]])


def _summary(trials: list[Trial]) -> Row:
    return {"lr": trials[0].lr, "seeds": len(trials), "accuracy": fmean(trial.test for trial in trials)}
