"""What a fit returns, and the files that keep it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, overload

import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from torch import Tensor, nn
from typing_extensions import TypeVar

from pyro_vae import checkpoint
from pyro_vae._errors import as_path, expected, plural
from pyro_vae._html import shown
from pyro_vae.data.rows import Rows
from pyro_vae.programs import VAE, Amortized, Program
from pyro_vae.programs.composition import named
from pyro_vae.training.averaging import copied
from pyro_vae.training.recipe import Recipe
from pyro_vae.training.state_file import to_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["STATE", "Fitted", "Run", "read_engine", "read_history"]

STATE = "state.safetensors"
"""What a longer run goes on from, besides the weights."""

_RECORDED = {  # by fit.json, as they are in the run
    "engine": str,
    "seconds": int | float,
    "steps": int,
    "best_epoch": int | None,
    "skipped": int,
}
# Likewise, but not of old runs.
_OF_SOME = {"averaged_epoch": None, "window": None, "restored": "", "stopped": ""}
_KEPT = {"best": "best_weights", "average": "averaged_weights"}  # beside the last, if they are
_HISTORY = ("epoch", "loss", "elbo", "reconstruction", "kl", "seconds")
_VALIDATION = ("validation_elbo", "validation_reconstruction", "validation_kl")


Fitted = TypeVar("Fitted", bound=Amortized, default=VAE)


@dataclass(frozen=True, repr=False)
class Run(Generic[Fitted]):
    """What :func:`fit` returns.

    Attributes:
        vae: The fitted model; with validation data, at its best epoch, unless other weights were
            asked for or averaged ones are there.
        history: Equal-length lists, an entry an epoch: ``epoch``, ``loss`` (the objective an
            observation, averaged over the steps), ``elbo``, ``reconstruction``, ``kl`` (on training
            data, at the end of the epoch), ``seconds`` since the start, and with validation data
            ``validation_elbo``, ``validation_reconstruction``, ``validation_kl``; of an objective
            that is a bound of several draws ``validation_bound``. Scores of averaged weights begin
            with ``averaged_``, and that of a function of the user's is ``score``. In nats; NaN of
            epochs that were not scored.
        out: The folder written, if any.
        engine: ``inductor`` or ``eager``: what ran the last steps.
        engine_steps: Steps that each engine took.
        seconds: Wall-clock time of the loop.
        steps: Optimiser steps taken.
        best_epoch: The epoch of the best score, by validation unless another was asked for.
        last_weights: The weights at the last epoch.
        best_weights: Those at the best epoch, if there is one.
        averaged_weights: The averaged weights, if there are any: where they are scored, at the
            epoch where they score best.
        averaged_epoch: That epoch.
        restored: Which of these the model has: ``best``, ``last`` or ``average``.
        stopped: When and why the fit stopped before the last epoch; empty if it did not.
        window: Rows that were in memory at a time; None if all of them were.
        settings: What was fitted, to what and how, by which a run is known again.
        skipped: Steps left out, their loss not being finite.
        recipe: How it was fitted; None if the run was read, see ``settings``.
        objective: What was minimised, as it was at the last step; likewise.
        state: Optimiser, generators and what else there is at the end besides weights; likewise.
        asked: The arguments of the fit, its data among them; likewise. A pickle has none.
    """

    vae: Fitted
    history: Mapping[str, list[float]]
    out: Path | None
    engine: str
    engine_steps: Mapping[str, int]
    seconds: float
    steps: int
    best_epoch: int | None = None
    last_weights: Mapping[str, Tensor] = field(default_factory=dict)
    best_weights: Mapping[str, Tensor] = field(default_factory=dict)
    averaged_weights: Mapping[str, Tensor] = field(default_factory=dict)
    averaged_epoch: int | None = None
    restored: str = ""
    stopped: str = ""
    window: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    skipped: int = 0
    recipe: Recipe | None = None
    objective: PyroELBO | None = None
    state: Mapping[str, Any] | None = None
    asked: Mapping[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"asked": None}

    @property
    def compiled(self) -> bool:
        """Whether steps were compiled: asked for as ``compile``, it chooses as ``auto`` did."""
        return any(name != "eager" for name in self.engine_steps)

    @property
    def steps_per_second(self) -> float:
        """Optimiser steps a second, compilation and monitoring included."""
        return self.steps / max(self.seconds, 1e-9)

    @property
    def frame(self) -> pd.DataFrame:
        """The history as a table, an epoch a row.

        Example:
            >>> import torch, pyro_vae as pv
            >>> likelihood = pv.likelihoods.Bernoulli((4,))
            >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
            >>> run = pv.fit(vae, torch.eye(4).repeat(8, 1), epochs=3, seed=0)
            >>> run.frame.index.tolist(), run.frame["elbo"].to_numpy().shape
            ([1, 2, 3], (3,))
        """
        import pandas as pd  # slow to import, as are pictures

        return pd.DataFrame(dict(self.history)).astype({"epoch": int}).set_index("epoch")

    def plot(self, *, figure: Figure | SubFigure | None = None) -> list[Axes]:
        """Draws the history, see :func:`pyro_vae.plots.history`.

        Args:
            figure: Where to draw; one of its own if not given.
        """
        from pyro_vae import plots

        return plots.history(self.history, figure=figure)

    def __repr__(self) -> str:
        vae, epochs = self.vae, len(self.history["epoch"])
        lines = [
            f"Run({plural(epochs, 'epoch')}, {plural(self.steps, 'step')} in {self.seconds:.1f} s)"
        ]
        roles = ("prior", "guide_family", "likelihood") if isinstance(vae, VAE) else ()
        for role in roles:
            lines.append(f"  {role.partition('_')[0]:<12}{named(getattr(vae, role))}")
        if isinstance(vae, Program):
            lines.append(f"  {'program':<12}{vae}")
        for word, (elbo, fit, kl) in self._scores().items():
            lines.append(f"  {word:<12}ELBO {elbo:.4g} = reconstruction {fit:.4g} - KL {kl:.4g}")
        lines += [f"  {word:<12}{what}" for word, what in _facts(self).items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        epochs = len(self.history["epoch"])
        title = (
            f"Run: {plural(epochs, 'epoch')}, {plural(self.steps, 'step')} in {self.seconds:.1f} s"
        )
        rows = [
            [word, *(f"{value:.4g}" for value in values)] for word, values in self._scores().items()
        ]
        notes = [f"{word}: {what}" for word, what in _facts(self).items()]
        return shown(title, ["nats", "ELBO", "reconstruction", "KL"], rows, notes=notes)

    def _epoch(self) -> int:
        """The epoch whose weights the model has."""
        chosen = self.averaged_epoch if self.restored == "average" else self.best_epoch
        return len(self.history["epoch"]) if chosen is None or self.restored == "last" else chosen

    def _scores(self) -> dict[str, list[float]]:
        """ELBO, reconstruction and KL at the epoch of the weights, on each kind of data."""
        averaged = "averaged_" * (self.restored == "average")
        names = ("elbo", "reconstruction", "kl")
        return {
            word: [self.history[f"{start}{name}"][self._epoch() - 1] for name in names]
            for word, start in (("training", averaged), ("validation", f"{averaged}validation_"))
            if f"{start}kl" in self.history
        }

    @property
    def weights(self) -> str:
        """Which weights the model has, in words: of which epoch, chosen how, or averaged."""
        return _whose(self, self._epoch())

    def refit(self, rows: Rows, seed: int, *, epochs: int | None = None) -> Fitted:
        """Fits a fresh copy of the program to other rows, by the recipe of the run.

        It is what functions of :mod:`pyro_vae.evaluation` and :mod:`pyro_vae.criticism` take as
        ``refit``, which do not train themselves: from rows and a seed to a fitted program. The copy
        starts from the fitted weights, in the units of the first data, with a fresh optimiser and
        any warm-up behind it. Nothing is logged or written; the program, the optimiser, Pyro's
        parameter store and all generators stay as they were. Where validation rows chose the epoch
        of the run, a tenth of the rows, 20 at least, chooses it again, unless that is more than a
        fifth; ``patience`` has no effect.

        Processes may each refit at the same time, threads may not: the parameter store is one.

        Args:
            rows: Observations of the same kind, with what went with those of the run: conditions,
                masks, covariates, labels.
            seed: Of all that the fit draws.
            epochs: Passes over the rows. If not given, a quarter of those of the run, 1,000 steps
                at least, and never more than those of the run. Shorter refits stay too near to
                where they start: parameters that are fitted to 200 rows have half the spread that
                they should have after 200 steps, and three quarters after 400.

        Returns:
            The copy, in ``eval`` mode.

        Raises:
            ValueError: If the rows do not suit the program; a :class:`pyro_vae.Program` is a
                function that reaches networks, which no copy has for itself; or the run was read
                from files, which have neither an optimiser nor an objective of your own.

        Example:
            >>> import torch, pyro_vae as pv
            >>> from pyro_vae.data import Rows
            >>> likelihood = pv.likelihoods.Bernoulli((4,))
            >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
            >>> run = pv.fit(vae, torch.eye(4).repeat(8, 1), epochs=4, seed=0)
            >>> other = run.refit(Rows(torch.ones(32, 4)), seed=1)
            >>> bool(other.sample(500, seed=0).mean() > vae.sample(500, seed=0).mean())
            True
        """
        from pyro_vae.training import recorded, refit  # which fits, and a fit returns a run

        recipe, objective = self.recipe, self.objective
        recipe = recorded.recipe_of(self.settings) if recipe is None else recipe
        recipe = replace(recipe, compile=recipe.compile and self.compiled)
        if objective is None:
            objective = recorded.objective_of(self.settings, self.steps)
        return refit.refitted(
            self.vae,
            rows,
            seed,
            objective=objective,
            recipe=recipe,
            epochs=epochs,
            validates="validation_kl" in self.history,
        )

    def resume(
        self,
        data: Any = None,
        *,
        epochs: int,
        callbacks: Sequence[object] = (),
        progress: bool | None = None,
        **given: Any,
    ) -> Run[Fitted]:
        """Goes on to more epochs, in place, from where the fit ended.

        The longer run is, on a CPU bit for bit, the one that a single fit of so many epochs would
        have been, whose history it has: optimiser, generators and averages go on as they were. With
        ``compile="auto"`` that one may be compiled sooner, and with ``monitor_every`` the end of
        the first run has a score of its own. A run folder is the finished run that it was until it
        is the longer one; interrupted in between, the same call goes on.

        Args:
            data: Of a run that was read: those of the fit. A run that :func:`fit` returned has them
                still.
            epochs: Passes over the data in all, those that are behind included.
            callbacks: As of :func:`fit`.
            progress: Likewise.
            **given: Of a run that was read, what else :func:`fit` was given that no file has:
                ``validation``, ``mask`` and the like, an optimiser or a schedule of your own.

        Returns:
            The longer run; this one stays, but for the weights of its model.

        Raises:
            ValueError: If a cosine, ``swa`` or ``patience`` has ended the run, so that a longer one
                would have been another from the start; data are missing or others; or the run was
                written by a version that kept no state.

        Example:
            >>> import torch, pyro_vae as pv
            >>> likelihood = pv.likelihoods.Bernoulli((4,))
            >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
            >>> run = pv.fit(vae, torch.eye(4).repeat(8, 1), epochs=2, seed=0)
            >>> run.resume(epochs=5).history["epoch"]
            [1, 2, 3, 4, 5]
        """
        from pyro_vae.training.fit import resumed  # which returns a run

        return resumed(self, data, epochs, {"callbacks": callbacks, "progress": progress}, given)

    def write(self, folder: Path) -> None:
        """Writes model, last weights, ``history.json``, ``engine.json`` and ``fit.json``.

        The best and the averaged weights, if the model has others, are in ``best.safetensors`` and
        ``average.safetensors``, and what a longer run goes on from is in ``state.safetensors``.

        Args:
            folder: Where to; it is there already.
        """
        checkpoint.save(self.vae, folder)
        digest = checkpoint.write_tensors(folder / "last.safetensors", self.last_weights)
        history = {
            name: [value if math.isfinite(value) else None for value in values]
            for name, values in self.history.items()
        }
        checkpoint.write_json(folder / "history.json", history)
        checkpoint.write_json(folder / "engine.json", dict(self.engine_steps))
        record = {"settings": self.settings, "last_sha256": digest}
        record |= {name: getattr(self, name) for name in (*_RECORDED, *_OF_SOME)}
        for name, attribute in _KEPT.items():
            if (weights := getattr(self, attribute)) and self.restored != name:
                path = folder / f"{name}.safetensors"
                record[f"{name}_sha256"] = checkpoint.write_tensors(path, weights)
        if self.state is not None:
            content = to_bytes({"schema": checkpoint.SCHEMA, **self.state})
            checkpoint.write_bytes(folder / STATE, content)
            record["state_sha256"] = hashlib.sha256(content).hexdigest()
        if isinstance(self.vae, VAE):
            record["likelihood"] = self.vae.likelihood.spec()
        checkpoint.write_json(folder / "fit.json", record)

    @overload
    @classmethod
    def load(
        cls,
        folder: str | Path,
        classes: checkpoint.Classes | None = None,
        device: torch.device | str | None = None,
        *,
        program: Program,
    ) -> Run[Program]: ...

    @overload
    @classmethod
    def load(
        cls,
        folder: str | Path,
        classes: checkpoint.Classes | None = None,
        device: torch.device | str | None = None,
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        program: None = None,
    ) -> Run[VAE]: ...

    @classmethod
    def load(
        cls,
        folder: str | Path,
        classes: checkpoint.Classes | None = None,
        device: torch.device | str | None = None,
        **built: Any,
    ) -> Run[Any]:
        """Reads a finished run and its model from the folder that a fit wrote.

        Args:
            folder: What was ``out``.
            classes: Your own parts and networks by class name, see :func:`pyro_vae.load`.
            device: Where to put the model; the CPU if not given.
            built: ``encoder``, ``decoder`` or ``program``, likewise.

        Returns:
            The run. It has no recipe and no objective, but ``settings``, which say what they were.

        Raises:
            ValueError: If a file is missing or damaged, or the run is not finished.

        Example:
            >>> import tempfile, torch, pyro_vae as pv
            >>> likelihood = pv.likelihoods.Bernoulli((4,))
            >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     x, out = torch.eye(4).repeat(8, 1), f"{folder}/run"
            ...     run = pv.fit(vae, x, epochs=3, seed=0, out=out)
            ...     again = pv.Run.load(out)
            >>> again.history == run.history
            True
        """
        folder = as_path("folder", folder)
        return cls.read(checkpoint.load(folder, classes, device, **built), folder)

    @classmethod
    def read(cls, vae: Fitted, folder: Path) -> Run[Fitted]:
        """Reads a finished run, whose weights go into the model.

        Args:
            vae: A model of the same parts.
            folder: What :meth:`write` wrote to.

        Returns:
            The run, of this model.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        record = checkpoint.read_json(folder / "fit.json", settings=dict, **_RECORDED)

        def read(name: str) -> dict[str, Tensor]:
            path = folder / f"{name}.safetensors"
            content = checkpoint.read_bytes(path, record.get(f"{name}_sha256"))
            return checkpoint.tensors_of(path, content)[0]

        weights = read("last")
        kept: dict[str, Any] = {
            attribute: read(name) for name, attribute in _KEPT.items() if f"{name}_sha256" in record
        }
        # Into the model given: one with a network of the user's own is not rebuilt by its names.
        digest = checkpoint.read_json(folder / "model.json").get("sha256")
        checkpoint.load_weights(vae, folder / "model.safetensors", digest)
        if (attribute := _KEPT.get(record.get("restored", ""))) is not None:
            kept[attribute] = copied(vae)
        kept |= {name: record.get(name, default) for name, default in _OF_SOME.items()}
        return cls(
            vae=vae.eval(),
            history=read_history(folder / "history.json"),
            out=folder,
            engine_steps=read_engine(folder / "engine.json"),
            last_weights=weights,
            settings=record["settings"],
            **{name: record[name] for name in _RECORDED},
            **kept,
        )


