"""How operators are compared: the same effort for each, chosen on validation data, reported on test data."""

import dataclasses
from statistics import fmean

import numpy as np
import pytest
import torch
from instant import ROW, Fits, recall, trial
from torch import Tensor, nn

from hyena.data.synthetic import IGNORE, Sequences
from hyena.experiments.comparison import Comparison, Trial, best_rivals, shuffled
from hyena.experiments.hyena import AssociativeRecall
from hyena.experiments.hyena import recall as recall_module
from hyena.experiments.hyena.recall import FILTERS, OPERATORS
from hyena.experiments.hyena.shell import answer_accuracy
from hyena.train import Run

EVERY_OPERATOR = ("hyena", "attention", "conv1d", "h3", "gss", "aft_conv", "rwkv")


# The sweep


def test_the_rate_that_does_best_on_validation_data_is_chosen_whatever_the_test_says() -> None:
    tests = {0.1: 90.0, 0.2: 10.0, 0.3: 99.0}
    scores = {0.1: 50.0, 0.2: 70.0, 0.3: 60.0}
    best = Comparison(lr=(0.3, 0.1, 0.2)).sweep("hyena", 0, lambda o, lr, seed: trial(lr, scores[lr], tests[lr]))
    assert (best.lr, best.score, best.test) == (0.2, 70.0, 10.0)
    assert best.tried == ((0.1, 50.0), (0.2, 70.0), (0.3, 60.0))


def test_in_a_tie_the_smallest_rate_is_chosen() -> None:
    fits = Fits(score=lambda o, lr: 100.0 if lr > 0.1 else 0.0)
    assert Comparison(lr=(0.4, 0.2, 0.1, 0.3)).sweep("hyena", 0, fits).lr == 0.2


def test_every_operator_tries_every_rate_with_the_first_seed_and_repeats_only_its_best() -> None:
    best = {"hyena": 0.1, "attention": 0.3, "conv1d": 0.2}
    fits = Fits(score=lambda o, lr: float(lr == best[o]))
    settings = Comparison(operators=tuple(best), lr=(0.1, 0.2, 0.3), n_seeds=3)
    chosen = settings.compare(5, fits)
    swept = [(o, lr, 5) for o in best for lr in settings.lr]
    assert fits.seen == swept + [(o, best[o], seed) for o in best for seed in (6, 7)]
    assert {o: {t.lr for t in trials} for o, trials in chosen.items()} == {o: {lr} for o, lr in best.items()}


@pytest.mark.parametrize("best", ["conv1d", "h3", "rwkv"])
def test_hyena_attention_and_the_best_rival_are_repeated_and_the_others_are_not(best: str) -> None:
    fits = Fits(score=lambda o, lr: float(o == best), test=lambda o, seed: float(o not in ("hyena", best)))
    chosen = Comparison(operators=EVERY_OPERATOR, n_seeds=4).compare(0, fits)
    repeated = {"hyena", "attention", best}
    assert {o: len(t) for o, t in chosen.items()} == {o: 4 if o in repeated else 1 for o in EVERY_OPERATOR}
    assert best_rivals(chosen) == [best]


def test_a_rival_that_hyena_and_attention_beat_is_still_the_best_rival() -> None:
    scores = {"hyena": 9.0, "attention": 8.0, "conv1d": -2.0, "h3": -1.0}
    assert best_rivals({o: [trial(0.1, s)] for o, s in scores.items()}) == ["h3"]
    assert best_rivals({"hyena": [trial(0.1, 1.0)], "attention": [trial(0.1, 2.0)]}) == []


# Recall


def test_the_lead_is_hyenas_mean_over_the_best_filter_in_its_shell(monkeypatch) -> None:
    tests = {"conv1d": 30.0, "fno": 60.0, "transfer_function": 50.0, "ssm": 99.0, "h3": 98.0}
    fits = Fits(
        score=lambda o, lr: float(o == "conv1d"), test=lambda o, seed: 80.0 + 10 * seed if o == "hyena" else tests[o]
    )
    settings = recall(monkeypatch, fits, operators=["hyena", *tests], n_seeds=3)
    metrics = settings.run(Run()).metrics
    assert metrics["lead"] == fmean([80.0, 90.0, 100.0]) - 60.0
    assert "lead_operators" not in metrics  # not all four operators are there
    assert "gap" not in metrics


