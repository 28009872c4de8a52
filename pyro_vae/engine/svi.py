"""CompiledSVI: a Pyro program captured once, run as one compiled graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro
import pyro.infer
import pyro.optim
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.engine.compiled import CompiledEngine
from pyro_vae.engine.eager import EagerEngine
from pyro_vae.engine.memory import layout
from pyro_vae.engine.nonfinite import NonFinite, explain
from pyro_vae.engine.optim import Optim
from pyro_vae.engine.problem import Precision, Problem, Program
from pyro_vae.engine.protocol import Arguments, Batch, Engine, EngineName
from pyro_vae.objectives import Objective

__all__ = ["CompiledSVI", "Position"]


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
        precision: Precision = "float32",
    ) -> None:
        if compile not in (True, False, "auto"):
            raise unknown_name("compile", compile, ("True", "False", "auto"))
        if precision not in ("float32", "tf32", "bfloat16"):
            raise unknown_name("precision", precision, ("float32", "tf32", "bfloat16"))
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise expected("clip_norm", "a positive number", clip_norm)
        if on_nonfinite not in ("raise", "skip"):
            raise unknown_name("on_nonfinite", on_nonfinite, ("raise", "skip"))
        self._problem = Problem(
            model,
            guide,
            loss,
            Optim(optim),
            clip_norm=clip_norm,
            skip=on_nonfinite == "skip",
            precision=precision,
        )
        self._products = _Products("high") if precision == "tf32" else nullcontext()
        self.steps = 0
        self.skipped = 0
        self._max_skipped = max_skipped
        # Whether a step was left out is to be known before the next, which counts those taken.
        self._unroll = 1 if positive_integer("unroll", unroll) and self._problem.skip else unroll
        positive_integer("max_graphs", max_graphs)
        self.engine: EngineName = "eager"
        self.engine_steps: dict[EngineName, int] = {}
        self._engine: Engine
        if compile is False:
            self._engine = EagerEngine(self._problem)
        else:
            left = (lambda: (planned_steps or 0) - self.steps) if compile == "auto" else None
            self._engine = CompiledEngine(self._problem, max_graphs, left)

    @property
    def model(self) -> Program:
        """The model that it was made with."""
        return self._problem.model

    @property
    def guide(self) -> Program:
        """The guide that it was made with."""
        return self._problem.guide

    @property
    def loss(self) -> pyro.infer.ELBO | Program:
        """The loss that it was made with."""
        return self._problem.loss

    @property
    def captures(self) -> int:
        """Graphs captured so far."""
        return self._engine.captures

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes one step and returns the loss.

        Raises:
            NonFinite: If the loss is not finite. The step is not taken.
        """
        batch, tensors = _batch_of(args, kwargs)
        at = self.steps
        loss = float(self._run(batch, tensors, 1))
        if not math.isfinite(loss):
            self.skipped += 1
            if not self._problem.skip or self.skipped > self._max_skipped:
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
        arguments = _gathered(batch_size, transform)
        losses, skip = position.losses, self._problem.skip
        skipped = self.skipped + sum(int((~each.isfinite()).sum()) for each in losses)
        first = self.steps - sum(map(len, losses))
        layouts = tuple(map(layout, tensors))
        while (start := position.start) < size:
            together = self._together(size - start, batch_size)
            index = order[start : start + together * batch_size]
            batch = Batch(("epoch", len(index), layouts, transform), arguments, transform)
            losses.append(self._run(batch, (index, *tensors), together))
            position.start += len(index)
            if not (self._engine.masks or skip) and not losses[-1].isfinite().all():
                break
            if skip:
                skipped += int((~losses[-1].isfinite()).sum())
                if skipped > self._max_skipped:
                    break
            if on_step is not None:
                on_step(position)
        values = torch.cat(losses).cpu()
        bad = (~values.isfinite()).nonzero()
        self.skipped += len(bad)
        if len(bad) and (not skip or self.skipped > self._max_skipped):
            at = int(bad[-1 if skip else 0])  # the step that is one too many, or the first
            args, kwargs = arguments((order, *tensors), at)
            error = self._not_finite(float(values[at]), first + at, args, kwargs)
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
        if "max_plate_nesting" in state:
            self.loss.max_plate_nesting = state["max_plate_nesting"]  # type: ignore[union-attr]
        self._problem.optim.load_state_dict(state["optim"])
        self._engine.load_state_dict(state)
        if isinstance(self.loss, Objective):
            self.loss.step.copy_(state["objective_step"])

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
            self._problem.device = tensors[0].device
        with self._products:
            losses = self._engine.steps(batch, tensors, count)
        if not self._engine.masks:
            # One that is not finite was not taken, and those after it were not tried.
            count = len(losses) if self._problem.skip else int(losses.isfinite().sum())
        self._count(self._engine.name, count)
        return losses

    def _count(self, engine: EngineName, count: int) -> None:
        self.steps += count
        self.engine = engine
        self.engine_steps[engine] = self.engine_steps.get(engine, 0) + count

    def _not_finite(self, loss: float, at: int, args: Any, kwargs: Any) -> NonFinite:
        """Goes back to where the loss was last finite, and finds out what is to blame."""
        self._engine.rewind(0 if self._problem.skip else self.steps - at)
        self.steps = at
        return explain(self._problem, loss, at, args, kwargs, self._engine.random)


class _Products:
    """Products are told their precision as they are launched, not as they are compiled."""

    def __init__(self, precision: str) -> None:
        self._precision = precision

    def __enter__(self) -> None:
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self._precision)

    def __exit__(self, *error: object) -> None:
        torch.set_float32_matmul_precision(self._before)


def _batch_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Batch, tuple[Tensor, ...]]:
    """Splits the arguments of a step into its tensors and everything else, which is a key."""
    if not kwargs and all(isinstance(arg, Tensor) for arg in args):
        return Batch(("step", tuple(map(layout, args))), _positional), args
    leaves, spec = tree_flatten((args, kwargs))
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)

    def rebuild(tensors: Sequence[Tensor], step: int) -> Arguments:
        rest = iter(tensors)
        filled = [next(rest) if isinstance(old, Tensor) else old for old in leaves]
        return tree_unflatten(filled, spec)

    key = "step", tuple(map(layout, tensors)), tuple(map(_key, others)), str(spec)
    return Batch(key, rebuild, others), tensors


def _key(value: Any) -> tuple[type, Any]:
    # `True`, 1 and 1.0 are equal, and not the same to a program.
    return type(value), value if isinstance(value, Hashable) else id(value)


def _positional(tensors: Sequence[Tensor], step: int) -> Arguments:
    return tuple(tensors), {}


def _gathered(
    batch_size: int, transform: Callable[..., Any] | None
) -> Callable[[Sequence[Tensor], int], Arguments]:
    """Returns what makes an index of rows, and data, into the arguments of a step."""

    def arguments(inputs: Sequence[Tensor], step: int) -> Arguments:
        index = inputs[0]
        rows = index[step * batch_size : (step + 1) * batch_size]
        args = tuple(tensor[rows] for tensor in inputs[1:])
        if transform is not None:
            made = transform(*args)
            if isinstance(made, dict):
                return (), made
            args = made
        return args if isinstance(args, tuple) else (args,), {}

    return arguments
