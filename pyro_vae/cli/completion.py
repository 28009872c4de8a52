"""``pyro-vae completion``: a script by which a shell completes commands, options and names.

The script holds all that it needs, so that completing starts no Python and imports no torch.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from pyro_vae._errors import expected, unknown_name
from pyro_vae._terminal import say
from pyro_vae.cli import VERBS
from pyro_vae.cli.help import brief, metavar, options_of, values_of
from pyro_vae.cli.parsing import ROLES, Described, Parser, classes, parse, parser_of_part

__all__ = ["described", "run"]

_OPERANDS = {"fit": ["digits"], "select": ["digits"]}  # of which their parsers depend
_FOLDERS = ("run", "runs")


def run(argv: list[str]) -> None:
    """Prints a script.

    Raises:
        ValueError: If the shell is unknown, or shtab is not installed.
    """
    parser = Parser(
        "completion",
        "SHELL",
        "Prints a script by which a shell completes commands, options, and names of parts and "
        "files. It is written once, to where the shell looks for such scripts.",
    )
    parser.add_argument("shell", type=str, help="bash, zsh or tcsh.")
    options = parse(parser, argv)
    try:
        import shtab
    except ModuleNotFoundError:
        what = "shtab, by pip install 'pyro-vae[completion]'"
        raise expected("completion", what, None) from None
    if options.shell not in shtab.SUPPORTED_SHELLS:
        raise unknown_name("shell", options.shell, shtab.SUPPORTED_SHELLS)
    say(shtab.complete(_commands(shtab), options.shell))


def described(verb: str) -> Parser:
    """Returns the parser of a verb, which is not run.

    Args:
        verb: Its name.
    """
    module = import_module(f"pyro_vae.cli.{verb.replace('-', '_')}")
    try:
        module.run([*_OPERANDS.get(verb, []), "--describe"])
    except Described as found:
        return found.parser
    raise AssertionError(f"{verb} did not parse its options")


def _commands(shtab: Any) -> argparse.ArgumentParser:
    """All verbs and their options as argparse has them, which shtab reads."""
    whole = argparse.ArgumentParser("pyro-vae")
    whole.add_argument("--version", action="store_true", help="Show the version.")
    verbs = whole.add_subparsers(dest="command")
    for verb, what in VERBS.items():
        one = verbs.add_parser(verb, help=what, description=what, add_help=False)
        parsers = [described(verb)]
        if verb in _OPERANDS:  # options of all parts, not only of the default ones
            parsers += [parser_of_part(role, name) for role in ROLES for name in classes(role)]
        known: set[str] = set()
        for action in (each for parser in parsers for each in parser._actions):
            flags = [flag for flag in options_of(action) if flag not in known]
            if action.help is argparse.SUPPRESS or (action.option_strings and not flags):
                continue
            known.update(flags)
            _add(one, action, flags, shtab)
    return whole


def _add(
    parser: argparse.ArgumentParser, like: argparse.Action, flags: list[str], shtab: Any
) -> None:
    """Adds one option or operand, with what its values may be."""
    options: dict[str, Any] = {"help": brief(" ".join((like.help or "").split()))}
    if like.nargs == 0:
        parser.add_argument(*flags, action="store_true", **options)
        return
    if like.option_strings and like.dest.endswith("help"):
        options["choices"] = list(classes(flags[0][2:].removesuffix(".help")))
    elif values := values_of(like):
        options["choices"] = values
    names = flags or [like.dest]
    added: Any = parser.add_argument(*names, nargs=like.nargs if not flags else None, **options)
    if like.dest in _FOLDERS:
        added.complete = shtab.DIRECTORY
    elif not flags or metavar(like) == "PATH":
        added.complete = shtab.FILE
