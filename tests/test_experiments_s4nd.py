"""S4ND's experiments: the same images and effort for every network, rates chosen on validation, honest comparisons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from instant import Training, recorded
from torch import nn

from hyena.data.images import Images, ImageTask
from hyena.errors import HyenaError
from hyena.experiments.s4nd import DropIn, ProgressiveResizing, Video, ZeroShot, dropin, progressive, video, zeroshot
from hyena.experiments.s4nd import images as shared
from hyena.experiments.s4nd.images import accuracy, cut, parsed, rate
from hyena.experiments.s4nd.video import inflated_classifier, kinds_of_error
from hyena.models.image_classifiers import isotropic
from hyena.models.lm import count_parameters
from hyena.train import Run

SMALL = {
    "d_model": 8, "n_layer": 1, "d_state": 4, "conv_d_model": 8, "conv_n_layer": 1, "steps": 10, "warmup": 0,
    "evaluations": 1, "batch_size": 4, "lr": (0.01,), "n_seeds": 1,
}  # fmt: skip


def task(name: str = "toy", colours: int = 3) -> ImageTask:
    """Noise; with these labels anything above chance is luck."""
    torch.manual_seed(0)
    parts = {
        n: Images(torch.randn(c, 32, 32, colours), torch.arange(c) % 2)
        for n, c in (("train", 12), ("valid", 6), ("test", 8))
    }
    return ImageTask(name, ("a", "b"), **parts, data={name: "hash"})


def clips(part: str, count: int, frames: int, side: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(count, frames, side, side, 1), torch.arange(count) % 16


def zero_shot(**changes: object) -> ZeroShot:
    own = {"tasks": ("toy",), "operators": ("s4nd", "s4nd_0.5", "conv"), "train_sides": (8,), "test_sides": (8, 16)}
    return ZeroShot(**SMALL | own | changes)


def resizing(**changes: object) -> ProgressiveResizing:
    return ProgressiveResizing(**SMALL | {"task": "toy", "operators": ("s4nd",), "small": 8} | changes)


def drop_in(**changes: object) -> DropIn:
    own = {name: value for name, value in SMALL.items() if not name.startswith("conv")}
    return DropIn(**own | {"task": "toy", "patch": 8, "d_model": 16, "num_heads": 2} | changes)


def moving(**changes: object) -> Video:
    own = {"frames": 3, "side": 8, "clips": 16, "image_steps": 2, "valid_examples": 16, "test_examples": 16}
    return Video(**SMALL | own | changes)


ALL = [zero_shot, resizing, drop_in, moving]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    for module in (zeroshot, progressive, dropin):
        monkeypatch.setattr(module, "load_images", task)
    names = ("astronaut", "chelsea")  # of the training and of the test clips
    monkeypatch.setattr(video, "load_images", lambda name: dataclasses.replace(task(name, 1), classes=names))
    monkeypatch.setattr(video, "moving_clips", clips)
    monkeypatch.setattr(video, "hashes", lambda: {"photo": "hash"})
    pieces = torch.zeros(2, 3, 3, 8, 8, 1)
    monkeypatch.setattr(video, "film_pieces", lambda *_: (pieces, np.zeros((16, 24), dtype=np.float32)))


@pytest.fixture
def trainings(monkeypatch) -> list[Training]:
    return recorded(monkeypatch, shared, video)


def sides(trained: tuple, steps: int = 10) -> list[int]:
    """The side of the images of every step."""
    return [trained[3](step)[0].shape[1] for step in range(steps)]


# What all share


@pytest.mark.parametrize(
    ("name", "found"), [("s4nd", ("s4nd", None)), ("s4nd_0.2", ("s4nd", 0.2)), ("s4nd_1", ("s4nd", 1.0))]
)
def test_a_band_limit_is_part_of_the_name(name: str, found: tuple) -> None:
    assert parsed(name) == found


def test_the_rate_is_of_each_axis() -> None:
    assert rate(torch.zeros(1, 8, 32, 3)) == (4.0, 1.0)


def test_accuracy_is_a_share_in_percent_whatever_the_batches(monkeypatch) -> None:
    class First(nn.Module):
        """Says the first pixel."""

        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x, rate):
            return nn.functional.one_hot(x[:, 0, 0, 0].long(), 2).float()

    part = Images(torch.tensor([0.0, 1, 1, 1])[:, None, None, None].expand(4, 2, 2, 1), torch.tensor([0, 1, 0, 1]))
    assert accuracy(First(), part) == 75
    monkeypatch.setattr(shared, "READ", 4)
    assert accuracy(First(), part) == 75


def test_a_task_is_cut_to_its_first_examples() -> None:
    some = cut(task(), 2, 3)
    assert (len(some.train), len(some.valid), len(some.test)) == (12, 2, 3)


@pytest.mark.parametrize("make", ALL)
def test_every_network_has_the_same_examples_rates_and_steps(trainings, make) -> None:
    experiment = make(lr=(0.1, 0.2))
    experiment.run(Run())
    compared = [one for one in trainings if not one[0].startswith("photographs-grey")]
    for operator in experiment.operators:
        rates = {name.rsplit(" lr ")[1].split()[0] for name, *_ in compared if f" {operator} " in name}
        assert rates == {"0.1", "0.2"}
    assert len({(recipe.steps, recipe.warmup, recipe.weight_decay) for _, recipe, *_ in compared}) == 1
    labels = [[t.tolist() for step in range(4) for t in batch(step)[1:]] for _, _, _, batch, _ in compared]
    assert all(one == labels[0] for one in labels)


@pytest.mark.parametrize("make", ALL)
def test_two_runs_give_the_same_numbers(make) -> None:
    experiment = make(steps=2)
    first, _, second = experiment.run(Run(seed=3)), torch.rand(1), experiment.run(Run(seed=3))
    assert first.per_seed == second.per_seed and first.tables == second.tables
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)


# Other resolutions


def test_a_network_is_trained_at_one_side_and_tested_at_all(trainings) -> None:
    found = zero_shot(n_seeds=2, train_sides=(8, 16), once=("s4nd",), later_steps=6).run(Run())
    assert {name.rsplit(" lr ")[0] for name, *_ in trainings} == {
        f"toy {o} side {side}" for o in ("s4nd", "s4nd_0.5", "conv") for side in (8, 16)
    }
    assert all(set(sides(one)) == {int(one[0].split(" side ")[1].split()[0])} for one in trainings)
    assert all(one[1].steps == (10 if "side 8" in one[0] else 6) for one in trainings)
    seeds = {name: len(values) for name, values in found.per_seed.items()}
    assert seeds["toy_s4nd_0.5_8_16"] == seeds["toy_conv_8_8"] == 2
    assert seeds["toy_s4nd_8_16"] == seeds["toy_conv_16_8"] == 1, "of those in `once`, and of later sides, one"
    assert found.data == {"toy": "hash"}


def test_rates_of_later_sides_are_those_of_the_first(trainings) -> None:
    zero_shot(lr=(0.1, 0.2), train_sides=(8, 16), operators=("conv",)).run(Run())
    assert [name for name, *_ in trainings if "side 16" in name] == ["toy conv side 16 lr 0.1 seed 0"]


def test_rates_are_chosen_on_validation_images_of_the_side_of_training(trainings, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(shared, "accuracy", lambda model, part: asked.append((len(part), part.x.shape[1])) or 1.0)
    zero_shot(operators=("conv",)).run(Run())
    assert asked == [(6, 8)]


def test_gaps_are_of_the_limit_of_one_half_at_the_largest_step(trainings) -> None:
    metrics = {"x_s4nd_0.5_8_16": [60.0, 62.0], "x_s4nd_0.5_8_8": [63.0], "x_s4nd_8_16": [50.0], "x_conv_8_16": [30.0]}
    assert zero_shot()._gaps("x", metrics) == {"x_gap_over_conv": [31.0], "x_gap_over_s4nd": [11.0], "x_loss": [2.0]}
    assert zero_shot(operators=("s4nd", "conv"))._gaps("x", metrics) == {}


def test_images_are_stretched_along_either_axis(trainings) -> None:
    rows = zero_shot().run(Run()).tables["stretched"]
    assert [(row["rows"], row["columns"]) for row in rows if row["operator"] == "conv"] == [(8, 8), (8, 16), (16, 8)]


def test_kernels_are_kept_for_the_figure(trainings) -> None:
    arrays = zero_shot().run(Run()).arrays
    assert list(arrays) == ["toy_s4nd_kernels", "toy_s4nd_0.5_kernels"], "in an order that does not depend on hashes"
    assert arrays["toy_s4nd_kernels"].shape == (6, 63, 63)


# Progressive resizing


def test_schedules_are_small_first_and_all_have_the_same_steps(trainings) -> None:
    found = resizing().run(Run())
    drawn = {one[0].split()[2]: sides(one) for one in trainings}
    assert drawn == {"full": [32] * 10, "progressive": [8] * 8 + [32] * 2, "small": [8] * 10}
    assert found.metrics["s4nd_points_lost"] == found.metrics["s4nd_full"] - found.metrics["s4nd_progressive"]


# Drop-in layers


def test_networks_of_a_family_have_as_many_parameters() -> None:
    for profile in ("quick", "long"):
        experiment = DropIn.configured(profile)
        counts = {kind: count_parameters(experiment.classifier(kind, 3, 10, 0)) for kind in experiment.operators}
        for kind, count in counts.items():
            original = counts["vit_attention" if kind.startswith("vit") else "convnext_depthwise"]
            assert abs(count / original - 1) < 0.01


def test_gains_are_within_a_family(trainings) -> None:
    found = drop_in().run(Run()).metrics
    assert found["gain_over_depthwise"] == found["convnext_s4nd"] - found["convnext_depthwise"]
    assert found["gain_over_attention"] == found["vit_s4nd"] - found["vit_attention"]
    assert found["gain_over_s4"] == found["vit_s4nd"] - found["vit_s4"]


# Video


def test_the_mean_frame_has_no_motion_but_its_blur(trainings) -> None:
    model = moving(operators=("mean_frame",)).classifier("mean_frame", None, 0).eval()
    x = torch.randn(2, 3, 8, 8, 1)
    assert torch.allclose(model(x), model(x.flip(1)), atol=1e-5)


def test_the_inflated_network_has_learned_images_first(trainings) -> None:
    moving(operators=("s4nd_inflated",)).run(Run())
    assert [name.split(" lr ")[0] for name, *_ in trainings] == ["photographs-grey", "clips s4nd_inflated"]
    images, of_clips = (one[2] for one in trainings)
    assert {label for step in range(4) for label in trainings[0][3](step)[1].tolist()} == {0}, "none of the test clips"
    assert torch.equal(of_clips.layers[0].kernel[1].C, images.layers[0].kernel[0].C)
    assert torch.equal(of_clips.encoder.weight, images.encoder.weight)
    assert of_clips.decoder.out_features == 16 and of_clips.layers[0].l_max == (3, 8, 8)


def test_inflating_leaves_the_classes_to_be_learned() -> None:
    flat = isotropic("s4nd", 1, 2, (8, 8), d_model=4, n_layer=1, d_state=4)
    deep = inflated_classifier(flat, 3, 5)
    assert deep(torch.randn(1, 3, 8, 8, 1)).shape == (1, 5) and not torch.equal(
        deep.decoder.weight[:2], flat.decoder.weight
    )


def test_errors_are_told_apart(monkeypatch) -> None:
    y = torch.tensor([0, 0, 0, 0])  # to the right, slowly
    monkeypatch.setattr(video, "predictions", lambda model, x: torch.tensor([0, 1, 8, 2]))
    found = {row["what"]: row["accuracy"] for row in kinds_of_error(nn.Identity(), torch.zeros(4, 1), y)}
    assert found == {"direction": 50, "speed": 75, "axis": 75}


def test_films_are_read_in_pieces(trainings) -> None:
    arrays = moving(operators=("s4nd",)).run(Run()).arrays
    assert arrays["bikes_class"].shape == arrays["carphone_probability"].shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "changes", "said"),
    [
        (
            zero_shot,
            {"operators": ("s4nd_x",)},
            "a band limit is a number above 0 and belongs to s4nd, as in s4nd_0.5; got 's4nd_x'",
        ),
        (zero_shot, {"operators": ("s4nd_-1",)}, "a band limit is a number above 0"),
        (zero_shot, {"operators": ("conv_0.5",)}, "belongs to s4nd, as in s4nd_0.5; got 'conv_0.5'"),
        (zero_shot, {"test_sides": (16,)}, "test_sides hold the first training side, 8; got"),
        (zero_shot, {"operators": ("s5nd",)}, "unknown layer of an isotropic classifier 's5nd'"),
        (zero_shot, {"train_sides": (64,)}, "sides are 1 to 32"),
        (zero_shot, {"d_state": 5}, "d_state is even"),
        (resizing, {"share": 1.0}, "share lies between 0 and 1"),
        (resizing, {"small": 64}, "small is at most 32"),
        (drop_in, {"operators": ("vit_conv",)}, "unknown network 'vit_conv'"),
        (drop_in, {"d_state": 256}, "leaves no parameters to its MLP"),
        (moving, {"operators": ("s4",)}, "unknown network of clips 's4'"),
        (moving, {"frames": 1}, "motion takes two frames or more, got 1"),
    ],
)
def test_a_mistake_is_refused_before_any_training(trainings, make, changes: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        make(**changes).run(Run())
    assert not trainings
