"""CompiledSVI: a Pyro program captured once, run as one compiled graph."""

from __future__ import annotations

import inspect
import logging
import math
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyro
import pyro.infer
import pyro.optim
import torch
from pyro import poutine
from pyro.infer.util import zero_grads
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, get_default_dtype, is_grad_enabled, is_inference_mode_enabled
from torch._C import _is_any_autocast_enabled
from torch.optim import Optimizer
from torch.utils import _device
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae import _updates
from pyro_vae._capture import (
    Graph,
    NotCapturable,
    Reach,
    ReadsBack,
    layout,
    preserved,
    values_stay_tensors,
)
from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.objectives import Objective

__all__ = ["CompiledSVI", "NonFinite", "Position"]

log = logging.getLogger("pyro_vae")
Program = Callable[..., Any]
# From the tensors of a call and the number of a step in it, the arguments of the programs.
Batch = Callable[[Sequence[Tensor], int], tuple[tuple[Any, ...], dict[str, Any]]]
Engine = Literal["inductor", "cuda-graph", "eager"]
_STOCK = (pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO)
_TRIES = 20  # draws with which to find out why a loss was not finite
_COMPILE_SECONDS = 50.0  # two small graphs (full and short batch) on one core, nothing cached


class NonFinite(FloatingPointError):
    """A loss that is not finite, and the site, parameter or number that is to blame.

    Attributes:
        step: The step that was not taken.
        batch: What the programs were called with.
        random: State of torch's generator with which it is so; None if it was not so again.
        rows: Of the data, those in the batch; None for a step that was given its batch.
    """

    def __init__(self, message: str, step: int, batch: Any, random: Tensor | None) -> None:
        super().__init__(message)
        self.step = step
        self.batch = batch
        self.random = random
        self.rows: Tensor | None = None


@dataclass
class Position:
    """Where a pass over data is.

    Attributes:
        order: The rows, as they are taken, shape ``(N,)``.
        start: How many have been taken.
        losses: Of the steps so far, in pieces.
    """

    order: Tensor
    start: int = 0
    losses: list[Tensor] = field(default_factory=list)


@dataclass
class _Slot:
    """A parameter, where its optimiser lives, and how many updates it has had."""

    param: Tensor
    optimizer: Optimizer
    group: dict[str, Any]
    step: int = 0

    def option(self, name: str) -> Any:
        return self.group.get(name)


# Which of several has taken over the step counts of an optimiser.
_holders: weakref.WeakKeyDictionary[Optimizer, _Optim] = weakref.WeakKeyDictionary()


def _steps_by_gradients(made: Any) -> Optimizer:
    """Refuses what is no optimiser, and one that evaluates the loss itself, as L-BFGS does."""
    if not isinstance(made, Optimizer):
        raise expected("optim", "a callable that returns a torch optimiser", made)
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        what = "an optimiser that steps by gradients alone, without a closure"
        raise expected("optim", what, type(made).__name__)
    return made


