"""Relaxed discrete variables: a handler that only an objective installs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.distributions import (
    ExpRelaxedCategorical,
    GroupedOneHotCategorical,
    JointBernoulli,
    LogitRelaxedBernoulli,
)
from pyro_vae.distributions.space import Mode

__all__ = ["relaxed"]


class relaxed(Messenger):  # noqa: N801 - lower case, as Pyro's handlers are
    """Relaxes one-hot and binary sites of the programs that run inside it.

    Outside it, model and guide are always discrete. See :class:`pyro_vae.guides.GumbelSoftmax` and
    :class:`pyro_vae.guides.RelaxedBernoulli` for what the modes mean.

    Args:
        mode: How to relax.
        temperature: Positive, shape ``()``.
        site: Name of the site, which guide and model share; None relaxes all of them.
    """

    def __init__(self, mode: Mode, temperature: Tensor, site: str | None = None) -> None:
        super().__init__()
        self.mode = mode
        self.temperature = temperature
        self.site = site

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        kind = _KINDS.get(type(fn))
        if kind is None or msg["is_observed"] or self.site not in (None, msg["name"]):
            return
        msg["infer"]["relaxed"] = self.mode
        d = kind.relaxed(self.temperature, logits=fn.base_dist.logits).to_event(1)
        if self.mode == "concrete":
            msg["fn"] = d
            # Traces record the value in log space, where its density is finite; once all handlers
            # have run, the program continues with the point of the simplex.
            msg["continuation"] = kind.to_simplex
        elif msg["value"] is not None:
            pass  # the model, replayed: the guide has drawn already
        elif self.mode == "enumerate":
            msg["value"] = fn.enumerate_support(expand=False)
        else:
            soft = kind.soft(d.rsample())
            if self.mode == "straight-through":
                soft = kind.hard(soft.detach()) + (soft - soft.detach())
            msg["value"] = soft


@dataclass(frozen=True)
class _Kind:
    """How one kind of discrete variable is relaxed.

    Attributes:
        relaxed: The relaxed distribution, in log space.
        soft: From log space to the space of the states, and between them.
        hard: The state nearest to a relaxed point.
    """

    relaxed: Any
    soft: Callable[[Tensor], Tensor]
    hard: Callable[[Tensor], Tensor]

    def to_simplex(self, msg: dict[str, Any]) -> None:
        msg["value"] = self.soft(msg["value"])


def _nearest_corner(soft: Tensor) -> Tensor:
    highest = soft.argmax(-1, keepdim=True)
    return soft.new_zeros(()).expand_as(soft).scatter(-1, highest, 1.0)


def _nearest_bits(soft: Tensor) -> Tensor:
    return (soft > 0.5).to(soft.dtype)


_KINDS = {
    GroupedOneHotCategorical: _Kind(ExpRelaxedCategorical, torch.exp, _nearest_corner),
    JointBernoulli: _Kind(LogitRelaxedBernoulli, torch.sigmoid, _nearest_bits),
}
