"""``pyro-vae report``: one HTML page about a run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from pyro_vae import checkpoint
from pyro_vae._errors import check_seed, expected, plural, positive_integer
from pyro_vae._progress import live
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, beside, run_folder
from pyro_vae.cli.new_data import add_data, data_of, only_condition, training_copies
from pyro_vae.cli.parsing import Parser, classes, default_of, parse
from pyro_vae.cli.programs import add_program, at_a_draw, load_run
from pyro_vae.cli.runs import (
    new_path,
    recorded_config,
    recorded_scores,
)
from pyro_vae.cli.scores_by_row import recorded_by_row
from pyro_vae.evaluation.scores import EXACT
from pyro_vae.programs import Amortized
from pyro_vae.report import held_out, page
from pyro_vae.training import read_engine, read_history

__all__ = ["run"]

_SETTINGS = ("epochs", "batch_size", "lr", "schedule", "weight_decay", "seed", "compile")


def run(argv: list[str]) -> None:
    """Writes one self-contained HTML page.

    Raises:
        ValueError: If an option, the run, its data or the file are not what they should be.
    """
    began = time.perf_counter()
    parser = Parser("report", "RUN", "Writes one HTML page about a run, which needs no network.")
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument(
        "--out",
        type=str | None,
        help="The file to write; RUN/report.html, or the next free one, if not given; of a run on "
        "the Hub in this folder.",
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        default=default_of(page, "num_samples"),
        help="Importance samples for each observation.",
    )
    parser.add_argument(
        "--num_draws",
        type=int | None,
        help="Simulated data sets of the checks; if not given as many as they need.",
    )
    parser.add_argument(
        "--cond",
        type=str | None,
        help="Of a run with conditions: look at data of this one alone, such as 3 or setosa.",
    )
    parser.add_argument("--seed", type=int, default=default_of(page, "seed"), help="Of all draws.")
    add_data(parser)
    add_program(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parse(parser, argv)
    positive_integer("--num-samples", options.num_samples)
    check_seed("--seed", options.seed)
    folder = run_folder(options.run)
    vae: Amortized = load_run(folder, options)
    out = new_path(options.out, beside(options.run, folder) / "report.html")
    summary = recorded_scores(folder)
    history = read_history(folder / "history.json")
    engine = read_engine(folder / "engine.json")
    config = recorded_config(folder)
    try:
        settings = _settings(config, engine, vae)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise expected(str(folder / "config.yaml"), "the options of fit", reason) from None
    split = summary["base_measure"]["split"]
    data, own = data_of(folder, vae, split, options)
    split = split if own else held_out(data)
    data = only_condition(folder, vae, data, split, options.cond)
    copies, said = training_copies(folder, data, split, own=own, root=options.data_root)
    known = own and options.cond is None
    as_many = summary["num_samples"] == options.num_samples or summary.get("estimator") == EXACT
    scores = None
    if known and as_many:  # as many draws again would take long, and say the same
        scores = recorded_by_row(folder, summary, len(data.split(split)))
    vae = at_a_draw(vae, options.seed)
    with live() as monitor:
        content = page(
            vae,
            data,
            history=history,
            summary=summary if known else None,
            scores=scores,
            settings=settings,
            name=folder.resolve().name,
            num_samples=options.num_samples,
            num_draws=options.num_draws,
            copies=copies,
            seed=options.seed,
            progress=monitor.evaluating("report"),
        )
    if said:
        say(said, error=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(out, content.encode())
    written = {"out": str(out), "bytes": out.stat().st_size, "seconds": time.perf_counter() - began}
    say(json.dumps(written) if options.json else f"Wrote {out}")


def _settings(
    config: Mapping[str, Any], engine: Mapping[str, Any], vae: Amortized
) -> Mapping[str, object]:
    """How the run was fitted, as its config and its record of the engine have it."""
    chosen = dict(config["objective"])
    name = chosen.pop("class")
    arguments = ", ".join(f"{key}={value}" for key, value in chosen.items())
    bounds = classes("objective")[name](**chosen).bounds(vae.guide)
    warning = "" if bounds else ", whose value is not a bound of log p(x)"
    return {
        "objective": f"objectives.{name}({arguments}){warning}",
        "training": ", ".join(f"{name}={config[name]}" for name in _SETTINGS if name in config),
        "engine": ", ".join(f"{name}: {plural(steps, 'step')}" for name, steps in engine.items()),
    }
