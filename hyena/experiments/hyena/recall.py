"""Associative recall over operators, vocabularies and lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hyena.data.synthetic import Sequences, associative_recall, vocabulary
from hyena.errors import HyenaError
from hyena.experiments.comparison import TWINS, Fit, Trial, rows, shuffled, sweeps
from hyena.experiments.hyena.shell import Shell, answer_accuracy, loss
from hyena.models.hyena import hyena_matrix
from hyena.models.lm import LanguageModel, count_parameters
from hyena.results import Result, Row
from hyena.train import Run, train

FILTERS = ("conv1d", "fno", "transfer_function")  # rivals in Hyena's shell
OPERATORS = ("h3", "gss", "aft_conv", "rwkv")
Cell = tuple[int, int, int]  # vocabulary, length, epochs


@dataclass(frozen=True)
class AssociativeRecall(Shell):
    """Tables 4.2, A.2 and C.1, Figure 4.1: find the value of a key seen once among thousands of tokens.

    Percent of test sequences whose last token is right; chance is 1 / values. Recipe of Table A.1 with the filter
    of the released configuration. Learning rates are swept in the last cell, which the metrics are about; the other
    cells take them over, with one seed. The quick profile takes about a minute and a half on 2 cores.
    """

    paper: ClassVar[str] = "hyena"

    operators: tuple[str, ...] = ("hyena", "attention", "gss", "h3", "aft_conv", "rwkv")  # Table 4.2
    cells: tuple[Cell, ...] = ((30, 131_072, 200),)  # vocabulary, length, epochs: Tables 4.2 and A.1
    n_train: int = 2000  # Table A.1
    n_valid: int = 500
    n_test: int = 1000
    warmup_epochs: int = 10
    eval_every: int = 1  # epochs
    enough: float = 100.0  # percent of the validation answers right at which a training ends

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.batch_size <= self.n_train:
            raise HyenaError(f"batch_size is 1 to n_train = {self.n_train}, got {self.batch_size}")
        if not self.cells or any(len(cell) != 3 for cell in self.cells):
            raise HyenaError(f"a cell is vocabulary, length and epochs, three numbers; got {self.cells}")
        for vocab_size, length, epochs in self.cells:
            vocabulary(vocab_size)
            if length < 2 or epochs < 1:
                raise HyenaError(f"a cell has a length of at least 2 and an epoch or more; got {self.cells}")

    def run(self, run: Run) -> Result:
        hard = self.cells[-1]
        chosen = self.compare(run.seed, self._fit(hard, run))
        rates = {operator: trials[0].lr for operator, trials in chosen.items()}
        cells = _cell_rows(hard, chosen)
        for cell in self.cells[:-1]:
            fit = self._fit(cell, run)
            cells += _cell_rows(cell, {o: [fit(o, rate, run.seed)] for o, rate in rates.items()})
        return Result(
            self._metrics(chosen),
            parameters={o: count_parameters(trials[0].model) for o, trials in chosen.items()},
            tables={"curves": rows(chosen, run.seed), "cells": cells, "sweep": sweeps(chosen)},
            arrays=self._pictures(chosen, hard, run.seed) if "hyena" in chosen else {},
        )

    def data(self, cell: Cell, seed: int) -> tuple[Sequences, Sequences, Sequences]:
        """Sequences to train, validate and test on."""
        learn, held_out = associative_recall(*cell[:2], self.n_train, self.n_valid + self.n_test, seed)
        parts = (slice(self.n_valid), slice(self.n_valid, None))
        return learn, *(Sequences(held_out.x[part], held_out.y[part]) for part in parts)

    def _fit(self, cell: Cell, run: Run) -> Fit:
        vocab_size, length, epochs = cell
        per_epoch = self.n_train // self.batch_size

        def fit(operator: str, lr: float, seed: int) -> Trial:
            learn, valid, test = self.data(cell, seed)
            model = self.model(operator, vocab_size, learn.x.shape[1], seed)
            steps, warmup, every = (n * per_epoch for n in (epochs, self.warmup_epochs, self.eval_every))
            curve = train(
                model, shuffled((learn.x, learn.y), self.batch_size, seed), loss,
                self.recipe(steps, warmup, lr, every), replace(run, seed=seed),
                f"recall {operator} V{vocab_size} L{length} epochs {epochs} lr {lr:g} seed {seed}",
                evaluate=lambda m: {"accuracy": answer_accuracy(m, valid)},
                stop=lambda row: row["accuracy"] >= self.enough,
            )  # fmt: skip
            score = curve[-1]["accuracy"]
            return Trial(lr, score, answer_accuracy(model, test), model, curve)

        return fit

    def _metrics(self, chosen: dict[str, list[Trial]]) -> dict[str, list[float]]:
        accuracy = {o: [t.test for t in trials] for o, trials in chosen.items()}
        metrics = {f"accuracy_{o}": values for o, values in accuracy.items()}
        metrics |= {f"lr_{o}": [trials[0].lr] for o, trials in chosen.items()}
        metrics["chance"] = [100 / ((self.cells[-1][0] - 1) // 2)]
        if set(TWINS) <= set(chosen):
            metrics["gap"] = [h - a for h, a in zip(*(accuracy[o] for o in TWINS), strict=True)]
        for name, rivals in (("lead", FILTERS), ("lead_operators", OPERATORS)):
            if "hyena" in chosen and rivals and set(rivals) <= set(chosen):
                metrics[name] = [fmean(accuracy["hyena"]) - max(fmean(accuracy[o]) for o in rivals)]
        return metrics

    def _pictures(self, chosen: dict[str, list[Trial]], cell: Cell, seed: int) -> dict[str, np.ndarray]:
        """Filters before and after training, and the mean |H(u)| of each block (absent beyond 512 tokens).

        The matrices are those of the test sequence whose queried key was last seen longest ago.
        """
        _, _, test = self.data(cell, seed)
        model = chosen["hyena"][0].model
        untrained = self.model("hyena", cell[0], test.x.shape[1], seed)
        arrays = {"filters_init": _filters(untrained), "filters_trained": _filters(model)}
        if test.x.shape[1] > 512:
            return arrays
        seen_again = test.x[:, -2::-1] == test.x[:, -1:]  # backwards from the token before the query
        i = int(seen_again.argmax(axis=1).argmax())
        matrices = _matrices(model, torch.from_numpy(test.x[i : i + 1]))
        return arrays | {"matrices": matrices, "tokens": test.x[i], "answer": test.y[i, -1:]}


def _cell_rows(cell: Cell, chosen: dict[str, list[Trial]]) -> list[Row]:
    return [
        {
            "vocab_size": cell[0], "length": cell[1], "epochs": cell[2], "operator": operator, "lr": trials[0].lr,
            "seeds": len(trials), "accuracy": fmean(t.test for t in trials), "steps": trials[0].curve[-1]["step"],
        }
        for operator, trials in chosen.items()
    ]  # fmt: skip


@torch.no_grad()
def _filters(model: LanguageModel) -> np.ndarray:
    """The long filters of the first convolution of every block, (n_layer, d_model, length)."""
    mixers = [layer.mixer for layer in model.backbone.layers]
    return np.stack([m.filters(min(m.l_max, 2048))[0][0].cpu().numpy() for m in mixers])


@torch.no_grad()
def _matrices(model: LanguageModel, tokens: Tensor) -> np.ndarray:
    """Mean |H(u)| over channels in every block, (n_layer, length, length)."""
    found = []

    def look(mixer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        found.append(hyena_matrix(mixer, inputs[0])[0].abs().mean(0).cpu().numpy())

    hooks = [layer.mixer.register_forward_hook(look) for layer in model.backbone.layers]
    model(tokens.to(model.lm_head.weight.device))
    for hook in hooks:
        hook.remove()
    return np.stack(found)
