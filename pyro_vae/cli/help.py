"""What ``--help`` prints: sections, common options first, types in words, examples."""

from __future__ import annotations

import argparse
import re
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["EXAMPLES", "brief", "help_text", "metavar", "options_of", "values_of", "written"]

EXAMPLES: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect table.csv", "inspect table.csv --out schema.yaml --label species"),
    "fit": (
        "fit digits --latent-dim 8 --epochs 40",
        "fit table.csv --missing --cond species --out runs/table",
        "fit mnist --objective IWAE --objective.num-samples 8 --device cuda",
    ),
    "evaluate": (
        "evaluate runs/digits --num-samples 5000",
        "evaluate runs/digits --ais --max-data 200",
        "evaluate runs/table --data new.csv --json",
    ),
    "check": ("check runs/digits", "check runs/table --data new.csv --strict"),
    "compare": ("compare runs/one runs/two", "compare runs/one runs/two --checks --out both.png"),
    "select": (
        "select table.csv --likelihood Normal,StudentT --folds 5 --seeds 2",
        "select digits --lr 1e-4..1e-2 --search optuna --trials 20",
    ),
    "sample": (
        "sample runs/digits -n 100 --out draws.npy",
        "sample runs/table --cond setosa --out new.csv",
    ),
    "impute": (
        "impute runs/table table.csv --out filled.csv",
        "impute runs/table table.csv --num-imputations 5 --out filled.csv",
    ),
    "encode": ("encode runs/digits --out z.npz", "encode runs/table --data new.csv --out z.csv"),
    "anomalies": (
        "anomalies runs/table --data new.csv --top 20",
        "anomalies runs/table --out ranked.csv",
    ),
    "probe": ("probe runs/digits --label label", "probe runs/table --label species --folds 10"),
    "rate-distortion": (
        "rate-distortion runs/digits",
        "rate-distortion runs/digits --max-data 500 --num-samples 200",
    ),
    "recommend": (
        "recommend runs/clicks users.csv --top 20",
        "recommend runs/clicks users.csv --out recommended.csv",
    ),
    "topics": (
        "topics runs/news",
        "topics runs/news --summarise letter.txt --sentences 5",
    ),
    "compress": (
        "compress runs/digits digits.npy digits.pvz",
        "compress hf://owner/name data.npy data.pvz --json",
    ),
    "decompress": (
        "decompress runs/digits digits.pvz again.npy",
        "decompress hf://owner/name data.pvz data.npy",
    ),
    "completion": (
        "completion bash > ~/.local/share/bash-completion/completions/pyro-vae",
        "completion zsh > ~/.zfunc/_pyro-vae",
    ),
    "push": (
        "push runs/digits owner/name --private",
        "push runs/digits owner/name --check --license apache-2.0",
        "push runs/digits owner/name --dry-run",
    ),
    "report": ("report runs/digits", "report runs/table --data new.csv --out new.html"),
}
"""Commands for the end of each verb's help, without ``pyro-vae`` before them."""

_COMMON: dict[str, tuple[str, ...]] = {
    "model": (
        *(f"{each}.class" for each in ("likelihood", "prior", "guide", "encoder", "decoder")),
        "objective.class",
        "latent_dim",
        "program",
    ),
    "cross-validation": ("search", "trials", "folds", "seeds", "jobs"),
    "training": ("epochs", "batch_size", "lr", "patience", "seed", "device"),
    "data": ("cond", "missing", "group", "time", "label", "drop", "schema"),
    "output": ("out", "json", "config", "resume", "num_samples"),
}
"""The options of a fit that ``--help`` shows; ``--help-all`` shows all of them."""

_SHARED: dict[str, tuple[str, ...]] = {
    "data": ("split", "max_data", "cond", "data", "unseen", "data_root"),
    "model": ("program",),
    "output and device": ("out", "json", "device", "seed"),
}
"""Sections of what several verbs share, below the options of the verb alone."""

