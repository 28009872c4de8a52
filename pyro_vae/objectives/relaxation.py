"""Relaxed discrete variables: a handler that only an objective installs."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.distributions import ExpRelaxedCategorical, GroupedOneHotCategorical
from pyro_vae.guides.gumbel_softmax import Mode

__all__ = ["relaxed"]


class relaxed(Messenger):  # noqa: N801 - lower case, as Pyro's handlers are
    """Relaxes the categorical sites of the programs that run inside it.

    Outside it, model and guide are always categorical. See
    :class:`pyro_vae.guides.GumbelSoftmax` for what the modes mean.

    Args:
        mode: How to relax.
        temperature: Positive, shape ``()``.
    """

    def __init__(self, mode: Mode, temperature: Tensor) -> None:
        super().__init__()
        self.mode = mode
        self.temperature = temperature

    def _concrete(self, fn: GroupedOneHotCategorical) -> Any:
        return ExpRelaxedCategorical(self.temperature, logits=fn.base_dist.logits).to_event(1)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        if not isinstance(fn, GroupedOneHotCategorical) or msg["is_observed"]:
            return
        msg["infer"]["relaxed"] = self.mode
        if self.mode == "concrete":
            msg["fn"] = self._concrete(fn)
            # Traces record the value in log space, where its density is finite; after all handlers
            # have seen it, the program goes on with the point on the simplex.
            msg["continuation"] = _to_simplex
        elif msg["value"] is not None:
            pass  # the model, replayed: the guide has drawn already
        elif self.mode == "enumerate":
            msg["value"] = fn.enumerate_support(expand=False)
        else:
            soft = self._concrete(fn).rsample().exp()
            if self.mode == "straight-through":
                hard = soft.detach().argmax(-1, keepdim=True)
                hard = soft.new_zeros(()).expand_as(soft).scatter(-1, hard, 1.0)
                soft = hard + (soft - soft.detach())
            msg["value"] = soft


def _to_simplex(msg: dict[str, Any]) -> None:
    msg["value"] = msg["value"].exp()
