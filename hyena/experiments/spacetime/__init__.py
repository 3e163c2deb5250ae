"""SpaceTime (Zhang et al. 2023, arXiv 2303.09489): processes that a state space can hold, forecasts, classification.

hyena train spacetime --profile quick        # all, thirteen minutes on 2 cores
hyena train spacetime.forecasting --profile quick --set 'series=[mine.csv]' column=load        # your own series
"""

from hyena.experiments.spacetime.classification import SeriesClassification
from hyena.experiments.spacetime.forecasting import Forecasting, HorizonGeneralisation
from hyena.experiments.spacetime.processes import AutoregressiveProcesses

__all__ = ["AutoregressiveProcesses", "Forecasting", "HorizonGeneralisation", "SeriesClassification"]
