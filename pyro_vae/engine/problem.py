"""What is minimised, and how: programs, loss, optimiser, and the arithmetic of a step."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Literal, NamedTuple, TypeAlias

import pyro
import pyro.infer
import torch
from pyro import poutine
from pyro.infer.util import torch_item, zero_grads
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae.engine.averages import averages_stay, unconstrained
from pyro_vae.engine.graph import values_stay_tensors
from pyro_vae.engine.losses import evaluate, in_python
from pyro_vae.engine.optim import Optim
from pyro_vae.engine.unregistered import Called
from pyro_vae.objectives import Objective

__all__ = [
    "Backward",
    "Evaluated",
    "Loss",
    "OnNonFinite",
    "Precision",
    "Problem",
    "Program",
    "clipping",
    "is_finite",
]

Program: TypeAlias = Callable[..., Any]
Precision: TypeAlias = Literal["float32", "tf32", "bfloat16"]
OnNonFinite: TypeAlias = Literal["ignore", "raise", "skip"]
Loss: TypeAlias = float | tuple[float, ...]  # wake-sleep has one for each of its programs


def is_finite(loss: Loss) -> bool:
    """Tells whether a loss, or each of several, is finite."""
    return all(map(math.isfinite, loss)) if isinstance(loss, tuple) else math.isfinite(loss)


@dataclass(frozen=True)
class Backward:
    """The ``loss_and_grads`` of a loss that is a function of model, guide and their arguments."""

    loss: Program

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        loss = self.loss(*args, **kwargs)
        if getattr(loss, "requires_grad", False):
            loss.backward(retain_graph=True)  # as stock SVI: a program may hold on to its graph
        return loss


class Evaluated(NamedTuple):
    """A loss as a graph needs it, in tensors.

    Attributes:
        loss: Shape ``()``, or ``(k,)`` where it is k numbers.
        surrogate: What has its gradients, shape ``()``. A surrogate minus its own value, which Pyro
            adds to a loss, is NaN where it is infinite.
        moved: Tensors that a step moves besides the parameters, and their values after it.
    """

    loss: Tensor
    surrogate: Tensor
    moved: list[tuple[Tensor, Tensor]]


def _differentiated(loss_and_grads: Program) -> pyro.infer.ELBO | Program | None:
    """Returns the loss whose gradients a function computes, None where that is unknown."""
    if isinstance(loss_and_grads, Backward):
        return loss_and_grads.loss
    owner = getattr(loss_and_grads, "__self__", None)
    function = getattr(loss_and_grads, "__func__", None)
    if isinstance(owner, pyro.infer.ELBO) and function is type(owner).loss_and_grads:
        return owner
    return None


def _identity(part: Any) -> Any:
    # A method is made anew each time that it is asked for.
    return (id(part.__self__), id(part.__func__)) if isinstance(part, MethodType) else id(part)


@dataclass
class Problem:
    """What every engine takes steps of.

    Attributes:
        model: A Pyro program.
        guide: A Pyro program with the same arguments.
        loss_and_grads: Returns the loss of both, and leaves gradients with the parameters.
        optim: What moves the parameters.
        clip_norm: Norm to which longer gradients, of all parameters together, are scaled down.
        on_nonfinite: Whether a step whose loss is not finite is taken all the same, as stock SVI
            does, ends the run, or is left out.
        precision: Of matrix products.
        validate: Whether what distributions check is checked at each step of a graph, too.
        rows_at_once: Rows of which loss and gradients are computed at a time, and added up to those
            of a step; None takes all rows at once.
        device: Where the tensors of the last call were.
        loss: What ``loss_and_grads`` differentiates: an ELBO, or a function of model, guide and
            their arguments; None if it is a function of its own.
        serial: A number for these programs, this loss and this optimiser, which are no others'.
    """

    model: Program
    guide: Program
    loss_and_grads: Program
    optim: Optim
    clip_norm: float | None = None
    on_nonfinite: OnNonFinite = "raise"
    precision: Precision = "float32"
    validate: bool = True
    rows_at_once: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    loss: pyro.infer.ELBO | Program | None = field(init=False)
    serial: int = field(init=False)

    def __post_init__(self) -> None:
        # Each with what it is of: an identity is one while the object lives.
        self._serials: dict[Any, tuple[int, Any]] = {}
        self._trains = False
        self.exchange()

    def exchange(self, **parts: Any) -> None:
        """Takes another program, loss or optimiser, by the name of the attribute."""
        self.optim.release()
        for name, part in parts.items():
            setattr(self, name, part)
        self.loss = _differentiated(self.loss_and_grads)
        self.settle(self.device)
        now = self.model, self.guide, self.loss_and_grads, self.optim
        number = len(self._serials)
        self.serial, _ = self._serials.setdefault(tuple(map(_identity, now)), (number, now))
        self._trains = False

    def settle(self, device: torch.device) -> bool:
        """Takes note of where the tensors are; returns whether the loss had its own elsewhere.

        One on the CPU alone would keep a graph from being a CUDA graph, and make each step wait.
        """
        self.device = device
        if not isinstance(self.loss, Objective) or self.loss.step.device == device:
            return False
        self.loss.to(device)
        return True

    def gradients(self, args: Any, kwargs: Any) -> tuple[Loss, list[Tensor]]:
        """Returns the loss and the parameters met, whose gradients it leaves with them.

        Raises:
            ValueError: If no parameter would be trained, as none of a module's is registered.
        """
        if self._trains or not torch.is_grad_enabled():
            return self._gradients(args, kwargs)
        with Called() as called:
            loss, params = self._gradients(args, kwargs)
        self._trains = any(param.requires_grad for param in params)
        if not self._trains and self.loss is not None:
            called.check()
        return loss, params

    def _gradients(self, args: Any, kwargs: Any) -> tuple[Loss, list[Tensor]]:
        function = in_python(self.loss_and_grads)
        with poutine.trace(param_only=True) as met, self._reduced(), averages_stay() as moved:
            first, *others = self.portions(args, kwargs)
            loss = function(self.model, self.guide, *first[0], **first[1])
            for args, kwargs in others:
                if isinstance(self.loss, Objective):
                    self.loss.step.sub_(1)  # all of it is one step
                loss = _sum(loss, function(self.model, self.guide, *args, **kwargs))
        sites = met.trace.nodes.values()
        params = list({unconstrained(site): None for site in sites})
        value: Loss
        if isinstance(loss, tuple):
            value = tuple(float(torch_item(each)) for each in loss)
        else:
            value = float(torch_item(loss))
        if self.on_nonfinite == "ignore" or is_finite(value):
            for average, now in moved:
                average.data.copy_(now)
        return value, params

    def portions(self, args: Any, kwargs: Any) -> Sequence[tuple[Any, Any]]:
        """Returns the arguments of a step, a few rows of each tensor at a time."""
        leaves, spec = tree_flatten((args, kwargs))
        rows = max((len(leaf) for leaf in leaves if _has_rows(leaf)), default=0)
        if self.rows_at_once is None or rows <= self.rows_at_once:
            return [(args, kwargs)]
        pieces = [
            leaf.split(self.rows_at_once) if _has_rows(leaf) else itertools.repeat(leaf)
            for leaf in leaves
        ]
        count = math.ceil(rows / self.rows_at_once)
        each = zip(range(count), *pieces, strict=False)  # what has no rows is repeated for ever
        return [tree_unflatten(found, spec) for _, *found in each]

    def differentiable_loss(self, args: Any, kwargs: Any) -> Evaluated:
        """Returns the loss as a graph needs it, and moves nothing."""
        assert self.loss is not None
        with values_stay_tensors(), self._reduced(), averages_stay() as moved:
            if isinstance(self.loss, Objective):
                surrogate = self.loss.differentiable_loss(self.model, self.guide, *args, **kwargs)
                loss = surrogate.detach()
            else:
                function = self.loss_and_grads
                loss, surrogate = evaluate(
                    function, self.model, self.guide, args, kwargs, self.device
                )
        return Evaluated(loss, surrogate, moved)

    def judge(self, loss: Loss, params: Sequence[Tensor]) -> Loss:
        """Does what there is to do before an update, and returns the loss.

        Gradients that are too long are scaled down. Where steps depend on that, the loss is NaN for
        the sake of a gradient that is not finite; a step that is not taken does not count.
        """
        if self.clip_norm is not None and is_finite(loss):
            grads = [param.grad for param in params if param.grad is not None]
            norm, scale = clipping(grads, self.clip_norm)
            for grad in grads:
                grad.mul_(scale)
            if self.on_nonfinite != "ignore" and not bool(norm.isfinite()):
                loss = math.nan
        if not self._takes(loss) and params and isinstance(self.loss, Objective):
            self.loss.step.sub_(1)  # counted with the gradients
        return loss

    def _takes(self, loss: Loss) -> bool:
        return self.on_nonfinite == "ignore" or is_finite(loss)

    def step(self, loss: Loss, params: list[Tensor]) -> Loss:
        """Takes a step, if the loss is as it has to be, and returns the loss, see :meth:`judge`."""
        loss = self.judge(loss, params)
        # Stock SVI leaves zeros as gradients, with which momentum goes on; a graph leaves none.
        idle = [p for p in params if p.grad is None and p.requires_grad and self.optim.has_moved(p)]
        for param in idle:
            param.grad = torch.zeros_like(param)
        if self._takes(loss):
            self.optim.step(params)
        for param in idle:
            param.grad = None
        zero_grads(params)
        return loss

    @contextmanager
    def _reduced(self) -> Iterator[None]:
        if self.precision != "bfloat16":
            yield  # whatever autocast there is around the step is left as it is
            return
        with torch.autocast(self.device.type, torch.bfloat16):
            yield


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, tuple):
        return tuple(map(operator.add, one, other))
    return one + other


def clipping(grads: Sequence[Tensor], largest: float) -> tuple[Tensor, Tensor]:
    """Returns the norm of all gradients together, and what to multiply each with."""
    norm = torch.nn.utils.get_total_norm(grads, foreach=False)
    return norm, (largest / (norm + 1e-6)).clamp_max(1.0)
