"""``pyro-vae select``: cross-validates whatever options of ``fit`` are given several values."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from jsonargparse import Namespace

from pyro_vae._console import Terminal
from pyro_vae._errors import check_seed, expected, is_number
from pyro_vae._jobs import by
from pyro_vae._kept import has_fits, taken
from pyro_vae._progress import live
from pyro_vae._search import package
from pyro_vae._terminal import say
from pyro_vae.checkpoint import write_bytes
from pyro_vae.cli.fit import (
    DEFAULT_PARTS,
    build_model,
    fit_parser,
)
from pyro_vae.cli.going_on import going_on
from pyro_vae.cli.options import add_jobs
from pyro_vae.cli.parsing import (
    ROLES,
    Parser,
    default_of,
    parse,
    parts_of,
    read_config,
    read_yaml,
    value_of,
)
from pyro_vae.cli.runs import READING, as_device, load_data, new_path
from pyro_vae.cli.suggested import OF_FILES, encoder_of_text, loading, suggested
from pyro_vae.cli.tables import selection_table
from pyro_vae.cli.training import training_options
from pyro_vae.data import Dataset, load
from pyro_vae.programs import VAE
from pyro_vae.selection import combinations, select
from pyro_vae.training.recipe import SHORT_FITS

__all__ = ["run"]

_EPOCHS = 60  # of each of many fits to small data
_ARGUMENTS = ("search", "trials", "folds", "seeds", "num_samples")
_DEFAULTS = {name: default_of(select, name) for name in _ARGUMENTS}
_FLAGS = ("json", "resume")  # without a value
# None ends in a point, so that of three points the last is of the second number.
_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_OWN = (*_FLAGS, "search", "trials", "folds", "seeds", "jobs", "out")  # no options of a fit
# One value for all settings: what is of the data, of the machine, or of this command.
_BESIDE = (
    "cond", "size_factor", "covariate", "missing", "show_mask", "missingness", "split", "group",
    "time", "pivot", *OF_FILES, "schema", "kind", "drop", "label", *READING, "trainable",
)  # fmt: skip
_OF_ALL = ("help", "config", "data_root", "binarize", "num_samples", "seed", "device")
_SINGLE = (*_OWN, *_BESIDE, *_OF_ALL)


def run(argv: list[str]) -> None:
    """Cross-validates, prints a table, and writes it with a picture.

    Raises:
        ValueError: If an option or the data are not what they should be.
    """
    settings = _Settings(argv)
    grid: Any = settings.space() if settings.search else settings.all()
    first, parts = settings.first.options, settings.first.parts
    check_seed("--seed", first.seed)
    if first.out is not None and Path(first.out).exists() and not first.resume:
        raise taken("--out", Path(first.out))
    default = Path("runs") / f"{Path(first.data).stem}-select"
    out = new_path(first.out, default, resume=first.resume)
    if first.split != default_of(load, "split"):
        what = "random, as the folds of a selection are drawn at random"
        raise expected("--split", what, first.split)
    data = settings.data
    if data is None:
        data, _ = load_data(support=parts["likelihood"].support, **loading(first))

    def build(**values: Any) -> tuple[VAE, dict[str, Any]]:
        setting = settings.of(values)
        vae, objective = build_model(setting.options, setting.parts, data)
        own = training_options(setting.options)
        del own["seed"]  # there is one a fit
        return vae, own | {"objective": objective}

    with going_on(out, argv, "select", has_fits), by(first.jobs):
        with live() as monitor:
            selection = select(
                build,
                data,
                grid,
                search=first.search,
                trials=first.trials,
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
    again = _of_a_fit(settings.of(selection.chosen.arguments).argv, settings.rest_of_config(out))
    console = Terminal()
    console.print(selection_table(selection))
    console.print(f"{selection.seconds:.0f} s. Wrote")
    for file in sorted(out.glob("selection.*")):
        console.print(f"  {file}", soft_wrap=True)
    command = shlex.join(["pyro-vae", "fit", *again])
    console.print(f"The choice, fitted to the training data:\n  {command}", soft_wrap=True)


class _Setting(NamedTuple):
    values: dict[str, Any]
    argv: list[str]
    options: Namespace
    parts: Mapping[str, Any]


class _Settings:
    """The settings that a command asks for, each parsed once.

    Args:
        argv: What was typed.

    Attributes:
        first: The first one.
        data: What was loaded to see which likelihood suits it; None if nothing was.

    Raises:
        ValueError: If an option is given several values in a way that is not known.
    """

    first: _Setting

    def __init__(self, argv: Sequence[str]) -> None:
        self._path = value_of(argv, "--config")
        config = self._config()
        self.search = value_of(argv, "--search") or config.get("search")
        self._template, self._texts = _several(argv, ranges=self.search is not None)
        self._likelihood: dict[str, Any] | None = None
        self._known: dict[str, _Setting] = {}
        self._typed: dict[str, dict[str, str]] = {flag: {} for flag in self._texts}
        self.data: Dataset | None = None

    def all(self) -> list[dict[str, Any]]:
        """Returns all combinations, what is the same once.

        Raises:
            ValueError: If there are not two, or one is not what it should be.
        """
        for given in combinations(self._texts) if self._texts else [{}]:
            self._parsed(given)
        if len(self._known) < 2:
            raise expected("OPTION", "several values for one, as in --latent-dim 2,4,8", None)
        return [setting.values for setting in self._known.values()]

    def space(self) -> dict[str, Any]:
        """Returns what a search chooses from, by option: lists, and distributions of Optuna.

        Raises:
            ValueError: If there is nothing to choose from, or a value is not what it should be.
        """
        first = {flag: texts[0] for flag, texts in self._texts.items()}
        self._parsed(first)
        space: dict[str, Any] = {}
        for flag, texts in self._texts.items():
            for text in texts:
                value = self._parsed(first | {flag: text}).values[flag]
                self._typed[flag].setdefault(json.dumps(value), text)
            values = [json.loads(value) for value in self._typed[flag]]
            is_range = isinstance(texts, _Range)
            space[flag] = _distribution(flag, values[0], values[-1]) if is_range else values
        if not any(isinstance(self._texts[flag], _Range) or len(space[flag]) > 1 for flag in space):
            what = "several values for one, as in --latent-dim 2,4,8, or a range, as in 2..32"
            raise expected("OPTION", what, None)
        return space

    def of(self, values: Mapping[str, Any]) -> _Setting:
        """Returns the setting of values, as they were parsed or proposed."""
        key = json.dumps(values)
        if key not in self._known:
            written = {flag: json.dumps(value) for flag, value in values.items()}
            texts = {flag: self._typed[flag].get(text, text) for flag, text in written.items()}
            self._known[key] = self._parsed(texts)
        return self._known[key]

    def rest_of_config(self, folder: Path) -> str | None:
        """Returns a file of the options of ``--config`` that ``fit`` knows, written if need be."""
        if self._path is None or self._config().keys().isdisjoint(_OWN):
            return self._path
        content = read_yaml("--config", Path(self._path))
        kept = {name: value for name, value in content.items() if name not in _OWN}
        path = folder / "selection.yaml"
        write_bytes(path, yaml.safe_dump(kept, sort_keys=False).encode())
        return str(path)

    def _config(self) -> dict[str, Any]:
        return {} if self._path is None else read_config(self._path)

    def _parsed(self, given: Mapping[str, str]) -> _Setting:
        """Returns the setting of texts; the first has the likelihood suggested for all."""
        argv, config = _argv(self._template, given), self._config()
        if self._likelihood is not None:
            config["likelihood"] = self._likelihood
            config |= encoder_of_text(argv, config, self.data)
        parts = parts_of(argv, config, DEFAULT_PARTS)
        options = parse(_parser(parts), argv, config)
        is_first = not hasattr(self, "first")
        if is_first and (found := suggested(argv, config, options)) is not None:
            self._likelihood, (self.data, _) = found
            config["likelihood"] = self._likelihood
            if own := encoder_of_text(argv, config, self.data):
                say(
                    "--encoder SequenceEncoder: it suits the data, and none was asked for",
                    error=True,
                )
            config |= own
            parts = parts_of(argv, config, DEFAULT_PARTS)
            options = parse(_parser(parts), argv, config)
        setting = _Setting({flag: options[_key(flag)] for flag in given}, argv, options, parts)
        if is_first:
            self.first = setting
        return self._known.setdefault(json.dumps(setting.values), setting)


class _Range(list[str]):
    """The ends of a range, as they were typed."""


def _distribution(flag: str, low: Any, high: Any) -> Any:
    """Returns how a search draws from a range: evenly, of positive numbers by their logarithms.

    Raises:
        ValueError: If its ends are no numbers, or not in order.
    """
    ends = [low, high]
    if not all(is_number(end) and math.isfinite(end) for end in ends):
        raise expected(f"--{flag}", "values, as it has no ranges of numbers", ends)
    if not low < high:
        raise expected(f"--{flag}", "a range from a lower to a higher number", ends)
    kinds = package("--search").distributions
    whole = all(isinstance(end, int) for end in ends)
    kind = kinds.IntDistribution if whole else kinds.FloatDistribution
    return kind(low, high, log=low > 0)


def _parser(parts: Mapping[str, Any]) -> Parser:
    parser = fit_parser(
        parts,
        "select",
        "Cross-validates options with several values, as in --latent-dim 2,4,8, in all "
        "combinations, by log p(x) of the fold that each fit leaves out. Test data stay untouched. "
        "Shows paired differences to the best, and the smallest model within one standard error "
        "of it.",
    )
    parser.add_argument(
        "--search",
        type=Literal["optuna"] | None,
        help="Propose what to try, of ranges such as 2..32, too. Optuna's sampler goes by how good "
        "the combinations before were. It draws from a range evenly, and where all of it is "
        "positive by logarithms. Needs optuna, by pip install 'pyro-vae[optuna]'.",
    )
    parser.add_argument(
        "--trials",
        type=int | None,
        help="How many combinations a search proposes. One that comes again is not fitted again.",
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


def _several(
    argv: Sequence[str], *, ranges: bool
) -> tuple[list[tuple[str, str | None]], dict[str, list[str]]]:
    """Finds the options that are given several values.

    Args:
        argv: What was typed.
        ranges: Whether a range of numbers is several, too.

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
        values = _values(flag, value, ranges=ranges)
        if len(values) > 1:
            if name in grid:
                raise expected(flag, "to be given once", value)
            grid[name] = values
            template.append((prefix, name))
        else:
            template.append((prefix + value, None))
    return template, grid


def _values(flag: str, value: str, *, ranges: bool) -> list[str]:
    values = _split(value)
    found = [match for each in values if (match := _RANGE.fullmatch(each)) is not None]
    if not found:
        return values
    if not ranges:
        raise expected(
            flag, "values with commas between them, or --search optuna for a range", value
        )
    if len(values) > 1:
        raise expected(flag, "either values with commas between them or one range", value)
    return _Range(found[0].groups())


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


def _of_a_fit(argv: Sequence[str], config: str | None) -> list[str]:
    """Leaves out what only this command knows; options of a file come from ``config``."""
    kept, tokens = [], iter(argv)
    for token in tokens:
        flag, equals, _ = token.partition("=")
        if flag[2:] not in (*_OWN, "config"):
            kept.append(token)
            continue
        if not equals and flag[2:] not in _FLAGS:
            next(tokens, None)
        if flag == "--config":
            kept += [flag, str(config)]
    return kept
