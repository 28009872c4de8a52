"""How an encoder of ours is sized, and what it is fed."""

from __future__ import annotations

from torch import nn
from torch.distributions import constraints

from pyro_vae._errors import expected
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks.network import Network, Standardize
from pyro_vae.priors import Prior, VampPrior

__all__ = ["built"]


def built(
    encoder: nn.Module,
    prior: Prior,
    guide: Guide,
    likelihood: Likelihood,
    cond_size: int | None,
    show_mask: bool,
) -> nn.Module:
    """Sizes an encoder of ours, and returns what standardises its inputs.

    Args:
        encoder: The encoder; any other module is taken as it is.
        prior: Which may have inputs of its own for the encoder.
        guide: What its outputs are for.
        likelihood: Of the data that it sees.
        cond_size: Entries of a condition; None if there is none.
        show_mask: Whether it sees which entries are observed.

    Raises:
        ValueError: If it is an encoder of levels, and its inputs are none.
    """
    if not isinstance(encoder, Network):
        return nn.Identity()
    encoder.check_role("encoder")
    if encoder.levels is not None:
        _check_levels(encoder, prior, likelihood, show_mask)
    inputs = Standardize(likelihood.event_shape, counts=likelihood.are_counts)
    first, *rest = likelihood.event_shape
    shown = (2 * first if show_mask else first, *rest)
    encoder.build(shown, guide.param_shape, cond_size or 0)
    return inputs if encoder.levels is None else nn.Identity()


def _check_levels(encoder: Network, prior: Prior, likelihood: Likelihood, show_mask: bool) -> None:
    """Refuses an encoder of levels where its inputs are none that it has."""
    name = type(encoder).__name__
    if show_mask:
        raise expected("show_mask", f"False with {name}, which sees no masks", show_mask)
    if any(isinstance(each, VampPrior) and each.inputs == "learned" for each in prior.modules()):
        what = f'one whose pseudo-inputs are levels, VampPrior(inputs="data"), with {name}'
        raise expected("prior", what, "learned")
    support = likelihood.support
    if support is constraints.boolean:
        levels = 2
    elif hasattr(support, "upper_bound") and support.is_discrete:
        levels = int(support.upper_bound) + 1
    else:
        what = f"a network of numbers, such as MLP, with {type(likelihood).__name__}"
        raise expected("encoder", what, name)
    assert encoder.levels is not None
    if encoder.levels < levels:
        raise expected("encoder", f"{levels} levels, as the likelihood has", encoder.levels)
