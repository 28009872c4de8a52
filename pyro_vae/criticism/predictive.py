"""Replicated data: what the model says could have been observed instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from pyro_vae._errors import positive_integer
from pyro_vae.criticism._labels import Coords, Dims, Labels, storage
from pyro_vae.evaluation._common import check_arguments, undisturbed
from pyro_vae.vae import VAE

__all__ = ["posterior_predictive", "prior_predictive"]


@torch.no_grad()
def posterior_predictive(
    vae: VAE,
    x: Tensor,
    *,
    num_draws: int = 200,
    seed: int = 0,
    dims: Dims | None = None,
    coords: Coords | None = None,
) -> xarray.DataTree:
    r"""Replicates each datum, with z inferred from that datum by the guide.

    .. math:: x^{\mathrm{rep}}_s \sim p(x \mid z_s), \quad z_s \sim q(z \mid x)

    Nothing observed is passed on to the replicates: they depend on ``x`` through z alone. Checks of
    them are conservative, even with the exact posterior, since z has seen the datum it is tested
    on.

    References:
        Posterior Predictive Assessment of Model Fitness via Realized Discrepancies
        (Gelman, Meng and Stern, 1996), https://www.jstor.org/stable/24306036

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``.
        num_draws: Replicates of each datum.
        seed: Of the draws: the same seed gives the same replicates.
        dims: Names of the event dimensions, as ``{"x": ["channel", "row", "column"]}``.
        coords: Labels along dimensions, as ``{"feature": ["height", "weight"]}``.

    Returns:
        A tree with groups ``posterior_predictive`` and ``observed_data``, variable ``x``,
        dimensions ``chain`` (one), ``draw``, ``data`` and those of one datum. Discrete data are
        integers.

    Raises:
        ValueError: If the data do not suit the model, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> tree = pv.posterior_predictive(vae, torch.ones(5, 4), num_draws=10)
        >>> dict(tree["posterior_predictive"].sizes)
        {'chain': 1, 'draw': 10, 'data': 5, 'feature': 4}
    """
    check_arguments(vae, seed)
    positive_integer("num_draws", num_draws)
    data = vae.check(x)
    labels = Labels(vae, dims, coords)
    stored = storage(vae.likelihood.support, data.dtype)
    replicates = np.empty((1, num_draws, *data.shape), stored)
    with undisturbed(vae, seed, data.device):
        start = 0
        for batch in vae.batches(data):
            guide, first = vae.encode(batch), 0
            for count in _counts(num_draws, vae.draws_at_once(batch)):
                drawn = vae.decode(guide.sample((count,))).sample()
                replicates[0, first : first + count, start : start + len(batch)] = drawn.cpu()
                first += count
            start += len(batch)
    sizes = {"num_draws": num_draws, "size": len(data)}
    observed = data.cpu().numpy().astype(stored)
    return xarray.DataTree.from_dict(
        {
            "posterior_predictive": labels.dataset({"x": (labels.dims("x"), replicates)}, **sizes),
            "observed_data": labels.dataset(
                {"x": (labels.dims("x", draws=False), observed)}, **sizes
            ),
        }
    )


@torch.no_grad()
def prior_predictive(
    vae: VAE,
    *,
    size: int,
    num_draws: int = 200,
    seed: int = 0,
    dims: Dims | None = None,
    coords: Coords | None = None,
) -> xarray.DataTree:
    r"""Simulates whole data sets from the model.

    .. math:: z \sim p(z), \quad x \sim p(x \mid z)

    Args:
        vae: The model.
        size: Data in each data set.
        num_draws: Data sets.
        seed: Of the draws: the same seed gives the same data sets.
        dims: Names of the event dimensions, as ``{"x": ["channel", "row", "column"]}``.
        coords: Labels along dimensions, as ``{"feature": ["height", "weight"]}``.

    Returns:
        A tree with groups ``prior`` (variable ``z``) and ``prior_predictive`` (variable ``x``),
        dimensions ``chain`` (one), ``draw``, ``data`` and those of one latent or datum. Discrete
        variables are integers.

    Raises:
        ValueError: If an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> tree = pv.prior_predictive(vae, size=5, num_draws=10)
        >>> dict(tree["prior"].sizes), tree["prior_predictive"]["x"].dtype
        ({'chain': 1, 'draw': 10, 'data': 5, 'latent': 2}, dtype('int8'))
    """
    check_arguments(vae, seed)
    positive_integer("size", size)
    positive_integer("num_draws", num_draws)
    labels = Labels(vae, dims, coords)
    device = vae.initialized.device
    values: dict[str, Any] = {}
    with undisturbed(vae, seed, device):
        prior = vae.prior()
        at_once = vae.draws_at_once(torch.empty(size, 0, device=device))
        first = 0
        for count in _counts(num_draws, at_once):
            z = prior.sample((count, size))
            for name, drawn, law in (
                ("z", z, vae.prior),
                ("x", vae.decode(z).sample(), vae.likelihood),
            ):
                if name not in values:
                    shape = (1, num_draws, *drawn.shape[1:])
                    values[name] = np.empty(shape, storage(law.support, drawn.dtype))
                values[name][0, first : first + count] = drawn.cpu()
            first += count
    sizes = {"num_draws": num_draws, "size": size}
    groups = {"prior": "z", "prior_predictive": "x"}
    return xarray.DataTree.from_dict(
        {
            group: labels.dataset({name: (labels.dims(name), values[name])}, **sizes)
            for group, name in groups.items()
        }
    )


def _counts(num_draws: int, at_once: int) -> Iterator[int]:
    for first in range(0, num_draws, at_once):
        yield min(at_once, num_draws - first)
