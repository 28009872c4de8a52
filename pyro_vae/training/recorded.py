"""What ``fit.json`` says of how a run was fitted, as the objects that it was fitted by."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both

from pyro_vae import objectives
from pyro_vae._errors import expected
from pyro_vae.objectives import Objective
from pyro_vae.training.recipe import Recipe, Score
from pyro_vae.training.schedules import NAMES

__all__ = ["objective_of", "recipe_of"]


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Returns the recipe that ``fit.json`` has recorded.

    Raises:
        ValueError: If the optimiser, the schedule or the score to choose by was one of the user's
            own, of which no file has the code.
    """
    known = {each.name: settings[each.name] for each in fields(Recipe) if each.name in settings}
    none_has = {
        "optim": known.get("optim") is not None,
        "monitor": known.get("monitor") not in (None, *get_args(Score)),
        "schedule": str(known.get("schedule", "constant")).partition("(")[0] not in NAMES,
    }
    for name in (name for name, is_missing in none_has.items() if is_missing):
        what = f"one that a file has: for your own `{name}`, the run that `fit` returned"
        raise expected(name, what, known[name])
    return Recipe(**known)


def objective_of(settings: Mapping[str, Any], steps: int) -> PyroELBO:
    """Returns the objective that ``fit.json`` has recorded, as after so many steps.

    Raises:
        ValueError: If it is none of the package's own.
    """
    recorded = dict(settings.get("objective", {}))
    name = recorded.pop("class", None)
    if name not in objectives.__all__:
        what = "an objective of `pyro_vae.objectives`: for your own, the run that `fit` returned"
        raise expected("objective", what, name)
    kind = getattr(objectives, name)
    # How many observations there are is found anew.
    asked = inspect.signature(kind).parameters.keys() - {"num_data"}
    objective = kind(**{key: recorded[key] for key in asked & recorded.keys()})
    assert isinstance(objective, Objective)
    objective.step.fill_(steps)  # no warm-up for what is warm
    return objective
