"""A finished run that goes on to more epochs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae import checkpoint
from pyro_vae._errors import expected, positive_integer
from pyro_vae.training.recorded import objective_of, recipe_of
from pyro_vae.training.resume import RunInProgress, check_same
from pyro_vae.training.run import STATE, Fitted, Run
from pyro_vae.training.state_file import from_file

__all__ = ["asked_of", "further_state", "is_further"]

log = logging.getLogger("pyro_vae")


def is_further(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Returns whether settings ask for more epochs than a run folder has, which is finished."""
    before = checkpoint.read_json(folder / "fit.json", settings=dict)["settings"].get("epochs")
    return isinstance(before, int) and settings["epochs"] > before


def further_state(
    run: Run[Any],
    settings: dict[str, Any],
    progress: RunInProgress | None = None,
) -> Mapping[str, Any]:
    """Returns the state that a finished run goes on from.

    Args:
        run: The finished run.
        settings: Of the longer one, from which the type of parameters goes that a first run made.
        progress: Its folder, if it has one; a checkpoint on the way is taken before its end.

    Raises:
        ValueError: If the longer run would not have begun as the finished one did, or there is no
            state to go on from.
    """
    before, steps, state = run.settings, run.engine_steps, None
    if progress is not None and (state := progress.go_further()) is not None:
        before, steps = state["settings"], state["svi"]["engine_steps"]
    if "dtype" in (model := before.get("model", {})) and model["dtype"] is None:
        settings["model"] = settings["model"] | {"dtype": None}
    check_same({**before, "epochs": settings["epochs"]}, settings, steps, "the run")
    _check_end(run, settings)
    if state is None:
        state = _at_the_end(run)
    behind = int(state["epoch"]) - 1
    if (begun := behind + (state["position"] is not None)) > settings["epochs"]:
        # On the way to even more: weights within an epoch are those of no shorter run.
        raise expected("epochs", f"at least the {begun:,} begun", settings["epochs"])
    log.info("goes on after epoch %d", behind)
    return state


def _check_end(run: Run[Any], settings: Mapping[str, Any]) -> None:
    """Refuses more epochs where those that are behind would have been others."""
    epochs, behind = settings["epochs"], len(run.history["epoch"])
    hint = "`init` (`--init`) starts another fit from its weights"
    if settings["schedule"] == "cosine":
        what = (
            f"{behind:,}, at which the cosine of the run has come to its end: a constant schedule "
            f"(`--schedule constant`) has none; {hint}"
        )
        raise expected("epochs", what, epochs)
    if settings.get("average") == "swa":
        what = f"{behind:,}, of whose last quarter the run's average is; {hint}"
        raise expected("epochs", what, epochs)
    if run.stopped:
        raise expected("epochs", f"no more, as the run {run.stopped}; {hint}", epochs)


def _at_the_end(run: Run[Any]) -> dict[str, Any]:
    """Puts together what the files of a run, or the run itself, have of its end."""
    kept = run.state
    if kept is None and run.out is not None:
        path = run.out / STATE
        if not path.exists():
            what = f"a run with {STATE}, which older ones have not; `init` starts from its weights"
            raise expected("resume", what, str(run.out))
        recorded = checkpoint.read_json(run.out / "fit.json").get("state_sha256")
        kept = from_file(path, recorded)
    if kept is None:
        raise expected("resume", "a run that `fit` returned, or has written", run)
    # What goes on moves the tensors of an optimiser in place, and the run may go on again.
    state = copy.deepcopy(dict(kept))
    state["model"] = dict(run.last_weights)
    for name, weights in (("best", run.best_weights), ("averaged", run.averaged_weights)):
        if state[name] is not None:
            state[name] = [*state[name], dict(weights)]
    return state


def asked_of(run: Run[Fitted], data: Any, epochs: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the fit of more epochs.

    Args:
        run: The finished run.
        data: Of a run that was read; None of one that has them.
        epochs: Passes over the data in all.
        given: What else a run that was read was fitted to, or with.

    Raises:
        ValueError: If data are missing, or are not needed.
    """
    epochs = positive_integer("epochs", epochs)
    if (behind := len(run.history["epoch"])) >= epochs:
        raise expected("epochs", f"more than the {behind:,} behind, counted in all", epochs)
    if run.asked is not None:
        if data is not None or given:
            what = "none, as the run has those, and all options, of its fit"
            raise expected("data", what, next(iter(given), data))
        return {**run.asked, "epochs": epochs}
    if data is None:
        raise expected("data", "those of the fit, which a run that was read has not", None)
    recorded = {name: value for name, value in run.settings.items() if name not in given}
    asked = vars(recipe_of(recorded)) | {"objective": None, **given}
    if asked["objective"] is None:
        asked["objective"] = objective_of(run.settings, run.steps)
    return {**asked, "data": data, "epochs": epochs}
