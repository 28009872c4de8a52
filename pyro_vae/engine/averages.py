"""Running averages in the parameter store, which Pyro's baselines move without an optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from torch import Tensor

from pyro_vae.engine.memory import layout

__all__ = ["averages_stay", "unconstrained"]

_PREFIX = "__baseline_avg_downstream_cost_"


@contextmanager
def averages_stay() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Keeps the tensors of running averages in the store, where Pyro has a new one at each step.

    A graph finds its inputs by identity. The tensor of the step before is held by the store for
    ever, too, and has an optimiser of its own.

    Yields:
        Pairs of a tensor and what is to be written to it; filled on leaving.
    """
    store = pyro.get_param_store()
    then = {name: param for name, param in store._params.items() if name.startswith(_PREFIX)}
    moved: list[tuple[Tensor, Tensor]] = []
    yield moved
    for name, average in then.items():
        now = store._params.get(name)
        # One of another shape takes its place.
        if now is None or now is average or layout(now) != layout(average):
            continue
        for made in [param for param, of in store._param_to_name.items() if of == name]:
            if made is not average:
                del store._param_to_name[made]
        store._params[name] = average
        average.grad = None  # in stock, the optimiser moves a tensor that is in the store no more
        moved.append((average, now.detach()))


def unconstrained(site: dict[str, Any]) -> Tensor:
    """Returns the parameter of a site: of an average, what is in the store after the run."""
    if site["name"].startswith(_PREFIX):
        average: Tensor = pyro.get_param_store()._params[site["name"]]
        return average
    param: Tensor = site["value"].unconstrained()
    return param
