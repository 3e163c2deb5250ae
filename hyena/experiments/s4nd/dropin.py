"""S4ND in place of a depthwise convolution and of attention, at equal numbers of parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar

import torch

from hyena.data.images import SIDE, ImageTask, load_images
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.s4nd.images import OnImages, accuracy, cut
from hyena.models.image_classifiers import DROP_INS, PatchClassifier
from hyena.models.lm import count_parameters
from hyena.results import Result, Row
from hyena.train import Run


@dataclass(frozen=True)
class DropIn(OnImages):
    """Claims 1 to 3 on small images: blocks of ConvNeXt and ViT with their own mixer of places, and with S4ND.

    The hidden width of the MLP of every network is chosen so that all of one family have as many parameters as the
    original, to within a percent or so.
    """

    paper: ClassVar[str] = "s4nd"

    task: str = "cifar10"
    operators: tuple[str, ...] = DROP_INS
    d_model: int = 64
    n_layer: int = 4
    d_state: int = 12  # with which a kernel of two axes has as many numbers as one of 7 x 7
    patch: int = 4  # of the Transformer; the convolutional network's are half as wide
    num_heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.operators:
            self.classifier(kind, 1, 2, 0)  # an unknown name is refused before any work

    def classifier(self, kind: str, d_input: int, n_classes: int, seed: int) -> PatchClassifier:
        """An untrained network, initialised by `seed`, about as large as the original of its family."""
        family = kind.partition("_")[0]
        patch = self.patch if family == "vit" else max(1, self.patch // 2)
        widest = 4 * self.d_model

        def built(name: str, d_ff: int) -> PatchClassifier:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return PatchClassifier(
                    name, d_input, n_classes, side=SIDE, patch=patch, d_model=self.d_model, n_layer=self.n_layer,
                    d_ff=d_ff, d_state=self.d_state, num_heads=self.num_heads,
                )  # fmt: skip

        model, original = built(kind, widest), {"vit": "vit_attention", "convnext": "convnext_depthwise"}.get(family)
        if original in (None, kind):
            return model
        extra = count_parameters(model) - count_parameters(built(original, widest))
        d_ff = widest - round(extra / self.n_layer / (2 * self.d_model + 1))
        if d_ff < 1:
            raise HyenaError(
                f"the mixer of {kind} leaves no parameters to its MLP; choose a smaller d_state or a larger d_model"
            )
        return built(kind, d_ff)

    def run(self, run: Run) -> Result:
        task = cut(load_images(self.task), self.valid_examples, self.test_examples)
        chosen = {kind: self.from_every_seed(kind, run.seed, partial(self._fit, task, run)) for kind in self.operators}
        metrics = {kind: [trial.test for trial in trials] for kind, trials in chosen.items()}
        for family, other in (("convnext", "depthwise"), ("vit", "attention"), ("vit", "s4")):
            ours, theirs = f"{family}_s4nd", f"{family}_{other}"
            if {ours, theirs} <= chosen.keys():
                metrics[f"gain_over_{other}"] = [fmean(metrics[ours]) - fmean(metrics[theirs])]
        tables: dict[str, list[Row]] = {"curves": rows(chosen, run.seed), "sweep": sweeps(chosen)}
        parameters = {kind: count_parameters(trials[0].model) for kind, trials in chosen.items()}
        return Result(metrics, parameters=parameters, data=task.data, tables=tables)

    def _fit(self, task: ImageTask, run: Run, kind: str, lr: float, seed: int) -> Trial:
        model = self.classifier(kind, task.train.x.shape[-1], len(task.classes), seed)
        curve = self.fit(
            model,
            task.train,
            task.valid,
            lambda step: SIDE,
            replace(run, seed=seed),
            f"{task.name} {kind} lr {lr:g} seed {seed}",
            lr,
        )
        return Trial(lr, curve[-1]["accuracy"], accuracy(model, task.test), model, curve)
