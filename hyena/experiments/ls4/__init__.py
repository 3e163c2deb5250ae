"""LS4 (Zhou et al. 2022, arXiv 2212.12749): generation with scores, sharp transitions, irregular times.

hyena train ls4 --profile quick        # all, twenty-two minutes on 2 cores
hyena train ls4.generation --profile quick --set 'panels=[mine.csv]' 'sigma=[0.1]'        # your own series
"""

from hyena.experiments.ls4.generation import Generation, LongGeneration
from hyena.experiments.ls4.irregular import IrregularSampling
from hyena.experiments.ls4.stiff import StiffTransitions

__all__ = ["Generation", "IrregularSampling", "LongGeneration", "StiffTransitions"]
