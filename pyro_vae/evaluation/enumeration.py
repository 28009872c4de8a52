"""The marginal likelihood of a small discrete latent, summed exactly."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.rows import GivenLike, RowsLike
from pyro_vae.evaluation._common import check_ignorable, states_of
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import rows_of
from pyro_vae.programs.weigh import draws_at_once, observations_at_once

__all__ = ["enumerate_log_prob"]


@torch.no_grad()
def enumerate_log_prob(vae: Amortized, x: RowsLike, **given: Unpack[GivenLike]) -> Tensor:
    r"""Sums over all states of a discrete latent.

    .. math:: \log p(x) = \log \sum_z p(x \mid z) \, p(z)

    Args:
        vae: A model with a discrete latent.
        x: Data, shape ``(N, *event_shape)``.
        **given: What goes with them.

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
    check_ignorable(vae)
    if not vae.space.support.is_discrete:
        raise expected("vae", "a discrete latent, whose states can be listed", vae.space)
    rows, log_probs = rows_of(vae, x, given), []
    for batch in rows.batches(observations_at_once(vae, rows.x)):
        prior = vae.prior_at(batch.given)
        total = batch.x.new_full((len(batch),), -math.inf)
        for chunk in states_of(prior, batch).split(draws_at_once(vae, batch.x)):
            log_likelihood = vae.decode(chunk, **batch.given).log_prob(batch.x)
            joint = log_likelihood + prior.log_prob(chunk)
            total = torch.logaddexp(total, joint.logsumexp(0))
        log_probs.append(total)
    return torch.cat(log_probs)
