"""What follows a fit: callbacks, which are called at its steps, epochs and checkpoints.

They look on. A run with callbacks is, bit for bit, the run without: the state of all generators,
the modes of the modules and the gradients are put back after each call, and a call that changes a
parameter is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae._errors import expected, unknown_name
from pyro_vae._progress import figures
from pyro_vae.engine.generators import random_state, set_random_state
from pyro_vae.engine.processes import apart
from pyro_vae.programs import Amortized

if TYPE_CHECKING:
    from pyro_vae.training.run import Run

__all__ = ["Callback", "Callbacks", "EpochLog", "Function", "checked"]

log = logging.getLogger("pyro_vae.training")


class Callback:
    """What may follow a fit: override any of its methods, all of which do nothing.

    A class of your own need not derive from it: an object with any of these methods is a callback.
    Callbacks are called in the order of the list. During a call the model is in ``eval`` mode, so
    that one may draw from it or score it. Generators of torch, NumPy and Python, the modes of
    modules and gradients are put back after it, and what is handed over are copies: nothing that a
    callback does with them reaches the run. Parameters and buffers must stay as they are. What is
    neither, such as an attribute of a part of yours, is not guarded.

    An exception leaves ``fit`` as it is, with a note that names the callback, and is how a callback
    ends a run. Checkpoints written before stay, and ``resume=True`` goes on from them.

    A run that is resumed calls for the epochs, steps and checkpoints that it takes itself. One that
    was killed between two checkpoints takes steps again, to the same values, and calls again for
    them. A finished run, which is only read, calls nothing.
    """

    def on_step(self, step: int, losses: Tensor) -> None:
        """After each optimiser step, or group of steps that are taken as one.

        Where no callback has this method, steps cost what they cost without callbacks.

        Args:
            step: Steps taken so far, those of earlier processes included.
            losses: The objective an observation at each step since the last call, shape ``(n,)``,
                on the device; to read a number waits for the device. Not finite where a step is
                left out, see ``on_nonfinite``.
        """

    def on_epoch(self, line: Mapping[str, float]) -> None:
        """After each epoch, once its scores are known.

        Args:
            line: The entries of the history for this epoch, see :class:`pyro_vae.Run`; ``epoch``
                counts from 1. One that is not scored, see ``monitor_every``, has ``epoch``,
                ``loss`` and ``seconds`` alone, where the history has NaN.
        """

    def on_checkpoint(self, path: Path) -> None:
        """After each checkpoint is written, that of a run that is asked to stop included.

        A thread writes it, and steps go on meanwhile: it is called some steps after that at which
        the checkpoint was begun, and before the next one is.

        Args:
            path: The file. Older ones are removed as new ones are written, all at the end.
        """

    def on_end(self, run: Run[Any]) -> None:
        """After the last epoch, when the folder, if there is one, is written.

        Args:
            run: What ``fit`` returns; its model has the best weights.
        """

    def on_error(self, error: BaseException) -> None:
        """In place of ``on_end``, where a fit is asked to stop or fails.

        Args:
            error: What ``fit`` raises; :class:`KeyboardInterrupt` where it is asked to stop.
        """


_HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Function:
    """A callback of one function, which takes in the history line by line."""

    def __init__(self, on_epoch: Callable[[Mapping[str, float]], None]) -> None:
        self.on_epoch = on_epoch


class EpochLog:
    """Logs each epoch, as ``INFO`` of the logger ``pyro_vae.training``."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch(self, line: Mapping[str, float]) -> None:
        """Logs one line."""
        if log.isEnabledFor(logging.INFO):
            log.info("epoch %d/%d: %s", line["epoch"], self.epochs, ", ".join(figures(line)))


