"""``pyro-vae select``: cross-validates whatever options of ``fit`` are given several values."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace

from pyro_vae._console import Terminal
from pyro_vae._errors import check_seed, expected
from pyro_vae._jobs import by
from pyro_vae._kept import has_fits, taken
from pyro_vae._progress import live
from pyro_vae._terminal import say
from pyro_vae.cli.fit import (
    DEFAULT_PARTS,
    build_model,
    fit_parser,
)
from pyro_vae.cli.going_on import going_on
from pyro_vae.cli.options import add_jobs
from pyro_vae.cli.parsing import ROLES, Parser, default_of, parse, parts_of, read_config, value_of
from pyro_vae.cli.runs import as_device, load_data, new_path
from pyro_vae.cli.suggested import loading, suggested
from pyro_vae.cli.tables import selection_table
from pyro_vae.cli.training import training_options
from pyro_vae.data import Dataset, load
from pyro_vae.programs import VAE
from pyro_vae.selection import combinations, select
from pyro_vae.training.recipe import SHORT_FITS

__all__ = ["run"]

_EPOCHS = 60  # of each of many fits to small data
_DEFAULTS = {name: default_of(select, name) for name in ("folds", "seeds", "num_samples")}
_FLAGS = ("json", "resume")  # without a value
_OWN = (*_FLAGS, "folds", "seeds", "jobs", "out")  # no options of a fit
# One value for all settings: what is of the data, of the machine, or of this command.
_BESIDE = ("cond", "size_factor", "covariate", "missing", "show_mask", "missingness", "split")
_OF_ALL = ("help", "config", "data_root", "binarize", "num_samples", "seed", "device")
_SINGLE = (*_OWN, *_BESIDE, *_OF_ALL)


def run(argv: list[str]) -> None:
    """Cross-validates, prints a table, and writes it with a picture.

    Raises:
        ValueError: If an option or the data are not what they should be.
    """
    typed = argv
    template, grid = _several(argv)
    path = value_of(argv, "--config")
    settings: dict[str, _Setting] = {}
    found: tuple[dict[str, Any], tuple[Dataset, dict[str, Any]]] | None = None
    for given in combinations(grid) if grid else [{}]:
        config = {} if path is None else read_config(path)
        argv = _argv(template, given)
        if found is not None:
            config["likelihood"] = found[0]
        parts = parts_of(argv, config, DEFAULT_PARTS)
        options = parse(_parser(parts), argv, config)
        if not settings and (found := suggested(argv, config, options)) is not None:
            config["likelihood"] = found[0]
            parts = parts_of(argv, config, DEFAULT_PARTS)
            options = parse(_parser(parts), argv, config)
        values = {flag: options[_key(flag)] for flag in given}
        settings[json.dumps(values)] = _Setting(values, argv, options, parts)
    if len(settings) < 2:
        raise expected("OPTION", "several values for one, as in --latent-dim 2,4,8", None)
    first = next(iter(settings.values())).options
    support = next(iter(settings.values())).parts["likelihood"].support
    check_seed("--seed", first.seed)
    if first.out is not None and Path(first.out).exists() and not first.resume:
        raise taken("--out", Path(first.out))
    default = Path("runs") / f"{Path(first.data).stem}-select"
    out = new_path(first.out, default, resume=first.resume)
    if first.split != default_of(load, "split"):
        what = "random, as the folds of a selection are drawn at random"
        raise expected("--split", what, first.split)
    data, _ = found[1] if found else load_data(support=support, **loading(first))

    def build(**values: Any) -> tuple[VAE, dict[str, Any]]:
        setting = settings[json.dumps(values)]
        vae, objective = build_model(setting.options, setting.parts, data)
        own = training_options(setting.options)
        del own["seed"]  # there is one a fit
        return vae, own | {"objective": objective}

    with going_on(out, typed, "select", has_fits), by(first.jobs):
        with live() as monitor:
            selection = select(
                build,
                data,
                [each.values for each in settings.values()],
                folds=first.folds,
                seeds=first.seeds,
                num_samples=first.num_samples,
                seed=first.seed,
                on_fit=monitor.selecting(),
                out=out,
                resume=first.resume,
                device=as_device(first.device),
            )
        from pyro_vae import report  # matplotlib and others, which a process that fits needs not

        report.choice(summary := selection.summary(), out / "selection.png")
    if first.json:
        say(json.dumps({"out": str(out)} | summary))
        return
    console = Terminal()
    console.print(selection_table(selection))
    console.print(f"{selection.seconds:.0f} s. Wrote")
    for file in sorted(out.glob("selection.*")):
        console.print(f"  {file}", soft_wrap=True)
    chosen = settings[json.dumps(selection.chosen.arguments)]
    again = shlex.join(["pyro-vae", "fit", *_of_a_fit(chosen.argv)])
    console.print(f"The choice, fitted to the training data:\n  {again}", soft_wrap=True)


class _Setting(NamedTuple):
    values: dict[str, Any]
    argv: list[str]
    options: Namespace
    parts: Mapping[str, Any]


def _parser(parts: Mapping[str, Any]) -> Parser:
    parser = fit_parser(
        parts,
        "select",
        "Cross-validates the options that are given several values with commas between them, as in "
        "--latent-dim 2,4,8 or --encoder.hidden [64],[128,128], in all combinations: each is "
        "fitted to all folds but one and scored on that one by log p(x). Test data stay untouched. "
        "Shows paired differences to the best, and the smallest model within one standard error "
        "of it.",
    )
    parser.add_argument("--folds", type=int, help="Parts that the data are cut into.")
    parser.add_argument("--seeds", type=int, help="Fits of each setting in each fold.")
    add_jobs(parser, "fits")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="Go on with a selection that was left: the same command with --resume.",
    )
    parser.set_defaults({"epochs": _EPOCHS, **_DEFAULTS, **SHORT_FITS})
    return parser


def _several(argv: Sequence[str]) -> tuple[list[tuple[str, str | None]], dict[str, list[str]]]:
    """Finds the options that are given several values.

    Returns:
        The tokens, each with the option whose value comes at its end, if it is one of these; and
        the values of these options.
    """
    template: list[tuple[str, str | None]] = []
    grid: dict[str, list[str]] = {}
    tokens = iter(argv)
    for token in tokens:
        flag, equals, value = token.partition("=")
        name = flag[2:].replace("_", "-")
        if not flag.startswith("--") or name.replace("-", "_") in _SINGLE:
            template.append((token, None))
            continue
        if not equals:
            template.append((token, None))
            value = next(tokens, "")
            if value == "":
                continue
        prefix = f"{flag}=" if equals else ""
        values = _split(value)
        if len(values) > 1:
            if name in grid:
                raise expected(flag, "to be given once", value)
            grid[name] = values
            template.append((prefix, name))
        else:
            template.append((prefix + value, None))
    return template, grid


def _split(value: str) -> list[str]:
    """Cuts at commas that are in no brackets: ``[64],[128,128]`` are two lists."""
    parts, depth = [""], 0
    for character in value:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _argv(template: Sequence[tuple[str, str | None]], chosen: Mapping[str, str]) -> list[str]:
    return [text if flag is None else text + chosen[flag] for text, flag in template]


def _key(flag: str) -> str:
    name = flag.replace("-", "_")
    return f"{name}.class" if name in ROLES else name


def _of_a_fit(argv: Sequence[str]) -> list[str]:
    """Leaves out what only this command knows."""
    kept, tokens = [], iter(argv)
    for token in tokens:
        flag, equals, _ = token.partition("=")
        if flag[2:] not in _OWN:
            kept.append(token)
        elif not equals and flag[2:] not in _FLAGS:
            next(tokens, None)
    return kept
