"""The recipe of a fit: its options, checked, and recorded with the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor

from pyro_vae._errors import check_seed, expected, is_number, positive_integer, unknown_name

__all__ = ["SHORT_FITS", "SMALL_DATA", "Compile", "OnNonFinite", "Optim", "Recipe", "Schedule"]

Schedule: TypeAlias = Literal["constant", "cosine"]
Compile: TypeAlias = bool | Literal["auto"]
OnNonFinite: TypeAlias = Literal["raise", "skip"]
Optim: TypeAlias = Callable[[Iterable[Tensor]], torch.optim.Optimizer] | PyroOptim

# What the command line starts from where `fit` leaves Adam as it is: what one fits first is small,
# and is overfitted without. All other options of a fit are by default what they are from Python.
SMALL_DATA: dict[str, Any] = {"epochs": 300, "lr": 2e-3, "schedule": "cosine", "weight_decay": 0.1}
# What a selection starts from, from either: compiling takes longer than a short fit.
SHORT_FITS: dict[str, Any] = {"compile": False}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, as the arguments of :func:`~pyro_vae.fit` of these names say.

    Raises:
        ValueError: If an option is out of range, or two do not go together.

    Example:
        >>> Recipe(epochs=0)
        Traceback (most recent call last):
        ...
        ValueError: `epochs`: expected a positive integer, got 0
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 1e-3
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    optim: Optim | None = None
    seed: int | None = None
    compile: Compile = "auto"
    patience: int | None = None
    clip_norm: float | None = None
    on_nonfinite: OnNonFinite = "raise"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, positive_integer(name, value))
        if self.batch_size >= 2**63:
            raise expected("batch_size", "a positive integer below 2**63", self.batch_size)
        # What single precision can hold, with Adam's corrections.
        if not is_number(self.lr) or not 0 < self.lr < 1e30:
            raise expected("lr", "a positive number below 1e30", self.lr)
        if self.seed is not None:
            object.__setattr__(self, "seed", check_seed("seed", self.seed))
        clip = self.clip_norm
        if clip is not None and not (is_number(clip) and 0 < clip < math.inf):
            raise expected("clip_norm", "a positive number", clip)
        if self.on_nonfinite not in ("raise", "skip"):
            raise unknown_name("on_nonfinite", self.on_nonfinite, ("raise", "skip"))
        self._check_optimizer()
        if self.compile not in (True, False, "auto"):
            raise unknown_name("compile", self.compile, ("True", "False", "auto"))

    def _check_optimizer(self) -> None:
        if self.schedule not in ("constant", "cosine"):
            raise unknown_name("schedule", self.schedule, ("constant", "cosine"))
        if not (self.optim is None or callable(self.optim)):
            raise expected("optim", "a callable from parameters to a torch optimiser", self.optim)
        if isinstance(self.optim, PyroLRScheduler):
            what = "an optimiser without a schedule, of which no step would be taken"
            raise expected("optim", what, self.optim.pt_scheduler_constructor.__name__)
        if isinstance(self.optim, PyroOptim) and self.schedule != "constant":
            raise expected("schedule", "`constant` with an optimiser of Pyro's", self.schedule)
        if not is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise expected("weight_decay", "a finite number >= 0", self.weight_decay)
        if self.optim is not None and self.weight_decay > 0:
            raise expected("weight_decay", "0 with an `optim` of your own", self.weight_decay)

    def optimizer(self) -> Optim:
        """Returns what makes the optimiser: the user's own, or AdamW of these rates."""
        if self.optim is not None:
            return self.optim
        return partial(_adamw, lr=self.lr, decay=self.weight_decay)

    def lr_share(self, epoch: int) -> float:
        """Returns the share of the learning rate that an epoch, counted from 1, has.

        Example:
            >>> [round(Recipe(epochs=4, schedule="cosine").lr_share(e), 2) for e in (1, 2, 3, 4)]
            [1.0, 0.85, 0.5, 0.15]
        """
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2

    def recorded(self) -> dict[str, Any]:
        """Returns what ``fit.json`` and the checkpoints keep: the optimiser by its name."""
        return dict(vars(self)) | {"optim": _named(self.optim)}


def _adamw(params: Iterable[Tensor], lr: float, decay: float) -> torch.optim.Optimizer:
    params = list(params)
    matrices = [p for p in params if p.ndim >= 2]
    others = [p for p in params if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


def _named(optim: Optim | None) -> str | None:
    if optim is None:
        return None
    if isinstance(optim, PyroOptim):
        made_with = optim.pt_optim_args
        arguments = (
            made_with if isinstance(made_with, dict) else getattr(made_with, "__qualname__", "")
        )
        return f"{optim.pt_optim_constructor.__name__} {arguments}"
    if isinstance(optim, partial):
        return f"{_named(optim.func)} {optim.args} {optim.keywords}"
    return getattr(optim, "__qualname__", type(optim).__qualname__)
