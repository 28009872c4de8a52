"""A pair of the user's on the command line: imported because it was typed, and for no other reason.

A run folder has the parameters of a :class:`pyro_vae.Program` and none of its code. What a file
says is never imported, be it a run's or one of options.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from pyro_vae import checkpoint
from pyro_vae._errors import expected, unknown_name
from pyro_vae._terminal import say
from pyro_vae.checkpoint import read_json
from pyro_vae.cli.parsing import ROLES, Parser, classes, value_of
from pyro_vae.cli.runs import as_device, recorded_config
from pyro_vae.programs import VAE, Amortized, Program

__all__ = [
    "PAIR",
    "add_program",
    "at_a_draw",
    "check_typed",
    "load_run",
    "load_runs",
    "load_vae",
    "objective_of",
    "program_of",
    "raised_inside",
    "typed_before",
]

PAIR = "pair"
"""What config.yaml has beside the options: the typed ``--program``, which is never imported."""

_TAKEN = "package.module:name, a pv.Program or a function that returns one"
_NAMED = re.compile(r"([^\W\d]\w*\.)*[^\W\d]\w*:([^\W\d]\w*\.)*[^\W\d]\w*")
_PACKAGE = Path(__file__).parents[1]
_typed: list[
    tuple[Path, str]
] = []  # folders whose code was imported, and what was typed, last first


def add_program(parser: Parser, several: str = "") -> None:
    """Adds the option of the pair that a run is of."""
    parser.add_argument(
        "--program",
        type=str | None,
        help="Of a run of a Program: package.module:name of the pair, or of a function that "
        f"returns it, as no file has its code{several}. Modules of this folder can be imported.",
    )


def check_typed(typed: str | None, config: dict[str, Any]) -> None:
    """Refuses a file of options that names code, and takes out what it says of it.

    Args:
        typed: What was typed as ``--program``.
        config: The options of the file.

    Raises:
        ValueError: If it names a pair that was not typed.
    """
    recorded = config.pop(PAIR, None)
    if "program" in config:
        raise expected("--program", "it typed: what a file says is never imported", "one in a file")
    if typed is None and recorded is not None:
        what = f"{_TAKEN}, typed: these options are of one, and no file has its code"
        raise expected("--program", what, None)


def objective_of(argv: Sequence[str], config: dict[str, Any]) -> str:
    """Returns the objective's name; drops options in ``config`` that were for another one.

    Raises:
        ValueError: If a part of a VAE was asked for, or the name is unknown.
    """
    for role in ROLES:
        asked = any(token.startswith(f"--{role}") for token in argv) or role in config
        if asked and role != "objective":
            raise expected(f"--{role}", "none beside --program, whose pair has what it needs", role)
    given = value_of(argv, "--objective")
    kept = config.get("objective", {}).get("class", "ELBO")
    if given is not None and given != kept:
        config["objective"] = {"class": given}
    name = given or str(kept)
    if name not in (known := classes("objective")):
        raise unknown_name("--objective", name, known)
    return name


def program_of(text: str) -> Program:
    """Imports a pair.

    Args:
        text: ``package.module:name``, as it was typed.

    Raises:
        ValueError: If there is no such module or name, it is no :class:`pyro_vae.Program` nor a
            function that returns one, or its code raises an error.
    """
    module, _, name = text.partition(":")
    if not _NAMED.fullmatch(text) or module.endswith(".py"):
        error, meant = expected("--program", _TAKEN, text), _meant(text)
        raise error if meant is None else ValueError(f"{error} (did you mean {meant!r}?)")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _inside(text, error) from error
        what = "a module that is installed, or in this folder"
        raise expected("--program", what, error.name) from None
    except (Exception, SystemExit) as error:
        raise _inside(text, error) from error
    file = getattr(found, "__file__", None)
    _typed[:0] = [(Path(each).resolve(), text) for each in (file, here) if each is not None]
    for part in name.split("."):
        if not hasattr(found, part):
            raise unknown_name("--program", part, _offered(found))
        found = getattr(found, part)
    if not isinstance(found, Program) and callable(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise _inside(text, error) from error
    if not isinstance(found, Program):
        raise expected("--program", _TAKEN, found)
    return found


def _meant(text: str) -> str | None:
    """Returns what may have been meant by a path, or by a name with a point before it; else None.

    Example:
        >>> _meant("models.py:build"), _meant("own/models.py"), _meant("own.models")
        ('models:build', 'own.models:NAME', 'own:models')
    """
    path, _, name = text.partition(":")
    if path.endswith(".py") or "/" in path or os.sep in path:
        place = Path(path)
        if place.is_absolute() and place.is_relative_to(Path.cwd()):
            place = place.relative_to(Path.cwd())
        meant = ".".join(place.with_suffix("").parts)
    else:
        meant, point, last = path.rpartition(".") if not name else (path, "", "")
        meant, name = (meant, last) if point else (path, name)
    found = f"{meant}:{name or 'NAME'}"
    return found if _NAMED.fullmatch(found) else None


def _offered(module: Any) -> list[str]:
    """The names of a module, or of a class, that may be of a pair."""
    own = getattr(module, "__name__", "")
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, Program) or (callable(value) and value.__module__ == own))
    ]


def _inside(text: str, error: BaseException) -> ValueError:
    """The error of a user's code as one line."""
    return ValueError(f"`--program`: {text} raised {_shown(error)}")


