"""Losses that are not finite, and what is to blame for them."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.engine.generators import random_state, set_random_state
from pyro_vae.engine.problem import Loss, Problem

__all__ = ["NonFinite", "explain"]

_TRIES = 20  # draws with which to find out why a loss was not finite


class NonFinite(FloatingPointError):
    """A loss that is not finite, and the site, parameter or number that is to blame.

    Args:
        message: The place, and what is to blame.

    Attributes:
        step: The step that was not taken.
        batch: What the programs were called with.
        random: State of torch's generator with which it is so, bytes of shape ``(S,)``; None if it
            was not so again.
        rows: Of the data, those in the batch; None for a step that was given its batch.
    """

    def __init__(self, message: str, step: int, batch: Any, random: Tensor | None) -> None:
        super().__init__(message)
        self.step = step
        self.batch = batch
        self.random = random
        self.rows: Tensor | None = None


def explain(
    problem: Problem, loss: Loss, at: int, args: Any, kwargs: Any, random: Tensor | None
) -> NonFinite:
    """Returns the error of a loss that is not finite, after looking for its cause.

    Args:
        problem: What is minimised.
        loss: The loss.
        at: The step.
        args: What the programs were called with, by position.
        kwargs: The same, by name.
        random: State of torch's generator before the step, where it is known.
    """
    before = random_state(problem.device)
    for _ in range(_TRIES):
        if random is not None:
            torch.set_rng_state(random)
        tried = torch.get_rng_state()
        if (cause := _cause(problem, args, kwargs)) is not None:
            break
        random = None  # other numbers
    set_random_state(before, problem.device)
    if cause is None:
        message = "with other random numbers every site is finite"
        return NonFinite(f"the loss is {loss} at step {at}: {message}", at, args, None)
    return NonFinite(f"the loss is {loss} at step {at}: {cause}", at, args, tried)


def _cause(problem: Problem, args: Any, kwargs: Any) -> str | None:
    """Names what is not finite in one run of the programs, or None."""
    rates = [slot.group["lr"] for slot in problem.optim.all_slots()]
    if not all(math.isfinite(float(rate)) for rate in rates):
        return f"the learning rate is {float(rates[0])}"
    with torch.no_grad(), pyro.validation_enabled(False):
        guide = poutine.trace(problem.guide).get_trace(*args, **kwargs)
        model = poutine.trace(poutine.replay(problem.model, guide)).get_trace(*args, **kwargs)
        sites = [*guide.nodes.items(), *model.nodes.items()]
        # Causes first: parameters, then data, then what is computed from them.
        sites.sort(key=lambda item: (item[1]["type"] != "param", not _is_data(item[1])))
        for name, site in sites:
            values = [site["value"]] if site["type"] in ("param", "sample") else []
            if site["type"] == "sample" and not site_is_subsample(site):
                values.append(site["fn"].log_prob(site["value"]))
            bad = [value for value in values if not value.isfinite().all()]
            if bad and site["type"] == "param":
                # A store's name starts with that of the module.
                return f"parameter `{name.rpartition('$$$')[2]}` is not finite"
            if bad:
                first = (~bad[0].isfinite()).nonzero()[0].tolist()
                where = f" at {first}" if first else ""
                whose = "what is observed at it" if _is_data(site) else "it"
                return f"site `{name}`: {whose} is not finite{where}"
        weight = getattr(problem.loss, "weight", None)
        if callable(weight) and not math.isfinite(value := float(weight())):
            return f"the schedule: the weight of {type(problem.loss).__name__} is {value}"
    return None


def _is_data(site: dict[str, Any]) -> bool:
    """Tells whether a site is observed, and what is observed is not finite."""
    return bool(site["type"] == "sample" and site["is_observed"]) and not bool(
        site["value"].isfinite().all()
    )
