"""Fits of one model over several seeds: at once in one process, or by joblib."""

from __future__ import annotations

import logging
from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import as_path, check_seed, expected, out_of_memory, plural, unknown_name
from pyro_vae._jobs import Parcel, each
from pyro_vae._untouched import seeded
from pyro_vae.data import Dataset, Source, Stream
from pyro_vae.data.rows import Numbers
from pyro_vae.engine import GraphMismatch
from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.generators import random_state, set_random_state
from pyro_vae.engine.many import ManySVI
from pyro_vae.engine.processes import all_processes
from pyro_vae.engine.protocol import Batch
from pyro_vae.engine.svi import Position
from pyro_vae.programs import VAE
from pyro_vae.training.callbacks import Callbacks
from pyro_vae.training.fit import begun, fit
from pyro_vae.training.loop import Loop
from pyro_vae.training.parts import of_one_fit, only
from pyro_vae.training.passes import Resident
from pyro_vae.training.resume import RunInProgress
from pyro_vae.training.run import Run

__all__ = ["fit_many"]

Built: TypeAlias = VAE | tuple[VAE, Mapping[str, Any]]

log = logging.getLogger("pyro_vae")
_CPU = torch.device("cpu")
_DEFAULTS = {
    each.name: each.default
    for each in signature(fit).parameters.values()
    if each.name not in ("vae", "data", "seed")
}
# What is of one fit by itself, and not of several that go on together.
_OF_ONE = {
    "callbacks": "callbacks follow it",
    "checkpoint_every": "it writes checkpoints",
    "on_epoch": "a function follows it",
    "precision": "its products are of another precision",
    "progress": "a bar shows it",
    "resume": "it may go on from a checkpoint",
    "shards": "its batches are cut into shards",
}


def fit_many(
    build: Callable[[int], Built],
    data: Dataset | Stream | Source | Numbers,
    seeds: Sequence[int],
    *,
    out: str | Path | None = None,
    **options: Any,
) -> list[Run[VAE]]:
    """Fits a model over several seeds: ``[fit(build(seed), data, seed=seed) for seed in seeds]``.

    Models of one form are fitted at once in this process, by :func:`torch.func.vmap` over their
    parameters: the operations of a step run once for all of them, which takes little longer than a
    step of one, as long as networks and batches are small. Each fit draws the random numbers that
    it draws by itself, and has its own data order, validation rows, schedule, scores and best
    epoch; weights are those of the single fit up to rounding. The first steps, and later ones now
    and then, are taken by the programs themselves, too, and compared.

    What cannot be fitted so goes to joblib, and one line of the log says why: several processes of
    this machine or of a cluster, inside :func:`joblib.parallel_config`, or one after another. Such
    are rows that are not in memory, other devices than the CPU, programs that read values back or
    whose random numbers depend on parameters, options that follow one fit (callbacks, checkpoints),
    models that differ in form from seed to seed, and a loss that is not finite.

    Args:
        build: From a seed to a model, or to a model and options of :func:`pyro_vae.fit` that go
            with it. It is called with the generators seeded by that seed.
        data: A dataset, which brings its splits; an array of shape ``(N, *event_shape)``; or rows
            that are elsewhere, as in :func:`pyro_vae.fit`.
        seeds: Of each fit.
        out: A folder, for the folder of each run, ``seed-0`` and so on. Those of fits at once are
            written when all have ended, and what is interrupted leaves none: a checkpoint is of one
            fit, as with ``checkpoint_every``.
        **options: For every fit, as in :func:`pyro_vae.fit`; no bar is shown unless asked for.

    Returns:
        The runs, in the order of the seeds, each as :func:`pyro_vae.fit` returns it. Of those that
        were fitted at once, ``seconds`` are of all.

    Raises:
        ValueError: If an argument is out of range, data do not fit the model, models share what a
            fit moves, or ``build`` has to be sent to another process, and cannot be.
        FloatingPointError: If the loss of a fit is not finite.

    Example:
        >>> import torch, pyro_vae as pv
        >>> def build(seed):
        ...     likelihood = pv.likelihoods.Bernoulli((4,))
        ...     return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=seed)
        >>> runs = pv.fit_many(build, torch.eye(4).repeat(8, 1), seeds=[0, 1], epochs=2)
        >>> [len(run.history["elbo"]) for run in runs]
        [2, 2]
    """
    fits = _Fits(build, data, options, None if out is None else as_path("out", out))
    chosen = fits.checked(seeds)
    if len(chosen) == 1:
        return _apart(fits, chosen)
    try:
        return _at_once(fits, chosen)
    except (NotCapturable, GraphMismatch) as reason:
        why = str(reason)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        why = "memory does not suffice for all at once"
    log.warning("fit_many hands the fits to joblib: %s", why)
    return _apart(fits, chosen)


