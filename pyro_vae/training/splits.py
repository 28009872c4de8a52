"""Training and validation rows of whatever data were given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae._errors import expected, is_number
from pyro_vae._untouched import undisturbed
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import Split, fingerprint
from pyro_vae.data.rows import Numbers, Rows, given_of
from pyro_vae.data.source import Source, Stream
from pyro_vae.data.sources import is_elsewhere, is_source, stream
from pyro_vae.data.text import Vocabulary
from pyro_vae.likelihoods import Likelihood
from pyro_vae.programs import VAE, Amortized, Program
from pyro_vae.programs.accept import as_tensor
from pyro_vae.programs.composition import Composition
from pyro_vae.programs.streamed import StreamedRows, at_equal_distances, checked

__all__ = [
    "Accepted",
    "Memory",
    "Splits",
    "Values",
    "beside",
    "check_size",
    "rows_of_a_pass",
    "split",
    "start",
]

Values: TypeAlias = Numbers | Mapping[Split, Any] | Mapping[str, Any] | None


_STARTED_AT = 2**24  # entries of streamed rows, about, that a model is started at
_STARTED_AT_LEAST = 2**20
_SHARE = 4  # of the memory is for validation rows, one part in so many


@dataclass(frozen=True)
class Memory:
    """What data may take, and how a run that goes on has it.

    Attributes:
        most: Bytes.
        is_resumed: Whether a run goes on.
        window: Rows of a window of that run; None if its data were in memory.
        neighbours: Rows of a block of that run; None if it is not known yet.
    """

    most: int
    is_resumed: bool = False
    window: int | None = None
    neighbours: int | None = None

    def holds(self, rows: Stream) -> bool:
        """Returns whether rows are to be in memory: a run goes on as it began."""
        return self.window is None if self.is_resumed else rows.nbytes <= self.most


@dataclass(frozen=True)
class Splits:
    """The rows of a fit.

    Attributes:
        train: Training rows; a stream of those that do not fit into memory.
        held_out: Validation rows, if any.
        draw: What to do to each batch afresh: data of probabilities are drawn anew for each.
        memory: What rows of a stream may take.
    """

    train: Rows | Stream
    held_out: Rows | Stream | None = None
    draw: Callable[[Tensor], Tensor] | None = None
    memory: Memory = Memory(0)
    _seen: dict[str, dict[str, str]] = field(default_factory=dict)
    _largest: dict[str, float] = field(default_factory=dict)

    @property
    def has_mask(self) -> bool:
        """Whether it is known which entries of the training rows are observed."""
        train = self.train.first if isinstance(self.train, Stream) else self.train
        return train.mask is not None

    @property
    def num_labels(self) -> int:
        """How many training rows have a label."""
        if isinstance(self.train, Rows):
            return self.train.num_labels
        if "labels" not in self.train.first.given:
            return 0
        return sum(rows.num_labels for rows in self.train.blocks())

    def prints(self, vae: Amortized) -> dict[str, dict[str, str]]:
        """Returns fingerprints of both splits, ``x`` and what goes with it; checks streamed rows.

        Raises:
            ValueError: If streamed rows do not fit the model.
        """
        found = {}
        for name, argument in (("train", "data"), ("held_out", "validation")):
            rows = getattr(self, name)
            if isinstance(rows, Stream) and name not in self._seen:
                streamed = _strict(vae, rows, is_train=name == "train")
                self._seen[name] = checked(streamed, argument, partial(self._looked_at, name))
            if isinstance(rows, Stream):
                found[name] = self._seen[name]
            elif rows is not None:
                found[name] = {key: fingerprint(each) for key, each in _tensors(rows).items()}
        return found

    def _looked_at(self, name: str, rows: Rows, accepted: Rows) -> dict[str, Tensor]:
        """Notes the largest number of a block, and returns what has fingerprints."""
        if accepted.x.is_floating_point():
            largest = max(abs(end.item()) for end in accepted.x.aminmax())
            self._largest[name] = max(self._largest.get(name, 0.0), largest)
        return _tensors(rows)

    def accepted(self, vae: Amortized) -> tuple[Accepted, Rows | StreamedRows]:
        """Returns the same as the model takes them, and one draw of the training rows.

        Raises:
            ValueError: If they do not fit the model.
        """
        if isinstance(self.train, Stream) or isinstance(self.held_out, Stream):
            return self._streamed(vae)
        if self.draw is None:
            drawn = train = vae.accepts(self.train, "data")
        else:
            drawn = vae.accepts(replace(self.train, x=self.draw(self.train.x)), "data")
            train = replace(drawn, x=self.train.x.to(drawn.x))
        held_out = None if self.held_out is None else vae.accepts(self.held_out, "validation")
        return Accepted(train, held_out, self.draw, self.memory), drawn

    def _streamed(self, vae: Amortized) -> tuple[Accepted, Rows | StreamedRows]:
        """Reads validation rows that fit into a part of the memory, and leaves all others."""
        if not self._seen:
            self.prints(vae)
        train: Rows | StreamedRows
        train = (
            _strict(vae, self.train, is_train=True)
            if isinstance(self.train, Stream)
            else vae.accepts(self.train, "data")
        )
        held_out: Rows | StreamedRows | None = None
        if isinstance(self.held_out, Stream):
            held_out = _strict(vae, self.held_out, is_train=False)
            if self.held_out.nbytes <= self.memory.most // _SHARE:
                held_out = held_out[:]
        elif self.held_out is not None:
            held_out = vae.accepts(self.held_out, "validation")
        return Accepted(train, held_out, None, self.memory, self._largest), train


@dataclass(frozen=True)
class Accepted:
    """The rows of a fit as the model takes them; attributes as those of :class:`Splits`."""

    train: Rows | StreamedRows
    held_out: Rows | StreamedRows | None
    draw: Callable[[Tensor], Tensor] | None
    memory: Memory
    largest: Mapping[str, float] = field(default_factory=dict)  # absolute value, of streamed rows


def check_size(accepted: Accepted) -> None:
    """Refuses numbers whose squares overflow, of which a parameter would be the first to show."""
    for rows, seen in ((accepted.train, "train"), (accepted.held_out, "held_out")):
        largest, dtype = accepted.largest.get(seen, 0.0), torch.get_default_dtype()
        if isinstance(rows, Rows):
            if not rows.x.is_floating_point():
                continue
            largest, dtype = max(abs(end.item()) for end in rows.x.aminmax()), rows.x.dtype
        if largest > (most := torch.finfo(dtype).max ** 0.5 / 4):
            name = str(dtype).removeprefix("torch.")
            what = f"numbers up to {most:.1e}, whose squares {name} holds: take another unit"
            raise expected("data", what, largest)


def _strict(vae: Amortized, rows: Stream, *, is_train: bool) -> StreamedRows:
    return StreamedRows(vae, rows, () if is_train else ("labels",), is_strict=True)


def _tensors(rows: Rows) -> dict[str, Tensor]:
    return {"x": rows.x, **rows.tensors()}


def start(vae: Amortized, drawn: Rows | StreamedRows, most: int) -> None:
    """Starts a model at training rows; at some at equal distances, of many that are streamed.

    Args:
        vae: The model.
        drawn: The rows.
        most: Bytes that rows may take.
    """
    rows = drawn
    if isinstance(rows, StreamedRows):
        share = most // _SHARE // rows.stream.bytes_a_row * rows.stream.event_shape.numel()
        rows = at_equal_distances(rows, max(_STARTED_AT_LEAST, min(_STARTED_AT, share)))
    vae.initialize(rows.x, **rows.without("labels").given)
    if isinstance(vae, Program):
        for half in (vae.model, vae.guide):
            half.num_data = len(drawn)


def beside(
    vae: Amortized,
    data: object,
    cond: Values,
    mask: Values,
    covariates: Mapping[str, Any] | None,
    labels: Values,
) -> dict[str, Any]:
    """Returns what there is to go with the rows: a dataset may bring it.

    Raises:
        ValueError: If the rows are lines of text, and the likelihood has other symbols or no end.
    """
    if isinstance(data, Dataset):
        if data.vocabulary is not None and isinstance(vae, Composition):
            _check_symbols(vae.likelihood, data.vocabulary)
        cond = dict(data.cond) or None if cond is None and "cond" in vae.takes else cond
        mask = dict(data.mask) or None if mask is None else mask
        if covariates is None and "covariates" in vae.takes:
            covariates = dict(data.covariates) or None
    named = {"cond": cond, "mask": mask, "covariates": covariates, "labels": labels}
    return {
        name: value
        for name, value in named.items()
        if not (value is None or (isinstance(value, Mapping) and not value))
    }


def _check_symbols(likelihood: Likelihood, vocabulary: Vocabulary) -> None:
    """Refuses a likelihood that takes what fills a row after the end of a line for data."""
    levels, end = vocabulary.levels, vocabulary.end
    if (getattr(likelihood, "levels", None), getattr(likelihood, "end", None)) != (levels, end):
        options = f"--likelihood.levels {levels} --likelihood.end {end}"
        what = f"Autoregressive with the {levels} symbols and the end of the text ({options})"
        raise expected("likelihood", what, type(likelihood).__name__)


def split(
    data: Dataset | Stream | Source | Numbers,
    validation: object,
    seed: int | None,
    given: Mapping[str, Values],
    memory: Memory,
) -> Splits:
    """Sets validation rows apart, and puts with all rows what goes with them.

    Args:
        data: A dataset, which brings its splits, or an array of shape ``(N, *event_shape)``.
        validation: Data, or the fraction of ``data`` to set apart; None for none.
        seed: Of the permutation by which that fraction is drawn.
        given: What goes with the rows, by name; where there are splits, by split.
        memory: What data that are not in memory may take there.

    Raises:
        ValueError: If something is missing, or of another length than the rows.
    """
    if isinstance(data, Dataset):
        if validation is not None:
            raise expected("validation", "None with a dataset, which brings its own", validation)
        if memory.window is not None:
            raise expected("data", "the rows, read in windows, that the run began with", data)
        train, held_out = _rows(data.train, given, "train"), None
        if len(data.validation) > 0:
            held_out = _rows(data.validation, given, "validation")
        return Splits(train, held_out, data.draw if data.binarize == "stochastic" else None)
    if memory.window is not None and not is_elsewhere(data):
        data = stream(_as_tensor("data", data))  # a run goes on in windows as it began
    if is_elsewhere(data):
        alone = validation is None or is_number(validation)
        rows = stream(cast(Any, data), **_chosen(given, "train", alone=alone))
        if is_source(data) or not memory.holds(rows):
            return _of_a_stream(rows, validation, seed, given, memory)
    x = _as_tensor("data", data)
    if len(x) == 0:
        raise expected("data", "at least one observation", data)
    if validation is None:
        return Splits(_rows(x, given, "train", alone=True))
    if not is_number(validation):
        return Splits(_rows(x, given, "train"), _held_out(validation, given, memory), None, memory)
    train = _rows(x, given, "train", alone=True)
    chosen, kept = _fractions(len(x), validation, seed)
    return Splits(train[kept], train[chosen].without("labels"))


def _held_out(validation: object, given: Mapping[str, Values], memory: Memory) -> Rows | Stream:
    """Returns validation rows that are data of their own."""
    if is_elsewhere(validation):
        rows = stream(cast(Any, validation), **_chosen(given, "validation"))
        if rows.nbytes > memory.most // _SHARE:
            return rows
        if is_source(validation):
            return rows.read().without("labels")
    return _rows(_as_tensor("validation", validation), given, "validation")


def _fractions(size: int, validation: object, seed: int | None) -> tuple[Tensor, Tensor]:
    """Draws which rows validate, and returns these and all others."""
    fraction = float(cast(float, validation))
    if not 0 < fraction < 1:
        raise expected("validation", "data or a fraction between 0 and 1", validation)
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    order = torch.randperm(size, generator=generator)
    chosen, kept = order.split([n := round(fraction * size), size - n])
    if len(chosen) == 0 or len(kept) == 0:
        raise expected("validation", f"a fraction that splits {size} data", validation)
    return chosen, kept


def _of_a_stream(
    rows: Stream,
    validation: object,
    seed: int | None,
    given: Mapping[str, Values],
    memory: Memory,
) -> Splits:
    """Sets validation rows apart, those that are drawn in the order of the source."""
    in_memory = memory.holds(rows)  # all of them, as whoever asked before
    train: Rows | Stream = rows.read() if in_memory else rows
    held_out: Rows | Stream | None = None
    if validation is not None and not is_number(validation):
        held_out = _held_out(validation, given, memory)
    elif validation is not None:
        chosen, kept = _fractions(len(rows), validation, seed)
        if in_memory:  # in the order of the draw, as those of a tensor are
            train, held_out = train[kept], cast(Rows, train[chosen]).without("labels")
        else:
            train, held_out = rows[kept.sort().values], rows[chosen.sort().values]
    return Splits(train, held_out, None, memory)


def rows_of_a_pass(vae: Amortized, train: Rows | StreamedRows, batch_size: int) -> int:
    """Returns how many rows a pass takes: all, or all but a last one that is a batch by itself.

    That is where a network of the user's has batch normalisation, which refuses a batch of one
    row; those of this package take it.
    """
    size = len(train)
    normalises = any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in vae.modules())
    if size % batch_size != 1 or size == 1 or not normalises or not isinstance(vae, VAE):
        return size
    twin, one = copy.deepcopy(vae).train(), train[:1]
    try:
        with torch.no_grad(), undisturbed(vae, 0, one.x.device):
            twin.model.decode(twin.guide.encode(one.x, one.given).sample(), one.given)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return size - 1
    return size


def _chosen(given: Mapping[str, Values], split: Split, *, alone: bool = False) -> dict[str, Any]:
    """Returns what goes with a split; ``alone`` if there is no other split."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "labels" and split == "validation":
            continue
        if isinstance(value, Mapping) and _by_split(name, value):
            if split not in value:
                raise expected(name, f"a mapping with {split}", sorted(value))
            value = cast("Mapping[str, Any]", value)[split]
        elif not alone and name != "labels":
            raise expected(name, "a mapping with train and validation", value)
        found[name] = value
    return found


