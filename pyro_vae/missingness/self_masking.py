"""Entries that are observed or not depending on their own values."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.missingness.missingness import Missingness

__all__ = ["SelfMasking"]


class SelfMasking(Missingness):
    r"""Creates a logistic regression, for each entry, of whether it is observed on its own value.

    .. math:: p(s \mid x) = \prod_d \mathrm{Bernoulli}(s_d \mid \sigma(a_d u_d + b_d))

    with u the entry in the units of the likelihood: for real data the standardised one. Income that
    the rich do not report, or a sensor that saturates, is of this kind. The weights a start at 0,
    and their signs are learned: what shows them are the other entries, whose z says that those
    which are missing are larger, or smaller, than those which are not. Of data whose entries are
    independent nothing shows them but the shape of the likelihood, and then they are not to be
    trusted.

    References:
        not-MIWAE: Deep Generative Modelling with Missing not at Random Data
        (Ipsen, Mattei and Frellsen, 2021), https://arxiv.org/abs/2006.12871
        Inference and Missing Data (Rubin, 1976), https://doi.org/10.1093/biomet/63.3.581

    Args:
        event_shape: Shape of one x.

    Example:
        >>> import torch
        >>> missingness = SelfMasking((3,))
        >>> missingness.start(torch.tensor([[True, True, False], [True, False, False]]))
        >>> missingness(torch.zeros(3)).mean.detach()
        tensor([0.8333, 0.5000, 0.1667])
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        self.weight = nn.Parameter(torch.zeros(self.event_shape))
        self.bias = nn.Parameter(torch.zeros(self.event_shape))

    @torch.no_grad()
    def start(self, mask: Tensor) -> None:
        """Sets the weights to 0, and each bias to the logit of the share that is observed.

        Half an observation is added to either side: no share is 0 or 1.
        """
        observed = mask.to(self.bias).sum(0)
        self.bias.copy_((observed + 0.5).log() - (len(mask) - observed + 0.5).log())
        self.weight.zero_()

    def forward(self, x: Tensor) -> Distribution:
        logits = self.weight * x + self.bias
        return dist.Bernoulli(logits=logits).to_event(len(self.event_shape))
