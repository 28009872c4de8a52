"""``pyro-vae rate-distortion``: the bound taken apart, and what of its rate is information."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from pyro_vae._console import Terminal
from pyro_vae._progress import live
from pyro_vae._terminal import say
from pyro_vae.cli.evaluate import load_held_out
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import add_data
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import add_program, at_a_draw, load_run
from pyro_vae.data.dataset import Split
from pyro_vae.evaluation import rate_distortion
from pyro_vae.programs import Amortized

__all__ = ["run"]

_LINES = {
    "distortion": "distortion, -E log p(x|z)",
    "rate": "rate, KL(q(z|x) || p(z))",
    "mutual_information": "information I(x; z), lower",
    "mutual_information_upper": "information I(x; z), upper",
    "marginal_kl": "KL(q(z) || p(z))",
}


def run(argv: list[str]) -> None:
    """Takes the ELBO of a run apart, and prints what came out; nothing is written.

    Raises:
        ValueError: If an option, the run or its data are not what they should be.
    """
    parser = Parser(
        "rate-distortion",
        "RUN",
        "Takes the ELBO of held-out data apart: distortion, rate, and how much of the rate is "
        "information about x, in nats per observation.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument("--split", type=Split, default="test", help="Which data to look at.")
    parser.add_argument(
        "--max_data", type=int | None, help="Look at a random subset of so many, always the same."
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        default=default_of(rate_distortion, "num_samples"),
        help="Draws of z for each observation.",
    )
    parser.add_argument(
        "--seed", type=int, default=default_of(rate_distortion, "seed"), help="Of the draws."
    )
    add_data(parser)
    add_program(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")
    options = parse(parser, argv)
    folder = run_folder(options.run)
    vae: Amortized = load_run(folder, options)
    rows, measure, copies = load_held_out(folder, vae, options)
    vae = at_a_draw(vae, options.seed)
    with live() as monitor:
        found = rate_distortion(
            vae,
            rows.x,
            num_samples=options.num_samples,
            seed=options.seed,
            base_measure=measure,
            progress=monitor.evaluating("rate-distortion"),
            **rows.given,
        )
    if copies:
        say(copies, error=True)
    summary = found.summary()
    if options.json:
        say(json.dumps(summary))
    else:
        Terminal().print(_table(summary, len(rows)))


def _table(summary: Mapping[str, Any], size: int) -> Table:
    """The parts of the bound, and their errors over data."""
    measure = summary["base_measure"]
    table = Table(
        title=f"{size:,} {measure['split']} observations of {measure['data']}",
        caption=f"nats per observation; log N is {summary['largest_mutual_information']:.2f}, more "
        "information than that cannot be seen",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("± over data", justify="right")
    table.add_row("ELBO", f"{summary['elbo']:.2f}", "")
    for name, what in _LINES.items():
        table.add_row(what, f"{summary[name]:.2f}", f"{summary[f'{name}_standard_error']:.2f}")
    if "bits_per_dim" in summary:
        table.add_row("bits per dimension", f"{summary['bits_per_dim']:.3f}", "")
    table.add_row("active latent units", str(summary["active_units"]), "")
    return table
