"""T1 (Poli et al. 2022, arXiv 2211.14453): solution operators with one transform, beside those with two per layer.

hyena train t1 --profile quick                 # all, thirty-five minutes on 2 cores
hyena train t1.navier_stokes --profile quick --set viscosity=0.0001 'operators=[t1,fno]'
"""

from hyena.experiments.t1.selection import ModeSelection
from hyena.experiments.t1.tasks import Airfoil, NavierStokes, Waves
from hyena.experiments.t1.variance import Variance
from hyena.experiments.t1.video import Plume

__all__ = ["Airfoil", "ModeSelection", "NavierStokes", "Plume", "Variance", "Waves"]
