"""Learning in context: what is frozen, what is shown, and what is chosen on validation data."""

import dataclasses

import numpy as np
import pytest
import torch
from instant import Training, recorded
from small_dna import SMALL, by_share, corpus, made

from hyena.data.labelled import Labelled
from hyena.data.nucleotides import BASES, SEP, A, G, N
from hyena.errors import HyenaError
from hyena.experiments.hyenadna import dna as dna_module
from hyena.experiments.hyenadna import incontext as module
from hyena.experiments.hyenadna.incontext import Answer, Examples, InContext, Parts, accuracy, probed, with_shots
from hyena.models.hyenadna import HyenaDNA, SoftPrompt
from hyena.train import Run


def settings(**changes: object) -> InContext:
    own = {"task": "made", "prompts": (2, 3), "shots": (0, 1), "tuned": (0, 4), "epochs": 2, "batch_size": 10}
    return InContext(**SMALL | own | changes)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(module, "load_dna", lambda source: corpus())
    monkeypatch.setattr(module, "load_task", lambda name: made(by_share))


@pytest.fixture
def trainings(monkeypatch) -> list[Training]:
    return recorded(monkeypatch, dna_module, module)


def pool() -> Examples:
    """Ten sequences of three letters, each unlike every other; even ones are answered by A, odd ones by N."""
    x = np.array([[*BASES[[i % 4, i // 4, i % 3]], SEP] for i in range(10)])
    return Examples(x, np.array([A, N] * 5))


@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_row_is_demonstrations_of_every_class_and_the_question(k: int) -> None:
    asked = Examples(np.full((6, 4), SEP), np.full(6, A))
    found = with_shots(asked, pool(), k, np.random.default_rng(0))
    assert found.x.shape == (6, 2 * k * 6 + 4) and np.array_equal(found.x[:, 2 * k * 6 :], asked.x)
    known = {tuple(row): label for row, label in zip(pool().x, pool().y, strict=True)}
    for row in found.x[:, : 2 * k * 6].reshape(6, 2 * k, 6):
        shown = [tuple(one[:4]) for one in row]
        assert len(set(shown)) == 2 * k and (row[:, 5] == SEP).all()
        assert [known[one] for one in shown] == row[:, 4].tolist()
        assert sorted(row[:, 4]) == [A] * k + [N] * k


def test_the_order_of_the_classes_gives_nothing_away() -> None:
    asked = Examples(np.full((40, 4), SEP), np.full(40, A))
    first = with_shots(asked, pool(), 2, np.random.default_rng(0)).x[:, 4]
    assert 8 < (first == A).sum() < 32


def test_no_row_is_its_own_demonstration() -> None:
    some = np.arange(10)
    found = with_shots(pool(), pool(), 4, np.random.default_rng(0), own=some)
    for row, question, answer in zip(found.x, pool().x, found.y, strict=True):
        shown = row[:-4].reshape(-1, 6)[:, :4]
        assert not (shown == question).all(1).any()
        assert answer == pool().y[(pool().x == question).all(1)][0]


def test_letters_answer_for_the_classes_and_every_sequence_ends_with_a_separator() -> None:
    task = dataclasses.replace(made(by_share), classes=("a", "b", "c"))
    part = Labelled(np.full((3, 4), A), np.ones((3, 4), dtype=bool), np.array([0, 1, 2]))
    found = module._examples(part, task, 10)
    assert found.y.tolist() == [A, G, N] and (found.x[:, -1] == SEP).all() and found.x.shape == (3, 5)
    assert len(module._examples(part, task, 2).y) == 2
    without_the_last = dataclasses.replace(part, y=np.array([0, 1, 1]))
    assert module._examples(without_the_last, task, 10).y.tolist() == [A, G, G]


def test_the_weights_are_frozen_under_a_prompt_and_tuned_under_shots(trainings) -> None:
    settings().run(Run())
    free = {t.name: {n for n, p in t.model.named_parameters() if p.requires_grad} for t in trainings}
    assert all(names == {"prompt"} for name, names in free.items() if name.startswith("prompt "))
    assert all(len(names) > 5 for name, names in free.items() if name.startswith("shots "))
    assert {name.split(" lr")[0] for name in free} == {
        "hyena pretrained 24", "prompt 2 pretrained", "prompt 3 pretrained", "prompt 2 untrained",
        "prompt 3 untrained", "shots 0 tuned 4", "shots 1 tuned 4",
    }  # fmt: skip


def test_training_a_prompt_changes_nothing_else() -> None:
    one, parts = settings(), _parts()
    model = one.language_model("hyena", 24, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = one._prompted(model, 3, parts, Run(), "prompt 3", 0.1, 0).model
    after = trained.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = SoftPrompt(one.language_model("hyena", 24, 0), 3)
    assert not torch.equal(trained.prompt, fresh.prompt)
    assert all(p.requires_grad for p in model.parameters()), "the model that is handed in can be trained later"


def test_tuning_rows_are_seen_once(trainings) -> None:
    settings(tuned=(0, 4), tuning_batch=2).run(Run())
    (tuning,) = [one for one in trainings if one.name.startswith("shots 1 tuned 4")]
    batch = tuning.batch
    assert tuning.recipe.steps == 2 and [len(batch(step)[0]) for step in range(2)] == [2, 2]
    assert len({tuple(row.tolist()) for step in range(2) for row in batch(step)[0]}) == 4


def test_the_shorter_and_the_longest_input_both_fit(trainings) -> None:
    settings(shots=(0, 2), prompts=(50,)).run(Run())
    assert {t.model.model.l_max for t in trainings if t.name.startswith(("prompt", "shots"))} == {75}


def _parts() -> Parts:
    task = made(by_share, sizes=(200, 60, 80))
    return Parts(*(module._examples(part, task, 1000) for part in (task.train, task.valid, task.test)))


def test_a_probe_of_random_weights_counts_letters_and_does_not_look_at_the_test() -> None:
    model, parts = settings().language_model("hyena", 24, 0), _parts()
    right = probed(model, parts)
    turned = parts._replace(test=Examples(parts.test.x, A + N - parts.test.y))
    assert right > 80 and probed(model, turned) == pytest.approx(100 - right)


def test_an_answer_is_right_only_if_it_is_the_likeliest_of_all_tokens() -> None:
    model = Answer(HyenaDNA(8, 1, 24, filter_order=4))
    asked = _parts().test
    said = model.eval()(torch.from_numpy(asked.x)).argmax(-1).numpy()
    assert accuracy(model, Examples(asked.x, said)) == 100.0
    assert accuracy(model, Examples(asked.x, said + 1)) == 0.0


def test_gains_are_differences_of_means() -> None:
    metrics = {
        "majority": [60.0], "probe_pretrained": [80.0], "prompt_3_pretrained": [70.0, 72.0],
        "prompt_3_untrained": [65.0, 65.0], "shots_0_tuned_0": [50.0], "shots_0_tuned_4": [60.0, 62.0],
        "shots_1_tuned_0": [40.0], "shots_1_tuned_4": [71.0, 71.0],
    }  # fmt: skip
    assert settings()._gains(metrics) == {
        "prompt_over_majority": [11.0], "prompt_over_probe": [-9.0], "prompt_over_untrained": [6.0],
        "shots_gain": [0.0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": (0, 2)}, r"prompts are numbers of at least 1, got \(0, 2\)"),
        ({"shots": ()}, "shots are numbers of at least 0"),
        ({"tuned": (1,)}, "tuned counts rows: 0, or at least a batch of 2"),
        ({"shots": (0, 99)}, "shots go up to 16: the rarest class has 17 examples"),
    ],
)
def test_a_mistake_is_refused_before_any_training(trainings, changes: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        settings(**changes).run(Run())
    assert not trainings


def test_sequences_of_several_lengths_or_of_many_classes_are_refused(monkeypatch, trainings) -> None:
    monkeypatch.setattr(module, "load_task", lambda name: made())
    with pytest.raises(HyenaError, match="made have several lengths"):
        settings().run(Run())
    many = dataclasses.replace(made(by_share), classes=("a", "b", "c", "d"))
    monkeypatch.setattr(module, "load_task", lambda name: many)
    with pytest.raises(HyenaError, match="made has 4 classes; letters answer for 2 or 3"):
        settings().run(Run())
    assert not trainings


def test_two_runs_give_the_same_numbers() -> None:
    first, _, second = settings().run(Run(seed=3)), torch.rand(1), settings().run(Run(seed=3))
    assert first.per_seed == second.per_seed and first.tables == second.tables
