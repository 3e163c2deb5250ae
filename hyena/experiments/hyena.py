"""Hyena Hierarchy (Poli et al. 2023, arXiv 2302.10866): associative recall and language modelling.

hyena train hyena --profile quick        # both, a few minutes on 2 cores
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hyena.data import text
from hyena.data.synthetic import IGNORE, Sequences, associative_recall
from hyena.errors import HyenaError, unknown
from hyena.experiments.base import Experiment
from hyena.models.attention import CausalAttention
from hyena.models.hyena import HyenaOperator, hyena_matrix
from hyena.models.lm import LanguageModel, count_parameters, next_token_loss
from hyena.results import Result, Row
from hyena.train import Recipe, Run, train

OPERATORS = ("hyena", "attention")


@dataclass(frozen=True)
class Comparison(Experiment):
    """Operators in the same language-model shell; the fields that describe shell and operators."""

    may_be_zero: ClassVar[tuple[str, ...]] = ("warmup", "warmup_epochs", "sample_bytes")

    operators: tuple[str, ...] = OPERATORS
    d_model: int = 64
    n_layer: int = 2
    d_inner: int = 256
    order: int = 2
    filter_order: int = 64  # width of the filter network
    emb_dim: int = 5
    w: float = 10.0
    num_heads: int = 1
    init: str = "lm"
    embed_dropout: float = 0.0
    batch_size: int = 32
    accumulate: int = 1
    precision: str = "no"
    lr: tuple[float, ...] = (5e-4,)  # one for all operators, or one for each in their order
    weight_decay: float = 0.1
    n_seeds: int = 3

    def rate(self, operator: str) -> float:
        """The operator's learning rate."""
        if len(self.lr) not in (1, len(self.operators)):
            raise HyenaError(f"lr is one rate, or one for each of {', '.join(self.operators)}; got {self.lr}")
        return self.lr[self.operators.index(operator) if len(self.lr) > 1 else 0]

    def model(self, operator: str, vocab_size: int, length: int, seed: int, d_inner: int = 0) -> LanguageModel:
        """The shell with one operator, initialised by `seed`; `d_inner` overrides the field if given."""
        mixers: dict[str, Callable[[], nn.Module]] = {
            "hyena": lambda: HyenaOperator(
                self.d_model, length, order=self.order, filter_order=self.filter_order, emb_dim=self.emb_dim,
                w=self.w, lr_pos_emb=0.0,
            ),
            "attention": lambda: CausalAttention(self.d_model, self.num_heads),
        }  # fmt: skip
        if operator not in mixers:
            raise unknown("operator", operator, mixers)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LanguageModel(
                vocab_size, self.d_model, self.n_layer, d_inner or self.d_inner, mixers[operator],
                l_max=length, positions=operator == "attention", embed_dropout=self.embed_dropout, init=self.init,
            )  # fmt: skip