def _rows(x: Tensor, given: Mapping[str, Values], split: Split, *, alone: bool = False) -> Rows:
    """Returns a split with what goes with it; ``alone`` if there is no other split."""
    found: dict[str, Any] = {}
    for name, value in _chosen(given, split, alone=alone).items():
        if isinstance(value, Mapping):
            named = value.items()
            found[name] = {key: _as_rows(f"{name}: {key}", each, x) for key, each in named}
        else:
            found[name] = _as_rows(name, value, x)
    return Rows(x, given_of(found))


def _by_split(name: str, value: Mapping[Any, Any]) -> bool:
    """Returns whether a mapping is one of splits: covariates are a mapping themselves."""
    return name != "covariates" or all(isinstance(each, Mapping) for each in value.values())


def _as_rows(argument: str, value: object, x: Tensor) -> Tensor:
    tensor = _as_tensor(argument, value)
    if len(tensor) != len(x):
        raise expected(argument, f"one row for each of {len(x)} data", value)
    return tensor


def _as_tensor(argument: str, data: object) -> Tensor:
    if isinstance(data, np.ma.MaskedArray):
        raise expected(argument, "an array, and `mask` beside it", data)
    data = as_tensor(data, argument)
    if not isinstance(data, Tensor) or data.layout is not torch.strided or data.is_meta:
        raise expected(argument, "a tensor or an array of real numbers", data)
    if data.ndim == 0:
        raise expected(argument, "at least one dimension", data)
    return data
