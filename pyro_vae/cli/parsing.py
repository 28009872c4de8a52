"""Options from constructors: jsonargparse reads their signatures and docstrings.

The classes are chosen first, so that the parser has the options of exactly these classes.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace
from torch.distributions.constraints import Constraint

from pyro_vae import _yaml, guides, likelihoods, networks, objectives, priors
from pyro_vae._errors import expected, unknown_name
from pyro_vae._terminal import say
from pyro_vae.checkpoint import of_known_schema
from pyro_vae.cli.help import help_text, written
from pyro_vae.cli.synonyms import meant_option, unknown_part
from pyro_vae.data.rows import NO_WEIGHTS
from pyro_vae.distributions import same_support

__all__ = [
    "ROLES",
    "Described",
    "Parser",
    "add_part",
    "classes",
    "default_of",
    "guides_of",
    "parse",
    "parser_of_part",
    "parts_of",
    "read_config",
    "read_yaml",
    "value_of",
]

ROLES: dict[str, tuple[ModuleType, type]] = {
    "likelihood": (likelihoods, likelihoods.Likelihood),
    "prior": (priors, priors.Prior),
    "guide": (guides, guides.Guide),
    "encoder": (networks, networks.Network),
    "decoder": (networks, networks.Network),
    "objective": (objectives, objectives.Objective),
}
# What a part is for, where its base class says how it is made.
_PURPOSES = {
    "encoder": "From x to parameters of the guide.",
    "decoder": "From z to parameters of p(x|z).",
    "objective": "What the fit optimises.",
}
_LARGEST, _MOST = 2**20, 2**16  # characters, and values, of a file of options
_TYPES = {
    "<class 'int'>": "an integer",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "a string",
    "<class 'dict'>": "a mapping such as {encoder: 0.001}",
    "<class 'collections.abc.Sequence'>": "a list such as [200,200]",
}


class Parser(ArgumentParser):
    """A parser whose mistakes are one ``ValueError`` of one line, with the nearest known name."""

    def __init__(self, verb: str, operand: str, description: str) -> None:
        super().__init__(
            prog=f"pyro-vae {verb}",
            usage=f"pyro-vae {verb} {operand} [options]",
            description=description,
            allow_abbrev=False,
        )
        self.verb = verb
        (shown,) = (each for each in self._actions if "--help" in each.option_strings)
        shown.help = "Show this message."
        self.add_argument("--describe", action=_Describe, help=argparse.SUPPRESS)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise _mistake(message, self) from ex

    def flags(self) -> list[str]:
        """The options as a user writes them."""
        shown = [action for action in self._actions if action.help is not argparse.SUPPRESS]
        strings = (string for action in shown for string in action.option_strings)
        return [written(string) for string in strings if string.startswith("--")]

    def set_optional(self, name: str, value: Any) -> None:
        """Gives an option a default, where the class that it is of has none."""
        self.set_defaults({name: value})
        for action in self._actions:
            if action.dest == name:
                action.required = False

    def add_help_all(self) -> None:
        """Adds the option that shows what ``--help`` leaves out."""
        self.add_argument("--help_all", action=_HelpAll, help="Show all options, and more of each.")

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        return help_text(self, self.verb, everything=False)


def default_of(function: Callable[..., Any], argument: str) -> Any:
    """Returns the default of an argument, which is that of the option of the same meaning.

    Example:
        >>> from pyro_vae.evaluation import evaluate
        >>> default_of(evaluate, "proposal")
        'auto'
    """
    return inspect.signature(function).parameters[argument].default


def parse(
    parser: Parser, argv: Sequence[str], config: Mapping[str, Any] | None = None
) -> Namespace:
    """Returns the options: defaults, then a config file, then the command line.

    Raises:
        ValueError: If an option is unknown, missing or of the wrong type.
    """
    known, start = parser.get_defaults(), Namespace()
    for key, value in _leaves(config or {}):
        if key not in known:
            raise unknown_name("config", key, known.keys())
        start[key] = value
    options = parser.parse_args([_read(token) for token in argv], namespace=start)
    for key, value in options.items():
        if isinstance(value, int) and abs(value) >= 2**53:
            raise expected(written(f"--{key}"), "an integer below 2**53", value)
    return options


def read_config(path: str) -> dict[str, Any]:
    """Reads a YAML file of options; ``prior: Normal`` is short for ``prior: {class: Normal}``.

    Raises:
        ValueError: If there is no such file, it holds no mapping, or is of another schema.
    """
    content = read_yaml("--config", Path(path))
    for role in ROLES:
        value = content.get(role, {})
        if isinstance(value, str):
            content[role] = {"class": value}
        elif not isinstance(value, dict):
            raise expected(role, f"a class and its options in {path}", value)
    return content


def read_yaml(argument: str, path: Path) -> dict[str, Any]:
    """Reads a mapping, without its schema.

    Args:
        argument: What named the file, for an error.
        path: The file.

    Raises:
        ValueError: If there is no such file, it holds no mapping, or is of another schema.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
        content = _yaml.load(text, _MOST) if len(text) <= _LARGEST else None
    except FileNotFoundError:
        raise expected(argument, "an existing YAML file", str(path)) from None
    except _yaml.Excess as error:
        raise expected(argument, str(error), str(path)) from None
    except (yaml.YAMLError, ValueError, ArithmeticError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise expected(argument, "a readable YAML file", f"{path}{where}") from None
    if len(text) > _LARGEST:
        raise expected(argument, f"at most {_LARGEST:,} characters of YAML", str(path))
    if not isinstance(content, dict):
        raise expected(argument, f"options, key by key, in {path}", content)
    return of_known_schema(path, content)


def classes(role: str) -> dict[str, Any]:
    """The classes that can play a role: those that its subpackage exports, and no others."""
    package, base = ROLES[role]
    exported = {name: getattr(package, name) for name in package.__all__}
    return {
        name: cls
        for name, cls in exported.items()
        if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
        if role in getattr(cls, "roles", ROLES)  # networks may be of one kind alone
    }


def parts_of(
    argv: Sequence[str], config: dict[str, Any], defaults: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the class for each role; drops options in ``config`` that were for another class.

    A guide that is not chosen follows the prior.

    Raises:
        ValueError: If a name is unknown.
    """
    names = {}
    for role in ROLES:
        given, kept = value_of(argv, f"--{role}"), config.get(role, {}).get("class")
        if given is not None and kept is not None and given != kept:
            config[role] = {"class": given}
        names[role] = given or kept or defaults.get(role)
    parts: dict[str, Any] = {}
    for role, name in names.items():
        known = classes(role)
        if role == "guide":
            name = _guide(parts["prior"], name)
        if name not in known:
            raise unknown_part(f"--{role}", name, known)
        parts[role] = known[name]
    return parts


def _guide(prior: Any, name: str | None) -> str:
    """Returns the guide's name, or the first on the space of the prior, ``Normal`` before others.

    Raises:
        ValueError: If the guide is on another space than the prior.
    """
    known = classes("guide")
    if _support(prior) is None:
        fitting = [prior.__name__]
    else:
        fitting = [n for n, cls in known.items() if same_support(_support(cls), _support(prior))]
    if name is None:
        return "Normal" if "Normal" in fitting else fitting[0]
    if name in known and name not in fitting:
        what = f"one on the space of the prior {prior.__name__}: {' or '.join(fitting)}"
        raise expected("--guide", what, name)
    return name


def _support(cls: Any) -> Constraint | None:
    """Returns where z lives by the class alone; None for composites, whose sites have it."""
    return cls.support if isinstance(cls.support, Constraint) else None


def guides_of(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a guide for each part of a product prior, on its space and of its size.

    Raises:
        ValueError: If a part is no mapping of ``class`` and options, or its class is unknown.
    """
    known, found = classes("prior"), []
    for part in parts:
        name = part.get("class") if isinstance(part, Mapping) else part
        if not isinstance(part, Mapping) or name not in known:
            raise unknown_part("--prior.parts", name, known)
        guide = classes("guide")[chosen := _guide(known[name], None)]
        taken = inspect.signature(guide).parameters
        found.append({"class": chosen} | {k: v for k, v in part.items() if k in taken})
    return found


def add_part(parser: Parser, role: str, cls: type, *, skip: set[str]) -> None:
    """Adds ``--role`` and the options of one class, but for some arguments."""
    known, (_, base) = classes(role), ROLES[role]
    group = parser.add_argument_group(f"{role} ({cls.__name__})", _summary(cls))
    group.add_argument(
        f"--{role}.class",
        type=Literal[tuple(known)],
        default=cls.__name__,
        help=_PURPOSES.get(role) or _summary(base),
    )
    group.add_argument(
        f"--{role}.help",
        action=_PartHelp,
        help=f"Explain one of these and its options; those below are of {cls.__name__}.",
    )
    _add_arguments(group, role, cls, skip)


def _add_arguments(group: Any, role: str, cls: type, skip: set[str]) -> None:
    own = set(inspect.signature(cls.__init__).parameters)  # type: ignore[misc]
    inherited = {
        name
        for base in cls.__mro__[1:]
        for name in inspect.signature(base.__init__).parameters  # type: ignore[misc]
    }
    # What a constructor merely passes on to its bases is for programs.
    skip = skip | (inherited - own)
    group.add_class_arguments(cls, role, as_group=False, instantiate=False, skip=skip)


class Described(Exception):
    """Carries a parser to who asked for it, by ``--describe`` in place of all operands."""

    def __init__(self, parser: Parser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


class _Leaving(argparse.Action):
    """An option without a value, after which nothing is parsed."""

    def __init__(self, option_strings: Sequence[str], **kwargs: Any) -> None:
        kwargs |= {"dest": argparse.SUPPRESS, "default": argparse.SUPPRESS, "nargs": 0}
        super().__init__(option_strings, **kwargs)


class _Describe(_Leaving):
    """Hands over the parser, from which completions are made."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        raise Described(parser)


class _HelpAll(_Leaving):
    """Prints all options of a parser, and leaves."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        say(help_text(parser, parser.verb, everything=True).rstrip())
        parser.exit()


class _PartHelp(argparse.Action):
    """Prints the docstring and the options of a class, and leaves."""

    def __init__(self, option_strings: Sequence[str], **kwargs: Any) -> None:
        kwargs |= {"dest": argparse.SUPPRESS, "default": argparse.SUPPRESS, "metavar": "NAME"}
        super().__init__(option_strings, **kwargs)

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        role = self.option_strings[0][2:].removesuffix(".help")
        explain(role, values)
        parser.exit()


def explain(role: str, name: str) -> None:
    """Prints what a class is, without its programmer's sections, and its options.

    Raises:
        ValueError: If the name is unknown.
    """
    known = classes(role)
    if name not in known:
        raise unknown_part(f"--{role}.help", name, known)
    parser = parser_of_part(role, name)
    say(help_text(parser, None, everything=True, verbatim=True).rstrip())


def parser_of_part(role: str, name: str) -> Parser:
    """Returns a parser of the options of one part, described by its docstring."""
    cls = classes(role)[name]
    text, *_ = re.split(r"\n(?:Args|Raises|Example):", inspect.getdoc(cls) or "")
    parser = Parser("fit", f"DATA --{role} {name}", text)
    _add_arguments(parser, role, cls, {"dim", "event_shape", "size_factor"})
    return parser


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """The value of an option, read before there is a parser; the last one counts."""
    value = None
    for i, token in enumerate(argv):
        name, equals, after = token.partition("=")
        if name in (flag, f"{flag}.class"):
            value = after if equals else next(iter(argv[i + 1 : i + 2]), None)
    return value


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _read(token: str) -> str:
    """An option as the parser knows it: underscores, and ``--prior`` as ``--prior.class``."""
    if not token.startswith("--"):
        return token
    name, equals, after = token.partition("=")
    name = "--" + name[2:].replace("-", "_")
    return f"{name}{'.class' if name[2:] in ROLES else ''}{equals}{after}"


def _leaves(config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if key in ROLES:
            yield from ((f"{key}.{name}", item) for name, item in value.items())
        else:
            yield key, value


def _mistake(message: str, parser: Parser) -> ValueError:
    """A message of jsonargparse of several lines, as one."""
    if found := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
        return _unknown_option(written(found[1]), parser)
    if found := re.match(r"the following arguments are required: ([^,]+)", message):
        name = written(f"--{found[1]}") if "." in found[1] else found[1]
        return ValueError(f"`{name}`: expected a value (see --help), got nothing")
    if found := re.match(r"argument (?:-\w/)?(--[\w.]+): expected one argument", message):
        return ValueError(f"`{written(found[1])}`: expected a value, got nothing")
    key = re.match(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    types = re.findall(r"Expected an? (<class '[\w.]+'>|typing\.Literal\[.*?\])", message)
    if key and value and types:
        words = re.findall(r"'([^']*)'", " ".join(t for t in types if "Literal" in t))
        kinds = [_TYPES.get(t, t) for t in types if "Literal" not in t and "NoneType" not in t]
        near = difflib.get_close_matches(value[1], words, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return ValueError(
            f"{expected(written(f'--{key[1]}'), ' or '.join(kinds + words), value[1])}{hint}"
        )
    return ValueError(" ".join(message.split()))


def _unknown_option(flag: str, parser: Parser) -> ValueError:
    role = flag[2:].partition(".")[0]
    if role in ("weight", "weights"):
        return expected(flag, NO_WEIGHTS, "one")
    if role not in ROLES:
        flags = parser.flags()
        meant = meant_option(flag, flags)
        near = [meant] if meant else difflib.get_close_matches(flag, flags, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return ValueError(f"`{flag}`: no such option, {hint}--help lists them")
    name = parser.get_default(f"{role}.class")
    options = [each for each in parser.flags() if each.startswith(f"--{role}.")]
    return unknown_name(f"{role} {name}", flag, options)
