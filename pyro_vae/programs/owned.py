"""The halves of a Pyro pair of the user's, with parameters that no other pair shares."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

__all__ = ["Half", "Parameters", "networks_of"]

_pairs = itertools.count()
_GIVEN = ("cond", "mask", "covariates", "labels")


class Parameters(nn.Module):
    """Creates the parameters of a pair: those of its modules, and those of its ``pyro.param``.

    Pyro keeps parameters by name, for all programs of a process: two pairs whose sites and
    parameters have equal names would share them. Here those of a pair belong to it.

    Args:
        networks: The modules that the two programs reach, by name.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({n.replace(".", "_"): m for n, m in networks.items()})
        self.own = nn.ParameterDict()
        self.pair = f"program{next(_pairs)}"
        self.met: dict[str, nn.Parameter] = {}  # all that either program has declared

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameters:
        """Returns a copy with a name of its own, so that no two pairs share parameters."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        twin._rename()
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what another process has sent, whose pairs are counted anew."""
        super().__setstate__(state)
        self._rename()

    def _rename(self) -> None:
        self.pair = f"program{next(_pairs)}"
        renamed = ((name.partition(".")[2], leaf) for name, leaf in self.met.items())
        self.met = {f"{self.pair}.{name}": leaf for name, leaf in renamed}

    def of(self, name: str, make: Callable[[], Tensor]) -> nn.Parameter:
        """Returns the unconstrained parameter of a name, made at its first use."""
        key = name.replace(".", "/")
        if key not in self.own:
            made = make()
            if isinstance(made, nn.Parameter):
                if any(made is each for each in self.parameters()):
                    return made
                self.own[key] = made
            else:
                beside = next(self.parameters(), made)
                self.own[key] = nn.Parameter(made.clone().to(beside.device))
        found: nn.Parameter = self.own[key]
        return found


class _Own(Messenger):
    """Answers the ``pyro.param`` statements of a pair by its own parameters.

    No handler outside sees them: what is trained is declared to these by unique names.
    """

    def __init__(self, half: Half, share: float) -> None:
        super().__init__()
        self._share = share
        self._parameters, self._plate, self._known = half.parameters, half.plate, half.met
        self.met: dict[str, nn.Parameter] = {}
        self.constraints: dict[str, Any] = {}  # of those of ``pyro.param``

    def _pyro_param(self, msg: Any) -> None:
        name = msg["name"]
        if isinstance(getattr(msg["fn"], "__self__", None), ParamStoreDict):
            self._of_store(name, msg)
        else:  # of a PyroModule, whose own the parameter is
            if msg["value"] is None:
                msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])
            leaf = getattr(msg["value"], "unconstrained", lambda: msg["value"])()
            if isinstance(leaf, nn.Parameter):
                self.met[name] = leaf
        msg["done"] = msg["stop"] = True

    def _of_store(self, name: str, msg: Any) -> None:
        constraint = msg["kwargs"].get("constraint", constraints.real)
        given = msg["args"][1] if len(msg["args"]) > 1 else msg["kwargs"].get("init_tensor")
        plain = constraint is constraints.real

        def make() -> Tensor:
            if given is None:
                raise ValueError(f"`model`: expected a first value of the parameter {name!r}")
            first = given() if callable(given) and not isinstance(given, Tensor) else given
            if plain and isinstance(first, nn.Parameter):
                return first  # that of a module
            unconstrained: Tensor = transform_to(constraint).inv(first.detach())
            return unconstrained

        leaf = self._known.get(name)
        if leaf is None or (isinstance(given, nn.Parameter) and given is not leaf):
            leaf = self._parameters.of(name, make)
        self.met[name], self.constraints[name] = leaf, constraint
        msg["value"] = leaf if plain else transform_to(constraint)(leaf)

    def _pyro_sample(self, msg: Any) -> None:
        if self._share != 1 and all(f.name != self._plate for f in msg["cond_indep_stack"]):
            # What all observations share is to count once in a pass, not once a batch.
            msg["scale"] = msg["scale"] * self._share
        # Objectives know the plate of the observations by its name.
        if self._plate != "data":
            msg["cond_indep_stack"] = tuple(
                frame._replace(name="data") if frame.name == self._plate else frame
                for frame in msg["cond_indep_stack"]
            )


