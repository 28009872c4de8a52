"""The marginal likelihood of a small discrete latent, summed exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.rows import Rows
from pyro_vae.programs import VAE
from pyro_vae.programs.weigh import draws_at_once, observations_at_once

__all__ = ["enumerate_log_prob"]


@torch.no_grad()
def enumerate_log_prob(vae: VAE, x: Tensor) -> Tensor:
    r"""Sums over all states of a discrete latent.

    .. math:: \log p(x) = \log \sum_z p(x \mid z) \, p(z)

    Args:
        vae: A model with a discrete latent.
        x: Data, shape ``(N, *event_shape)``.

    Returns:
        Exact log-densities in nats, shape ``(N,)``.

    Raises:
        ValueError: If the latent is continuous or has too many joint states, or the data do not
            suit the model.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(
        ...     pv.priors.Categorical(2, 3),
        ...     pv.guides.GumbelSoftmax(2, 3),
        ...     pv.likelihoods.Bernoulli((4,)),
        ... )
        >>> enumerate_log_prob(vae, torch.ones(5, 4)).shape
        torch.Size([5])
    """
    prior = vae.prior()
    if not vae.prior.support.is_discrete:
        raise expected("vae", "a discrete latent, whose states can be listed", vae.prior)
    states = prior.enumerate_support()
    data, log_probs = vae.accepts(Rows(x)).x, []
    for batch in data.split(observations_at_once(vae, data)):
        total = batch.new_full((len(batch),), -math.inf)
        for chunk in states.split(draws_at_once(vae, batch)):
            log_likelihood = vae.decode(chunk[:, None]).log_prob(batch)
            joint = log_likelihood + prior.log_prob(chunk)[:, None]
            total = torch.logaddexp(total, joint.logsumexp(0))
        log_probs.append(total)
    return torch.cat(log_probs)
