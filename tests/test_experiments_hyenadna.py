"""HyenaDNA's experiments: the same targets and effort for every model, chosen on validation data, tested once."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from instant import ROW, Fits, Training, recorded, trial
from small_dna import SMALL, Draw, by_share, corpus, made
from torch import nn

from hyena.data.nucleotides import BASES, PAD, A, N, T, encode, reverse_complement
from hyena.data.synthetic import IGNORE
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial
from hyena.experiments.hyenadna import dna as dna_module
from hyena.experiments.hyenadna import downstream as downstream_module
from hyena.experiments.hyenadna import mutagenesis as mutagenesis_module
from hyena.experiments.hyenadna import pretraining as pretraining_module
from hyena.experiments.hyenadna.dna import Dna, nats
from hyena.experiments.hyenadna.downstream import MODELS, Downstream, linear_scores, on_a_random_strand, predicted
from hyena.experiments.hyenadna.mutagenesis import Mutagenesis
from hyena.experiments.hyenadna.pretraining import Pretraining
from hyena.train import Recipe, Run

NEURAL = (*MODELS, "pretrained_flat", "scratch_flat", "attention_flat")


def pretraining(**changes: object) -> Pretraining:
    return Pretraining(**SMALL | {"lengths": (8, 24), "markov_order": 2} | changes)


def downstream(**changes: object) -> Downstream:
    return Downstream(**SMALL | {"tasks": ("made",), "epochs": 2, "batch_size": 10} | changes)


def by_place(rng: np.random.Generator, label: int) -> np.ndarray:
    sequence = rng.choice(BASES, 20)
    sequence[10] = (A, T)[label]
    return sequence


def by_word(rng: np.random.Generator, label: int) -> np.ndarray:
    sequence, at = rng.choice(BASES, 40), rng.integers(34)
    sequence[at : at + 7] = encode("GATTACA") if label else sequence[at : at + 7]
    return sequence


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Data that fits in a page."""
    for module in (pretraining_module, downstream_module):
        monkeypatch.setattr(module, "load_dna", lambda source: corpus())
    monkeypatch.setattr(downstream_module, "load_task", lambda name, fasta: made(name=name))


@pytest.fixture
def trainings(monkeypatch) -> list[Training]:
    return recorded(monkeypatch, dna_module, downstream_module)


def pretrained(monkeypatch, score=lambda kind, lr: 0.0, test=lambda kind, lengths, seed: 2.0) -> list:
    """What pretrainings are asked for, which end at once with these scores."""
    seen: list = []

    def instant(self: Dna, corpus, kind: str, lengths: tuple, lr: float, seed: int, run: Run) -> Trial:
        seen.append((kind, lengths, lr, seed))
        return trial(lr, score(kind, lr), test(kind, lengths, seed))

    monkeypatch.setattr(Dna, "pretrain", instant)
    return seen


# The next nucleotide


def test_every_model_is_scored_on_the_same_targets_whatever_its_length(monkeypatch, trainings) -> None:
    scored, chains = [], []
    monkeypatch.setattr(dna_module, "nats", lambda m, x, y: scored.append((x.shape[1], y.flatten().tolist())) or 1.0)
    monkeypatch.setattr(pretraining_module, "_perplexities", lambda c, tiles, a: chains.append(tiles) or [3.0] * 3)
    pretraining(lengths=(4, 8, 24)).run(Run())
    targets = [np.where(tiles == N, IGNORE, tiles.astype(int))[:, 1:].ravel().tolist() for tiles in chains]
    assert {length for length, _ in scored} == {4, 8, 24} and IGNORE in targets[0]
    assert {tuple(y) for _, y in scored} == {tuple(y) for y in targets}
    assert {len(y) for y in targets} == {5 * 24, 4 * 24}