@dataclass(frozen=True)
class AssociativeRecall(Comparison):
    """Table 4.2 and Appendix C: find the value of a key seen once among thousands of tokens.

    Percent of test sequences whose last token is right; chance is 1 / values. Recipe of Table A.1 with the
    filter of the released configuration. The quick profile takes about two minutes on 2 cores.
    """

    paper: ClassVar[str] = "hyena"

    vocab_size: int = 30  # Table 4.2
    length: int = 131_072
    n_train: int = 2000  # Table A.1
    n_test: int = 1000
    epochs: int = 200
    warmup_epochs: int = 10
    eval_every: int = 1  # epochs
    batch_size: int = 32

    def run(self, run: Run) -> Result:
        if not 0 < self.batch_size <= self.n_train:
            raise HyenaError(f"batch_size is 1 to n_train = {self.n_train}, got {self.batch_size}")
        accuracy: dict[str, list[float]] = {f"accuracy_{o}": [] for o in self.operators}
        curves, arrays, parameters = [], {}, {}
        for seed in range(run.seed, run.seed + self.n_seeds):
            learn, test = associative_recall(self.vocab_size, self.length, self.n_train, self.n_test, seed)
            for operator in self.operators:
                model = self.model(operator, self.vocab_size, learn.x.shape[1], seed)
                untrained = _filters(model)
                rows = self._train(model, operator, learn, test, replace(run, seed=seed))
                curves += [{"operator": operator, "seed": seed, **row} for row in rows]
                accuracy[f"accuracy_{operator}"].append(rows[-1]["accuracy"])
                parameters[operator] = count_parameters(model)
                if operator == "hyena" and seed == run.seed:
                    arrays = _pictures(model, untrained, test)
        if set(OPERATORS) <= set(self.operators):
            pairs = zip(accuracy["accuracy_hyena"], accuracy["accuracy_attention"], strict=True)
            accuracy["gap"] = [ours - theirs for ours, theirs in pairs]
        values = (self.vocab_size - 2 + 1) // 2
        accuracy["chance"] = [100 / values] * self.n_seeds
        return Result(accuracy, parameters=parameters, tables={"curves": curves}, arrays=arrays)

    def _train(self, model: LanguageModel, operator: str, learn: Sequences, test: Sequences, run: Run) -> list[Row]:
        x, y = torch.from_numpy(learn.x), torch.from_numpy(learn.y)
        per_epoch = len(x) // self.batch_size

        @lru_cache(maxsize=1)
        def order(epoch: int) -> Tensor:
            return torch.from_numpy(np.random.default_rng((run.seed, epoch)).permutation(len(x)))

        def batch(step: int) -> tuple[Tensor, Tensor]:
            epoch, i = divmod(step, per_epoch)
            chosen = order(epoch)[i * self.batch_size : (i + 1) * self.batch_size]
            return x[chosen], y[chosen]

        recipe = Recipe(
            steps=self.epochs * per_epoch,
            lr=self.rate(operator),
            warmup=self.warmup_epochs * per_epoch,
            weight_decay=self.weight_decay,
            accumulate=self.accumulate,
            precision=self.precision,
            eval_every=self.eval_every * per_epoch,
        )
        return train(
            model, batch, _loss, recipe, run, f"recall {operator} seed {run.seed}",
            evaluate=lambda m: {"accuracy": answer_accuracy(m, test)},
        )  # fmt: skip


