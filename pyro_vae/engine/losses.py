"""Losses of Pyro's in a graph: which can be, and what they differentiate.

A loss is run as it is, by its own ``loss_and_grads``, so that a subclass has whatever it overrides.
What it differentiates is kept meanwhile, to be differentiated with the rest of the graph.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, MethodType
from typing import Any

import pyro
import pyro.infer
import pyro.ops.jit
import torch
from opt_einsum.sharing import currently_sharing
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_vae.engine.errors import NotCapturable
from pyro_vae.objectives import Objective

__all__ = ["evaluate", "in_python", "preparation", "refusal"]

Function = Callable[..., Any]

# Those that compile themselves at their first call, and what they are otherwise.
_JIT: dict[type, type] = {
    pyro.infer.JitTrace_ELBO: pyro.infer.Trace_ELBO,
    pyro.infer.JitTraceEnum_ELBO: pyro.infer.TraceEnum_ELBO,
    pyro.infer.JitTraceGraph_ELBO: pyro.infer.TraceGraph_ELBO,
}
# Code that looks at gradients, of which it wants to know that there are none.
_TRACERS = ("torch._", "torch.fx", "pyro_vae.engine")
# This one does at every call, and draws random numbers for it.
_EVER_JIT = (*_JIT, pyro.infer.JitTraceMeanField_ELBO)


def refusal(loss: Any) -> str | None:
    """Returns why a loss cannot be part of a graph, or None."""
    name = type(loss).__name__
    if isinstance(loss, _EVER_JIT) and type(loss) not in _JIT:
        return f"loss {name} compiles itself (`torch.jit`): take or extend the class without Jit"
    own = type(loss).loss_and_grads if isinstance(loss, Objective) else None
    if own is not None and own is not Objective.loss_and_grads:
        return f"loss {name} computes gradients its own way; override `differentiable_loss` alone"
    if currently_sharing():
        return "opt_einsum shares intermediates of several steps, which are those of the first"
    return None


def preparation(loss: Any) -> tuple[Any, ...]:
    """Returns what the first evaluations of a loss find out and keep: one that does is a step."""
    loss = getattr(loss, "__self__", loss)
    fields = getattr(loss, "__dict__", {})
    compiled = [v for v in fields.values() if isinstance(v, pyro.ops.jit.CompiledFunction)]
    sizes = [len(each.compiled) for each in compiled]
    return getattr(loss, "max_plate_nesting", None), sorted(fields), sizes


def in_python(loss_and_grads: Function) -> Function:
    """Returns the same function of a loss that has compiled itself, without its compiled code.

    What code does not run, nobody sees.
    """
    loss = getattr(loss_and_grads, "__self__", None)
    return _uncompiled(loss_and_grads) if any(preparation(loss)[2]) else loss_and_grads


def _uncompiled(loss_and_grads: Function) -> Function:
    loss = getattr(loss_and_grads, "__self__", None)
    plain: Any = _JIT.get(type(loss))
    return loss_and_grads if plain is None else MethodType(plain.loss_and_grads, loss)


def evaluate(
    loss_and_grads: Function,
    model: Function,
    guide: Function,
    args: Any,
    kwargs: Any,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Runs what computes a loss and its gradients, inside ``estimators_stay_tensors``.

    Args:
        loss_and_grads: That of an ELBO that :func:`refusal` does not refuse, or of a function.
        model: A Pyro program.
        guide: A Pyro program with the same arguments.
        args: The arguments of both, by position.
        kwargs: The same, by name.
        device: Where the tensors are.

    Returns:
        The loss, shape ``()``, or ``(k,)`` where it is k numbers, and what has its gradients.

    Raises:
        NotCapturable: If it does anything else with gradients.
    """
    try:
        with _kept_for_later() as surrogates:
            value = _uncompiled(loss_and_grads)(model, guide, *args, **kwargs)
    finally:
        left = [p for p in pyro.get_param_store()._params.values() if p.grad is not None]
        for param in left:
            param.grad = None
    if left:
        raise NotCapturable("a program differentiates by itself, with respect to parameters")
    if not surrogates:
        if not str(loss_and_grads.__module__).startswith("pyro."):
            raise NotCapturable("the loss differentiates nothing")
        surrogates.append(torch.zeros((), device=device))  # of what it reaches, nothing is trained
    surrogate = surrogates[0]
    for other in surrogates[1:]:
        surrogate = surrogate + other
    if isinstance(value, tuple):
        return torch.stack([_as_tensor(each, surrogate) for each in value]), surrogate
    return _as_tensor(value, surrogate), surrogate


def _as_tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return like.new_full((), float(value))


@contextmanager
def _kept_for_later() -> Iterator[list[Tensor]]:
    """Keeps what is differentiated, outside the programs, instead of differentiating it.

    Yields:
        The tensors, each of shape ``()``.

    Raises:
        NotCapturable: If gradients are looked at, or asked for in another way.
    """
    kept: list[Tensor] = []
    depth, thread = len(_PYRO_STACK), threading.get_ident()
    backward, functional = Tensor.backward, torch.autograd.backward
    grad = vars(torch._C.TensorBase)["grad"]

    def outside() -> bool:
        """Tells whether the loss itself is running: not a program, nor another thread."""
        return len(_PYRO_STACK) <= depth and threading.get_ident() == thread

    def keep(self: Tensor, gradient: Any = None, *args: Any, **options: Any) -> None:
        if not outside():
            backward(self, gradient, *args, **options)
            return
        if gradient is not None or args[2:] or options.get("inputs") is not None:
            raise NotCapturable("the loss has gradients of some parameters alone")
        kept.append(self)

    def other(*args: Any, **options: Any) -> None:
        if outside():
            raise NotCapturable("the loss calls `torch.autograd.backward`")
        functional(*args, **options)

    def check(frame: FrameType) -> None:
        module = str(frame.f_globals.get("__name__"))
        if outside() and not module.startswith(_TRACERS):
            raise NotCapturable("the loss does something with the gradients of its parameters")

    def look(self: Tensor) -> Any:
        check(sys._getframe(1))
        return grad.__get__(self)

    def write(self: Tensor, value: Any) -> None:
        check(sys._getframe(1))
        grad.__set__(self, value)

    Tensor.backward = keep  # type: ignore[method-assign]
    torch.autograd.backward = other
    Tensor.grad = property(look, write)  # type: ignore[assignment]
    try:
        yield kept
    finally:
        del Tensor.grad
        torch.autograd.backward = functional
        Tensor.backward = backward  # type: ignore[method-assign]
