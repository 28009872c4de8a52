"""Several binary variables that can be enumerated jointly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyro.distributions import Independent
from torch import Tensor
from torch.distributions.kl import register_kl

from pyro_vae._errors import expected
from pyro_vae.distributions.enumeration import MAX_ENUMERATED

__all__ = ["JointBernoulli"]


class JointBernoulli(Independent):
    """Creates independent binary variables, enumerable jointly, up to ``MAX_ENUMERATED`` states.

    Args:
        base_distribution: Bernoulli variables of batch shape ``(*, dim)``.
        reinterpreted_batch_ndims: Always 1, the dimension of the variables.

    Example:
        >>> from pyro.distributions import Bernoulli
        >>> JointBernoulli(Bernoulli(logits=torch.zeros(3)), 1).enumerate_support().shape
        torch.Size([8, 3])
    """

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the joint states can be listed: always."""
        return True

    @property
    def num_states(self) -> int:
        """How many joint states there are."""
        return int(2 ** self.event_shape[0])

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Lists the joint states.

        Args:
            expand: Whether to repeat them over the batch shape.

        Returns:
            States, shape ``(2 ** dim, *batch_shape, dim)``, with ones in place of the batch shape
            if not expanded.

        Raises:
            ValueError: If there are more than ``MAX_ENUMERATED`` of them.
        """
        (dim,) = self.event_shape
        if self.num_states > MAX_ENUMERATED:
            raise expected("dim", f"at most {MAX_ENUMERATED} joint states", f"2**{dim}")
        logits = self.base_dist.logits
        axis = torch.arange(2, dtype=logits.dtype, device=logits.device)
        states = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
        batch = self.batch_shape if expand else (1,) * len(self.batch_shape)
        return states.reshape(-1, *(1,) * len(batch), dim).expand(-1, *batch, -1)


@register_kl(JointBernoulli, JointBernoulli)
def _kl_joint_bernoulli(p: JointBernoulli, q: JointBernoulli) -> Tensor:
    """The divergence of binary variables; torch's own wants batch shapes that are equal."""
    ours, theirs = p.base_dist.logits, q.base_dist.logits
    ones = ours.sigmoid() * (F.logsigmoid(ours) - F.logsigmoid(theirs))
    zeros = (-ours).sigmoid() * (F.logsigmoid(-ours) - F.logsigmoid(-theirs))
    return (ones + zeros).sum(-1)
