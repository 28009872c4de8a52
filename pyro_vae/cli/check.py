"""``pyro-vae check``: what a run does not reproduce of held-out data, and is its guide right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from pyro_vae._console import Terminal
from pyro_vae._errors import expected
from pyro_vae._jobs import by
from pyro_vae._progress import live
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import add_data, data_of, only_condition, say_copies
from pyro_vae.cli.options import add_jobs
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import add_program, at_a_draw, load_run
from pyro_vae.cli.runs import recorded_data
from pyro_vae.cli.tables import checks_table
from pyro_vae.criticism import calibrate, check
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import Split
from pyro_vae.programs import VAE, Program
from pyro_vae.training.run import Run

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Checks a model and its guide and prints a verdict on either; nothing is written.

    Each verdict has a correction for many tests of its own: a guide that is wrong does not make it
    harder to reject the model, nor does it count against the model.

    Returns:
        1 if ``--strict`` was given and a check failed of what it names, else 0.

    Raises:
        ValueError: If an option, the run or its data are not what they should be.
    """
    parser = Parser(
        "check",
        "RUN",
        "Compares held-out data with what a run simulates, and its guide with the posterior.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument("--split", type=Split, default="test", help="Which data to look at.")
    parser.add_argument(
        "--strict",
        type=Literal["model", "guide", "all"] | None,
        help="Exit with 1 if a check of the model fails; --strict=guide: of the guide; "
        "--strict=all: of either.",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=default_of(check, "level"),
        help="Chance of any false alarm, for each verdict.",
    )
    parser.add_argument(
        "--num_draws",
        type=int | None,
        help="Simulated data sets; if not given as many as the correction for many tests needs.",
    )
    parser.add_argument(
        "--max_data",
        type=int,
        default=default_of(check, "max_data"),
        help="Of more data, so many at random are looked at.",
    )
    parser.add_argument(
        "--cond",
        type=str | None,
        help="Of a run with conditions: look at data of this one alone, such as 3 or setosa.",
    )
    parser.add_argument("--seed", type=int, default=default_of(check, "seed"), help="Of the draws.")
    parser.add_argument(
        "--refits",
        type=int | None,
        help="Refit the run to so many simulated data sets, each for a quarter of its epochs, of "
        "1,000 steps at least, but never more epochs than its own, to tell failures that the error "
        "of a fit explains from those that the family is wrong for.",
    )
    add_jobs(parser, "refits")
    add_data(parser)
    add_program(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument(
        "--all", action="store_true", help="Show every check, not those alone that failed."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")
    # Alone it is about the model: what follows it is the run, or an option.
    options = parse(parser, ["--strict=model" if each == "--strict" else each for each in argv])
    folder = run_folder(options.run)
    vae = load_run(folder, options)
    data, own = data_of(folder, vae, options.split, options)
    known = _refits(folder, vae, data if own else None, options)
    data = only_condition(folder, vae, data, options.split, options.cond)
    rows = vae.uses(data.rows(options.split))
    if len(rows) == 0:
        raise expected("--split", f"a split that {data.name} has", options.split)
    with by(options.jobs), live() as monitor:
        checks = check(
            vae,
            rows,
            num_draws=options.num_draws,
            level=options.level,
            seed=options.seed,
            max_data=options.max_data,
            progress=monitor.evaluating("check"),
            **known,
        )
        calibration = calibrate(
            at_a_draw(vae, options.seed),
            level=options.level,
            seed=options.seed,
            progress=monitor.evaluating("calibrate"),
            **rows.given,
        )
    say_copies(folder, data, options.split, own=own, root=options.data_root)
    if options.json:
        say(json.dumps(checks.summary() | {"calibration": calibration.summary()}))
    else:
        Terminal().print(checks_table(checks, calibration, everything=options.all))
    failed = {"model": checks.num_failed, "guide": calibration.num_failed}
    failed["all"] = sum(failed.values())
    return int(options.strict is not None and failed[options.strict] > 0)


def _refits(
    folder: Path, vae: VAE | Program, data: Dataset | None, options: Namespace
) -> dict[str, Any]:
    """Returns how `check` refits the run, if it is to, and what the run was fitted to.

    Args:
        folder: The run folder.
        vae: Its model.
        data: Its data, or None if others are looked at.
        options: Those of the command.
    """
    if options.refits is None:
        return {}
    if data is None:
        data = recorded_data(folder, "train", None, options.data_root)
    train = vae.uses(data.rows("train"))
    return {"refit": Run.read(vae, folder).refit, "refits": options.refits, "train": train}
