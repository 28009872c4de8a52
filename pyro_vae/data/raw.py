"""Values as they come from a source, before they are split and served."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.budget import check_fits
from pyro_vae.data.dataset import Split
from pyro_vae.data.rows import Rows
from pyro_vae.data.schema import Schema
from pyro_vae.data.text import Vocabulary

EXACT = 2**24  # float32 holds every smaller integer
_PIECE = 2**18  # entries that are checked at once
_FEWEST = 64  # different numbers, between the smallest and the largest of an entry
# What an error about an entry that is not there suggests.
MISSING = "; `missing` (--missing) takes it for an entry that nobody observed"


@dataclass(frozen=True)
class Raw:
    """What a source holds.

    Args:
        splits: ``"train"``, and the other splits where the source brings its own; NaN where an
            entry is missing.
        labels: Long tensors for some or all of the same splits.
        label_names: What labels are called as a column.
        top: Top grey level of images with integer levels ``0..top``; None for values that are
            served as they are.
        binarize: Whether the convention for these images is to make them binary.
        names: Of the columns of x, where they have names.
        columns: What lies beside x by name: a number per observation, for the same splits as the
            labels.
        words: What the numbers 0, 1, ... of a column of words stand for, by the column's name.
        held_out: Shares to hold out as validation and test where the source has no such split.
        others: Names of further such columns, which were not asked for.
        dims: Names of the dimensions of one observation, where the source has some.
        coords: Labels along these dimensions, by name.
        index: Labels of the observations, for some or all of the same splits.
        image: Whether x are images, channels first, whatever their sizes.
        aside: Columns that are no part of x and may be asked for, as those of ``columns``.
        schema: What the columns of a table are; None for what is no table.
        classes: What the labels 0, 1, ... are called, where they have names.
        vocabulary: The levels of lines of text; None for what is none.
    """

    splits: Mapping[Split, Tensor]
    labels: Mapping[Split, Tensor] = field(default_factory=dict)
    label_names: Sequence[str] = ("label",)
    top: int | None = None
    binarize: bool = False
    names: Sequence[str] = ()
    columns: Mapping[str, Mapping[Split, Tensor]] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held_out: Mapping[Split, float] = field(
        default_factory=lambda: {"validation": 0.1, "test": 0.1}
    )
    others: Sequence[str] = ()
    dims: Sequence[str] = ()
    coords: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[Split, Any] = field(default_factory=dict)
    image: bool = False
    aside: Mapping[str, Mapping[Split, Tensor]] = field(default_factory=dict)
    schema: Schema | None = None
    classes: Sequence[str] = ()
    vocabulary: Vocabulary | None = None


def with_columns(raw: Raw, wanted: Mapping[str, Sequence[str]]) -> Raw:
    """Takes columns out of x, and labels, to lie beside it, where nothing may be missing.

    Args:
        raw: What a source holds.
        wanted: Names of columns, by the option that asks for them; ``label`` is that of labels.

    Raises:
        ValueError: If there is no such column, it is asked for twice, lacks a value, or nothing
            would be left.
    """
    beside = dict(raw.aside)
    if raw.labels:
        beside |= dict.fromkeys(raw.label_names, raw.labels)
    known, found = [*raw.names, *beside, *raw.others], dict(raw.columns)
    for option, names in wanted.items():
        for name in names:
            if not known:
                raise expected(option, "data with labels or with names of columns", name)
            if name not in known:
                raise unknown_name(option, name, known)
            if name in found:
                raise expected(option, "each column once", name)
            if known.count(name) > 1:
                raise expected(option, "a name that one column has", name)
            at = list(raw.names).index(name) if name in raw.names else None
            found[name] = (
                beside[name]
                if at is None
                else {split: x[:, at].double() for split, x in raw.splits.items()}
            )
            lacking = sum(int(column.isnan().sum()) for column in found[name].values())
            if lacking:
                raise expected(
                    option, f"a value for each observation in {name}", f"{lacking} missing"
                )
    kept = [i for i, name in enumerate(raw.names) if name not in found]
    if raw.names and not kept:
        raise expected("data", "columns that are left for x", list(raw.names))
    splits = raw.splits
    if len(kept) < len(raw.names):
        splits = {split: x[:, kept] for split, x in raw.splits.items()}
    return replace(raw, splits=splits, columns=found, names=[raw.names[i] for i in kept])


def as_values(x: Any, what: str = "", *, missing: bool = False) -> Tensor:
    """An array or a tensor as a finite float32 copy of shape ``(N, *event_shape)``.

    Args:
        x: A NumPy array, a tensor, or anything that NumPy takes as an array (``__array__``).
        what: Which array of a file this is, for the messages.
        missing: Whether NaN is an entry that is missing, which stays NaN.

    Raises:
        ValueError: If it is empty, has fewer than two dimensions, is not numeric or not finite, or
            is mapped to a file of whose copy memory has no room.
    """
    of = f" in {what}" if what else ""
    if isinstance(x, np.ma.MaskedArray):
        error = expected("data", f"no masked array, whose hidden values would be data{of}", x)
        raise ValueError(f"{error}; `.filled(nan)` of floats, with `missing`, lacks them")
    if isinstance(x, Tensor):
        refuse_unreadable(x, "data")
    try:
        array = x.detach() if isinstance(x, Tensor) else np.asarray(x)
    except ValueError:
        raise expected("data", f"rows of one length{of}", x) from None
    except Exception as foreign:  # whatever an object of another package raises
        reason = f"{type(x).__name__}: {foreign}".splitlines()[0]
        raise expected("data", f"an array of numbers{of}", reason) from None
    if not _is_real(array):
        error = expected("data", f"real, integer or boolean values{of}", array)
        hint = "" if array.dtype != object else "; `.astype(float)` makes numbers of objects"
        raise ValueError(f"{error}{hint}")
    if array.ndim < 2:
        error = expected("data", f"at least two dimensions (data by event){of}", array)
        hint = "; `x[:, None]` makes each number an observation" if array.ndim == 1 else ""
        raise ValueError(f"{error}{hint}")
    if 0 in array.shape:
        raise expected("data", f"at least one observation with at least one entry{of}", array)
    if isinstance(x, np.memmap):  # a file may be far larger than its copy has room for
        check_fits(array.shape, torch.float32.itemsize)
    if isinstance(array, Tensor):
        values = array.to(torch.float32, copy=True).contiguous()
    else:
        with np.errstate(over="ignore"):  # what overflows float32 is refused below as infinite
            values = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    lacking = values.isnan()
    values[lacking] = math.nan  # of all that are called so, the same bits for a fingerprint
    bad = values.isinf() if missing else ~values.isfinite()
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        wanted = f"a finite float32 value at index {where}{of}"
        error = expected("data", wanted, array[where].item())
        raise ValueError(f"{error}{MISSING}") if lacking[where] else error
    if isinstance(array, np.ndarray) and array.dtype == np.float64:
        _check_apart(array, of)
    if not _is_floating(array) and values.abs().max() >= EXACT:
        raise expected("data", f"integers below 2**24{of}, which float32 holds exactly", array)
    return values


def no_data(x: object) -> ValueError:
    """Returns the error about what is no data, with the way to some where there is one."""
    way = ""
    if isinstance(x, Mapping):
        way = "; `pd.DataFrame(data)` makes a table of columns"
    elif isinstance(x, bytes | bytearray | memoryview):
        way = "; `np.frombuffer(data, np.uint8).reshape(N, ...)` makes an array of bytes"
    elif isinstance(x, Iterator):
        way = "; `list(data)` makes rows of what it yields"
    error = expected("data", "a known name, a path, an array or a tensor", x)
    return ValueError(f"{error}{way}")


def refuse_unreadable(x: Tensor, argument: str) -> None:
    """Refuses tensors that have no plain array of numbers, and names the way to one.

    Raises:
        ValueError: If it is nested, sparse, quantised, or has no numbers at all.
    """
    kind = way = ""
    if x.is_nested:
        kind, way = "a nested one", "`torch.nested.to_padded_tensor` and a mask make it one"
    elif x.layout is not torch.strided:
        kind, way = f"a sparse one ({x.layout})", "`.to_dense()` makes it one"
    elif x.is_quantized:
        kind, way = f"a quantised one ({x.dtype})", "`.dequantize()` makes it one"
    elif x.is_meta:
        kind, way = "one on the device meta", "it has a shape alone, and no numbers"
    if kind:
        what = f"`{argument}`: expected real numbers in a dense tensor, got {kind}"
        raise ValueError(f"{what}: {way}")


def _check_apart(array: np.ndarray, of: str) -> None:
    """Refuses entries of which float32 would leave a few different numbers."""
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(array, axis=0), np.fmax.reduce(array, axis=0)
        step = np.maximum(np.abs(low), np.abs(high)) * 2.0**-23
        merged = (high > low) & (high - low < _FEWEST * step)
    if merged.any():
        where = tuple(map(int, np.argwhere(merged)[0]))
        what = (
            f"values at {where}{of} that float32 can tell apart: subtract what they have in common"
        )
        raise expected("data", what, float(high[where]))


def plain_tensor(value: Any) -> Any:
    """Returns an array of real numbers as a tensor, and anything else as it is."""
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, np.ndarray | np.generic):
        return value
    if value.dtype.kind not in "biuf":
        return value
    # A copy: torch knows neither the other order of bytes, nor long doubles, nor read-only arrays.
    kept = np.float64 if value.dtype.itemsize > 8 else value.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(value, dtype=kept, order="C"))


def with_missing(x: Tensor, missing: bool) -> Rows:
    """Returns rows, with a mask where NaN is an entry that nobody observed."""
    return Rows(x, {"mask": ~x.isnan()} if missing else {})


def holds(support: Constraint, x: Tensor) -> bool:
    """Returns whether all entries that are there are in the support of an entry.

    They are looked at in pieces, up to the first that is not.

    Args:
        support: One that has no dimensions of an event.
        x: Shape ``(N, *event_shape)``, NaN where an entry is missing.

    Example:
        >>> from torch.distributions import constraints
        >>> holds(constraints.boolean, torch.tensor([[0.0, math.nan], [1.0, 0.0]]))
        True
    """
    rows = max(1, _PIECE // max(1, x[:1].numel()))
    return all(bool((support.check(each) | each.isnan()).all()) for each in x.split(rows))


def as_labels(y: Any, size: int) -> Tensor:
    """Labels as a long tensor of shape ``(size,)``.

    Raises:
        ValueError: If they are not integers or not one for each observation.
    """
    array = y.detach() if isinstance(y, Tensor) else np.asarray(y)
    if not _is_real(array) or _is_floating(array) or tuple(array.shape) != (size,):
        raise expected("labels", f"{size} integers, one for each observation", array)
    if isinstance(array, Tensor):
        return array.to(torch.long, copy=True)
    return torch.from_numpy(np.array(array, dtype=np.int64))


def _is_real(array: np.ndarray | Tensor) -> bool:
    if isinstance(array, Tensor):
        return array.layout is torch.strided and not array.is_complex()
    return array.dtype.kind in "biuf"


def _is_floating(array: np.ndarray | Tensor) -> bool:
    return array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"
