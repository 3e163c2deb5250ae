"""Hyena Hierarchy (Poli et al. 2023, arXiv 2302.10866): recall, reasoning, language and distilled filters.

hyena train hyena --profile quick        # all, four minutes on 2 cores
"""

from hyena.experiments.hyena.language import Distillation, LanguageModelling
from hyena.experiments.hyena.reasoning import Reasoning
from hyena.experiments.hyena.recall import AssociativeRecall

__all__ = ["AssociativeRecall", "Distillation", "LanguageModelling", "Reasoning"]
