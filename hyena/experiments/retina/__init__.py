"""Retina (McIntosh et al. 2016, arXiv 1702.01825; Tanaka et al. 2019, arXiv 1912.06207): encoders, phenomena, circuits.

hyena train retina --profile quick        # all, on a simulated retina
hyena train retina.encoding --profile quick --set recording=path/to/15-10-07      # the public recordings
"""

from hyena.experiments.retina.adaptation import ContrastAdaptation
from hyena.experiments.retina.encoding import Encoding
from hyena.experiments.retina.mechanisms import Mechanisms
from hyena.experiments.retina.scaling import FeatureMaps, TrainingAmount
from hyena.experiments.retina.variability import Variability

__all__ = ["ContrastAdaptation", "Encoding", "FeatureMaps", "Mechanisms", "TrainingAmount", "Variability"]