# Texts by what is in them; a name that is in neither is a NAME.
_WORDS = {
    "PATH": (
        "init",
        "out",
        "config",
        "data_root",
        "data",
        "schema",
        "probabilities",
        "names",
        "summarise",
    ),
    "COLUMN": ("group", "time", "label", "size_factor"),
    "COLUMNS": ("drop", "pivot"),
    "NAME=COLUMN": ("covariate",),
    "NAME=KIND": ("kind",),
    "TEXT": ("sep", "decimal", "thousands", "na_values"),
    "SIZE": ("max_memory",),
    "HOW": ("split", "schedule"),
    "PARTS": ("trainable",),
}
_WORD = {name: word for word, names in _WORDS.items() for name in names}
_WIDEST = 30  # characters of the values of an option that stand beside it, as in {true,false}
_INDENT = 26  # columns before the help of an option


def written(flag: str) -> str:
    """Returns an option as a user writes it.

    Example:
        >>> written("--prior.class"), written("--latent_dim")
        ('--prior', '--latent-dim')
    """
    return flag.removesuffix(".class").replace("_", "-").replace("----", "--")


def options_of(action: argparse.Action) -> list[str]:
    """Returns the ways to write an option, without what jsonargparse adds to append to lists."""
    return [written(each) for each in action.option_strings if not each.endswith("+")]


def help_text(
    parser: argparse.ArgumentParser, verb: str | None, *, everything: bool, verbatim: bool = False
) -> str:
    """Returns the help of a parser.

    Args:
        parser: It has the options.
        verb: Whose examples come at the end; None for none.
        everything: Whether also the options that are seldom needed are shown, with all that there
            is to say of each.
        verbatim: Whether the lines of the description stay as they are.
    """
    hides = any("--help_all" in action.option_strings for action in parser._actions)
    short = hides and not everything
    operands = re.findall(r"[A-Z]+", parser.usage or "")
    names = {each.dest: name for each, name in zip(_positional(parser), operands, strict=False)}
    formatter = _Formatter(parser.prog, operands=names, verbatim=verbatim, short=short)
    formatter.add_usage(parser.usage, [], [])
    formatter.add_text(_plain(parser.description or ""))
    shown: Iterable[tuple[str, str | None, list[argparse.Action]]]
    shown = _common(parser) if short else _whole(parser, hides)
    for title, description, actions in shown:
        if actions:
            formatter.start_section(title)
            formatter.add_text(None if description is None else _plain(description))
            formatter.add_arguments(actions)
            formatter.end_section()
    text = formatter.format_help()
    if (examples := EXAMPLES.get(verb or "")) is not None:
        text += "\nexamples:\n" + "".join(f"  pyro-vae {each}\n" for each in examples)
    return text


def _common(parser: argparse.ArgumentParser) -> Iterator[tuple[str, None, list[argparse.Action]]]:
    """The sections of a parser with many options: the common ones."""
    known = {action.dest: action for action in parser._actions}
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    yield "arguments", None, _positional(parser)
    for title, names in _COMMON.items():
        yield title, None, [known[name] for name in names if name in known]
    ways = ("--help", "--help_all", "--likelihood.help")  # the last stands for those of all parts
    yield "help", None, [flags[each] for each in ways if each in flags]


def _whole(
    parser: argparse.ArgumentParser, grouped: bool
) -> Iterator[tuple[str, str | None, list[argparse.Action]]]:
    """All options: in the groups of the parser if it has its own, or by what they are about."""
    yield "arguments", None, _positional(parser)
    last = {"--help", "--help_all"}  # the way to this text is not what one looks for in it
    shared = {} if grouped else {name: title for title, ns in _SHARED.items() for name in ns}
    sections: dict[str, list[argparse.Action]] = {title: [] for title in _SHARED}
    for group in parser._action_groups[1:]:
        own = [each for each in group._group_actions if each.option_strings]
        for action in own:
            if action.dest in shared:
                sections[shared[action.dest]].append(action)
        own = [each for each in own if each.dest not in shared]
        own.sort(key=lambda each: not last.isdisjoint(each.option_strings))
        yield group.title or "options", group.description, own
    for title, actions in sections.items():
        order = _SHARED[title]
        yield title, None, sorted(actions, key=lambda each: order.index(each.dest))