@dataclass(frozen=True)
class LanguageModelling(Comparison):
    """Tables 4.3 and 4.4: Hyena against attention on held-out text, at equal parameters and equal tokens.

    Bits per byte, lower is better. The paper counts perplexity over GPT-2 tokens; bytes need no tokenizer and
    compare with any other model. The width of the attention twin's MLP gives both the same number of
    parameters. The quick profile takes about two minutes on 2 cores.
    """

    paper: ClassVar[str] = "hyena"

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
    sample_bytes: int = 400
    n_seeds: int = 1

    def run(self, run: Run) -> Result:
        corpus = text.load_corpus(self.corpus)
        width = self._matched_width()
        bits: dict[str, list[float]] = {f"bits_per_byte_{o}": [] for o in self.operators}
        curves, samples, parameters = [], {}, {}
        for seed in range(run.seed, run.seed + self.n_seeds):
            for operator in self.operators:
                model = self.model(operator, text.VOCAB_SIZE, self.length, seed, width[operator])
                rows = self._train(model, operator, corpus, replace(run, seed=seed))
                curves += [{"operator": operator, "seed": seed, **row} for row in rows]
                bits[f"bits_per_byte_{operator}"].append(self._bits(model, corpus.test, self.test_windows))
                parameters[operator] = count_parameters(model)
                if seed == run.seed:
                    samples[f"sample_{operator}"] = self._sample(model, corpus.test, seed)
        if set(OPERATORS) <= set(self.operators):
            pairs = zip(bits["bits_per_byte_hyena"], bits["bits_per_byte_attention"], strict=True)
            bits["relative_bits"] = [100 * (ours / theirs - 1) for ours, theirs in pairs]
        bits["bits_per_byte_lzma"] = [_lzma_bits(corpus)] * self.n_seeds
        data = {self.corpus if self.corpus in text.CORPORA else corpus.name: corpus.sha256}
        return Result(bits, parameters=parameters, data=data, tables={"curves": curves}, text=samples)

    def _matched_width(self) -> dict[str, int]:
        """MLP widths that give every operator the parameters of the first, which has `d_inner`."""
        counts = {o: count_parameters(self.model(o, text.VOCAB_SIZE, self.length, 0)) for o in self.operators}
        per_unit = self.n_layer * (2 * self.d_model + 1)
        target = counts[self.operators[0]]
        return {o: self.d_inner + round((target - count) / per_unit) for o, count in counts.items()}

    def _train(self, model: LanguageModel, operator: str, corpus: text.Corpus, run: Run) -> list[Row]:
        recipe = Recipe(
            steps=self.steps,
            lr=self.rate(operator),
            min_lr=self.last_lr * self.rate(operator),
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            accumulate=self.accumulate,
            precision=self.precision,
            eval_every=max(1, self.steps // self.evaluations),
        )
        return train(
            model,
            lambda step: text.windows(corpus.train, self.length, self.batch_size, run.seed, step),
            _loss,
            recipe,
            run,
            f"language model {operator} seed {run.seed}",
            evaluate=lambda m: {"bits_per_byte": self._bits(m, corpus.valid, self.valid_windows)},
        )

    @torch.no_grad()
    def _bits(self, model: LanguageModel, held_out: Tensor, limit: int) -> float:
        """Mean bits per byte over adjacent windows, each byte predicted from its own window alone."""
        model.eval()
        device = model.lm_head.weight.device
        total = count = 0.0
        for x, y in text.held_out_windows(held_out, self.length, self.batch_size, limit):
            total += next_token_loss(model(x.to(device)), y.to(device)).item() * y.numel()
            count += y.numel()
        return total / count / math.log(2)

    def _sample(self, model: LanguageModel, held_out: Tensor, seed: int) -> str:
        """The first bytes of the test text, continued by the model up to its length."""
        device = model.lm_head.weight.device
        prompt = held_out[None, : self.length // 4].long().to(device)
        count = min(self.sample_bytes, self.length - prompt.shape[1])
        generator = torch.Generator(device).manual_seed(seed)
        out = model.generate(prompt, count, temperature=0.8, generator=generator)[0].tolist()
        cut = prompt.shape[1]
        return f"{_readable(out[:cut])}▮{_readable(out[cut:])}"


@torch.no_grad()
def answer_accuracy(model: nn.Module, test: Sequences) -> float:
    """Percent of the asked positions at which the likeliest token is the answer."""
    model.eval()
    device = next(model.parameters()).device
    right = asked = 0
    for x, y in zip(*(torch.from_numpy(a).split(100) for a in (test.x, test.y)), strict=True):
        wanted = y != IGNORE
        guess = model(x.to(device)).argmax(-1).cpu()
        right += (guess == y)[wanted].sum().item()
        asked += wanted.sum().item()
    return 100 * right / asked


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return next_token_loss(model(x), y)


def _filters(model: LanguageModel) -> list[np.ndarray]:
    """The long filters of the first convolution of every block, (d_model, length); none for attention."""
    mixers = [layer.mixer for layer in model.backbone.layers]
    if not isinstance(mixers[0], HyenaOperator):
        return []
    with torch.no_grad():
        return [m.filters(min(m.l_max, 2048))[0][0].cpu().numpy() for m in mixers]


def _pictures(model: LanguageModel, untrained: list[np.ndarray], test: Sequences) -> dict[str, np.ndarray]:
    """Filters before and after, and the mean |H(u)| of each block (absent beyond 512 tokens).

    The matrices are those of the test sequence whose queried key was last seen longest ago.
    """
    arrays = {"filters_init": np.stack(untrained), "filters_trained": np.stack(_filters(model))}
    if test.x.shape[1] > 512:
        return arrays
    seen_again = test.x[:, -2::-1] == test.x[:, -1:]  # backwards from the token before the query
    chosen = int(seen_again.argmax(axis=1).argmax())
    tokens = torch.from_numpy(test.x[chosen : chosen + 1]).to(model.lm_head.weight.device)
    matrices = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        matrices.append(hyena_matrix(layer, inputs[0])[0].abs().mean(0).cpu().numpy())

    hooks = [layer.mixer.register_forward_hook(look) for layer in model.backbone.layers]
    with torch.no_grad():
        model(tokens)
    for hook in hooks:
        hook.remove()
    return arrays | {"matrices": np.stack(matrices), "tokens": test.x[chosen], "answer": test.y[chosen, -1:]}


def _lzma_bits(corpus: text.Corpus) -> float:
    """Bits per byte of the test text when compressed after the training text: a reference that knows no language."""
    learned, test = bytes(corpus.train[-(2**21) :].numpy()), bytes(corpus.test.numpy())
    extra = len(lzma.compress(learned + test, preset=6)) - len(lzma.compress(learned, preset=6))
    return 8 * extra / len(test)


def _readable(raw: list[int]) -> str:
    return bytes(raw).decode(errors="replace").replace("\x00", "�")
