"""The contract of priors."""

from __future__ import annotations

import copy

from pyro_vae.priors import Prior
from pyro_vae.testing._assertions import all_true, require
from pyro_vae.testing._shared import check_gradients, check_mass
from pyro_vae.testing.distributions import check_distribution
from pyro_vae.testing.parts import check_part

__all__ = ["check_prior"]


def check_prior(prior: Prior) -> None:
    """Checks a prior: what :func:`check_part` and :func:`check_distribution` do, and gradients.

    Args:
        prior: A prior over at most two real entries, or enumerable.

    Raises:
        AssertionError: If the prior breaks its contract.

    Example:
        >>> from pyro_vae import priors
        >>> check_prior(priors.Normal(2))
    """
    check_part(prior)
    prior = copy.deepcopy(prior).double()
    p = prior()
    check_distribution(p, (), prior.event_shape)
    check_distribution(p.expand((5,)), (5,), prior.event_shape)
    z = p.sample((3, 5))
    require(all_true(prior.support.check(z)), f"{prior}: draws outside `support`, {prior.support}")
    check_gradients(prior, [], lambda: prior().log_prob(z))
    check_mass(prior, p)