def _positional(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not action.option_strings]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Options with the kind of their value in words, and their default where it says something."""

    def __init__(
        self, prog: str, *, operands: Mapping[str, str], verbatim: bool, short: bool
    ) -> None:
        super().__init__(prog, max_help_position=_INDENT)
        self._operands, self._verbatim, self._short = operands, verbatim, short

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = super()._fill_text if self._verbatim else self._filled
        return filled(text, width, indent)

    def _filled(self, text: str, width: int, indent: str) -> str:
        return argparse.HelpFormatter._fill_text(self, text, width, indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # they are in names

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return self._operands.get(action.dest, action.dest.upper())
        return f"{', '.join(self._flags(action))} {metavar(action)}".rstrip()

    def _flags(self, action: argparse.Action) -> list[str]:
        """The ways to write an option; where there is little room, one for those of all parts."""
        flags = options_of(action)
        return ["--PART.help"] if self._short and flags == ["--likelihood.help"] else flags

    def _expand_help(self, action: argparse.Action) -> str:
        text = " ".join(_plain(action.help or "").split())
        part = action.dest.endswith(".class")
        if self._short and action.option_strings:
            text = brief(text)
            if self._flags(action) == ["--PART.help"]:
                return "Explain a part and its options, such as --prior.help Flow."
        if part and self._short:
            return f"{text.removesuffix('.')}: {', '.join(values_of(action))}{_default(action)}"
        if part:
            return f"{text} One of {', '.join(values_of(action))}{_default(action)}."
        values = values_of(action)
        listed = values and metavar(action) in ("NAME", "NUMBER|NAME")
        notes = [" or ".join([", ".join(values[:-1]), values[-1]])] if listed else []
        if default := _default(action).removeprefix(" (").removesuffix(")"):
            notes.append(default)
        return f"{text} ({'; '.join(notes)})" if notes else text


def metavar(action: argparse.Action) -> str:
    """Returns what stands for the value of an option: its type in words."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, str) and not action.metavar.startswith(("[", "{")):
        return action.metavar
    if action.dest.endswith(".class"):
        return "NAME"
    values, kinds = values_of(action), _kinds(action)
    listed = "{" + ",".join(values) + "}"
    if values and not kinds:
        return listed if len(listed) <= _WIDEST else "NAME"
    names = [_word(kind, action.dest) for kind in kinds] + (["NAME"] if values else [])
    return "|".join(dict.fromkeys(names))


def _hint(action: argparse.Action) -> Any:
    return getattr(action, "_typehint", action.type)


def _members(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [member for each in get_args(hint) for member in _members(each)]
    return [hint]


def values_of(action: argparse.Action) -> list[str]:
    """Returns the values that an option may have, if it has few: names, true and false."""
    found: list[str] = []
    for member in _members(_hint(action)):
        if get_origin(member) is Literal:
            found += [str(value) for value in get_args(member)]
        elif member is bool:
            found += ["true", "false"]
    return found


def _kinds(action: argparse.Action) -> list[Any]:
    """The types that an option may have besides."""
    members = [each for each in _members(_hint(action)) if each is not type(None)]
    return [each for each in members if get_origin(each) is not Literal and each is not bool]


def _word(kind: Any, dest: str) -> str:
    if kind is int:
        return "INTEGER"
    if kind is float:
        return "NUMBER"
    if kind in (str, None):
        return _WORD.get(dest, "NAME")
    origin = get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return "LIST"
    if origin is dict:
        return "MAPPING"
    return "NAME"


def _default(action: argparse.Action) -> str:
    """The default in brackets, as a user would write it; nothing where that would say nothing."""
    value = action.default
    if action.nargs == 0 or value is None or value is False or value in ("", argparse.SUPPRESS):
        return ""
    if isinstance(value, list | tuple):
        if not value:
            return ""
        value = "[" + ",".join(map(str, value)) + "]"
    return f" (default: {str(value).lower() if value is True else value})"


def brief(text: str) -> str:
    """Returns a text up to where it goes into detail.

    Example:
        >>> brief("Folder to make; runs/NAME if not given. There must be none.")
        'Folder to make.'
    """
    return re.split(r"(?<=[A-Za-z0-9)])[.:;] ", text, maxsplit=1)[0].rstrip(".") + "."


def _plain(text: str) -> str:
    """A docstring, which is written for Sphinx, as a person reads it on a terminal."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text.replace("``", ""))
    text = re.sub(r"\bNone\b", "null", text)  # which is what one types
    return re.sub(r"(?<![\w-])--[a-z_][\w.]*", lambda match: written(match[0]), text)
