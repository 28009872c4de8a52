"""Simulates data from a fixed model and compares them with what was observed, in ArviZ's terms."""

from pyro_vae.criticism.calibration import Calibration, Coverage, calibrate
from pyro_vae.criticism.checks import Checks, Row, check
from pyro_vae.criticism.datatree import to_datatree
from pyro_vae.criticism.predictive import posterior_predictive, prior_predictive
from pyro_vae.criticism.statistics import Statistic, default_statistics

__all__ = [
    "Calibration",
    "Checks",
    "Coverage",
    "Row",
    "Statistic",
    "calibrate",
    "check",
    "default_statistics",
    "posterior_predictive",
    "prior_predictive",
    "to_datatree",
]
