"""Simulates data from a fixed model and compares them with what was observed, in ArviZ's terms."""

from pyro_vae.criticism.datatree import to_datatree
from pyro_vae.criticism.predictive import posterior_predictive, prior_predictive

__all__ = ["posterior_predictive", "prior_predictive", "to_datatree"]
