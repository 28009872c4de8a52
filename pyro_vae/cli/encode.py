"""``pyro-vae encode``: latent means and scales of data, a row each."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae._errors import check_seed, expected, plural
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import add_data, data_of, recorded_like
from pyro_vae.cli.options import add_safe
from pyro_vae.cli.parsing import Parser, parse
from pyro_vae.cli.programs import add_program, load_run
from pyro_vae.cli.runs import SEED, new_path
from pyro_vae.cli.table_files import TABLES, beside_rows, content_of, rows_in_order
from pyro_vae.data.rows import Rows
from pyro_vae.engine.by_rows import Report, check_alike, in_turn
from pyro_vae.engine.processes import all_processes
from pyro_vae.programs import Amortized
from pyro_vae.programs.weigh import observations_at_once

__all__ = ["run"]

_SUFFIXES = (*TABLES, ".npz")
_GLOBALS = 20  # draws of latents that all observations share


def run(argv: list[str]) -> None:
    """Writes the mean and the scale of q(z|x) of each observation.

    Raises:
        ValueError: If an option, the run, the data or the file are not what they should be.
    """
    parser = Parser(
        "encode",
        "RUN",
        "Writes the latent means and scales of data, those of q(z|x), a row for each observation. "
        "Of a table, columns that name rows go along: ids, labels, conditions.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument(
        "--out",
        type=str | None,
        help="The file to write, such as z.csv or z.parquet, with columns z[0], z[1], ... and "
        "z[0] scale, ...; or z.npz, with arrays loc and scale. In the order of the data; without "
        "--data, of the data of the run, with a column split.",
    )
    parser.add_argument("--seed", type=int, default=SEED, help="Of draws, if the guide needs some.")
    add_safe(parser)
    add_data(parser)
    add_program(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parse(parser, argv)
    check_seed("--seed", options.seed)
    if options.out is None or Path(options.out).suffix not in _SUFFIXES:
        raise expected("--out", f"a file that ends in {', '.join(_SUFFIXES)}", options.out)
    out = new_path(options.out, Path())
    folder = run_folder(options.run)
    vae = load_run(folder, options)
    like = recorded_like(folder, vae)
    data, own = data_of(folder, vae, "train", options)
    sizes, places = rows_in_order(data)
    found = [_latents(vae, data.rows(split), options.seed) for split, _ in sizes]
    order = places.argsort()
    loc, scale = (torch.cat(each)[order].numpy() for each in zip(*found, strict=True))
    beside = beside_rows(folder, data, like, options.data, own=own)
    if not all_processes().is_first:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(out, _content(out.suffix, vae, loc, scale, beside, options.safe))
    written = {"out": str(out), "rows": len(loc), "shape": list(loc.shape[1:])}
    say(json.dumps(written) if options.json else f"Wrote {plural(len(loc), 'row')} to {out}")


@torch.no_grad()
def _latents(vae: Amortized, rows: Rows, seed: int) -> tuple[Tensor, Tensor]:
    """Returns means and standard deviations of q(z|x), shape ``(N, *z)`` each.

    Of a program with global latents they are those of the mixture over draws of these.
    """
    if vae.has_globals:
        each = [_latents(one, rows, seed) for one in vae.fixed(_GLOBALS, seed)]
        loc, scale = (torch.stack(columns) for columns in zip(*each, strict=True))
        return loc.mean(0), (scale.square().mean(0) + loc.var(0, correction=0)).sqrt()
    size = observations_at_once(vae, rows.x)

    def encode(batch: Rows, report: Report) -> tuple[Tensor, Tensor]:
        q = vae.encode(vae.uses(batch).without("labels"))
        mean = q.mean.cpu()
        return mean, q.variance.cpu().expand_as(mean)

    check_alike(vae, {"seed": seed}, {"x": rows.x, **rows.tensors()})
    # Few guides draw anything for a mean; where one does, it is seen.
    found = in_turn(vae, rows, size, seed, encode, lambda batch: None)
    means, variances = zip(*found, strict=True)
    return torch.cat(means), torch.cat(variances).sqrt()


def _content(
    suffix: str,
    vae: Amortized,
    loc: np.ndarray,
    scale: np.ndarray,
    beside: dict[str, Any],
    safe: bool,
) -> bytes:
    import pandas as pd

    if suffix == ".npz":
        content = io.BytesIO()
        # Words are of a fixed length in a file without pickles.
        arrays: dict[str, Any] = {name: np.asarray(values) for name, values in beside.items()}
        arrays = {n: a.astype(np.str_) if a.dtype == object else a for n, a in arrays.items()}
        arrays |= {"loc": loc, "scale": scale}
        np.savez(content, **arrays)
        return content.getvalue()
    named: dict[str, Any] = dict(beside)
    space = vae.fixed(1)[0].space
    for part, values in (("", loc), (" scale", scale)):
        for name, each in space.split(torch.from_numpy(values)).items():
            for index in np.ndindex(*each.shape[1:]):
                where = ",".join(map(str, index))
                named[f"{name}[{where}]{part}"] = each[(slice(None), *index)].numpy()
    return content_of(pd.DataFrame(named), suffix, safe=safe)
