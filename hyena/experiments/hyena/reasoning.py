"""Five small reasoning tasks beside recall, generated as Section 4.1 and Appendix A.1 describe them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyena.data.synthetic import Sequences
from hyena.data.tasks import Points, addition, counting, induction, linear_functions, majority
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import TWINS, Trial, rows, shuffled, sweeps
from hyena.experiments.hyena.shell import Shell, answer_accuracy, loss
from hyena.models.lm import Regressor, count_parameters
from hyena.results import Result, Row
from hyena.train import Run, train

TASKS = ("induction", "majority", "counting", "addition", "linear_functions")
Data = Sequences | Points


@dataclass(frozen=True)
class Reasoning(Shell):
    """Section 4.1 and Figure C.1: induction, majority, counting, addition, and linear functions learned in context.

    Percent of the test sequences answered right (in addition, all digits of the sum); for linear functions, where
    every point but the first few can be predicted exactly, the share of the variance that is explained. The quick
    profile takes about a minute on 2 cores.
    """

    paper: ClassVar[str] = "hyena"

    tasks: tuple[str, ...] = TASKS
    vocab_size: int = 30
    length: int = 1024
    max_count: int = 15
    digits: int = 4  # Figure C.1
    n_features: int = 5
    n_points: int = 512
    n_train: int = 2000  # Table A.1
    n_valid: int = 500
    n_test: int = 1000
    epochs: int = 200
    warmup_epochs: int = 10
    evaluations: int = 10
    enough: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            if task not in TASKS:
                raise unknown("task", task, TASKS)
        if not 0 < self.batch_size <= self.n_train:
            raise HyenaError(f"batch_size is 1 to n_train = {self.n_train}, got {self.batch_size}")

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        table: list[Row] = []
        curves: list[Row] = []
        tried: list[Row] = []
        parameters: dict[str, int] = {}
        for task in self.tasks:
            chosen = self.compare(run.seed, partial(self._fit, task, run))
            scores = {o: [t.test for t in trials] for o, trials in chosen.items()}
            metrics |= {f"{task}_{o}": values for o, values in scores.items()}
            if set(TWINS) <= set(chosen):
                metrics[f"{task}_gap"] = [h - a for h, a in zip(*(scores[o] for o in TWINS), strict=True)]
            for operator, trials in chosen.items():
                parameters[f"{task}_{operator}"] = count_parameters(trials[0].model)
                score = fmean(scores[operator])
                table.append({"task": task, "operator": operator, "lr": trials[0].lr, "score": score})
            curves += rows(chosen, run.seed, task=task)
            tried += sweeps(chosen, task=task)
        if set(TWINS) <= set(self.operators):
            metrics["worst_gap"] = [min(fmean(metrics[f"{task}_gap"]) for task in self.tasks)]
        return Result(metrics, parameters=parameters, tables={"curves": curves, "tasks": table, "sweep": tried})

    def data(self, task: str, seed: int) -> tuple[Data, Data]:
        """Examples to train on, and held-out ones of which the first `n_valid` are for validation."""
        sizes = (self.n_train, self.n_valid + self.n_test, seed)
        makers: dict[str, Callable[[], tuple[Data, Data]]] = {
            "induction": lambda: induction(self.vocab_size, self.length, *sizes),
            "majority": lambda: majority(self.vocab_size, self.length, *sizes),
            "counting": lambda: counting(self.vocab_size, self.length, *sizes, max_count=self.max_count),
            "addition": lambda: addition(self.digits, *sizes),
            "linear_functions": lambda: linear_functions(self.n_features, self.n_points, *sizes),
        }
        return makers[task]()

    def _fit(self, task: str, run: Run, operator: str, lr: float, seed: int) -> Trial:
        learn, held_out = self.data(task, seed)
        valid, test = _cut(held_out, slice(self.n_valid)), _cut(held_out, slice(self.n_valid, None))
        steps = self.epochs * (self.n_train // self.batch_size)
        warmup = self.warmup_epochs * (self.n_train // self.batch_size)
        recipe = self.recipe(steps, warmup, lr, max(1, steps // self.evaluations))
        if task == "linear_functions":
            model, objective, arrays = self._regressor(operator, learn, seed), _squared_error, vars(learn).values()
            score = explained
        else:
            vocab_size = 10 if task == "addition" else self.vocab_size
            model = self.model(operator, vocab_size, learn.x.shape[1], seed)
            objective, arrays, score = loss, (learn.x, learn.y), partial(answer_accuracy, whole=True)
        curve = train(
            model, shuffled(tuple(arrays), self.batch_size, seed), objective, recipe, replace(run, seed=seed),
            f"{task} {operator} lr {lr:g} seed {seed}",
            evaluate=lambda m: {"score": score(m, valid)}, stop=lambda row: row["score"] >= self.enough,
        )  # fmt: skip
        return Trial(lr, curve[-1]["score"], score(model, test), model, curve)

    def _regressor(self, operator: str, points: Points, seed: int) -> Regressor:
        _, length, width = points.x.shape
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Regressor(
                width, self.d_model, self.n_layer, self.d_inner, self.mixer(operator, length), l_max=length,
                positions=operator == "attention", init=self.init,
            )  # fmt: skip


@torch.no_grad()
def explained(model: nn.Module, test: Points) -> float:
    """Percent of the variance of the asked values that the model explains, over the second half of each sequence.

    There more points have been seen than a linear function has weights, so all of it could be explained.
    """
    model.eval()
    device = next(model.parameters()).device
    wrong, total = 0.0, 0.0
    for x, y, asked in zip(*(torch.from_numpy(a).split(100) for a in vars(test).values()), strict=True):
        late = asked.clone()
        late[:, : asked.shape[1] // 2] = False
        wrong += (model(x.to(device)).cpu() - y)[late].double().square().sum().item()
        total += y[late].double().square().sum().item()
    return 100 * (1 - wrong / total)


def _squared_error(model: nn.Module, x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    return (model(x) - y)[asked].square().mean()


def _cut(data: Data, part: slice) -> Data:
    return type(data)(**{name: array[part] for name, array in vars(data).items()})