def checked(callbacks: object) -> list[object]:
    """Returns the callbacks of a list, if that is what it is.

    Raises:
        ValueError: If it is no list, or an object of it is no callback, or has a method that looks
            like one of a callback, and would never be called.
    """
    what = f"a list of objects with {', '.join(_HOOKS[:-1])} or {_HOOKS[-1]}"
    if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
        raise expected("callbacks", what, callbacks)
    for callback in callbacks:
        if isinstance(callback, type):
            raise expected("callbacks", "objects, not classes", callback)
        named = [name for name in dir(callback) if name.startswith("on_")]
        methods = [name for name in named if callable(getattr(callback, name))]
        for name in methods:
            if name not in _HOOKS:
                raise unknown_name("callbacks", name, _HOOKS)
        if len(methods) == 0:
            raise expected("callbacks", what, callback)
    return list(callbacks)


class Callbacks:
    """Creates the one mechanism by which a loop calls what follows it.

    As a context manager it reports what the block raises to ``on_error``.

    Args:
        callbacks: In the order in which to call them, as :func:`checked` returned them.
        vae: The model, which they must leave as it is.
    """

    def __init__(self, callbacks: Sequence[object], vae: Amortized) -> None:
        self.vae = vae
        self.raised: BaseException | None = None
        self._of = {hook: [each for each in callbacks if _has(each, hook)] for hook in _HOOKS}

    def __enter__(self) -> Callbacks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        for callback in self._of["on_error"]:
            try:
                self._call(callback, "on_error", error)
            except Exception:
                # The first error is the one to be seen.
                log.exception("%s.on_error failed", type(callback).__name__)

    @property
    def follow_steps(self) -> bool:
        """Whether anybody wants to know of steps."""
        return len(self._of["on_step"]) > 0

    def on_step(self, step: int, losses: Tensor) -> None:
        for callback in self._of["on_step"]:
            self._call(callback, "on_step", step, losses.detach().clone())

    def on_epoch(self, line: Mapping[str, float]) -> None:
        for callback in self._of["on_epoch"]:
            self._call(callback, "on_epoch", dict(line))

    def on_checkpoint(self, path: Path) -> None:
        for callback in self._of["on_checkpoint"]:
            self._call(callback, "on_checkpoint", path)

    def on_end(self, run: Run[Any]) -> None:
        for callback in self._of["on_end"]:
            self._call(callback, "on_end", run)

    def _call(self, callback: object, hook: str, *args: Any) -> None:
        what = f"{type(callback).__name__}.{hook}"
        try:
            with self._undisturbed(what, exactly=hook != "on_step"), apart():
                getattr(callback, hook)(*args)
        except BaseException as error:
            error.add_note(f"in the callback {what}")
            self.raised = error
            raise

    @contextmanager
    def _undisturbed(self, what: str, *, exactly: bool) -> Iterator[None]:
        """Inside it the model evaluates; what a fit goes on with is then as it was.

        Args:
            what: Who is called.
            exactly: Whether to compare the numbers, as writing through ``.data`` counts no version;
                a copy of the model is too much for each step.
        """
        vae = self.vae
        random = random_state(vae.device)
        modes = [(module, module.training) for module in vae.modules()]
        gradients = [(p, p.grad, p.requires_grad) for p in vae.parameters()]
        tensors = [*vae.parameters(), *(b for m, _ in modes for b in m.buffers(recurse=False))]
        versions = [tensor._version for tensor in tensors]
        before = [tensor.detach().clone() for tensor in tensors] if exactly else []
        for parameter, _, _ in gradients:
            parameter.grad = None
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            set_random_state(random, vae.device)
            for module, training in modes:
                module.training = training
            for parameter, gradient, trained in gradients:
                parameter.grad = gradient
                parameter.requires_grad_(trained)
        same = all(map(_same_numbers, tensors, before)) if exactly else True
        if not same or [tensor._version for tensor in tensors] != versions:
            raise RuntimeError(f"{what} changed the model: a callback must leave its tensors alone")


def _same_numbers(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _has(callback: object, hook: str) -> bool:
    """Returns whether a callback has a method of its own, besides the one that does nothing."""
    method = getattr(callback, hook, None)
    return method is not None and getattr(method, "__func__", None) is not getattr(Callback, hook)
