"""Old names of methods, which are called and overridden for one more release."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

__all__ = ["adopt", "renamed"]


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
