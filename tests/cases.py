"""One small instance of every exported class, for each choice of its closed options.

A new part is on these lists the day it is in ``__all__``: its arguments are known by name, and each
``Literal`` among its options is tried in turn. What cannot be built so is an error, not a gap.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pyro_vae import guides, likelihoods, missingness, networks, objectives, priors
from pyro_vae.part import Part
from pyro_vae.programs import VAE

# What an argument without a default is given, in every class that has it. `groups`, `classes` and
# `dim` agree between priors and guides, so that pairs on the same space exist.
ARGUMENTS: dict[str, Any] = {
    "dim": 2,
    "groups": 2,
    "classes": 3,
    "event_shape": (2,),
    "dims": (1, 1),
    "parts": [{"class": "Normal", "dim": 1}, {"class": "Normal", "dim": 1}],
}
# What to try of options that are open: small sizes, since densities are summed over all states.
TRIED: dict[str, list[Any]] = {
    "levels": [7],
    "components": [1, 2],
    "rank": [1],
    "total": [5, "learned"],
    "columns": [["Normal", "Poisson"]],
    "pseudo_inputs": [3],
    "hidden": [8, (8,)],
    "transforms": [2],
    "context": [3],
    "embedding_dim": [3, None],
    "beta": [0.5, 4.0],
    "warmup": [3, 0],
    "free_bits": [0.1, 0.0],
    "capacity": [0.5, None],
    "alpha": [-0.5, 0.5, 1.0],
}
# What an option has no meaning without.
BESIDE: dict[Any, dict[str, Any]] = {"sigmoid": {"warmup": 10}, "cyclical": {"warmup": 10}}
# What these arguments do not allow: dependent latents are discrete ones and others
# (tests/test_labels.py).
ELSEWHERE: dict[str, list[Any]] = {"independent": [False]}
NUMBER = 0.7  # what an option is given that takes a number or one of a few words


@dataclasses.dataclass(frozen=True)
class Case:
    """How to build one part."""

    part: type[Any]
    arguments: dict[str, Any]

    def __call__(self, **changes: Any) -> Any:
        return self.part(**self.arguments | changes)

    def bound(self) -> Any:
        """The part as one of a small model, which some parts need to be complete."""
        part = self()
        if isinstance(part, priors.Prior):
            fits = (case() for case in GUIDES if case().space == part.space)
            guide = next(fits)
            vae = VAE(part, guide, likelihoods.Bernoulli((4,)))
        else:
            prior = next(case() for case in PRIORS if case().space == part.space)
            vae = VAE(prior, part, likelihoods.Bernoulli((4,)))
        vae.double()
        return part

    def __str__(self) -> str:
        room = self.part.__module__.split(".")[1]
        words = ",".join(
            f"{k}={v}" if isinstance(v, bool) else str(v)
            for k, v in self.arguments.items()
            if k not in ARGUMENTS
        )
        return f"{room}.{self.part.__name__}" + (f"[{words}]" if words else "")


def _choices(annotation: Any) -> list[Any]:
    """The values of a closed option: both of a switch, each word of a ``Literal``, and a number
    beside words."""
    if annotation is bool:
        return [False, True]
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = typing.get_args(annotation)
        words = [choice for member in members for choice in _choices(member)]
        return [NUMBER, *words] if words and float in members else words
    return []


def _tried(name: str, annotation: Any) -> list[Any]:
    """What to try of an open option, of those that its annotation allows."""
    values = TRIED.get(name, [])
    if annotation is int:
        return [value for value in values if isinstance(value, int)]
    if typing.get_origin(annotation) is Sequence:
        return [value for value in values if not isinstance(value, int)]
    return values


def cases_of(part: type[Any]) -> list[Case]:
    """Every way to build a class: its required arguments, and each value of each closed option."""
    hints = typing.get_type_hints(part.__init__)
    required: dict[str, Any] = {}
    closed: list[dict[str, Any]] = []
    for name, parameter in list(inspect.signature(part).parameters.items()):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        tried = _tried(name, hints[name])
        if len(tried) == 1:
            required[name] = tried[0]
        elif parameter.default is not inspect.Parameter.empty:
            closed += [
                {name: choice} | BESIDE.get(str(choice), {})
                for choice in tried or _choices(hints[name])
                if choice not in ELSEWHERE.get(name, [])
            ]
        elif name in ARGUMENTS:
            required[name] = ARGUMENTS[name]
        else:
            raise LookupError(f"tests/cases.py does not know what to give {part}: {name}")
    return [Case(part, required | option) for option in closed or [{}]]


def _exported(room: types.ModuleType) -> Iterator[type[Any]]:
    kinds = (Part, objectives.Objective)
    for name in room.__all__:
        part = getattr(room, name)
        if inspect.isclass(part) and issubclass(part, kinds) and not inspect.isabstract(part):
            yield part


def _cases(room: types.ModuleType) -> list[Case]:
    return [case for part in _exported(room) for case in cases_of(part)]


PRIORS = [case for case in _cases(priors) if case.part is not priors.Conditional]
CONDITIONAL = [case for case in _cases(priors) if case.part is priors.Conditional]
GUIDES = _cases(guides)
LIKELIHOODS = _cases(likelihoods)
MISSINGNESS = _cases(missingness)
NETWORKS = _cases(networks)
# Several options may be left at the same defaults.
OBJECTIVES = list({(case.part, str(vars(case()))): case for case in _cases(objectives)}.values())

# Vectors and images of odd size, both ways: a network takes those that it can.
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3,), (4,)),
    ((2, 3), (2, 5)),
    ((1, 7, 10), (4,)),
    ((2, 3), (2, 7, 10)),
]
