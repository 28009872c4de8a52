"""``pyro-vae impute``: the missing cells of a table, filled by a run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae._errors import check_seed, expected, plural, positive_integer, typed_path
from pyro_vae._jobs import by
from pyro_vae._terminal import say
from pyro_vae.cli.filled import FILLED, filled_table
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import add_unseen, read_as_before, recorded_like
from pyro_vae.cli.options import add_jobs, add_safe
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import load_vae
from pyro_vae.cli.runs import SEED, as_device, new_path, recorded_data, recorded_source
from pyro_vae.cli.table_files import TABLES, WRITTEN, content_of, named_columns, read_like
from pyro_vae.data import Dataset, load
from pyro_vae.data.frames import Table
from pyro_vae.data.likeness import reading_like
from pyro_vae.data.pixels import as_in_file
from pyro_vae.data.readers import Reading
from pyro_vae.data.rows import Rows
from pyro_vae.data.schema import Schema
from pyro_vae.engine.by_rows import in_blocks, mixed
from pyro_vae.engine.processes import all_processes
from pyro_vae.evaluation import Imputation, impute
from pyro_vae.programs import VAE
from pyro_vae.programs.imputing import Proposal, UnexplainedRows
from pyro_vae.training import Run

__all__ = ["run"]

_SUFFIXES = (*FILLED, ".npy")
_DRAWS = 100  # of which the level drawn most often is taken for the most probable
_MORE_DRAWS = 1000  # whose shares are probabilities: their error is at most 0.016
_AT_ONCE = 256  # rows that are drawn so often


@dataclass(frozen=True)
class _Source:
    """What is to be filled: where it is, as it was written, and as the model has it."""

    path: Path
    table: Table | None
    data: Dataset
    layout: str | None = None

    @property
    def rows(self) -> Rows:
        return self.data.rows("test")

    @property
    def where(self) -> list[int]:
        """The column of the table that each entry of x is."""
        names = [] if self.table is None else self.table.names
        found = [names.index(name) for name in self.data.names]
        return found or list(range(self.data.event_shape.numel()))

    def as_written(self, x: Tensor) -> Tensor:
        """Returns an array with its dimensions as they are in the file."""
        if self.table is not None:
            return x
        shape = np.load(self.path, mmap_mode="r", allow_pickle=False).shape[1:]
        return as_in_file(x, shape, self.layout).contiguous()

    def written(self) -> Tensor:
        """Returns which entries that the model takes for missing are words of others, as x is."""
        import pandas as pd

        x, fields = self.rows.x, self.data.schema.x if self.data.schema is not None else ()
        found, where = torch.zeros_like(x, dtype=torch.bool), self.where
        empty = {word.lower() for word in reading_like(Reading(), self.data).missing_words}
        for row, entry in x.isnan().nonzero().tolist() if self.table is not None else []:
            cell = self.table.frame.iat[row, where[entry]] if self.table is not None else None
            if fields and fields[entry].levels and not pd.isna(cell):
                found[row, entry] = str(cell).strip().lower() not in empty
        return found


def run(argv: list[str]) -> None:
    """Fills a table and writes it anew.

    Raises:
        ValueError: If an option, the run, the table or the file are not what they should be.
    """
    processes, parser = all_processes(), _parser()
    options = parse(parser, argv)
    if options.num_samples != "auto":
        positive_integer("--num-samples", options.num_samples)
    check_seed("--seed", options.seed)
    folder, count = run_folder(options.run), options.num_imputations
    fits = _check_fits(options.num_fits, count, options.probabilities)
    if options.file is not None and options.data is not None:
        raise expected("--data", "nothing beside DATA, which is the same", options.data)
    vae = load_vae("impute", folder, as_device(options.device))
    source = _source(folder, vae, options.file or options.data, options.unseen)
    outs = _outs(options.out, source.path.suffix, count)
    others = _probabilities_out(options.probabilities, source.data.schema)
    processes.gathered(None)  # all have looked for files that are there, before one is written
    rows, schema = source.rows, source.data.schema
    x = rows.x
    mask = ~x.isnan()
    lacking = (~mask).flatten(1).any(1)
    drawn = x.expand(count or 1, *x.shape).clone()
    at = [] if schema is None else _of_levels(schema)
    shares: dict[int, Tensor] = {}
    found: Imputation | None = None
    if lacking.any():
        _note_masks(folder, vae)
        try:
            with by(options.jobs):
                found = impute(
                    vae,
                    x[lacking],
                    mask[lacking],
                    num_samples=options.num_samples,
                    num_imputations=count,
                    proposal=options.proposal,
                    seed=options.seed,
                    **({} if fits is None else _refitting(folder, vae, fits)),
                    **rows[lacking].conditions,
                )
        except UnexplainedRows as error:  # it counts the rows it was given
            raise UnexplainedRows(lacking.nonzero().flatten()[error.index]) from None
        drawn[:, lacking] = found.x.to(x)
        if others is not None and schema is not None:
            sizes = {i: schema.x[i].num_levels for i in at}
            shares = _shares(vae, rows[lacking], sizes, options.seed)
            modes = torch.stack([each.argmax(1) for each in shares.values()], 1)
        elif count is None and at:
            modes = _modes(vae, rows[lacking], at, options.seed)
        if count is None and at:
            drawn[:, lacking] = drawn[:, lacking].index_copy(2, torch.tensor(at), modes[None].to(x))
    if options.unseen == "missing":
        mask |= source.written()  # what is there stays there, whatever the model takes it for
    if not processes.is_first:
        return
    _write(outs, source, drawn, mask, vae.likelihood.words, safe=options.safe)
    written: dict[str, Any] = {"out": [str(out) for out in outs] if len(outs) > 1 else str(outs[0])}
    written |= {"filled": int((~mask).sum()), "rows": len(x), "num_imputations": count}
    written["diagnostics"] = None if found is None else found.summary()
    files = list(outs)
    if others is not None:
        content = _probabilities(source, shares, mask, lacking)
        checkpoint.write_bytes(others, content_of(content, others.suffix, safe=options.safe))
        written["probabilities"] = str(others)
        files.append(others)
    if options.json:
        say(json.dumps(written))
        return
    cells, lines = plural(x.numel(), "cell"), plural(len(x), "row")
    say(f"Filled {written['filled']:,} of {cells} in {lines}. Wrote")
    for file in files:
        say(f"  {file}")
    if found is not None:
        say(_trust(found))


def _trust(found: Imputation) -> str:
    """Says in a line how far to trust what was filled, and in another what helps."""
    known = found.summary()
    if known["ess_median"] is None:
        return "Exact sums over the states of z: there are no draws to be too few."
    line = f"Effective draws a row: {known['ess_median']:,.0f} (median), "
    line += f"{known['ess_min']:,.0f} (least); k-hat above 0.7: {known['k_hat_above_0.7']:.0%}"
    return f"{line}\nWhat helps: {found.advice}" if found.advice else line


def _check_fits(fits: int | None, count: int | None, probabilities: str | None) -> int | None:
    if fits is None:
        return None
    fits = positive_integer("--num-fits", fits)
    if (several := all_processes().count) > 1:
        what = f"none in {several} processes that torchrun has started: --jobs shares fits"
        raise expected("--num-fits", what, fits)
    if count is None or fits > count:
        what = f"--num-imputations of {fits} or more: each fit draws a share of them"
        raise expected("--num-fits", what, count)
    if probabilities is not None:
        raise expected(
            "--probabilities", "nothing with --num-fits, whose fits differ", probabilities
        )
    return fits


def _refitting(folder: Path, vae: VAE, fits: int) -> dict[str, Any]:
    """What fits the model of a run anew to resampled rows."""
    data = recorded_data(folder, "train", None, None)
    return {
        "num_fits": fits,
        "refit": Run.read(vae, folder).refit,
        "fitted_to": vae.accepts(vae.uses(data.rows("train"))),
    }


def _note_masks(folder: Path, vae: VAE) -> None:
    """Lets a model know whether rows lacked entries when it was fitted."""
    if (path := folder / "fit.json").exists():
        settings = checkpoint.read_json(path, settings=dict)["settings"]
        vae.saw_masks = "train mask" in settings.get("data", {})


def _parser() -> Parser:
    parser = Parser(
        "impute",
        "RUN [DATA]",
        "Fills the missing cells of a table, given the others: by their means, words by the most "
        "probable one, or by draws of what they may have been. All other cells, and names, stay as "
        "they are.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument(
        "file",
        type=str | None,
        nargs="?",
        help="A .csv, .tsv, .gz, .parquet or .xlsx file with the columns that the run was fitted "
        "to, in any order, where empty cells, NA and nan are missing; or a .npy file, where NaN "
        "is. The data of the run if not given.",
    )
    parser.add_argument("--data", type=str | None, help="The same as DATA.")
    add_unseen(parser)
    parser.add_argument(
        "--out",
        type=str | None,
        help="The file to write, such as filled.csv: .csv, .parquet, .xlsx, or what DATA is. With "
        "--num-imputations 3 these are filled-1.csv to filled-3.csv; or one .npz file, whose array "
        "x has shape (3, *shape of DATA).",
    )
    parser.add_argument(
        "--probabilities",
        type=str | None,
        help="A .csv or .parquet file to write, too: how probable each level is in each cell of "
        f"words that was missing, as shares of {_MORE_DRAWS:,} draws.",
    )
    parser.add_argument(
        "--num_imputations",
        type=int | None,
        help="Completed tables, each filled by draws, values that a cell can have (multiple "
        "imputation); if not given, one that is filled by means, which of counts are no whole "
        "numbers.",
    )
    parser.add_argument(
        "--num_fits",
        type=int | None,
        help="Fit the model so many times anew, briefly, to rows of the run that are drawn with "
        "replacement, and draw a share of the imputations from each: they then vary as the "
        "parameters do, which are otherwise taken for known.",
    )
    add_jobs(parser, "fits of --num-fits")
    parser.add_argument(
        "--num_samples",
        type=int | Literal["auto"],
        default=default_of(VAE.impute, "num_samples"),
        help="Importance samples for each observation; auto draws 1,000, and up to 16,000 where "
        "few are effective.",
    )
    parser.add_argument(
        "--proposal",
        type=Proposal,
        default=default_of(VAE.impute, "proposal"),
        help="Where they are drawn: from the guide, defensive (a fifth from the prior), adaptive "
        "(adapted to each row), or auto: from the guide, and adapted where that is poor.",
    )
    add_safe(parser)
    parser.add_argument("--seed", type=int, default=SEED, help="Of the draws.")
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    return parser


def _source(folder: Path, vae: VAE, source: str | None, unseen: Any) -> _Source:
    """Reads what is to be filled, in the order of the file."""
    found_by = recorded_source(folder, source)[0]
    path = typed_path(found_by)
    if path.suffix not in _SUFFIXES:
        raise expected("DATA", f"a file that ends in {' or '.join(_SUFFIXES)}", found_by)
    like = recorded_like(folder, vae)
    if like.options.get("pivot"):
        raise expected("RUN", "a run of a table of rows, whose cells may be missing", "--pivot")
    like = replace(like, options={**like.options, "missing": True})
    how = read_as_before(folder, found_by, like)
    table = read_like(found_by, replace(like, options={**like.options, **how}))
    if table is not None and like.names and not set(like.names) <= set(table.names):
        raise expected("DATA", f"columns {list(like.names)} as the run has them", table.names)
    what: Any = path if table is None else table
    layout = like.options.get("layout")
    return _Source(path, table, load(what, like=like, unseen=unseen), layout)


def _outs(path: str | None, suffix: str, count: int | None) -> list[Path]:
    """The files to write, none of which is there."""
    if count is not None:
        positive_integer("--num-imputations", count)
    known = list(dict.fromkeys([suffix] if suffix == ".npy" else [suffix, *WRITTEN]))
    known = known if count is None else [*known, ".npz"]
    if path is None or Path(path).suffix not in known:
        raise expected("--out", f"a file that ends in {' or '.join(known)}", path)
    out = Path(path)
    if count is None or out.suffix == ".npz":
        return [new_path(path, out)]
    numbered = [out.with_stem(f"{out.stem}-{i + 1}") for i in range(count)]
    return [new_path(str(each), each) for each in numbered]


def _probabilities_out(path: str | None, schema: Schema | None) -> Path | None:
    """The file of probabilities, which is not there."""
    if path is None:
        return None
    if schema is None or not _of_levels(schema):
        raise expected("--probabilities", "nothing, as the run has no columns of words", path)
    if Path(path).suffix not in TABLES:
        raise expected("--probabilities", f"a file that ends in {' or '.join(TABLES)}", path)
    return new_path(path, Path(path))


def _of_levels(schema: Schema) -> list[int]:
    """The columns of x whose levels are in no order, between which there is nothing."""
    return [i for i, f in enumerate(schema.x) if f.levels and f.kind in ("category", "binary")]


def _modes(vae: VAE, rows: Rows, at: list[int], seed: int) -> Tensor:
    """The most probable levels of some columns, those drawn most often, shape ``(N, len(at))``."""

    def modes(part: Rows, place: int) -> Tensor:
        draws = _draws(vae, part, _DRAWS)
        return draws[..., at].mode(0).values

    return torch.cat(in_blocks(vae, rows, _AT_ONCE, _later(seed), modes))


def _shares(vae: VAE, rows: Rows, sizes: Mapping[int, int], seed: int) -> dict[int, Tensor]:
    """How often each level of some columns is drawn, shape ``(N, levels)`` each."""

    def shares(part: Rows, place: int) -> dict[int, Tensor]:
        draws, found = _draws(vae, part, _MORE_DRAWS), {}
        for column, size in sizes.items():
            levels = torch.arange(size, device=draws.device)
            drawn = draws[..., column].round()
            found[column] = (drawn[..., None] == levels).float().mean(0).cpu()
        return found

    found = in_blocks(vae, rows, _AT_ONCE, _later(seed), shares)
    return {column: torch.cat([each[column] for each in found]) for column in sizes}


def _draws(vae: VAE, rows: Rows, count: int) -> Tensor:
    return vae.impute(rows.x, ~rows.x.isnan(), num_imputations=count, **rows.conditions)


def _later(seed: int) -> int:
    """Returns a seed of other random numbers than those that fill the cells of numbers."""
    return mixed(seed, 1)


def _probabilities(
    source: _Source, shares: Mapping[int, Tensor], mask: Tensor, lacking: Tensor
) -> Any:
    """A line for each level of each cell that was missing."""
    import pandas as pd

    assert source.data.schema is not None  # it has columns of words
    fields, rows = source.data.schema.x, lacking.nonzero().flatten().tolist()
    named = [] if source.table is None else named_columns(source.table, source.data)
    lines: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        known = {name: column.iloc[row] for name, column in named}
        for entry, each in shares.items():
            if not mask[row, entry]:
                cell = known | {"row": row + 1, "column": fields[entry].name}
                pairs = zip(fields[entry].levels, each[i].tolist(), strict=True)
                lines += [cell | {"level": str(v), "probability": p} for v, p in pairs]
    columns = [*(name for name, _ in named), "row", "column", "level", "probability"]
    return pd.DataFrame(lines, columns=columns)


def _write(
    outs: list[Path],
    source: _Source,
    drawn: Tensor,
    mask: Tensor,
    words: Sequence[Sequence[str]],
    *,
    safe: bool,
) -> None:
    """Writes a completed table to each file, or all of them to one; all files or none."""
    outs[0].parent.mkdir(parents=True, exist_ok=True)
    if outs[0].suffix == ".npz":
        content = io.BytesIO()
        np.savez(content, x=source.as_written(drawn).numpy())
        checkpoint.write_bytes(outs[0], content.getvalue())
        return
    written: list[Path] = []
    try:
        for out, x in zip(outs, drawn, strict=True):
            checkpoint.write_bytes(out, _content(out, source, x, mask, words, safe=safe))
            written.append(out)
    except BaseException:
        for out in written:
            out.unlink()
        raise


def _content(
    out: Path,
    source: _Source,
    x: Tensor,
    mask: Tensor,
    words: Sequence[Sequence[str]],
    *,
    safe: bool,
) -> bytes:
    if source.table is None:
        content = io.BytesIO()
        np.save(content, source.as_written(x).numpy())
        return content.getvalue()
    of = source.path, source.table, source.data
    return filled_table(out.suffix, *of, x, ~mask, source.where, words, safe=safe)
