"""How much memory data may take: what a text such as ``512MiB`` names, and what there is."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

import torch

from pyro_vae._errors import expected, positive_integer

__all__ = ["as_bytes", "budget", "check_fits", "free_memory"]

_UNITS = {"": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_SHARE = 4  # of what is free, one part in so many


def as_bytes(text: str, argument: str = "max_memory") -> int:
    """Returns the number of bytes that a text such as ``512MiB``, ``2GB`` or ``1000000`` names.

    Raises:
        ValueError: If it names none.

    Example:
        >>> as_bytes("512MiB"), as_bytes("2 GB"), as_bytes("4096")
        (536870912, 2000000000, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise expected(argument, "a number of bytes such as 512MiB", text)
    unit = found[2].upper()
    scale = (1024 if found[3] else 1000) ** _UNITS[unit] if unit else 1
    return int(float(found[1]) * scale)


def free_memory(device: torch.device | None = None) -> int:
    """Returns the bytes that are free: on a CUDA device, or else in this machine.

    Pages that only cache files count as free, where the system says how many there are.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            known = dict(line.split(":", 1) for line in file)
        return int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def budget(max_memory: int | str | None = None, device: torch.device | None = None) -> int:
    """Returns how many bytes data may take.

    Args:
        max_memory: Bytes, or a text that names so many; a quarter of what is free if not given.
        device: Where the data are to be.

    Raises:
        ValueError: If it is no positive number of bytes.

    Example:
        >>> budget("1MiB"), budget(4096)
        (1048576, 4096)
    """
    if max_memory is None:
        return free_memory(device) // _SHARE
    if isinstance(max_memory, str):
        max_memory = as_bytes(max_memory)
    return positive_integer("max_memory", max_memory)


def check_fits(shape: Sequence[int], itemsize: int, argument: str = "data") -> None:
    """Checks that there is memory for an array of a file that is read as a whole.

    Args:
        shape: Of the array.
        itemsize: Bytes an entry.
        argument: What to call it in an error.

    Raises:
        ValueError: If there is not: a system may kill a process that takes more.

    Example:
        >>> check_fits((1000, 784), 4)
    """
    size, free = math.prod(shape) * itemsize, free_memory()
    if size > free:
        what = (
            f"an array for which there is memory, of which {free / 1e9:.1f} GB are free: "
            "`pv.data.stream` in Python reads larger ones some rows at a time"
        )
        raise expected(argument, what, f"one of shape {tuple(shape)}, {size / 1e9:.1f} GB")
