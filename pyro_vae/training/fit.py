"""The verb: fits a model to data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from torch import Tensor, nn

from pyro_vae import checkpoint
from pyro_vae._errors import as_device, expected
from pyro_vae._progress import Monitor as Shown
from pyro_vae._progress import displayed
from pyro_vae._untouched import seeded
from pyro_vae.data import Dataset, Source, Stream
from pyro_vae.data.budget import budget
from pyro_vae.data.rows import Numbers, Rows
from pyro_vae.engine.generators import random_state, set_random_state
from pyro_vae.engine.problem import Precision
from pyro_vae.engine.processes import Processes, all_processes, together
from pyro_vae.likelihoods.in_units import LikelihoodInUnits
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.programs import VAE
from pyro_vae.programs.protocol import is_amortized
from pyro_vae.programs.streamed import StreamedRows
from pyro_vae.training.averaging import Average
from pyro_vae.training.callbacks import Callbacks, EpochLog, Function, checked
from pyro_vae.training.further import asked_of, further_state, is_further
from pyro_vae.training.loop import Loop
from pyro_vae.training.monitor import MONITORED
from pyro_vae.training.parts import check_precision, fingerprint, only, start_from, weights_of
from pyro_vae.training.recipe import (
    Compile,
    Monitor,
    OnNonFinite,
    Optim,
    Recipe,
    Restore,
    Schedule,
    needs_validation,
)
from pyro_vae.training.resume import (
    Resume,
    RunInProgress,
    check_settings,
    has_checkpoints,
    in_progress,
    is_finished,
    of_a_checkpoint,
)
from pyro_vae.training.run import Fitted, Run
from pyro_vae.training.settings import as_read, describe
from pyro_vae.training.splits import Accepted, Memory, Splits, Values, beside, check_size, split
from pyro_vae.training.splits import start as start_at
from pyro_vae.training.state import Start
from pyro_vae.training.together import (
    begin_alike,
    check_alike,
    check_alone,
    device_of,
    draw_alike,
)

__all__ = ["best_device", "fit"]

# Arguments that a run which goes on has of its own.
_OF_ONE_CALL = ("vae", "out", "resume", "on_epoch", "callbacks", "progress")

Init: TypeAlias = str | Path | Run[Any] | nn.Module | Mapping[str, Tensor]

log = logging.getLogger("pyro_vae")


def best_device() -> torch.device:
    """Returns CUDA where there is one, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fit(
    vae: Fitted,
    data: Dataset | Stream | Source | Numbers,
    *,
    objective: PyroELBO | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float | Mapping[str, float] = 1e-3,
    schedule: Schedule = "constant",
    weight_decay: float = 0.0,
    optim: Optim | None = None,
    validation: Stream | Numbers | float | None = None,
    cond: Values = None,
    mask: Values = None,
    covariates: Mapping[str, Any] | None = None,
    labels: Values = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    max_memory: int | str | None = None,
    compile: Compile = "auto",
    patience: int | None = None,
    clip_norm: float | None = None,
    on_nonfinite: OnNonFinite = "raise",
    accumulate: int = 1,
    shards: int | None = None,
    precision: Precision = "float32",
    average: Average | None = None,
    restore: Restore | None = None,
    monitor: Monitor | None = None,
    monitor_every: int = 1,
    init: Init | None = None,
    trainable: str | Sequence[str] | None = None,
    out: str | Path | RunInProgress | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
    resume: Resume = False,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
    callbacks: Sequence[object] = (),
    progress: bool | None = None,
) -> Run[Fitted]:
    """Fits a model in place by stochastic variational inference.

    The data live on the device, and a batch is one gather; a short last batch is used. With
    validation data, the model ends with the weights of the best epoch, and learned scales are those
    of held-out residuals. The best is that of the greatest validation ELBO; of an objective that is
    a bound of several draws, such as ``IWAE``, of the greatest such bound. It is left in ``eval``
    mode.

    With ``out``, a run that is asked to stop (SIGINT, SIGTERM, SIGHUP) writes a checkpoint first,
    as it does every ``checkpoint_every`` steps. It is resumed by the same call with
    ``resume=True``, on a CPU to the very weights that it would have had: model, optimiser,
    generators, the place in the epoch and the engine are those of the checkpoint. What ran already
    is not run again, and a finished run is read. Settings and data must be those of before.

    Where several processes call it, as ``torchrun`` starts them, they share each batch. All have
    all data, and return the same run; the first one writes, logs and calls the callbacks.

    The arguments are the options of the command line, and therefore listed here one by one, which
    is what makes this function longer than others.

    References:
        Stochastic Variational Inference (Hoffman et al., 2013), https://arxiv.org/abs/1206.7055

    Args:
        vae: The model, trained in place.
        data: A dataset, which brings its splits; an array of shape ``(N, *event_shape)``; or rows
            that are elsewhere, see :func:`pyro_vae.data.stream`.
        objective: What to minimise, ours or Pyro's; ``ELBO()`` if not given.
        epochs: Passes over the training data.
        batch_size: Observations a step.
        lr: Learning rate of Adam at the start; or that of some parts by name, such as
            ``{"encoder": 1e-3, "decoder": 1e-4}``, where all others have 1e-3.
        schedule: ``constant``, or ``cosine``: the rate falls to 0 along half a cosine (SGDR,
            Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983). Or a scheduler of
            :mod:`torch.optim.lr_scheduler`, such as ``StepLR(step_size=30, gamma=0.5)``, which
            takes a step an epoch; from Python also a function from an optimiser to one. It gets an
            optimiser of the rate ``lr``, whose rate alone is looked at; ``ReduceLROnPlateau`` gets
            minus the score by which the best epoch is chosen, or the loss.
        weight_decay: Against overfitting of small data: share by which weight matrices, not biases
            or scales, shrink per unit of learning rate (AdamW, Loshchilov and Hutter, 2019,
            https://arxiv.org/abs/1711.05101).
        optim: From parameters to a torch optimiser, or an optimiser of ``pyro.optim`` that is no
            scheduler; in place of Adam, with its own learning rate.
        validation: Data of shape ``(M, *event_shape)``, or the fraction of ``data`` to set apart; a
            dataset brings its own.
        cond: What each observation is conditioned on, shape ``(N, cond_size)``; where validation
            data come apart, and with a dataset, a mapping with ``train`` and ``validation``. A
            dataset may bring its own, and a mask and covariates.
        mask: Which entries are observed, boolean, of the shape of the data; likewise. Hidden
            entries may be anything.
        covariates: What the likelihood needs to know of each observation, by name, shape ``(N,)``,
            such as ``{"size_factor": s}``; likewise, a mapping of splits to those.
        labels: The class of each training observation, integers of shape ``(N,)``, -1 where it is
            not known, for models with one categorical latent; held-out data are scored without.
        seed: Of all that a fit draws: which data validate, the start at the data, the order of the
            batches, z, dropout. It seeds the generators of torch, on every device, of NumPy and of
            Python, which are then as they were. The weights are drawn before, see
            :class:`pyro_vae.VAE`. None draws from the generators as they are.
        device: Where to train; CUDA where there is one, else MPS, else the CPU.
        max_memory: What data that are not in memory may take there, in bytes or as ``2GiB``; a
            quarter of what is free if not given. More is read in windows, and batches are of
            neighbours of a window, see :func:`pyro_vae.data.stream`.
        compile: Whether to run compiled steps; ``auto`` decides by the work ahead, and by what work
            costs on this machine, which is measured once and kept.
        patience: Epochs without a better ``monitor`` before it stops; None never does.
        clip_norm: Largest norm of the gradient an observation, of all parameters together; a longer
            one is scaled down to it.
        on_nonfinite: Whether a loss that is not finite stops the run, with the last checkpoint and
            a file that reproduces it in ``out``; or the step is left out, ``skip``, 100 at most,
            and counted.
        accumulate: Batches an update, whose gradients are added up: the update is that of a batch
            of so many times the rows, in the memory of one.
        shards: Equal parts of each batch, whose gradients are computed one by one and added up in
            their order: 1, 2 or more processes that divide them then give the same weights, on a
            CPU to the bit. Statistics of batches are those of a shard.
        precision: Of matrix products: ``tf32`` (on CUDA) or ``bfloat16``, by autocast. Weights and
            likelihoods stay in float32.
        average: Averages weights as they move: ``ema``, exponentially after each step (with a decay
            of 0.999), or ``swa``, the mean over the ends of the epochs of the last quarter (SWA,
            Izmailov et al., 2018, https://arxiv.org/abs/1803.05407). They are scored and kept
            beside the others, and the model ends with them unless ``restore`` says otherwise.
        restore: Which weights the model ends with: ``best``, ``last`` or ``average``, of which
            there may be a best epoch, too. If not given, averaged ones if there are any, else the
            best if there is a score, else the last.
        monitor: The score that the best epoch has the greatest of: ``elbo`` or ``reconstruction``
            (of training data), ``validation_elbo``, ``validation_reconstruction`` or
            ``validation_bound``; from Python also a function from the model to a number. If not
            given, the bound on validation data.
        monitor_every: Epochs from one scoring to the next, each of which takes time; the last epoch
            is always scored.
        init: Where the weights start: the folder of a run, a run, a model, or tensors by name, of
            some parts if others are to start as they are.
        trainable: Names of the parts that are trained, such as ``decoder`` or ``encoder.layers.0``;
            all others stay as they are.
        out: Folder to write model, last weights and history to; must not exist.
        checkpoint_every: Steps from one checkpoint to the next, in ``out``; None writes one only
            when asked to stop.
        keep: Checkpoints to keep, the newest; each has the best weights so far beside the last.
        resume: Whether to go on from the last checkpoint in ``out``, if there is one; ``previous``
            from the last one that is whole.
        on_epoch: Called after each epoch with its line of the history; short for a callback.
        callbacks: Objects that follow the run and do not change it, in the order in which to call
            them: see :class:`pyro_vae.training.Callback`, and for TensorBoard, Weights & Biases and
            MLflow :mod:`pyro_vae.training.loggers`.
        progress: Whether to show a bar with the figures of the last epoch, wherever output goes. If
            not given, in notebooks and where standard error is a terminal, and not under pytest.
            Either way each epoch is logged, as ``INFO`` of the logger ``pyro_vae.training``.

    Returns:
        The run.

    Raises:
        ValueError: If an argument is out of range, data do not fit the model, or the run to resume
            is damaged or of other settings.
        FloatingPointError: If the loss is not finite: with the place, and the site or parameter.
        MemoryError: If memory does not suffice; with the argument to lower.
        Interrupted: If asked to stop; a ``KeyboardInterrupt``.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> run = pv.fit(vae, torch.eye(4).repeat(8, 1), epochs=2, seed=0)
        >>> len(run.history["elbo"]), run.vae is vae
        (2, True)
    """
    if not is_amortized(vae):
        raise expected("vae", "a VAE, or a Program", vae)
    return _fitted(vae, locals(), None)


