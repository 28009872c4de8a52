"""``pyro-vae evaluate``: the scores of a run on held-out data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from pyro_vae._console import Terminal
from pyro_vae._errors import expected
from pyro_vae._progress import live
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import add_data, data_of, held_out, training_copies
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import add_program, at_a_draw, load_run
from pyro_vae.cli.tables import scores_table
from pyro_vae.data.dataset import Split
from pyro_vae.data.rows import Rows
from pyro_vae.engine.processes import all_processes
from pyro_vae.evaluation import ais, evaluate, gaps
from pyro_vae.evaluation._memory import as_bytes
from pyro_vae.programs import Amortized

__all__ = ["add_options", "load_held_out", "run"]


def run(argv: list[str]) -> None:
    """Scores a run and prints what came out; nothing is written.

    Raises:
        ValueError: If an option, the run or its data are not what they should be.
    """
    parser = Parser("evaluate", "RUN", "Scores a run on held-out data, in nats per observation.")
    parser.add_argument("run", type=str, help=RUN)
    add_options(parser)
    parser.add_argument(
        "--proposal",
        type=Literal["auto", "guide", "defensive"],
        default=default_of(evaluate, "proposal"),
        help="Where z is drawn: guide, or defensive, a mixture of guide and prior; auto sums a "
        "discrete latent of few states.",
    )
    parser.add_argument(
        "--smooth",
        action="store_true",
        help="Smooth the largest weights by a Pareto distribution; where k-hat is high, --proposal "
        "defensive helps more.",
    )
    parser.add_argument(
        "--max_memory", type=str | None, help="For the draws, such as 512MiB; little if none."
    )
    parser.add_argument(
        "--num_globals",
        type=int,
        default=default_of(evaluate, "num_globals"),
        help="Of a Program with latents that all observations share, draws of these to average "
        "over.",
    )
    parser.add_argument(
        "--ais", action="store_true", help="Also by annealed importance sampling: minutes."
    )
    parser.add_argument(
        "--num_chains",
        type=int,
        default=default_of(ais, "num_chains"),
        help="Chains per observation, for --ais.",
    )
    parser.add_argument(
        "--num_temperatures",
        type=int,
        default=default_of(ais, "num_temperatures"),
        help="For --ais.",
    )
    parser.add_argument(
        "--gaps",
        action="store_true",
        help="Also both gaps between log p(x) and the ELBO, log p(x) from --ais if given: minutes.",
    )
    add_program(parser)
    options = parse(parser, argv)
    for name in ("ais", "gaps"):
        if options[name] and (several := all_processes().count) > 1:
            what = f"none in {several} processes, which share scores alone"
            raise expected(f"--{name}", what, True)
    limit = options.max_memory
    max_memory = None if limit is None else as_bytes(limit, "--max-memory")
    folder = run_folder(options.run)
    vae = load_run(folder, options)
    rows, measure, copies = load_held_out(folder, vae, options)
    with live() as monitor:
        scores = evaluate(
            vae,
            rows.x,
            num_samples=options.num_samples,
            proposal=options.proposal,
            smooth=options.smooth,
            max_memory=max_memory,
            seed=options.seed,
            base_measure=measure,
            progress=monitor.evaluating(),
            num_globals=options.num_globals,
            **rows.given,
        )
        known: dict[str, Any] = {"seed": options.seed, "base_measure": measure}
        summary = scores.summary()
        summary["notes"] += [copies] if copies else []
        estimate: dict[str, Any] = {}
        one = at_a_draw(vae, options.seed) if options.ais or options.gaps else vae
        if options.ais:
            annealed = ais(
                one,
                rows.x,
                num_chains=options.num_chains,
                num_temperatures=options.num_temperatures,
                progress=monitor.evaluating("anneal"),
                **known,
                **rows.given,
            )
            estimate = {"log_marginal": annealed.log_marginal, "mcse": annealed.mcse}
            summary["ais"] = annealed.summary()
        if options.gaps:
            progress = monitor.evaluating("gaps")
            found = gaps(one, rows.x, **estimate, **known, **rows.given, progress=progress)
            summary["gaps"] = found.summary()
    if options.json:
        say(json.dumps(summary))
    else:
        console = Terminal()
        console.print(scores_table(summary, len(rows)))
        for note in summary["notes"]:
            console.print(note)


def add_options(parser: Parser) -> None:
    """Adds the options of which data to score, and how."""
    parser.add_argument("--split", type=Split, default="test", help="Which data to score.")
    parser.add_argument(
        "--max_data", type=int | None, help="Score a random subset of so many, always the same."
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        default=default_of(evaluate, "num_samples"),
        help="Importance samples for each observation.",
    )
    parser.add_argument(
        "--seed", type=int, default=default_of(evaluate, "seed"), help="Of the draws."
    )
    add_data(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")


def load_held_out(
    folder: Path, vae: Amortized, options: Namespace
) -> tuple[Rows, dict[str, Any], str]:
    """Returns the data of a run that the options ask for, their base measure, and a sentence.

    The sentence is about those of them that equal training data; it is empty if there are none.
    """
    data, own = data_of(folder, vae, options.split, options)
    rows, measure = held_out(data, options.split, options.max_data)
    _, said = training_copies(folder, data, options.split, own=own, root=options.data_root)
    return rows, measure, said
