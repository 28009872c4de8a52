"""What the docstring of a public name must say, by its kind, as rules that read the code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from sklearn.base import BaseEstimator
from torch import nn

import pyro_vae as pv
from pyro_vae import _errors

# Annotations of what has a shape, and what states one: two or more sizes, one or none between
# brackets, or words.
_SHAPED = re.compile(
    r"\b(?:Tensor|ndarray|ArrayLike|Numbers|NumbersLike|RowsLike|Given(?:Like)?|Conditions(?:Like)?)\b"
)
_SHAPE = re.compile(
    r"``\[?\(?\*?\w*(?:, ?\S+)+[\])]|``\(\w*,?\)``|\bshaped?\b|:class:`[\w.~]*(?:Given|Conditions)`"
)
# Quantities of information, and densities: what they are measured in is never left open.
_SCORES = re.compile(
    r"\blog (?:p|q|w|densit|weight|marginal|likelihood)|\bELBO\b|\bKL\b|\bentrop|\bnats?\b"
)
_UNITS = re.compile(r"\bnats?\b|\bbits?\b|\bwithout a unit\b")
# Where what somebody proposed is: classes, and functions that return a record or a tensor.
_MADE = {"priors", "guides", "likelihoods", "networks", "missingness", "objectives"}
_MADE |= {"programs", "sklearn"}
_DONE = {"training", "selection", "evaluation", "criticism"}
_RECORD = re.compile(r"Tensor|Probes|\b[A-Z]\w+(?:\[\w+\])?$")
_SECTION = re.compile(r"^(Args|Returns|Yields|Raises|References|Attributes|Example|Examples):$")
_TOLD = re.compile(
    r"^(?:Returns?|Yields?|Creates?|Opens?|A|An|The|Whether|Which|What|How|Where|Is|Has|Draws?)\b"
)


@dataclasses.dataclass(frozen=True)
class Told:
    """The parts of a Google docstring."""

    text: str  # all of it
    lead: str  # before the first section
    sections: dict[str, str]

    @property
    def entries(self) -> dict[str, str]:
        """What `Args` and `Attributes` say, by name.

        A record "as the arguments of" a function has the entries of that function besides.
        """
        other = re.search(r"as the arguments of :func:`~?pyro_vae\.(\w+)`", self.lead)
        found = dict(told(getattr(pv, other[1]).__doc__).entries) if other else {}
        for section in ("Args", "Attributes"):
            for entry in re.split(r"^(?=\S)", self.sections.get(section, ""), flags=re.MULTILINE):
                names, colon, what = entry.partition(":")
                for name in names.split(",") if colon else ():
                    found[name.strip().lstrip("*").partition(" ")[0]] = what.strip()
        return found


def told(text: str | None) -> Told:
    """Reads a docstring."""
    clean = inspect.cleandoc(text or "")
    lead: list[str] = []
    sections: dict[str, list[str]] = {}
    into = lead
    for line in clean.splitlines():
        if match := _SECTION.match(line):
            into = sections.setdefault(match[1], [])
        elif into is not lead and line and not line.startswith(" "):
            into = lead  # an indented section ends where indentation does
            into.append(line)
        else:
            into.append(line)
    parts = {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in sections.items()}
    return Told(clean, "\n".join(lead).strip(), parts)


def _is_shaped(annotation: str) -> bool:
    """Whether what is annotated so has one shape: functions and named tensors have not."""
    bare = re.sub(r"\b(?:Callable|dict|Mapping)\[\S*(?: \S*\])?", "", annotation)
    return _SHAPED.search(bare) is not None


def _tree(function: Callable[..., Any]) -> ast.FunctionDef:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    found = ast.parse(source).body[0]
    assert isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
    return found  # type: ignore[return-value]


_RAISING = {
    name
    for name, function in vars(_errors).items()
    if inspect.isfunction(function)
    and any(isinstance(node, ast.Raise) for node in ast.walk(_tree(function)))
}


def raises(function: Callable[..., Any]) -> bool:
    """Whether its own code raises, or asks a check of `_errors` to."""
    pending: list[ast.AST] = list(_tree(function).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue  # raised by whoever calls that
        if isinstance(node, ast.Raise) and node.exc is not None:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if ast.unparse(called) not in ("NotImplementedError", "AttributeError"):
                return True
        if isinstance(node, ast.Call) and ast.unparse(node.func) in _RAISING:
            return True
        pending.extend(ast.iter_child_nodes(node))
    return False


def _inherited(owner: type | None, name: str) -> list[Told]:
    """What the methods say that a method overrides, the nearest first."""
    if owner is None:
        return []
    mro = owner.__mro__[1:]
    found = [vars(base)[name] for base in mro if name in vars(base)]
    return [told(inspect.unwrap(_plain(each)).__doc__) for each in found if _plain(each)]


def _plain(member: Any) -> Any:
    """The function of a method, a class method, or a property."""
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    return getattr(member, "fget", None) or getattr(member, "func", None) or member


def faults_of_function(function: Any, owner: type | None = None) -> Iterator[str]:
    """What is missing where a function, or a method of a class, is documented."""
    plain = _plain(function)
    name = plain.__name__
    said = told(inspect.unwrap(plain).__doc__)
    above = _inherited(owner, name)
    if not said.text and not any(each.text for each in above):
        yield "no docstring"
        return
    every = [said, *above]
    signature = inspect.signature(plain)
    for parameter in list(signature.parameters.values())[owner is not None :]:
        yield from _faults_of_argument(parameter, every, in_prose=owner is not None)
    returned = str(signature.return_annotation)
    if returned not in ("None", str(inspect.Signature.empty), "NoReturn"):
        about = [each for each in every if "Returns" in each.sections or "Yields" in each.sections]
        about += [each for each in every if _TOLD.match(each.lead)]
        is_property = plain is not function and not isinstance(function, classmethod | staticmethod)
        if not about and not is_property:
            yield "what it returns is not described"
        text = " ".join(each.text for each in (about or every))
        if _is_shaped(returned) and not _SHAPE.search(text):
            yield f"no shape of what it returns, {returned}"
        numbers = re.search(r"Tensor|float|dict|list", returned)  # a record has units of its own
        if numbers and _SCORES.search(text) and not _UNITS.search(text):
            yield "no unit of what it returns"
    if raises(plain) and not any("Raises" in each.sections for each in every):
        yield "no Raises"


def _faults_of_argument(
    parameter: inspect.Parameter, every: list[Told], *, in_prose: bool
) -> Iterator[str]:
    name, kind = parameter.name, str(parameter.annotation)
    collects = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    if name.startswith("_") or (collects and kind == "Any"):  # handed on as it is
        return
    entries = [each.entries[name] for each in every if each.entries.get(name)]
    if not entries and in_prose:  # a method may say it in its sentence
        entries = [each.lead for each in every if re.search(rf"``?{name}``?|\b{name}\b", each.lead)]
    if not entries:
        yield f"{name}: not described"
    elif _is_shaped(kind) and not any(_SHAPE.search(each) for each in entries):
        yield f"{name}: no shape, of {kind}"


def faults_of_class(kind: type) -> Iterator[str]:
    """What is missing where a class and its public methods are documented."""
    said = told(kind.__doc__)
    if not said.text:
        yield "no docstring"
        return
    if dataclasses.is_dataclass(kind):
        fields = {each.name: str(each.type) for each in dataclasses.fields(kind)}
        alike = re.search(r"[Ee]ach [^.]*\barrays?\b[^.]*\bshape\b", said.lead)  # said of all
        entries: dict[str, str] = {}
        for base in reversed(kind.__mro__):
            entries.update(told(base.__doc__).entries)
        for name, annotation in fields.items():
            if name.startswith("_"):
                continue
            if not entries.get(name):
                yield f"{name}: not described"
            elif _is_shaped(annotation) and not (alike or _SHAPE.search(entries[name])):
                yield f"{name}: no shape, of {annotation}"
            elif _SCORES.search(entries[name]) and not _UNITS.search(said.text):
                yield f"{name}: no unit"
        checked = vars(kind).get("__post_init__")
        if checked is not None and raises(checked) and "Raises" not in said.sections:
            yield "no Raises"
    elif not getattr(kind, "_is_protocol", False) and isinstance(  # whose constructor refuses
        vars(kind).get("__init__"), FunctionType
    ):
        constructor = vars(kind)["__init__"]
        own = told(constructor.__doc__)
        every = [own, *(told(base.__doc__) for base in kind.__mro__ if base is not object)]
        for parameter in list(inspect.signature(constructor).parameters.values())[1:]:
            yield from _faults_of_argument(parameter, every, in_prose=False)
        if raises(constructor) and not any("Raises" in each.sections for each in every):
            yield "no Raises"
    for name, member in vars(kind).items():
        plain = _plain(member)
        if (
            not name.startswith("_")
            and inspect.isfunction(plain)
            and plain.__module__ != "pyro_vae._deprecated"  # another name of another member
        ):
            for fault in faults_of_function(member, kind):
                yield f"{name}(): {fault}"


def is_of_the_literature(what: Any) -> bool:
    """Whether it is a part, a model, an objective or an estimator, which somebody proposed.

    Those are the concrete classes of the packages of parts, programs and estimators that are no
    records, and the functions of the packages that fit and judge which return more than plain
    numbers. A record is explained where it is returned, and a statistic by its own name.
    """
    home = what.__module__.split(".")[1]
    if inspect.isclass(what):
        built = issubclass(what, nn.Module | pv.objectives.Objective | BaseEstimator)
        return home in _MADE and built and not inspect.isabstract(what)
    returned = str(inspect.signature(what).return_annotation)
    return home in _DONE and _RECORD.search(returned) is not None


def faults_of_source(what: object) -> Iterator[str]:
    """Whether it says where it comes from: a year, and an address."""
    text = told(what.__doc__).sections.get("References", "")
    if not re.search(r"\b(?:1[89]|20)\d\d\b", text):
        yield "no year of a source"
    if not re.search(r"https?://\S+", text):
        yield "no address of a source"
