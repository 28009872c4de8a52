"""Values that leave tensors: a graph would have those of its capture baked in."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.engine.errors import ReadsBack
from pyro_vae.engine.replacing import replaced
from pyro_vae.engine.validation import checks

__all__ = ["values_stay_inside"]

# These pass by the dispatcher, so that no mode sees them.
_METHODS = (
    *("numpy", "tolist", "__array__", "__repr__", "__deepcopy__", "__reduce_ex__", "__dlpack__"),
    *("__cuda_array_interface__", "storage", "untyped_storage", "map_", "apply_", "tensor_split"),
)
_FUNCTIONS = ("tensor_split",)
_TRACERS = ("torch.", "pyro_vae.engine.")
_SIZES = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_aten = torch.ops.aten
_INDEXED = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
)
# What they return holds the same values whatever they are given.
_FILLED = (
    *(_aten.new_ones.default, _aten.new_zeros.default, _aten.new_full.default),
    *(_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default),
)
# Their kernels read what they are given on the host, and nothing says so of them.
_UNTAGGED = (_aten._pack_padded_sequence.default,)

_SAID = {
    "item": "control flow on data, or `.item()`",
    "_pack_padded_sequence": "lengths for `pack_padded_sequence`; pad the sequences and mask them, "
    "`torch.arange(steps) < lengths[:, None]`, which is captured",
}


class _Values(TorchDispatchMode):
    """Knows which tensors hold the same values at every run, and refuses that others are read.

    Those are what operations without random numbers make of each other, from nothing that was there
    before: ``torch.arange(3).tolist()`` is a constant.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._constant: set[int] = set()  # by storage
        self.refused: ReadsBack | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _aten._is_all_true.default:
            func = _aten.all.default  # the compiler has no code for the other
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # What is made of Python's numbers comes in by the first of these.
        constant = func is _aten.lift_fresh.default or all(map(self._is_constant, inputs))
        checking = None
        if func is _aten._local_scalar_dense.default and inputs[0].dtype == torch.bool:
            checking = checks()
        if checking is not None and not constant:
            with disable_proxy_modes_tracing():
                outcome = func(*args, **kwargs)
            checking.record(inputs[0], outcome)
            return outcome
        if constant and inputs and any(tag in func.tags for tag in _SIZES):
            with disable_proxy_modes_tracing():  # the tracer would refuse it
                return func(*args, **kwargs)
        if not constant and (name := _read_by(func, args)) is not None:
            self.refuse(name)
        result = func(*args, **kwargs)
        constant = (
            constant or func in _FILLED
        ) and torch.Tag.nondeterministic_seeded not in func.tags
        written = inputs if func._schema.is_mutable else []
        for leaf in (*written, *tree_leaves(result)):
            if isinstance(leaf, Tensor) and (place := _place(leaf)) is not None:
                # One that is written to remains constant only if it was.
                if constant:
                    self._constant.add(place)
                else:
                    self._constant.discard(place)
        return result

    def check(self, name: str, tensors: Iterator[Tensor]) -> None:
        """Refuses that a method is called on a tensor whose values may be others at another run."""
        if threading.get_ident() == self._thread and not all(map(self._is_constant, tensors)):
            self.refuse(name)

    def refuse(self, name: str) -> None:
        what = _SAID.get(name, f"`{name}`")
        error = ReadsBack(f"it reads a value back ({what})")
        self.refused = self.refused or error
        if (checking := checks()) is not None:
            checking.failed = True
        raise error

    def _is_constant(self, tensor: Tensor) -> bool:
        return _place(tensor) in self._constant


@contextmanager
def values_stay_inside() -> Iterator[None]:
    """Refuses, where it happens, that a value leaves a tensor.

    Raises:
        ReadsBack: At the site, and on leaving, should the program have caught it.
    """
    mode = _Values()
    owners = [(Tensor, name) for name in _METHODS] + [(torch, name) for name in _FUNCTIONS]
    guards: list[tuple[Any, str, Any]] = []
    for owner, name in owners:
        if isinstance(kept := getattr(owner, name), property):
            assert kept.fget is not None
            guards.append((owner, name, property(_guarded(mode, name, kept.fget))))
        elif callable(kept):
            guards.append((owner, name, _guarded(mode, name, kept)))
    with replaced(guards), mode:
        yield
    if mode.refused is not None:
        raise mode.refused


def _guarded(mode: _Values, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if "storage" in name and sys._getframe(1).f_globals["__name__"].startswith(_TRACERS):
            return function(*args, **kwargs)  # the tracer itself, that tells tensors by theirs
        tensors = [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor)]
        # Of a split, where it is made counts, and not what is split.
        mode.check(name, iter(tensors[1:] if name == "tensor_split" else tensors))
        return function(*args, **kwargs)

    return guarded


def _read_by(func: Any, args: Any) -> str | None:
    """Names what an operation reads as it runs, whose result or shape is no tensor's; or None."""
    name = str(func._overloadpacket.__name__)
    if func is _aten._local_scalar_dense.default:
        return "item"
    if func in _UNTAGGED:
        return name
    if func in _INDEXED:
        masked = any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        # One value can be put wherever a mask says so.
        one = len(args) > 2 and args[2].numel() == 1
        return "indexing by a mask" if masked and not one else None
    return name if any(tag in func.tags for tag in _SIZES) else None


def _place(tensor: Tensor) -> int | None:
    if tensor.layout is not torch.strided:
        return None
    return int(torch._C.TensorBase.untyped_storage(tensor)._cdata)
