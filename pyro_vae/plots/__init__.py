"""Plots of models, their fits and what criticism finds: functions that return matplotlib axes.

Each draws into what it is passed, ``ax`` where it has one panel and ``figure`` where it has several
(a figure or a subfigure), and else into a new figure. In a notebook, and wherever pyplot is
interactive, that is one of pyplot's, and is shown; elsewhere pyplot does not know it and hence does
not keep it: ``pv.plots.history(run.history)[0].figure.savefig("history.png")``.
"""

from pyro_vae.plots.choice import choice
from pyro_vae.plots.criticism import checks, sbc
from pyro_vae.plots.models import history, latent, reconstructions, samples
from pyro_vae.plots.pairs import pairs
from pyro_vae.plots.paths import interpolation, traversal
from pyro_vae.plots.scores import khat, rate_distortion

__all__ = [
    "checks",
    "choice",
    "history",
    "interpolation",
    "khat",
    "latent",
    "pairs",
    "rate_distortion",
    "reconstructions",
    "samples",
    "sbc",
    "traversal",
]
