"""``pyro-vae impute``: the missing cells of a table, filled by a run."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.runs import (
    SEED,
    as_device,
    new_path,
    recorded_columns,
    recorded_source,
    recorded_table,
    recorded_unit,
)
from pyro_vae.data.frames import from_frame
from pyro_vae.data.raw import Raw, with_columns
from pyro_vae.data.readers import Reading, read_file
from pyro_vae.data.readers.csv_files import fill_csv
from pyro_vae.data.rows import Rows, given_of
from pyro_vae.data.schema import Schema
from pyro_vae.programs import VAE

__all__ = ["run"]

_SUFFIXES = (".csv", ".npy")
_DRAWS = 100  # of which the level drawn most often is taken for the most probable


def run(argv: list[str]) -> None:
    """Fills a table and writes it anew.

    Raises:
        ValueError: If an option, the run, the table or the file are not what they should be.
    """
    parser = Parser(
        "impute",
        "RUN [DATA]",
        "Fills the missing cells of a table, given the others: by their means, or by draws of what "
        "they may have been. All other cells, and names, stay as they are.",
    )
    parser.add_argument("run", type=str, help="A folder that pyro-vae fit wrote.")
    parser.add_argument(
        "data",
        type=str | None,
        nargs="?",
        help="A .csv file with the columns that the run was fitted to, where empty cells, NA and "
        "nan are missing; or a .npy file, where NaN is. The data of the run if not given.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        help="The file to write, such as filled.csv, of the kind of DATA. With --num-imputations 3 "
        "these are filled-1.csv to filled-3.csv; or one .npz file, whose array x has shape "
        "(3, *shape of DATA).",
    )
    parser.add_argument(
        "--num_imputations",
        type=int | None,
        help="Completed tables, each filled by draws, values that a cell can have (multiple "
        "imputation); if not given, one that is filled by means, which of counts and classes are "
        "no whole numbers.",
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        default=default_of(VAE.impute, "num_samples"),
        help="Importance samples for each observation.",
    )
    parser.add_argument("--seed", type=int, default=SEED, help="Of the draws.")
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parse(parser, argv)
    positive_integer("--num-samples", options.num_samples)
    check_seed("--seed", options.seed)
    folder, count = Path(options.run), options.num_imputations
    vae = checkpoint.load(folder, device=as_device(options.device))
    found_by, recorded = recorded_source(folder, options.data)
    path = Path(found_by).expanduser()
    if path.suffix not in _SUFFIXES:
        raise expected("DATA", f"a file that ends in {' or '.join(_SUFFIXES)}", found_by)
    outs = _outs(options.out, path.suffix, count)
    known, reading = recorded_table(folder, path, recorded)
    schema, how = known if isinstance(known, Schema) else None, Reading(**reading)
    rows, where = _read(path, folder, vae, recorded, known, how)
    x = rows.x
    mask = ~x.isnan()
    lacking = (~mask).flatten(1).any(1)
    pyro.set_rng_seed(options.seed)
    drawn = x.expand(count or 1, *x.shape).clone()
    if lacking.any():
        filled = vae.impute(
            x[lacking],
            mask[lacking],
            num_samples=options.num_samples,
            num_imputations=count,
            **rows[lacking].conditions,
        )
        drawn[:, lacking] = filled.to(x)
        if count is None and schema is not None and (at := _of_levels(schema)):
            drawn[:, lacking] = drawn[:, lacking].index_copy(
                2, torch.tensor(at), _modes(vae, rows[lacking], at)[None].to(x)
            )
    _write(outs, path, drawn, mask, where, vae.likelihood.words, schema, how)
    written: dict[str, Any] = {"out": [str(out) for out in outs] if len(outs) > 1 else str(outs[0])}
    written |= {"filled": int((~mask).sum()), "rows": len(x), "num_imputations": count}
    if options.json:
        print(json.dumps(written))
        return
    print(f"Filled {written['filled']:,} of {x.numel():,} cells in {len(x):,} rows. Wrote")
    for out in outs:
        print(f"  {out}")


def _outs(path: str | None, suffix: str, count: int | None) -> list[Path]:
    """The files to write, none of which is there."""
    if count is not None:
        positive_integer("--num-imputations", count)
    known = [suffix] if count is None else [suffix, ".npz"]
    if path is None or Path(path).suffix not in known:
        raise expected("--out", f"a file that ends in {' or '.join(known)}", path)
    out = Path(path)
    if count is None or out.suffix == ".npz":
        return [new_path(path, out)]
    numbered = [out.with_stem(f"{out.stem}-{i + 1}") for i in range(count)]
    return [new_path(str(each), each) for each in numbered]


def _read(
    path: Path,
    folder: Path,
    vae: VAE,
    recorded: dict[str, Any],
    schema: Schema | str,
    how: Reading,
) -> tuple[Rows, list[int]]:
    """Returns the rows in the order of the file, and the column of each entry of x."""
    columns = [] if vae.cond_size is None else recorded_columns(folder, vae.cond_size)
    names, size = [each.name for each in columns], recorded["size_factor"]
    others: dict[str, str] = recorded["covariates"]
    beside = {"cond": names, "size_factor": [] if size is None else [size]}
    beside["covariates"] = list(others.values())
    found = read_file(path, how, missing=True)
    if isinstance(found, Raw):
        raw, every = found, []
    else:
        words = () if isinstance(schema, Schema) else vae.likelihood.words
        raw = from_frame(found, schema=schema, words=words, wanted=beside, missing=True)
        every = list(map(str, found.frame.columns)) if found.named else []
    taken = with_columns(raw, beside)
    known = checkpoint.read_json(folder / "data.json").get("names")
    there = [name for name in every if name in taken.names]
    if known and there and there != known:
        raise expected("DATA", f"columns {known} as the run has them", there)
    values = {name: of_split["train"] for name, of_split in taken.columns.items()}
    encoded = [each.encode(values[each.name], raw.words.get(each.name, ())) for each in columns]
    covariates = {} if size is None else {"size_factor": values[size] / recorded_unit(folder)}
    covariates |= {name: values[column] for name, column in others.items()}
    cond = torch.cat(encoded, 1) if encoded else None
    where = [every.index(name) for name in taken.names if every]
    x = taken.splits["train"]
    given = given_of({"cond": cond, "covariates": covariates})
    return Rows(x, given), where or list(range(x.shape[1]))


def _of_levels(schema: Schema) -> list[int]:
    """The columns of x whose levels are in no order, between which there is nothing."""
    return [i for i, f in enumerate(schema.x) if f.levels and f.kind in ("category", "binary")]


def _modes(vae: VAE, rows: Rows, at: list[int]) -> Tensor:
    """The most probable levels of some columns, those drawn most often, shape ``(N, len(at))``."""
    draws = vae.impute(rows.x, ~rows.x.isnan(), num_imputations=_DRAWS, **rows.conditions)
    return draws[..., at].mode(0).values


def _write(
    outs: list[Path],
    path: Path,
    drawn: Tensor,
    mask: Tensor,
    where: list[int],
    words: Sequence[Sequence[str]],
    schema: Schema | None,
    how: Reading,
) -> None:
    """Writes a completed table to each file, or all of them to one; all files or none."""
    outs[0].parent.mkdir(parents=True, exist_ok=True)
    if outs[0].suffix == ".npz":
        content = io.BytesIO()
        np.savez(content, x=drawn.numpy())
        checkpoint.write_bytes(outs[0], content.getvalue())
        return
    written: list[Path] = []
    try:
        for out, x in zip(outs, drawn, strict=True):
            checkpoint.write_bytes(out, _content(path, x, mask, where, words, schema, how))
            written.append(out)
    except BaseException:
        for out in written:
            out.unlink()
        raise


def _content(
    path: Path,
    x: Tensor,
    mask: Tensor,
    where: list[int],
    words: Sequence[Sequence[str]],
    schema: Schema | None,
    how: Reading,
) -> bytes:
    if path.suffix == ".npy":
        content = io.BytesIO()
        np.save(content, x.numpy())
        return content.getvalue()
    values: dict[int, dict[int, float | str]] = {}
    if schema is not None:
        table = schema.decode(x, means=True)
        for row, entry in (~mask).nonzero().tolist():
            cell = table.iat[row, entry]
            number = isinstance(cell, float) or getattr(cell, "dtype", None) == np.float64
            values.setdefault(row, {})[where[entry]] = float(cell) if number else _text(cell)
        return fill_csv(path, values, how)
    for row, entry in (~mask).nonzero().tolist():
        value, known = x[row, entry].item(), words[entry] if words else ()
        # Between two levels there is no word: the nearer one.
        filled = known[round(value)] if known else value
        values.setdefault(row, {})[where[entry]] = filled
    return fill_csv(path, values, how)


def _text(cell: object) -> str:
    """A word, a whole number, a truth value or a date as a file has it."""
    text = cell.isoformat() if isinstance(cell, datetime.datetime) else str(cell)
    return text.removesuffix("T00:00:00")
