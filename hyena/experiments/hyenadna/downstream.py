"""Classifying DNA: a pretrained model, its twin from scratch, attention, a small CNN, 6-mers and linear models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, matthews_corrcoef
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.dna import load_dna
from hyena.data.labelled import Labelled, Task, load_task
from hyena.data.nucleotides import BASES, VOCAB_SIZE, reverse_complement
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Trial, rows, shuffled, sweeps
from hyena.experiments.hyenadna.dna import Dna
from hyena.models.dna_baselines import FEATURES, DnaCNN, WordClassifier, linear_features, word_count
from hyena.models.hyenadna import Classifier, mutagenesis
from hyena.models.lm import LanguageModel, count_parameters
from hyena.results import Result, Row
from hyena.train import Run, train

MODELS = ("pretrained", "scratch", "attention", "cnn", "sixmers")
HEADS = ("_mean", "_flat")
LOOKED_AT = 200  # sequences among which the surest answer is looked for
K = 6  # letters of a word; Table A.4
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # inverse ones, of the linear models


@dataclass(frozen=True)
class Downstream(Dna):
    """Tables 4.1, 4.2 and A.4: accuracy and Matthews correlation on test sequences, both in percent.

    Rates are swept on validation data apart from the test data (the released code selects on its test split), for
    every neural model alike; the linear model is the better of k-mer counts and positions, at the best of four
    penalties, on the same validation data. "sixmers" is the model from scratch over words of six letters.

    Where the sequences of a task are aligned to a landmark, all positions side by side go into the last layer;
    elsewhere their mean, and every sequence is read from a random strand in training. A name with "_mean" or "_flat"
    is that model with this head on every task.
    """

    paper: ClassVar[str] = "hyenadna"

    tasks: tuple[str, ...] = ("oct4-mafk",)
    fasta: str = ""  # where the places of a CSV file of yours lie
    operators: tuple[str, ...] = MODELS
    epochs: int = 100  # Section A.2
    batch_size: int = 256
    lr: tuple[float, ...] = (6e-4,)
    pretrain_lr: float = 6e-4
    both_strands: bool = True
    most_examples: int = 1_000_000  # of each part
    once: tuple[str, ...] = ("acceptor", "promoter")  # tasks that are learned from the first seed alone

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.operators:
            if _kind(name) not in MODELS:
                raise unknown("model", name, (*MODELS, *(model + head for model in MODELS for head in HEADS)))
        if any(name.startswith("attention") for name in self.operators):
            self.language_model("attention", 1, 0)  # a number of heads that does not fit is refused before any work

    def run(self, run: Run) -> Result:
        tasks = [_cut(load_task(name, self.fasta), self.most_examples) for name in self.tasks]
        l_max = max(self.length, *(task.length for task in tasks))
        if len({_key(task) for task in tasks}) < len(tasks):
            raise HyenaError(f"two tasks would share their results: {', '.join(task.name for task in tasks)}")
        corpus = load_dna(self.dna)
        run = self.with_data(run, *(one.data for one in (*tasks, corpus)))
        trained: Trial | None = None
        if any(name.startswith("pretrained") for name in self.operators):
            trained = self.pretrain(corpus, "hyena", (self.length,), self.pretrain_lr, run.seed, run, l_max)
        metrics: dict[str, list[float]] = {}
        table: list[Row] = []
        curves: list[Row] = []
        tried: list[Row] = []
        parameters: dict[str, int] = {}
        arrays: dict[str, np.ndarray] = {}
        for task in tasks:
            chosen = self._compared(task, run.seed, partial(self._fit, task, l_max, trained and trained.model, run))
            for name, trials in chosen.items():
                scores = [_scores(predicted(t.model, task.test), task.test.y) for t in trials]
                table.append(_row(task, name, trials[0].lr, scores))
                metrics[f"{_key(task)}_{name}"] = [accuracy for accuracy, _ in scores]
                metrics[f"{_key(task)}_{name}_mcc"] = [mcc for _, mcc in scores]
                parameters[f"{_key(task)}_{name}"] = count_parameters(trials[0].model)
            linear, lr, scores = linear_scores(task)
            table.append(_row(task, f"linear ({linear})", lr, [scores]))
            metrics[f"{_key(task)}_linear"], metrics[f"{_key(task)}_linear_mcc"] = [scores[0]], [scores[1]]
            arrays |= _attribution(task, chosen[self.operators[0]][0].model)
            curves += rows(chosen, run.seed, task=task.name)
            tried += sweeps(chosen, task=task.name)
        metrics |= self._gains(metrics, tasks)
        if trained is not None:
            metrics["perplexity"] = [trained.test]
        data = {name: value for one in (*tasks, corpus) for name, value in one.data.items()}
        tables = {"curves": curves, "tasks": table, "sweep": tried}
        return Result(metrics, parameters=parameters, data=data, tables=tables, arrays=arrays)

    def _gains(self, metrics: dict[str, list[float]], tasks: list[Task]) -> dict[str, list[float]]:
        """By how many points of accuracy one model is ahead of another, a mean over the tasks that both learned."""
        pairs = [("pretrained", other) for other in (*self.operators, "linear") if other != "pretrained"]
        ahead = {}
        for ours, theirs in (*pairs, ("scratch", "sixmers")):
            names = [(f"{_key(task)}_{ours}", f"{_key(task)}_{theirs}") for task in tasks]
            points = [fmean(metrics[a]) - fmean(metrics[b]) for a, b in names if a in metrics and b in metrics]
            if points:
                ahead["gain_over_" + ("" if ours == "pretrained" else f"{ours}_") + theirs] = [fmean(points)]
        return ahead

    def _compared(self, task: Task, seed: int, fit: Callable[[str, float, int], Trial]) -> dict[str, list[Trial]]:
        """Every model at its best rate from every seed; of two with the same head on this task, the first."""
        n_seeds = 1 if task.name in self.once else self.n_seeds
        chosen, seen = {}, set()
        for name in self.operators:
            same = _kind(name), _is_flat(task, name)
            if same in seen:
                continue
            seen.add(same)
            best = self.sweep(name, seed, fit)
            chosen[name] = [best, *(fit(name, best.lr, s) for s in range(seed + 1, seed + n_seeds))]
        return chosen

    def _fit(
        self, task: Task, l_max: int, trained: LanguageModel | None, run: Run, name: str, lr: float, seed: int
    ) -> Trial:
        model = self._classifier(task, name, l_max, trained, seed)
        learn = task.train
        batch_size = min(self.batch_size, len(learn.y))
        per_epoch = len(learn.y) // batch_size
        pick = shuffled((np.arange(len(learn.y)),), batch_size, seed)
        strands = self.both_strands and not task.aligned

        def batch(step: int) -> tuple[Tensor, ...]:
            some = pick(step)[0].numpy()
            x, mask = learn.x[some], learn.mask[some]
            if strands:
                x = on_a_random_strand(x, mask, np.random.default_rng((seed, step)))
            return torch.from_numpy(x), torch.from_numpy(mask), torch.from_numpy(learn.y[some])

        curve = train(
            model, batch, lambda m, x, mask, y: F.cross_entropy(m(x, mask), y),
            self.dna_recipe(self.epochs * per_epoch, per_epoch, lr, min(self.epochs, self.evaluations)),
            replace(run, seed=seed), f"{_key(task)} {name} lr {lr:g} seed {seed}",
            evaluate=lambda m: {"accuracy": _scores(predicted(m, task.valid), task.valid.y)[0]},
        )  # fmt: skip
        test = _scores(predicted(model, task.test), task.test.y)[0]
        return Trial(lr, curve[-1]["accuracy"], test, model, curve)

    def _classifier(self, task: Task, name: str, l_max: int, trained: LanguageModel | None, seed: int) -> nn.Module:
        kind, flat, sixmers = _kind(name), _is_flat(task, name), name.startswith("sixmers")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "cnn":
                return DnaCNN(len(task.classes), length=task.length if flat else None)
            inside = self.language_model(
                "attention" if kind == "attention" else "hyena", l_max, seed, word_count(K) if sixmers else VOCAB_SIZE
            )
            if kind == "pretrained":
                inside.load_state_dict(trained.state_dict())
            length = -(-task.length // K) if sixmers else task.length
            pool = {"pool": "flat", "length": length} if flat else {"pool": "mean"}
            if sixmers:
                return WordClassifier(inside, len(task.classes), k=K, **pool)
            return Classifier(inside, len(task.classes), **pool)


def _kind(name: str) -> str:
    return name.removesuffix("_mean").removesuffix("_flat")


def _is_flat(task: Task, name: str) -> bool:
    """Whether the head of a model on a task sees all positions side by side, in place of their mean."""
    return name.endswith("_flat") or (task.aligned and not name.endswith("_mean"))


def on_a_random_strand(x: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the rows as they are, half as their reverse complement; padding stays on the right."""
    x = x.copy()
    for i in np.flatnonzero(rng.random(len(x)) < 0.5):
        x[i, mask[i]] = reverse_complement(x[i, mask[i]])
    return x


