"""Reasoning tasks: what is trained on, what is asked, and how linear functions are scored."""

import pytest
import torch
from instant import trial
from torch import Tensor, nn

from hyena.data.tasks import Points, linear_functions
from hyena.experiments.comparison import Trial
from hyena.experiments.hyena import Reasoning
from hyena.experiments.hyena import reasoning as reasoning_module
from hyena.train import Run


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