@dataclass(frozen=True)
class _Fits:
    """Fits a model by its seed, in whatever process."""

    build: Callable[[int], Built]
    data: Any
    options: Mapping[str, Any]
    out: Path | None

    def __call__(self, seed: int) -> Parcel[Run[VAE]]:
        vae, asked = self.asked(seed)
        return Parcel(fit(vae, **asked))

    def checked(self, seeds: object) -> list[int]:
        """Returns the seeds, if there are some, and the options are those of a fit.

        Raises:
            ValueError: If they are not.
        """
        what = "a sequence of seeds that differ"
        if isinstance(seeds, np.ndarray | Tensor):
            seeds = seeds.tolist()
        if isinstance(seeds, str) or not isinstance(seeds, Sequence):
            raise expected("seeds", what, seeds)
        chosen = [check_seed("seeds", seed) for seed in seeds]
        if len(chosen) == 0 or len(set(chosen)) < len(chosen):
            raise expected("seeds", what, seeds)
        if not callable(self.build):
            raise expected("build", "a function from a seed to a VAE", self.build)
        self._check(self.options)
        return chosen

    def _check(self, options: Mapping[str, Any]) -> None:
        for name in options:
            if name == "seed":
                raise expected("seed", "none, as each fit has one of `seeds`", options[name])
            if name not in _DEFAULTS:
                raise unknown_name("options", name, _DEFAULTS)

    def asked(self, seed: int) -> tuple[VAE, dict[str, Any]]:
        """Builds the model of a seed; returns it with all other arguments of its fit.

        Raises:
            ValueError: If that is no model.
        """
        with seeded(seed):
            built = self.build(seed)
        vae, own = built if isinstance(built, tuple) and len(built) == 2 else (built, {})
        if not isinstance(vae, VAE) or not isinstance(own, Mapping):
            what = "a function that returns a VAE, or a VAE and a mapping of options of `fit`"
            raise expected("build", what, built)
        self._check(own)
        if "out" in own:
            raise expected("out", "that of fit_many, where each run has a folder", own["out"])
        asked = _DEFAULTS | {"progress": False} | dict(self.options) | dict(own)
        asked["objective"] = of_one_fit(asked["objective"], vae)
        asked["out"] = None if self.out is None else self.out / f"seed-{seed}"
        return vae, {**asked, "data": self.data, "seed": seed}


def _apart(fits: _Fits, seeds: Sequence[int]) -> list[Run[VAE]]:
    """Fits each by itself, as joblib is configured."""
    with closing(each(fits, seeds, "build")) as ended:
        found = dict(ended)
    return [found[number].content for number in range(len(seeds))]


