"""Tables and curves that the notebooks share."""

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from hyena import plot, results, show
from hyena.errors import HyenaError
from hyena.experiments.hyena import AssociativeRecall
from hyena.experiments.ls4 import Generation
from hyena.experiments.retina import Encoding
from hyena.experiments.s4nd import ZeroShot
from hyena.experiments.spacetime import AutoregressiveProcesses, Forecasting, SeriesClassification
from hyena.experiments.t1 import NavierStokes
from hyena.results import Result


def made(profile: str, **fields) -> Result:
    config = {"cells": [[10, 32, 20]], "d_model": 64}
    return Result({"gap": [1.0, 3.0], "lr": [0.004]}, profile=profile, config=config, device="cpu", **fields)


def test_settings_stand_beside_those_of_the_paper() -> None:
    table = show.settings(made("quick"), AssociativeRecall(), "cells", "d_model")
    assert table.loc["cells"].tolist() == ["[[10, 32, 20]]", "((30, 131072, 200),)"]
    assert table.columns.tolist() == ["quick profile", "paper profile"]


@pytest.mark.parametrize(("fresh", "label"), [(True, "long, cpu"), (False, "long, cpu (earlier code)")])
def test_the_largest_stored_result_stands_beside_this_one(monkeypatch, fresh: bool, label: str) -> None:
    monkeypatch.setattr(AssociativeRecall, "largest", classmethod(lambda cls: (made("long"), fresh)))
    assert list(show.stored(AssociativeRecall, made("quick"))) == ["quick, cpu", label]
    assert list(show.stored(AssociativeRecall, made("long"))) == ["long, cpu"]


def test_a_metric_is_shown_with_its_spread_if_there_are_seeds_and_as_a_dash_if_it_is_absent() -> None:
    assert show.mean_sd(made("quick"), "gap") == "2.0 ± 1.4"
    assert show.mean_sd(made("quick"), "lr", 3) == "0.004"
    assert show.mean_sd(made("quick"), "lead") == "–"


def test_a_table_of_metrics_has_a_row_and_a_column_for_each_part_of_their_names() -> None:
    result = Result({"cnn_ns_r": [0.5], "ln_ns_r": [0.25], "cnn_ns_fev": [0.125]}, profile="quick")
    table = show.metrics(result, "{row}_ns_{column}", {"CNN": "cnn", "LN": "ln"}, {"r": "r", "explained": "fev"}, 3)
    assert table.to_dict("index") == {
        "CNN": {"r": "0.500", "explained": "0.125"},
        "LN": {"r": "0.250", "explained": "–"},
    }
    assert show.metrics(result, "{row}_ns_{column}", ["cnn", "ln"], ("r",)).to_dict() == {
        "r": {"cnn": "0.50", "ln": "0.25"}
    }


def test_a_benchmark_that_has_not_been_run_is_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(show, "root", lambda: tmp_path)
    with pytest.raises(HyenaError, match="hyena bench attention --device cuda"):
        show.benchmark("attention", "cuda")
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "attention.cpu.json").write_text(json.dumps({"about": {}}))
    assert show.benchmark("attention") == {"about": {}}


def test_a_training_that_stopped_early_keeps_its_last_value_in_the_curve() -> None:
    rows = [("hyena", 0, 10, 50.0), ("hyena", 0, 20, 90.0), ("hyena", 1, 10, 100.0), ("attention", 0, 10, 40.0)]
    _, ax = plt.subplots()
    plot.curves(ax, pd.DataFrame(rows, columns=["operator", "seed", "step", "accuracy"]), "accuracy", per=10)
    hyena, attention = ax.lines
    assert hyena.get_xydata().tolist() == [[1, 75], [2, 95]]
    assert attention.get_xydata().tolist() == [[1, 40]]
    assert [line.get_label() for line in ax.lines] == ["hyena", "attention"]
    plt.close()


def test_every_operator_has_a_colour_of_its_own() -> None:
    operators = [name for name in plot.COLOUR if name != "first"]
    assert len({plot.COLOUR[name] for name in operators}) == len(operators)
    assert set(operators) == compared()


def compared() -> set[str]:
    """All that a profile compares, and the forecasters that are not trained."""
    compare = (AssociativeRecall, AutoregressiveProcesses, Encoding, Forecasting, Generation, SeriesClassification)
    found = {
        o for cls in (*compare, NavierStokes, ZeroShot) for p in results.PROFILES for o in cls.configured(p).operators
    }
    return {o.removesuffix("_as_long").removesuffix("_as_short") for o in found} | {"ar", "naive"}


def test_a_circuit_has_a_box_for_every_cell_and_an_arrow_for_every_edge() -> None:
    _, ax = plt.subplots()
    places = {"cone": (0.0, 0.0), "bipolar_on": (1.0, 0.0), "on": (2.0, 1.0)}
    plot.wiring(ax, places, [("cone", "bipolar_on", 1.0), ("cone", "on", -2.0)])
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["cone", "bipolar\non", "on"]
    arrows = [text.arrow_patch for text in ax.texts if not text.get_text()]
    assert [arrow.get_linewidth() for arrow in arrows] == [1.6, 2.0]
    assert arrows[0].get_edgecolor() != arrows[1].get_edgecolor()
    plt.close()
