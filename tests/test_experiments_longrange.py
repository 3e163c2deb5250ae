"""DNA read backwards: what is turned around, what a model may read, and what chooses."""

import dataclasses

import numpy as np
import pytest
import torch
from instant import recorded
from small_dna import SMALL, corpus

from hyena.data.dna import DnaCorpus
from hyena.data.genome import Loaded
from hyena.data.nucleotides import encode
from hyena.errors import HyenaError
from hyena.experiments.hyenadna import longrange as module
from hyena.experiments.hyenadna.longrange import LongRange, Windows, half_turned, linear_accuracy
from hyena.train import Run


def settings(**changes: object) -> LongRange:
    own = {"contexts": (6, 24), "batch_size": 8, "linear_windows": 64}
    return LongRange(**SMALL | own | changes)


def one_way() -> DnaCorpus:
    """DNA in which A, C and G follow each other in this order only, in groups between random letters."""
    rng = np.random.default_rng(0)
    letters = np.concatenate([np.append(encode("ACG"), encode("ACGT")[rng.integers(4, size=2)]) for _ in range(160)])
    return dataclasses.replace(corpus(), genome=Loaded("one way", {"r": letters}))


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(module, "load_dna", lambda source: one_way())


def test_half_of_the_windows_are_read_from_the_end_with_their_letters_as_they_are() -> None:
    windows = np.random.default_rng(0).integers(7, 11, (21, 9)).astype(np.uint8)
    found = half_turned(windows, 5)
    assert found.y.sum() == 10
    for row, was, turned in zip(found.x, windows, found.y, strict=True):
        assert np.array_equal(row, was[::-1] if turned else was)
    assert not np.array_equal(found.y, np.arange(21) % 2), "not every second one in a row"


def test_a_model_reads_the_context_and_no_more(monkeypatch) -> None:
    trained = recorded(monkeypatch, module)
    settings(operators=("hyena", "attention")).run(Run())
    seen = [(t.name.partition(" lr")[0], tuple(t.batch(0)[0].shape), t.recipe.steps, t.model.l_max) for t in trained]
    assert seen == [(f"{kind} context {n}", (8, n), 4, 24) for n in (6, 24) for kind in ("hyena", "attention")]


def test_every_context_is_asked_of_the_same_windows(monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(
        module, "accuracy", lambda model, part, context: asked.setdefault(context, part.x) is None or 0.0
    )
    settings(operators=("hyena",)).run(Run())
    assert np.array_equal(asked[6], asked[24])


def test_words_tell_the_direction_where_letters_cannot_and_a_longer_context_tells_more() -> None:
    found = settings(length=96, contexts=(6, 96), batch_bases=96, operators=("hyena",), steps=1, warmup=0).run(Run())
    assert found.metrics["linear_at_96"] > found.metrics["linear_at_6"]
    assert found.metrics["gain_linear"] == pytest.approx(found.metrics["linear_at_96"] - found.metrics["linear_at_6"])


def test_the_linear_model_is_chosen_on_validation_windows_alone() -> None:
    rng, dna = np.random.default_rng(0), one_way().genome.records["r"]
    learn, valid, test = (
        half_turned(np.stack([dna[i : i + 40] for i in rng.integers(700, size=n)]), n) for n in (200, 60, 80)
    )
    right = linear_accuracy(learn, valid, test, 40)
    assert right > 90
    assert linear_accuracy(learn, valid, Windows(test.x, 1 - test.y), 40) == pytest.approx(100 - right)


def test_direction_is_learned() -> None:
    teach = {"contexts": (24,), "steps": 300, "warmup": 5, "batch_size": 32, "d_model": 16}
    found = settings(operators=("hyena",), valid_tiles=8, test_tiles=8, **teach).run(Run())
    assert found.metrics["hyena_at_24"] == 100.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contexts": (6, 12)}, r"lengths up to length = 24, itself included; got \(6, 12\)"),
        ({"contexts": (0, 24)}, "lengths up to length = 24"),
        ({"contexts": ()}, "lengths up to length = 24"),
        ({"operators": ("hyenna",)}, "unknown model of DNA 'hyenna': did you mean 'hyena'"),
    ],
)
def test_a_mistake_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        settings(**changes)


def test_two_runs_give_the_same_numbers() -> None:
    one = settings(operators=("hyena",))
    first, _, second = one.run(Run(seed=3)), torch.rand(1), one.run(Run(seed=3))
    assert first.per_seed == second.per_seed and first.tables == second.tables