class _Optim:
    """The optimiser, whether Pyro's (one torch optimiser a parameter) or a callable."""

    def __init__(self, optim: Any) -> None:
        self._pyro = optim if isinstance(optim, pyro.optim.PyroOptim) else None
        self._make = optim
        self._torch: Optimizer | None = None
        self._slots: dict[Tensor, _Slot] = {}
        self._waiting: dict[str, Any] | None = None
        self._scaled: float | None = None
        self._held = False

    def adopt(self, params: Iterable[Tensor]) -> None:
        """Creates the optimisers of parameters that are new."""
        new = [param for param in params if param not in self._slots]
        if not new:
            return
        self.release()  # the new ones are taken over with the others
        if self._pyro is not None:
            for param in new:
                # What PyroOptim does on being called, less the step.
                if param not in self._pyro.optim_objs:
                    made = self._pyro.optim_objs[param] = self._pyro._get_optim(param)
                    self._pyro.grad_clip[param] = self._pyro._get_grad_clip(param)
                    name = pyro.get_param_store().param_name(param)
                    state = self._pyro._state_waiting_to_be_consumed.pop(name, None)
                    if state is not None:
                        made.load_state_dict(state)
                made = self._pyro.optim_objs[param]
                # A scheduler wraps its optimiser.
                optimizer = _steps_by_gradients(getattr(made, "optimizer", made))
                self._listen(optimizer)
                self._slots[param] = _Slot(param, optimizer, optimizer.param_groups[0])
        else:
            if self._torch is None:
                self._torch = _steps_by_gradients(self._make(new))
                self._listen(self._torch)
            else:
                self._torch.add_param_group({"params": new})
            for group in self._torch.param_groups:
                for param in group["params"]:
                    self._slots.setdefault(param, _Slot(param, self._torch, group))
            if self._waiting is not None:
                self._torch.load_state_dict(self._waiting)
                self._waiting = None
        if self._scaled is not None:
            self.scale_lr(self._scaled)

    def _listen(self, optimizer: Optimizer) -> None:
        """Whoever saves or loads the optimiser's state itself finds it, and leaves it, in order."""
        optimizer.register_state_dict_pre_hook(lambda _: self.release())
        optimizer.register_load_state_dict_pre_hook(lambda *_: self.release())
        optimizer.register_load_state_dict_post_hook(self._regroup)

    def _regroup(self, optimizer: Optimizer) -> None:
        # Loading a state replaces the groups of a torch optimiser.
        for group in optimizer.param_groups:
            for param in group["params"]:
                if param in self._slots:
                    self._slots[param].group = group

    def refusal(self, params: Iterable[Tensor]) -> bool:
        """Tells whether the update of some parameter cannot be part of a graph."""
        clipped = self._pyro is not None and any(
            self._pyro.grad_clip.get(param) is not None for param in params
        )
        return clipped or not all(
            _updates.has_update(self._slots[param].optimizer) for param in params
        )

    def has_moved(self, param: Tensor) -> bool:
        """Tells whether it has been updated: with momentum it goes on without a gradient."""
        slot = self._slots.get(param)
        return slot is not None and bool(slot.step or slot.optimizer.state.get(param))

    def slots(self, params: Iterable[Tensor]) -> list[_Slot]:
        return [self._slots[param] for param in params]

    def all_slots(self) -> Iterable[_Slot]:
        return self._slots.values()

    def step(self, params: Sequence[Tensor]) -> None:
        """Takes a step by the optimisers themselves, from ``param.grad``."""
        self.adopt(params)
        self.release()
        if self._pyro is not None:
            self._pyro(params)
        elif self._torch is not None:
            self._torch.step()

    def hold(self) -> None:
        """Takes over the step counts from the optimisers' state."""
        if not self._held:
            for slot in self._slots.values():
                holder = _holders.get(slot.optimizer)
                if holder is not None and holder is not self:
                    holder.release()
                _holders[slot.optimizer] = self
                slot.step = int(slot.optimizer.state.get(slot.param, {}).get("step", 0))
            self._held = True

    def release(self) -> None:
        """Gives the step counts back."""
        if self._held:
            for slot in self._slots.values():
                count = slot.optimizer.state.get(slot.param, {}).get("step")
                if isinstance(count, Tensor):  # a number is that of an optimiser of its own
                    count.fill_(slot.step)
            self._held = False

    def rewind(self, count: int) -> None:
        """Takes back steps that were counted but, the loss not being finite, not taken."""
        for slot in self._slots.values() if self._held else ():
            slot.step -= count

    def scale_lr(self, share: float) -> None:
        self._scaled = share
        for slot in self._slots.values():
            # As torch's schedulers do: what a group started with stays in the optimiser's state.
            slot.group["lr"] = slot.group.setdefault("initial_lr", slot.group["lr"]) * share

    def state_dict(self) -> dict[str, Any]:
        self.release()
        if self._pyro is not None:
            return dict(self._pyro.get_state())
        return self._torch.state_dict() if self._torch is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._held = False
        if self._pyro is not None:
            waiting = dict(state)
            for param, made in self._pyro.optim_objs.items():
                name = pyro.get_param_store().param_name(param)
                if name in waiting:
                    made.load_state_dict(waiting.pop(name))
            self._pyro.set_state(waiting)
        elif self._torch is None:
            self._waiting = state or None
        else:
            self._torch.load_state_dict(state)


