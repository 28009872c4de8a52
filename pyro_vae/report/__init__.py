"""Pictures of a fitted model, and one page on how good it is."""

from pyro_vae.report.choice import choice
from pyro_vae.report.criticism import calibration, checks, side_by_side
from pyro_vae.report.pairs import pairs
from pyro_vae.report.pictures import (
    curves,
    held_out,
    latent,
    pictures,
    reconstructions,
    samples,
)
from pyro_vae.report.story import page
from pyro_vae.report.traversals import interpolations, traversals

__all__ = [
    "calibration",
    "checks",
    "choice",
    "curves",
    "held_out",
    "interpolations",
    "latent",
    "page",
    "pairs",
    "pictures",
    "reconstructions",
    "samples",
    "side_by_side",
    "traversals",
]
