"""`load`: any source of data as a `Dataset`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from pyro_vae._errors import check_seed, expected, typed_path, unknown_name
from pyro_vae.data.columns import columns_by_name
from pyro_vae.data.containers import Asked, from_container
from pyro_vae.data.containers.tables import index_of
from pyro_vae.data.dataset import SPLITS, Binarize, Dataset, Split
from pyro_vae.data.encoding import Unseen
from pyro_vae.data.frames import NUMBERS, Table, as_table, from_frame, is_frame
from pyro_vae.data.likeness import (
    as_known,
    check_alone,
    check_unseen,
    in_classes,
    in_order,
    in_words,
    reading_like,
)
from pyro_vae.data.named import NAMES, read_named
from pyro_vae.data.naming import with_names
from pyro_vae.data.pivoting import pivot_columns, pivoted
from pyro_vae.data.pixels import Layout, in_layout, size_of, top_of
from pyro_vae.data.raw import Raw, as_labels, as_values, no_data, with_columns
from pyro_vae.data.readers import SUFFIXES, TEXTS, Reading, read_file, refuse_text
from pyro_vae.data.readers.csv_files import Compression
from pyro_vae.data.readers.first_rows import Header
from pyro_vae.data.rows import Numbers
from pyro_vae.data.schema import Schema, SchemaLike
from pyro_vae.data.serving import beside, served
from pyro_vae.data.splitting import HeldOut, held_out, split_column, step_in_order
from pyro_vae.data.text import Text, TextUnit, TooLong

ROOT = Path("~/.cache/pyro-vae")
# Options that new data are loaded by, too.
_KEPT = (
    "cond", "size_factor", "covariates", "missing", "words", "levels", "key", "layers", "layout",
    "resize", "rescale", "pivot", "text", "max_length", "too_long", "vocabulary_size",
)  # fmt: skip

log = logging.getLogger("pyro_vae")
_NAMED = 6  # columns that are left out, in a line


def load(
    data: str | os.PathLike[str] | Numbers,
    *,
    root: str | os.PathLike[str] | None = None,
    binarize: Binarize | None = None,
    labels: Numbers | str | None = None,
    validation: float | None = None,
    test: float | None = None,
    levels: bool = False,
    cond: str | Sequence[str] = (),
    size_factor: str | None = None,
    covariates: str | Mapping[str, str] | None = None,
    missing: bool = False,
    split: str = "random",
    words: Sequence[Sequence[str]] = (),
    names: str | os.PathLike[str] | Sequence[str] = (),
    schema: SchemaLike = None,
    kinds: str | Mapping[str, str] | None = None,
    drop: str | Sequence[str] = "",
    label: str | None = None,
    sep: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    na_values: str | Sequence[str] = "",
    header: Header | str = "infer",
    encoding: str = "utf-8",
    compression: Compression = "infer",
    pivot: str | Sequence[str] | None = None,
    key: str | None = None,
    layers: str | None = None,
    layout: Layout | None = None,
    resize: int | Sequence[int] | None = None,
    rescale: bool = False,
    text: TextUnit | None = None,
    max_length: int | None = None,
    too_long: TooLong | None = None,
    vocabulary_size: int | None = None,
    seed: int = 0,
    download: bool = True,
    like: Dataset | None = None,
    unseen: Unseen = "refuse",
) -> Dataset:
    """Load a named set, an array, a container or a file as a `Dataset` of float32 tensors.

    ================== ============ ============================== ================================
    name               event shape  train / validation / test      validation
    ================== ============ ============================== ================================
    `digits`           (1, 8, 8)    1,257 / 180 / 360              shuffled by `seed`, as is test
    `mnist`            (1, 28, 28)  50,000 / 10,000 / 10,000       last 10,000 of training
    `fashion_mnist`    (1, 28, 28)  50,000 / 10,000 / 10,000       last 10,000 of training
    `kmnist`           (1, 28, 28)  50,000 / 10,000 / 10,000       last 10,000 of training
    `emnist`           (1, 28, 28)  94,000 / 18,800 / 18,800       last 18,800 ("balanced", upright)
    `omniglot`         (1, 28, 28)  17,352 / 1,928 / 13,180        a tenth, shuffled by `seed`
    `cifar10`          (3, 32, 32)  45,000 / 5,000 / 10,000        a tenth, shuffled by `seed`
    `svhn`             (3, 32, 32)  65,931 / 7,326 / 26,032        a tenth, shuffled by `seed`
    `binarized_mnist`  (1, 28, 28)  50,000 / 10,000 / 10,000       its own
    ================== ============ ============================== ================================

    `digits` comes with scikit-learn. Omniglot is inverted (ink is 1), reduced by averaging
    areas, and tested on its evaluation alphabets. `binarized_mnist` is the static binarisation of
    Larochelle & Murray, read from `binarized_mnist.npz` or from their three `.amat` files.

    References:
        The neural autoregressive distribution estimator, Larochelle & Murray, 2011
        (https://proceedings.mlr.press/v15/larochelle11a.html); EMNIST: an extension of MNIST to
        handwritten letters, Cohen et al., 2017 (https://arxiv.org/abs/1702.05373).

    Args:
        data: A name from the table; an array or a tensor of shape ``(N, *event_shape)``; a
            container: a table of pandas, polars or pyarrow, a DataArray or Dataset of xarray, a
            sparse matrix, an AnnData, a data set of torch or of Hugging Face, an open array of HDF5
            or Zarr; or the path of a `.npy`, `.npz`, `.h5`, `.h5ad`, `.csv`, `.tsv`, `.parquet` or
            `.xlsx` file, of a `.txt` file of lines, or of a `.zarr` folder or one of images. An
            `.npz` file may be a sparse matrix as SciPy saves it; else an `.npz`, `.h5` or `.zarr`
            file holds its splits under `train`, `validation` (or `valid`) and `test`, or one array
            under `x`, `data` or its only key; labels may be under `y` or `labels`, which entries
            are observed under `mask`, with splits under `y_train` or `train_labels` and so on; what
            else there is, is refused.
            Folders in a folder of images are classes. A table holds numbers, words, truth values or
            dates, with or without names of columns; what each is, :attr:`Dataset.schema` says.
        root: Folder of the named sets, in torchvision's layout; by default ``~/.cache/pyro-vae``.
            What is there is read in place; only a download writes.
        binarize: ``"threshold"`` makes a value 1 where it is above one half of the top level,
            ``"stochastic"`` draws it from a Bernoulli with the grey value as its probability
            (training batches afresh, see :meth:`Dataset.draw`; validation and test once, by
            `seed`), ``"none"`` leaves it. By default ``"threshold"`` for the grey images of the
            table, else ``"none"``. An array must have values in [0, 1] to be made binary.
        labels: Integer labels ``(N,)`` of data that are one array; or as `label`.
        validation: Share of the training data to hold out, in [0, 1), where the source has no
            validation set; by default a tenth. With 0 that split is empty.
        test: The same for the test set; by default a tenth, for `digits` a fifth.
        levels: Serve the integer levels of images (0 to 16 or 255) as they are, for likelihoods of
            counts. Otherwise images that are not made binary are divided by the top level.
        cond: Columns to condition on, ``a,b`` or a list: ``label`` where there are labels, also
            ``digit`` of digits, or columns of a `.csv` file by name, which are then no part of x.
            Up to 1000 integers or words become one-hot vectors, other numbers are standardised.
        size_factor: The column of size factors, likewise; divided by its mean in the training data.
        covariates: Columns of the other covariates of a likelihood by their names, as they are: a
            mapping or ``noise=sd,exposure=days``.
        missing: Whether NaN, and an empty cell or ``NA`` in a `.csv` file, is an entry that nobody
            observed, instead of an error; :attr:`Dataset.mask` then marks where there is one.
        split: How rows are held out where the source has no such split: ``random``; ``blocks``,
            the last rows for the test and those before them for validation, of data in the order of
            time, whose neighbours are near-copies; ``column NAME``, by the groups of a column: rows
            of a group are in one split; or ``time NAME``, by the numbers or dates of a column: the
            test rows are later than those for validation, and these than those for training. Such a
            column is no part of x.
        words: For each column of x of a table, in order, the words that it holds, whose
            places from 0 are then its values, as in ``[[], ["low", "middle", "high"]]``; none for a
            column of numbers. One list is that of every column.
        names: Names of the entries of x of arrays, such as the words of bags of words: a list, or
            the path of a text file with one a line.
        schema: What is known of the columns of a table: a :class:`~pyro_vae.data.Schema`; a mapping
            from names to kinds, or to mappings of what a :class:`~pyro_vae.data.Field` has; or a
            YAML or JSON file of either. Of other columns it is inferred from names and values.
            ``"numbers"`` takes each column for the numbers that it holds, and infers nothing.
        kinds: Kinds of some columns of a table, as ``income=positive,mood=ordinal`` or a mapping.
        drop: Columns of a table that x is without, ``a,b`` or a list.
        label: The column of a table, or beside x, that holds labels: integers or words.
        sep: What is between the cells of a text; by default a comma, in a `.tsv` file a tab.
        decimal: The decimal point of a text.
        thousands: What groups digits in a text.
        na_values: What else means that an entry is missing, besides empty cells, NA and nan;
            ``?,-`` or a list.
        header: The row that names the columns, from 0, those before it left out; ``"none"`` if
            there is none; by default what the first row and those below it show.
        encoding: Of a text.
        compression: Of a text; by default that of the suffix.
        pivot: Columns of a long table of events, ``user,item`` or ``user,item,amount`` or a list: x
            has a row for each user and a column for each item, both sorted, and in it the number of
            events, or the sum of the amounts, as ``pandas.crosstab`` has it. Rows keep their ids
            (:attr:`Dataset.index`), columns theirs (:attr:`Dataset.names`). Of data that are read
            `like` these, items that these do not have are left out, and reported.
        key: Which of several arrays of a file, a data set or an xarray Dataset is x.
        layers: The layer of an AnnData or an `.h5ad` file that is x, in place of its ``X``.
        layout: Where arrays of images ``(N, ., ., .)`` have their channels, which are served first:
            ``channels-first`` or ``channels-last``; by default where a size is 1, 3 or 4. Series
            ``(N, T, C)`` with ``channels-last`` are served as ``(N, C, T)``. With ``no-channels``
            arrays ``(N, H, W)`` are served with one.
        resize: Size that images are given by averaging, or their height and width.
        rescale: Whether integer levels 0 to 255 are divided by the top level, to be from 0 to 1.
        text: Whether the ``characters`` or the ``words`` of a `.txt` file, a line a row, are levels
            of x, from 1, with 0 after the last one (:attr:`Dataset.vocabulary`); by default
            characters, unless most lines are numbers, which are refused.
        max_length: Levels of a line at most; by default those of the longest, up to 256.
        too_long: Whether longer lines are ``cut`` or left out (``drop``); by default cut.
        vocabulary_size: Symbols of a text at most, the most frequent; others are one, unknown.
        seed: Of the shuffled splits and the stochastic binarisation.
        download: Whether to fetch a named set that is not under `root`.
        like: Data that a model was fitted to, and these are new ones of the same kind: they are
            read as those were, by the same schema, with columns by name in any order, conditions,
            size factors and covariates in the same units, and all are the test set, unless they
            bring splits of their own. A column that is not there is unobserved where entries may be
            missing, else refused. All other options but those of reading are those of that data.
        unseen: Whether a level that the data `like` which these are do not have is refused, or
            taken for ``missing``.

    Returns:
        The data set: its splits, float32 of shape ``(N, *event_shape)`` each, with labels,
        conditions and masks of the same length beside them, and the schema of a table.

    Raises:
        ValueError: If the name is unknown, files are missing and cannot be downloaded, values are
            not finite numbers of the right shape, or an option does not fit the source.

    Example:
        >>> import torch
        >>> data = load("digits")
        >>> data.test.shape, data.support
        (torch.Size([360, 1, 8, 8]), Boolean())
        >>> load(torch.randn(100, 3), validation=0.2)
        Dataset('array', train=70, validation=20, test=10, event_shape=(3,), binarize='none')
    """
    given = dict(locals())
    check_unseen(unseen, like)
    if like is not None:
        check_alone(load, given)
        how = Reading(sep, decimal, thousands, na_values, header, encoding, compression)
        return _load_like(data, like, reading_like(how, like), unseen, root, download, seed)
    if binarize is not None and binarize not in get_args(Binarize):
        raise unknown_name("binarize", binarize, get_args(Binarize))
    if levels and binarize not in (None, "none"):
        raise expected("binarize", "'none' where levels=True", binarize)
    seed = check_seed("seed", seed)
    known = columns_by_name("covariates", covariates)
    wanted = _columns(cond, size_factor, known)
    if (by := split_column(split)) is not None:
        wanted[by[0]] = [by[1]]
    if isinstance(labels, str):
        label, labels = labels, None
    how = Reading(sep, decimal, thousands, na_values, header, encoding, compression)
    columns = {"schema": schema, "kinds": kinds, "drop": drop, "label": label, "words": words}
    aside = tuple(each for names in wanted.values() for each in names)
    pairs = pivot_columns(pivot)
    if pairs:
        _refuse_beside(pairs, columns | wanted | {"missing": missing})
    lines = Text(text, max_length, too_long, vocabulary_size)
    asked = Asked("data", missing, aside, label, key, layers, size_of(resize), pairs, lines)
    raw, name, source = _read(data, root, download, how, wanted, columns, asked)
    raw = in_layout(with_columns(with_names(raw, names), wanted), layout)
    if rescale and (levels or raw.top is not None):
        raise expected("rescale", "False with a named set, see `levels`", rescale)
    raw = replace(raw, top=top_of(raw)) if rescale else raw
    if levels and raw.top is None:
        raise expected("levels", "False for arrays and files, served as they are", levels)
    raw = _with_labels(raw, labels)
    if binarize is None:
        binarize = "threshold" if raw.binarize and not levels else "none"
    top = raw.top if raw.top is not None and not levels else 1
    rows = held_out(raw, split, seed)
    parts = _split(raw, {"validation": validation, "test": test}, rows)
    served_as = served(raw, parts, top, binarize, missing, seed)
    if by is not None:
        raw = replace(raw, columns={k: v for k, v in raw.columns.items() if k != by[1]})
    found = beside(raw, parts, size_factor, known)
    served_as |= {"step": step_in_order(raw), "schema": raw.schema, "classes": tuple(raw.classes)}
    served_as["vocabulary"] = raw.vocabulary
    options = {name: given[name] for name in _KEPT} | {"label": label} | how.given()
    return Dataset(name=name, source=source, options=options, **served_as, **found)


def _load_like(
    data: Any,
    like: Dataset,
    how: Reading,
    unseen: Unseen,
    root: str | os.PathLike[str] | None,
    download: bool,
    seed: int,
) -> Dataset:
    """New data as others were loaded, see `like` of :func:`load`."""
    own = dict.fromkeys(_KEPT) | {"cond": "", "label": None} | dict(like.options)
    known = columns_by_name("covariates", own["covariates"])
    wanted = _columns(own["cond"] or "", own["size_factor"], known)
    missing = bool(own["missing"])
    aside = tuple(each for names in wanted.values() for each in names)
    others = (own["label"], own["key"], own["layers"], size_of(own["resize"]))
    pairs = pivot_columns(own["pivot"])
    lines = Text(too_long=own["too_long"], vocabulary=like.vocabulary)
    columns: dict[str, Any] = {"schema": NUMBERS, "words": own["words"] or ()}
    if like.schema is not None:
        columns = {"schema": like.schema}
    try:
        asked = Asked("data", missing, aside, *others, pairs, lines)
        raw, name, source = _read(data, root, download, how, wanted, columns, asked, like, unseen)
    except ValueError as error:
        raise in_words(error, like) from None
    raw = in_order(in_layout(with_columns(raw, wanted), own["layout"]), like)
    raw = in_classes(raw, like)
    raw = replace(raw, top=top_of(raw)) if own["rescale"] else raw
    top = raw.top if raw.top is not None and not own["levels"] else 1
    of: dict[Split, Split] = {split: split for split in raw.splits}
    of = {"test": "train"} if set(of) == {"train"} else of
    parts: dict[Split, tuple[Split, Tensor | slice]] = {
        split: (of[split], slice(None)) if split in of else ("train", slice(0, 0))
        for split in SPLITS
    }
    served_as = served(raw, parts, top, like.binarize, missing, seed) | {"support": like.support}
    found = beside(raw, parts, own["size_factor"], known, like)
    served_as |= {"classes": like.classes, "vocabulary": like.vocabulary}
    return Dataset(name=name, source=source, schema=like.schema, options=own,
                   **served_as, **found)  # fmt: skip


def _columns(
    cond: str | Sequence[str], size_factor: str | None, covariates: Mapping[str, str]
) -> dict[str, list[str]]:
    """The columns that are to lie beside x, by the option that asks for them."""
    names = cond.split(",") if isinstance(cond, str) else cond
    sizes = [] if size_factor is None else [size_factor]
    beside = {"size_factor": sizes, "covariates": list(covariates.values())}
    return {"cond": [name.strip() for name in names if name]} | beside


def _with_labels(raw: Raw, labels: Numbers | None) -> Raw:
    """Adds labels to data that are one array."""
    if labels is None:
        return raw
    if raw.top is not None or set(raw.splits) != {"train"}:
        raise expected("labels", "None where the data bring their own splits", labels)
    own: dict[Split, Tensor] = {"train": as_labels(labels, len(raw.splits["train"]))}
    return replace(raw, labels=own, classes=())


def _read(
    data: Any,
    root: str | os.PathLike[str] | None,
    download: bool,
    how: Reading,
    wanted: Mapping[str, Sequence[str]],
    columns: Mapping[str, Any],
    asked: Asked,
    like: Dataset | None = None,
    unseen: Unseen = "refuse",
) -> tuple[Raw, str, str | None]:
    """The raw values with their name, and with what `load` finds them by again."""
    name, source = "array", None
    of_tables = {**columns, "pivot": asked.pivot}
    if isinstance(data, str) and data in NAMES:
        folder = typed_path(ROOT if root is None else root)
        if like is None:
            _refuse(how, of_tables)
            _refuse_arrays(asked)
        return read_named(data, folder, download), data, data
    if isinstance(data, str | os.PathLike):
        path = typed_path(data)
        if not path.suffix and not path.exists():
            raise unknown_name("data", str(data), (*NAMES, f"a path to {', '.join(SUFFIXES)}"))
        if like is not None and (like.vocabulary is not None) != (path.suffix in TEXTS):
            what = "a file of lines of text" if like.vocabulary else "a file of no text"
            raise expected("data", f"{what}, as {like.name} was", str(data))
        data, name, source = read_file(path, how, asked), path.name, str(path.resolve())
    elif (found := from_container(data, asked)) is not None:
        data = found
    elif like is None:
        _refuse_arrays(asked)
    if isinstance(data, Table) or is_frame(data):
        if asked.pivot:
            raw = pivoted(as_table(data), asked.pivot, like.names if like else ())
            return raw, "table" if source is None else name, source
        table = as_table(data) if like is None else as_known(as_table(data), like, wanted)
        missing = asked.missing
        keep = source is None
        raw = from_frame(table, wanted=wanted, missing=missing, unseen=unseen, keep=keep, **columns)
        if raw.schema is not None and not isinstance(columns["schema"], Schema):
            _report(raw.schema)
        if source is None:
            name = "table"
        if (index := index_of(data)) is not None:
            raw = replace(raw, index={"train": index})
        return raw, name, source
    if isinstance(data, Raw):
        if like is None:
            # Of a text the reader itself has refused all but its encoding.
            _refuse(Reading() if data.vocabulary else how, {**of_tables, "label": None})
        return data, name, source
    if like is None:
        _refuse(how, of_tables)
    if isinstance(data, Tensor | list | tuple) or hasattr(data, "__array__"):
        return Raw({"train": as_values(data, missing=asked.missing)}), name, source
    raise no_data(data)


def _refuse(how: Reading, columns: Mapping[str, Any]) -> None:
    """Refuses options of tables for other data."""
    columns = {
        k: v for k, v in columns.items() if k != "words" and not (k == "schema" and v == NUMBERS)
    }
    for name, value in (how.given() | columns).items():
        if value:
            raise expected(name, "nothing, as the data are no table with names of columns", value)


def _refuse_beside(pivot: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuses options of columns for events, which are no columns of x."""
    for name, value in options.items():
        if value and not (name == "schema" and value == NUMBERS):
            raise expected(name, f"nothing with `pivot` {','.join(pivot)}", value)


def _refuse_arrays(asked: Asked) -> None:
    """Refuses options of containers and of files of arrays for other data."""
    for option in ("key", "layers", "resize"):
        if getattr(asked, option) is not None:
            raise expected(option, "None with a named set or an array", getattr(asked, option))
    refuse_text(asked)


def _report(schema: Schema) -> None:
    """Says what was decided about a table, a line each, and what is left out of x."""
    for warning in schema.warnings:
        log.warning("%s", warning)
    left = [each for each in schema.left_out if each.reason != "left out by `drop`"]
    if left:
        shown = ", ".join(f"{each.name} ({each.kind}: {each.reason})" for each in left[:_NAMED])
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        log.warning("x is without %s%s; `kinds` (--kind NAME=KIND) keeps one", shown, more)


def _split(
    raw: Raw, shares: Mapping[Split, float | None], rows: HeldOut
) -> dict[Split, tuple[Split, Tensor | slice]]:
    """For each split, the split of the source that it is part of and its rows there."""
    size = len(raw.splits["train"])
    parts: dict[Split, tuple[Split, Tensor | slice]] = {}
    for split in ("test", "validation"):
        share = shares[split]
        if split in raw.splits:
            if share is not None:
                raise expected(split, f"None, as the data bring their own {split} set", share)
            parts[split] = split, slice(None)
            continue
        share = raw.held_out[split] if share is None else share
        if isinstance(share, bool) or not 0 <= share < 1:
            raise expected(split, "a share in [0, 1)", share)
        # Rounding up holds out at least one.
        parts[split] = "train", rows.take(math.ceil(share * size - 1e-9))
    if len(rows.left) == 0:
        raise expected("data", "enough data to leave some for training (see `test`)", size)
    parts["train"] = "train", rows.take(len(rows.left)) if len(rows.left) < size else slice(None)
    return {split: parts[split] for split in SPLITS}
