"""``pyro-vae probe``: how well latent means predict labels, beside the data and their PCA."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch
from rich import box
from rich.table import Table

from pyro_vae._console import Terminal
from pyro_vae._errors import expected, plural, unknown_name
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import add_data, data_of, recorded_like
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import add_program, at_a_draw, load_run
from pyro_vae.cli.runs import recorded_source
from pyro_vae.cli.table_files import read_like
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import Split
from pyro_vae.evaluation import Probes, probe, probe_features
from pyro_vae.programs import Amortized

__all__ = ["run"]


def run(argv: list[str]) -> None:
    """Classifies data by their latent means, and prints what came out; nothing is written.

    Raises:
        ValueError: If an option, the run or its data are not what they should be.
    """
    parser = Parser(
        "probe",
        "RUN --label NAME",
        "Predicts labels, which the model never saw, from latent means, by nearest neighbours and "
        "by logistic regression: cross-validated accuracies, beside those of the data as they are, "
        "and of as many principal components as z has dimensions.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument(
        "--label",
        type=str | None,
        help="The column of labels, which x is without; label, of what is no table.",
    )
    parser.add_argument("--split", type=Split, default="test", help="Which data to classify.")
    parser.add_argument(
        "--folds",
        type=int,
        default=default_of(probe, "folds"),
        help="Of the cross-validation.",
    )
    parser.add_argument(
        "--neighbours",
        type=int,
        default=default_of(probe, "neighbours"),
        help="How many neighbours vote.",
    )
    parser.add_argument("--seed", type=int, default=default_of(probe, "seed"), help="Of the folds.")
    add_data(parser)
    add_program(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")
    options = parse(parser, argv)
    folder = run_folder(options.run)
    vae: Amortized = load_run(folder, options)
    like = recorded_like(folder, vae)
    data, own = data_of(folder, vae, options.split, options)
    split: Split = options.split if own else "test"
    found_by = recorded_source(folder, options.data)[0]
    labels = _labels(data, like, found_by, split, options.label)
    known = labels >= 0
    if not known.all():
        say(f"left out {plural(int((~known).sum()), 'row')} without a label", error=True)
    vae = at_a_draw(vae, options.seed)
    rows = vae.uses(data.rows(split))[torch.from_numpy(known)]
    labels = labels[known]
    how = {"folds": options.folds, "neighbours": options.neighbours, "seed": options.seed}
    found = {"latent means": probe(vae, rows, labels, **how)}
    x = _features(data, split)[known]
    size = vae.space.event_shape.numel()
    found |= probe_features({"data": x}, labels, components=size, **how)
    if options.json:
        summaries = {name: each.summary() for name, each in found.items()}
        say(json.dumps({"label": options.label, "features": summaries}))
    else:
        Terminal().print(_table(found, options.label, len(np.unique(labels))))


def _labels(
    data: Dataset, like: Dataset, found_by: str, split: Split, name: str | None
) -> np.ndarray:
    """Returns the labels of a split as integers, -1 where one is missing."""
    import pandas as pd

    table = read_like(found_by, like)
    if table is None:
        labels = data.labels[split]
        if name != "label" or labels is None:
            what = "label" if labels is not None else f"nothing, as {data.name} has no labels"
            raise expected("--label", what, name)
        return np.asarray(labels.cpu())
    others = [each for each in table.names if each not in data.names]
    if name not in others:
        raise unknown_name("--label", name, others)
    column = table.frame.iloc[:, table.names.index(name)]
    codes = pd.factorize(column, use_na_sentinel=True)[0]
    return np.asarray(codes[data.places[split].numpy()], dtype=np.int64)


def _features(data: Dataset, split: Split) -> np.ndarray:
    """Returns data as a classifier takes them: levels one-hot, means for what is missing."""
    x = data.split(split).flatten(1).double().cpu().numpy()
    fields = data.schema.x if data.schema is not None else ()
    columns: list[np.ndarray] = []
    for i, values in enumerate(x.T):
        seen = values[~np.isnan(values)]
        field = fields[i] if fields else None
        if field is not None and field.levels and field.kind == "category":
            columns += [np.nan_to_num(values == level) for level in range(field.num_levels)]
        else:
            columns.append(np.where(np.isnan(values), seen.mean() if len(seen) else 0.0, values))
    return np.stack(columns, 1).astype(np.float64)


def _table(found: Mapping[str, Probes], label: str, classes: int) -> Table:
    """Accuracies side by side."""
    first = next(iter(found.values()))
    table = Table(
        title=f"accuracy of {label}, {plural(classes, 'class')}, "
        f"{plural(first.num_data, 'observation')}",
        caption=f"{first.method}; ± is one standard error; always the most frequent class: "
        f"{first.accuracy['majority']:.3f}",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("by")
    table.add_column("nearest neighbours", justify="right")
    table.add_column("logistic regression", justify="right")
    for name, each in found.items():
        cells = [f"{each.accuracy[k]:.3f} ± {each.standard_error[k]:.3f}"
                 for k in ("neighbours", "linear")]  # fmt: skip
        table.add_row(name, *cells)
    return table
