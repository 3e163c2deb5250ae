"""What all experiments of the Hyena paper promise: the metrics of its claims, and mistakes found before any work."""

from collections.abc import Iterator

import pytest
from instant import Fits, recall, trial

from hyena import claims
from hyena.data import text
from hyena.errors import HyenaError
from hyena.experiments.base import experiment
from hyena.experiments.hyena import AssociativeRecall, Distillation, LanguageModelling, Reasoning
from hyena.train import Run


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


MEASURED = [c for c in claims.load() if c.paper == "hyena" and c.metric and not c.metric.startswith("bench/")]


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
        (AssociativeRecall, {"operators": ["hyena", "convld"]}, r"unknown operator 'convld': did you mean 'conv1d'\?"),
        (AssociativeRecall, {"cells": [[10, 16]]}, "a cell is vocabulary, length and epochs, three numbers"),
        (AssociativeRecall, {"cells": [[10, 16, 2], [10, 16, 2, 1]]}, "a cell is vocabulary, length and epochs"),
        (AssociativeRecall, {"cells": [[2, 16, 2]]}, "vocab_size must be at least 4"),
        (AssociativeRecall, {"cells": [[10, 1, 2], [10, 16, 2]]}, "a cell has a length of at least 2"),
        (AssociativeRecall, {"cells": [[10, 16, 0]]}, "a cell has a length of at least 2 and an epoch or more"),
        (AssociativeRecall, {"batch_size": 257}, "batch_size is 1 to n_train = 256, got 257"),
        (AssociativeRecall, {"embed_dropout": 2.0}, r"embed_dropout is a probability below 1, got 2\.0"),
        (AssociativeRecall, {"embed_dropout": -0.1}, "embed_dropout is a probability below 1"),
        (AssociativeRecall, {"lr": [0.0]}, "lr must be above 0"),
        (AssociativeRecall, {"lr": [-0.1, 0.1]}, "lr must be above 0"),
        (Reasoning, {"tasks": ["majorty"]}, r"unknown task 'majorty': did you mean 'majority'\?"),
        (Reasoning, {"operators": ["atention"]}, r"unknown operator 'atention': did you mean 'attention'\?"),
        (Reasoning, {"batch_size": 129}, "batch_size is 1 to n_train = 128, got 129"),
        (LanguageModelling, {"operators": ["hyena", "rwvk"]}, r"unknown operator 'rwvk': did you mean 'rwkv'\?"),
        (LanguageModelling, {"corpus": "enwik"}, r"unknown corpus 'enwik': did you mean 'enwiki'\?"),
        (LanguageModelling, {"embed_dropout": 1.0}, "embed_dropout is a probability below 1"),
        (Distillation, {"corpus": "enwik"}, r"unknown corpus 'enwik': did you mean 'enwiki'\?"),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_mistake_is_refused_before_any_work(cls: type, changes: dict[str, object], said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        cls.configured("smoke", **changes).run(Run())