class _Call(NamedTuple):
    """The arguments of a step: its tensors, and everything else as a key."""

    key: Any
    tensors: tuple[Tensor, ...]
    batch: Batch
    others: tuple[Any, ...] = ()

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        if not kwargs and all(isinstance(arg, Tensor) for arg in args):
            return cls(tuple(map(layout, args)), args, _positional)
        leaves, spec = tree_flatten((args, kwargs))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        keys = tuple(map(_key, others))

        def rebuild(tensors: Sequence[Tensor], step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            rest = iter(tensors)
            filled = [next(rest) if isinstance(old, Tensor) else old for old in leaves]
            return tree_unflatten(filled, spec)

        return cls((tuple(map(layout, tensors)), keys, str(spec)), tensors, rebuild, others)


def _key(value: Any) -> tuple[type, Any]:
    # `True`, 1 and 1.0 are equal, and not the same to a program.
    return type(value), value if isinstance(value, Hashable) else id(value)


def _positional(tensors: Sequence[Tensor], step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(tensors), {}


class _Sites(Messenger):
    """Finds a latent site whose draws cannot be differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.stiff: str | None = None
        self.last: str | None = None

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self.last = msg["name"]
        # The guide runs first: what the model says about a site of the guide's is not the draw.
        if msg["name"] in self.seen or msg["is_observed"] or site_is_subsample(msg):
            return
        self.seen.add(msg["name"])
        if not (msg["fn"].has_rsample or "relaxed" in msg["infer"]):
            self.stiff = self.stiff or f"site `{msg['name']}` ({type(msg['fn']).__name__})"


class _Captured:
    """A graph of some steps, what it stands for, and the optimiser state it moves."""

    graph: Graph

    def __init__(self, reach: Reach, params: list[Tensor], slots: list[_Slot]) -> None:
        self.reach = reach
        self.params = params
        self.slots = slots  # none if the optimiser steps by itself
        # Slots of one group with one step count share a row of numbers.
        self.cohorts, self.table = _cohorts(slots)
        self._heads = [self.table[row] for row in self.cohorts]
        double = any(param.dtype == torch.float64 for param in params)
        self._dtype = torch.float64 if double else torch.float32

    def in_step(self) -> bool:
        """Tells whether slots that share a row still have the same step count."""
        return [slot.step for slot in self.slots] == [slot.step for slot in self._heads]

    def rows(self, count: int) -> Tensor:
        """Returns the optimisers' numbers, shape ``(count, rows, WIDTH)``."""
        return torch.tensor(
            [
                [_updates.numbers(slot.optimizer, slot.group, slot.step + i) for slot in self.table]
                for i in range(1, count + 1)
            ],
            dtype=self._dtype,
            device=self.params[0].device,
        )


class CompiledSVI:
    """Creates stochastic variational inference whose step is one compiled graph.

    A drop-in for :class:`pyro.infer.SVI`. The first step runs the Pyro program once, records loss,
    gradients and optimiser update as one graph of tensor operations, and compiles it; later steps
    run that graph. A program that cannot be captured runs as it is, and one line says why.

    Parameters stay where they are and are updated in place. What the program reads (shapes, dtypes,
    devices, train or eval mode, plain attributes, globals) is checked before each call and
    recaptured when it has changed; tensors it reads are inputs, so new values cost nothing. Where
    effect handlers or autocast are active around the call, or gradients are off, the step is taken
    eagerly, and does what a step of stock SVI does.

    References:
        Pyro: Deep Universal Probabilistic Programming (Bingham et al., 2019),
        https://arxiv.org/abs/1810.09538
        PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and
        Graph Compilation (Ansel et al., 2024), https://doi.org/10.1145/3620665.3640366

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments.
        optim: A ``pyro.optim`` optimiser, or a callable from a list of parameters to a torch one.
            The updates of Adam, AdamW and SGD are part of the graph; others follow it.
        loss: ``Trace_ELBO``, ``TraceMeanField_ELBO``, an :class:`pyro_vae.objectives.Objective`, or
            a function of model, guide and their arguments. Other ELBOs run eagerly.
        compile: Whether to compile; ``"auto"`` does where it pays.
        planned_steps: Steps that will be taken in all, which ``"auto"`` decides from.
        unroll: Steps that :meth:`epoch` takes in one graph.
        max_graphs: How many graphs are captured before new situations run eagerly.
        clip_norm: Longer gradients are scaled down to this norm: of all parameters together, and of
            the loss as it is, summed over the batch.
        on_nonfinite: Whether a loss (or with ``clip_norm``, a gradient) that is not finite stops
            the run, or the step is left out, ``skip``.
        max_skipped: Steps to leave out in all, before that stops the run too.
        precision: Of matrix products: ``tf32`` (on CUDA) or ``bfloat16``, by autocast. Parameters
            stay as they are; a program sees to it that what a distribution gets is float32, as a
            ``VAE`` does.

    Attributes:
        engine: What took the last step: ``inductor``, ``cuda-graph`` or ``eager``.
        engine_steps: Steps taken by each engine.
        steps: Steps taken in all.
        captures: Graphs captured so far.
        skipped: Steps left out so far, counted at the end of each pass.

    Example:
        >>> import pyro, torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> optim = pyro.optim.Adam({"lr": 1e-3})
        >>> svi = CompiledSVI(vae.model, vae.guide, optim, pv.objectives.ELBO(), compile=False)
        >>> svi.epoch(torch.ones(10, 4), batch_size=4).shape
        torch.Size([3])
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: pyro.optim.PyroOptim | Callable[[list[Tensor]], Optimizer],
        loss: pyro.infer.ELBO | Program,
        *,
        compile: bool | Literal["auto"] = True,
        planned_steps: int | None = None,
        unroll: int = 1,
        max_graphs: int = 8,
        clip_norm: float | None = None,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        max_skipped: int = 100,
        precision: Literal["float32", "tf32", "bfloat16"] = "float32",
    ) -> None:
        if compile not in (True, False, "auto"):
            raise unknown_name("compile", compile, ("True", "False", "auto"))
        if precision not in ("float32", "tf32", "bfloat16"):
            raise unknown_name("precision", precision, ("float32", "tf32", "bfloat16"))
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise expected("clip_norm", "a positive number", clip_norm)
        if on_nonfinite not in ("raise", "skip"):
            raise unknown_name("on_nonfinite", on_nonfinite, ("raise", "skip"))
        self.model = model
        self.guide = guide
        self.loss = loss
        self.steps = 0
        self.skipped = 0
        self._clip_norm = clip_norm
        self._skip = on_nonfinite == "skip"
        self._max_skipped = max_skipped
        self._looked_at = True  # whether the losses of the last steps have been
        self._random: Tensor | None = None  # before the last step that ran eagerly
        self.engine: Engine = "eager"
        self.engine_steps: dict[Engine, int] = {}
        self._optim = _Optim(optim)
        self._compile = compile
        self._planned = planned_steps
        # Whether a step was left out is to be known before the next, which counts those taken.
        self._unroll = 1 if positive_integer("unroll", unroll) and self._skip else unroll
        self._max_graphs = positive_integer("max_graphs", max_graphs)
        self._graphs: dict[Any, list[_Captured]] = {}
        self.captures = 0
        self._said: set[str] = set()
        self._refused: dict[Any, str] = {}
        self._eager_seconds = 0.0
        self._worthwhile: bool | None = None  # whether compiling pays: decided once, and kept
        self._left: int | None = None  # steps that there were to go when that was asked first
        self._precision = precision
        self._ok = torch.ones((), dtype=torch.bool)

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes one step and returns the loss.

        Raises:
            NonFinite: If the loss is not finite. The step is not taken.
        """
        call = _Call.of(args, kwargs)
        at = self.steps
        loss = float(self._run(("step", call.key), call.tensors, call.batch, 1, call.others))
        if not math.isfinite(loss):
            self.skipped += 1
            if not self._skip or self.skipped > self._max_skipped:
                raise self._not_finite(loss, at, args, kwargs)
        return loss

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Returns the loss without taking a step; runs eagerly."""
        with torch.no_grad():
            if isinstance(self.loss, pyro.infer.ELBO):
                return float(self.loss.loss(self.model, self.guide, *args, **kwargs))
            return float(self.loss(self.model, self.guide, *args, **kwargs))

    def epoch(
        self,
        *tensors: Tensor,
        batch_size: int,
        shuffle: bool = True,
        transform: Callable[..., Any] | None = None,
        position: Position | None = None,
        on_step: Callable[[Position], None] | None = None,
    ) -> Tensor:
        """Takes one pass over data and returns the loss of each step, read back once.

        Args:
            tensors: Data, all of one length, on the device of the parameters: what the programs
                take as positional arguments, a batch at a time.
            batch_size: Rows a step. The last step takes what is left.
            shuffle: Whether to permute the rows, by torch's random numbers.
            transform: Applied to the rows gathered, inside the graph: takes and returns what the
                programs take, one tensor, a tuple, or a mapping of arguments by name.
            position: Where to go on from, in a pass that was left; a new pass if not given.
            on_step: Called between two steps (two groups of ``unroll`` steps) and after the last.

        Returns:
            Losses on the CPU, shape ``(steps,)``.

        Raises:
            NonFinite: If a loss is not finite, or with ``skip``, one more than may be left out.
                That step and later ones are not taken.
            ValueError: If the tensors differ in length.
        """
        positive_integer("batch_size", batch_size)
        size = len(tensors[0])
        if any(len(tensor) != size for tensor in tensors):
            raise expected("tensors", f"tensors of one length, {size}", [len(t) for t in tensors])
        if position is None:
            position = Position(torch.randperm(size) if shuffle else torch.arange(size))
        order = position.order.to(tensors[0].device)

        def batch(inputs: Sequence[Tensor], step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            index = inputs[0]
            rows = index[step * batch_size : (step + 1) * batch_size]
            args = tuple(tensor[rows] for tensor in inputs[1:])
            if transform is not None:
                made = transform(*args)
                if isinstance(made, dict):
                    return (), made
                args = made
            return args if isinstance(args, tuple) else (args,), {}

        losses = position.losses
        skipped = self.skipped + sum(int((~each.isfinite()).sum()) for each in losses)
        first = self.steps - sum(map(len, losses))
        layouts = tuple(map(layout, tensors))
        while (start := position.start) < size:
            # Groups start where the step number is a multiple of their size, so that a run resumed
            # at such a number takes the very same graphs.
            together = self._unroll if self.steps % self._unroll == 0 else 1
            if start + together * batch_size > size:
                together = 1
            index = order[start : start + together * batch_size]
            key = ("epoch", together, len(index), layouts, transform)
            losses.append(self._run(key, (index, *tensors), batch, together, transform))
            position.start += len(index)
            if self._looked_at and not self._skip and not losses[-1].isfinite().all():
                break
            if self._skip:
                skipped += int((~losses[-1].isfinite()).sum())
                if skipped > self._max_skipped:
                    break
            if on_step is not None:
                on_step(position)
        values = torch.cat(losses).cpu()
        bad = (~values.isfinite()).nonzero()
        self.skipped += len(bad)
        if len(bad) and (not self._skip or self.skipped > self._max_skipped):
            at = int(bad[-1 if self._skip else 0])  # the step that is one too many, or the first
            args, kwargs = batch((order, *tensors), at)
            error = self._not_finite(float(values[at]), first + at, args, kwargs)
            error.rows = order[at * batch_size : (at + 1) * batch_size].cpu()
            raise error
        return values

    def state_dict(self) -> dict[str, Any]:
        """Returns what a later run needs to go on: optimiser state, step counts, the engine."""
        state = {
            "steps": self.steps,
            "skipped": self.skipped,
            "optim": self._optim.state_dict(),
            "engine": self.engine,
            "engine_steps": dict(self.engine_steps),
            "worthwhile": self._worthwhile,
        }
        if isinstance(self.loss, Objective):
            state["objective_step"] = self.loss.step.clone()
        nesting = getattr(self.loss, "max_plate_nesting", math.inf)
        if nesting < math.inf:
            # It was found by a step that could not be compiled: once is enough.
            state["max_plate_nesting"] = nesting
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned. Parameters are loaded by themselves."""
        self.steps = state["steps"]
        self.skipped = state["skipped"]
        self.engine = state["engine"]
        self.engine_steps = dict(state["engine_steps"])
        self._worthwhile = state["worthwhile"]
        if "max_plate_nesting" in state:
            self.loss.max_plate_nesting = state["max_plate_nesting"]  # type: ignore[union-attr]
        self._optim.load_state_dict(state["optim"])
        self._graphs.clear()  # they hold the state that has been replaced
        if isinstance(self.loss, Objective):
            self.loss.step.copy_(state["objective_step"])

    def scale_lr(self, share: float) -> None:
        """Sets each learning rate to a share of what it was at first, those to come included.

        Raises:
            ValueError: If it is no finite number >= 0.
        """
        if not 0 <= share < math.inf:
            raise expected("share", "a finite number >= 0", share)
        self._optim.scale_lr(share)

    # Which engine

    def _run(
        self, key: Any, tensors: Sequence[Tensor], batch: Batch, count: int, root: Any = None
    ) -> Tensor:
        """Takes ``count`` steps and returns their losses, shape ``(count,)``."""
        if tensors and tensors[0].device != self._ok.device:
            self._ok = self._ok.to(tensors[0].device)
        # What surrounds the call is looked at where it is used: this runs at every step.
        if (
            _PYRO_STACK
            or not is_grad_enabled()
            or is_inference_mode_enabled()
            or _is_any_autocast_enabled()
        ):
            return self._run_as_surrounded(tensors, batch, count)
        key = key, get_default_dtype(), _device.CURRENT_DEVICE
        with self._multiplying():
            return self._run_by_an_engine(key, tensors, batch, count, root)

    def _run_as_surrounded(self, tensors: Sequence[Tensor], batch: Batch, count: int) -> Tensor:
        """Takes eager steps: a graph would have what surrounds its capture baked in."""
        if self._compile and _PYRO_STACK:
            self._say(f"{type(_PYRO_STACK[-1]).__name__} is active around the step")
        elif self._compile and _is_any_autocast_enabled():
            self._say("autocast is on around the step; `precision` is part of a graph")
        self._looked_at = True
        with self._multiplying():
            return self._run_eagerly(tensors, batch, count, [])

    def _run_by_an_engine(
        self, key: Any, tensors: Sequence[Tensor], batch: Batch, count: int, root: Any
    ) -> Tensor:
        captured = self._find(key)
        first: list[float] = []
        if captured is None and self._wanted(key):
            captured, first = self._capture(key, tensors, batch, count, root)
        self._looked_at = captured is None or not captured.slots
        if captured is None:
            return self._run_eagerly(tensors, batch, count, first)
        losses, *grads = captured.graph(captured.rows(count), *tensors)
        if captured.slots:
            taken = int(losses.isfinite().sum()) if self._skip else count
            for slot in captured.slots:
                slot.step += taken
        else:
            for param, grad in zip(captured.params, grads, strict=True):
                param.grad = grad
            if bool(losses.isfinite()):
                self._optim.step(captured.params)
            zero_grads(captured.params)
        self._count(captured.graph.engine, count)
        return losses

    def _run_eagerly(
        self, tensors: Sequence[Tensor], batch: Batch, count: int, first: list[float]
    ) -> Tensor:
        losses = list(first)  # a step that had to be taken while looking at the program
        for number in range(len(losses), count):
            args, kwargs = batch(tensors, number)
            if self._ok.device.type == "cpu":
                self._random = torch.get_rng_state()
            try:
                loss, params = self._gradients(args, kwargs)
            except ValueError as error:
                # A law refuses parameters that are not finite before there is a loss.
                if "invalid values" not in str(error):
                    raise
                loss, params = math.nan, []
            losses.append(self._step(loss, params))
            if not (math.isfinite(losses[-1]) or self._skip):
                break
        taken = len(losses) if self._skip else sum(map(math.isfinite, losses))
        self._count("eager", taken)
        return torch.tensor(losses)

    def _step(self, loss: float, params: list[Tensor]) -> float:
        """Takes a step if all is finite, and returns the loss, NaN for a gradient's sake."""
        grads = [param.grad for param in params if param.grad is not None]
        if self._clip_norm is not None and math.isfinite(loss):
            norm, scale = _clipping(grads, self._clip_norm)
            for grad in grads:
                grad.mul_(scale)
            loss = loss if bool(norm.isfinite()) else math.nan
        # Stock SVI leaves zeros as gradients, with which momentum goes on; a graph leaves none.
        idle = [
            p for p in params if p.grad is None and p.requires_grad and self._optim.has_moved(p)
        ]
        for param in idle:
            param.grad = torch.zeros_like(param)
        if math.isfinite(loss):
            self._optim.step(params)
        elif params and isinstance(self.loss, Objective):
            self.loss.step.sub_(1)  # counted with the gradients, and not taken
        for param in idle:
            param.grad = None
        zero_grads(params)
        return loss

    def _count(self, engine: Engine, count: int) -> None:
        self.steps += count
        self.engine = engine
        self.engine_steps[engine] = self.engine_steps.get(engine, 0) + count

    def _wanted(self, key: Any) -> bool:
        if not self._compile or key in self._refused or len(self._refused) >= self._max_graphs:
            return False
        if self.captures >= self._max_graphs:
            self._refuse(key, f"{self.captures} graphs are captured, and this would be one more")
            return False
        return True

    def _refuse(self, key: Any, reason: str) -> None:
        self._refused[key] = reason
        self._say(reason)

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            log.warning("CompiledSVI runs eagerly: %s", reason)

    def _find(self, key: Any) -> _Captured | None:
        for captured in self._graphs.get(key, ()):
            if captured.reach.changed() is None:
                if captured.slots:
                    self._optim.hold()
                if captured.in_step():
                    return captured
        return None

    # What a graph is made of

    def _gradients(self, args: Any, kwargs: Any) -> tuple[float, list[Tensor]]:
        """Returns the loss and the parameters met, whose gradients it leaves with them."""
        with poutine.trace(param_only=True) as met, self._reduced():
            if isinstance(self.loss, pyro.infer.ELBO):
                loss = self.loss.loss_and_grads(self.model, self.guide, *args, **kwargs)
            else:
                loss = self.loss(self.model, self.guide, *args, **kwargs)
                if loss.requires_grad:
                    loss.backward()
        sites = met.trace.nodes.values()
        return float(loss), list({site["value"].unconstrained(): None for site in sites})

    @contextmanager
    def _reduced(self) -> Iterator[None]:
        if self._precision != "bfloat16":
            yield  # whatever autocast there is around the step is left as it is
            return
        with torch.autocast(self._ok.device.type, torch.bfloat16):
            yield

    @contextmanager
    def _multiplying(self) -> Iterator[None]:
        """Products are told their precision as they are launched, not as they are compiled."""
        if self._precision != "tf32":
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _seconds(self, args: Any, kwargs: Any) -> float:
        start = time.perf_counter()
        self._gradients(args, kwargs)
        return time.perf_counter() - start

    def _objective(self, args: Any, kwargs: Any) -> Tensor:
        with values_stay_tensors(), self._reduced():
            if isinstance(self.loss, pyro.infer.ELBO):
                return self.loss.differentiable_loss(self.model, self.guide, *args, **kwargs)
            return self.loss(self.model, self.guide, *args, **kwargs)

    def _rehearse(
        self, reach: Reach, tensors: Sequence[Tensor], batch: Batch
    ) -> tuple[list[Tensor], list[Tensor], list[float]]:
        """Runs the programs once with Pyro's validation on, and takes no step.

        Unless that run has created parameters: creating them draws random numbers that a stock step
        draws too, once, so that the run is then the step.

        Returns:
            The parameters met; those of them that have a gradient; the loss of the step, if it
            was taken.
        """
        store = pyro.get_param_store()._params
        state = list({id(t): t for t in (*reach.tensors, *store.values())}.values())
        known = set(map(id, state))
        nesting = getattr(self.loss, "max_plate_nesting", None)
        for tensor in state:
            if tensor.is_leaf:
                tensor.grad = None
        with preserved(state) as undo, pyro.validation_enabled(True), _Sites() as sites:
            args, kwargs = batch(tensors, 0)
            loss, params = self._gradients(args, kwargs)
            trained = [
                param
                for param in params
                if param.grad is not None or (param.requires_grad and self._optim.has_moved(param))
            ]
            created = any(id(param) not in known for param in params)
            if created or getattr(self.loss, "max_plate_nesting", None) != nesting:
                undo.clear()
                return params, trained, [self._step(loss, params)]
            if self._compile == "auto" and self._worthwhile is None:
                # The first run is cold, and another program may have the processor for a while.
                self._eager_seconds = min(self._seconds(args, kwargs) for _ in range(3))
        for param in params:
            param.grad = None
        if sites.stiff:
            raise NotCapturable(f"{sites.stiff} cannot be reparameterised")
        if any(param._backward_hooks or param._post_accumulate_grad_hooks for param in trained):
            raise NotCapturable("a parameter has a hook on its gradient")
        if not trained:
            raise NotCapturable("no parameter has a gradient; are the modules registered?")
        return params, trained, []

    def _capture(
        self, key: Any, tensors: Sequence[Tensor], batch: Batch, count: int, root: Any
    ) -> tuple[_Captured | None, list[float]]:
        """Captures ``count`` steps; returns the losses of steps it could not but take."""
        reach = None
        try:
            if isinstance(self.loss, pyro.infer.ELBO) and not (
                type(self.loss) in _STOCK or isinstance(self.loss, Objective)
            ):
                known = ", ".join(stock.__name__ for stock in _STOCK)
                raise NotCapturable(
                    f"loss {type(self.loss).__name__} is none of {known}, and may read values back"
                )
            reach = Reach(self.model, self.guide, self.loss, root)
            met, params, losses = self._rehearse(reach, tensors, batch)
            if losses:
                return None, losses
            self._optim.adopt(met)  # those without a gradient too, as a step that is not compiled
            if self._compile == "auto":
                self._pays()
            start = time.perf_counter()
            log.info("CompiledSVI compiles %s", "a step" if count == 1 else f"{count} steps")
            captured = self._record(reach, met, params, tensors, batch, count)
            log.info("CompiledSVI compiled in %.1f s", time.perf_counter() - start)
        except NotCapturable as reason:
            if reach is not None:
                reach.put_back()
            self._refuse(key, str(reason))
            return None, []
        self.captures += 1
        self._graphs.setdefault(key, []).append(captured)
        return captured, []

    def _pays(self) -> None:
        if self._left is None:
            self._left = (self._planned or 0) - self.steps
        if self._worthwhile is None:
            # Compiled steps take well under half of the time.
            self._worthwhile = 0.5 * self._left * self._eager_seconds >= _COMPILE_SECONDS
        if not self._worthwhile:
            # One line, also where batches of several shapes ask.
            raise NotCapturable(
                f"with {self._left} steps left, compiling would take longer than it saves"
            )

    def _record(
        self,
        reach: Reach,
        met: list[Tensor],
        params: list[Tensor],
        tensors: Sequence[Tensor],
        batch: Batch,
        count: int,
    ) -> _Captured:
        self._optim.hold()
        inside = not self._optim.refusal(params)
        if count > 1 and not inside:
            self._unroll = 1
            raise NotCapturable("the optimiser's update is no part of a graph: one step at a time")
        captured = _Captured(reach, params, self._optim.slots(params) if inside else [])
        state = [*reach.tensors, *params]
        for slot in captured.slots:
            state += _updates.prepare(slot.optimizer, slot.group, slot.param)
            baked = _updates.constants(slot.optimizer)
            reach.watch(slot.option, baked, "optimizer", visit=False)
            reach.watch(vars(slot.optimizer).get, ("state",), "optimizer", visit=False)
        names = map(pyro.get_param_store().param_name, met)
        reach.watch(_stored, [name for name in names if name is not None], "param store")
        reach.freeze()
        self._ok = self._ok.to(params[0].device)

        def steps(rows: Tensor, *tensors: Tensor) -> list[Tensor]:
            losses = []
            grads: Sequence[Tensor] = ()
            for number in range(count):
                args, kwargs = batch(tensors, number)
                with torch.enable_grad():
                    loss = self._objective(args, kwargs)
                grads = torch.autograd.grad(loss, params, materialize_grads=True)
                loss = loss.detach()
                if self._clip_norm is not None:
                    norm, scale = _clipping(grads, self._clip_norm)
                    grads = [grad * scale for grad in grads]
                    loss = torch.where(norm.isfinite(), loss, math.nan)
                losses.append(loss)
                self._advance(captured, grads, rows[number], loss)
            return [torch.stack(losses), *(() if captured.slots else grads)]

        with torch.no_grad(), _Sites() as sites:
            try:
                rows = captured.rows(count)
                captured.graph = Graph(steps, [*state, self._ok], [rows, *tensors])
            except ReadsBack as reason:
                raise NotCapturable(f"{reason}, at site `{sites.last}` or after it") from reason
        if (name := reach.changed()) is not None:
            raise NotCapturable(f"{name} changes at every run")
        return captured

    def _advance(
        self, captured: _Captured, grads: Sequence[Tensor], rows: Tensor, loss: Tensor
    ) -> None:
        """Updates parameters and schedules, as long as every loss so far has been finite.

        So a run stops where it went wrong without the host having to look at each loss.
        """
        ok = loss.isfinite()
        if captured.slots:
            before = self._ok | self._skip  # what is left out does not end the run
            ok = self._ok.copy_(before & ok)
            for slot, grad, row in zip(captured.slots, grads, captured.cohorts, strict=True):
                _updates.update(slot.optimizer, slot.group, slot.param, grad, rows[row], self._ok)
        if isinstance(self.loss, Objective):
            before = self.loss.step.clone()
            self.loss.advance()
            self.loss.step.copy_(torch.where(ok, self.loss.step, before))

    def _not_finite(self, loss: float, at: int, args: Any, kwargs: Any) -> NonFinite:
        """Goes back to where the loss was last finite, and finds out what is to blame."""
        if not self._skip:
            self._optim.rewind(self.steps - at)
        self.steps = at
        self._ok.fill_(True)
        blame, state = None, self._random if self.engine == "eager" else None
        before = torch.get_rng_state()
        for _ in range(_TRIES):
            if state is not None:
                torch.set_rng_state(state)
            tried = torch.get_rng_state()
            if (blame := self._blame(args, kwargs)) is not None:
                break
            state = None  # other numbers
        torch.set_rng_state(before)
        if blame is None:
            message = "with other random numbers every site is finite"
            return NonFinite(f"the loss is {loss} at step {at}: {message}", at, args, None)
        return NonFinite(f"the loss is {loss} at step {at}: {blame}", at, args, tried)

    def _blame(self, args: Any, kwargs: Any) -> str | None:
        rates = [slot.group["lr"] for slot in self._optim.all_slots()]
        if not all(math.isfinite(float(rate)) for rate in rates):
            return f"the learning rate is {float(rates[0])}"
        with torch.no_grad(), pyro.validation_enabled(False):
            guide = poutine.trace(self.guide).get_trace(*args, **kwargs)
            model = poutine.trace(poutine.replay(self.model, guide)).get_trace(*args, **kwargs)
            sites = [*guide.nodes.items(), *model.nodes.items()]
            # Causes first: parameters, then data, then what is computed from them.
            sites.sort(key=lambda item: (item[1]["type"] != "param", not _is_data(item[1])))
            for name, site in sites:
                values = [site["value"]] if site["type"] in ("param", "sample") else []
                if site["type"] == "sample" and not site_is_subsample(site):
                    values.append(site["fn"].log_prob(site["value"]))
                bad = [value for value in values if not value.isfinite().all()]
                if bad and site["type"] == "param":
                    # A store's name starts with that of the module.
                    return f"parameter `{name.rpartition('$$$')[2]}` is not finite"
                if bad:
                    first = (~bad[0].isfinite()).nonzero()[0].tolist()
                    where = f" at {first}" if first else ""
                    whose = "what is observed at it" if _is_data(site) else "it"
                    return f"site `{name}`: {whose} is not finite{where}"
            weight = getattr(self.loss, "weight", None)
            if callable(weight) and not math.isfinite(value := float(weight())):
                return f"the schedule: the weight of {type(self.loss).__name__} is {value}"
        return None


def _is_data(site: dict[str, Any]) -> bool:
    """Tells whether a site is observed, and what is observed is not finite."""
    return bool(site["type"] == "sample" and site["is_observed"]) and not bool(
        site["value"].isfinite().all()
    )


def _clipping(grads: Sequence[Tensor], largest: float) -> tuple[Tensor, Tensor]:
    """Returns the norm of all gradients together, and what to multiply each with."""
    norm = torch.nn.utils.get_total_norm(grads, foreach=False)
    return norm, (largest / (norm + 1e-6)).clamp_max(1.0)


def _stored(name: str) -> Tensor | None:
    return pyro.get_param_store()._params.get(name)  # clearing the store makes a new dict


def _cohorts(slots: Sequence[_Slot]) -> tuple[list[int], list[_Slot]]:
    """Sorts slots by what their numbers depend on: the row of each, and one slot for each row."""
    rows: dict[tuple[int, int], int] = {}
    table: list[_Slot] = []
    cohorts = []
    for slot in slots:
        row = rows.setdefault((id(slot.group), slot.step), len(rows))
        if row == len(table):
            table.append(slot)
        cohorts.append(row)
    return cohorts, table