def _shown(error: BaseException, frame: traceback.FrameSummary | None = None) -> str:
    first = next(iter(str(error).splitlines()), "")
    where = frame or next(iter(traceback.extract_tb(error.__traceback__)[-1:]), None)
    at = "" if where is None else f" ({Path(where.filename).name}, line {where.lineno})"
    return f"{type(error).__name__}{': ' if first else ''}{first}{at}"


def raised_inside(error: BaseException) -> str | None:
    """Returns one line about an error that the code of an imported pair raised; None for others.

    What the package refuses while that code runs is worded by the package.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or Path(frames[-1].filename).is_relative_to(_PACKAGE):
        return None
    for frame in reversed(frames):
        path = Path(frame.filename).resolve()
        if path.is_relative_to(_PACKAGE) or "site-packages" in path.parts:
            continue
        for inside, text in _typed:
            if path.is_relative_to(inside):
                return f"`--program`: {text} raised {_shown(error, frame)}"
    return None


def load_run(folder: Path, options: Namespace) -> VAE | Program:
    """Loads the model of a run: a VAE, or the pair that ``--program`` names, with its parameters.

    Args:
        folder: The run folder.
        options: With ``program``, and perhaps ``device``.

    Raises:
        ValueError: If the run is of a pair and none was typed, or the other way round, or a file is
            damaged.
    """
    return load_runs([folder], options)[0]


def load_runs(folders: Sequence[Path], options: Namespace) -> list[VAE | Program]:
    """Loads several, each of which has parameters of its own.

    Args:
        folders: The run folders.
        options: As of :func:`load_run`; ``program`` has one pair, or one for each run of a pair,
            with commas between them.

    Raises:
        ValueError: As :func:`load_run`, or two pairs have parameters in common.
    """
    of_pairs = [_is_of_a_pair(folder) for folder in folders]
    typed = [] if options.program is None else [t.strip() for t in options.program.split(",")]
    if any(of_pairs) and not typed:
        folder = folders[of_pairs.index(True)]
        what = f"{_TAKEN}: {folder} is a run of one, and no file has its code"
        before = typed_before(folder)
        hint = "" if before is None else f"; it was fitted with --program {before}"
        raise ValueError(f"{expected('--program', what, None)}{hint}")
    if typed and len(typed) not in (1, sum(of_pairs)):
        what = f"none, as {folders[0]} is a run of a VAE" if not any(of_pairs) else "one for each"
        raise expected("--program", what, options.program)
    if typed and not any(of_pairs):
        raise expected("--program", f"none, as {folders[0]} is a run of a VAE", options.program)
    device = as_device(options.get("device"))
    names = iter(typed if len(typed) > 1 else typed * sum(of_pairs))
    found: list[VAE | Program] = []
    known: set[int] = set()
    for folder, of_a_pair in zip(folders, of_pairs, strict=True):
        if not of_a_pair:
            found.append(checkpoint.load(folder, device=device))
            continue
        text = next(names)
        program = program_of(text)
        found.append(_loaded(folder, program, text, device))
        own = {id(parameter) for parameter in program.parameters()}
        if own & known:
            what = "a function that returns a new pair each time, with networks of its own"
            raise expected("--program", what, f"{text}, whose parameters two runs would share")
        known |= own
    return found


def at_a_draw(vae: Amortized, seed: int) -> Amortized:
    """Returns what a verb looks at that takes one draw of global latents at a time, and says so."""
    if not vae.has_globals:
        return vae
    names = ", ".join(vae.structure.globals) if isinstance(vae, Program) else ""
    say(f"at one draw of {names}, which all observations share: --seed for another",
          error=True)  # fmt: skip
    return vae.fixed(1, seed)[0]


def load_vae(verb: str, folder: Path, device: torch.device | None = None) -> VAE:
    """Loads the model of a run for a verb that takes a VAE alone.

    Raises:
        ValueError: If the run is of a pair, or a file is damaged.
    """
    if _is_of_a_pair(folder):
        what = f"the run of a VAE: of a Program there is no {verb}"
        others = "evaluate, check, compare, report, anomalies, probe, encode, sample"
        raise expected("RUN", f"{what}; {others} and rate-distortion take one", str(folder))
    return checkpoint.load(folder, device=device)


def typed_before(folder: Path) -> str | None:
    """Returns what was typed when a run was fitted, to be shown and never imported."""
    with suppress(ValueError):
        recorded = recorded_config(folder).get(PAIR)
        if isinstance(recorded, str) and _NAMED.fullmatch(recorded):
            return recorded
    return None


def _is_of_a_pair(folder: Path) -> bool:
    path = folder / "model.json"
    return path.is_file() and isinstance(read_json(path).get("program"), dict)


def _loaded(folder: Path, program: Program, text: str, device: torch.device | None) -> Program:
    try:
        return checkpoint.load(folder, program=program, device=device)
    except ValueError as error:
        if raised_inside(error) is None and str(error).startswith("`program`"):
            raise ValueError(f"`--program`{str(error).removeprefix('`program`')}") from None
        raise
    except Exception as error:
        raise _inside(text, error) from error
