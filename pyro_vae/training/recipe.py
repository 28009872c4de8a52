"""The recipe of a fit: its options, checked, and recorded with the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor

from pyro_vae._errors import check_seed, expected, is_number, positive_integer, unknown_name
from pyro_vae.engine.problem import Precision
from pyro_vae.programs import Amortized
from pyro_vae.training.averaging import Average
from pyro_vae.training.parts import adamw, check_parts
from pyro_vae.training.schedules import Factory, Rates, factory_of

__all__ = [
    "SHORT_FITS",
    "SMALL_DATA",
    "Compile",
    "Monitor",
    "OnNonFinite",
    "Optim",
    "Recipe",
    "Restore",
    "Schedule",
    "Score",
    "later_defaults",
    "needs_validation",
]

Schedule: TypeAlias = str | Factory
Compile: TypeAlias = bool | Literal["auto"]
OnNonFinite: TypeAlias = Literal["raise", "skip"]
Score: TypeAlias = Literal[
    "elbo",
    "reconstruction",
    "validation_elbo",
    "validation_reconstruction",
    "validation_bound",
]
Monitor: TypeAlias = Score | Callable[[Any], float]
Restore: TypeAlias = Literal["best", "last", "average"]
Optim: TypeAlias = Callable[[Iterable[Tensor]], torch.optim.Optimizer] | PyroOptim

# What the command line starts from where `fit` leaves Adam as it is: what one fits first is small,
# and is overfitted without. All other options of a fit are by default what they are from Python.
SMALL_DATA: dict[str, Any] = {"epochs": 300, "lr": 2e-3, "schedule": "cosine", "weight_decay": 0.1}
# Off by default, and then recorded by nobody: runs of before there was a choice are known again.
_LATER = ("accumulate", "precision", "average", "restore", "monitor", "monitor_every", "trainable",
          "shards")  # fmt: skip
_NO_SCORES = ("kl", "validation_kl", "loss")  # of the history: less of them is no better fit
# What a selection starts from, from either: compiling takes longer than a short fit.
SHORT_FITS: dict[str, Any] = {"compile": False}


def later_defaults() -> dict[str, Any]:
    """Returns the options that nobody records while they are off, as they are then.

    Example:
        >>> later_defaults()["accumulate"]
        1
    """
    return {each.name: each.default for each in fields(Recipe) if each.name in _LATER}


def needs_validation(score: Monitor | None) -> bool:
    """Returns whether a score is one of validation rows; that which is taken if none is asked is.

    Example:
        >>> needs_validation(None), needs_validation("elbo"), needs_validation("validation_elbo")
        (True, False, True)
    """
    return score is None or (isinstance(score, str) and score.startswith("validation_"))


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
    lr: float | Mapping[str, float] = 1e-3
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    optim: Optim | None = None
    seed: int | None = None
    compile: Compile = "auto"
    patience: int | None = None
    clip_norm: float | None = None
    on_nonfinite: OnNonFinite = "raise"
    accumulate: int = 1
    shards: int | None = None
    precision: Precision = "float32"
    average: Average | None = None
    restore: Restore | None = None
    monitor: Monitor | None = None
    monitor_every: int = 1
    trainable: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "accumulate", "monitor_every", "shards"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, positive_integer(name, value))
        if self.batch_size * self.accumulate >= 2**63:
            raise expected("batch_size", "a positive integer below 2**63", self.batch_size)
        if self.shards is not None and self.batch_size % self.shards:
            what = f"a divisor of `batch_size`, {self.batch_size}"
            raise expected("shards", what, self.shards)
        self._check_rates()
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
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", self.precision, get_args(Precision))
        self._check_weights()

    def _check_rates(self) -> None:
        rates = self.lr if isinstance(self.lr, Mapping) else {"": self.lr}
        for part, rate in rates.items():
            # What single precision can hold, with Adam's corrections.
            if not is_number(rate) or not 0 < rate < 1e30:
                of = f" for {part}" if part else ""
                raise expected("lr", f"a positive number below 1e30{of}", rate)
        if not rates:
            raise expected("lr", "a number, or a rate for each of some parts", self.lr)
        if isinstance(self.lr, Mapping) and self.optim is not None:
            raise expected("lr", "one number with an `optim` of your own", self.lr)

    def _check_weights(self) -> None:
        """Checks which weights are kept, and which move."""
        for name, known in (
            ("average", get_args(Average)),
            ("restore", get_args(Restore)),
            ("monitor", get_args(Score)),
        ):
            value = getattr(self, name)
            if name == "monitor" and value in _NO_SCORES:
                what = f"one of {', '.join(known)}, of each of which the greatest is the best"
                raise expected(name, what, value)
            if not (value is None or value in known or (name == "monitor" and callable(value))):
                raise unknown_name(name, value, known)
        if self.restore == "average" and self.average is None:
            raise expected("average", "ema or swa with `restore` average", None)
        if self.average == "swa" and self.patience is not None:
            what = "ema or None with `patience`, as swa begins in the last quarter of the epochs"
            raise expected("average", what, self.average)
        if self.trainable is None:
            return
        parts = (self.trainable,) if isinstance(self.trainable, str) else self.trainable
        sound = isinstance(parts, Sequence) and all(isinstance(each, str) for each in parts)
        if not sound or len(parts) == 0:
            raise expected("trainable", "names of parts, such as decoder", self.trainable)
        object.__setattr__(self, "trainable", tuple(parts))

    @property
    def restored(self) -> Restore | None:
        """Which weights the model ends with; None for the best if there is one, else the last."""
        return "average" if self.restore is None and self.average is not None else self.restore

    @property
    def trained(self) -> Sequence[str] | None:
        """The parts that are trained; None for all."""
        return None if self.trainable is None else tuple(self.trainable)

    @property
    def rows_a_step(self) -> int:
        """Observations that an update is of."""
        return self.batch_size * self.accumulate

    def rows_at_once(self, processes: int) -> int:
        """Returns how many observations a pass through the networks is of, at most.

        Args:
            processes: Who shares each batch, where ``shards`` does not say into how many parts.

        Returns:
            Observations.
        """
        shards = processes if self.shards is None else self.shards
        return min(self.batch_size, self.rows_a_step // shards)

    def check_parts(self, vae: Amortized) -> None:
        """Checks that the model has the parts that are named.

        Args:
            vae: The model.

        Raises:
            ValueError: If it has none of one of these names.
        """
        check_parts("trainable", vae, self.trained or ())
        check_parts("lr", vae, self.lr if isinstance(self.lr, Mapping) else ())

    def _check_optimizer(self) -> None:
        factory_of(self.schedule, self._first_rate, self.epochs)
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

    @property
    def _first_rate(self) -> float:
        return max(self.lr.values()) if isinstance(self.lr, Mapping) else self.lr

    def rates(self) -> Rates | None:
        """Returns the rates of a scheduler of torch's, if it is one that was asked for."""
        factory = factory_of(self.schedule, self._first_rate, self.epochs)
        return None if factory is None else Rates(factory, self._first_rate)

    def optimizer(self, vae: Amortized) -> Optim:
        """Returns what makes the optimiser: the user's own, or AdamW of these rates.

        Args:
            vae: The model, whose parts may have rates of their own.
        """
        if self.optim is not None:
            return self.optim
        return partial(adamw, vae=vae, lr=self.lr, decay=self.weight_decay)

    def lr_share(self, epoch: int) -> float:
        """Returns the share of the learning rate that an epoch, counted from 1, has by the cosine.

        Example:
            >>> [round(Recipe(epochs=4, schedule="cosine").lr_share(e), 2) for e in (1, 2, 3, 4)]
            [1.0, 0.85, 0.5, 0.15]
        """
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2

    def recorded(self) -> dict[str, Any]:
        """Returns what ``fit.json`` and the checkpoints keep: the optimiser by its name."""
        defaults = {each.name: each.default for each in fields(self)}
        kept = {
            name: value
            for name, value in vars(self).items()
            if name not in _LATER or value != defaults[name]
        }
        for name in ("schedule", "monitor"):
            if callable(kept.get(name)):
                kept[name] = _named(kept[name])
        if isinstance(self.lr, Mapping):
            kept["lr"] = dict(self.lr)
        return kept | {"optim": _named(self.optim)}


def _named(optim: Any) -> str | None:
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
