"""A data set as tensors: three splits, their support and the base measure of a score on them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae._errors import expected, plural, unknown_name
from pyro_vae._html import shown
from pyro_vae.data.axes import Axes, keep_axes
from pyro_vae.data.columns import Column
from pyro_vae.data.rows import Given, Rows, given_of
from pyro_vae.data.schema import Schema
from pyro_vae.data.text import Vocabulary

Binarize = Literal["none", "threshold", "stochastic"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_NAMED = 8  # entries, in a notebook

# Keyed by identity and weakly: a split that is handed on alone still knows where it came from,
# and a data set that nobody holds is freed.
_descriptions: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_fingerprints: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def fingerprint(x: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes, as 64 hexadecimal digits.

    It is computed once for a tensor that is not changed, and does not depend on the device.

    Example:
        >>> fingerprint(torch.zeros(2, 3))[:8]
        'b48d996c'
    """
    known = _fingerprints.get(x)
    if known is None or known[0] != x._version:
        digest = hashlib.sha256(f"{x.dtype} {tuple(x.shape)}".encode())
        plain = x.detach().cpu().contiguous()
        if plain.dtype is torch.bfloat16:  # which NumPy does not have
            plain = plain.view(torch.int16)
        digest.update(plain.numpy().data)
        known = _fingerprints[x] = (x._version, digest.hexdigest())
    return known[1]