@pytest.mark.parametrize("steps", [6, 7, 12])
def test_the_warm_up_goes_from_short_to_long_with_equal_shares_of_the_letters(trainings, steps: int) -> None:
    pretraining(lengths=(24, 4, 8), steps=steps).run(Run())
    (batch,) = [t.batch for t in trainings if "4-8-24" in t.name]
    shapes = [tuple(batch(step)[0].shape) for step in range(steps)]
    assert shapes == sorted(shapes, key=lambda shape: shape[1])
    counts = [sum(shape[1] == length for shape in shapes) for length in (4, 8, 24)]
    assert max(counts) - min(counts) <= 1
    assert {rows * length for rows, length in shapes} == {96}


def test_every_length_has_the_same_letters_in_a_batch(trainings) -> None:
    pretraining(lengths=(4, 8, 24), batch_bases=96).run(Run())
    assert len({t.batch(step)[1].numel() for t in trainings for step in range(4)}) == 1


def test_all_pretrainings_have_the_recipe_of_the_paper(trainings) -> None:
    pretraining(lr=(0.5, 0.25)).run(Run())
    recipe = Recipe(steps=4, lr=0.5, min_lr=0.05, warmup=1, betas=(0.9, 0.999), eval_every=2)
    half = dataclasses.replace(recipe, lr=0.25, min_lr=0.025)
    found = {t.name: t.recipe for t in trainings}
    assert {name.split()[0] for name in found} == {"hyena", "attention"}
    assert found == {name: recipe if "lr 0.5" in name else half for name in found}


@pytest.mark.parametrize("batch", [1, 24, 50, 2**15])
def test_nats_are_the_mean_over_asked_targets_in_parts_of_any_size(batch: int) -> None:
    model = pretraining(embed_dropout=0.5).language_model("hyena", 24, seed=0)
    x = torch.from_numpy(np.random.default_rng(0).choice(BASES, (7, 24))).long()
    y = x.roll(-1, 1).masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3, IGNORE)
    y[2] = IGNORE
    with torch.no_grad():
        logp = model.eval()(x).log_softmax(-1)
    by_hand = -np.mean([logp[i, j, y[i, j]].item() for i in range(7) for j in range(24) if y[i, j] != IGNORE])
    assert nats(model.train(), x, y, batch) == pytest.approx(by_hand, rel=1e-5)


def test_the_best_rate_of_hyena_on_validation_data_is_taken_over_by_lengths_and_warm_up(monkeypatch) -> None:
    best = {"hyena": 0.2, "attention": 0.3}
    seen = pretrained(monkeypatch, lambda kind, lr: float(lr == best[kind]), lambda kind, lengths, seed: 2.0 + seed)
    pretraining(lengths=(8, 24, 12), lr=(0.1, 0.2, 0.3), n_seeds=2).run(Run(seed=4))
    swept = [(kind, (24,), lr, 4) for kind in best for lr in (0.1, 0.2, 0.3)]
    repeated = [(kind, (24,), lr, 5) for kind, lr in best.items()]
    shorter = [("hyena", lengths, 0.2, seed) for lengths in ((8,), (12,), (8, 12, 24)) for seed in (4, 5)]
    assert seen == swept + repeated + shorter


def test_gains_are_differences_seed_by_seed_and_bits_are_a_logarithm(monkeypatch) -> None:
    said = {(24,): 2.0, (8,): 3.0, (12,): 2.75, (8, 12, 24): 1.5}
    slope = {"attention": 0.25, "hyena": 0.5}
    pretrained(monkeypatch, test=lambda kind, lengths, seed: said[lengths] + slope[kind] * seed)
    monkeypatch.setattr(Pretraining, "_markov", lambda *_: (4.0, []))
    found = pretraining(lengths=(8, 12, 24), n_seeds=2).run(Run()).per_seed
    assert found["bits_below_markov"] == [1.0, pytest.approx(math.log2(4.0 / 2.5))]
    assert found["context_gain"] == [1.0, 1.0] and found["warmup_gain"] == [0.5, 0.5]
    assert found["gain_over_attention"] == [0.0, -0.25]
    assert (found["perplexity_at_12"], found["perplexity_markov"]) == ([2.75, 3.25], [4.0])