class Half:
    """Creates one of the two programs of a pair, called as those of a VAE are.

    Args:
        program: The user's model or guide.
        role: ``model`` or ``guide``.
        parameters: Those of the pair.
        arguments: From observations and what goes with them to what the program is called with.
        plate: The plate of the observations.
    """

    max_plate_nesting: float = float("inf")
    num_data: int | None = None  # observations of a fit, of which a call has a share

    def __init__(
        self,
        program: Callable[..., Any],
        role: str,
        parameters: Parameters,
        arguments: Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]],
        plate: str,
    ) -> None:
        self.program, self.role = program, role
        self.parameters, self._arguments, self.plate = parameters, arguments, plate
        self.met: dict[str, nn.Parameter] = {}
        self.constraints: dict[str, Any] = {}
        taken = _parameters(program)
        everything = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        self.takes = frozenset(name for name in _GIVEN if everything or name in taken)
        self._needs_mask = "mask" in taken and taken["mask"].default is taken["mask"].empty

    @property
    def name(self) -> str:
        """What the user calls it."""
        return getattr(self.program, "__qualname__", type(self.program).__name__)

    def __call__(self, x: Tensor, **given: Any) -> Any:
        self._register()
        args, kwargs = self._arguments(x)
        if self._needs_mask and given.get("mask") is None:  # all is observed, and the program asks
            given["mask"] = torch.ones_like(x, dtype=torch.bool)
        beside = {name: value for name, value in given.items() if name in self.takes}
        share = 1.0 if self.num_data is None else len(x) / self.num_data
        own = _Own(self, share)
        # Parameters of a PyroModule belong to the module, not to the store of all programs.
        for module in self.parameters.networks.modules():
            if isinstance(module, PyroModule) and not hasattr(module._pyro_context, "param_state"):
                module._pyro_context.param_state = {"params": {}, "constraints": {}}
        # An AutoGuide first runs the model behind a block, through which nobody sees parameters:
        # it has copies of them, never read again, which Pyro's validation would refuse.
        local = {"module_local_params": True, "validate_poutine": False}
        with pyro.settings.context(**local), own:
            result = self.program(*args, **kwargs, **beside)
        self.met |= own.met
        self.constraints |= own.constraints
        self._register()  # what a PyroModule hides from the store while it runs is there again
        return result

    @property
    def params(self) -> dict[str, Tensor]:
        """The values of its ``pyro.param`` statements, by name, without gradients."""
        named = ((name, each) for name, each in self.constraints.items() if "$$$" not in name)
        return {name: transform_to(each)(self.met[name]).detach() for name, each in named}

    def _register(self) -> None:
        """Declares what is trained, by names that are unique, to whoever trains it."""
        known = self.parameters.met
        known |= {f"{self.parameters.pair}.{self.role}.{n}": leaf for n, leaf in self.met.items()}
        for name, parameter in known.items():
            if parameter.requires_grad:
                pyro.param(name, parameter)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters.met.values():
            parameter.__dict__.pop("unconstrained", None)  # a weak reference, which is not copied
        return self.__dict__


def _parameters(program: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Returns what a program is called with, by name."""
    function = program.forward if isinstance(program, nn.Module) else program
    return inspect.signature(function).parameters


def networks_of(*programs: Callable[..., Any]) -> dict[str, nn.Module]:
    """Returns the modules that programs are, or reach by closures and globals, by name."""
    found: dict[str, nn.Module] = {}
    known: set[int] = set()
    for role, program in zip(("model", "guide"), programs, strict=False):
        for name, module in _reached(program, role, known):
            while name in found:
                name += "_"
            found[name] = module
    return found


def _reached(value: Any, name: str, known: set[int], depth: int = 0) -> Iterator[tuple[str, Any]]:
    if id(value) in known or depth > 4:
        return
    known.add(id(value))
    if isinstance(value, nn.Module):
        yield name, value
        return
    inside: Mapping[str, Any] = {}
    if isinstance(value, functools.partial):
        inside = {name: value.func, f"{name}_args": value.args, **value.keywords}
    elif isinstance(value, types.MethodType):
        own = value.__self__
        inside = {name: own} if isinstance(own, nn.Module) else getattr(own, "__dict__", {})
        inside = {**inside, f"{name}_": value.__func__}
    elif isinstance(value, types.FunctionType):
        variables = inspect.getclosurevars(value)
        inside = {**variables.globals, **variables.nonlocals}
        wrapped = getattr(value, "__wrapped__", None)
        inside |= {} if wrapped is None else {name: wrapped}
        inside = {n: v for n, v in inside.items() if not isinstance(v, types.ModuleType | type)}
    elif isinstance(value, Mapping):
        inside = {f"{name}_{key}": each for key, each in value.items()}
    elif isinstance(value, list | tuple):
        inside = {f"{name}_{i}": each for i, each in enumerate(value)}
    elif callable(value) and hasattr(value, "__dict__"):
        inside = vars(value)
    for key, each in inside.items():
        yield from _reached(each, key, known, depth + 1)