def base_measure_of(x: Tensor) -> dict[str, Any] | None:
    """The base measure of a split served by a `Dataset`, or None for any other tensor.

    The tensor is recognised by identity: a slice or a copy of a split is another tensor.

    Args:
        x: What a caller handed on, for example ``data.test``, shape ``(N, *event_shape)``.

    Example:
        >>> from pyro_vae.data import load
        >>> data = load("digits")
        >>> base_measure_of(data.test) == data.base_measure("test")
        True
        >>> base_measure_of(data.test[:10]) is None
        True
    """
    description = _descriptions.get(x)
    return None if description is None else {**description, "fingerprint": fingerprint(x)}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set as float32 tensors, split into train, validation and test.

    Make one with :func:`pyro_vae.data.load`. A split may be empty: shape ``(0, *event_shape)``.

    Args:
        name: A known name, a file's name, or ``"array"``.
        train: Training data, ``(N, *event_shape)``. With ``binarize="stochastic"`` these are the
            probabilities in [0, 1] from which :meth:`draw` draws.
        validation: Held-out data for choices made while fitting, ``(M, *event_shape)``.
        test: Held-out data for the final scores, ``(K, *event_shape)``.
        labels: For each split a long tensor ``(N,)``, or None where there are no labels. Models
            see those alone that :func:`pyro_vae.fit` is given.
        support: Constraint that every observation satisfies as a likelihood sees it, after
            :meth:`draw`.
        binarize: How the values were made binary: ``"none"``, ``"threshold"`` (once) or
            ``"stochastic"`` (training data afresh in each batch, held-out data once).
        transform: What was done to the raw values before, such as ``"x / 16"``, or ``"none"``.
        dequantize: The noise added to the values, or ``"none"``.
        cond: For each split what data are conditioned on, ``(N, cond_size)``, if there is anything.
        covariates: For each split, by name, what a likelihood needs to know of each, ``(N,)``.
        mask: For each split which entries are observed, of its shape, if any is missing anywhere;
            what is missing is NaN.
        names: Of the entries of x, where they are columns that have names.
        dims: Names of the dimensions of one observation, where the source has some.
        coords: Labels along these dimensions, by name.
        index: For each split labels of its observations, where the source has some.
        columns: The columns that ``cond`` is made of, in order.
        size_unit: What the column of size factors was divided by: its mean in the training data.
        source: What :func:`~pyro_vae.data.load` finds the data by: a name or an absolute path; None
            for an array.
        step: How far apart rows of the source are that follow one another, of what random pairs
            are; NaN where that is not known.
        schema: What the columns of a table are, and how x is decoded to one; None for other data.
        places: For each split, where in the source its observations are, counted from 0: ``(N,)``.
        options: How they were loaded, by the names of arguments of :func:`~pyro_vae.data.load`, as
            data that are loaded ``like`` these are.
        classes: What the labels 0, 1, ... are called, where they have names.
        vocabulary: The levels of lines of text, and how x is decoded to them; None for other data.

    Example:
        >>> from pyro_vae.data import load
        >>> load("digits")
        Dataset('digits', train=1257, validation=180, test=360, event_shape=(1, 8, 8), \
binarize='threshold')
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    # None where there are none: whoever reads them knows, and need not say so to a type checker.
    labels: Mapping[Split, Tensor | Any]
    support: Constraint
    binarize: Binarize = "none"
    transform: str = "none"
    dequantize: str = "none"
    source: str | None = None
    cond: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    covariates: Mapping[str, Mapping[str, Tensor]] = dataclasses.field(default_factory=dict)
    mask: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    names: Sequence[str] = ()
    columns: Sequence[Column] = ()
    size_unit: float = 1.0
    step: float = math.nan
    dims: Sequence[str] = ()
    coords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    index: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    schema: Schema | None = None
    places: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: Sequence[str] = ()
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        for split in SPLITS:
            _descriptions[self.split(split)] = self._describe(split)
            keep_axes(self.split(split), self.axes(split))

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one observation."""
        return self.train.shape[1:]

    def split(self, name: Split) -> Tensor:
        """The tensor of one split by its name, shape ``(N, *event_shape)``.

        Raises:
            ValueError: If there is no such split.
        """
        if name not in SPLITS:
            raise unknown_name("split", name, SPLITS)
        return getattr(self, name)

    def axes(self, split: Split) -> Axes:
        """What the dimensions of a split, and its columns, are called."""
        named = tuple(self.dims), self.coords, tuple(self.names)
        symbols = () if self.vocabulary is None else self.vocabulary.names
        return Axes(*named, self.index.get(split), self.schema, symbols)

    def rows(self, split: Split) -> Rows:
        """The observations of a split with what goes with each of them.

        Raises:
            ValueError: If there is no such split.
        """
        return Rows(self.split(split), self.given(split))

    def given(self, split: Split) -> Given:
        """What goes with the data of a split, by the names of the arguments that take it.

        Example:
            >>> from pyro_vae.data import load
            >>> {
            ...     name: tuple(c.shape)
            ...     for name, c in load("digits", cond="digit").given("test").items()
            ... }
            {'cond': (360, 10)}
        """
        return given_of(
            {
                "cond": self.cond.get(split),
                "mask": self.mask.get(split),
                "covariates": dict(self.covariates.get(split, {})),
            }
        )

    def base_measure(self, split: Split = "test") -> dict[str, Any]:
        """What a score on a split is a density of; scores compare only where these agree.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.

        Returns:
            A dict with `data` (the name), `split`, `binarize`, `dequantize`, `transform`, `dim`
            (number of entries of one observation) and `fingerprint` (see :func:`fingerprint`).

        Raises:
            ValueError: If there is no such split.
        """
        return {**self._describe(split), "fingerprint": fingerprint(self.split(split))}

    def draw(self, batch: Tensor) -> Tensor:
        """What a likelihood sees of a batch of training data.

        With ``binarize="stochastic"`` every entry is drawn anew from a Bernoulli distribution with
        the grey value as its probability (held-out data, already binary, stay as they are);
        otherwise it is the batch itself. No step depends on values: a captured training step may
        contain it.

        Args:
            batch: Rows of a split, ``(B, *event_shape)``, on any device.

        Returns:
            A tensor of the same shape, dtype and device.
        """
        if self.binarize != "stochastic":
            return batch
        # Several times faster than `torch.bernoulli`, which draws one number at a time on the CPU.
        return (torch.rand_like(batch) < batch).to(batch.dtype)

    def some_labels(self, count: int, seed: int = 0) -> Tensor:
        """Labels of so many training data, as many of each class, and -1 for the others.

        As semi-supervised learning is measured (Kingma et al., 2014,
        https://arxiv.org/abs/1406.5298).

        Args:
            count: How many labels to keep; where classes do not divide them, the first have more.
            seed: Of their choice.

        Returns:
            A long tensor of shape ``(N,)``.

        Raises:
            ValueError: If the training data have no labels, or a class too few.

        Example:
            >>> from pyro_vae.data import load
            >>> kept = load("digits").some_labels(100)
            >>> kept.unique(return_counts=True)[1].tolist()
            [1157, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
        """
        labels = self.labels["train"]
        if labels is None:
            raise expected("data", "labels of the training data", None)
        # NumPy promises that this generator's stream never changes.
        order = torch.from_numpy(np.random.RandomState(seed).permutation(len(labels)))
        order = order.to(labels.device)
        classes, sizes = labels.unique(return_counts=True)
        kept = torch.full_like(labels, -1)
        for i, (each, size) in enumerate(zip(classes, sizes.tolist(), strict=True)):
            share = count // len(classes) + (i < count % len(classes))
            if not 0 < share <= size:
                raise expected("count", f"1 to {size} labels of class {int(each)}", share)
            kept[order[labels[order] == each][:share]] = each
        return kept

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set with all its tensors on `device`."""
        moved: dict[str, Any] = {split: self.split(split).to(device) for split in SPLITS}
        labels = {k: None if y is None else y.to(device) for k, y in self.labels.items()}
        moved["cond"] = {k: c.to(device) for k, c in self.cond.items()}
        moved["mask"] = {k: m.to(device) for k, m in self.mask.items()}
        moved["covariates"] = {
            k: {name: value.to(device) for name, value in named.items()}
            for k, named in self.covariates.items()
        }
        return dataclasses.replace(self, labels=labels, **moved)

    def _describe(self, split: Split) -> dict[str, Any]:
        return {
            "data": self.name,
            "split": split,
            "binarize": self.binarize,
            "dequantize": self.dequantize,
            "transform": self.transform,
            "dim": self.event_shape.numel(),
        }

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split}={len(self.split(split))}" for split in SPLITS)
        return (
            f"Dataset({self.name!r}, {sizes}, event_shape={tuple(self.event_shape)}, "
            f"binarize={self.binarize!r})"
        )

    def _repr_html_(self) -> str:
        rows = []
        for split in SPLITS:
            x, labels = self.split(split), self.labels.get(split)
            beside = [
                f"{name} {tuple(each.shape[1:])}"
                for name, each in self.rows(split).tensors().items()
            ]
            classes = "–" if labels is None else f"{plural(len(labels.unique()), 'class')}"
            missing = f"{x.isnan().double().mean():.1%}" if self.mask and len(x) > 0 else "–"
            rows.append((split, ", ".join(beside) or "–", classes, f"{len(x):,}", missing))
        how = f"binarize {self.binarize}, transform {self.transform}, dequantize {self.dequantize}"
        notes = [f"one observation: {tuple(self.event_shape)}, float32; {how}"]
        if self.names:
            notes.append(f"entries: {', '.join(self.names[:_NAMED])}")
            notes[-1] += f" and {len(self.names) - _NAMED} more" if len(self.names) > _NAMED else ""
        head = ("split", "goes with it", "labels", "observations", "missing entries")
        return shown(f"Dataset {self.name}", head, rows, notes=notes, text=3)
