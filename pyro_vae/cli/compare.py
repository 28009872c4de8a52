"""``pyro-vae compare``: runs side by side on the same held-out data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro

from pyro_vae import checkpoint
from pyro_vae._console import Terminal
from pyro_vae._errors import check_seed, expected
from pyro_vae._hub import is_address
from pyro_vae._progress import live
from pyro_vae._terminal import say
from pyro_vae.cli.evaluate import add_options, load_held_out
from pyro_vae.cli.folders import run_folder
from pyro_vae.cli.parsing import Parser, parse
from pyro_vae.cli.programs import add_program, load_runs
from pyro_vae.cli.runs import new_path, recorded_config
from pyro_vae.cli.tables import comparison_tables, failures_table
from pyro_vae.criticism import check
from pyro_vae.evaluation import compare, evaluate
from pyro_vae.evaluation._common import describe
from pyro_vae.evaluation.comparison import check_comparable
from pyro_vae.report import side_by_side
from pyro_vae.report.beside import beside

__all__ = ["run"]

# A run with other values of these is another fit of the same model.
_NOT_OF_THE_MODEL = ("seed", "num_samples", "device", "compile", "data_root")


def run(argv: list[str]) -> None:
    """Scores runs on the same data and prints their differences; writes a picture if asked.

    Raises:
        ValueError: If an option or a run is not what it should be, or two have no common scale.
    """
    parser = _parser()
    options = parse(parser, argv)
    for option, suffix in (("out", ".png"), ("html", ".html")):
        path = getattr(options, option)
        if path is not None and new_path(path, Path()).suffix != suffix:
            raise expected(f"--{option}", f"a file that ends in {suffix}", path)
    checked = options.checks or options.html is not None
    check_seed("--seed", options.seed)
    folders = _folders(options.runs)
    groups = _fits_of_one_model(folders)
    loaded = load_runs(list(folders.values()), options)
    models, held_out = dict(zip(folders, loaded, strict=True)), {}
    copies: dict[str, list[str]] = {}
    for name, folder in folders.items():
        rows, measure, said = load_held_out(folder, models[name], options)
        held_out[name] = rows, measure
        copies.setdefault(said, []).append(name)
    measures = {
        name: describe(models[name], rows, measure) for name, (rows, measure) in held_out.items()
    }
    refused = ""
    try:
        check_comparable(measures, "RUN")
    except ValueError as error:
        if not checked:
            raise ValueError(f"{error}; what each does not reproduce can be: --checks") from None
        refused = str(error)
    scores, checks = {}, {}
    with live() as monitor:
        for name, (rows, measure) in held_out.items():
            known = {"seed": options.seed, "base_measure": measure}
            if not refused:
                progress = monitor.evaluating(Path(name).name)
                scores[name] = evaluate(
                    models[name],
                    rows.x,
                    num_samples=options.num_samples,
                    progress=progress,
                    **known,
                    **rows.given,
                )
            if checked:
                progress = monitor.evaluating(f"check {Path(name).name}")
                checks[name] = check(models[name], rows.x, progress=progress, **known, **rows.given)
    comparison = None if refused else compare(scores, groups=groups)
    if comparison is not None:  # all that is shown is in one order
        ranked = [each.name for each in comparison.runs]
        held_out = {name: held_out[name] for name in ranked}
        checks = {name: checks[name] for name in ranked if name in checks}
    if options.out is not None:
        pyro.set_rng_seed(options.seed)
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        shown = {name: (models[name], rows) for name, (rows, _) in held_out.items()}
        side_by_side(shown, options.out, found=checks or None)
    if options.html is not None:
        content = beside(
            {name: (models[name], rows) for name, (rows, _) in held_out.items()},
            comparison, checks, refused=refused, seed=options.seed,
        )  # fmt: skip
        Path(options.html).parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_bytes(Path(options.html), content.encode())
    for said, names in copies.items():
        if said:
            say(f"{', '.join(names)}: {said}", error=True)
    if options.json:
        result: dict[str, Any] = (
            {"refused": refused} if comparison is None else comparison.summary()
        )
        if options.out is not None:
            result["out"] = options.out
        if options.html is not None:
            result["html"] = options.html
        if checks:
            result["checks"] = {name: found.summary() for name, found in checks.items()}
        say(json.dumps(result))
        return
    console = Terminal()
    if comparison is None:
        console.print(f"log p(x) is not compared: {refused}")
    else:
        for table in comparison_tables(comparison):
            console.print(table)
        for note in comparison.notes:
            console.print(note)
    if checks:
        console.print(failures_table(checks))
    for written in (options.out, options.html):
        if written is not None:
            console.print(f"Wrote {written}", soft_wrap=True)


def _parser() -> Parser:
    parser = Parser(
        "compare",
        "RUN RUN ...",
        "Ranks runs by log p(x) of the same held-out data, in nats per observation: paired "
        "differences to the best, with their standard errors. Runs that differ in nothing but "
        "their seed are also taken together, to show the spread over seeds. Refuses runs whose "
        "log p(x) are densities of different things.",
    )
    parser.add_argument(
        "runs", type=str, nargs="+", help="Folders that pyro-vae fit wrote, or hf://owner/name."
    )
    add_options(parser)
    parser.add_argument(
        "--checks",
        action="store_true",
        help="Also what each run does not reproduce, which can be compared between any runs.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        help="A .png file for a picture: data, draws and, with --checks, what failed, run by run.",
    )
    parser.add_argument(
        "--html",
        type=str | None,
        help="An .html file for a page: scores, checks and draws side by side.",
    )
    add_program(parser, "; of several pairs, one for each such run, with commas between")
    return parser


def _folders(given: list[str]) -> dict[str, Path]:
    """The run folders by what to call them."""
    if len(given) < 2:
        raise expected("RUN", "at least two runs to compare", given)
    found: dict[Path, str] = {}
    for text in given:
        name = text if is_address(text) else str(Path(text))
        path = run_folder(text).resolve()
        if path in found:
            raise expected("RUN", "each run once", f"{found[path]} and {name}")
        found[path] = name
    return {name: path if is_address(name) else Path(name) for path, name in found.items()}


def _fits_of_one_model(folders: Mapping[str, Path]) -> dict[str, str]:
    """For each run that another one repeats with its own seed, the first such run."""
    first: dict[str, str] = {}
    seeds: dict[str, set[Any]] = {}
    groups = {}
    for name, folder in folders.items():
        config = _config(folder)
        if config is None:
            continue
        seed = repr(config.get("seed"))  # of whatever type the file has
        key = repr({k: v for k, v in sorted(config.items()) if k not in _NOT_OF_THE_MODEL})
        if seed in seeds.setdefault(key, set()):
            continue  # the same fit once more shows nothing of seeds
        seeds[key].add(seed)
        groups[name] = first.setdefault(key, name)
    return groups


def _config(folder: Path) -> dict[str, Any] | None:
    """The options of a run; None where it has no record of them."""
    return recorded_config(folder) if (folder / "config.yaml").exists() else None
