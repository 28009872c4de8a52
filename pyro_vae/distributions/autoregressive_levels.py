"""Levels drawn one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["AutoregressiveLevels"]


class AutoregressiveLevels(TorchDistribution):
    r"""Creates levels 0 to K - 1 one after the other, each given those before it.

    .. math:: p(x) = \prod_t p(x_t \mid x_1, \dots, x_{t - 1})

    Density takes one pass of the network, a draw one step for each entry.

    Args:
        network: From levels ``(N, L)`` and a context ``(N, C)`` to the logits of all entries,
            ``(N, L, K)``; and, by ``network.unroll(context, choose)``, from a rule that chooses
            levels ``(N,)`` by logits ``(N, K)`` to levels ``(N, L)``.
        context: Shape ``(*, C)``.
        event_shape: Of one observation, whose L entries come in the order of its memory.
        levels: Number of levels, K.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        network: Any,
        context: Tensor,
        event_shape: Sequence[int],
        levels: int,
        validate_args: Any = None,
    ) -> None:
        self.network, self.context, self.levels = network, context, levels
        shape = context.shape[:-1], torch.Size(event_shape)
        super().__init__(*shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Levels 0 to K - 1."""
        levels = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(levels, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The greedy sequence, for the mean has no closed form: the likeliest level at each step.

        Levels of a sequence are names more often than numbers, of which there is no mean.
        """
        return self._unroll(torch.Size(), lambda logits: logits.argmax(-1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> AutoregressiveLevels:
        new = self._get_checked_instance(AutoregressiveLevels, _instance)
        new.network, new.levels = self.network, self.levels
        new.context = self.context.expand((*batch_shape, -1))
        shape = torch.Size(batch_shape), self.event_shape
        super(AutoregressiveLevels, new).__init__(*shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = value.flatten(value.ndim - len(self.event_shape)).long()
        batch = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        value = value.expand((*batch, -1))
        context = self.context.expand((*batch, -1))
        logits = self.network(
            value.reshape(-1, value.shape[-1]), context.reshape(-1, context.shape[-1])
        )
        chosen = logits.log_softmax(-1).gather(-1, value.reshape(*logits.shape[:-1], 1))
        return chosen.sum((-2, -1)).reshape(batch)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        def choose(logits: Tensor) -> Tensor:
            return torch.distributions.Categorical(logits=logits, validate_args=False).sample()

        return self._unroll(torch.Size(sample_shape), choose)

    @torch.no_grad()
    def _unroll(self, sample_shape: torch.Size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        shape = sample_shape + self.batch_shape
        context = self.context.expand((*shape, -1)).reshape(-1, self.context.shape[-1])
        return (
            self.network.unroll(context, choose).to(context.dtype).reshape(shape + self.event_shape)
        )