def test_the_lead_over_operators_is_over_all_four(monkeypatch) -> None:
    tests = dict(zip(("hyena", "conv1d", *OPERATORS), (90.0, 89.0, 10.0, 20.0, 40.0, 30.0), strict=True))
    settings = recall(monkeypatch, Fits(test=lambda o, seed: tests[o]), operators=list(tests))
    metrics = settings.run(Run()).metrics
    assert metrics["lead_operators"] == 50.0
    assert "lead" not in metrics


def test_the_gap_is_hyena_minus_attention_seed_by_seed(monkeypatch) -> None:
    fits = Fits(test=lambda o, seed: {"hyena": 90.0 + seed, "attention": 95.0 - seed, "conv1d": 0.0}[o])
    result = recall(monkeypatch, fits, n_seeds=3).run(Run(seed=1))
    assert result.per_seed["gap"] == [-3.0, -1.0, 1.0]


def test_every_other_cell_takes_over_the_rates_of_the_last_with_one_seed(monkeypatch) -> None:
    best = {"hyena": 0.1, "attention": 0.2, "conv1d": 0.1}
    easy, hard = (8, 16, 2), (10, 16, 2)
    fits = Fits(score=lambda o, lr: float(lr == best[o]))
    result = recall(monkeypatch, fits, lr=[0.1, 0.2], cells=[easy, hard], n_seeds=2).run(Run(seed=3))
    assert [call for call in fits.seen if call[0] == easy] == [(easy, o, lr, 3) for o, lr in best.items()]
    assert len([call for call in fits.seen if call[0] == hard]) == 3 * 2 + 3
    found = [(r["vocab_size"], r["operator"], r["lr"], r["seeds"]) for r in result.tables["cells"]]
    assert found == [(10, o, lr, 2) for o, lr in best.items()] + [(8, o, lr, 1) for o, lr in best.items()]


def test_chance_is_one_value_of_the_last_cell(monkeypatch) -> None:
    settings = recall(monkeypatch, Fits(), cells=[[8, 16, 1], [10, 16, 1]])
    assert settings.run(Run()).metrics["chance"] == 25.0  # 8 symbols: 4 keys, 4 values


def test_every_operator_of_recall_has_the_same_rates_steps_and_warm_up(trains) -> None:
    names = ["hyena", "attention", *FILTERS, *OPERATORS]
    settings = AssociativeRecall.configured(
        "smoke", operators=names, n_train=64, n_valid=10, n_test=10, lr=[0.1, 0.2], cells=[[8, 8, 3], [10, 8, 5]],
        n_seeds=1, warmup_epochs=1, eval_every=2,
    )  # fmt: skip
    settings.run(Run())
    hard = {o: [r for name, r in trains if name.startswith(f"recall {o} V10 ")] for o in names}
    recipe = settings.recipe(steps=10, warmup=2, lr=0.1, eval_every=4)  # two batches of 32 an epoch
    assert hard == {o: [recipe, dataclasses.replace(recipe, lr=0.2)] for o in names}
    easy = [r for name, r in trains if " V8 " in name]
    assert (len(easy), {r.steps for r in easy}) == (len(names), {6})


def test_training_looks_at_validation_data_alone_and_is_tested_on_the_rest(monkeypatch, trains) -> None:
    looked: list[Sequences] = []
    monkeypatch.setattr(recall_module, "answer_accuracy", lambda model, data: looked.append(data) or 50.0)
    settings = AssociativeRecall.configured("smoke", n_train=64, n_valid=20, n_test=30)
    cell = settings.cells[-1]
    settings._fit(cell, Run())("hyena", 0.1, 0)
    learn, valid, test = settings.data(cell, 0)
    assert [len(data.x) for data in (learn, *looked)] == [64, 20, 30]
    assert np.array_equal(looked[0].x, valid.x) and np.array_equal(looked[1].x, test.x)
    whole = np.vstack([valid.x, test.x])
    assert len(np.unique(np.column_stack([whole, np.vstack([valid.y, test.y])[:, -1]]), axis=0)) == 50


