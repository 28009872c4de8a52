"""``pyro-vae sample``: draws from a run, and of a run of text what it makes of lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyro
import torch
from jsonargparse import Namespace
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae import checkpoint, report
from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae._terminal import say, shown
from pyro_vae.cli.folders import RUN, beside, run_folder
from pyro_vae.cli.options import add_safe
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import add_program, at_a_draw, load_run
from pyro_vae.cli.runs import (
    SEED,
    condition,
    covariates_at,
    new_path,
    recorded_schema,
    recorded_vocabulary,
)
from pyro_vae.data.dates import as_written
from pyro_vae.data.formulas import quoted_frame
from pyro_vae.data.rows import Conditions, given_of
from pyro_vae.data.text import Vocabulary
from pyro_vae.programs import VAE, Amortized

__all__ = ["run"]

_TABLES = (".csv", ".parquet")
_SUFFIXES = (".png", ".npy", ".csv", ".parquet", ".txt")
_STEPS = 5  # lines between two


def run(argv: list[str]) -> None:
    """Draws from a run and writes a picture, an array or a table, or prints lines of text.

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
    parser.add_argument(
        "--reconstruct",
        type=str | None,
        help="Of a run of text: print in place of draws the likeliest line at the mean of z of "
        "this one.",
    )
    parser.add_argument(
        "--between",
        nargs=2,
        type=str,
        metavar="LINE",
        help="Of a run of text: print in place of draws the likeliest lines on the way in z from "
        "one line to another.",
    )
    add_safe(parser)
    parser.add_argument("--seed", type=int, default=SEED, help="Of the draws.")
    parser.add_argument(
        "--out",
        type=str | None,
        help="A .png file for a picture of E[x|z]; a .npy file for an array of draws of x, shape "
        "(n, *event_shape); or, of a run of a table, a .csv or .parquet file with its names, words "
        "and dates. RUN/draws.png, or the next free one, if not given; of a run on the Hub in this "
        "folder. Of a run of text a .txt or .npy file; lines are printed if it is not given.",
    )
    add_program(parser)
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parse(parser, argv)
    positive_integer("--num-samples", options.num_samples)
    check_seed("--seed", options.seed)
    folder = run_folder(options.run)
    vae = load_run(folder, options)
    vocabulary = recorded_vocabulary(folder)
    if vocabulary is None:
        _refuse_text(options)
    elif options.out is None or Path(options.out).suffix == ".txt":
        _write_lines(vae, vocabulary, _given(folder, vae, options), options)
        return
    elif Path(options.out).suffix != ".npy":
        raise expected("--out", "a .txt or .npy file, as the run is of text", options.out)
    out = new_path(options.out, beside(options.run, folder) / "draws.png")
    if out.suffix not in _SUFFIXES:
        raise expected("--out", f"a file that ends in {' or '.join(_SUFFIXES)}", options.out)
    known = recorded_schema(folder)
    schema = known if out.suffix in _TABLES else None
    if out.suffix in _TABLES and schema is None:
        what = "a .png or .npy file, as the run is of no table with names of columns"
        raise expected("--out", what, options.out)
    given, count = _given(folder, vae, options), options.num_samples
    pyro.set_rng_seed(options.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        shown = at_a_draw(vae, options.seed)
        report.samples(shown, out, num_samples=count, columns=known, **given)
    else:
        content = io.BytesIO()
        if vocabulary is None:
            drawn = vae.sample(count, **given)
        else:
            drawn = _levels(vae, vocabulary, given, options)
            count = len(drawn)
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
    shape = [count, *vae.event_shape]
    say(json.dumps({"out": str(out), "shape": shape}) if options.json else f"Wrote {out}")


def _given(folder: Path, vae: Amortized, options: Namespace) -> Conditions:
    """What goes with each draw."""
    one = given_of(
        {
            "cond": condition(folder, vae, options.cond),
            "covariates": covariates_at(folder, vae, options.size_factor, options.covariate),
        }
    )
    return tree_map(lambda value: value.expand(options.num_samples, *value.shape), one)


def _refuse_text(options: Namespace) -> None:
    """Refuses what is of runs of text alone."""
    if options.out is not None and Path(options.out).suffix == ".txt":
        raise expected(
            "--out", "a .png, .npy or table file, as the run is not of text", options.out
        )
    for flag in ("reconstruct", "between"):
        if options[flag] is not None:
            raise expected(f"--{flag}", "nothing, as the run is not of text", options[flag])


def _write_lines(
    vae: Amortized, vocabulary: Vocabulary, given: Conditions, options: Namespace
) -> None:
    """Prints or writes lines: draws, a reconstruction, or those between two."""
    lines = vocabulary.decode(_levels(vae, vocabulary, given, options))
    if options.out is None:
        found = {"lines": lines}
        say(json.dumps(found) if options.json else "\n".join(map(shown, lines)))
        return
    out = new_path(options.out, Path(options.out))
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(out, "".join(f"{line}\n" for line in lines).encode())
    told = {"out": str(out), "shape": [len(lines), *vae.event_shape]}
    say(json.dumps(told) if options.json else f"Wrote {out}")


def _levels(
    vae: Amortized, vocabulary: Vocabulary, given: Conditions, options: Namespace
) -> Tensor:
    """The rows that are asked for."""
    if options.reconstruct is not None and options.between is not None:
        raise expected("--reconstruct", "nothing beside --between", options.reconstruct)
    if options.reconstruct is None and options.between is None:
        pyro.set_rng_seed(options.seed)
        return vae.sample(options.num_samples, **given)
    flag = "--between" if options.reconstruct is None else "--reconstruct"
    if not isinstance(vae, VAE):
        raise expected(flag, "nothing with a Program, whose mean of z is no matter of course", flag)
    lines = options.between if options.reconstruct is None else [options.reconstruct]
    try:
        x = vocabulary.encode(lines)
    except ValueError as error:
        raise ValueError(str(error).replace("`text`", f"`{flag}`")) from None
    if cut := [line for line in lines if len(vocabulary.split(line)) > vocabulary.length]:
        what = f"lines of at most {vocabulary.length} {vocabulary.unit}"
        raise expected(flag, what, cut[0])
    z = vae.encode(x, **_repeated(given, len(x))).mean
    if options.between is not None:
        weights = torch.linspace(0, 1, _STEPS + 2).reshape(-1, *[1] * (z.ndim - 1))
        z = torch.lerp(z[:1], z[1:], weights)
    return vae.decode(z, **_repeated(given, len(z))).mean


def _repeated(given: Conditions, count: int) -> Conditions:
    """What goes with each draw, which is the same for all, for another number of them."""
    return tree_map(lambda value: value[:1].expand(count, *value.shape[1:]), given)
