"""The latent space: is the aggregated posterior where the prior is, and is every unit used?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.distributions import Independent, constraints

from pyro_vae.criticism._measures import Statistic
from pyro_vae.criticism._of_tables import Expanded
from pyro_vae.criticism._replicates import cycled, draw_prior, prior_of
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import GivenLike, Rows, given_of
from pyro_vae.distributions import closed_kl, same_support
from pyro_vae.distributions.joint import Joint, site_of
from pyro_vae.evaluation._common import variance_by_site
from pyro_vae.programs import Amortized, Program
from pyro_vae.programs.weigh import observations_at_once

__all__ = ["collapsed_units", "latent_entries", "latent_statistics"]

_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
_ROWS = 150  # points between which distances are taken: the cost is quadratic
_HOLE = 0.99  # of prior draws are nearer than this to another set of prior draws
_COLLAPSED = 0.01  # nats, or variance of the posterior mean (Burda et al., 2016, section 5.3)


@torch.no_grad()
def latent_statistics(
    vae: Amortized, *, size: int = 2000, **given: Unpack[GivenLike]
) -> tuple[Statistic, ...]:
    """Statistics of one z drawn from q(z|x) for each observation: the aggregated posterior.

    Each compares it with draws of the prior. Their p-values come from data that the model itself
    simulated and the guide encoded, so that a guide's own error rejects no model.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound
        (Hoffman and Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Energy statistics: A class of statistics based on distances (Székely and Rizzo, 2013),
        https://doi.org/10.1016/j.jspi.2013.03.018

    Args:
        vae: The model.
        size: Draws of the prior that thresholds come from.
        **given: What goes with the data that are judged (:class:`~pyro_vae.data.Given`): draws are
            given the same.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((4,)))
        >>> [statistic.name for statistic in latent_statistics(vae)]
        ['latent marginals', 'latent distance', 'latent holes']
    """
    of_each = prior_of(vae, cycled(given_of(given), size))
    prior = draw_prior(of_each, 1, size)[0].flatten(1)
    names = _names(vae)
    seen = Expanded(prior, latent_entries(vae))  # classes without an order are seen one by one
    if seen.names != names:
        prior, names = seen(prior), seen.names
    first, second, third = prior[:_ROWS], prior[_ROWS : 2 * _ROWS], prior[2 * _ROWS : 3 * _ROWS]
    within = torch.cdist(first, first).sum() / (len(first) * (len(first) - 1))

    def distance(z: Tensor) -> Tensor:
        z = seen(z.flatten(2))[:, :_ROWS]
        size = z.shape[1]
        own = torch.cdist(z, z).sum((-2, -1)) / (size * (size - 1))
        return (2 * torch.cdist(z, first.expand(len(z), -1, -1)).mean((-2, -1)) - own) - within

    energy = Statistic("latent distance", distance, rows=_ROWS)
    if vae.space.support.is_discrete:
        return (Statistic("latent classes", lambda z: seen(z.flatten(2)).mean(1), names), energy)

    ordered = prior.sort(0).values
    thresholds = [ordered[round(level * (size - 1))] for level in _LEVELS]

    def marginals(z: Tensor) -> Tensor:
        z = seen(z.flatten(2))
        shares = [(z <= each).to(z.dtype).mean(1) for each in thresholds]
        return torch.cat([z.mean(1), z.std(1), *shares], -1)

    words = ("mean", "spread", *(f"share below the prior's {level:.0%}" for level in _LEVELS))
    columns = tuple(f"{name} {word}" for word in words for name in names)
    reach = torch.cdist(third, second).amin(-1).quantile(_HOLE)

    def holes(z: Tensor) -> Tensor:
        z = seen(z.flatten(2))[:, :_ROWS]
        nearest = torch.cdist(second.expand(len(z), -1, -1), z).amin(-1)
        return (nearest > reach).to(z.dtype).mean(-1)

    return (
        Statistic("latent marginals", marginals, columns),
        energy,
        Statistic("latent holes", holes, rows=_ROWS),
    )


@torch.no_grad()
def collapsed_units(vae: Amortized, rows: Rows) -> dict[str, Any]:
    """Names the latent units that the data do not move: posterior collapse.

    A one-hot variable is one unit; units of one site of several bear its name. A unit is collapsed
    when KL(q(z|x) || p(z)), averaged over the data, is below 0.01 nats; where that does not come
    apart by units, when the variance of the posterior mean is below 0.01.

    Args:
        vae: The model.
        rows: Data that the model accepted.

    Returns:
        ``units``, ``collapsed`` (names), ``kl`` (nats, None where one does not come apart) and
        ``variance`` (of the posterior mean; for a one-hot variable that of its most variable
        class), ready for JSON.
    """
    batches = list(rows.batches(observations_at_once(vae, rows.x)))
    guides = [vae.encode(batch.x, **batch.given) for batch in batches]
    priors = [prior_of(vae, batch.given) for batch in batches]
    means = torch.cat([each.mean.cpu().double() for each in guides])
    units: list[str] = []
    variances: list[float] = []
    kls: list[float | None] = []
    small: list[bool] = []
    for name, variance in variance_by_site(means, vae.space).items():
        own = [_of_site(each, name) for each in guides]
        kl = _kl_by_unit(own, [_of_site(each, name) for each in priors], variance.shape)
        units += [f"{name}[{i}]" for i in range(variance.numel())]
        variances += variance.flatten().tolist()
        kls += [None] * variance.numel() if kl is None else kl.flatten().tolist()
        small += ((variance if kl is None else kl).flatten() < _COLLAPSED).tolist()
    return {
        "units": units,
        "collapsed": [name for name, low in zip(units, small, strict=True) if low],
        "kl": None if None in kls else kls,
        "variance": variances,
    }


def _of_site(distribution: Any, name: str) -> Any:
    """The distribution of one site of several that are independent; of others, the joint one."""
    joint = isinstance(distribution, Joint) and not distribution.independent
    return distribution if joint else site_of(distribution, name)


def _kl_by_unit(guides: list[Any], priors: list[Any], shape: torch.Size) -> Tensor | None:
    parts = []
    for guide, prior in zip(guides, priors, strict=True):
        if not (isinstance(guide, Independent) and isinstance(prior, Independent)):
            return None
        kl = closed_kl(guide.base_dist, prior.expand(guide.batch_shape).base_dist)
        if kl is None:
            return None
        parts.append(kl.cpu().double())
    mean = torch.cat(parts).mean(0)
    return mean if mean.shape == shape else None


def latent_entries(vae: Amortized) -> tuple[Entry, ...]:
    """Returns the entries of z: classes of a Pyro program that are in no order have levels."""
    plain = tuple(Entry(name, i) for i, name in enumerate(_names(vae)))
    if not isinstance(vae, Program):
        return plain
    sites = (local for local in vae.structure.latent.values() for _ in range(local.shape.numel()))
    found = []
    for entry, local in zip(plain, sites, strict=True):
        if local.is_nominal:
            support: Any = local.base_support
            levels = tuple(map(str, range(int(support.upper_bound) + 1)))
            entry = replace(entry, kind="level", levels=levels)
        found.append(entry)
    return tuple(found)


def _names(vae: Amortized) -> tuple[str, ...]:
    if same_support(vae.space.support, constraints.one_hot):
        groups, classes = vae.space.event_shape
        return tuple(f"z[{g}] = {k}" for g in range(groups) for k in range(classes))
    return tuple(f"z[{i}]" for i in range(vae.space.event_shape.numel()))
