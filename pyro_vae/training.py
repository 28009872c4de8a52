"""Fitting a model to data: the loop, its schedule and its history."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyro
import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_vae import checkpoint
from pyro_vae._errors import (
    as_device,
    check_seed,
    expected,
    is_number,
    out_of_memory,
    positive_integer,
    unknown_name,
)
from pyro_vae._given import named_tensors, present, rows
from pyro_vae._signals import Interrupted, Waiting
from pyro_vae.checkpoint import CHECKPOINTS
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS, fingerprint
from pyro_vae.engine import CompiledSVI, NonFinite, Position
from pyro_vae.health import Health
from pyro_vae.objectives import ELBO, Enumerated, Objective, Terms
from pyro_vae.resume import (
    Resume,
    RunInProgress,
    differences,
    in_progress,
    is_finished,
    random_state,
    set_random_state,
)
from pyro_vae.vae import VAE, evaluating

__all__ = ["Run", "best_device", "fit", "read_engine", "read_history"]

log = logging.getLogger("pyro_vae")
Schedule = Literal["constant", "cosine"]
Optim: TypeAlias = Callable[[Iterable[Tensor]], torch.optim.Optimizer] | PyroOptim
Given: TypeAlias = Tensor | np.ndarray | Mapping[str, Any] | None

_ROWS = 8  # of a batch, told one by one
_TOLD = {  # by fit.json, as they are in the run
    "engine": str,
    "seconds": int | float,
    "steps": int,
    "best_epoch": int | None,
    "skipped": int,
}
_HISTORY = ("epoch", "loss", "elbo", "reconstruction", "kl", "seconds")
_VALIDATION = ("validation_elbo", "validation_reconstruction", "validation_kl")
_FOUND = ("max_plate_nesting", "data_per_label")  # by an objective, not asked of it
_MONITORED = 2000  # training data on which the ELBO is followed from epoch to epoch
_ENUMERATED = 100  # at a time, each with all states of its latent
_MONITOR_SEED = 20140414  # the same draws at each epoch: what changes is the model


@dataclass(frozen=True)
class Run:
    """What :func:`fit` returns.

    Attributes:
        vae: The fitted model; with validation data, at its best epoch.
        history: Equal-length lists, an entry an epoch: ``epoch``, ``loss`` (the objective a
            datum, averaged over the steps), ``elbo``, ``reconstruction``, ``kl`` (on training
            data, at the end of the epoch), ``seconds`` since the start, and with validation data
            ``validation_elbo``, ``validation_reconstruction``, ``validation_kl``. In nats.
        out: The folder written, if any.
        engine: ``inductor`` or ``eager``: what ran the last steps.
        engine_steps: Steps that each engine took.
        seconds: Wall-clock time of the loop.
        steps: Optimiser steps taken.
        best_epoch: The epoch whose weights the model has, if validation chose it.
        last_weights: The weights at the last epoch.
        settings: What was fitted, to what and how, by which a run is known again.
        skipped: Steps left out, their loss not being finite.
    """

    vae: VAE
    history: Mapping[str, list[float]]
    out: Path | None
    engine: str
    engine_steps: Mapping[str, int]
    seconds: float
    steps: int
    best_epoch: int | None = None
    last_weights: Mapping[str, Tensor] = field(repr=False, default_factory=dict)
    settings: Mapping[str, Any] = field(repr=False, default_factory=dict)
    skipped: int = 0

    @property
    def steps_per_second(self) -> float:
        """Optimiser steps a second, compilation and monitoring included."""
        return self.steps / max(self.seconds, 1e-9)

    def write(self, folder: Path) -> None:
        """Writes model, last weights, ``history.json``, ``engine.json`` and ``fit.json``."""
        checkpoint.save(self.vae, folder)
        digest = checkpoint.write_tensors(folder / "last.safetensors", self.last_weights)
        history = {
            name: [value if math.isfinite(value) else None for value in values]
            for name, values in self.history.items()
        }
        checkpoint.write_json(folder / "history.json", history)
        checkpoint.write_json(folder / "engine.json", dict(self.engine_steps))
        told = {"settings": self.settings, "last_sha256": digest}
        told |= {name: getattr(self, name) for name in _TOLD}
        checkpoint.write_json(folder / "fit.json", told)

    @classmethod
    def read(cls, vae: VAE, folder: Path) -> Run:
        """Reads a finished run, whose weights go into the model.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        told = checkpoint.read_json(folder / "fit.json", settings=dict, **_TOLD)
        last = folder / "last.safetensors"
        weights, _ = checkpoint.tensors_of(
            last, checkpoint.read_bytes(last, told.get("last_sha256"))
        )
        # Into the model given: one with a network of the user's own is not rebuilt by its names.
        digest = checkpoint.read_json(folder / "model.json").get("sha256")
        checkpoint.load_weights(vae, folder / "model.safetensors", digest)
        return cls(
            vae=vae.eval(),
            history=read_history(folder / "history.json"),
            out=folder,
            engine_steps=read_engine(folder / "engine.json"),
            last_weights=weights,
            settings=told["settings"],
            **{name: told[name] for name in _TOLD},
        )


