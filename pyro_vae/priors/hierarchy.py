"""Several stochastic layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._errors import expected
from pyro_vae.joint import Joint, NormalGiven, join_sites, site_names
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
        >>> list(prior.sites), prior.event_shape, prior.decoded_shape
        (['z2', 'z1'], torch.Size([12]), torch.Size([8]))
    """

    support = constraints.real_vector
    named_sites = True

    def __init__(self, dims: Sequence[int], hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        if len(dims) < 2 or any(dim < 1 for dim in dims):
            raise expected("dims", "two or more positive sizes", dims)
        if any(width < 1 for width in hidden):
            raise expected("hidden", "positive widths", hidden)
        self.top = Normal(dims[0])
        self.below = nn.ModuleList(NormalGiven(above, dim, hidden) for above, dim in pairwise(dims))
        names = site_names(len(dims))[::-1]
        self._shapes = {name: torch.Size([dim]) for name, dim in zip(names, dims, strict=True)}
        self.event_shape = torch.Size([sum(dims)])
        self._sites = {name: Normal(shape[0]) for name, shape in self._shapes.items()}

    @property
    def sites(self) -> Mapping[str, Prior]:
        """The layers by name, each as the space it lives on."""
        return self._sites

    @property
    def decoded_shape(self) -> torch.Size:
        return self._shapes["z1"]

    def decoded(self, z: Tensor) -> Tensor:
        return z[..., -self._shapes["z1"][0] :]

    def site(self, name: str, earlier: Mapping[str, Tensor], cond: Tensor | None = None) -> Any:
        names = list(self._shapes)
        index = names.index(name)
        return self.top() if index == 0 else self.below[index - 1](earlier[names[index - 1]])

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        return join_sites(draws, self._shapes)

    def forward(self) -> Any:
        """Returns p(z), event shape ``(sum of dims,)``."""
        return Joint(self.site, self._shapes, self.support)
