"""Replicated data: what the model could have observed instead."""

from __future__ import annotations

from typing import Unpack

import xarray

from pyro_vae._errors import positive_integer
from pyro_vae._untouched import undisturbed
from pyro_vae.criticism._draws import pairs_at_once, record_prior
from pyro_vae.criticism._labels import Coords, Dims, Labels
from pyro_vae.criticism.datatree import model_attrs, recorder_of, to_datatree
from pyro_vae.data.rows import ConditionsLike, GivenLike, RowsLike
from pyro_vae.evaluation._common import check_arguments
from pyro_vae.programs import Amortized

__all__ = ["posterior_predictive", "prior_predictive"]


def posterior_predictive(
    vae: Amortized,
    x: RowsLike,
    *,
    num_draws: int = 200,
    seed: int = 0,
    dims: Dims | None = None,
    coords: Coords | None = None,
    **given: Unpack[GivenLike],
) -> xarray.DataTree:
    r"""Replicates each observation, with z inferred from that observation by the guide.

    .. math:: x^{\mathrm{rep}}_s \sim p(x \mid z_s), \quad z_s \sim q(z \mid x)

    Nothing observed is passed on to the replicates: they depend on ``x`` through z alone. Checks of
    them are conservative, even with the exact posterior, since z has seen the observation it is
    tested on.

    References:
        Posterior Predictive Assessment of Model Fitness via Realized Discrepancies
        (Gelman, Meng and Stern, 1996), https://www.jstor.org/stable/24306036

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``.
        num_draws: Replicates of each observation.
        seed: Of the draws: the same seed gives the same replicates.
        dims: Names of the event dimensions, as ``{"x": ["channel", "row", "column"]}``.
        coords: Labels along dimensions, as ``{"feature": ["height", "weight"]}``.
        **given: What goes with the data (:class:`~pyro_vae.data.Given`), as for
            :func:`to_datatree`.

    Returns:
        Groups ``posterior_predictive`` and ``observed_data`` of :func:`to_datatree`: variable
        ``x``, dimensions ``chain`` (one), ``draw``, ``data`` and those of one observation. Discrete
        data are integers.

    Raises:
        ValueError: If the data do not suit the model, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> tree = pv.posterior_predictive(vae, vae.sample(5), num_draws=10)
        >>> dict(tree["posterior_predictive"].sizes)
        {'chain': 1, 'draw': 10, 'data': 5, 'feature': 4}
    """
    return to_datatree(
        vae,
        x,
        num_draws=num_draws,
        seed=seed,
        groups=("posterior_predictive", "observed_data"),
        dims=dims,
        coords=coords,
        **given,
    )


def prior_predictive(
    vae: Amortized,
    *,
    size: int,
    num_draws: int = 200,
    seed: int = 0,
    dims: Dims | None = None,
    coords: Coords | None = None,
    **given: Unpack[ConditionsLike],
) -> xarray.DataTree:
    r"""Simulates whole data sets from the model.

    .. math:: z \sim p(z), \quad x \sim p(x \mid z)

    References:
        Visualization in Bayesian workflow (Gabry et al., 2019), https://arxiv.org/abs/1709.01449,
        on what simulated data say of a prior before a model is fitted

    Args:
        vae: The model.
        size: Data in each data set.
        num_draws: Data sets.
        seed: Of the draws: the same seed gives the same data sets.
        dims: Names of the event dimensions, as ``{"x": ["channel", "row", "column"]}``.
        coords: Labels along dimensions, as ``{"feature": ["height", "weight"]}``.
        **given: A condition for each observation of a data set, and covariates
            (:class:`~pyro_vae.data.Conditions`).

    Returns:
        A tree with groups ``prior`` (variable ``z``) and ``prior_predictive`` (variable ``x``),
        dimensions ``chain`` (one), ``draw``, ``data`` and those of one latent or observation.
        Discrete variables are integers.

    Raises:
        ValueError: If an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> tree = pv.prior_predictive(vae, size=5, num_draws=10)
        >>> dict(tree["prior"].sizes), tree["prior_predictive"]["x"].dtype
        ({'chain': 1, 'draw': 10, 'data': 5, 'latent': 2}, dtype('int8'))
    """
    seed = check_arguments(vae, seed)
    size = positive_integer("size", size)
    num_draws = positive_integer("num_draws", num_draws)
    checked = vae.conditions(given, size)
    groups = ("prior", "prior_predictive")
    recorder = recorder_of(
        vae,
        Labels(vae, dims, coords),
        num_draws,
        size,
        groups,
        {"/": {"seed": seed} | model_attrs(vae)},
    )
    with undisturbed(vae, seed, vae.device), recorder.in_memory() as tree:
        record_prior(recorder, vae, checked, pairs=pairs_at_once(vae), progress=lambda _: None)
    return tree
