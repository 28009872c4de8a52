"""Simulates data from a fixed model and compares them with what was observed, in ArviZ's terms."""

from pyro_vae.criticism.calibration import Calibration, calibrate
from pyro_vae.criticism.checks import Checks, check
from pyro_vae.criticism.datatree import to_datatree
from pyro_vae.criticism.global_calibration import calibrate_globals
from pyro_vae.criticism.held_out import PIT, pit
from pyro_vae.criticism.one_dimensional import tree_for
from pyro_vae.criticism.predictive import posterior_predictive, prior_predictive
from pyro_vae.criticism.pyro_pair import from_pyro_svi
from pyro_vae.criticism.row import Row
from pyro_vae.criticism.statistics import Statistic, default_statistics
from pyro_vae.criticism.uniformity import Coverage

__all__ = [
    "PIT",
    "Calibration",
    "Checks",
    "Coverage",
    "Row",
    "Statistic",
    "calibrate",
    "calibrate_globals",
    "check",
    "default_statistics",
    "from_pyro_svi",
    "pit",
    "posterior_predictive",
    "prior_predictive",
    "to_datatree",
    "tree_for",
]
