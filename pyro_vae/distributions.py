"""The few distributions and transforms that Pyro and PyTorch do not have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyro.distributions import Independent
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import relaxed_categorical

from pyro_vae._errors import expected

__all__ = [
    "MAX_ENUMERATED",
    "SCALE_FLOOR",
    "ExpRelaxedCategorical",
    "GroupedOneHotCategorical",
    "inverse_positive",
    "positive",
]

SCALE_FLOOR = 1e-4
MAX_ENUMERATED = 2**16


def positive(raw: Tensor) -> Tensor:
    """Maps real numbers to positive ones: ``softplus(raw) + 1e-4``."""
    return F.softplus(raw) + SCALE_FLOOR


def inverse_positive(value: Tensor) -> Tensor:
    """Inverts :func:`positive`; values at or below its floor are taken just above it."""
    above = (value - SCALE_FLOOR).clamp_min(SCALE_FLOOR)
    return above + torch.log(-torch.expm1(-above))


class GroupedOneHotCategorical(Independent):
    """Creates independent one-hot categorical variables, enumerable jointly.

    ``Independent`` refuses to enumerate a product of variables; this one enumerates all
    ``classes ** groups`` joint states, up to ``MAX_ENUMERATED`` of them.

    Args:
        base_distribution: One-hot categoricals of batch shape ``(*, groups)``.
        reinterpreted_batch_ndims: Always 1, the dimension of the groups.

    Example:
        >>> from pyro.distributions import OneHotCategorical
        >>> q = GroupedOneHotCategorical(OneHotCategorical(logits=torch.zeros(3, 2)), 1)
        >>> q.event_shape, q.enumerate_support().shape
        (torch.Size([3, 2]), torch.Size([8, 3, 2]))
    """

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the joint states can be listed: always."""
        return True

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Lists the joint states.

        Args:
            expand: Whether to repeat them over the batch shape.

        Returns:
            One-hot states, shape ``(classes ** groups, *batch_shape, groups, classes)``, with
            ones in place of the batch shape if not expanded.

        Raises:
            ValueError: If there are more than ``MAX_ENUMERATED`` of them.
        """
        groups, classes = self.event_shape
        if classes**groups > MAX_ENUMERATED:
            raise expected(
                "groups", f"at most {MAX_ENUMERATED} joint states", f"{classes}**{groups}"
            )
        logits = self.base_dist.logits
        axis = torch.arange(classes, device=logits.device)
        states = torch.cartesian_prod(*[axis] * groups).reshape(-1, groups)
        one_hot = F.one_hot(states, classes).to(logits.dtype)
        batch = self.batch_shape if expand else (1,) * len(self.batch_shape)
        view = one_hot.reshape(-1, *(1,) * len(batch), groups, classes)
        return view.expand(-1, *batch, -1, -1)


class ExpRelaxedCategorical(relaxed_categorical.ExpRelaxedCategorical, TorchDistributionMixin):
    """Creates a Concrete variable in log space, where its density stays finite.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables
        (Maddison et al., 2017), https://arxiv.org/abs/1611.00712, appendix C.3

    Args:
        temperature: Positive, shape ``()``.
        logits: Shape ``(*, classes)``.

    Example:
        >>> y = ExpRelaxedCategorical(torch.tensor(0.5), logits=torch.zeros(3)).rsample()
        >>> bool(torch.isclose(y.exp().sum(), torch.tensor(1.0)))
        True
    """
