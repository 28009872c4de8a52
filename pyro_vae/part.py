"""What every swappable part has in common: it remembers how it was built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from torch import nn

from pyro_vae._errors import expected, unknown_name

__all__ = ["Part", "derived", "named_part"]


class Part(nn.Module):
    """A module that records its constructor arguments, so that JSON alone can rebuild it.

    Subclasses do nothing for it: the arguments are taken from the call, defaults filled in.

    Example:
        >>> import pyro_vae as pv
        >>> pv.priors.Laplace(2).spec()
        {'class': 'priors.Laplace', 'args': {'dim': 2}}
    """

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        # Partial, since copy and pickle make an empty object first and fill its `__dict__` later.
        bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = list(bound.arguments.items())[1:]
        self.__dict__["_arguments"] = dict(arguments)
        return self

    def spec(self) -> dict[str, Any]:
        """Returns ``{"class": name, "args": {...}}``, ready for JSON.

        Raises:
            ValueError: If an argument is not a number, a string, a part, or a list or mapping
                of those.
        """
        return {
            "class": _class_name(self),
            "args": {name: _encode(name, value) for name, value in self._arguments.items()},
        }


class derived:  # noqa: N801 - used as `property` is
    """A property that a class or an instance may override by a plain attribute; never stored.

    What follows from other attributes is not kept: a copy of it would be another object.

    Args:
        function: From the instance to the value.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self.function(instance)


def named_part(argument: str, given: object, known: Mapping[str, Any], **defaults: Any) -> Any:
    """Returns a part that was given by name: its class alone, or with its options.

    Args:
        argument: What to call it in an error.
        given: A name, a mapping of ``class`` and options, or anything else, returned as it is.
        known: Classes by name.
        defaults: Options for those that have none of their own.

    Raises:
        ValueError: If the name is unknown, or an option.

    Example:
        >>> from pyro_vae import priors
        >>> named_part("parts", {"class": "Laplace", "dim": 2}, {"Laplace": priors.Laplace}).spec()
        {'class': 'priors.Laplace', 'args': {'dim': 2}}
    """
    if isinstance(given, str):
        given = {"class": given}
    if not isinstance(given, Mapping):
        return given
    options = dict(given)
    name = options.pop("class", None)
    if name not in known:
        raise unknown_name(argument, name, known)
    try:
        return known[name](**defaults | options)
    except TypeError as error:
        raise expected(argument, f"options of {name}", str(error)) from None


def _class_name(module: nn.Module) -> str:
    package, *subpackages = type(module).__module__.split(".")
    own = package == __package__ and len(subpackages) > 0
    return f"{subpackages[0]}.{type(module).__name__}" if own else type(module).__name__


def _encode(name: str, value: object) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):  # a number of NumPy's
        return value.item()
    if isinstance(value, Part):
        return value.spec()
    if isinstance(value, nn.Module):
        # A user's own network: its arguments are its own affair, `load(classes=...)` rebuilds it.
        return {"class": _class_name(value)}
    if isinstance(value, Mapping):
        return {str(key): _encode(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(name, item) for item in value]
    raise expected(name, "a number, a string, a part or a list of those", value)
