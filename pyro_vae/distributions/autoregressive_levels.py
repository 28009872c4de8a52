"""Levels drawn one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["AutoregressiveLevels", "ended"]


def ended(x: Tensor, end: int | None) -> Tensor:
    """Returns which entries of sequences ``(*, L)`` follow an end, and count for nothing.

    Args:
        x: Levels.
        end: The level that ends a sequence; None if none does.

    Example:
        >>> ended(torch.tensor([[3, 0, 0, 2]]), 0)
        tensor([[False, False,  True,  True]])
    """
    if end is None:
        return torch.zeros_like(x, dtype=torch.bool)
    ends = (x == end).long()
    return ends.cumsum(-1) > ends


class AutoregressiveLevels(TorchDistribution):
    r"""Creates levels 0 to K - 1 one after the other, each given those before it.

    .. math:: p(x) = \prod_t p(x_t \mid x_1, \dots, x_{t - 1})

    Density takes one pass of the network, a draw one step for each entry. With an ``end``, the
    product is over the entries up to the first that has this level, and those after it, which a
    draw gives this level, too, are nothing that the density looks at.

    Args:
        network: From levels ``(N, L)`` and a context ``(N, C)`` to the logits of all entries,
            ``(N, L, K)``; and, by ``network.unroll(context, choose, stop)``, from a rule that
            chooses levels ``(N,)`` by logits ``(N, K)``, until another says to stop, to levels
            ``(N, L)`` or as many as were chosen.
        context: Shape ``(*, C)``.
        event_shape: Of one observation, whose L entries come in the order of its memory.
        levels: Number of levels, K.
        end: The level that ends a sequence; None if all have L entries.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        network: Any,
        context: Tensor,
        event_shape: Sequence[int],
        levels: int,
        end: int | None = None,
        validate_args: Any = None,
    ) -> None:
        self.network, self.context, self.levels, self.end = network, context, levels, end
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
        new.network, new.levels, new.end = self.network, self.levels, self.end
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
        value = value.reshape(logits.shape[:-1])
        chosen = logits.log_softmax(-1).gather(-1, value[..., None]).squeeze(-1)
        if self.end is not None:
            chosen = chosen.masked_fill(ended(value, self.end), 0.0)
        return chosen.sum(-1).reshape(batch)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        def choose(logits: Tensor) -> Tensor:
            return torch.distributions.Categorical(logits=logits, validate_args=False).sample()

        return self._unroll(torch.Size(sample_shape), choose)

    @torch.no_grad()
    def _unroll(self, sample_shape: torch.Size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        shape = sample_shape + self.batch_shape
        context = self.context.expand((*shape, -1)).reshape(-1, self.context.shape[-1])
        over = torch.zeros(len(context), dtype=torch.bool, device=context.device)

        def next_level(logits: Tensor) -> Tensor:
            level = choose(logits)
            if self.end is not None:
                level = level.masked_fill(over, self.end)
                over.logical_or_(level == self.end)
            return level

        def stop() -> bool:
            return self.end is not None and bool(over.all())

        chosen = self.network.unroll(context, next_level, stop).to(context.dtype)
        lacking = self.event_shape.numel() - chosen.shape[-1]
        if lacking > 0:
            chosen = torch.cat([chosen, chosen.new_full((len(chosen), lacking), self.end)], -1)
        return chosen.reshape(shape + self.event_shape)
