"""Optimisers as engines see them: parameters in slots, whose step counts an engine may hold."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.optim
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from pyro_vae._errors import expected
from pyro_vae.engine.updates import Listener, has_update

__all__ = ["Optim", "Slot"]


@dataclass
class Slot:
    """A parameter, where its optimiser lives, and how many updates it has had."""

    param: Tensor
    optimizer: Optimizer
    group: dict[str, Any]
    step: int = 0
    moved: bool = False  # whether it is known to have had a gradient

    def option(self, name: str) -> Any:
        return self.group.get(name)


# Parameters that have had a gradient, of whichever loss and optimiser: from then on stock SVI
# leaves them zeros in its place, by which any optimiser that meets them takes a step.
_moved: Any = WeakIdKeyDictionary()
# Which of several has taken over the step counts of an optimiser.
_holders: weakref.WeakKeyDictionary[Optimizer, Optim] = weakref.WeakKeyDictionary()


def _steps_by_gradients(made: Any) -> Optimizer:
    """Refuses what is no optimiser, and one that evaluates the loss itself, as L-BFGS does."""
    if not isinstance(made, Optimizer):
        raise expected("optim", "a callable that returns a torch optimiser", made)
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        what = "an optimiser that steps by gradients alone, without a closure"
        raise expected("optim", what, type(made).__name__)
    return made


class Optim:
    """Creates one face for an optimiser of Pyro's (one of torch a parameter) and for a callable.

    Args:
        optim: A ``pyro.optim`` optimiser, or a callable from a list of parameters to a torch one.
    """

    def __init__(self, optim: Any) -> None:
        self._pyro = optim if isinstance(optim, pyro.optim.PyroOptim) else None
        self._make = optim
        self._torch: Optimizer | None = None
        self._slots: dict[Tensor, Slot] = {}
        self._waiting: dict[str, Any] | None = None
        self._scaled: float | None = None
        self._held = False

    @property
    def given(self) -> Any:
        """What it was created from."""
        return self._make

    def adopt(self, params: Iterable[Tensor]) -> None:
        """Creates the optimisers of parameters that are new."""
        new = [param for param in params if param not in self._slots]
        if not new:
            return
        self.release()  # the new ones are taken over with the others
        if self._pyro is not None:
            for param in new:
                # What PyroOptim does on being called, less the step.
                if param not in self._pyro.optim_objs:
                    made = self._pyro.optim_objs[param] = self._pyro._get_optim(param)
                    self._pyro.grad_clip[param] = self._pyro._get_grad_clip(param)
                    name = pyro.get_param_store().param_name(param)
                    state = self._pyro._state_waiting_to_be_consumed.pop(name, None)
                    if state is not None:
                        made.load_state_dict(state)
                made = self._pyro.optim_objs[param]
                # A scheduler wraps its optimiser.
                optimizer = _steps_by_gradients(getattr(made, "optimizer", made))
                self._listen(optimizer)
                self._slots[param] = Slot(param, optimizer, optimizer.param_groups[0])
        else:
            if self._torch is None:
                self._torch = _steps_by_gradients(self._make(new))
                self._listen(self._torch)
            else:
                self._torch.add_param_group({"params": new})
            for group in self._torch.param_groups:
                for param in group["params"]:
                    self._slots.setdefault(param, Slot(param, self._torch, group))
            if self._waiting is not None:
                self._torch.load_state_dict(self._waiting)
                self._waiting = None
        if self._scaled is not None:
            self.scale_lr(self._scaled)

    def _listen(self, optimizer: Optimizer) -> None:
        """Whoever steps, saves or loads the optimiser by themselves finds its state in order."""
        optimizer.register_step_pre_hook(Listener(self.release))
        optimizer.register_state_dict_pre_hook(lambda _: self.release())
        optimizer.register_load_state_dict_pre_hook(lambda *_: self.release())
        optimizer.register_load_state_dict_post_hook(self._regroup)

    def _regroup(self, optimizer: Optimizer) -> None:
        # Loading a state replaces the groups of a torch optimiser.
        for group in optimizer.param_groups:
            for param in group["params"]:
                if param in self._slots:
                    self._slots[param].group = group

    def refusal(self, params: Iterable[Tensor]) -> bool:
        """Tells whether the update of some parameter cannot be part of a graph."""
        clipped = self._pyro is not None and any(
            self._pyro.grad_clip.get(param) is not None for param in params
        )
        return clipped or not all(has_update(self._slots[param].optimizer) for param in params)

    def has_moved(self, param: Tensor) -> bool:
        """Tells whether it has had a gradient: with momentum it goes on without one."""
        slot = self._slots.get(param)
        restored = slot is not None and bool(slot.step or slot.optimizer.state.get(param))
        return restored or param in _moved

    def slots(self, params: Iterable[Tensor]) -> list[Slot]:
        """Returns those of parameters that are to be updated."""
        slots = [self._slots[param] for param in params]
        self._move(slots)
        return slots

    def _move(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            if not slot.moved:
                slot.moved = True
                _moved[slot.param] = True

    def all_slots(self) -> Iterable[Slot]:
        return self._slots.values()

    def step(self, params: Sequence[Tensor]) -> None:
        """Takes a step by the optimisers themselves, from ``param.grad``."""
        self.adopt(params)
        self.release()
        self._move(self._slots[param] for param in params if param.grad is not None)
        if self._pyro is not None:
            self._pyro(params)
        elif self._torch is not None:
            self._torch.step()

    def hold(self) -> None:
        """Takes over the step counts from the optimisers' state."""
        if not self._held:
            for slot in self._slots.values():
                holder = _holders.get(slot.optimizer)
                if holder is not None and holder is not self:
                    holder.release()
                _holders[slot.optimizer] = self
                slot.step = int(slot.optimizer.state.get(slot.param, {}).get("step", 0))
            self._held = True

    def release(self) -> None:
        """Gives the step counts back."""
        if self._held:
            for slot in self._slots.values():
                count = slot.optimizer.state.get(slot.param, {}).get("step")
                if isinstance(count, Tensor):  # a number is that of an optimiser of its own
                    count.fill_(slot.step)
            self._held = False

    def rewind(self, count: int) -> None:
        """Takes back steps that were counted but, the loss not being finite, not taken."""
        for slot in self._slots.values() if self._held else ():
            slot.step -= count

    def scale_lr(self, share: float) -> None:
        self._scaled = share
        for slot in self._slots.values():
            # As torch's schedulers do: what a group started with stays in the optimiser's state.
            slot.group["lr"] = slot.group.setdefault("initial_lr", slot.group["lr"]) * share

    def state_dict(self) -> dict[str, Any]:
        self.release()
        if self._pyro is not None:
            return dict(self._pyro.get_state())
        return self._torch.state_dict() if self._torch is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._held = False
        if self._pyro is not None:
            waiting = dict(state)
            for param, made in self._pyro.optim_objs.items():
                name = pyro.get_param_store().param_name(param)
                if name in waiting:
                    made.load_state_dict(waiting.pop(name))
            self._pyro.set_state(waiting)
        elif self._torch is None:
            self._waiting = state or None
        else:
            self._torch.load_state_dict(state)
