"""A number that stands for any other: an input of a graph where the program had one of Python."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from pyro_vae.engine.errors import ReadsBack

__all__ = ["AsTensors", "Number"]

# What says no more of it than that it is a number.
_HARMLESS = {"dim", "size", "numel", "ndimension", "is_floating_point", "is_complex"}
_FIELDS = {"shape", "ndim", "device", "requires_grad", "is_leaf", "layout", "is_cuda", "is_sparse"}


class Number(Tensor):
    """A tensor without values in the place of a number: its arithmetic is that of the number.

    Where it meets tensors, a tensor takes its place, in the data type in which torch would have
    taken the number. Among numbers it is a number. Whatever needs to know its value is refused.

    Attributes:
        plain: The number as a tensor that is traced, shape ``()``, float64 or int64.
        pure: Whether it may meet other numbers: those of NumPy keep to rules of their own.
        derived: Whether it has been computed.
    """

    plain: Tensor
    pure: bool
    derived: bool

    def __new__(cls, plain: Tensor, pure: bool = True, derived: bool = False) -> Number:
        number: Number = torch.Tensor._make_wrapper_subclass(
            cls, (), dtype=plain.dtype, device=plain.device
        )
        number.plain, number.pure, number.derived = plain, pure, derived
        return number

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        leaves = tree_leaves((args, kwargs))
        others = [each for each in leaves if isinstance(each, Tensor) and type(each) is not cls]
        if name == "__get__":
            field = func.__self__.__name__
            if field == "dtype":
                return torch.get_default_dtype()  # of a tensor that is made of it
            if field not in _FIELDS:
                raise _read(field)
        elif not others and func is not torch.broadcast_tensors and name not in _HARMLESS:
            raise _read(name)

        def taken(value: Any) -> Any:
            return value._among(others) if isinstance(value, Number) else value

        return func(*tree_map(taken, tuple(args)), **tree_map(taken, kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        raise _read(str(func))

    def __hash__(self) -> int:
        raise _read("__hash__")

    def __deepcopy__(self, memo: Any) -> Any:
        raise _read("__deepcopy__")

    def _among(self, others: Sequence[Tensor]) -> Tensor:
        """Returns it in the data type that torch gives a number among these."""
        if any(other.is_complex() for other in others):
            raise _read("complex arithmetic")
        real = [other for other in others if other.is_floating_point()]
        if not real:
            whole = self.plain.dtype == torch.int64 and others
            return self.plain if whole else self.plain.to(torch.get_default_dtype())
        large = [other for other in real if other.dim() > 0]
        dtype = functools.reduce(torch.promote_types, [other.dtype for other in large or real])
        if large and dtype.itemsize < 4:
            dtype = torch.float32  # in which torch computes with a number
        return self.plain.to(dtype)

    def _with(self, other: Any, apply: Callable[[Any, Any], Any], swapped: bool = False) -> Any:
        """Applies an operator of two to it and a number, which gives a number, or to a tensor."""
        if isinstance(other, Tensor) and not isinstance(other, Number):
            mine = self._among([other])
            return apply(other, mine) if swapped else apply(mine, other)
        theirs = other.plain if isinstance(other, Number) else other
        if apply is operator.mul and type(other) in (int, float) and other == 1:
            return self  # whatever it is; Pyro multiplies scales with one
        numbers = isinstance(other, Number) or type(other) in (int, float)
        if not (numbers and self.pure and (not isinstance(other, Number) or other.pure)):
            raise _read(apply.__name__)
        mine, real = self.plain, apply is operator.truediv
        if isinstance(other, Number):
            real = real or mine.is_floating_point() or theirs.is_floating_point()
            theirs = theirs.double() if real else theirs
        else:
            real = real or mine.is_floating_point() or isinstance(other, float)
        mine = mine.double() if real else mine
        value = apply(theirs, mine) if swapped else apply(mine, theirs)
        return Number(value, derived=True)

    def _divisor(self, apply: Callable[[Any, Any], Any]) -> None:
        # Python refuses to divide by zero: known of the number itself, not of what is computed.
        if self.derived:
            raise _read(apply.__name__)

    def __add__(self, other: Any) -> Any:
        return self._with(other, operator.add)

    def __radd__(self, other: Any) -> Any:
        return self._with(other, operator.add, swapped=True)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, operator.sub)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, operator.sub, swapped=True)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, operator.mul)

    def __rmul__(self, other: Any) -> Any:
        return self._with(other, operator.mul, swapped=True)

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, Number):
            other._divisor(operator.truediv)
        elif not isinstance(other, Tensor) and other == 0:
            raise _read("division by zero")
        return self._with(other, operator.truediv)

    def __rtruediv__(self, other: Any) -> Any:
        if not isinstance(other, Tensor):
            self._divisor(operator.truediv)
        return self._with(other, operator.truediv, swapped=True)

    def __pow__(self, other: Any) -> Any:
        if not isinstance(other, Tensor) and not (type(other) is int and 1 <= other <= 4):
            raise _read("pow")
        return self._with(other, operator.pow)

    def __rpow__(self, other: Any) -> Any:
        if not isinstance(other, Tensor) and not (type(other) is float and other > 0):
            raise _read("pow")
        return self._with(other, operator.pow, swapped=True)

    def __neg__(self) -> Any:
        return self._with(-1, operator.mul)

    def __pos__(self) -> Any:
        return self._with(1, operator.mul)


class AsTensors(TorchFunctionMode):
    """Inside it, a tensor can be made of a number that stands for any other."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and args and isinstance(args[0], Number):
            plain = args[0].plain
            default = torch.get_default_dtype() if plain.is_floating_point() else plain.dtype
            if kwargs.get("requires_grad"):
                raise _read("requires_grad")
            return plain.to(kwargs.get("device"), kwargs.get("dtype") or default, copy=True)
        return func(*args, **kwargs)


def _read(name: str) -> ReadsBack:
    return ReadsBack(f"its value is read (`{name.strip('_')}`)")