@torch.no_grad()
def predicted(model: nn.Module, part: Labelled, batch: int = 256) -> np.ndarray:
    """The likeliest class of every sequence."""
    model.eval()
    device = next(model.parameters()).device
    found = [
        model(x.to(device), mask.to(device)).argmax(-1).cpu()
        for x, mask in zip(*(torch.from_numpy(a).split(batch) for a in (part.x, part.mask)), strict=True)
    ]
    return torch.cat(found).numpy()


def linear_scores(task: Task) -> tuple[str, float, tuple[float, float]]:
    """The better kind of features and its penalty, on validation data, and the scores on test data."""
    found = []
    for kind in FEATURES:
        parts = {name: linear_features(kind, getattr(task, name).x) for name in ("train", "valid", "test")}
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=2000).fit(parts["train"], task.train.y)
            valid, test = (_scores(model.predict(parts[name]), getattr(task, name).y) for name in ("valid", "test"))
            found.append((valid[0], kind, penalty, test))
    _, kind, penalty, scores = max(found, key=lambda one: one[0])
    return kind, penalty, scores


@torch.no_grad()
def _attribution(task: Task, model: nn.Module) -> dict[str, np.ndarray]:
    """What every change of one letter does to the surest right answer on test data: by how much its lead changes."""
    model.eval()
    device = next(model.parameters()).device
    right = np.flatnonzero(predicted(model, task.test) == task.test.y).tolist()
    if not right:
        return {}

    def lead(i: int, tokens: Tensor) -> Tensor:
        """Of the right answer to sequence `i`, with `tokens` in its place."""
        mask = torch.from_numpy(task.test.mask[i]).expand(tokens.shape)
        logits = model(tokens.to(device), mask.to(device)).cpu()
        label = int(task.test.y[i])
        others = logits.masked_fill(F.one_hot(torch.tensor(label), logits.shape[1]).bool(), -torch.inf)
        return logits[:, label] - others.amax(1)

    rows = torch.from_numpy(task.test.x)
    best = max(right[:LOOKED_AT], key=lambda i: lead(i, rows[i : i + 1]).item())
    length = int(task.test.mask[best].sum())
    changes = mutagenesis(partial(lead, best), rows[best], torch.from_numpy(BASES).long(), range(length))
    key = _key(task)
    return {
        f"{key}_attribution": changes.numpy(),
        f"{key}_sequence": task.test.x[best, :length],
        f"{key}_class": np.array(task.test.y[best]),
    }


def _cut(task: Task, most: int) -> Task:
    """At most so many examples of each part; they are sorted by class or place, so they are drawn at random."""
    parts = {}
    for name in ("train", "valid", "test"):
        part = getattr(task, name)
        some = np.sort(np.random.default_rng(0).permutation(len(part.y))[:most])
        parts[name] = Labelled(part.x[some], part.mask[some], part.y[some])
    return replace(task, **parts)


def _scores(guessed: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Accuracy and Matthews correlation in percent."""
    return 100 * accuracy_score(truth, guessed), 100 * matthews_corrcoef(truth, guessed)


def _row(task: Task, name: str, lr: float, scores: list[tuple[float, float]]) -> Row:
    accuracy, mcc = (fmean(values) for values in zip(*scores, strict=True))
    return {"task": task.name, "model": name, "lr": lr, "seeds": len(scores), "accuracy": accuracy, "mcc": mcc}


def _key(task: Task) -> str:
    return task.name.replace("gue/", "gue_").replace("-", "_").replace(" ", "_")
