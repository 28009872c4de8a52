"""The options of how a model is trained, which ``fit`` and ``select`` share."""

from __future__ import annotations

import inspect
import os
from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.parsing import Parser, default_of
from pyro_vae.cli.runs import SEED
from pyro_vae.training import fit
from pyro_vae.training.recipe import Score
from pyro_vae.training.schedules import NAMES

__all__ = ["add_training", "from_anywhere", "training_options"]

# What the program itself gives to `fit`.
_BY_PROGRAM: set[str | int] = {
    "vae",
    "data",
    "objective",
    "optim",
    "validation",
    "cond",
    "mask",
    "covariates",
    "labels",
    "device",
    "out",
    "checkpoint_every",
    "keep",
    "resume",
    "on_epoch",
    "callbacks",
    "progress",
}
# From Python these are also functions and tensors, of which a line has names.
_IN_WORDS: set[str | int] = {"lr", "schedule", "monitor", "init", "trainable"}


def add_training(parser: Parser) -> None:
    """Adds how it is fitted, by the defaults of Python's fit but for the seed."""
    training = parser.add_argument_group("training")
    training.add_argument(
        "--device", type=str | None, help="Such as cpu, cuda or cuda:1; the best if none."
    )
    training.add_argument(
        "--lr",
        type=float | dict[str, float],
        default=default_of(fit, "lr"),
        help="Learning rate of Adam at the start; or that of some parts by name, such as "
        "'{encoder: 0.001, decoder: 0.0001}', where all others have 0.001.",
    )
    training.add_argument(
        "--schedule",
        type=str,
        default=default_of(fit, "schedule"),
        help=f"How the learning rate changes, epoch by epoch: {', '.join(NAMES[:2])}, or a "
        f"scheduler of torch's with its arguments, such as 'StepLR(step_size=30, gamma=0.5)': "
        f"{', '.join(NAMES[2:])}.",
    )
    training.add_function_arguments(fit, as_group=False, skip=_BY_PROGRAM | _IN_WORDS)
    training.add_argument(
        "--monitor",
        type=Score | None,
        help="The score that the best epoch has the greatest of; if not given, the bound on "
        "validation data.",
    )
    training.add_argument(
        "--init", type=str | None, help="Run folder whose weights the fit starts from."
    )
    training.add_argument(
        "--trainable",
        type=str | None,
        help="Parts that are trained, with commas between them, such as decoder,likelihood; all "
        "others stay as they are.",
    )
    parser.set_defaults({"seed": SEED})


def training_options(options: Namespace) -> dict[str, Any]:
    """Returns those that :func:`pyro_vae.fit` takes."""
    names = inspect.signature(fit).parameters.keys() - _BY_PROGRAM
    chosen = {str(name): options[str(name)] for name in names}
    if (parts := chosen["trainable"]) is not None:
        chosen["trainable"] = [part.strip() for part in parts.split(",")]
    return chosen


def from_anywhere(kept: Namespace) -> None:
    """Makes the paths among recorded options such that a replay works from anywhere."""
    if kept.get("init") is not None:
        kept.init = os.path.realpath(kept.init)