def resumed(
    run: Run[Fitted],
    data: Any,
    epochs: int,
    followed: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Run[Fitted]:
    """Goes on to more epochs; see :meth:`pyro_vae.Run.resume`.

    Args:
        run: The finished run.
        data: Of one that was read.
        epochs: In all.
        followed: What follows the fit: callbacks and the bar.
        given: Of one that was read, what no file has.
    """
    names = signature(fit).parameters.keys() - {*_OF_ONE_CALL, "data", "epochs"}
    for name, value in given.items():
        if name not in names:
            what = "none, as a run goes on with its own model, in its folder if it has one"
            raise expected(name, what, value)
    asked = {**asked_of(run, data, epochs, given), **followed}
    if run.out is not None:
        if not (is_finished(run.out) or has_checkpoints(run.out)):
            # Or it would be a fit of another folder, which starts from the fitted weights.
            raise expected("resume", "the folder of the run where it was written", str(run.out))
        return fit(run.vae, **asked, out=run.out, resume=True)
    defaults = {each.name: each.default for each in signature(fit).parameters.values()}
    return _fitted(run.vae, defaults | asked, run)


def _fitted(vae: Fitted, asked: Mapping[str, Any], before: Run[Fitted] | None) -> Run[Fitted]:
    """Fits a model by the arguments of :func:`fit`, perhaps from where a run ended."""
    processes = all_processes()
    followers, progress = checked(asked["callbacks"]), asked["progress"]
    if asked["on_epoch"] is not None:
        followers.insert(0, Function(asked["on_epoch"]))
    if not processes.is_first:
        followers, progress = [], False
    with begun(vae, asked, processes, before) as (loop, ongoing):
        if isinstance(loop, Run):
            return loop
        with displayed(progress) as shown:
            if shown is not None:
                followers.insert(0, Function(_shown_by(shown, loop)))
            with Callbacks([EpochLog(loop.recipe.epochs), *followers], vae) as called:
                with only(vae, loop.recipe.trained):
                    run = loop.run(called)
                if ongoing is not None and ongoing is not asked["out"]:
                    processes.from_first(lambda: ongoing.finish(run.write))
                called.on_end(run)
    return run


@contextmanager
def begun(
    vae: Fitted, asked: Mapping[str, Any], processes: Processes, before: Run[Fitted] | None = None
) -> Iterator[tuple[Loop[Fitted] | Run[Fitted], RunInProgress | None]]:
    """Starts a model at the data; inside it the generators are those of the fit.

    Args:
        vae: The model.
        asked: The arguments of :func:`fit`.
        processes: Who takes the steps.
        before: The run that goes on, if one does.

    Yields:
        What takes the passes, or the run where none is left; and its folder, if it has one.
    """
    check_precision(vae)
    data, out, resume = asked["data"], asked["out"], asked["resume"]
    recipe = Recipe(**{each.name: asked[each.name] for each in fields(Recipe)})
    if isinstance(vae, VAE):  # of others the parameters are made by a first run
        recipe.check_parts(vae)
    weights = None if (init := asked["init"]) is None else weights_of(init)
    objective = ELBO() if asked["objective"] is None else asked["objective"]
    if not isinstance(objective, PyroELBO):
        raise expected("objective", "an objective, such as ELBO()", objective)
    device = asked["device"]
    where = best_device() if device is None else as_device("device", device)
    where = device_of(where, processes)
    if resume is not False and out is None:
        raise expected("out", "the folder of the run to resume", out)
    folder: Any = nullcontext(out)
    if out is not None and not isinstance(out, RunInProgress):
        kept = {"every": asked["checkpoint_every"], "keep": asked["keep"]}
        folder = in_progress(out, **kept, resume=resume)
    with folder as ongoing, seeded(recipe.seed), together(processes):
        draw_alike(processes)
        names = ("cond", "mask", "covariates", "labels")
        given = beside(vae, data, *(asked[name] for name in names))
        state = processes.from_first(partial(_unfinished, ongoing))
        of_run = processes.from_first(partial(_window, before, ongoing, state))
        most = processes.from_first(partial(budget, asked["max_memory"], where))
        splits = split(data, asked["validation"], recipe.seed, given, Memory(most, *of_run))
        check_alone(splits, recipe, processes)
        if not vae.is_ignorable and not splits.has_mask:
            what = "which entries are observed, as the model has `missingness`"
            raise expected("mask", what, None)
        if isinstance(objective, Objective):
            objective.prepare(len(splits.train), splits.num_labels)
        _check_scores(recipe, splits)
        settings = recipe.recorded()
        if ongoing is not None or processes.count > 1:
            settings |= describe(vae, objective, data, splits)
            settings |= {} if weights is None else {"init": fingerprint(weights)}
            # The order of sums in a product depends on it, and what is to be the same is the bits.
            threads = torch.get_num_threads()
            settings |= {} if recipe.shards is None else {"OMP_NUM_THREADS": threads}
            settings = as_read(settings)
            check_alike(settings, processes)
        if before is not None:
            state = further_state(before, settings)
        if ongoing is not None:
            going = partial(_further, vae, ongoing, state, settings)
            further, is_over = processes.from_first(going)
            state = state if further is None else further
            if is_over:
                log.info("%s is finished", ongoing.folder)
                yield Run.read(vae, ongoing.folder), ongoing
                return
        vae.to(where)
        if recipe.precision == "tf32" and vae.device.type == "cpu":
            log.warning("`precision`: tf32 is of CUDA, and has no effect on a CPU")
        if state is not None:
            with _from_a_checkpoint(ongoing):
                set_random_state(state["start"], vae.device)
        start = None if weights is None else (weights, not isinstance(init, Mapping))
        order = None if state is None else state.get("monitored")
        again = {name: value for name, value in asked.items() if name not in _OF_ONE_CALL}
        began = Start(random_state(vae.device), settings, again, order)
        if state is not None:  # blocks are those of before, whatever file has the rows by now
            known = replace(splits.memory, neighbours=state.get("neighbours"))
            splits = replace(splits, memory=known)
        accepted = splits.accepted(vae)
        del splits, given  # what came in another form is not held beside what the model takes
        loop = _started(vae, objective, recipe, accepted, ongoing, began, start, processes)
        del accepted
        if state is not None:
            with _from_a_checkpoint(ongoing):
                loop.load_state_dict(state)
        yield loop, ongoing


def _unfinished(ongoing: RunInProgress | None) -> Mapping[str, Any] | None:
    """Returns the newest checkpoint of a run that is not finished, if there is one."""
    return None if ongoing is None or is_finished(ongoing.folder) else ongoing.read()


def _window(
    before: Run[Any] | None, ongoing: RunInProgress | None, state: Mapping[str, Any] | None
) -> tuple[bool, int | None]:
    """Returns whether a run goes on, and the rows of its windows: data stay where they were."""
    if before is not None:
        return True, before.window
    if state is not None:
        return True, state.get("window")
    if ongoing is not None and is_finished(ongoing.folder):
        return True, checkpoint.read_json(ongoing.folder / "fit.json").get("window")
    return False, None


def _further(
    vae: Fitted,
    ongoing: RunInProgress,
    state: Mapping[str, Any] | None,
    settings: dict[str, Any],
) -> tuple[Mapping[str, Any] | None, bool]:
    """Returns the state that a finished run goes on from, and whether a folder has no work left."""
    is_over = is_finished(ongoing.folder)
    if is_over and is_further(ongoing.folder, settings):
        return further_state(Run.read(vae, ongoing.folder), settings, ongoing), False
    check_settings(ongoing, state, settings)
    return None, is_over


def _from_a_checkpoint(ongoing: RunInProgress | None) -> AbstractContextManager[None]:
    """Inside it, what does not fit is the fault of a checkpoint, if there is one."""
    return nullcontext() if ongoing is None else of_a_checkpoint(ongoing.folder)


def _shown_by(shown: Shown, loop: Loop[Any]) -> Callable[[Mapping[str, float]], None]:
    """Returns what shows each epoch."""
    objective, vae = loop.objective, loop.vae
    bound = not isinstance(objective, Objective) or objective.bounds(vae.guide)
    return shown.fitting(loop.recipe.epochs, loop.steps_an_epoch, bound=bound)


def _check_scores(recipe: Recipe, splits: Splits) -> None:
    """Checks that there are data for the scores that are asked for.

    Raises:
        ValueError: If there are none.
    """
    if splits.held_out is not None or not needs_validation(recipe.monitor):
        return
    for name in ("patience", "monitor"):
        if (value := getattr(recipe, name)) is not None:
            raise expected(name, "validation data to go with it", value)
    if recipe.restore == "best":
        raise expected("restore", "validation data, or a `monitor`, to go with best", "best")


def _started(
    vae: Fitted,
    objective: PyroELBO,
    recipe: Recipe,
    accepted: tuple[Accepted, Rows | StreamedRows],
    progress: RunInProgress | None,
    began: Start,
    weights: tuple[Mapping[str, Tensor], bool] | None,
    processes: Processes,
) -> Loop[Fitted]:
    """Starts the model at the data, and returns the loop that is to fit it."""
    splits, drawn = accepted
    if not (isinstance(vae, VAE) and isinstance(vae.likelihood, LikelihoodInUnits)):
        check_size(splits)
    start_at(vae, drawn, splits.memory.most)
    recipe.check_parts(vae)
    if weights is not None:
        start_from(vae, weights[0], whole=weights[1])
    begin_alike(vae, processes)
    if (order := began.order) is None:
        order = torch.randperm(len(drawn), device=vae.device)[:MONITORED]
    return Loop(
        vae,
        objective,
        recipe,
        splits=splits,
        monitored=drawn[order.to(vae.device)],
        progress=progress,
        start=began._replace(order=order),
        processes=processes,
    )