def _facts(run: Run[Any]) -> dict[str, str]:
    """What there is to say of a run besides the parts and the scores."""
    took = ", ".join(f"{name}: {plural(count, 'step')}" for name, count in run.engine_steps.items())
    skipped = f"; {run.skipped:,} skipped" if run.skipped else ""
    facts = {"weights": run.weights}
    if run.restored == "average" and "averaged_kl" not in run.history:
        facts = {"training": "not scored of averaged weights"} | facts
    facts |= {"stopped": run.stopped.removeprefix("stopped ")} if run.stopped else {}
    facts["engine"] = f"{took}{skipped}"
    return facts if run.out is None else facts | {"out": str(run.out)}


def _whose(run: Run[Any], epoch: int) -> str:
    """Says which weights the model of a run has."""
    if run.restored == "average":
        return f"averaged, as at the end of epoch {epoch:,}"
    if run.restored == "last" or run.best_epoch is None:
        return "of the last epoch"
    asked = run.settings.get("monitor") if run.recipe is None else run.recipe.monitor
    by = "on validation data" if asked is None else f"by {getattr(asked, '__name__', asked)}"
    return f"of epoch {epoch:,}, the best {by}"


def read_history(path: Path) -> dict[str, list[float]]:
    """Reads ``history.json``, in which null is what was not finite.

    Args:
        path: Of the file.

    Returns:
        A value for each epoch, by name, as ``run.history`` has them: scores in nats per
        observation, NaN where they were not finite.

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

    Args:
        path: Of the file.

    Returns:
        Steps taken, by engine.

    Raises:
        ValueError: If it is missing or damaged.
    """
    steps = checkpoint.read_json(path)
    checkpoint.check_kinds(path, steps, dict.fromkeys(steps, int))
    return steps
