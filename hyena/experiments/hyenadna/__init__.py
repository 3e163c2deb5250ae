"""HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794): learning from DNA, and what a model that has learned can do.

hyena train hyenadna --profile quick        # all, eight minutes on 2 cores
hyena train hyenadna.downstream --profile quick --set 'tasks=[mine.csv]'        # your own sequences and labels
"""

from hyena.experiments.hyenadna.downstream import Downstream
from hyena.experiments.hyenadna.incontext import InContext
from hyena.experiments.hyenadna.longrange import LongRange
from hyena.experiments.hyenadna.mutagenesis import Mutagenesis
from hyena.experiments.hyenadna.pretraining import Pretraining

__all__ = ["Downstream", "InContext", "LongRange", "Mutagenesis", "Pretraining"]
