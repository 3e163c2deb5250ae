"""How operators are compared: the same effort for each, chosen on validation data, reported on test data."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hyena import claims, count_parameters
from hyena.data import text
from hyena.data.synthetic import IGNORE, Sequences
from hyena.data.tasks import Points, linear_functions
from hyena.errors import HyenaError
from hyena.experiments.base import experiment
from hyena.experiments.hyena import AssociativeRecall, Distillation, LanguageModelling, Reasoning
from hyena.experiments.hyena import language as language_module
from hyena.experiments.hyena import reasoning as reasoning_module
from hyena.experiments.hyena import recall as recall_module
from hyena.experiments.hyena.comparison import Comparison, Trial, answer_accuracy, best_rivals, shuffled
from hyena.experiments.hyena.recall import FILTERS, OPERATORS
from hyena.train import Recipe, Run

EVERY_OPERATOR = ("hyena", "attention", "conv1d", "h3", "gss", "aft_conv", "rwkv")
ROW = {"step": 1, "lr": 0.1, "loss": 1.0}
Fit = Callable[[str, float, int], Trial]


def trial(lr: float, score: float, test: float = 0.0) -> Trial:
    return Trial(lr, score, test, nn.Linear(1, 1), [ROW])


class Fits:
    """Instant trainings: `score(operator, lr)` on validation data, `test(operator, seed)` on test data."""

    def __init__(self, score=lambda o, lr: 0.0, test=lambda o, seed: 0.0):
        self.score, self.test, self.seen = score, test, []

    def __call__(self, operator: str, lr: float, seed: int) -> Trial:
        self.seen.append((operator, lr, seed))
        return trial(lr, self.score(operator, lr), self.test(operator, seed))


def recall(monkeypatch, fits: Fits, **changes) -> AssociativeRecall:
    """Recall at the smoke profile, with `fits` in place of training; `fits.seen` begins with the cell."""

    def of_cell(self: AssociativeRecall, cell: tuple[int, int, int], run: Run) -> Fit:
        def fit(operator: str, lr: float, seed: int) -> Trial:
            made = fits(operator, lr, seed)
            fits.seen[-1] = (cell, *fits.seen[-1])
            return made

        return fit

    monkeypatch.setattr(AssociativeRecall, "_fit", of_cell)
    monkeypatch.setattr(AssociativeRecall, "_pictures", lambda *_: {})
    return AssociativeRecall.configured("smoke", **changes)


@pytest.fixture
def trains(monkeypatch) -> list[tuple[str, Recipe]]:
    """Names and recipes of trainings that take no step and end with one row."""
    seen: list[tuple[str, Recipe]] = []

    def instant(model, batch, loss, recipe, run, name, evaluate, stop=None) -> list:
        seen.append((name, recipe))
        return [{**ROW, **evaluate(model)}]

    for module in (recall_module, reasoning_module, language_module):
        monkeypatch.setattr(module, "train", instant)
    return seen


@pytest.fixture
def no_training(monkeypatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("trained before the mistake was found")

    for module in (recall_module, reasoning_module, language_module):
        monkeypatch.setattr(module, "train", refused)


@pytest.fixture
def book(tmp_path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"On day {i} the sea was {'calm' if i % 3 else 'rough'}.\n" for i in range(200)))
    return path


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


# Reasoning


class Solves(nn.Module):
    """Reads the linear function off the points seen so far, by least squares; zero until there are enough."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor) -> Tensor:
        points, values = tokens[:, ::2, :-1].double(), tokens[:, 1::2, -1].double()
        out = torch.zeros(tokens.shape[:2])
        for i in range(points.shape[-1], points.shape[1]):
            w = torch.linalg.lstsq(points[:, :i], values[:, :i, None]).solution
            out[:, 2 * i] = (points[:, i, None] @ w)[:, 0, 0].float()
        return out


class Zero(Solves):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(tokens.shape[:2])


def test_the_true_function_explains_everything_and_zero_explains_nothing() -> None:
    _, test = linear_functions(3, 16, 10, 130, seed=0)
    assert reasoning_module.explained(Solves(), test) == pytest.approx(100.0, abs=0.01)
    assert reasoning_module.explained(Zero(), test) == 0.0


