"""The loop of a fit: one pass after another, and the state between two steps."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple

import pyro
import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_vae._errors import out_of_memory
from pyro_vae._signals import Interrupted, Waiting
from pyro_vae.data.rows import Rows
from pyro_vae.engine import CompiledSVI, NonFinite, Position
from pyro_vae.engine.generators import random_state, set_random_state
from pyro_vae.likelihoods.in_units import work_as_before
from pyro_vae.programs import VAE, Amortized
from pyro_vae.training.callbacks import Callbacks
from pyro_vae.training.health import Health
from pyro_vae.training.monitor import bound, chosen_by, monitor
from pyro_vae.training.recipe import Recipe
from pyro_vae.training.resume import RunInProgress, differences
from pyro_vae.training.run import Fitted, Run
from pyro_vae.training.scales import Scales, Unscaled
from pyro_vae.training.settings import environment
from pyro_vae.training.splits import Splits, rows_of_a_pass

__all__ = ["Loop", "Start", "State"]

log = logging.getLogger("pyro_vae")
_NAMED = 8  # rows of a batch


class Best(NamedTuple):
    """The epoch of the best validation bound, that bound, and the weights then."""

    epoch: int
    bound: float
    weights: dict[str, Tensor]


class Start(NamedTuple):
    """What a run started with: the state of the generators, and its settings."""

    random: Mapping[str, Any]
    settings: Mapping[str, Any]


@dataclass
class State:
    """Where a fit is between two steps, besides what model, optimiser and generators are.

    Attributes:
        epoch: The epoch that goes on, counted from 1.
        position: Where its pass is; None between two epochs.
        history: What there is to say of the epochs that are over, by name.
        best: The best epoch so far, with validation rows.
        seconds: Time that earlier processes took.
    """

    epoch: int = 1
    position: Position | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    best: Best | None = None
    seconds: float = 0.0

    def record(self, line: Mapping[str, float]) -> None:
        """Ends an epoch with its line of the history."""
        for key, value in line.items():
            self.history.setdefault(key, []).append(value)
        self.epoch += 1
        self.position = None

    def is_over(self, recipe: Recipe) -> bool:
        """Returns whether all epochs, or enough of them, are behind."""
        if self.epoch > recipe.epochs:
            return True
        if recipe.patience is None or self.best is None:
            return False
        return self.epoch - 1 - self.best.epoch >= recipe.patience


class Loop(Generic[Fitted]):
    """Creates what takes a fit from step to step.

    Args:
        vae: The model.
        objective: What to minimise.
        recipe: How.
        splits: The rows, as the model takes them.
        monitored: Training rows on which the ELBO is followed.
        progress: The folder of the run, if any.
        start: What the run started with.
    """

    def __init__(
        self,
        vae: Fitted,
        objective: PyroELBO,
        recipe: Recipe,
        *,
        splits: Splits,
        monitored: Rows,
        progress: RunInProgress | None,
        start: Start,
    ) -> None:
        self.vae = vae
        self.objective = objective
        self.recipe = recipe
        self.train, self.held_out, self.monitored = splits.train, splits.held_out, monitored
        self.tensors, structure = tree_flatten(dict(self.train.given))
        self.transform = splits.draw if len(self.tensors) == 0 else _by_name(structure, splits.draw)
        self.progress = progress
        self.start = start
        self.state = State()
        self.signals = Waiting()
        self.rows_a_pass = rows_of_a_pass(vae, self.train, recipe.batch_size)
        if (left := len(self.train) - self.rows_a_pass) > 0:
            log.warning("each epoch leaves out %d row, another each time: a batch of one cannot be "
                        "normalised; another `batch_size` takes all", left)  # fmt: skip
        self.steps_an_epoch = math.ceil(self.rows_a_pass / recipe.batch_size)
        clip = recipe.clip_norm
        self.svi = CompiledSVI(
            vae.model,
            vae.guide,
            recipe.optimizer(),
            objective,
            compile=recipe.compile,
            planned_steps=recipe.epochs * self.steps_an_epoch,
            # The loss is a sum over the batch.
            clip_norm=clip and clip * min(recipe.batch_size, len(self.train)),
            on_nonfinite=recipe.on_nonfinite,
            # Data are checked before, and a parameter that is NaN makes the loss so.
            validate=False,
            check_folder=None if progress is None else progress.folder,
        )
        self.health = Health(vae, self.monitored.without("labels"))
        self.scales: Scales | Unscaled = Unscaled()
        if isinstance(vae, VAE):
            num_train = len(self.train)
            self.scales = Scales(vae, objective, self.monitored, self.held_out, num_train)
        self.chosen_by = chosen_by(vae, objective)

    def state_dict(self) -> dict[str, Any]:
        """Returns all that :meth:`load_state_dict` needs, in another process too."""
        svi, state = self.svi.state_dict(), self.state
        if state.position is not None and len(state.position.losses) > 1:
            # Few tensors in a file; in place, as the pass goes on with this very list.
            state.position.losses[:] = [torch.cat(state.position.losses)]
        return {
            "start": self.start.random,
            "settings": self.start.settings,
            "scales_kept": self.scales.are_kept,
            "scales_held_out": self.scales.are_held_out,
            "epoch": state.epoch,
            "position": state.position and dict(vars(state.position)),
            "history": state.history,
            "best": state.best,
            "seconds": state.seconds + time.perf_counter() - self.began,
            "random": random_state(self.train.x.device),
            "model": self.vae.state_dict(),
            "svi": svi | {"optim": self._renamed(svi["optim"], to_store=False)},
            "environment": environment(self.train.x.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned."""
        device = self.train.x.device
        if (changed := differences(state["environment"], environment(device))) != "":
            log.warning("resumed where the last bits may differ: %s", changed)
        position, best = None, None
        if state["position"] is not None:
            position = Position(**state["position"])
            position.losses = [losses.to(device) for losses in position.losses]
        if state["best"] is not None:
            epoch, score, weights = state["best"]
            best = Best(epoch, score, {name: weight.to(device) for name, weight in weights.items()})
        history = dict(state["history"])
        if best is not None and self.chosen_by not in history:
            self.chosen_by = "validation_elbo"  # a checkpoint of before goes on as it began
        self.state = State(int(state["epoch"]), position, history, best, float(state["seconds"]))
        self.health.recall(history.get("kl", []))
        # A checkpoint of before goes on as it began, by gradients alone.
        self.scales.are_kept = bool(state.get("scales_kept", False))
        if "scales_held_out" not in state:  # one of before knew training residuals alone
            self.scales.are_held_out, self.scales.is_determined = False, True
            self.scales.use(self.monitored)
        if isinstance(self.vae, VAE):
            work_as_before(self.vae, state["model"])
        self.vae.load_state_dict(state["model"])
        svi = state["svi"]
        for group in svi["optim"].get("param_groups", ()) if "rates" in state else ():
            # A checkpoint of before had one rate for all groups, beside them.
            group["initial_lr"] = state["rates"][0]
        self.svi.load_state_dict(svi | {"optim": self._renamed(svi["optim"], to_store=True)})
        self.scales.resume(self.svi.steps)
        set_random_state(state["random"], device)

    def run(self, callbacks: Callbacks) -> Run[Fitted]:
        """Takes it to the end."""
        self.callbacks = callbacks
        self.began = time.perf_counter()
        self.vae.train()
        with nullcontext() if self.progress is None else self.signals():
            while not self.state.is_over(self.recipe):
                line = self._pass()
                line["seconds"] = self.state.seconds + time.perf_counter() - self.began
                self.state.record(line)
                callbacks.on_epoch(line)
            self.vae.eval()
            if self.progress is not None:
                path = self._save()  # what comes after may be interrupted too
        if self.progress is not None:
            self._stop(path)  # a signal may have come after the last step
        last_weights, best, history = _copy(self.vae), self.state.best, self.state.history
        if best is not None:
            self.vae.load_state_dict(best.weights)
        self.scales.warn()
        return Run(
            vae=self.vae,
            history=history,
            out=None if self.progress is None else self.progress.folder,
            engine=self.svi.engine,
            engine_steps={str(name): count for name, count in self.svi.engine_steps.items()},
            seconds=history["seconds"][-1],
            steps=self.steps_an_epoch * len(history["epoch"]),
            best_epoch=None if best is None else best.epoch,
            last_weights=last_weights,
            settings=self.start.settings,
            skipped=self.svi.skipped,
            recipe=self.recipe,
            objective=self.objective,
        )

    def _pass(self) -> dict[str, float]:
        """Takes one pass over the data, or what is left of one, and returns its line."""
        epoch, skipped = self.state.epoch, self.svi.skipped
        if self.recipe.schedule != "constant" and epoch > 1:
            self.svi.scale_lr(self.recipe.lr_share(epoch))
        if self.state.position is None and self.rows_a_pass < len(self.train):
            order = torch.randperm(len(self.train))
            self.state.position = Position(order[: self.rows_a_pass])
        with self._errors_explained():
            losses = self.svi.epoch(
                self.train.x,
                *self.tensors,
                batch_size=self.recipe.batch_size,
                transform=self.transform,
                position=self.state.position,
                on_step=self._on_step,
            )
            self.scales.fit()
            line = {"epoch": epoch, "loss": self._mean(losses)}
            line |= monitor(self.vae, self.objective, self.monitored)
            if self.held_out is not None:
                line |= monitor(self.vae, self.objective, self.held_out, "validation_")
                if self.chosen_by == "validation_bound":
                    line["validation_bound"] = bound(self.vae, self.objective, self.held_out)
        if self.svi.skipped > skipped:
            log.warning("epoch %d: %d steps left out so far, of losses that are not finite",
                        epoch, self.svi.skipped)  # fmt: skip
        self.health.look(line)
        score, best = line.get(self.chosen_by, -math.inf), self.state.best
        if score > (-math.inf if best is None else best.bound):
            self.state.best = Best(epoch, score, _copy(self.vae))
        return line

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Inside it, errors say in which epoch they were, and what may be done."""
        epoch = self.state.epoch
        try:
            yield
        except NonFinite as error:
            raise self._located(error) from None
        except (RuntimeError, MemoryError) as error:
            if error is self.callbacks.raised or not out_of_memory(error):
                raise
            size = self.recipe.batch_size
            raise MemoryError(
                f"out of memory in epoch {epoch}: lower `batch_size`, now {size}, or the widths of "
                "the networks"
            ) from None
        except ValueError as error:
            if error is self.callbacks.raised:
                raise
            reason = str(error).splitlines()[0]
            if "Trace Shapes:" in str(error) and "invalid values" not in reason:
                raise ValueError(reason) from error  # the cause has the shapes that Pyro saw
            if "invalid values" not in reason:
                raise
            # A distribution refuses parameters that are not finite before there is a loss.
            raise FloatingPointError(f"epoch {epoch}: {reason.rstrip(':')}") from None

    def _mean(self, losses: Tensor) -> float:
        """The loss an observation, of the steps that were not left out."""
        sizes = torch.full_like(losses, self.recipe.batch_size)
        sizes[-1] = self.rows_a_pass - sizes[:-1].sum()
        taken = losses.isfinite()
        if not taken.any():
            raise FloatingPointError(
                f"epoch {self.state.epoch}: all of its steps would be left out"
            )
        return (losses[taken].sum() / sizes[taken].sum()).item()

    def _located(self, error: NonFinite) -> FloatingPointError:
        """Says which batch it was; with a folder, leaves there what reproduces it."""
        message = f"epoch {self.state.epoch}: {error}"
        if error.rows is not None:
            rows = ", ".join(map(str, error.rows[:_NAMED].tolist()))
            more = ", ..." if len(error.rows) > _NAMED else ""
            message += f"; rows {rows}{more} of the data"
        if self.progress is not None:
            state = {"message": str(error), "step": error.step, "rows": error.rows}
            state |= {"batch": error.batch, "torch": error.random, "model": self.vae.state_dict()}
            message += f"; reproduced by {self.progress.reproduce(state)}"
            if len(last := self.progress.checkpoints[-1:]):
                message += f"; the last checkpoint is {last[0]}"
        return FloatingPointError(message)

    def _on_step(self, position: Position) -> None:
        self.scales.after(self.svi.steps)
        if self.callbacks.follow_steps:
            self.callbacks.on_step(self.svi.steps, self._last_losses(position))
        if self.progress is None:
            return
        self.state.position = position
        every = self.progress.every
        if self.signals.signum is None and (every is None or self.svi.steps % every):
            return
        sound = self.recipe.on_nonfinite == "skip" or all(
            bool(losses.isfinite().all()) for losses in position.losses
        )
        if not (sound and all(bool(p.isfinite().all()) for p in self.vae.parameters())):
            # Not to be kept. The pass, if it is cut short here, says what it was.
            position.start = position.start if sound else len(position.order)
            return
        self._stop(self._save())

    def _last_losses(self, position: Position) -> Tensor:
        """The loss an observation at each of the steps just taken."""
        losses, size = position.losses[-1], self.recipe.batch_size
        sizes = torch.full((len(losses),), size, device=losses.device)
        if position.start == len(position.order):
            sizes[-1] = (len(position.order) - 1) % size + 1  # the last batch is what was left
        return losses.reshape(len(losses), -1).sum(1) / sizes

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
        path = self.progress.write(self.svi.steps, self.state_dict())
        self.callbacks.on_checkpoint(path)
        return path

    def _renamed(self, optim: Mapping[str, Any], *, to_store: bool) -> dict[str, Any]:
        """Names of the parameter store differ from process to process; those of a model do not."""
        store = pyro.get_param_store()
        for program in (self.vae.model, self.vae.guide):
            program._register()
        names = {store.param_name(p): name for name, p in self.vae.named_parameters()}
        if to_store:
            names = {name: stored for stored, name in names.items()}
        return {names.get(key, key): value for key, value in optim.items()}


def _by_name(
    structure: TreeSpec, draw: Callable[[Tensor], Tensor] | None
) -> Callable[..., dict[str, Any]]:
    """What makes a batch of tensors into the arguments that the programs know by name."""

    def transform(x: Tensor, *others: Tensor) -> dict[str, Any]:
        return {"x": x if draw is None else draw(x), **tree_unflatten(others, structure)}

    return transform


def _copy(vae: Amortized) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in vae.state_dict().items()}
