"""What the experiments of HyenaDNA share: the model, its attention twin, and learning the next nucleotide."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hyena.data.dna import DnaCorpus, in_windows
from hyena.data.nucleotides import VOCAB_SIZE
from hyena.data.synthetic import IGNORE
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Comparison, Trial
from hyena.models.attention import CausalAttention
from hyena.models.hyenadna import HyenaDNA
from hyena.models.lm import LanguageModel, next_token_loss
from hyena.train import Recipe, Run, train

MODELS = ("hyena", "attention")


@dataclass(frozen=True)
class Dna(Comparison):
    """Fields of the model and of its pretraining."""

    dna: str = "chr20"  # the paper: hg38, 3.1 billion bp
    d_model: int = 128  # Table A.1, tiny
    n_layer: int = 2
    filter_order: int = 64
    num_heads: int = 8  # of the attention twin
    embed_dropout: float = 0.1
    length: int = 1024  # bp that the model reads
    batch_bases: int = 262_144  # Table A.2: 256 windows of 1,024 bp
    steps: int = 10_000
    warmup: int = 500
    evaluations: int = 20
    valid_tiles: int = 200
    test_tiles: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.embed_dropout < 1:
            raise HyenaError(f"embed_dropout is a probability below 1, got {self.embed_dropout}")
        if self.batch_bases < self.length:
            raise HyenaError(f"batch_bases is at least one window of {self.length} bp, got {self.batch_bases}")

    def language_model(self, kind: str, l_max: int, seed: int, vocab_size: int = VOCAB_SIZE) -> LanguageModel:
        """HyenaDNA, or the same blocks around attention with learned positions, initialised by `seed`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "hyena":
                return HyenaDNA(
                    self.d_model, self.n_layer, l_max, filter_order=self.filter_order, vocab_size=vocab_size,
                    embed_dropout=self.embed_dropout,
                )  # fmt: skip
            if kind != "attention":
                raise unknown("model of DNA", kind, MODELS)
            return LanguageModel(
                vocab_size, self.d_model, self.n_layer, 4 * self.d_model,
                lambda: CausalAttention(self.d_model, self.num_heads), l_max=l_max, positions=True,
                embed_dropout=self.embed_dropout,
            )  # fmt: skip

    def pretrain(
        self, corpus: DnaCorpus, kind: str, lengths: tuple[int, ...], lr: float, seed: int, run: Run, l_max: int = 0
    ) -> Trial:
        """Learn the next letter; with several `lengths` each has an equal share of the steps, one after the other.

        Every batch has the same number of letters. Score and test are minus the nats, and the perplexity, of every
        target of the held-out tiles, read in windows of the last length. The model has filters for `l_max` letters,
        or for the last length if that is more.
        """
        length = lengths[-1]
        model = self.language_model(kind, max(length, l_max), seed)
        recipe = self.dna_recipe(self.steps, self.warmup, lr, self.evaluations)

        def batch(step: int) -> tuple[Tensor, ...]:
            size = lengths[step * len(lengths) // self.steps]
            return corpus.batch(size, self.batch_bases // size, seed, step)

        valid, test = (
            in_windows(corpus.tiles(part, self.length, count), length)
            for part, count in (("valid", self.valid_tiles), ("test", self.test_tiles))
        )
        curve = train(
            model, batch, lambda m, x, y: next_token_loss(m(x), y), recipe, replace(run, seed=seed),
            f"{kind} pretrained {'-'.join(map(str, lengths))} lr {lr:g} seed {seed}",
            evaluate=lambda m: {"perplexity": math.exp(nats(m, *valid))},
        )  # fmt: skip
        return Trial(lr, -math.log(curve[-1]["perplexity"]), math.exp(nats(model, *test)), model, curve)

    def with_data(self, run: Run, *hashes: dict[str, str]) -> Run:
        """The run whose checkpoints are of these very files, whatever their names."""
        known = sorted(item for some in hashes for item in some.items())
        return replace(run, fingerprint=hashlib.sha256(f"{run.fingerprint} {known}".encode()).hexdigest())

    def dna_recipe(self, steps: int, warmup: int, lr: float, evaluations: int) -> Recipe:
        """AdamW as in Section A.1 of the paper; the rate ends at a tenth of its peak."""
        made = self.recipe(steps, warmup, lr, max(1, steps // evaluations), min_lr=0.1 * lr)
        return replace(made, betas=(0.9, 0.999))


@torch.no_grad()
def nats(model: nn.Module, x: Tensor, y: Tensor, batch: int = 2**15) -> float:
    """Mean cross-entropy per target in nats, `batch` letters at a time."""
    model.eval()
    device = next(model.parameters()).device
    total, size = 0.0, max(1, batch // x.shape[1])
    for some, targets in zip(x.split(size), y.split(size), strict=True):
        asked = int((targets != IGNORE).sum())
        if asked:
            total += next_token_loss(model(some.to(device)), targets.to(device)).item() * asked
    return total / int((y != IGNORE).sum())