def test_errors_where_the_function_cannot_be_known_yet_do_not_count() -> None:
    _, test = linear_functions(2, 8, 10, 50, seed=0)
    early = test.y.copy()
    early[:, :7] += 100.0  # the first half of 15 tokens
    assert reasoning_module.explained(Solves(), Points(test.x, early, test.asked)) == pytest.approx(100.0, abs=0.01)
    late = test.y.copy()
    late[:, 8] += 100.0
    assert reasoning_module.explained(Solves(), Points(test.x, late, test.asked)) < 50.0


def test_the_worst_gap_is_that_of_the_task_with_the_smallest_mean(monkeypatch) -> None:
    gaps = {"majority": (0.0, 8.0), "counting": (-9.0, 9.0), "addition": (-2.0, -4.0)}

    def fit(self: Reasoning, task: str, run: Run, operator: str, lr: float, seed: int) -> Trial:
        return trial(lr, 0.0, 50.0 + gaps[task][seed] if operator == "hyena" else 50.0)

    monkeypatch.setattr(Reasoning, "_fit", fit)
    settings = Reasoning.configured("smoke", tasks=list(gaps), n_seeds=2)
    result = settings.run(Run())
    assert result.per_seed["worst_gap"] == [-3.0]
    assert {task: tuple(result.per_seed[f"{task}_gap"]) for task in gaps} == gaps
    assert len(result.tables["tasks"]) == len(gaps) * len(settings.operators)


def test_all_tasks_of_reasoning_give_both_operators_the_same_rates_and_steps(trains) -> None:
    settings = Reasoning.configured("smoke", n_train=64, n_valid=10, n_test=10, lr=[0.1, 0.2])
    result = settings.run(Run())
    found = {name: (recipe.steps, recipe.warmup, recipe.lr) for name, recipe in trains}
    assert found == {
        f"{task} {o} lr {lr:g} seed 0": (4, 2, lr)
        for task in reasoning_module.TASKS for o in settings.operators for lr in settings.lr
    }  # fmt: skip
    assert {row["task"] for row in result.tables["sweep"]} == set(reasoning_module.TASKS)
    assert {f"{task}_hyena" for task in reasoning_module.TASKS} < set(result.parameters)


@pytest.mark.parametrize("task", reasoning_module.TASKS)
def test_held_out_examples_are_cut_into_validation_and_test(task: str, monkeypatch) -> None:
    settings = Reasoning.configured("smoke", n_train=64, n_valid=20, n_test=30, epochs=1)
    seen: list[int] = []
    monkeypatch.setattr(reasoning_module, "answer_accuracy", lambda m, data, whole: seen.append(len(data.x)) or 0.0)
    monkeypatch.setattr(reasoning_module, "explained", lambda m, data: seen.append(len(data.x)) or 0.0)
    settings._fit(task, Run(), "hyena", 0.001, 0)
    assert seen[-1] == 30
    assert set(seen[:-1]) == {20}


# Language


@pytest.mark.parametrize("profile", ["quick", "long"])
def test_seven_operators_have_equal_parameters_to_one_hidden_unit_a_block(profile: str) -> None:
    """Not at the smoke profile: a block of H3 alone has more parameters there than one of Hyena with its MLP."""
    settings = LanguageModelling.configured(profile, operators=list(EVERY_OPERATOR))
    width = settings._matched_width()
    counts = {
        o: count_parameters(settings.model(o, text.VOCAB_SIZE, settings.length, 0, width[o])) for o in EVERY_OPERATOR
    }
    unit = settings.n_layer * (2 * settings.d_model + 1)
    assert {o for o, n in counts.items() if abs(n - counts["hyena"]) > unit} == set()


