"""``pyro-vae anomalies``: rows by how unlikely they are, or another score, among held-out ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from rich import box
from rich.table import Table

from pyro_vae import checkpoint
from pyro_vae._console import Terminal
from pyro_vae._errors import expected, plural, positive_integer
from pyro_vae._progress import live
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import add_data, data_of, recorded_like, say_copies
from pyro_vae.cli.options import add_safe
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import add_program, load_run, load_runs
from pyro_vae.cli.runs import new_path, recorded_data
from pyro_vae.cli.table_files import TABLES, content_of, names_of_rows
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import Split
from pyro_vae.evaluation import Outliers, outliers
from pyro_vae.evaluation.outliers import OutlierScore
from pyro_vae.programs import Amortized

__all__ = ["run"]

_TOP = 10  # rows that are shown
_NAMES = 3  # columns that name a row
_WRITTEN = {"log_marginal": "surprise"}  # what columns are called that have another sign or name


def run(argv: list[str]) -> None:
    """Ranks rows by -log p(x), or another score.

    Raises:
        ValueError: If an option, the run, the data or the file are not what they should be.
    """
    parser = Parser(
        "anomalies",
        "RUN",
        "Ranks rows by -log p(x), or another score, with a p-value of each among the held-out data "
        "of the run: those of --data, or these themselves.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument(
        "--split", type=Split, default="test", help="Which data of the run are the held-out ones."
    )
    parser.add_argument(
        "--out",
        type=str | None,
        help="A .csv or .parquet file to write all rows to, the most unlikely first.",
    )
    parser.add_argument(
        "--score",
        type=OutlierScore,
        default=default_of(outliers, "score"),
        help="What ranks: -log p(x); typicality, how far log p(x) is from its mean; distortion and "
        "rate, the parts of the ELBO; ratio, to --background. All are in the file of --out.",
    )
    parser.add_argument(
        "--background",
        type=str | None,
        help="A run of the same columns, such as one of mixed-up rows, for the ratio.",
    )
    parser.add_argument("--top", type=int, default=_TOP, help="How many rows to show.")
    parser.add_argument(
        "--num_samples",
        type=int,
        default=default_of(outliers, "num_samples"),
        help="Importance samples for each observation.",
    )
    parser.add_argument(
        "--seed", type=int, default=default_of(outliers, "seed"), help="Of the draws."
    )
    add_safe(parser)
    add_data(parser)
    add_program(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")
    options = parse(parser, argv)
    positive_integer("--top", options.top)
    if options.out is not None and Path(options.out).suffix not in TABLES:
        raise expected("--out", f"a file that ends in {' or '.join(TABLES)}", options.out)
    out = None if options.out is None else new_path(options.out, Path())
    folder = run_folder(options.run)
    vae, background = _models(folder, options)
    like = recorded_like(folder, vae)
    data, own = data_of(folder, vae, options.split, options)
    split: Split = options.split if own else "test"
    rows = vae.uses(data.rows(split))
    if len(rows) == 0:
        raise expected("--split", f"a split that {data.name} has", split)
    held_out = None
    if not own:
        held_out = vae.uses(
            recorded_data(folder, options.split, None, options.data_root).rows(options.split)
        )
    if options.split == "train":
        say("the model has seen the training data: their p-values are no chances", error=True)
    if rows.mask is not None:
        say(
            "rows lack entries: log p(x) is of those that are observed, more for fewer of them",
            error=True,
        )
    with live() as monitor:
        found = outliers(
            vae,
            rows,
            reference=held_out,
            score=options.score,
            background=background,
            num_samples=options.num_samples,
            seed=options.seed,
            progress=monitor.evaluating("anomalies"),
        )
    say_copies(folder, data, split, own=own, root=options.data_root)
    named = names_of_rows(folder, data, like, options.data, split)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        content = content_of(_ranked(found, named), out.suffix, safe=options.safe)
        checkpoint.write_bytes(out, content)
    top = _ranked(found, named).head(options.top)
    if options.json:
        lines = json.loads(top.to_json(orient="records", date_format="iso"))
        say(json.dumps(found.summary() | {"rows": lines, "out": None if out is None else str(out)}))
        return
    Terminal().print(_table(found, top, data.name))
    if out is not None:
        say(f"Wrote {out}")


def _models(folder: Path, options: Namespace) -> tuple[Amortized, Amortized | None]:
    """Loads the model, and that of the background if there is to be one.

    Raises:
        ValueError: If the background is no run, or of other columns, or is needed and not given.
    """
    if options.background is None:
        if options.score == "ratio":
            raise expected("--background", "a run, which the ratio is to", None)
        return load_run(folder, options), None
    other = run_folder(options.background)
    if not other.is_dir():  # loading it would say of neither folder which of them is not there
        raise expected("--background", "an existing run folder", options.background)
    vae, background = load_runs([folder, other], options)
    ours, theirs = (_columns(recorded_like(*each)) for each in ((folder, vae), (other, background)))
    if ours != theirs:
        what = "a run whose data have the same columns, of the same kinds and levels: fit it with "
        what += "--schema FILE, as `pyro-vae inspect DATA --out FILE` writes one of the first data"
        raise expected("--background", what, options.background)
    return vae, background


def _columns(data: Dataset) -> list[Any]:
    """What the numbers of an observation mean; two that differ are not to be read as one."""
    schema = data.schema
    fields = [] if schema is None else [(f.name, f.kind, f.levels, f.offset) for f in schema.x]
    return [data.event_shape, data.names, data.columns, data.binarize, data.size_unit, *fields]


def _ranked(found: Outliers, named: dict[str, Any]) -> Any:
    """All rows, the greatest outlier first."""
    import pandas as pd

    scores = {_WRITTEN.get(name, name): values for name, values in found.scores.items()}
    columns = {"surprise": -found.log_marginal, "mcse": found.mcse}
    columns |= scores | {"p_value": found.p_value}
    # A column of the table that has the name of a result keeps its values beside it.
    own = {f"{name} of the table" if name in columns else name: named[name] for name in named}
    return pd.DataFrame(own | columns).iloc[found.order].reset_index(drop=True)


def _table(found: Outliers, top: Any, name: str) -> Table:
    """The greatest outliers, as a person sees them."""
    size, reference = len(found.log_marginal), len(found.reference)
    by = "-log p(x)" if found.score == "log_marginal" else found.score
    table = Table(
        title=f"{plural(size, 'row')} of {name}, by {by}",
        caption=f"p among {plural(reference, 'held-out observation')}; outliers at a false "
        f"discovery rate of 5%: {plural(found.discoveries(), 'row')}",
        box=box.SIMPLE_HEAD,
    )
    scores = {_WRITTEN.get(each, each) for each in found.scores}
    names = [each for each in top.columns if each not in {*scores, "mcse", "p_value"}][:_NAMES]
    shown = () if found.score == "log_marginal" else (found.score,)
    for each in names:
        table.add_column(str(each))
    for each in ("-log p(x), nats", "± Monte Carlo", *shown, "p"):
        table.add_column(each, justify="right")
    # By columns: a row of several kinds would have its whole numbers as fractions.
    for row in zip(*(top[each] for each in top.columns), strict=True):
        cells = dict(zip(top.columns, row, strict=True))
        error = "-" if np.isnan(cells["mcse"]) else f"{cells['mcse']:.2g}"
        figures = [f"{cells['surprise']:.2f}", error, *(f"{cells[each]:.2f}" for each in shown)]
        table.add_row(*(str(cells[each]) for each in names), *figures, f"{cells['p_value']:.2g}")
    return table
