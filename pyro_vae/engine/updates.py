"""Optimiser updates as tensor programs: what torch's Adam, AdamW and SGD do, traceable.

State stays in the torch optimiser (moments, step counts, ``param_groups``), so that a captured and
an eager step can follow each other. What changes from step to step (learning rate, bias
corrections) comes in as a row of numbers that the host computes in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

__all__ = ["WIDTH", "Listener", "constants", "has_update", "numbers", "prepare", "update"]

WIDTH = 4  # numbers in a row
_CONSTANTS = {
    Adam: ("betas", "eps", "amsgrad", "maximize", "weight_decay", "decoupled_weight_decay"),
    AdamW: ("betas", "eps", "amsgrad", "maximize", "weight_decay"),
    SGD: ("momentum", "nesterov", "maximize", "weight_decay", "dampening"),
}


class Listener:
    """Creates a hook that only tells its owner of a step, and changes nothing about the update."""

    def __init__(self, hear: Callable[[], None]) -> None:
        self._hear = hear

    def __call__(self, *args: Any) -> None:
        self._hear()


def has_update(optimizer: Optimizer) -> bool:
    """Tells whether the optimiser's update can be part of a graph."""
    hooks = optimizer._optimizer_step_post_hooks or any(
        not isinstance(hook, Listener) for hook in optimizer._optimizer_step_pre_hooks.values()
    )
    return (
        not hooks
        and type(optimizer) in _CONSTANTS
        and not any(
            # With dampening, SGD's first step is unlike the others.
            group.get("differentiable")
            or group.get("dampening")
            or any(map(torch.is_complex, group["params"]))
            for group in optimizer.param_groups
        )
    )


def constants(optimizer: Optimizer) -> tuple[str, ...]:
    """Returns the options that are baked into the graph."""
    return _CONSTANTS[type(optimizer)]


def prepare(optimizer: Optimizer, group: dict[str, Any], param: Tensor) -> list[Tensor]:
    """Creates the parameter's state, as the optimiser itself does at its first step.

    Returns:
        The tensors of it that :func:`update` updates.
    """
    state = optimizer.state[param]
    if isinstance(optimizer, SGD):
        if not group["momentum"]:
            return []
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return [state["momentum_buffer"]]
    names = ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * group["amsgrad"]
    if "step" not in state:
        on_device = group.get("capturable") or group.get("fused")
        state["step"] = torch.zeros((), device=param.device if on_device else "cpu")
        for name in names:
            state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
    return [state[name] for name in names]


def numbers(optimizer: Optimizer, group: dict[str, Any], step: int) -> tuple[float, ...]:
    """Returns the row for optimiser step ``step``, counted from 1."""
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    if isinstance(optimizer, SGD):
        return (lr, decay, 0.0, 0.0)
    beta1, beta2 = map(float, group["betas"])
    decoupled = isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay", False)
    return (
        lr / (1 - beta1**step),
        1 / math.sqrt(1 - beta2**step),
        1 - lr * decay if decoupled else 1.0,
        0.0 if decoupled else decay,
    )


def update(
    optimizer: Optimizer,
    group: dict[str, Any],
    param: Tensor,
    grad: Tensor,
    row: Tensor,
    ok: Tensor,
) -> None:
    """Updates a parameter and its state in place; where ``ok`` is false, leaves them alone."""
    state = optimizer.state[param]
    if group["maximize"]:
        grad = -grad
    if isinstance(optimizer, SGD):
        lr, decay, _, _ = row.unbind()
        grad = grad + decay * param if group["weight_decay"] else grad
        if group["momentum"]:
            buffer = group["momentum"] * state["momentum_buffer"] + grad
            grad = grad + group["momentum"] * buffer if group["nesterov"] else buffer
            _assign(state["momentum_buffer"], buffer, ok)
        _assign(param, param - lr * grad, ok)
        return
    size, root, keep, decay = row.unbind()
    beta1, beta2 = map(float, group["betas"])
    if group["weight_decay"] and not _decoupled(optimizer, group):
        grad = grad + decay * param
    mean = state["exp_avg"] + (1 - beta1) * (grad - state["exp_avg"])
    square = beta2 * state["exp_avg_sq"] + (1 - beta2) * grad * grad
    largest = square
    if group["amsgrad"]:
        largest = torch.maximum(state["max_exp_avg_sq"], square)
        _assign(state["max_exp_avg_sq"], largest, ok)
    kept = keep * param if group["weight_decay"] and _decoupled(optimizer, group) else param
    new = kept - size * mean / (largest.sqrt() * root + group["eps"])
    _assign(state["exp_avg"], mean, ok)
    _assign(state["exp_avg_sq"], square, ok)
    _assign(param, new, ok)


def _decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    return isinstance(optimizer, AdamW) or bool(group.get("decoupled_weight_decay", False))


def _assign(target: Tensor, value: Tensor, ok: Tensor) -> None:
    target.copy_(torch.where(ok, value, target))
