"""CompiledSVI: a Pyro program captured once, run as one compiled graph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyro
import pyro.infer
import pyro.optim
import torch
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae._errors import as_path, expected, positive_integer, unknown_name
from pyro_vae.engine.batches import batch_of, gathered
from pyro_vae.engine.compiled import CompiledEngine
from pyro_vae.engine.distributed import SharedEngine, Sharing, compiles
from pyro_vae.engine.eager import EagerEngine
from pyro_vae.engine.memory import layout
from pyro_vae.engine.nonfinite import NonFinite, explain
from pyro_vae.engine.optim import Optim
from pyro_vae.engine.parts import Parts
from pyro_vae.engine.problem import (
    Backward,
    Loss,
    OnNonFinite,
    Precision,
    Problem,
    Program,
    is_finite,
)
from pyro_vae.engine.protocol import Attempt, Batch, Engine, EngineName
from pyro_vae.engine.watchdog import CheckEvery, Watchdog
from pyro_vae.objectives import Objective

__all__ = ["CompiledSVI", "Position"]

_LOOK = 256  # calls after which it is looked at whether their steps were taken


@dataclass
class Position:
    """Where a pass over data is.

    Attributes:
        order: The rows, as they are taken, shape ``(N,)``, or fewer: those are the pass.
        start: How many have been taken.
        losses: Of the steps so far, in pieces of shape ``(steps,)``, or ``(steps, k)``.
    """

    order: Tensor
    start: int = 0
    losses: list[Tensor] = field(default_factory=list)


class CompiledSVI(Parts):
    """Creates stochastic variational inference whose step is one compiled graph.

    A drop-in for :class:`pyro.infer.SVI`, of which it is a subclass: it takes the same arguments,
    has the same attributes, which may be assigned, and returns what that returns. The first step
    runs the Pyro program once, records loss, gradients and optimiser update as one graph of tensor
    operations, and compiles it; later steps run that graph. A program that cannot be captured runs
    as it is, and one line says why.

    Parameters stay where they are and are updated in place. What the program reads (shapes, dtypes,
    devices, train or eval mode, plain attributes, globals) is checked before each call and
    recaptured when it has changed; tensors it reads are inputs, so new values cost nothing, nor do
    other tensors of the same layout in the place of those that are not trained; and so are numbers
    among the arguments of a step, unless Python needs their values. Where
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
        loss: An ELBO of Pyro's or one derived from it, with whatever that overrides, an
            :class:`pyro_vae.objectives.Objective`, or a function of model, guide and their
            arguments. One that reads values back, or does something else with gradients than to
            compute them, runs eagerly.
        loss_and_grads: As in :class:`pyro.infer.SVI`; a function of its own runs eagerly.
        num_samples: As in :class:`pyro.infer.SVI`, deprecated there.
        num_steps: As in :class:`pyro.infer.SVI`, deprecated there.
        num_chains: As in :class:`pyro.infer.SVI`.
        compile: Whether to compile; ``"auto"`` does where it pays, by the work of a step and what
            that costs on this machine, which is measured once and kept.
        planned_steps: Steps that will be taken in all, which ``"auto"`` decides from.
        unroll: Steps that :meth:`epoch` takes in one graph.
        max_graphs: How many graphs are held. Beyond it a call has to come again, several times,
            before it takes the place of the one unused for longest.
        clip_norm: Longer gradients are scaled down to this norm: of all parameters together, and of
            the loss as it is, summed over the batch.
        on_nonfinite: Whether a step whose loss is not finite is taken all the same, as stock SVI
            does; or it (or with ``clip_norm``, a gradient) stops the run, ``raise``; or the step is
            left out, ``skip``.
        max_skipped: Steps to leave out in all, before that stops the run too.
        precision: Of matrix products: ``tf32`` (on CUDA) or ``bfloat16``, by autocast. Parameters
            stay as they are; a program sees to it that what a distribution gets is float32, as a
            ``VAE`` does.
        rows_at_once: Rows of which loss and gradients are computed at a time, of each tensor among
            the arguments of a step, and added up; None takes all at once.
        validate: Whether what distributions check of their parameters and of values, where Pyro's
            validation is on, is checked at each step of a graph. Otherwise it is when a graph is
            captured, and so are checks that are no code on tensors (NumPy, ``.item()``).
        check_every: Whether steps of graphs are compared with the same steps of the programs:
            ``auto`` at the first two runs of each graph and when it has taken 10, 100, 1000 steps
            and so on; a number also each time that it has taken so many; None never.
        check_folder: Where to write what reproduces a difference; a temporary folder if not given.
        sharing: How the steps of :meth:`epoch` are shared by several processes, see :func:`fit`.

    Raises:
        ValueError: If an option is not one of those that are named, or not a positive number.

    Attributes:
        engine: What took the last step: ``inductor``, ``cuda-graph`` or ``eager``.
        engine_steps: Steps taken by each engine.
        steps: Steps taken in all.
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
        loss_and_grads: Program | None = None,
        num_samples: int = 0,
        num_steps: int = 0,
        num_chains: int = 1,
        *,
        compile: bool | Literal["auto"] = True,
        planned_steps: int | None = None,
        unroll: int = 1,
        max_graphs: int = 8,
        clip_norm: float | None = None,
        on_nonfinite: OnNonFinite = "ignore",
        max_skipped: int = 100,
        precision: Precision = "float32",
        rows_at_once: int | None = None,
        validate: bool = True,
        check_every: CheckEvery = "auto",
        check_folder: str | Path | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        _check(compile, precision, clip_norm, on_nonfinite, check_every)
        for name, number in (("num_steps", num_steps), ("num_samples", num_samples)):
            if number:
                what = f"`{name}` is deprecated, as in pyro.infer.SVI"
                warnings.warn(what, FutureWarning, stacklevel=2)
        if isinstance(loss, pyro.infer.ELBO):
            loss, loss_and_grads = loss.loss, loss.loss_and_grads
        problem = Problem(
            model,
            guide,
            loss_and_grads or Backward(loss),
            Optim(optim),
            clip_norm=clip_norm,
            on_nonfinite=on_nonfinite,
            precision=precision,
            validate=validate,
            rows_at_once=rows_at_once and positive_integer("rows_at_once", rows_at_once),
        )
        super().__init__(problem, num_chains)
        self.loss = loss
        self.num_steps, self.num_samples = num_steps, num_samples
        self._products = _Products("high") if precision == "tf32" else nullcontext()
        self.steps = 0
        self.skipped = 0
        self._max_skipped = max_skipped
        # Whether a step was left out is to be known before the next, which counts those taken.
        unroll = positive_integer("unroll", unroll)
        self._unroll = 1 if on_nonfinite == "skip" else unroll
        max_graphs = positive_integer("max_graphs", max_graphs)
        self.engine: EngineName = "eager"
        self.engine_steps: dict[EngineName, int] = {}
        left = (lambda: (planned_steps or 0) - self.steps) if compile == "auto" else None
        if sharing is not None:
            compile, left = compiles(compile, planned_steps, sharing), None

        def engine_of(problem: Problem) -> Engine:
            if compile is False:
                return EagerEngine(problem)
            folder = None if check_folder is None else as_path("check_folder", check_folder)
            return CompiledEngine(problem, max_graphs, Watchdog(problem, check_every, folder), left)

        self._engine: Engine
        if sharing is None:
            self._engine = engine_of(self._problem)
        else:
            self._engine = SharedEngine(
                self._problem, sharing, engine_of, compiles=bool(compile), steps=lambda: self.steps
            )

    @property
    def captures(self) -> int:
        """Graphs captured so far."""
        return self._engine.captures

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the loss of a batch, a number or a tuple of them, and takes one step by it.

        Raises:
            NonFinite: If the loss is not finite, and that is to stop the run, or to be left out
                once too often. The step is not taken.
            ValueError: If a distribution refuses its parameters or a value, as in stock SVI.
            GraphMismatch: If the step is checked, and differs from that of the programs. It is not
                taken.
        """
        batch, tensors = batch_of(args, kwargs)
        at = self.steps
        first = self._run(batch, tensors, 1)[0]
        loss = _number(first)
        attempt = self._engine.attempt
        if attempt is not None and not is_finite(loss):
            again = self._again([attempt])
            loss = loss if again is None else _number(again[1][0])
        if isinstance(loss, float) and not math.isfinite(loss) and self.engine != "eager":
            _warn(self._problem, loss)
        if self._problem.on_nonfinite != "ignore" and not is_finite(loss):
            self.skipped += 1
            if self._problem.on_nonfinite == "raise" or self.skipped > self._max_skipped:
                raise self._not_finite(loss, at, args, kwargs)
        return loss

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the loss without taking a step; runs eagerly."""
        with torch.no_grad():
            loss = self.loss(self.model, self.guide, *args, **kwargs)
        return tuple(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)

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
            tensors: Data, shape ``(N, *)`` each, on the device of the parameters: what the programs
                take as positional arguments, a batch at a time.
            batch_size: Rows a step. The last step takes what is left.
            shuffle: Whether to permute the rows, by torch's random numbers.
            transform: Applied to the rows gathered, inside the graph: takes and returns what the
                programs take, one tensor, a tuple, or a mapping of arguments by name.
            position: Where to go on from, in a pass that was left; a new pass if not given.
            on_step: Called between two steps (two groups of ``unroll`` steps) and after the last.

        Returns:
            Losses on the CPU, shape ``(steps,)``, or ``(steps, k)`` where a loss is k numbers.

        Raises:
            NonFinite: If a loss is not finite, and that is to stop the run, or with ``skip``, one
                more than may be left out. That step and later ones are not taken.
            GraphMismatch: As in :meth:`step`; a group of ``unroll`` steps is checked as a whole.
            ValueError: If the tensors differ in length, or a distribution refuses its parameters or
                a value. The steps before are taken; it is found out at the end of the pass.
        """
        batch_size = positive_integer("batch_size", batch_size)
        size = len(tensors[0])
        if any(len(tensor) != size for tensor in tensors):
            raise expected("tensors", f"tensors of one length, {size}", [len(t) for t in tensors])
        if position is None:
            position = Position(torch.randperm(size) if shuffle else torch.arange(size))
        order = position.order.to(tensors[0].device)
        size = len(order)
        arguments = gathered(batch_size, transform)
        losses, policy = position.losses, self._problem.on_nonfinite
        skipped = self.skipped + sum(int((~_finite(each)).sum()) for each in losses)
        first = self.steps - sum(map(len, losses))
        layouts = tuple(map(layout, tensors))
        attempts: list[Attempt] = []  # whose outcome nobody has read
        while (start := position.start) < size:
            together = self._together(size - start, batch_size)
            index = order[start : start + together * batch_size]
            batch = Batch(("epoch", len(index), layouts, transform), arguments, transform)
            losses.append(self._run(batch, (index, *tensors), together))
            position.start += len(index)
            if (attempt := self._engine.attempt) is not None:
                attempts.append(attempt)
                if position.start == size or len(attempts) == _LOOK or not self._engine.masks:
                    self._look(attempts, position)
            else:
                attempts.clear()  # an eager step is after none that was refused
            if policy == "raise" and not self._engine.masks and not _finite(losses[-1]).all():
                break
            if policy == "skip":
                skipped += int((~_finite(losses[-1])).sum())
                if skipped > self._max_skipped:
                    break
            if on_step is not None:
                on_step(position)
        values = torch.cat(losses).cpu()
        bad = (~_finite(values)).nonzero() if policy != "ignore" else values[:0]
        self.skipped += len(bad)
        if len(bad) and (policy == "raise" or self.skipped > self._max_skipped):
            at = int(
                bad[-1 if policy == "skip" else 0]
            )  # the step that is one too many, or the first
            args, kwargs = arguments((order, *tensors), at)
            error = self._not_finite(float(values[at].sum()), first + at, args, kwargs)
            error.rows = order[at * batch_size : (at + 1) * batch_size].cpu()
            raise error
        return values

    def state_dict(self) -> dict[str, Any]:
        """Returns what a later run needs to go on: optimiser state, step counts, the engine."""
        state = {
            "steps": self.steps,
            "skipped": self.skipped,
            "optim": self._problem.optim.state_dict(),
            "engine": self.engine,
            "engine_steps": dict(self.engine_steps),
            **self._engine.state_dict(),
        }
        if isinstance(self._problem.loss, Objective):
            state["objective_step"] = self._problem.loss.step.cpu().clone()
        nesting = getattr(self._problem.loss, "max_plate_nesting", math.inf)
        if nesting < math.inf:
            # It was found by a step that could not be compiled: once is enough.
            state["max_plate_nesting"] = nesting
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a ``state`` of :meth:`state_dict`. Parameters are loaded by themselves."""
        self.steps = state["steps"]
        self.skipped = state["skipped"]
        self.engine = state["engine"]
        self.engine_steps = dict(state["engine_steps"])
        if "max_plate_nesting" in state:
            self._problem.loss.max_plate_nesting = state["max_plate_nesting"]  # type: ignore[union-attr]
        self._problem.optim.load_state_dict(state["optim"])
        self._engine.load_state_dict(state)
        if isinstance(self._problem.loss, Objective):
            self._problem.loss.step.copy_(state["objective_step"])

    def scale_lr(self, share: float) -> None:
        """Sets each learning rate to a share of what it was at first, those to come included.

        Raises:
            ValueError: If it is no finite number >= 0.
        """
        if not 0 <= share < math.inf:
            raise expected("share", "a finite number >= 0", share)
        self._problem.optim.scale_lr(share)

    def _together(self, left: int, batch_size: int) -> int:
        """Returns how many steps are to be taken at once, with so many rows left.

        Groups start where the step number is a multiple of their size, so that a run resumed at
        such a number takes the very same graphs.
        """
        unroll = self._unroll if self._engine.unrolls else 1
        return unroll if self.steps % unroll == 0 and unroll * batch_size <= left else 1

    def _run(self, batch: Batch, tensors: Sequence[Tensor], count: int) -> Tensor:
        """Takes ``count`` steps and returns their losses, shape ``(count,)``."""
        if tensors and tensors[0].device != self._problem.device:
            self._problem.settle(tensors[0].device)
        with self._products:
            losses = self._engine.steps(batch, tensors, count)
        policy = self._problem.on_nonfinite
        if not self._engine.masks:
            # One that is not finite was not taken, and those after it were not tried.
            count = int(_finite(losses).sum()) if policy == "raise" else len(losses)
        self._count(self._engine.name, count)
        return losses

    def _look(self, attempts: list[Attempt], position: Position) -> None:
        """Goes back in a pass to the first step that was refused, if there is one."""
        again = self._again(attempts)
        if again is not None:
            behind = attempts[again[0] + 1 :]
            position.start -= sum(len(attempt.tensors[0]) for attempt in behind)
            position.losses[-1 - len(behind) :] = [again[1]]
        attempts.clear()

    def _again(self, attempts: Sequence[Attempt]) -> tuple[int, Tensor] | None:
        """Takes the first one eagerly that was refused; returns which, and its losses.

        Raises:
            ValueError: What a distribution says that refuses it. Those before are taken.
        """
        if bool(torch.cat([attempt.valid for attempt in attempts]).all()):
            return None
        first = next(i for i, attempt in enumerate(attempts) if not bool(attempt.valid.all()))
        attempt, behind = attempts[first], attempts[first + 1 :]
        count, taken = attempt.counts()
        self._count(self._engine.name, taken - count - sum(len(a.losses) for a in behind))
        counted = sum(len(a.losses) for a in behind if a.random)  # by the optimiser
        self._engine.rewind(count - taken + counted if self._engine.masks else 0)
        losses = self._engine.again(attempt)
        self._count("eager", count - taken)
        return first, losses

    def _count(self, engine: EngineName, count: int) -> None:
        self.steps += count
        self.engine = engine
        self.engine_steps[engine] = self.engine_steps.get(engine, 0) + count

    def _not_finite(self, loss: Loss, at: int, args: Any, kwargs: Any) -> NonFinite:
        """Goes back to where the loss was last finite, and finds out what is to blame."""
        self._engine.rewind(0 if self._problem.on_nonfinite == "skip" else self.steps - at)
        self.steps = at
        return explain(self._problem, loss, at, args, kwargs, self._engine.random)


