"""How gradients pass through rounding: one estimator per file."""

from recfx.learn.estimators.base import Estimator
from recfx.learn.estimators.fourier import FourierSeries
from recfx.learn.estimators.gaussian import GaussianDirac
from recfx.learn.estimators.guidance import Guidance
from recfx.learn.estimators.hessian_scaled import HessianScaled
from recfx.learn.estimators.step_size import LearnedStepSize
from recfx.learn.estimators.straight_through import StraightThrough

#: Estimators by their names in settings and on command lines.
ESTIMATORS: dict[str, type[Estimator]] = {
    "ste": StraightThrough,
    "gste": HessianScaled,
    "gaussian": GaussianDirac,
    "fourier": FourierSeries,
    "lsq": LearnedStepSize,
    "guidance": Guidance,
}

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "FourierSeries",
    "GaussianDirac",
    "Guidance",
    "HessianScaled",
    "LearnedStepSize",
    "StraightThrough",
]