def read_history(path: Path) -> dict[str, list[float]]:
    """Reads ``history.json``, in which null is what was not finite.

    Raises:
        ValueError: If it is missing or damaged.
    """
    history = checkpoint.read_json(path, **dict.fromkeys(_HISTORY, list))
    if history.keys() & set(_VALIDATION):
        checkpoint.check_kinds(path, history, dict.fromkeys(_VALIDATION, list))
    size = len(history["epoch"])
    for name, values in history.items():
        sound = isinstance(values, list) and len(values) == size > 0
        if not (sound and all(isinstance(each, int | float | None) for each in values)):
            raise expected(str(path), f"a number an epoch as {name}", values)
    return {
        name: [math.nan if value is None else value for value in values]
        for name, values in history.items()
    }


def read_engine(path: Path) -> dict[str, int]:
    """Reads ``engine.json``.

    Raises:
        ValueError: If it is missing or damaged.
    """
    steps = checkpoint.read_json(path)
    checkpoint.check_kinds(path, steps, dict.fromkeys(steps, int))
    return steps


def best_device() -> torch.device:
    """Returns CUDA where there is one, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fit(
    vae: VAE,
    data: Dataset | Tensor | np.ndarray,
    *,
    objective: PyroELBO | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: Schedule = "constant",
    weight_decay: float = 0.0,
    optim: Optim | None = None,
    validation: Tensor | np.ndarray | float | None = None,
    cond: Given = None,
    mask: Given = None,
    covariates: Mapping[str, Any] | None = None,
    labels: Given = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    compile: bool | Literal["auto"] = "auto",
    patience: int | None = None,
    clip_norm: float | None = None,
    on_nonfinite: Literal["raise", "skip"] = "raise",
    out: str | Path | RunInProgress | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
    resume: Resume = False,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
) -> Run:
    """Fits a model in place by stochastic variational inference.

    The data live on the device, and a batch is one gather; a short last batch is used. With
    validation data, the model ends with the weights of the epoch whose validation ELBO was best.
    It is left in ``eval`` mode.

    With ``out``, a run that is told to stop (SIGINT, SIGTERM) writes a checkpoint first, as it does
    every ``checkpoint_every`` steps. It is resumed by the same call with ``resume=True``, on a CPU
    to the very weights that it would have had: model, optimiser, generators, the place in the
    epoch and the engine are those of the checkpoint. What ran already is not run again, and a
    finished run is read. Settings and data must be those of before.

    References:
        Stochastic Variational Inference (Hoffman et al., 2013), https://arxiv.org/abs/1206.7055

    Args:
        vae: The model, trained in place.
        data: A dataset, which brings its splits, or an array of shape ``(N, *event_shape)``.
        objective: What to minimise, ours or Pyro's; ``ELBO()`` if not given.
        epochs: Passes over the training data.
        batch_size: Data a step.
        lr: Learning rate of Adam at the start.
        schedule: ``constant``, or ``cosine``: the rate falls to 0 along half a cosine (SGDR,
            Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983).
        weight_decay: Against overfitting of small data: share by which weight matrices, not biases
            or scales, shrink per unit of learning rate (AdamW, Loshchilov and Hutter, 2019,
            https://arxiv.org/abs/1711.05101).
        optim: From parameters to a torch optimiser, or an optimiser of ``pyro.optim`` that is no
            scheduler; in place of Adam, with its own learning rate.
        validation: Data, or the fraction of ``data`` to set apart; a dataset brings its own.
        cond: What each datum is conditioned on, shape ``(N, cond_size)``; where validation data
            come apart, and with a dataset, a mapping with ``train`` and ``validation``. A dataset
            may bring its own, and a mask and covariates.
        mask: Which entries are observed, boolean, of the shape of the data; likewise. Hidden
            entries may be anything.
        covariates: What the likelihood needs to know of each datum, by name, shape ``(N,)``, such
            as ``{"size_factor": s}``; likewise, a mapping of splits to those.
        labels: The class of each training datum, integers of shape ``(N,)``, -1 where it is not
            known, for models with one categorical latent; held-out data are scored without.
        seed: Seeds every generator; None leaves them as they are.
        device: Where to train; CUDA where there is one, else MPS, else the CPU.
        compile: Whether to run compiled steps; ``auto`` decides by the work ahead.
        patience: Epochs without a better validation ELBO after which to stop; None never stops.
        clip_norm: Largest norm of the gradient a datum, of all parameters together; a longer one
            is scaled down to it.
        on_nonfinite: Whether a loss that is not finite stops the run, with the last checkpoint and
            a file that reproduces it in ``out``; or the step is left out, ``skip``, 100 at most,
            and counted.
        out: Folder to write model, last weights and history to; must not exist.
        checkpoint_every: Steps from one checkpoint to the next, in ``out``; None writes one only
            when told to stop.
        keep: Checkpoints to keep, the newest; each has the best weights so far beside the last.
        resume: Whether to go on from the last checkpoint in ``out``, if there is one; ``previous``
            from the last one that is whole.
        on_epoch: Called after each epoch with its line of the history.

    Returns:
        The run.

    Raises:
        ValueError: If an argument is out of range, data do not fit the model, or the run to resume
            is damaged or of other settings.
        FloatingPointError: If the loss is not finite: says where, and which site or parameter.
        MemoryError: If memory does not suffice; says which argument to lower.
        Interrupted: If told to stop; a ``KeyboardInterrupt``.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> run = pv.fit(vae, torch.eye(4).repeat(8, 1), epochs=2, seed=0)
        >>> len(run.history["elbo"]), run.vae is vae
        (2, True)
    """
    if not isinstance(vae, VAE):
        raise expected("vae", "a VAE", vae)
    positive_integer("epochs", epochs)
    if positive_integer("batch_size", batch_size) >= 2**63:
        raise expected("batch_size", "a positive integer below 2**63", batch_size)
    # What single precision can hold, with Adam's corrections.
    if not is_number(lr) or not 0 < lr < 1e30:
        raise expected("lr", "a positive number below 1e30", lr)
    if seed is not None:
        check_seed("seed", seed)
    if clip_norm is not None and not (is_number(clip_norm) and 0 < clip_norm < math.inf):
        raise expected("clip_norm", "a positive number", clip_norm)
    if on_nonfinite not in ("raise", "skip"):
        raise unknown_name("on_nonfinite", on_nonfinite, ("raise", "skip"))
    if schedule not in ("constant", "cosine"):
        raise unknown_name("schedule", schedule, ("constant", "cosine"))
    if not (optim is None or callable(optim)):
        raise expected("optim", "a callable from parameters to a torch optimiser", optim)
    if isinstance(optim, PyroLRScheduler):
        what = "an optimiser without a schedule, of which no step would be taken"
        raise expected("optim", what, optim.pt_scheduler_constructor.__name__)
    if isinstance(optim, PyroOptim) and schedule != "constant":
        raise expected("schedule", "`constant` with an optimiser of Pyro's", schedule)
    if not is_number(weight_decay) or not 0 <= weight_decay < math.inf:
        raise expected("weight_decay", "a finite number >= 0", weight_decay)
    if optim is not None and weight_decay > 0:
        raise expected("weight_decay", "0 with an `optim` of your own", weight_decay)
    if patience is not None:
        positive_integer("patience", patience)
    objective = ELBO() if objective is None else objective
    if not isinstance(objective, PyroELBO):
        raise expected("objective", "an objective, such as ELBO()", objective)
    where = best_device() if device is None else as_device("device", device)
    if resume is not False and out is None:
        raise expected("out", "the folder of the run to resume", out)
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "optim": _named(optim),
        "seed": seed,
        "compile": compile,
        "patience": patience,
        "clip_norm": clip_norm,
        "on_nonfinite": on_nonfinite,
    }
    folder: Any = nullcontext(out)
    if out is not None and not isinstance(out, RunInProgress):
        folder = in_progress(out, every=checkpoint_every, keep=keep, resume=resume)
    with folder as progress:
        if seed is not None:
            pyro.set_rng_seed(seed)
        if isinstance(data, Dataset):
            cond = dict(data.cond) or None if cond is None and vae.cond_size is not None else cond
            mask = dict(data.mask) or None if mask is None else mask
            if covariates is None and vae.likelihood.covariates:
                covariates = dict(data.covariates) or None
        given = present(cond=cond, mask=mask, covariates=covariates, labels=labels)
        train, held_out, draw = _splits(data, validation, seed, given)
        if isinstance(objective, Objective):
            objective.prepare(len(train), train.num_labels)
        if patience is not None and held_out is None:
            raise expected("patience", "validation data to go with it", patience)
        settings, state = {}, None
        if progress is not None:
            settings = options | _described(vae, objective, data, train, held_out)
            state = _known(progress, settings)
            if is_finished(progress.folder):
                log.info("%s is finished", progress.folder)
                return Run.read(vae, progress.folder)
        vae.to(where)
        if state is not None:
            with _of_a_checkpoint(progress.folder):
                set_random_state(state["start"], vae.initialized.device)
        start = random_state(vae.initialized.device)
        if draw is None:
            drawn = train = train.checked(vae, "data")
        else:
            drawn = replace(train, x=draw(train.x)).checked(vae, "data")
            train = replace(drawn, x=train.x.to(drawn.x))
        if held_out is not None:
            held_out = held_out.checked(vae, "validation")
        others = {name: drawn.others.get(name) for name in ("mask", "covariates")}
        vae.initialize(drawn.x, **others)
        monitored = drawn[torch.randperm(len(drawn), device=drawn.x.device)[:_MONITORED]]
        loop = _Loop(
            vae,
            objective,
            partial(_adamw, lr=lr, decay=weight_decay) if optim is None else optim,
            options,
            data=(train, held_out, monitored, draw),
            progress=progress,
            start={"start": start, "settings": settings},
        )
        if state is not None:
            with _of_a_checkpoint(progress.folder):
                loop.restore(state)
        run = loop.run(on_epoch)
        if progress is not None and progress is not out:
            progress.finish(run.write)
    return run


class _Loop:
    """The state of a fit between two steps, and what takes it on."""

    def __init__(
        self,
        vae: VAE,
        objective: PyroELBO,
        optim: Optim,
        options: Mapping[str, Any],
        *,
        data: tuple[_Rows, _Rows | None, _Rows, Callable[[Tensor], Tensor] | None],
        progress: RunInProgress | None,
        start: Mapping[str, Any],
    ) -> None:
        self.vae = vae
        self.options = options
        self.train, self.held_out, self.monitored, draw = data
        self.tensors, structure = tree_flatten(self.train.others)
        self.transform = draw if len(self.tensors) == 0 else _by_name(structure, draw)
        self.progress = progress
        self.start = start
        self.epoch = 1
        self.position: Position | None = None
        self.history: dict[str, list[float]] = {}
        self.best: tuple[int, float, dict[str, Tensor]] | None = None
        self.seconds = 0.0
        self.skipped = 0
        self.signals = Waiting()
        self.steps_an_epoch = math.ceil(len(self.train) / options["batch_size"])
        clip = options["clip_norm"]
        self.svi = CompiledSVI(
            vae.model,
            vae.guide,
            optim,
            objective,
            compile=options["compile"],
            planned_steps=options["epochs"] * self.steps_an_epoch,
            # The loss is a sum over the batch.
            clip_norm=clip and clip * min(options["batch_size"], len(self.train)),
            on_nonfinite=options["on_nonfinite"],
        )
        self.health = Health(vae, **self.monitored.without_labels().given)

    def state(self) -> dict[str, Any]:
        """Returns all that :meth:`restore` needs, in another process too."""
        svi = self.svi.state_dict()
        if self.position is not None and len(self.position.losses) > 1:
            # Few tensors in a file; in place, as the pass goes on with this very list.
            self.position.losses[:] = [torch.cat(self.position.losses)]
        return {
            **self.start,
            "epoch": self.epoch,
            "position": self.position and dict(vars(self.position)),
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds + time.perf_counter() - self.began,
            "random": random_state(self.train.x.device),
            "model": self.vae.state_dict(),
            "svi": svi | {"optim": self._renamed(svi["optim"], to_store=False)},
            "environment": _environment(self.train.x.device),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state` returned."""
        device = self.train.x.device
        if (changed := differences(state["environment"], _environment(device))) != "":
            log.warning("resumed where the last bits may differ: %s", changed)
        self.epoch, self.history = int(state["epoch"]), dict(state["history"])
        self.seconds = float(state["seconds"])
        self.health.recall(self.history.get("kl", []))
        if state["position"] is not None:
            position = Position(**state["position"])
            position.losses = [losses.to(device) for losses in position.losses]
            self.position = position
        if state["best"] is not None:
            epoch, elbo, weights = state["best"]
            self.best = epoch, elbo, {k: weight.to(device) for k, weight in weights.items()}
        self.vae.load_state_dict(state["model"])
        svi = state["svi"]
        for group in svi["optim"].get("param_groups", ()) if "rates" in state else ():
            # A checkpoint of before had one rate for all groups, beside them.
            group["initial_lr"] = state["rates"][0]
        self.svi.load_state_dict(svi | {"optim": self._renamed(svi["optim"], to_store=True)})
        self.skipped = self.svi.skipped
        set_random_state(state["random"], device)

    def run(self, on_epoch: Callable[[Mapping[str, float]], None] | None) -> Run:
        """Takes it to the end."""
        self.began = time.perf_counter()
        self.vae.train()
        with nullcontext() if self.progress is None else self.signals():
            while not self.done:
                line = self._pass()
                line["seconds"] = self.seconds + time.perf_counter() - self.began
                for key, value in line.items():
                    self.history.setdefault(key, []).append(value)
                self.epoch += 1
                self.position = None
                if on_epoch is not None:
                    on_epoch(line)
            self.vae.eval()
            if self.progress is not None:
                path = self._save()  # what comes after may be interrupted too
        if self.progress is not None:
            self._stop(path)  # a signal may have come after the last step
        last_weights = _copy(self.vae)
        if self.best is not None:
            self.vae.load_state_dict(self.best[2])
        return Run(
            vae=self.vae,
            history=self.history,
            out=None if self.progress is None else self.progress.folder,
            engine=self.svi.engine,
            engine_steps={str(name): count for name, count in self.svi.engine_steps.items()},
            seconds=self.history["seconds"][-1],
            steps=self.steps_an_epoch * len(self.history["epoch"]),
            best_epoch=None if self.best is None else self.best[0],
            last_weights=last_weights,
            settings=self.start["settings"],
            skipped=self.skipped,
        )

    @property
    def done(self) -> bool:
        """Whether all epochs, or enough of them, are behind."""
        patience = self.options["patience"]
        waited = 0 if self.best is None else self.epoch - 1 - self.best[0]
        return self.epoch > self.options["epochs"] or (
            patience is not None and self.best is not None and waited >= patience
        )

    def _pass(self) -> dict[str, float]:
        """Takes one pass over the data, or what is left of one, and returns its line."""
        epochs, epoch = self.options["epochs"], self.epoch
        if self.options["schedule"] == "cosine" and epoch > 1:
            share = (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
            self.svi.scale_lr(share)
        try:
            losses = self.svi.epoch(
                self.train.x,
                *self.tensors,
                batch_size=self.options["batch_size"],
                transform=self.transform,
                position=self.position,
                on_step=None if self.progress is None else self._on_step,
            )
            line = {"epoch": epoch, "loss": self._mean(losses)}
            line |= _line(_monitor(self.vae, self.svi.loss, self.monitored), "")
            if self.held_out is not None:
                line |= _line(_monitor(self.vae, self.svi.loss, self.held_out), "validation_")
        except NonFinite as error:
            raise self._told(error) from None
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            size = self.options["batch_size"]
            raise MemoryError(
                f"out of memory in epoch {epoch}: lower `batch_size`, now {size}, or the widths of "
                "the networks"
            ) from None
        except ValueError as error:
            reason = str(error).splitlines()[0]
            if "Trace Shapes:" in str(error) and "invalid values" not in reason:
                raise ValueError(reason) from error  # the cause says what shapes Pyro saw
            if "invalid values" not in reason:
                raise
            # A law refuses parameters that are not finite before there is a loss.
            raise FloatingPointError(f"epoch {epoch}: {reason.rstrip(':')}") from None
        if self.svi.skipped > self.skipped:
            self.skipped = self.svi.skipped
            log.warning("epoch %d: %d steps left out so far, of losses that are not finite",
                        epoch, self.skipped)  # fmt: skip
        self.health.look(line)
        elbo = line.get("validation_elbo", -math.inf)
        if elbo > (-math.inf if self.best is None else self.best[1]):
            self.best = epoch, elbo, _copy(self.vae)
        return line

    def _mean(self, losses: Tensor) -> float:
        """The loss a datum, of the steps that were not left out."""
        sizes = torch.full_like(losses, self.options["batch_size"])
        sizes[-1] = len(self.train) - sizes[:-1].sum()
        taken = losses.isfinite()
        if not taken.any():
            raise FloatingPointError(f"epoch {self.epoch}: all of its steps would be left out")
        return (losses[taken].sum() / sizes[taken].sum()).item()

    def _told(self, error: NonFinite) -> FloatingPointError:
        """Says which batch it was; with a folder, leaves there what reproduces it."""
        told = f"epoch {self.epoch}: {error}"
        if error.rows is not None:
            rows = ", ".join(map(str, error.rows[:_ROWS].tolist()))
            told += f"; rows {rows}{', ...' if len(error.rows) > _ROWS else ''} of the data"
        if self.progress is not None:
            state = {"message": str(error), "step": error.step, "rows": error.rows}
            state |= {"batch": error.batch, "torch": error.random, "model": self.vae.state_dict()}
            told += f"; reproduced by {self.progress.reproduce(state)}"
            if len(last := self.progress.checkpoints[-1:]):
                told += f"; the last checkpoint is {last[0]}"
        return FloatingPointError(told)

    def _on_step(self, position: Position) -> None:
        assert self.progress is not None
        self.position = position
        every = self.progress.every
        if self.signals.signum is None and (every is None or self.svi.steps % every):
            return
        sound = self.options["on_nonfinite"] == "skip" or all(
            bool(losses.isfinite().all()) for losses in position.losses
        )
        if not (sound and all(bool(p.isfinite().all()) for p in self.vae.parameters())):
            # Not to be kept. The pass, if it is cut short here, says what it was.
            position.start = position.start if sound else len(position.order)
            return
        self._stop(self._save())

    def _stop(self, path: Path) -> None:
        """Leaves, if a signal has come, now that a checkpoint is written."""
        if self.signals.signum is not None:
            name = signal.Signals(self.signals.signum).name
            raise Interrupted(
                f"stopped by {name} at step {self.svi.steps:,}; "
                f"--resume goes on with {path.parent.parent}",
                self.signals.signum,
            )

    def _save(self) -> Path:
        assert self.progress is not None
        return self.progress.write(self.svi.steps, self.state())

    def _renamed(self, optim: Mapping[str, Any], *, to_store: bool) -> dict[str, Any]:
        """Names of the parameter store differ from process to process; those of a model do not."""
        store = pyro.get_param_store()
        for program in (self.vae.model, self.vae.guide):
            program._register()
        names = {store.param_name(p): name for name, p in self.vae.named_parameters()}
        if to_store:
            names = {name: stored for stored, name in names.items()}
        return {names.get(key, key): value for key, value in optim.items()}


def _adamw(params: Iterable[Tensor], lr: float, decay: float) -> torch.optim.Optimizer:
    params = list(params)
    matrices = [p for p in params if p.ndim >= 2]
    others = [p for p in params if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


@dataclass(frozen=True)
class _Rows:
    """Data, and what goes with each of them."""

    x: Tensor
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_labels(self) -> int:
        """How many data have a label."""
        return int((self.others["labels"] >= 0).sum()) if "labels" in self.others else 0

    @property
    def given(self) -> dict[str, Any]:
        """What there is, by the names of the programs' arguments."""
        return {"x": self.x, **self.others}

    def without_labels(self) -> _Rows:
        """The same, of no class that is known."""
        return _Rows(self.x, {k: v for k, v in self.others.items() if k != "labels"})

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> _Rows:
        return _Rows(self.x[index], rows(self.others, index))

    def checked(self, vae: VAE, argument: str) -> _Rows:
        """The same as the model takes them."""
        others = vae.check_given(self.x, **self.others)
        return _Rows(vae.check(self.x, argument, others.get("mask")), others)

    def batches(self, size: int) -> Iterator[_Rows]:
        for start in range(0, len(self), size):
            yield self[start : start + size]


def _by_name(
    structure: TreeSpec, draw: Callable[[Tensor], Tensor] | None
) -> Callable[..., dict[str, Any]]:
    """What makes a batch of tensors into the arguments that the programs know by name."""

    def transform(x: Tensor, *others: Tensor) -> dict[str, Any]:
        return {"x": x if draw is None else draw(x), **tree_unflatten(others, structure)}

    return transform


def _splits(
    data: Dataset | Tensor | np.ndarray,
    validation: object,
    seed: int | None,
    given: Mapping[str, Given],
) -> tuple[_Rows, _Rows | None, Callable[[Tensor], Tensor] | None]:
    """Returns training data, held-out data, and what to do to each batch afresh."""
    if isinstance(data, Dataset):
        if validation is not None:
            raise expected("validation", "None with a dataset, which brings its own", validation)
        train, held_out = _rows(data.train, given, "train"), None
        if len(data.validation) > 0:
            held_out = _rows(data.validation, given, "validation")
        return train, held_out, data.draw if data.binarize == "stochastic" else None
    x = _as_tensor("data", data)
    if validation is None:
        return _rows(x, given, "train", alone=True), None, None
    if not isinstance(validation, float):
        held_out = _rows(_as_tensor("validation", validation), given, "validation")
        return _rows(x, given, "train"), held_out, None
    if not 0 < validation < 1:
        raise expected("validation", "data or a fraction between 0 and 1", validation)
    train = _rows(x, given, "train", alone=True)
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    order = torch.randperm(len(x), generator=generator)
    chosen, kept = order.split([n := round(validation * len(x)), len(x) - n])
    if len(chosen) == 0 or len(kept) == 0:
        raise expected("validation", f"a fraction that splits {len(x)} data", validation)
    return train[kept], train[chosen].without_labels(), None


def _rows(x: Tensor, given: Mapping[str, Given], split: str, *, alone: bool = False) -> _Rows:
    """Returns data of a split with what goes with them; ``alone`` if there is no other split."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "labels" and split == "validation":
            continue
        if isinstance(value, Mapping) and _by_split(name, value):
            if split not in value:
                raise expected(name, f"a mapping with {split}", sorted(value))
            value = value[split]
        elif not alone and name != "labels":
            raise expected(name, "a mapping with train and validation", value)
        if isinstance(value, Mapping):
            named = value.items()
            found[name] = {key: _companion(f"{name}: {key}", each, x) for key, each in named}
        else:
            found[name] = _companion(name, value, x)
    return _Rows(x, found)


def _by_split(name: str, value: Mapping[str, Any]) -> bool:
    """Tells whether a mapping is one of splits: covariates are a mapping themselves."""
    return name != "covariates" or all(isinstance(each, Mapping) for each in value.values())


def _companion(argument: str, value: object, x: Tensor) -> Tensor:
    tensor = _as_tensor(argument, value)
    if len(tensor) != len(x):
        raise expected(argument, f"one row for each of {len(x)} data", value)
    return tensor


def _as_tensor(argument: str, data: object) -> Tensor:
    if isinstance(data, np.ma.MaskedArray):
        raise expected(argument, "an array, and `mask` beside it", data)
    if isinstance(data, np.ndarray) and data.dtype.kind in "biuf":
        # A copy: torch knows neither the other order of bytes, nor long doubles, nor read-only.
        kept = np.float64 if data.dtype.itemsize > 8 else data.dtype.newbyteorder("=")
        data = torch.from_numpy(np.array(data, dtype=kept, order="C"))
    if not isinstance(data, Tensor) or data.layout is not torch.strided or data.is_meta:
        raise expected(argument, "a tensor or an array of real numbers", data)
    if data.ndim == 0:
        raise expected(argument, "at least one dimension", data)
    return data


def _monitor(vae: VAE, objective: object, rows: _Rows) -> Terms:
    """The bound itself on some data, whatever the objective, leaving the generators alone."""
    devices = [rows.x.device] if rows.x.device.type == "cuda" else []
    # Where a sum over states is what is trained the guide may not be; it takes more memory.
    bound: ELBO | Enumerated = objective if isinstance(objective, Enumerated) else ELBO()
    size = _MONITORED if isinstance(bound, ELBO) else _ENUMERATED
    with torch.random.fork_rng(devices), evaluating(vae):
        torch.manual_seed(_MONITOR_SEED)
        terms = [bound.terms(vae.model, vae.guide, **batch.given) for batch in rows.batches(size)]
    reconstruction = torch.cat([each.reconstruction for each in terms])
    return Terms(reconstruction, torch.cat([each.kl for each in terms]), terms[0].kl_estimator)


def _line(terms: Terms, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}elbo": terms.elbo.mean().item(),
        f"{prefix}reconstruction": terms.reconstruction.mean().item(),
        f"{prefix}kl": terms.kl.mean().item(),
    }


@contextmanager
def _of_a_checkpoint(folder: Path) -> Iterator[None]:
    """Inside it, what does not fit is the fault of a checkpoint.

    It is what it was when it was written, but perhaps not by this model: networks of the user's
    own are known by their name alone.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip() or type(error).__name__
        what = "a checkpoint of this model and optimiser"
        raise ValueError(f"`{folder / CHECKPOINTS}`: expected {what}, got {reason}") from None


def _known(progress: RunInProgress, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the state to go on from, if there is one.

    Raises:
        ValueError: If the run is of other settings.
    """
    folder, state = progress.folder, None
    if is_finished(folder):
        before = checkpoint.read_json(folder / "fit.json", settings=dict)["settings"]
    else:
        state = progress.read()
        with _of_a_checkpoint(folder):
            before = settings if state is None else state["settings"]
    if (changed := differences(before, settings)) != "":
        raise ValueError(f"`resume`: expected the settings and data of {folder}, got {changed}")
    return state


def _described(
    vae: VAE, objective: PyroELBO, data: object, train: _Rows, held_out: _Rows | None
) -> dict[str, Any]:
    """Returns what a run is known again by, besides its options."""
    prints = {"train": train.x, "validation": None if held_out is None else held_out.x}
    told: dict[str, Any] = {}
    if isinstance(data, Dataset):
        prints = {split: data.split(split) for split in SPLITS}
        told = {"name": data.name, "binarize": data.binarize, "transform": data.transform}
    for split, kept in (("train", train), ("validation", held_out)):
        others = {} if kept is None else named_tensors(kept.others)
        prints |= {f"{split} {name}": tensor for name, tensor in others.items()}
    told |= {name: x if x is None else fingerprint(x) for name, x in prints.items()}
    dtype = next((str(p.dtype) for p in vae.parameters()), None)
    plain = {
        name: value
        for name, value in vars(objective).items()
        if isinstance(value, bool | int | float | str) and name not in _FOUND
    }
    options = {"dtype": dtype, "cond_size": vae.cond_size, "show_mask": vae.guide.show_mask}
    return {
        "model": checkpoint.model_spec(vae) | options,
        "objective": {"class": type(objective).__name__} | plain,
        "data": told,
    }


def _named(optim: Optim | None) -> str | None:
    if optim is None:
        return None
    if isinstance(optim, PyroOptim):
        given = optim.pt_optim_args
        arguments = given if isinstance(given, dict) else getattr(given, "__qualname__", "")
        return f"{optim.pt_optim_constructor.__name__} {arguments}"
    if isinstance(optim, partial):
        return f"{_named(optim.func)} {optim.args} {optim.keywords}"
    return getattr(optim, "__qualname__", type(optim).__qualname__)


def _environment(device: torch.device) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return versions | {"device": device.type}


def _copy(vae: VAE) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in vae.state_dict().items()}