def _check(
    compile: Any, precision: Any, clip_norm: float | None, on_nonfinite: Any, check_every: Any
) -> None:
    """Checks options.

    Raises:
        ValueError: If one is out of range.
    """
    if compile not in (True, False, "auto"):
        raise unknown_name("compile", compile, ("True", "False", "auto"))
    if precision not in ("float32", "tf32", "bfloat16"):
        raise unknown_name("precision", precision, ("float32", "tf32", "bfloat16"))
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise expected("clip_norm", "a positive number", clip_norm)
    if on_nonfinite not in ("ignore", "raise", "skip"):
        raise unknown_name("on_nonfinite", on_nonfinite, ("ignore", "raise", "skip"))
    if isinstance(check_every, str) and check_every != "auto":
        raise unknown_name("check_every", check_every, ("a positive integer", "auto", "None"))
    if not isinstance(check_every, str) and check_every is not None:
        positive_integer("check_every", check_every)


def _number(loss: Tensor) -> Loss:
    return tuple(loss.tolist()) if loss.dim() > 0 else float(loss)


def _warn(problem: Problem, loss: float) -> None:
    """Warns as Pyro's own ELBOs do, which cannot inside a graph."""
    if isinstance(problem.loss, pyro.infer.ELBO) and not isinstance(problem.loss, Objective):
        warn_if_nan(loss, "loss")


def _finite(losses: Tensor) -> Tensor:
    """Tells which steps have a loss, or all of their losses, finite, shape ``(steps,)``."""
    return losses.isfinite().reshape(len(losses), -1).all(1)


class _Products:
    """Products are told their precision as they are launched, not as they are compiled."""

    def __init__(self, precision: str) -> None:
        self._precision = precision

    def __enter__(self) -> None:
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self._precision)

    def __exit__(self, *error: object) -> None:
        torch.set_float32_matmul_precision(self._before)
