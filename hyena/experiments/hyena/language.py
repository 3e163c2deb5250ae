"""Language modelling over bytes, and what is left of a trained model when its filters become small state spaces."""

from __future__ import annotations

import lzma
import math
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import ClassVar

import torch
from torch import Tensor

from hyena.data import text
from hyena.errors import HyenaError
from hyena.experiments.comparison import TWINS, Trial, rows, sweeps
from hyena.experiments.hyena.shell import Shell, loss
from hyena.models.filters import FixedFilter
from hyena.models.lm import LanguageModel, count_parameters, next_token_loss
from hyena.ops.distill import distill, hankel_singular_values
from hyena.results import Result, Row
from hyena.train import Run, train


@dataclass(frozen=True)
class Language(Shell):
    """What the two experiments on text share: corpus, windows, schedule."""

    corpus: str = "wikitext-103"  # Table 4.3
    d_model: int = 768  # 125M, Table A.4
    n_layer: int = 12
    d_inner: int = 3072
    num_heads: int = 12
    order: int = 3
    emb_dim: int = 33
    w: float = 14.0
    embed_dropout: float = 0.1
    length: int = 1024
    batch_size: int = 512
    precision: str = "bf16"
    steps: int = 100_000  # about 100 epochs of bytes
    warmup: int = 1000  # 1%
    lr: tuple[float, ...] = (6e-4,)
    last_lr: float = 0.1  # the last learning rate as a fraction of the peak
    evaluations: int = 50
    valid_windows: int = 512
    test_windows: int = 100_000  # all of it
    n_seeds: int = 1

    def fit(
        self, operator: str, lr: float, seed: int, corpus: text.Corpus, run: Run, width: int | None = None
    ) -> Trial:
        """Train one model; its score is minus its bits per byte on all of the validation windows."""
        model = self.model(operator, text.VOCAB_SIZE, self.length, seed, width)
        recipe = self.recipe(
            self.steps, self.warmup, lr, max(1, self.steps // self.evaluations), min_lr=self.last_lr * lr
        )
        curve = train(
            model, lambda step: text.windows(corpus.train, self.length, self.batch_size, seed, step), loss, recipe,
            replace(run, seed=seed), f"language model {operator} lr {lr:g} seed {seed}",
            evaluate=lambda m: {"bits_per_byte": self.bits(m, corpus.valid, self.valid_windows)},
        )  # fmt: skip
        test = self.bits(model, corpus.test, self.test_windows)
        return Trial(lr, -curve[-1]["bits_per_byte"], test, model, curve)

    @torch.no_grad()
    def bits(self, model: LanguageModel, held_out: Tensor, limit: int) -> float:
        """Mean bits per byte over adjacent windows, each byte predicted from its own window alone."""
        model.eval()
        device = model.lm_head.weight.device
        total = count = 0.0
        for x, y in text.held_out_windows(held_out, self.length, self.batch_size, limit):
            total += next_token_loss(model(x.to(device)), y.to(device)).item() * y.numel()
            count += y.numel()
        return total / count / math.log(2)

    def source(self, corpus: text.Corpus) -> dict[str, str]:
        """Name and hash of the text."""
        return {self.corpus if self.corpus in text.CORPORA else corpus.name: corpus.sha256}


@dataclass(frozen=True)
class LanguageModelling(Language):
    """Tables 4.3, 4.4 and C.1: operators on held-out text, at equal parameters and equal tokens.

    Bits per byte, lower is better. The paper counts perplexity over GPT-2 tokens; bytes need no tokenizer and
    compare with any other model. The width of each model's MLP gives all the same number of parameters. The quick
    profile takes about a minute on 2 cores.
    """

    paper: ClassVar[str] = "hyena"

    sample_bytes: int = 400

    def run(self, run: Run) -> Result:
        corpus = text.load_corpus(self.corpus)
        width = self._matched_width()
        chosen = self.compare(run.seed, lambda o, lr, seed: self.fit(o, lr, seed, corpus, run, width[o]))
        bits = {f"bits_per_byte_{o}": [t.test for t in trials] for o, trials in chosen.items()}
        if set(TWINS) <= set(chosen):
            pairs = zip(*(bits[f"bits_per_byte_{o}"] for o in TWINS), strict=True)
            bits["relative_bits"] = [100 * (ours / theirs - 1) for ours, theirs in pairs]
        rivals = [fmean(bits[f"bits_per_byte_{o}"]) for o in chosen if o not in TWINS]
        if rivals and "hyena" in chosen:
            bits["relative_bits_rival"] = [100 * (fmean(bits["bits_per_byte_hyena"]) / min(rivals) - 1)]
        bits |= {f"lr_{o}": [trials[0].lr] for o, trials in chosen.items()}
        bits["bits_per_byte_lzma"] = [_lzma_bits(corpus)]
        return Result(
            bits,
            parameters={o: count_parameters(trials[0].model) for o, trials in chosen.items()},
            data=self.source(corpus),
            tables={"curves": rows(chosen, run.seed), "sweep": sweeps(chosen)},
            text={f"sample_{o}": self._sample(chosen[o][0].model, corpus.test, run.seed) for o in TWINS if o in chosen},
        )

    def _matched_width(self) -> dict[str, int]:
        """MLP widths that give every operator the parameters of the first, which has `d_inner`."""
        counts = {o: count_parameters(self.model(o, text.VOCAB_SIZE, self.length, 0)) for o in self.operators}
        per_unit = self.n_layer * (2 * self.d_model + 1)
        target = counts[self.operators[0]]
        return {o: self.d_inner + round((target - count) / per_unit) for o, count in counts.items()}

    def _sample(self, model: LanguageModel, held_out: Tensor, seed: int) -> str:
        """The first bytes of the test text, continued by the model up to its length."""
        device = model.lm_head.weight.device
        prompt = held_out[None, : self.length // 4].long().to(device)
        count = min(self.sample_bytes, self.length - prompt.shape[1])
        generator = torch.Generator(device).manual_seed(seed)
        out = model.generate(prompt, count, temperature=0.8, generator=generator)[0].tolist()
        cut = prompt.shape[1]
        return f"{_readable(out[:cut])}▮{_readable(out[cut:])}"


@dataclass(frozen=True)
class Distillation(Language):
    """Laughing Hyena (Massaroli et al. 2023, arXiv 2310.18780): the filters of a trained model as state spaces.

    For each number of modes: the relative error of the filters, what their Hankel singular values promise, and
    the bits per byte of the model with the distilled filters in place. The quick profile takes half a minute.
    """

    paper: ClassVar[str] = "hyena"

    operators: tuple[str, ...] = ("hyena",)
    order: int = 2
    modes: tuple[int, ...] = (2, 4, 8, 16, 32, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operators != ("hyena",):
            raise HyenaError(f"distillation is of hyena's filters: operators is ('hyena',), got {self.operators}")
        if not self.modes or min(self.modes) < 1 or max(self.modes) >= self.length // 2:
            raise HyenaError(f"modes are 1 to {self.length // 2 - 1} for length {self.length}, got {self.modes}")

    def run(self, run: Run) -> Result:
        corpus = text.load_corpus(self.corpus)
        trials = self.compare(run.seed, lambda o, lr, seed: self.fit(o, lr, seed, corpus, run))["hyena"]
        metrics: dict[str, list[float]] = {"bits_per_byte": [t.test for t in trials], "lr": [trials[0].lr]}
        table = []
        for i, trial in enumerate(trials):
            distilled = [{"seed": run.seed + i, **row} for row in self._distilled(trial, corpus)]
            table += distilled
            for row in distilled:
                extra = 100 * (row["bits_per_byte"] / trial.test - 1)
                metrics.setdefault(f"extra_bits_{row['modes']}", []).append(extra)
                metrics.setdefault(f"error_{row['modes']}", []).append(row["median_error"])
        return Result(
            metrics,
            parameters={"hyena": count_parameters(trials[0].model)},
            data=self.source(corpus),
            tables={"modes": table, "curves": rows({"hyena": trials}, run.seed)},
        )

    def _distilled(self, trial: Trial, corpus: text.Corpus) -> list[Row]:
        """A row for each number of modes."""
        filters = [layer.mixer.filter_fn for layer in trial.model.backbone.layers]
        with torch.no_grad():
            h = [f(self.length) for f in filters]
        fits = [distill(one, list(self.modes)) for one in h]
        values = torch.cat([hankel_singular_values(one) for one in h])
        found = []
        for modes in self.modes:
            short = [fit[modes].taps(self.length) for fit in fits]
            errors = torch.cat([(a - b).norm(dim=-1) / a.norm(dim=-1) for a, b in zip(h, short, strict=True)])
            found.append({
                "modes": modes,
                "median_error": median(errors.tolist()),
                "largest_error": errors.max().item(),
                "hankel_ratio": (values[:, modes] / values[:, 0]).median().item(),
                "bits_per_byte": self.bits(_with_filters(trial.model, short), corpus.test, self.test_windows),
            })  # fmt: skip
        return found


def _with_filters(model: LanguageModel, taps: list[Tensor]) -> LanguageModel:
    """A copy of the model with these filters in place of its own."""
    copy = deepcopy(model)
    for layer, h in zip(copy.backbone.layers, taps, strict=True):
        layer.mixer.filter_fn = FixedFilter(h, layer.mixer.filter_fn.skip().detach())
    return copy


def _lzma_bits(corpus: text.Corpus) -> float:
    """Bits per byte of the test text when compressed after the training text: a reference that knows no language."""
    learned, test = bytes(corpus.train[-(2**21) :].numpy()), bytes(corpus.test.numpy())
    extra = len(lzma.compress(learned + test, preset=6)) - len(lzma.compress(learned, preset=6))
    return 8 * extra / len(test)


def _readable(raw: list[int]) -> str:
    return bytes(raw).decode(errors="replace").replace("\x00", "�")
