"""Several one-hot categorical variables that can be enumerated jointly."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Independent
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.distributions.enumeration import MAX_ENUMERATED

__all__ = ["GroupedOneHotCategorical", "labelled"]

_IMPOSSIBLE = 1e30  # nats below certainty: the probability underflows to exactly 0


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

    @property
    def num_states(self) -> int:
        """How many joint states there are."""
        groups, classes = self.event_shape
        return int(classes**groups)

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
        if self.num_states > MAX_ENUMERATED:
            raise expected(
                "groups", f"at most {MAX_ENUMERATED} joint states", f"{classes}**{groups}"
            )
        logits = self.base_dist.logits
        axis = torch.arange(classes, device=logits.device)
        states = torch.cartesian_prod(*[axis] * groups).reshape(-1, groups)
        # Unlike `one_hot`, this reads no value back, so that a step can be captured.
        one_hot = torch.eye(classes, dtype=logits.dtype, device=logits.device)[states]
        batch = self.batch_shape if expand else (1,) * len(self.batch_shape)
        view = one_hot.reshape(-1, *(1,) * len(batch), groups, classes)
        return view.expand(-1, *batch, -1, -1)


def labelled(d: GroupedOneHotCategorical, labels: Tensor) -> tuple[Any, Tensor]:
    """Returns a categorical variable conditioned on its value where that is known.

    Args:
        d: Of one group, batch shape ``(B,)``.
        labels: The class, shape ``(B,)``; negative where it is not known.

    Returns:
        The distribution, a point mass where the class is known, and the log-probability of the
        known class under ``d``, 0 where it is not known, shape ``(B,)``.

    Example:
        >>> from pyro.distributions import OneHotCategorical
        >>> d = GroupedOneHotCategorical(OneHotCategorical(logits=torch.zeros(2, 1, 4)), 1)
        >>> known, log_prob = labelled(d, torch.tensor([3, -1]))
        >>> known.mean.squeeze(1).tolist(), (4 * log_prob.exp()).tolist()
        ([[0.0, 0.0, 0.0, 1.0], [0.25, 0.25, 0.25, 0.25]], [1.0, 4.0])
    """
    logits = d.base_dist.logits
    known, index = labels >= 0, labels.clamp_min(0)
    log_prob = logits.squeeze(-2).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    corner = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)[index]
    # Finite, so that zero times it is zero, not NaN, in a divergence and its gradient.
    certain = (corner - 1) * _IMPOSSIBLE
    logits = torch.where(known[:, None, None], certain.unsqueeze(-2), logits)
    point = GroupedOneHotCategorical(dist.OneHotCategorical(logits=logits), 1)
    return point, torch.where(known, log_prob, 0.0)
