"""What a program depends on: everything that it may read while it runs.

Everything it reaches (arguments, parameters, buffers, tensors in attributes, closures and globals)
becomes an input of a graph, found by identity, so that the program itself is run as it is. Plain
Python values it reaches are baked in, and therefore watched: see :class:`Dependencies`.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.guards import Guards
from pyro_vae.engine.memory import layout
from pyro_vae.engine.reads import Reads
from pyro_vae.engine.walk import Walk

__all__ = ["Dependencies"]


class Dependencies:
    """Creates the record of what some programs depend on: their tensors and their plain values.

    A graph has the plain values baked in and holds the tensors as inputs, so it stands for the
    programs as long as :meth:`changed` finds that both are still the same ones.

    At first it is everything that they reach; :meth:`narrow` leaves out what they do not read.

    Args:
        roots: Modules, functions, bound methods, objectives.

    Attributes:
        tensors: All that the programs reach.
        moving: What has a state that nobody can put back, wherever it is.
        reads: What they read; to be recorded as they run, before :meth:`narrow`.
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self.reads = Reads()
        self._reads: Reads | None = None
        self._more: list[Callable[[Walk], None]] = []
        self._before: Guards | None = None
        self._walk = Walk(roots, strict=False)
        self._undo = self._walk.undo
        self.tensors = self._walk.tensors
        self.moving = self._walk.moving
        self.freeze()

    def narrow(self) -> None:
        """Watches from now on what programs reach by the code that they have run, and no more."""
        reads = self.reads
        self._reads = reads if reads.complete else None
        size = -1
        while size != (size := reads.size()):  # a walk may find that more is read
            self._walk = self._again()
            # Functions that no variable holds: from a registry in C, or a reference that is weak.
            if hidden := reads.unexplained(self._walk.codes):
                functions = [f for f in gc.get_objects() if type(f) is types.FunctionType]
                self._roots += tuple(f for f in functions if f.__code__ in hidden)
                self._walk = self._again()
        self.freeze()

    def cover(self, inputs: Iterable[Tensor]) -> None:
        """Watches what the run of a graph's capture has read besides, whose inputs are these.

        Where an input is reached and not watched, it is read in a way that is not understood; then
        everything is watched.
        """
        if self.reads.size() != self._size:
            self.narrow()
        watched, reached = (set(map(id, tensors)) for tensors in (self._walk.tensors, self.tensors))
        if any(id(tensor) in reached - watched for tensor in inputs):
            self.reads.complete = False
            self.narrow()

    def also(self, watch: Callable[[Walk], None]) -> None:
        """Adds the entries that ``watch`` makes."""
        self._more.append(watch)
        watch(self._walk)
        self._walk.finish()
        self.freeze()

    def freeze(self) -> None:
        """Takes everything as it now is."""
        walk = self._walk
        walk.guards.freeze(self._before)
        self._before = walk.guards
        self._size = self.reads.size()
        self._trained = list(map(_training, walk.tensors))
        self._layouts = list(map(layout, walk.tensors))
        self._guard_tensors()

    def changed(self) -> str | None:
        """Returns the name of something that is no longer what it was, or None."""
        # Identity first: it costs some ten nanoseconds a value, and this runs at every step.
        tensors = self._walk.tensors
        stands = self._walk.guards.stand()
        if stands and self._tensor_guards.check(*tensors):
            return None
        if list(map(_training, tensors)) != self._trained:
            return "what is to be trained"
        if list(map(layout, tensors)) != self._layouts:
            return "a tensor's shape, dtype or device"
        if stands:
            self._guard_tensors()
            return None
        try:
            walk = self._again()
        except NotCapturable as reason:
            return str(reason)
        if (name := self._walk.difference(walk)) is not None:
            return name
        self._walk = walk
        self.freeze()
        return None

    @property
    def count(self) -> int:
        """How many values are watched, besides the tensors."""
        return self._walk.guards.count

    def put_back(self) -> None:
        """Gives fields and variables that trial runs have replaced what they had before."""
        for owner, key, then in self._undo:
            if isinstance(owner, types.CellType):
                owner.cell_contents = then
            elif key in owner and owner[key] is not then:
                owner[key] = then

    def _again(self) -> Walk:
        walk = Walk(self._roots, self._reads)
        for watch in self._more:  # in the order of the entries that `also` has made
            watch(walk)
            walk.finish()
        return walk

    def _guard_tensors(self) -> None:
        tensors = self._walk.tensors
        sizes: list[Any] = [list(t.shape) for t in tensors]
        strides: list[Any] = [list(t.stride()) for t in tensors]
        self._tensor_guards = TensorGuards(
            *tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
        )


def _training(tensor: Tensor) -> tuple[bool, bool]:
    hooks = tensor._backward_hooks or tensor._post_accumulate_grad_hooks
    return tensor.requires_grad, bool(hooks)
