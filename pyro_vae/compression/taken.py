"""What can be compressed: models whose parts have distribution functions, and whole numbers."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae._untouched import evaluating
from pyro_vae.compression.latents import entries_of
from pyro_vae.compression.numbers import MOST, check_likelihood
from pyro_vae.compression.stack import coder
from pyro_vae.data.rows import Rows, RowsLike
from pyro_vae.distributions import site_of
from pyro_vae.guides import Guide
from pyro_vae.guides import Product as GuideProduct
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import as_tensor

__all__ = ["array_of", "check_shape", "check_values", "taken"]

_CHECKED = 2**20  # entries that are checked at once


def taken(vae: VAE) -> VAE:
    """Returns the model on the CPU, if it can code data.

    Raises:
        ValueError: If it has a part that cannot.
    """
    coder()
    if not isinstance(vae, VAE):
        raise expected("vae", "a VAE", vae)
    if vae.cond_size is not None:
        what = "a model without conditions, which no file holds, or `vae.at(cond)`"
        raise expected("vae", what, f"one of conditions of {vae.cond_size}")
    if vae.missingness is not None:
        raise expected("vae", "a model without `missingness`", type(vae.missingness).__name__)
    check_likelihood(vae.likelihood)
    _check_amortised(vae.guide_family)
    found = vae if vae.device.type == "cpu" else copy.deepcopy(vae).cpu()
    with torch.no_grad(), evaluating(found):
        prior, zeros = found.prior(None), found.model.filler.new_zeros
        z = found.space.split(zeros(1, *found.space.event_shape))
        family = found.guide_family(zeros(1, *found.guide_family.param_shape))
        for name in found.space:
            if entries_of(site_of(prior, name, z), 1, "prior", found.prior).lower is not None:
                raise expected("prior", "one of independent entries", type(vae.prior).__name__)
            entries_of(site_of(family, name, z), 1, "guide", found.guide_family)
    return found


def _check_amortised(guide: Guide) -> None:
    """Refuses a guide that goes on from what the encoder gives, at the data themselves.

    Raises:
        ValueError: If it does.
    """
    parts = guide.parts if isinstance(guide, GuideProduct) else [guide]
    for part in parts:
        if isinstance(part, Guide) and type(part).refine is not Guide.refine:
            what = "one that the encoder gives at once: Normal, FullNormal or Hierarchy"
            raise expected("guide", what, type(part).__name__)


def array_of(x: RowsLike, argument: str) -> np.ndarray:
    """Returns data as an array of numbers.

    Raises:
        ValueError: If they are something else.
    """
    if isinstance(x, Rows):
        if x.given:
            raise expected(argument, "rows with nothing beside them", ", ".join(x.given))
        x = x.x
    if isinstance(x, np.ma.MaskedArray):
        raise expected(argument, "data with all their entries", "a masked array")
    if not isinstance(x, np.ndarray):
        x = as_tensor(x, argument)
        try:
            x = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        except (TypeError, ValueError):  # a dtype that NumPy has not; lists of several lengths
            raise expected(argument, "an array of numbers, of a dtype that NumPy has", x) from None
    if x.dtype.kind not in "buif" or x.dtype.itemsize > 8 or x.ndim == 0:
        raise expected(argument, "an array of numbers", x)
    return np.ascontiguousarray(x)


def check_shape(vae: VAE, shape: tuple[int, ...], argument: str) -> None:
    """Refuses data whose rows are no rows of the model.

    Raises:
        ValueError: If they are not.
    """
    wanted = tuple(vae.event_shape)
    if tuple(n for n in shape[1:] if n > 1) != tuple(n for n in wanted if n > 1) or shape[0] < 1:
        sizes = "".join(f", {size}" for size in wanted)
        raise expected(argument, f"data of shape (N{sizes}), one row at least", shape)


def check_values(vae: VAE, array: np.ndarray) -> None:
    """Refuses values that would not come back as they are.

    Raises:
        ValueError: If there are some, or some are outside the support of the likelihood.
    """
    rows = max(1, _CHECKED // max(1, vae.event_shape.numel()))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            what = "data with all their entries, finite numbers"
            raise expected("x", what, f"{int((~np.isfinite(part)).sum())} that are not")
        if float(part.max()) > MOST or float(part.min()) < 0:
            raise expected("x", f"numbers from 0 to {MOST:,}", f"{part.min()} to {part.max()}")
        if part.astype(np.int64).astype(part.dtype).tobytes() != part.tobytes():
            raise expected("x", "whole numbers, and no -0.0", part)
        x = torch.from_numpy(part.reshape(len(part), *vae.event_shape).astype(np.float64))
        try:
            vae.accepts(Rows(x))
        except ValueError:
            whole = torch.from_numpy(array.reshape(len(array), *vae.event_shape).astype(np.float64))
            vae.accepts(Rows(whole))  # which says where the value is
            raise
