"""What a program depends on: everything that it may read while it runs.

Everything it reaches (arguments, parameters, buffers, tensors in attributes, closures and globals)
becomes an input of a graph, found by identity, so that the program itself is run as it is. Plain
Python values it reaches are baked in, and therefore watched: see :class:`Dependencies`.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch._C._dynamo.guards import TensorGuards

from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.guards import GONE, Guards
from pyro_vae.engine.memory import layout
from pyro_vae.engine.reads import Reads
from pyro_vae.engine.walk import Walk

__all__ = ["Dependencies"]

Pair: TypeAlias = tuple[Tensor, Tensor]


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
        self._rebind: Callable[[Sequence[Pair]], bool] | None = None
        self._replaced: set[int] = set()  # entries that were replaced
        self._loose: list[_Loose] = []
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

    def rebind(self, rebind: Callable[[Sequence[Pair]], bool]) -> None:
        """Has tensors that are replaced by others of the same layout no more count as changed.

        Unless programs may keep what they have computed of one by its identity: of another they
        would compute that anew.

        Args:
            rebind: Has a graph read the second of each pair in place of the first, or tells no.
        """
        if self.reads.complete and not self.reads.identifies and not self._walk.remembers:
            self._rebind = rebind

    def freeze(self) -> None:
        """Takes everything as it now is."""
        walk = self._walk
        self._loose = [loose for at in self._replaced if (loose := self._loosen(at)) is not None]
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
        stands = self._walk.guards.stand() and (not self._loose or self._follow())
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
        replaced: list[int] | None = None if self._rebind is None else []
        if (name := self._walk.difference(walk, replaced)) is not None:
            return name
        if replaced:
            now = [(at, walk.tensor(at)) for at in replaced]
            if not self._replace([(at, t) for at, t in now if t is not None], walk.tensors):
                return self._walk.name(replaced[0])
            self._replaced.update(replaced)
        self._walk = walk
        self.freeze()
        return None

    def _loosen(self, at: int) -> _Loose | None:
        """Watches an entry that is replaced now and then by reading it before each call."""
        tensor = self._walk.tensor(at)
        if tensor is None or tensor.__dict__ or not self._walk.is_met_once(at):
            return None
        read = self._walk.guards.loosen(tensor)
        return None if read is None else _Loose(at, read, tensor)

    def _follow(self) -> bool:
        """Tells whether what is read before each call is, or takes the place of, what it was."""
        new: list[tuple[_Loose, Tensor]] = []
        for loose in self._loose:
            try:
                now = loose.read()
            except GONE:
                return False
            if now is not loose.tensor:
                if not isinstance(now, Tensor) or self._walk.has_met(now):
                    return False
                new.append((loose, now))
            if now.__dict__:
                return False
        if not new:
            return True
        by_then = {id(loose.tensor): now for loose, now in new}
        if len({id(now) for now in by_then.values()}) < len(new):
            return False
        tensors = [by_then.get(id(tensor), tensor) for tensor in self._walk.tensors]
        if not self._replace([(loose.at, now) for loose, now in new], tensors):
            return False
        for loose, now in new:
            self._walk.replace(loose.at, now)
            loose.tensor = now
        return True

    def _replace(self, new: Sequence[tuple[int, Tensor]], tensors: Sequence[Tensor]) -> bool:
        """Has the graph read other tensors, if they are of the kind of those they replace.

        Args:
            new: The entry and the tensor that takes its place.
            tensors: All tensors with these among them.
        """
        then = [self._walk.tensor(at) for at, _ in new]
        pairs = [(old, now) for old, (_, now) in zip(then, new, strict=True) if old is not None]
        if self._rebind is None or not all(_is_data(now) and _is_data(old) for old, now in pairs):
            return False
        if not self._tensor_guards.check(*tensors) or not self._rebind(pairs):
            return False
        changed = {id(old): now for old, now in pairs}
        self.tensors = [changed.get(id(tensor), tensor) for tensor in self.tensors]
        return True

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


@dataclass
class _Loose:
    """A tensor that is replaced now and then, and where it is.

    Attributes:
        at: Its entry.
        read: Returns what is there.
        tensor: What was there last.
    """

    at: int
    read: Callable[[], Any]
    tensor: Tensor


def _is_data(tensor: Tensor) -> bool:
    """Tells whether a tensor is nothing that is trained, and of no class of its own."""
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.requires_grad


def _training(tensor: Tensor) -> tuple[bool, bool]:
    hooks = tensor._backward_hooks or tensor._post_accumulate_grad_hooks
    return tensor.requires_grad, bool(hooks)