def test_every_operator_on_text_has_the_same_rates_steps_and_warm_up(trains, book) -> None:
    settings = LanguageModelling.configured(
        "smoke", corpus=str(book), operators=["hyena", "attention", "conv1d", "rwkv"], lr=[0.1, 0.2], valid_windows=1,
        test_windows=1, sample_bytes=1, n_seeds=1,
    )  # fmt: skip
    result = settings.run(Run())
    recipe = settings.recipe(settings.steps, settings.warmup, 0.1, 2, min_lr=settings.last_lr * 0.1)
    for operator in settings.operators:
        found = [r for name, r in trains if name.startswith(f"language model {operator} ")]
        assert found == [recipe, dataclasses.replace(recipe, lr=0.2, min_lr=settings.last_lr * 0.2)]
    bits = {o: result.metrics[f"bits_per_byte_{o}"] for o in settings.operators}
    relative = 100 * (bits["hyena"] / min(bits["conv1d"], bits["rwkv"]) - 1)
    assert result.metrics["relative_bits_rival"] == pytest.approx(relative)
    assert result.metrics["relative_bits"] == pytest.approx(100 * (bits["hyena"] / bits["attention"] - 1))
    assert 0 < result.metrics["bits_per_byte_lzma"] < 8


def test_fewer_bits_on_validation_text_are_a_higher_score(trains, book, monkeypatch) -> None:
    settings = LanguageModelling.configured("smoke", corpus=str(book))
    corpus = text.load_corpus(settings.corpus)
    monkeypatch.setattr(
        LanguageModelling, "bits", lambda self, model, part, limit: 3.0 if part is corpus.valid else 5.0
    )
    found = settings.fit("hyena", 0.1, 0, corpus, Run())
    assert (found.score, found.test) == (-3.0, 5.0)


def test_bits_of_a_model_that_knows_nothing_are_those_of_its_padded_vocabulary(book) -> None:
    settings = LanguageModelling.configured("smoke", corpus=str(book), test_windows=4)
    model = settings.model("hyena", text.VOCAB_SIZE, settings.length, 0)
    nn.init.zeros_(model.lm_head.weight)
    assert settings.bits(model, text.load_corpus(str(book)).test, 4) == pytest.approx(8.0)


# Distillation


def test_with_as_many_modes_as_fit_a_distilled_model_is_the_model(book) -> None:
    settings = Distillation.configured("smoke", corpus=str(book), modes=[1, 31])
    corpus = text.load_corpus(settings.corpus)
    model = settings.model("hyena", text.VOCAB_SIZE, settings.length, 0)
    with torch.no_grad():  # so that the filters matter
        model.backbone.layers[0].mixer.out_proj.weight.mul_(50.0)
    bits = settings.bits(model, corpus.test, settings.test_windows)
    few, many = settings._distilled(Trial(0.1, 0.0, bits, model, [ROW]), corpus)
    assert many["bits_per_byte"] == pytest.approx(bits, rel=1e-3)
    assert abs(few["bits_per_byte"] - bits) > 10 * abs(many["bits_per_byte"] - bits)
    assert few["median_error"] > 10 * many["median_error"]
    assert settings.bits(model, corpus.test, settings.test_windows) == bits  # the model itself was left as it was


def test_the_table_of_distillation_has_a_row_for_each_seed_and_number_of_modes(trains, book) -> None:
    settings = Distillation.configured("smoke", corpus=str(book), modes=[2, 4, 8], n_seeds=2, test_windows=2)
    result = settings.run(Run(seed=4))
    assert [(r["seed"], r["modes"]) for r in result.tables["modes"]] == [(s, m) for s in (4, 5) for m in (2, 4, 8)]
    for modes in (2, 4, 8):
        rows = [r for r in result.tables["modes"] if r["modes"] == modes]
        extra = [
            100 * (r["bits_per_byte"] / b - 1) for r, b in zip(rows, result.per_seed["bits_per_byte"], strict=True)
        ]
        assert result.per_seed[f"extra_bits_{modes}"] == pytest.approx(extra)
        assert result.per_seed[f"error_{modes}"] == [r["median_error"] for r in rows]


# Claims