class _Member:
    """Creates one of several fits that go on together.

    Args:
        seed: Of the fit.
        loop: What takes its passes.
        folder: Of its run, if it has one.
    """

    run: Run[VAE] | None = None
    position: Position

    def __init__(self, seed: int, loop: Loop[VAE], folder: RunInProgress | None) -> None:
        self.seed, self.loop, self.folder = seed, loop, folder
        self.random = random_state(_CPU)
        take_pass = loop.take_pass
        if loop.vae.device.type != "cpu":
            raise NotCapturable(f"they are on the device {loop.vae.device}")
        if not isinstance(take_pass, Resident):
            raise NotCapturable("their rows are not in memory")
        self.rows = take_pass

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside it the generators are those of the fit."""
        set_random_state(self.random, _CPU)
        yield
        self.random = random_state(_CPU)

    @property
    def size(self) -> tuple[int, int]:
        """Rows of a pass and of a step."""
        return self.loop.rows_a_pass, self.loop.rows_a_step

    def begin_pass(self) -> None:
        with self.turn():
            self.loop.begin_pass()
            self.position = self.rows.begun()

    def batch(self) -> tuple[Batch, list[Tensor]]:
        return self.rows.batch(self.position)

    def end_pass(self) -> None:
        with self.turn():
            self.loop.end_pass(torch.cat(self.position.losses))

    def end(self) -> None:
        with self.turn():
            self.run = self.loop.end()
        log.info("seed %d: %s", self.seed, plural(len(self.run.history["epoch"]), "epoch"))


class _Shared:
    """Creates the record of what several models have in common, which no fit is to move."""

    def __init__(self) -> None:
        self._models: list[VAE] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, vae: VAE) -> None:
        """Takes note of a model that is just built, and of all its tensors as they are."""
        self._models.append(vae)
        for _, tensor in _tensors(vae):
            self._before.setdefault(id(tensor), (tensor, tensor.detach().clone()))

    def check(self) -> None:
        """Puts what several have back as it was.

        Raises:
            ValueError: If some of it has moved: no fit is then of its model alone.
        """
        # As they are now: a network that another model was made with has other layers by then.
        found = [{id(tensor): name for name, tensor in _tensors(vae)} for vae in self._models]
        count = Counter(number for names in found for number in names)
        moved = []
        for number, name in ChainMap(*found).items():
            if count[number] == 1 or number not in self._before:
                continue
            tensor, before = self._before[number]
            if not torch.equal(tensor, before):
                tensor.data.copy_(before)
                moved.append(name.partition(".")[2])
        if moved:
            what = "a model of its own for each seed, with parts that are made in it"
            raise expected("build", what, f"models that share {min(moved)}, which a fit moves")


def _tensors(vae: VAE) -> Iterator[tuple[str, Tensor]]:
    yield from vae.named_parameters()
    yield from vae.named_buffers()


def _is_off(value: object, default: object) -> bool:
    """Tells whether an option asks for nothing; of arrays, too, which are not to be compared."""
    is_plain = isinstance(value, str | list | tuple)
    return value is None or value is False or (is_plain and (value == default or not value))


def _at_once(fits: _Fits, seeds: Sequence[int]) -> list[Run[VAE]]:
    """Fits all in this process.

    Raises:
        NotCapturable: If that is impossible.
    """
    processes = all_processes()
    if processes.count > 1:
        raise NotCapturable("several processes share each of them")
    before = random_state(_CPU)
    with ExitStack() as stack:
        members, shared = list[_Member](), _Shared()
        for seed in seeds:
            vae, asked = fits.asked(seed)
            shared.add(vae)
            for name, why in _OF_ONE.items():
                if not _is_off(asked[name], _DEFAULTS[name]):
                    raise NotCapturable(f"`{name}` is of one fit: {why}")
            set_random_state(before, _CPU)  # which is what comes back in the end
            loop, folder = stack.enter_context(begun(vae, asked, processes))
            assert isinstance(loop, Loop), "what is finished is only read where one resumes"
            stack.enter_context(only(vae, loop.recipe.trained))
            members.append(_Member(seed, loop, folder))
        try:
            runs = _taken(members)
        finally:
            shared.check()
        for member, run in zip(members, runs, strict=True):
            if member.folder is not None:  # not before: all may have to be fitted by themselves
                member.folder.finish(run.write)
        return runs


def _taken(members: Sequence[_Member]) -> list[Run[VAE]]:
    """Takes all to their ends, each pass of one with a pass of every other."""
    if len({member.size for member in members}) > 1:
        raise NotCapturable("their batches differ in size")
    loops = [member.loop for member in members]
    recipe = loops[0].recipe
    planned = recipe.epochs * loops[0].steps_an_epoch
    svis = ManySVI([loop.svi for loop in loops], compile=recipe.compile, planned_steps=planned)
    for member in members:
        member.loop.begin(Callbacks([], member.loop.vae))
    while any(member.run is None for member in members):
        left = [member for member in members if member.run is None]
        for member in left:
            member.begin_pass()
        svis.look()
        for _ in range(loops[0].steps_an_epoch):
            batches = [member.batch() if member.run is None else None for member in members]
            losses = svis.step(batches, [member.random for member in members])
            for number, member in enumerate(members):
                if member.run is None:
                    member.position.losses.append(losses[number])
                    member.loop.on_step(member.position)
        for number, member in enumerate(members):
            if member.run is None:
                member.end_pass()
                if member.loop.state.is_over(member.loop.recipe):
                    svis.part(number)
                    member.end()
    return [member.run for member in members if member.run is not None]
