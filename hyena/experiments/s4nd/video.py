"""Which way does it move, and how fast: S4ND along time and space beside convolution in three dimensions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.images import Images, load_images
from hyena.data.motion import CLASSES, PARTS, SPEEDS, film_pieces, hashes, moving_clips
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Trial, rows, shuffled, sweeps
from hyena.experiments.s4nd.images import Isotropic
from hyena.models.image_classifiers import IsotropicClassifier, isotropic
from hyena.models.lm import count_parameters
from hyena.models.s4nd import inflated
from hyena.results import Result, Row
from hyena.train import Run, train

Clips = tuple[Tensor, Tensor]  # and their classes
KINDS = ("s4nd", "s4nd_inflated", "conv", "mean_frame")
FILMS = (("bikes", 100, 4), ("carphone", 40, 2))  # name, first frame, how many times as coarse


@dataclass(frozen=True)
class Video(Isotropic):
    """Claim 4 on clips of moving photographs: eight directions and two speeds, test photographs are new ones.

    `s4nd` and `conv` have three axes; `s4nd_inflated` starts from a network of two axes that was trained once, from the
    first seed at `image_lr`, to tell the photographs of the training clips apart; `mean_frame` is S4ND on the mean of
    all frames, which shows how much their blur gives away. It is not all that can be told without following anything:
    bilinear sampling makes each frame as sharp as its fraction of a pixel. The first of `operators`, from its first
    seed, is also shown pieces of two real films.
    """

    paper: ClassVar[str] = "s4nd"

    operators: tuple[str, ...] = KINDS
    frames: int = 8
    side: int = 16
    clips: int = 6400
    images: str = "photographs-grey"  # what the network to inflate learns first
    image_steps: int = 300
    image_lr: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.operators:
            if kind not in KINDS:
                raise unknown("network of clips", kind, KINDS)
        if self.frames < 2:
            raise HyenaError(f"motion takes two frames or more, got {self.frames}")

    def run(self, run: Run) -> Result:
        counts = {"train": self.clips, "valid": min(800, self.valid_examples), "test": min(1600, self.test_examples)}
        parts = {part: moving_clips(part, count, self.frames, self.side, 0) for part, count in counts.items()}
        first = self._images(run) if "s4nd_inflated" in self.operators else None
        chosen = {
            kind: self.from_every_seed(kind, run.seed, partial(self._fit, parts, first, run)) for kind in self.operators
        }
        metrics = {kind: [trial.test for trial in trials] for kind, trials in chosen.items()}
        for name, other in (("gain_over_conv", "conv"), ("gain_of_inflation", "s4nd")):
            ours = "s4nd_inflated" if name == "gain_of_inflation" else "s4nd"
            if {ours, other} <= chosen.keys():
                metrics[name] = [fmean(metrics[ours]) - fmean(metrics[other])]
        model = chosen[self.operators[0]][0].model
        tables: dict[str, list[Row]] = {
            "curves": rows(chosen, run.seed), "sweep": sweeps(chosen), "kinds": kinds_of_error(model, *parts["test"])
        }  # fmt: skip
        parameters = {kind: count_parameters(trials[0].model) for kind, trials in chosen.items()}
        return Result(metrics, parameters=parameters, data=hashes(), tables=tables, arrays=self._films(model))

    def classifier(self, kind: str, first: IsotropicClassifier | None, seed: int) -> nn.Module:
        """An untrained network of clips, initialised by `seed`; or one of images, inflated."""
        space = (self.side, self.side)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "s4nd_inflated":
                return inflated_classifier(first, self.frames, len(CLASSES))
            if kind == "conv":
                model = isotropic(
                    "conv", 1, len(CLASSES), (self.frames, *space), d_model=self.conv_d_model,
                    n_layer=self.conv_n_layer, kernel_size=self.kernel_size, dropout=self.dropout,
                )  # fmt: skip
            else:
                grid = space if kind == "mean_frame" else (self.frames, *space)
                model = self._s4nd(grid, len(CLASSES))
        return MeanFrame(model) if kind == "mean_frame" else model

    def _s4nd(self, grid: tuple[int, ...], n_classes: int) -> IsotropicClassifier:
        return isotropic(
            "s4nd", 1, n_classes, grid, d_model=self.d_model, n_layer=self.n_layer, dropout=self.dropout,
            d_state=self.d_state, init=self.init, dt_min=self.dt_min, dt_max=self.dt_max,
        )  # fmt: skip

    def _images(self, run: Run) -> IsotropicClassifier:
        """A network of two axes that tells the photographs of the training clips apart, on a grid of `side`."""
        task = load_images(self.images)
        seen = torch.tensor([task.classes[label] in PARTS["train"] for label in task.train.y])
        part = Images(task.train.x[seen], task.train.y[seen]).at(self.side)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            model = self._s4nd((self.side, self.side), len(task.classes))
        name = f"{self.images} lr {self.image_lr:g} seed {run.seed}"
        self._train(model, (part.x, part.y), None, self.image_steps, run, name, self.image_lr)
        return model

    def _fit(
        self, parts: dict[str, Clips], first: IsotropicClassifier | None, run: Run, kind: str, lr: float, seed: int
    ) -> Trial:
        model = self.classifier(kind, first, seed)
        name = f"clips {kind} lr {lr:g} seed {seed}"
        curve = self._train(model, parts["train"], parts["valid"], self.steps, replace(run, seed=seed), name, lr)
        return Trial(lr, curve[-1]["accuracy"], accuracy(model, *parts["test"]), model, curve)

    def _train(
        self, model: nn.Module, part: Clips, valid: Clips | None, steps: int, run: Run, name: str, lr: float
    ) -> list[Row]:  # fmt: skip
        pick = shuffled((np.arange(len(part[1])),), min(self.batch_size, len(part[1])), run.seed)
        return train(
            model, lambda step: tuple(t[pick(step)[0]] for t in part), lambda m, x, y: F.cross_entropy(m(x), y),
            self.recipe(steps, min(self.warmup, steps // 2), lr, max(1, steps // self.evaluations)), run, name,
            evaluate=lambda m: {"accuracy": accuracy(m, *valid)} if valid else {},
        )  # fmt: skip

    @torch.no_grad()
    def _films(self, model: nn.Module) -> dict[str, np.ndarray]:
        """Of two real films a frame, and for every piece of it the class that the network finds most likely."""
        found = {}
        device = next(model.parameters()).device
        for name, start, shrink in FILMS:
            pieces, frame = film_pieces(name, start, self.frames, self.side, shrink)
            likely = model.eval()(pieces.flatten(0, 1).to(device)).softmax(-1).cpu()
            grid = pieces.shape[:2]
            found[f"{name}_frame"] = frame
            found[f"{name}_class"] = likely.argmax(-1).view(grid).numpy()
            found[f"{name}_probability"] = likely.amax(-1).view(grid).numpy()
        return found


class MeanFrame(nn.Module):
    """A network of images, given the mean of the frames."""

    def __init__(self, inside: IsotropicClassifier):
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.mean(1))


def inflated_classifier(first: IsotropicClassifier, frames: int, n_classes: int) -> IsotropicClassifier:
    """The network of images with layers of three axes and a new linear map to the classes."""
    width = first.decoder.in_features
    layers = [inflated(layer, frames) for layer in first.layers]
    model = IsotropicClassifier(layers, first.encoder.in_features, n_classes, width, first.dropout.p)
    old = {key: value for key, value in first.state_dict().items() if not key.startswith(("decoder", "layers"))}
    model.load_state_dict(old, strict=False)
    return model


@torch.no_grad()
def predictions(model: nn.Module, x: Tensor, batch: int = 100) -> Tensor:
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(some.to(device)).argmax(-1).cpu() for some in x.split(batch)])


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """In percent."""
    return 100 * (predictions(model, x) == y).double().mean().item()


def kinds_of_error(model: nn.Module, x: Tensor, y: Tensor) -> list[Row]:
    """How often direction, speed, and the axis of motion whatever its sense, are right."""
    said = predictions(model, x)
    right = {
        "direction": said // len(SPEEDS) == y // len(SPEEDS),
        "speed": said % len(SPEEDS) == y % len(SPEEDS),
        "axis": said // len(SPEEDS) % 4 == y // len(SPEEDS) % 4,
    }
    return [{"what": what, "accuracy": 100 * hits.double().mean().item()} for what, hits in right.items()]
