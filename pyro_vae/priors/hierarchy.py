"""Several stochastic layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected
from pyro_vae.distributions.joint import Joint
from pyro_vae.distributions.space import Site, Space, site_names
from pyro_vae.networks.normal_given import NormalGiven
from pyro_vae.priors.normal import Normal
from pyro_vae.priors.prior import Prior

__all__ = ["Hierarchy"]


class Hierarchy(Prior):
    r"""Creates stochastic layers, each normal given the one above.

    .. math:: p(z) = \mathcal{N}(z_L \mid 0, I) \prod_{i=1}^{L-1}
        \mathcal{N}(z_i \mid \mu_i(z_{i+1}), \mathrm{diag}\,\sigma_i^2(z_{i+1}))

    The sites are ``zL`` to ``z1``, in generative order; the decoder sees ``z1`` alone. One z is all
    of them, joined in that order.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
        Ladder Variational Autoencoders (Sonderby et al., 2016), https://arxiv.org/abs/1602.02282

    Args:
        dims: Dimensions of the layers, from the top to the one that the decoder sees.
        hidden: Widths of the hidden layers of the networks between them.

    Raises:
        ValueError: If there are fewer than two layers, or a size is not positive.

    Example:
        >>> prior = Hierarchy([4, 8])
        >>> list(prior.space), prior.event_shape, prior.space.decoded_shape
        (['z2', 'z1'], torch.Size([12]), torch.Size([8]))
    """

    def __init__(self, dims: Sequence[int], hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        if len(dims) < 2 or any(dim < 1 for dim in dims):
            raise expected("dims", "two or more positive sizes", dims)
        if any(width < 1 for width in hidden):
            raise expected("hidden", "positive widths", hidden)
        self.top = Normal(dims[0])
        self.below = nn.ModuleList(NormalGiven(above, dim, hidden) for above, dim in pairwise(dims))
        names = site_names(len(dims))[::-1]
        above = [(), *((name,) for name in names)]
        sites = {
            name: Site(torch.Size([dim]), constraints.real_vector, parents)
            for name, dim, parents in zip(names, dims, above, strict=False)
        }
        self.space = Space(sites, decoded=names[-1:])

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), event shape ``(sum of dims,)``."""
        below = dict(zip(list(self.space)[1:], self.below, strict=True))

        def site(name: str, earlier: Mapping[str, Tensor]) -> Distribution:
            parents = self.space[name].parents
            return below[name](earlier[parents[0]]) if parents else self.top()

        return Joint(site, self.space)
