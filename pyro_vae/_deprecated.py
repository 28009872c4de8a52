"""Old names and old ways to call, which are served for one more release."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__ = [
    "adopt",
    "by_name",
    "refuse_old",
    "renamed",
    "renamed_argument",
    "renamed_property",
    "take_cond",
]

P = ParamSpec("P")
R = TypeVar("R")


def renamed(old: str, new: str) -> Callable[..., Any]:
    """Returns a method that warns, and calls the one that has taken its place.

    In an override of the old name, ``super()`` leads here: hence the call goes to the first class
    that has the new name of its own, not to that override again.

    Args:
        old: The old name.
        new: The new name.
    """

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        _warn(type(self), old, new, stacklevel=3)
        own = (vars(each).get(new) for each in type(self).__mro__)
        current = next(each for each in own if each and not hasattr(each, "_overrides"))
        return current(self, *args, **kwargs)

    method.__name__ = old
    method.__doc__ = f"Deprecated: the old name of :meth:`{new}`."
    return method


def renamed_property(old: str, new: str) -> Any:
    """Returns a property that warns, and has the value of the one that has taken its place."""

    def value(self: Any) -> Any:
        _warn(type(self), old, new, stacklevel=3)
        return getattr(self, new)

    return property(value, doc=f"Deprecated: the old name of :attr:`{new}`.")


def adopt(cls: type, old: str, new: str) -> None:
    """Lets a class that overrides a method by its old name override it by the new one.

    Args:
        cls: The class, which may override neither.
        old: The old name.
        new: The new name.
    """
    override = vars(cls).get(old)
    if override is None or new in vars(cls):
        return
    _warn(cls, old, new, stacklevel=5)  # where the class is defined, beyond ABCMeta

    @wraps(override)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return override(self, *args, **kwargs)

    method._overrides = old  # type: ignore[attr-defined]
    setattr(cls, new, method)


def _warn(cls: type, old: str, new: str, stacklevel: int) -> None:
    what = f"`{cls.__name__}.{old}` is deprecated and will be removed: use `{new}`"
    warnings.warn(what, DeprecationWarning, stacklevel=stacklevel)


def by_name(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that takes what was once given by position, and warns.

    Args:
        names: Of the arguments that followed those which the method takes now, in order.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(method).parameters.values()
        taken = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters)

        @wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if taken < len(args) <= taken + len(names):
                first = f"{names[0]}="
                what = f"`{method.__name__}`: give `{first}` and what follows it by name"
                warnings.warn(what, DeprecationWarning, stacklevel=2)
                moved = dict(zip(names, args[taken:], strict=False))
                if twice := moved.keys() & kwargs.keys():
                    raise TypeError(
                        f"{method.__name__}() got multiple values for argument '{min(twice)}'"
                    )
                kwargs |= moved  # type: ignore[assignment]
                args = args[:taken]  # type: ignore[assignment]
            return method(*args, **kwargs)

        return call

    return decorate


def refuse_old(cls: type, names: Sequence[str]) -> None:
    """Refuses a class that defines what nothing calls any more, rather than pass over it.

    Raises:
        TypeError: If it does.
    """
    for name in names:
        if callable(vars(cls).get(name)) or isinstance(vars(cls).get(name), property):
            raise TypeError(
                f"`{cls.__name__}.{name}`: expected `space` and a `Joint` that `forward` returns, "
                "got what was called in releases before 0.2"
            )


def take_cond(cls: type) -> None:
    """Lets a prior whose ``forward`` takes no condition be called with one, and warns."""
    forward = cls.forward  # type: ignore[attr-defined]
    if len(inspect.signature(forward).parameters) > 1:
        return
    what = f"`{cls.__name__}.forward` is to take `cond=None`, which it may ignore"
    warnings.warn(what, DeprecationWarning, stacklevel=4)  # where the class is defined

    @wraps(forward)
    def method(self: Any, cond: Any = None) -> Any:
        return forward(self)

    # Signatures are read from what a function wraps.
    del method.__wrapped__
    cls.forward = method  # type: ignore[attr-defined]


def renamed_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator of a function that takes a keyword argument by its old name, and warns.

    Args:
        old: The old name.
        new: The new name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{function.__name__}() takes `{new}` or `{old}`, not both")
                what = f"`{old}` of {function.__name__} is deprecated and will be removed"
                warnings.warn(f"{what}: use `{new}`", DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
