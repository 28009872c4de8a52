"""Fitting a model to data: the loop, its schedule and its history."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyro
import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.data import Dataset
from pyro_vae.objectives import ELBO, Terms
from pyro_vae.svi import CompiledSVI
from pyro_vae.vae import VAE, evaluating

__all__ = ["Run", "best_device", "fit"]

Schedule = Literal["constant", "cosine"]
Optim: TypeAlias = Callable[[Iterable[Tensor]], torch.optim.Optimizer] | PyroOptim

_MONITORED = 2000  # training data on which the ELBO is followed from epoch to epoch
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

    @property
    def steps_per_second(self) -> float:
        """Optimiser steps a second, compilation and monitoring included."""
        return self.steps / self.seconds

    def write(self, folder: Path) -> None:
        """Writes the model, ``last.safetensors``, ``history.json`` and ``engine.json``."""
        checkpoint.save(self.vae, folder)
        checkpoint.write_tensors(folder / "last.safetensors", self.last_weights)
        checkpoint.write_json(folder / "history.json", dict(self.history))
        checkpoint.write_json(folder / "engine.json", dict(self.engine_steps))


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
    seed: int | None = None,
    device: torch.device | str | None = None,
    compile: bool | Literal["auto"] = "auto",
    patience: int | None = None,
    out: str | Path | None = None,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
) -> Run:
    """Fits a model in place by stochastic variational inference.

    The data live on the device, and a batch is one gather; a short last batch is used. With
    validation data, the model ends with the weights of the epoch whose validation ELBO was best.
    It is left in ``eval`` mode.

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
        optim: From parameters to a torch optimiser, or an optimiser of ``pyro.optim``; in place
            of Adam, with its own learning rate.
        validation: Data, or the fraction of ``data`` to set apart; a dataset brings its own.
        seed: Seeds every generator; None leaves them as they are.
        device: Where to train; CUDA where there is one, else MPS, else the CPU.
        compile: Whether to run compiled steps; ``auto`` decides by the work ahead.
        patience: Epochs without a better validation ELBO after which to stop; None never stops.
        out: Folder to write model, last weights and history to; must not exist.
        on_epoch: Called after each epoch with its line of the history.

    Returns:
        The run.

    Raises:
        ValueError: If an argument is out of range, or data do not fit the model.
        FloatingPointError: If the loss is not finite.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> run = pv.fit(vae, torch.eye(4).repeat(8, 1), epochs=2, seed=0)
        >>> len(run.history["elbo"]), run.vae is vae
        (2, True)
    """
    positive_integer("epochs", epochs)
    positive_integer("batch_size", batch_size)
    if not lr > 0:
        raise expected("lr", "a positive number", lr)
    if schedule not in ("constant", "cosine"):
        raise unknown_name("schedule", schedule, ("constant", "cosine"))
    if isinstance(optim, PyroOptim) and schedule != "constant":
        raise expected("schedule", "`constant` with an optimiser of Pyro's", schedule)
    if not weight_decay >= 0:
        raise expected("weight_decay", "a number >= 0", weight_decay)
    if optim is not None and weight_decay > 0:
        raise expected("weight_decay", "0 with an `optim` of your own", weight_decay)
    if patience is not None:
        positive_integer("patience", patience)
    if out is not None and Path(out).exists():
        raise expected("out", "a folder that does not exist yet", str(out))
    if seed is not None:
        pyro.set_rng_seed(seed)
    train, held_out, draw = _splits(vae, data, validation, seed)
    if patience is not None and held_out is None:
        raise expected("patience", "validation data to go with it", patience)

    vae.to(best_device() if device is None else torch.device(device))
    if draw is None:
        drawn = train = vae.check(train, "data")
    else:
        drawn = vae.check(draw(train), "data")
        train = train.to(drawn)
    if held_out is not None:
        held_out = vae.check(held_out, "validation")
    vae.initialize(drawn)
    monitored = drawn[torch.randperm(len(drawn), device=drawn.device)[:_MONITORED]]

    rates: list[float] = []  # what the optimiser started with, known once it has parameters

    def optimizer(params: Iterable[Tensor]) -> torch.optim.Optimizer:
        made = (partial(_adamw, lr=lr, decay=weight_decay) if optim is None else optim)(params)
        rates.append(made.param_groups[0]["lr"])
        return made

    objective = ELBO() if objective is None else objective
    steps_an_epoch = math.ceil(len(train) / batch_size)
    svi = CompiledSVI(
        vae.model,
        vae.guide,
        optim if isinstance(optim, PyroOptim) else optimizer,
        objective,
        compile=compile,
        planned_steps=epochs * steps_an_epoch,
    )
    history: dict[str, list[float]] = {}
    best_elbo, best_epoch, best_weights = -math.inf, None, None
    vae.train()
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        if schedule == "cosine" and epoch > 1:
            svi.set_lr(rates[0] * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2)
        try:
            losses = svi.epoch(train, batch_size=batch_size, transform=draw)
            line = {"epoch": epoch, "loss": losses.sum().item() / len(train)}
            line |= _line(_monitor(vae, monitored), "")
            if held_out is not None:
                line |= _line(_monitor(vae, held_out), "validation_")
        except ValueError as error:
            reason = str(error).splitlines()[0]
            if "invalid values" not in reason:
                raise
            # A law refuses parameters that are not finite before there is a loss.
            raise FloatingPointError(f"epoch {epoch}: {reason.rstrip(':')}") from None
        if held_out is not None and line["validation_elbo"] > best_elbo:
            best_elbo, best_epoch = line["validation_elbo"], epoch
            best_weights = _copy(vae)
        line["seconds"] = time.perf_counter() - start
        for key, value in line.items():
            history.setdefault(key, []).append(value)
        if on_epoch is not None:
            on_epoch(line)
        if patience is not None and best_epoch is not None and epoch - best_epoch >= patience:
            break
    vae.eval()
    last_weights = _copy(vae)
    if best_weights is not None:
        vae.load_state_dict(best_weights)
    run = Run(
        vae=vae,
        history=history,
        out=None if out is None else Path(out),
        engine=svi.engine,
        engine_steps={str(name): count for name, count in svi.engine_steps.items()},
        seconds=history["seconds"][-1],
        steps=steps_an_epoch * len(history["epoch"]),
        best_epoch=best_epoch,
        last_weights=last_weights,
    )
    if run.out is not None:
        run.write(run.out)
    return run


def _adamw(params: Iterable[Tensor], lr: float, decay: float) -> torch.optim.Optimizer:
    params = list(params)
    matrices = [p for p in params if p.ndim >= 2]
    others = [p for p in params if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


def _splits(
    vae: VAE, data: Dataset | Tensor | np.ndarray, validation: object, seed: int | None
) -> tuple[Tensor, Tensor | None, Callable[[Tensor], Tensor] | None]:
    """Returns training data, held-out data, and what to do to each batch afresh."""
    if isinstance(data, Dataset):
        if validation is not None:
            raise expected("validation", "None with a dataset, which brings its own", validation)
        held_out = data.validation if len(data.validation) > 0 else None
        return data.train, held_out, data.draw if data.binarize == "stochastic" else None
    train = _as_tensor("data", data)
    if validation is None:
        return train, None, None
    if not isinstance(validation, float):
        return train, _as_tensor("validation", validation), None
    if not 0 < validation < 1:
        raise expected("validation", "data or a fraction between 0 and 1", validation)
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    order = torch.randperm(len(train), generator=generator)
    held_out, kept = order.split([n := round(validation * len(train)), len(train) - n])
    if len(held_out) == 0 or len(kept) == 0:
        raise expected("validation", f"a fraction that splits {len(train)} data", validation)
    return train[kept], train[held_out], None


def _as_tensor(argument: str, data: object) -> Tensor:
    if isinstance(data, Tensor):
        return data
    if isinstance(data, np.ndarray) and data.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(data))
    raise expected(argument, "a tensor or an array of real numbers", data)


def _monitor(vae: VAE, x: Tensor) -> Terms:
    """The bound itself on some data, whatever the objective, leaving the generators alone."""
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluating(vae):
        torch.manual_seed(_MONITOR_SEED)
        terms = [ELBO().terms(vae.model, vae.guide, batch) for batch in x.split(_MONITORED)]
    reconstruction = torch.cat([each.reconstruction for each in terms])
    return Terms(reconstruction, torch.cat([each.kl for each in terms]), terms[0].kl_estimator)


def _line(terms: Terms, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}elbo": terms.elbo.mean().item(),
        f"{prefix}reconstruction": terms.reconstruction.mean().item(),
        f"{prefix}kl": terms.kl.mean().item(),
    }


def _copy(vae: VAE) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in vae.state_dict().items()}