def test_the_markov_chain_is_chosen_on_validation_data_whatever_the_test_says(monkeypatch) -> None:
    pretrained(monkeypatch)
    valid = {4.0: [3.9, 3.5, 3.8], 16.0: [3.8, 3.6, 3.7]}  # by smoothing: of orders 0, 1 and 2
    test = {4.0: [1.9, 1.8, 1.1], 16.0: [1.7, 1.2, 1.6]}
    monkeypatch.setattr(pretraining_module, "SMOOTHING", tuple(valid))
    monkeypatch.setattr(pretraining_module, "_perplexities", lambda c, x, a: (valid if len(x) == 5 else test)[a])
    result = pretraining().run(Run())
    assert result.per_seed["perplexity_markov"] == [1.8]
    assert [row["test"] for row in result.tables["markov"]] == [1.7, 1.8, 1.6]


@pytest.mark.parametrize(
    ("settings", "changes", "said"),
    [
        (pretraining, {"lengths": (7, 24)}, "lengths divide the longest"),
        (pretraining, {"lengths": (8, 12)}, r"which is length = 24, .*got \(8, 12\)"),
        (pretraining, {"operators": ("hyenna",)}, "unknown model of DNA 'hyenna': did you mean 'hyena'"),
        (pretraining, {"batch_bases": 23}, "at least one window of 24 bp, got 23"),
        (pretraining, {"num_heads": 3}, "d_model 8 is not a multiple of num_heads 3"),
        (pretraining, {"embed_dropout": 1.0}, "embed_dropout is a probability below 1, got 1.0"),
        (pretraining, {"markov_order": 13}, "the order of a Markov chain is 0 to 12"),
        (downstream, {"tasks": ("a-b", "a b")}, "two tasks would share their results"),
        (downstream, {"operators": ("scratch", "linear_flat")}, "unknown model 'linear_flat': did you mean"),
        (downstream, {"operators": ("pretraind",)}, "unknown model 'pretraind': did you mean 'pretrained'"),
        (pretraining, {"lengths": (0, 24)}, "lengths divide the longest"),
        (pretraining, {"lengths": (-8, 24)}, "lengths divide the longest"),
        (pretraining, {"lengths": ()}, "lengths divide the longest"),
        (pretraining, {"lengths": (4, 8, 24), "batch_bases": 110}, "lengths divide .*batch_bases = 110"),
        (pretraining, {"operators": ("attention",)}, "operators are hyena and what it is compared with"),
        (downstream, {"num_heads": 3}, "not a multiple of num_heads 3"),
    ],
)
def test_a_mistake_is_refused_before_any_training(trainings, settings: Callable, changes: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        settings(**changes).run(Run())
    assert not trainings


def test_curves_say_whether_there_was_a_warm_up(monkeypatch) -> None:
    pretrained(monkeypatch)
    assert [row["warmed"] for row in pretraining().run(Run()).tables["curves"]] == [0, 0, 1]


# Classification


def test_a_random_strand_is_the_row_or_its_reverse_complement_with_padding_on_the_right() -> None:
    part = made(sizes=(200, 10, 10)).train
    turned = on_a_random_strand(part.x, part.mask, np.random.default_rng(0))
    assert ((turned == PAD) == ~part.mask).all()
    same = [np.array_equal(a, b) for a, b in zip(turned, part.x, strict=True)]
    for row, was, mask in zip(turned, part.x, part.mask, strict=True):
        assert row[mask].tolist() in (was[mask].tolist(), reverse_complement(was[mask].astype(np.uint8)).tolist())
    assert 60 < sum(same) < 140


@pytest.mark.parametrize(
    ("aligned", "both", "turned"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_only_tasks_without_a_strand_are_turned_over_in_training(monkeypatch, trainings, aligned, both, turned) -> None:
    monkeypatch.setattr(downstream_module, "load_task", lambda *_: dataclasses.replace(made(), aligned=aligned))
    downstream(operators=("cnn",), both_strands=both).run(Run())
    (training,) = trainings
    known = {row.tobytes() for row in made().train.x}
    read = {row.tobytes() for step in range(6) for row in training.batch(step)[0].numpy()}
    assert bool(read - known) == turned


def test_every_neural_model_has_the_same_rates_steps_and_batches(trainings) -> None:
    downstream(operators=NEURAL, lr=(0.5, 0.25)).run(Run())
    fits = [t for t in trainings if t.name.startswith("made ")]
    recipe = Recipe(steps=6, lr=0.5, min_lr=0.05, warmup=3, betas=(0.9, 0.999), eval_every=3)
    half = dataclasses.replace(recipe, lr=0.25, min_lr=0.025)
    assert {t.name: t.recipe for t in fits} == {
        f"made {name} lr {rate.lr:g} seed 0": rate for name in NEURAL for rate in (recipe, half)
    }
    read = [[part.numpy().tobytes() for step in range(6) for part in t.batch(step)] for t in fits]
    assert all(one == read[0] for one in read)


def test_all_models_are_repeated_for_every_seed_at_their_best_rate() -> None:
    best = dict(zip(NEURAL, (0.1, 0.2, 0.1, 0.2, 0.2, 0.1, 0.1, 0.2), strict=True))
    fits = Fits(score=lambda name, lr: float(lr == best[name]))
    chosen = downstream(operators=NEURAL, lr=(0.1, 0.2), n_seeds=3)._compared(made(), 5, fits)
    assert {name: [t.lr for t in trials] for name, trials in chosen.items()} == {n: [lr] * 3 for n, lr in best.items()}
    assert sorted(fits.seen) == sorted(
        [(n, lr, 5) for n in NEURAL for lr in (0.1, 0.2)] + [(n, best[n], s) for n in NEURAL for s in (6, 7)]
    )


@pytest.mark.parametrize("ending", ["", "_flat"])
def test_pretrained_starts_from_the_trained_weights_and_scratch_differs_in_nothing_else(ending: str) -> None:
    settings = downstream()
    trained = settings.language_model("hyena", 24, seed=7)
    ours = settings._classifier(made(), f"pretrained{ending}", 24, trained, 0).state_dict()
    scratch = settings._classifier(made(), f"scratch{ending}", 24, trained, 0).state_dict()
    weights = {f"backbone.{name}": value for name, value in trained.backbone.state_dict().items()}
    assert all(torch.equal(ours[name], value) for name, value in weights.items())
    other = {name for name in ours if not torch.equal(ours[name], scratch[name])}
    assert "backbone.embeddings.word_embeddings.weight" in other and other <= set(weights)


@pytest.mark.parametrize(("longest", "l_max"), [(12, 24), (40, 40)])
def test_every_model_is_long_enough_for_the_task_and_for_pretraining(monkeypatch, trainings, longest, l_max) -> None:
    monkeypatch.setattr(downstream_module, "load_task", lambda name, fasta: made(length=longest))
    downstream().run(Run())
    assert [t.model.l_max for t in trainings if " cnn " not in t.name] == [l_max] * 5
    assert trainings[0].batch(0)[0].shape == (4, 24)


def test_a_large_task_is_cut_to_the_same_examples_every_time() -> None:
    first, second = (downstream_module._cut(made(), 15) for _ in range(2))
    assert [len(part.y) for part in (first.train, first.valid, first.test)] == [15, 10, 15]
    assert np.array_equal(first.train.x, second.train.x) and set(first.train.y) == {0, 1}


@pytest.mark.parametrize(
    ("guessed", "truth", "said"),
    [
        ([0, 1, 1, 1], [0, 0, 1, 1], (75.0, 100 / math.sqrt(3))),
        ([1, 0], [0, 1], (0.0, -100.0)),
        ([1, 1, 1, 1], [0, 1, 1, 1], (75.0, 0.0)),
    ],
)
def test_scores_are_accuracy_and_matthews_correlation_in_percent(guessed, truth, said: tuple) -> None:
    assert downstream_module._scores(np.array(guessed), np.array(truth)) == pytest.approx(said)


@pytest.mark.parametrize(("draw", "kind"), [(by_place, "positions"), (by_word, "kmers")])
def test_the_linear_model_is_chosen_on_validation_data_alone(draw: Draw, kind: str) -> None:
    task = made(draw, sizes=(300, 200, 100))
    chosen, penalty, (accuracy, _) = linear_scores(task)
    assert chosen == kind and accuracy > 85
    turned = dataclasses.replace(task.test, y=1 - task.test.y)
    _, same_penalty, (worse, _) = linear_scores(dataclasses.replace(task, test=turned))
    assert (same_penalty, worse) == (penalty, pytest.approx(100 - accuracy))


def test_gains_are_points_of_mean_accuracy_averaged_over_tasks() -> None:
    metrics = {
        "one_pretrained": [90.0, 80.0], "one_scratch": [80.0, 80.0], "one_linear": [91.0],
        "gue_tf_0_pretrained": [60.0, 60.0], "gue_tf_0_scratch": [60.0, 50.0], "gue_tf_0_linear": [50.0],
        "one_sixmers": [70.0], "gue_tf_0_pretrained_flat": [57.0],
    }  # fmt: skip
    tasks = [made(name=name) for name in ("one", "gue/tf_0")]
    gains = downstream(operators=("pretrained", "scratch", "sixmers", "pretrained_flat"))._gains(metrics, tasks)
    assert gains == {
        "gain_over_scratch": [5.0], "gain_over_linear": [2.0], "gain_over_sixmers": [15.0],
        "gain_over_pretrained_flat": [3.0], "gain_over_scratch_sixmers": [10.0],
    }  # fmt: skip


def test_models_are_chosen_by_the_accuracy_on_validation_data(monkeypatch, trainings) -> None:
    monkeypatch.setattr(downstream_module, "predicted", lambda m, part: part.y if len(part.y) == 10 else 1 - part.y)
    fitted = downstream()._fit(made(), 24, None, Run(), "cnn", 0.1, 0)
    assert (fitted.score, fitted.test) == (100.0, 0.0)


def test_checkpoints_belong_to_the_very_data_that_they_were_trained_on() -> None:
    hashes = ({"mine.csv": "1"}, {"mine.csv": "2"})
    runs = [downstream().with_data(Run(fingerprint=mark), some) for mark in "xy" for some in hashes]
    assert len({run.fingerprint for run in runs}) == 4


def test_what_is_looked_at_is_the_surest_right_answer_and_every_change_of_its_lead(trainings) -> None:
    arrays, test = downstream(operators=("scratch",)).run(Run()).arrays, made().test
    logits = trainings[-1].model(torch.from_numpy(test.x), torch.from_numpy(test.mask)).detach().numpy()
    surest = np.argmax((logits[:, 1] - logits[:, 0]) * (2 * test.y - 1))
    sequence, changes = arrays["made_sequence"], arrays["made_attribution"]
    assert sequence.tolist() == test.x[surest, test.mask[surest]].tolist()
    assert changes.shape == (len(sequence), 4)
    assert np.abs(changes[np.arange(len(sequence)), sequence - A]).max() < 1e-6 < np.abs(changes).max()


def test_a_model_with_all_positions_side_by_side_is_looked_at_too(trainings) -> None:
    arrays = downstream(operators=("scratch_flat", "scratch")).run(Run()).arrays
    assert arrays["made_attribution"].shape == (len(arrays["made_sequence"]), 4)
    assert (arrays["made_sequence"] != PAD).all()


@pytest.mark.parametrize(("aligned", "heads"), [(True, ["flat", "mean"]), (False, ["mean", "flat"])])
def test_the_head_suits_the_task_and_a_second_model_with_the_same_head_is_left_out(
    monkeypatch, trainings, aligned, heads
) -> None:
    monkeypatch.setattr(downstream_module, "load_task", lambda *_: dataclasses.replace(made(), aligned=aligned))
    downstream(operators=("scratch", "scratch_mean", "scratch_flat")).run(Run())
    assert [training.model.pool for training in trainings] == heads


@pytest.mark.parametrize("aligned", [True, False])
def test_the_cnn_and_the_words_have_the_head_of_the_others(aligned: bool) -> None:
    task = dataclasses.replace(made(length=20), aligned=aligned)
    cnn, words = (downstream()._classifier(task, name, 24, None, 0) for name in ("cnn", "sixmers"))
    assert (cnn.length, words.length, words.pool) == ((20, 4, "flat") if aligned else (None, None, "mean"))
    assert words.backbone.embeddings.word_embeddings.num_embeddings >= 4**6 + 1


def test_tasks_that_are_learned_once_have_one_seed(trainings) -> None:
    found = downstream(tasks=("a", "b"), once=("b",), n_seeds=2, operators=("cnn",)).run(Run()).per_seed
    assert (len(found["a_cnn"]), len(found["b_cnn"])) == (2, 1)


# Mutagenesis


def looking(**changes: object) -> Mutagenesis:
    return Mutagenesis(**SMALL | {"tasks": ("made",), "epochs": 1, "batch_size": 10, "sites": 3} | changes)


def test_what_letters_are_worth_is_measured_at_the_surest_right_places_of_the_last_class(monkeypatch) -> None:
    monkeypatch.setattr(mutagenesis_module, "load_dna", lambda source: corpus())
    monkeypatch.setattr(mutagenesis_module, "load_task", lambda name, fasta: made(by_place, sizes=(100, 20, 40)))
    model = LooksAt(place=10, letter=T)
    monkeypatch.setattr(Mutagenesis, "_fit", lambda self, *_: Trial(0.01, 0.0, 100.0, model, [ROW]))
    found = looking(operators=("scratch",)).run(Run())
    assert found.arrays["sequences"].shape == (3, 20) and found.arrays["changes"].shape == (3, 20, 4)
    assert (found.arrays["sequences"][:, 10] == T).all()
    changes = found.arrays["changes"]
    assert np.allclose(changes[:, 10], [-2, -2, -2, 0]) and not np.delete(changes, 10, 1).any()
    assert found.metrics == {"accuracy": 100.0, "share_around": 100.0, "share_expected": 100.0}


def test_mutagenesis_looks_at_one_model(monkeypatch, trainings) -> None:
    with pytest.raises(HyenaError, match="one task, one model and one rate"):
        looking(lr=(0.1, 0.2)).run(Run())
    assert not trainings


class LooksAt(nn.Module):
    """Says the second class where a letter stands at its place."""

    def __init__(self, place: int, letter: int):
        super().__init__()
        self.place, self.letter, self.weight = place, letter, nn.Parameter(torch.ones(1))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        there = (tokens[:, self.place] == self.letter).float()
        return torch.stack([1 - there, there], 1)


# Both


def test_two_clearly_different_classes_are_learned() -> None:
    task = dataclasses.replace(made(by_share, sizes=(200, 50, 200)), aligned=True)
    settings = downstream(d_model=16, epochs=8, batch_size=20, length=12)
    fitted = settings._fit(task, 12, None, Run(), "scratch", 0.01, 0)
    assert fitted.test > 90 and set(predicted(fitted.model, task.test)) == {0, 1}


@pytest.mark.parametrize("settings", [pretraining(embed_dropout=0.1, n_seeds=2), downstream(operators=NEURAL)])
def test_two_runs_give_the_same_numbers(settings: Pretraining | Downstream) -> None:
    first, _, second = settings.run(Run(seed=3)), torch.rand(1), settings.run(Run(seed=3))  # no global generator
    assert first.per_seed == second.per_seed and first.tables == second.tables
