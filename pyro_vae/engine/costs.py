"""Whether compiling pays: by the work of a step, and what work costs on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pyro_vae.engine.cache import private

__all__ = ["Costs", "Work", "costs_of"]

log = logging.getLogger("pyro_vae")
_SAVED = 0.5  # of the time of an eager step, at least, by a compiled one
_HANDLED = 2.0  # times as long as a bare operation takes one of a Pyro program, with its handlers


class Work(TorchDispatchMode):
    """Counts what is done inside it, by no clock.

    Attributes:
        operations: Calls of operators, those of the backward pass included.
        elements: Results of those that are no products.
        products: Multiplications and additions of matrix products and convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.elements = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.products += int(formula(*args, **(kwargs or {}), out_val=result))
        elif isinstance(result, Tensor):
            self.elements += result.numel()
        return result


class Costs(NamedTuple):
    """Seconds that work takes; by default on one core of a server of 2024.

    Attributes:
        operation: Of an operator of a Pyro program, whatever its size.
        element: Of a result, besides.
        product: Of a multiplication or an addition in a matrix product.
    """

    operation: float = 7e-6
    element: float = 1e-9
    product: float = 1e-11

    @property
    def compilation(self) -> float:
        """Of two small graphs (full and short batch) on one core, nothing cached.

        It is work of the host, as operators are: where these take twice as long, so does it.
        """
        return 50.0 * self.operation / Costs().operation

    def pay(self, work: Work, steps: int) -> bool:
        """Tells whether compiling a step saves more time in so many steps than it takes."""
        step = (work.operations, work.elements, work.products)
        seconds = math.fsum(count * cost for count, cost in zip(step, self, strict=True))
        return _SAVED * steps * seconds >= self.compilation


def costs_of(device: torch.device) -> Costs:
    """Returns what work costs on a device of this machine: measured once, and kept.

    Where it cannot be kept, or what is kept is damaged, these are the defaults: what is measured
    anew by each process would be another number each time.
    """
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else device.type
    machine = f"{platform.node()}, {name}, {torch.get_num_threads()} threads"
    if (folder := private("costs")) is None:
        return Costs()
    path = folder / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"
    try:
        if not path.exists():
            measured = _measured(device)._asdict()
            part = path.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps({"machine": machine, **measured}), encoding="utf-8")
            part.replace(path)
            log.info("measured what work costs on this machine, once: %s", path)
        found = json.loads(path.read_text(encoding="utf-8"))
        costs = Costs(*(float(found[name]) for name in Costs._fields))
        if all(0 < each < 1 for each in costs):
            return costs
        reason: object = "numbers that are no seconds"
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = error
    log.info("what work costs is taken to be as usual, instead of from %s: %r", path, reason)
    return Costs()


def _measured(device: torch.device) -> Costs:
    """Measures, in some tens of milliseconds; no random number is drawn."""
    size = 256 if device.type == "cpu" else 2048
    few = torch.ones(8, device="cpu", requires_grad=True)
    matrix = torch.ones(size, size, device=device)

    def operators() -> object:
        x = few
        for _ in range(100):
            x = x * 1.0
        return x.sum().backward()

    with torch.enable_grad(), Work() as work:
        operators()
    with torch.enable_grad():
        operation = _fastest(operators, few.device) / work.operations
    with torch.no_grad():
        element = _fastest(matrix.exp, device) / matrix.numel()
        product = _fastest(lambda: matrix @ matrix, device) / (2 * size**3)
    return Costs(_HANDLED * operation, element, product)


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    """Returns seconds; another program may have the processor for a while."""
    seconds = math.inf
    for _ in range(10):
        began = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.zeros((), device=device).item()  # waits for all before
        seconds = min(seconds, time.perf_counter() - began)
    return seconds
