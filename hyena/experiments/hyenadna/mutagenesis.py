"""Which letters decide: every change of one letter at many places with the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from hyena.data.dna import load_dna
from hyena.data.labelled import load_task
from hyena.data.nucleotides import BASES
from hyena.errors import HyenaError
from hyena.experiments.hyenadna.downstream import Downstream, _cut
from hyena.models.hyenadna import mutagenesis
from hyena.results import Result
from hyena.train import Run

AROUND = 10  # letters on both sides of the middle


@dataclass(frozen=True)
class Mutagenesis(Downstream):
    """In-silico mutagenesis of a classifier, pretrained and tuned as in `Downstream` on the first of `tasks`.

    For the `sites` test sequences of the last class that it is surest of: by how much every change of one letter
    changes the lead of that class. A letter is worth what its three changes take away on average; `share_around` is
    the share, in percent, that the twenty letters around the middle have of all that is taken away.
    """

    paper: ClassVar[str] = "hyenadna"

    operators: tuple[str, ...] = ("pretrained",)
    sites: int = 50

    def run(self, run: Run) -> Result:
        if len(self.tasks) != 1 or len(self.operators) != 1 or len(self.lr) != 1:
            raise HyenaError("mutagenesis looks at one task, one model and one rate")
        task, corpus = _cut(load_task(self.tasks[0], self.fasta), self.most_examples), load_dna(self.dna)
        run = self.with_data(run, task.data, corpus.data)
        l_max, trained = max(self.length, task.length), None
        if self.operators[0].startswith("pretrained"):
            trained = self.pretrain(corpus, "hyena", (self.length,), self.pretrain_lr, run.seed, run, l_max).model
        fitted = self._fit(task, l_max, trained, run, self.operators[0], self.lr[0], run.seed)
        last = len(task.classes) - 1
        lead = partial(leads, fitted.model, last)
        whole = (task.test.y == last) & task.test.mask.all(1)
        if not whole.any():
            raise HyenaError(f"{task.name}: no test sequence of class {task.classes[last]!r} has the full length")
        x = torch.from_numpy(task.test.x[whole])
        x = x[lead(x).argsort(descending=True)[: self.sites]]
        changes = torch.stack([mutagenesis(lead, row, torch.from_numpy(BASES).long()) for row in x])
        lost = (-changes.sum(-1) / 3).clamp(min=0)
        middle = slice(max(0, task.length // 2 - AROUND), task.length // 2 + AROUND)
        metrics = {
            "accuracy": [fitted.test],
            "share_around": [100 * float(lost[:, middle].sum() / lost.sum())],
            "share_expected": [100 * min(2 * AROUND, task.length) / task.length],
        }
        arrays = {"sequences": x.numpy(), "changes": changes.numpy()}
        return Result(metrics, data=task.data | corpus.data, tables={"curves": fitted.curve}, arrays=arrays)


@torch.no_grad()
def leads(model: torch.nn.Module, label: int, tokens: Tensor) -> Tensor:
    """By how much a class is ahead of the best other one, for each row."""
    device = next(model.parameters()).device
    model.eval()
    logits = model(tokens.to(device), torch.ones(tokens.shape, dtype=torch.bool, device=device)).cpu()
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.amax(1)