@pytest.mark.parametrize(("enough", "steps"), [(0.0, [2]), (101.0, [2, 4, 6])])
def test_a_training_of_recall_ends_when_validation_reaches_enough(enough: float, steps: list[int]) -> None:
    settings = AssociativeRecall.configured("smoke", n_train=64, n_valid=10, n_test=10, enough=enough)
    curve = settings._fit((10, 8, 3), Run())("hyena", 0.001, 0).curve
    assert [row["step"] for row in curve] == steps


def test_enough_is_reached_by_the_validation_score(monkeypatch) -> None:
    stops = []

    def instant(model, batch, loss, recipe, run, name, evaluate, stop) -> list:
        stops.append([stop({"accuracy": a}) for a in (94.9, 95.0, 100.0)])
        return [{**ROW, **evaluate(model)}]

    monkeypatch.setattr(recall_module, "train", instant)
    settings = AssociativeRecall.configured("smoke", n_train=64, n_valid=10, n_test=10, enough=95.0)
    settings._fit((10, 8, 3), Run())("hyena", 0.001, 0)
    assert stops == [[False, True, True]]


def test_the_pictures_are_of_the_sequence_whose_key_was_last_seen_longest_ago() -> None:
    settings = AssociativeRecall.configured("smoke")
    cell = settings.cells[-1]
    _, _, test = settings.data(cell, 0)
    model = settings.model("hyena", cell[0], test.x.shape[1], 0)
    found = settings._pictures({"hyena": [Trial(0.1, 0.0, 0.0, model, [ROW])]}, cell, 0)
    ago = [next(j for j in range(1, len(x)) if x[-1 - j] == x[-1]) for x in test.x]
    assert np.array_equal(found["tokens"], test.x[int(np.argmax(ago))])
    length = test.x.shape[1]
    assert found["matrices"].shape == (settings.n_layer, length, length)
    assert np.allclose(np.triu(found["matrices"], 1), 0, atol=1e-6)
    assert np.array_equal(found["filters_init"], found["filters_trained"])  # the same seed, and nothing was learnt


# Answers


class Says(nn.Module):
    """Always the same tokens, whatever it is asked."""

    def __init__(self, *tokens: int):
        super().__init__()
        self.logits = nn.Parameter(nn.functional.one_hot(torch.tensor(tokens), 10).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1, -1)


def test_a_whole_answer_is_right_only_if_every_digit_is() -> None:
    y = np.array([[IGNORE, 1, 2], [IGNORE, 1, 3], [IGNORE, 4, 2], [IGNORE, 5, 6]])
    asked = Sequences(np.zeros_like(y), y)
    assert answer_accuracy(Says(9, 1, 2), asked) == 100 * 4 / 8
    assert answer_accuracy(Says(9, 1, 2), asked, whole=True) == 100 * 1 / 4


def test_answers_are_counted_over_all_parts_of_a_large_test_set() -> None:
    y = np.full((250, 2), IGNORE)
    y[:, 1] = np.arange(250) < 240  # the wrong ones are all in the last part
    assert answer_accuracy(Says(0, 1), Sequences(np.zeros_like(y), y)) == pytest.approx(96.0)


def test_every_example_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    x = np.arange(12)
    batch = shuffled((x, -x), 4, seed=1)
    epochs = [torch.cat([batch(step)[0] for step in range(3 * e, 3 * e + 3)]).tolist() for e in range(2)]
    assert [sorted(e) for e in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
    assert all(torch.equal(a, -b) for a, b in (batch(step) for step in range(6)))
    assert torch.equal(batch(4)[0], shuffled((x, -x), 4, seed=1)(4)[0])  # as a resumed run asks
