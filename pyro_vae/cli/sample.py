"""``pyro-vae sample``: draws from a run."""

from __future__ import annotations

import io
import json

import numpy as np
import pyro
from torch.utils._pytree import tree_map

from pyro_vae import checkpoint, report
from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, beside, run_folder
from pyro_vae.cli.options import add_safe
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import add_program, at_a_draw, load_run
from pyro_vae.cli.runs import SEED, condition, covariates_at, new_path, recorded_schema
from pyro_vae.data.dates import as_written
from pyro_vae.data.formulas import quoted_frame
from pyro_vae.data.rows import given_of

__all__ = ["run"]

_TABLES = (".csv", ".parquet")
_SUFFIXES = (".png", ".npy", ".csv", ".parquet")


def run(argv: list[str]) -> None:
    """Draws from a run and writes a picture or an array.

    Raises:
        ValueError: If an option, the run or the file are not what they should be.
    """
    parser = Parser("sample", "RUN", "Draws z from the prior of a run, then x.")
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument(
        "-n",
        "--num_samples",
        type=int,
        default=default_of(report.samples, "num_samples"),
        help="Number of draws.",
    )
    parser.add_argument(
        "--cond",
        type=str | None,
        help="Of a run with conditions: the one to draw at, such as 3 or setosa.",
    )
    parser.add_argument(
        "--size_factor", type=float | None, help="Of a run with size factors: that of each draw."
    )
    parser.add_argument(
        "--covariate",
        type=str | None,
        help="Of a run with other covariates: those of each draw, such as noise=0.3,exposure=7.",
    )
    add_safe(parser)
    parser.add_argument("--seed", type=int, default=SEED, help="Of the draws.")
    parser.add_argument(
        "--out",
        type=str | None,
        help="A .png file for a picture of E[x|z]; a .npy file for an array of draws of x, shape "
        "(n, *event_shape); or, of a run of a table, a .csv or .parquet file with its names, words "
        "and dates. RUN/draws.png, or the next free one, if not given; of a run on the Hub in this "
        "folder.",
    )
    add_program(parser)
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parse(parser, argv)
    positive_integer("--num-samples", options.num_samples)
    check_seed("--seed", options.seed)
    folder = run_folder(options.run)
    vae = load_run(folder, options)
    out = new_path(options.out, beside(options.run, folder) / "draws.png")
    if out.suffix not in _SUFFIXES:
        raise expected("--out", f"a file that ends in {' or '.join(_SUFFIXES)}", options.out)
    known = recorded_schema(folder)
    schema = known if out.suffix in _TABLES else None
    if out.suffix in _TABLES and schema is None:
        what = "a .png or .npy file, as the run is of no table with names of columns"
        raise expected("--out", what, options.out)
    one = given_of(
        {
            "cond": condition(folder, vae, options.cond),
            "covariates": covariates_at(folder, vae, options.size_factor, options.covariate),
        }
    )
    given = tree_map(lambda value: value.expand(options.num_samples, *value.shape), one)
    pyro.set_rng_seed(options.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        shown = at_a_draw(vae, options.seed)
        report.samples(shown, out, num_samples=options.num_samples, columns=known, **given)
    else:
        content = io.BytesIO()
        drawn = vae.sample(options.num_samples, **given)
        if schema is None:
            np.save(content, drawn.numpy())
        elif out.suffix == ".csv":
            table = schema.decode(drawn)
            for field in schema.x:
                if field.format:  # of dates, as the file has them
                    table[field.name] = as_written(table[field.name], field.format)
            table = quoted_frame(table) if options.safe else table
            content.write(table.to_csv(index=False, lineterminator="\n").encode())
        else:
            schema.decode(drawn).to_parquet(content, index=False)
        checkpoint.write_bytes(out, content.getvalue())
    shape = [options.num_samples, *vae.event_shape]
    say(json.dumps({"out": str(out), "shape": shape}) if options.json else f"Wrote {out}")
