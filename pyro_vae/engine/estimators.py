"""Pyro's estimators in tensors: what they read back stays in the graph.

A number that an estimator makes of a tensor is that tensor, and where it leaves out entries for
their values, it puts zeros in their place.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro.infer
import pyro.infer.traceenum_elbo
import pyro.infer.util
import pyro.ops.jit
import pyro.util
import torch
from torch import Tensor

from pyro_vae.engine.errors import NotCapturable, ReadsBack
from pyro_vae.engine.number import Number

__all__ = ["estimators_stay_tensors"]

# Modules of estimators, in which `.item()` makes a number of a loss, and nothing else.
_ESTIMATORS = frozenset(
    f"pyro.infer.{name}"
    for name in (
        *("trace_elbo", "trace_mean_field_elbo", "traceenum_elbo", "tracegraph_elbo", "rws"),
        *("tracetmc_elbo", "renyi_elbo", "trace_mmd", "trace_tail_adaptive_elbo"),
    )
)
_TORCH_ITEM = pyro.infer.util.torch_item.__code__
_EXPECTATION = pyro.infer.util.Dice.compute_expectation.__code__


@contextmanager
def estimators_stay_tensors() -> Iterator[None]:
    """Inside it, Pyro's own estimators read nothing back."""
    item, everything, select = Tensor.item, Tensor.all, Tensor.masked_select
    warn, common = pyro.util.warn_if_nan, pyro.infer.traceenum_elbo._get_common_scale
    draw = torch.distributions.OneHotCategorical.sample
    thread = threading.get_ident()  # what others compute is left alone

    def kept(self: Tensor) -> Any:
        if threading.get_ident() != thread:
            return item(self)
        frame = sys._getframe(1)
        code, module = frame.f_code, frame.f_globals.get("__name__")
        if code is _TORCH_ITEM and frame.f_back is not None:
            module = frame.f_back.f_globals.get("__name__")
            if str(module).startswith("pyro."):
                return self.detach()
        return self.detach() if module in _ESTIMATORS else item(self)

    def all_(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        # An expectation leaves out states without probability, unless there are none.
        if sys._getframe(1).f_code is _EXPECTATION and threading.get_ident() == thread:
            return False
        return everything(self, *args, **kwargs)

    def selected(self: Tensor, mask: Tensor) -> Tensor:
        if sys._getframe(1).f_code is _EXPECTATION and threading.get_ident() == thread:
            return torch.where(mask, self, self.new_zeros(()))
        return select(self, mask)

    def compiled(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotCapturable("it compiles itself (`pyro.ops.jit`)")

    holders = [
        module
        for module in list(sys.modules.values())
        if getattr(module, "__dict__", {}).get("warn_if_nan") is warn
    ]
    jit = pyro.ops.jit.CompiledFunction
    call = jit.__call__
    try:
        Tensor.item, Tensor.all = kept, all_  # type: ignore[method-assign,assignment]
        Tensor.masked_select = selected  # type: ignore[method-assign,assignment]
        jit.__call__ = compiled
        torch.distributions.OneHotCategorical.sample = _one_hot  # type: ignore[method-assign]
        pyro.infer.traceenum_elbo._get_common_scale = _common_scale
        for module in holders:
            vars(module)["warn_if_nan"] = _warn_of_nothing
        yield
    finally:
        for module in holders:
            vars(module)["warn_if_nan"] = warn
        pyro.infer.traceenum_elbo._get_common_scale = common
        jit.__call__ = call
        torch.distributions.OneHotCategorical.sample = draw  # type: ignore[method-assign]
        for name in ("item", "all", "masked_select"):
            delattr(Tensor, name)  # they are inherited


def _warn_of_nothing(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


def _one_hot(self: Any, sample_shape: Sequence[int] = ()) -> Tensor:
    """Draws as torch does, whose ``one_hot`` looks at the largest value."""
    index = self._categorical.sample(torch.Size(sample_shape))
    probs = self._categorical.probs
    zeros = probs.new_zeros(index.shape + probs.shape[-1:])
    return zeros.scatter(-1, index.unsqueeze(-1), 1.0)


def _common_scale(scales: list[Any]) -> Any:
    """Checks, as Pyro does by their values, that scales of enumerated sites are one and the same.

    Raises:
        ReadsBack: If that is to be seen by the values of tensors.
        ValueError: If they are not.
    """
    first = scales[0]
    if any(isinstance(scale, Tensor) for scale in scales):
        if not all(_is_same(scale, first) for scale in scales):
            what = "enumerated sites have tensors as scales, whose values Pyro compares"
            raise ReadsBack(f"it reads a value back ({what})")
    elif len(set(map(float, scales))) > 1:
        raise ValueError("expected all enumerated sites to have one scale")
    return first


def _is_same(scale: Any, first: Any) -> bool:
    if isinstance(scale, Number) and isinstance(first, Number):
        return scale.plain is first.plain
    return scale is first