@pytest.fixture
def instant(monkeypatch, trains, book) -> Iterator[None]:
    """Every experiment ends at once, whatever its scale, with all the metrics that it has."""
    fits = Fits()
    recall(monkeypatch, fits)
    monkeypatch.setattr(Reasoning, "_fit", lambda self, task, run, operator, lr, seed: fits(operator, lr, seed))
    for cls in (LanguageModelling, Distillation):
        monkeypatch.setattr(cls, "fit", lambda self, operator, lr, seed, *_: trial(lr, -1.0, 1.0))
    monkeypatch.setattr(LanguageModelling, "_sample", lambda *_: "")
    monkeypatch.setattr(LanguageModelling, "_matched_width", lambda self: dict.fromkeys(self.operators, 1))
    row = {"bits_per_byte": 1.0, "median_error": 0.0}
    monkeypatch.setattr(Distillation, "_distilled", lambda self, *_: [{"modes": m, **row} for m in self.modes])
    corpus = text.load_corpus(str(book))
    monkeypatch.setattr(text, "load_corpus", lambda source: corpus)
    return fits


MEASURED = [c for c in claims.load() if c.metric and not c.metric.startswith("bench/")]


@pytest.mark.parametrize("claim", MEASURED, ids=lambda c: c.id)
def test_every_claims_metric_is_measured_at_the_profile_that_may_decide_it(instant, claim: claims.Claim) -> None:
    name, _, metric = claim.metric.partition(".")
    assert metric in experiment(claim.paper, name).configured(claim.profile).run(Run()).metrics


# Mistakes


@pytest.mark.usefixtures("no_training", "unchecked")
@pytest.mark.parametrize(
    ("cls", "changes", "said"),
    [
        (AssociativeRecall, {"operators": ["hyna"]}, r"unknown operator 'hyna': did you mean 'hyena'\?"),
        (AssociativeRecall, {"operators": ["convld"]}, r"unknown operator 'convld': did you mean 'conv1d'\?"),
        (AssociativeRecall, {"cells": [[10, 16]]}, "a cell is vocabulary, length and epochs, three numbers"),
        (AssociativeRecall, {"cells": [[10, 16, 2], [10, 16, 2, 1]]}, "a cell is vocabulary, length and epochs"),
        (AssociativeRecall, {"cells": [[2, 16, 2]]}, "vocab_size must be at least 4"),
        (AssociativeRecall, {"cells": [[10, 1, 2]]}, "length must be at least 2"),
        (AssociativeRecall, {"cells": [[10, 16, 0]]}, "steps must be at least 1"),
        (AssociativeRecall, {"batch_size": 257}, "batch_size is 1 to n_train = 256, got 257"),
        (AssociativeRecall, {"embed_dropout": 2.0}, r"embed_dropout is a probability below 1, got 2\.0"),
        (AssociativeRecall, {"embed_dropout": -0.1}, "embed_dropout is a probability below 1"),
        (AssociativeRecall, {"lr": [0.0]}, "lr must be above 0"),
        (AssociativeRecall, {"lr": [-0.1, 0.1]}, "lr must be above 0"),
        (Reasoning, {"tasks": ["majorty"]}, r"unknown task 'majorty': did you mean 'majority'\?"),
        (Reasoning, {"operators": ["atention"]}, r"unknown operator 'atention': did you mean 'attention'\?"),
        (Reasoning, {"batch_size": 129}, "batch_size is 1 to n_train = 128, got 129"),
        (LanguageModelling, {"corpus": "enwik"}, r"unknown corpus 'enwik': did you mean 'enwiki'\?"),
        (LanguageModelling, {"embed_dropout": 1.0}, "embed_dropout is a probability below 1"),
        (Distillation, {"corpus": "enwik"}, r"unknown corpus 'enwik': did you mean 'enwiki'\?"),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_mistake_is_refused_before_any_work(cls: type, changes: dict[str, object], said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        cls.configured("smoke", **changes).run(Run())


@pytest.mark.usefixtures("no_training")
def test_an_unknown_operator_on_text_is_refused_before_any_work(book) -> None:
    settings = LanguageModelling.configured("smoke", corpus=str(book), operators=["hyena", "rwvk"])
    with pytest.raises(HyenaError, match=r"unknown operator 'rwvk': did you mean 'rwkv'\?"):
        settings.run(Run())
