"""``pyro-vae recommend``: what each user may want next, by a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from pyro_vae import checkpoint
from pyro_vae._console import Terminal
from pyro_vae._errors import expected, plural, positive_integer
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import read_as_before, recorded_like
from pyro_vae.cli.options import add_safe
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import load_vae
from pyro_vae.cli.runs import as_device, new_path
from pyro_vae.cli.table_files import TABLES, content_of
from pyro_vae.data import Dataset, load
from pyro_vae.data.pivoting import pivot_columns
from pyro_vae.evaluation import Recommendations, recommend

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run"]

_USERS, _ITEMS = 5, 8  # that are shown


def run(argv: list[str]) -> None:
    """Writes what is recommended to each user.

    Raises:
        ValueError: If an option, the run, the data or the file are not what they should be.
    """
    parser = Parser(
        "recommend",
        "RUN USERS",
        "Ranks for each user what they have not seen, by what it is expected to be. Users need not "
        "be those of the run; items that the run does not know are left out, and reported.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument(
        "users",
        type=str,
        help="A file like that of the run: of a run with --pivot, a table of events.",
    )
    parser.add_argument(
        "--top", type=int, default=default_of(recommend, "top"), help="Items for each user."
    )
    parser.add_argument(
        "--out",
        type=str | None,
        help="A .csv or .parquet file to write to, a row for each user and item, the best first.",
    )
    add_safe(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")
    options = parse(parser, argv)
    positive_integer("--top", options.top)
    if options.out is not None and Path(options.out).suffix not in TABLES:
        raise expected("--out", f"a file that ends in {' or '.join(TABLES)}", options.out)
    out = None if options.out is None else new_path(options.out, Path())
    folder = run_folder(options.run)
    vae = load_vae("recommend", folder, as_device(options.device))
    like = recorded_like(folder, vae)
    data = load(options.users, like=like, **read_as_before(folder, options.users, like))
    found = recommend(vae, vae.uses(data.rows("test")), top=options.top)
    lines = _lines(found, data, pivot_columns(like.options.get("pivot")))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_bytes(out, content_of(lines, out.suffix, safe=options.safe))
    if options.json:
        rows = json.loads(lines.to_json(orient="records", date_format="iso"))
        written = {"users": len(found.items), "out": None if out is None else str(out)}
        say(json.dumps(written | ({"rows": rows} if out is None else {})))
        return
    Terminal().print(_table(lines, len(found.items), data.name))
    if out is not None:
        say(f"Wrote {plural(len(lines), 'row')} to {out}")


def _lines(found: Recommendations, data: Dataset, pivot: tuple[str, ...]) -> pd.DataFrame:
    """Returns a row for each user and item, the best first, by the names that they have."""
    import pandas as pd

    user, item = pivot[:2] or ("user", "item")
    users, places = (found.items >= 0).nonzero()
    items = found.items[users, places]
    ids: Any = data.index.get("test", np.arange(1, len(found.items) + 1))
    names = list(data.names) or [f"x[{each}]" for each in range(data.event_shape.numel())]
    columns = {
        user: np.asarray(ids)[users],
        "rank": places + 1,
        item: [names[each] for each in items],
        "score": found.scores[users, places],
    }
    return pd.DataFrame(columns)


def _table(lines: pd.DataFrame, size: int, name: str) -> Table:
    """The first users, a line each, as a person sees them."""
    user, _, item, _ = lines.columns
    table = Table(
        title=f"recommended to {plural(size, 'user')} of {name}, the best first",
        caption=None if size <= _USERS else f"the first {_USERS}; --out writes all",
        box=box.SIMPLE_HEAD,
        min_width=60,
    )
    table.add_column(str(user))
    table.add_column(str(item), overflow="fold")
    for each, own in list(lines.groupby(user, sort=False))[:_USERS]:
        more = ", …" if len(own) > _ITEMS else ""
        table.add_row(str(each), ", ".join(own[item].head(_ITEMS)) + more)
    return table
