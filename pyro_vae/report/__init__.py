"""Pictures of a fitted model, and one page on how good it is."""

from pyro_vae.plots._paths import interpolations, traversals
from pyro_vae.report.criticism import calibration, checks, side_by_side
from pyro_vae.report.pictures import (
    choice,
    curves,
    held_out,
    latent,
    pairs,
    pictures,
    reconstructions,
    samples,
)
from pyro_vae.report.story import page

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
