"""One-line errors: the argument in backticks, what was expected, what came."""

from __future__ import annotations

import difflib
import numbers
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pyro_vae._terminal import shown

if TYPE_CHECKING:  # the command line says what is wrong before it imports torch
    import torch

_BEGUN = 3  # letters by which a name is known
_TYPED = 8  # characters of a number that somebody may have typed
_SHOWN = 12  # names listed in full before the list is cut
_SHORT = 5  # of so many names the nearest is found at the end, of more it is to be read first

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 80


def _shown(got: object) -> str:
    """The value as one short line; an array by its type, shape and dtype."""
    if isinstance(got, tuple) and type(got).__module__ == "torch":  # its sizes
        return str(tuple(got))
    if hasattr(got, "shape") and hasattr(got, "dtype"):
        dtype = str(got.dtype).removeprefix("torch.")
        return f"{type(got).__name__} of shape {tuple(got.shape)} and dtype {dtype}"
    if hasattr(got, "shape") and hasattr(got, "columns"):
        return f"{type(got).__name__} of shape {tuple(got.shape)}"
    return " ".join(_shortener.repr(got).split())


def expected(argument: str, what: str, got: object) -> ValueError:
    """A ValueError that names the argument, what was expected and what came.

    Args:
        argument: Name of the argument as the caller wrote it.
        what: What was expected, e.g. ``"a positive integer"``.
        got: What came; long values are shortened, arrays are described by shape and dtype.

    Example:
        >>> expected("epochs", "a positive integer", -3)
        ValueError('`epochs`: expected a positive integer, got -3')
    """
    return ValueError(shown(f"`{argument}`: expected {what}, got {_shown(got)}"))


def unknown_name(
    argument: str, name: object, names: Iterable[str], *, meant: str | None = None
) -> ValueError:
    """A ValueError for a name that is not among the known ones, with the nearest of them.

    Args:
        argument: Name of the argument as the caller wrote it.
        name: What came.
        names: The known names, in the order to show them.
        meant: The known name for the same thing, if that is known; else it is the nearest by its
            letters.

    Example:
        >>> print(unknown_name("data", "digts", ["digits", "mnist"]))
        `data`: expected one of digits, mnist, got 'digts' (did you mean 'digits'?)
        >>> print(unknown_name("by", "recon", ["elbo", "reconstruction"]))
        `by`: expected one of elbo, reconstruction, got 'recon' (did you mean 'reconstruction'?)
        >>> print(unknown_name("n", "fuor", ["one", "two", "three", "four", "five", "six"]))
        `n`: did you mean 'four'? expected one of one, two, three, four, five, six, got 'fuor'
    """
    known = list(names)
    listed = ", ".join(known[:_SHOWN])
    if len(known) > _SHOWN:
        listed += f" and {len(known) - _SHOWN} more"
    by_lower = {each.lower(): each for each in known}
    word = str(name).lower()
    near = difflib.get_close_matches(word, by_lower, n=1)
    if len(word) >= _BEGUN:  # a name that was not written to its end
        near = near or [each for each in by_lower if each.startswith(word)]
    meant = meant or (by_lower[near[0]] if near else None)
    first = last = ""
    if meant is not None and len(known) > _SHORT:
        first = f"did you mean {meant!r}? "
    elif meant is not None:
        last = f" (did you mean {meant!r}?)"
    message = f"`{argument}`: {first}expected one of {listed}, got {_shown(name)}{last}"
    return ValueError(shown(message))


def plural(count: int, noun: str) -> str:
    """Returns a number of things, in the number that it is.

    Example:
        >>> plural(1, "epoch"), plural(1200, "entry"), plural(0, "class")
        ('1 epoch', '1,200 entries', '0 classes')
    """
    if count == 1:
        return f"1 {noun}"
    stem, ending = (noun[:-1], "ies") if noun.endswith("y") else (noun, "s")
    return f"{count:,} {stem}{'es' if noun.endswith('s') else ending}"


def shortened(value: object) -> str:
    """Returns a value in words, and of a number that nobody typed four digits.

    Example:
        >>> shortened(0.0013294857193847), shortened(0.001), shortened([64, 64])
        ('0.001329', '0.001', '[64, 64]')
    """
    text = str(value)
    return f"{value:.4g}" if isinstance(value, float) and len(text) > _TYPED else text


def positive_integer(argument: str, value: object) -> int:
    """Returns ``value``, if it is a positive integer, as one of Python's.

    Raises:
        ValueError: If it is not.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or int(cast(int, value)) < 1:
        raise expected(argument, "a positive integer", value)
    return int(cast(int, value))


def is_number(value: object) -> bool:
    """Returns whether a value is a real number, which True and False are not.

    Example:
        >>> is_number(2), is_number(True), is_number("2")
        (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Returns a number of NumPy's as one of Python's, which JSON takes, and anything else as it is.

    Example:
        >>> import numpy as np
        >>> plain(np.int64(3)), plain("three")
        (3, 'three')
    """
    kind = type(value).__module__
    return value.item() if kind == "numpy" and hasattr(value, "item") and value.ndim == 0 else value


def check_seed(argument: str, seed: object) -> int:
    """Returns a seed, as an integer of Python's, and refuses one that not every generator takes.

    Raises:
        ValueError: If it is no integer >= 0 and below 2**32, NumPy's bound.
    """
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= int(cast(int, seed)) < 2**32:
        raise expected(argument, "an integer >= 0 and below 2**32", seed)
    return int(cast(int, seed))


def as_path(argument: str, value: object) -> Path:
    """Returns a path.

    Raises:
        ValueError: If it is something else, or has a character that no path has.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in (path := os.fspath(value)):
        raise expected(argument, "a path", value)
    return Path(path)


def typed_path(text: str | os.PathLike[str]) -> Path:
    """Returns a path as it was typed, with ``~`` for a home.

    Where there is no home of that name the path stays, and does not exist; pathlib's own function
    raises a RuntimeError.
    """
    return Path(os.path.expanduser(text))


def as_device(argument: str, value: Any) -> torch.device:
    """Returns a device of this machine.

    Raises:
        ValueError: If it has no such device.
    """
    import torch

    try:
        found = torch.zeros((), device=value)
        found.item()  # the device `meta` holds no numbers
        return found.device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        what = f"`{argument}`: expected one of this machine, got {_shown(value)}"
        raise ValueError(f"{what}: {reason}") from None


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error is that there was no memory left, on whatever device.

    Example:
        >>> out_of_memory(MemoryError()), out_of_memory(ValueError())
        (True, False)
        >>> out_of_memory(ImportError("x.so: failed to map segment from shared object"))
        True
        >>> out_of_memory(ImportError("x.so: cannot allocate memory in static TLS block"))
        False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True  # the latter is torch's, of a GPU
    if isinstance(error, SystemError):  # which is how Python's own code may end without memory
        return "without exception set" in str(error)
    # The messages of the CPU allocator of torch, of C++, and of a library that is loaded.
    words = (
        "can't allocate memory",
        "not enough memory",
        "bad_alloc",
        "size calculation overflowed",
        "failed to map segment",
        "cannot allocate memory",
    )
    # What a library may lack, too: room among the variables of threads, a right to be executed.
    others = ("static TLS", "Operation not permitted")
    text = str(error) if isinstance(error, RuntimeError | ImportError) else ""
    return any(each in text for each in words) and not any(each in text for each in others)
