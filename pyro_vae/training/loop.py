"""The loop of a fit: one pass after another, and the state between two steps."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Generic

import pyro
import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from torch import Tensor

from pyro_vae._signals import Interrupted, Waiting
from pyro_vae.data.rows import Rows
from pyro_vae.engine import CompiledSVI, Position
from pyro_vae.engine.generators import random_state, set_random_state
from pyro_vae.engine.processes import Processes
from pyro_vae.likelihoods.in_units import work_as_before
from pyro_vae.programs import VAE, Amortized
from pyro_vae.training.averaging import Averaging, copied
from pyro_vae.training.callbacks import Callbacks
from pyro_vae.training.differences import differences
from pyro_vae.training.explained import explained
from pyro_vae.training.health import Health
from pyro_vae.training.parts import rest
from pyro_vae.training.passes import pass_of, position_of
from pyro_vae.training.recipe import Recipe
from pyro_vae.training.resume import RunInProgress
from pyro_vae.training.run import Fitted, Run
from pyro_vae.training.scales import Scales, Unscaled
from pyro_vae.training.scoring import AVERAGED, Best, Scoring
from pyro_vae.training.settings import environment
from pyro_vae.training.splits import Accepted, rows_of_a_pass
from pyro_vae.training.state import Start, State
from pyro_vae.training.together import check_weights, name_the_slow, sharing_of

__all__ = ["Loop"]

log = logging.getLogger("pyro_vae")


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
        processes: Who takes the steps.
    """

    def __init__(
        self,
        vae: Fitted,
        objective: PyroELBO,
        recipe: Recipe,
        *,
        splits: Accepted,
        monitored: Rows,
        progress: RunInProgress | None,
        start: Start,
        processes: Processes,
    ) -> None:
        self.vae = vae
        self.objective = objective
        self.recipe = recipe
        self.train, self.held_out, self.monitored = splits.train, splits.held_out, monitored
        self.progress = progress
        self.start = start
        self.state = State()
        self.signals = Waiting()
        self.processes = processes
        self.sharing = sharing_of(vae, objective, recipe, processes, start.random)
        self.rows_a_pass = rows_of_a_pass(vae, self.train, recipe.rows_at_once(processes.count))
        self.rows_a_step = recipe.rows_a_step
        if (left := len(self.train) - self.rows_a_pass) > 0:
            log.warning("each epoch leaves out %d row, another each time: a batch of one cannot be "
                        "normalised; another `batch_size` takes all", left)  # fmt: skip
        self.steps_an_epoch = math.ceil(self.rows_a_pass / self.rows_a_step)
        self.take_pass = pass_of(vae, splits, self.rows_a_step, self.rows_a_pass)
        clip = recipe.clip_norm
        self.svi = CompiledSVI(
            vae.model,
            vae.guide,
            recipe.optimizer(vae),
            objective,
            compile=recipe.compile,
            planned_steps=recipe.epochs * self.steps_an_epoch,
            # The loss is a sum over the batch.
            clip_norm=clip and clip * min(self.rows_a_step, len(self.train)),
            on_nonfinite=recipe.on_nonfinite,
            # Data are checked before, and a parameter that is NaN makes the loss so.
            validate=False,
            check_folder=None if progress is None else progress.folder,
            precision=recipe.precision,
            rows_at_once=recipe.batch_size if recipe.accumulate > 1 else None,
            sharing=self.sharing,
        )
        self.health = Health(vae, self.monitored.without("labels"))
        self.scales: Scales | Unscaled = Unscaled()
        if isinstance(vae, VAE):
            num_train = len(self.train)
            self.scales = Scales(vae, objective, self.monitored, self.held_out, num_train)
        self.scoring = Scoring(vae, objective, monitored, self.held_out, recipe.monitor)
        self.average = (
            None if recipe.average is None else Averaging(vae, recipe.average, recipe.epochs)
        )
        self.rates = recipe.rates()

    def state_dict(self) -> dict[str, Any]:
        """Returns all that :meth:`load_state_dict` needs, in another process too."""
        svi, state = self.svi.state_dict(), self.state
        if state.position is not None and len(state.position.losses) > 1:
            # Few tensors in a file; in place, as the pass goes on with this very list.
            state.position.losses[:] = [torch.cat(state.position.losses)]
        return {
            "start": self.start.random,
            "settings": self.start.settings,
            "monitored": self.start.order,
            "scales_kept": self.scales.are_kept,
            "scales_held_out": self.scales.are_held_out,
            "epoch": state.epoch,
            "position": state.position and dict(vars(state.position)),
            "window": self.take_pass.window,
            "neighbours": self.take_pass.neighbours,
            "history": state.history,
            "best": state.best,
            "averaged": state.averaged,
            "average": self.average and self.average.state_dict(),
            "seconds": state.seconds + time.perf_counter() - self.began,
            "random": random_state(self.vae.device),
            "model": self.vae.state_dict(),
            "svi": svi | {"optim": _renamed(self.vae, svi["optim"], to_store=False)},
            "environment": self._environment(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned."""
        device = self.vae.device
        if (changed := differences(state["environment"], self._environment())) != "":
            log.warning("resumed where the last bits may differ: %s", changed)
        position = None
        if state["position"] is not None:
            position = position_of(state["position"], device)
        best, averaged = (_on(device, state.get(name)) for name in ("best", "averaged"))
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        history = dict(state["history"])
        if best is not None and self.scoring.name not in history:
            self.scoring.name = "validation_elbo"  # a checkpoint of before goes on as it began
        seconds = float(state["seconds"])
        self.state = State(int(state["epoch"]), position, history, best, averaged, seconds)
        self.health.recall([kl for kl in history.get("kl", []) if not math.isnan(kl)])
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
        optim = _renamed(self.vae, svi["optim"], to_store=True)
        self.svi.load_state_dict(svi | {"optim": optim})
        self.scales.resume(self.svi.steps)
        set_random_state(state["random"], device)

    def run(self, callbacks: Callbacks) -> Run[Fitted]:
        """Takes it to the end."""
        self.begin(callbacks)
        with nullcontext() if self.progress is None else self.signals():
            while not self.state.is_over(self.recipe):
                self.begin_pass()
                with explained(self):
                    losses = self.take_pass(self.svi, self.state.position, self.on_step)
                self.end_pass(losses)
            self.vae.eval()
            if self.progress is not None:
                self._save(self.progress)  # what comes after may be interrupted too
                self._notice(self.progress, wait=True)
        if self.progress is not None:
            self._stop(self.progress)  # a signal may have come after the last step
        return self.end()

    def begin(self, callbacks: Callbacks) -> None:
        """Gets ready for the first pass."""
        self.callbacks = callbacks
        self.began = time.perf_counter()
        self.vae.train()
        rest(self.vae, self.recipe.trained)

    def end(self) -> Run[Fitted]:
        """Returns the run, and leaves the model with the weights that it is to have."""
        self.vae.eval()
        last_weights, history, end = copied(self.vae), self.state.history, self._end()
        best, averaged = self.state.best, self.state.averaged
        if self.average is not None and averaged is None:
            _, weights = self.scoring.averaged(self.average, self.scales)
            averaged = Best(int(history["epoch"][-1]), -math.inf, weights)
        restored = self.recipe.restored or ("last" if best is None else "best")
        kept = {"best": best, "average": averaged}.get(restored)
        if kept is not None:
            self.vae.load_state_dict(kept.weights)
        else:
            restored = "last"
        self.scales.warn()
        if stopped := self._stopped():
            log.info("%s", stopped)
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
            best_weights={} if best is None else best.weights,
            averaged_weights={} if averaged is None else averaged.weights,
            averaged_epoch=None if averaged is None else averaged.epoch,
            restored=restored,
            stopped=stopped,
            settings=self.start.settings,
            skipped=self.svi.skipped,
            window=self.take_pass.window,
            recipe=self.recipe,
            objective=self.objective,
            state=end,
            asked=self.start.asked,
        )

    def _end(self) -> dict[str, Any]:
        """What a longer run goes on from, besides the weights, which the run has."""
        state = self.state_dict()
        del state["model"], state["settings"]
        for name in ("best", "averaged"):
            state[name] = state[name] and state[name][:2]
        return state

    def begin_pass(self) -> None:
        """Sets the learning rates of the pass that comes next, or of what is left of one."""
        epoch = self.state.epoch
        self._skipped = self.svi.skipped
        if self.rates is not None:
            self.svi.scale_lr(self.rates.share(epoch, self._losses()))
        elif self.recipe.schedule != "constant" and epoch > 1:
            self.svi.scale_lr(self.recipe.lr_share(epoch))

    def end_pass(self, losses: Tensor) -> None:
        """Scores the weights after a pass, and records its line.

        Args:
            losses: Of its steps, shape ``(steps,)``.
        """
        epoch = self.state.epoch
        with explained(self):
            self.scales.fit()
            line = {"epoch": epoch, "loss": self._mean(losses)}
            if self.average is not None:
                self.average.after_epoch(epoch)
            if epoch % self.recipe.monitor_every == 0 or epoch == self.recipe.epochs:
                self._score(line)
        if self.svi.skipped > self._skipped:
            log.warning("epoch %d: %d steps left out so far, of losses that are not finite",
                        epoch, self.svi.skipped)  # fmt: skip
        line["seconds"] = self.state.seconds + time.perf_counter() - self.began
        line = self.processes.first_of(line)  # the clock, too
        check_weights(self.vae, self.processes)
        name_the_slow(self.sharing, self.vae.device, self.state.epoch)
        self.state.record(line)
        self.callbacks.on_epoch(line)

    def _score(self, line: dict[str, float]) -> None:
        """Scores the weights at the end of an epoch, and keeps them if they are the best."""
        scoring, state, epoch = self.scoring, self.state, self.state.epoch
        # They are one, whatever processor each has: all choose and stop at the same epoch.
        line |= self.processes.first_of(scoring.line())
        self.health.look(line)
        if scoring.better(state.best, line):
            state.best = Best(epoch, line[scoring.name], copied(self.vae))
        if self.average is None or not (self.average.has_begun and scoring.chooses):
            return
        scores, weights = scoring.averaged(self.average, self.scales)
        line |= self.processes.first_of(scores)
        if scoring.better(state.averaged, line, AVERAGED):
            state.averaged = Best(epoch, line[AVERAGED + scoring.name], weights)

    def _losses(self) -> list[float]:
        """What a scheduler may look at: less is better."""
        history, name = self.state.history, self.scoring.name
        if not self.scoring.chooses:
            return history.get("loss", [])
        # Until the first score there is none to look at, and what is replayed later is the same.
        return [-score for score in history.get(name, [math.nan] * (self.state.epoch - 1))]

    def _stopped(self) -> str:
        """Says when a fit stopped before its last epoch, and why; nothing if it did not."""
        behind, best = self.state.epoch - 1, self.state.watched(self.recipe)
        if behind >= self.recipe.epochs or best is None:
            return ""
        name = (AVERAGED if best is self.state.averaged else "") + self.scoring.name
        return (
            f"stopped after epoch {behind:,} of {self.recipe.epochs:,}: {name} was greatest, "
            f"{best.bound:.6g}, at epoch {best.epoch:,}, {behind - best.epoch:,} before"
        )

    def _mean(self, losses: Tensor) -> float:
        """The loss an observation, of the steps that were not left out."""
        sizes = torch.full_like(losses, self.rows_a_step)
        sizes[-1] = self.rows_a_pass - sizes[:-1].sum()
        taken = losses.isfinite()
        if not taken.any():
            raise FloatingPointError(
                f"epoch {self.state.epoch}: all of its steps would be left out"
            )
        return (losses[taken].sum() / sizes[taken].sum()).item()

    def on_step(self, position: Position) -> None:
        """Does what there is to do between two steps."""
        self.scales.after(self.svi.steps)
        if self.average is not None:
            self.average.after_step()
        if self.callbacks.follow_steps:
            self.callbacks.on_step(self.svi.steps, self._last_losses(position))
        if self.progress is None:
            return
        self.state.position = position
        self._notice(self.progress, wait=False)
        every = self.progress.every
        if not self._is_asked() and (every is None or self.svi.steps % every):
            return
        sound = self.recipe.on_nonfinite == "skip" or all(
            bool(losses.isfinite().all()) for losses in position.losses
        )
        if not (sound and all(bool(p.isfinite().all()) for p in self.vae.parameters())):
            # Not to be kept. The pass, if it is cut short here, says what it was.
            position.start = position.start if sound else len(position.order)
            return
        self._save(self.progress)
        self._stop(self.progress)

    def _is_asked(self) -> bool:
        """Tells whether this process, or one of those that it shares steps with, is to stop."""
        if self.sharing is None or self.processes.count == 1:
            return self.signals.signum is not None
        self.sharing.asked = self.signals.signum is not None  # which the next step takes along
        return self.sharing.stops

    def _environment(self) -> dict[str, Any]:
        found = environment(self.vae.device)
        if self.recipe.shards is None and self.processes.count > 1:
            found["processes"] = self.processes.count
        return found

    def _last_losses(self, position: Position) -> Tensor:
        """The loss an observation at each of the steps just taken."""
        losses, size = position.losses[-1], self.rows_a_step
        sizes = torch.full((len(losses),), size, device=losses.device)
        if position.start == len(position.order):
            sizes[-1] = (len(position.order) - 1) % size + 1  # the last batch is what was left
        return losses.reshape(len(losses), -1).sum(1) / sizes

    def _stop(self, progress: RunInProgress) -> None:
        """Leaves, if a signal has come, once a checkpoint is written."""
        if self.processes.count > 1:  # to any of them
            self.signals.signum = max(self.processes.gathered(self.signals.signum or 0)) or None
        if self.signals.signum is not None:
            self._notice(progress, wait=True)
            name = signal.Signals(self.signals.signum).name
            raise Interrupted(
                f"stopped by {name} at step {self.svi.steps:,}; "
                f"--resume goes on with {progress.folder}",
                self.signals.signum,
            )

    def _save(self, progress: RunInProgress) -> None:
        """Has a checkpoint written, once the one before is; a thread does it."""
        self._notice(progress, wait=True)
        if progress.writes:
            progress.begin(self.svi.steps, self.state_dict())

    def _notice(self, progress: RunInProgress, *, wait: bool) -> None:
        """Reports a checkpoint that is there by now."""
        if (path := progress.written(wait=wait)) is not None:
            self.callbacks.on_checkpoint(path)


def _renamed(vae: Amortized, optim: Mapping[str, Any], *, to_store: bool) -> dict[str, Any]:
    """Names of the parameter store differ from process to process; those of a model do not."""
    store = pyro.get_param_store()
    for program in (vae.model, vae.guide):
        program._register()
    names = {store.param_name(p): name for name, p in vae.named_parameters()}
    if to_store:
        names = {name: stored for stored, name in names.items()}
    return {names.get(key, key): value for key, value in optim.items()}


def _on(device: torch.device, best: Any) -> Best | None:
    """Returns what a checkpoint has of a best epoch, on the device of the fit."""
    if best is None:
        return None
    epoch, score, weights = best
    return Best(epoch, score, {name: weight.to(device) for name, weight in weights.items()})
