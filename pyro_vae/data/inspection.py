"""What there is in a data set, and what about it may surprise."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pyro_vae._errors import expected, plural
from pyro_vae.data.dataset import SPLITS, Dataset, Split
from pyro_vae.data.rows import Rows

__all__ = ["COPIES", "DataReport", "copies", "copies_of", "inspect", "said_of_copies"]

COPIES = "equal training observations: if they are the same, they score too well"
"""What there is to say of several held-out observations that are training data, too."""

_CLOSE = 0.5  # of the distance of random pairs


@dataclasses.dataclass(frozen=True)
class DataReport:
    """What :func:`inspect` found.

    Attributes:
        name: Of the data set.
        event_shape: Shape of one observation.
        support: The narrowest support, of those that likelihoods have, which all values are in.
        sizes: Data in each split.
        ranges: Smallest value, mean and largest value in each split that has data.
        missing: Share of the entries that are missing, in each split that has data.
        constant: Features that do not vary in the training data, at most ten of them.
        num_constant: How many there are.
        duplicates: For each split, observations that equal another one of it, with what goes with
            them.
        in_train: Data of the other splits that a training observation equals: they are no held-out
            data if they are the same.
        classes: For each split with labels, how many data each has.
        step: How far apart observations are that follow one another in the source, of what random
            pairs are, see :func:`pyro_vae.data.splitting.step_in_order`.
        columns: Of a table, the kind of each column and why.
        warnings: What was decided while a table was read.
        names: Of the columns of x, where they have names.
    """

    name: str
    event_shape: tuple[int, ...]
    support: str
    sizes: dict[str, int]
    ranges: dict[str, tuple[float, float, float]]
    missing: dict[str, float]
    constant: list[tuple[int, ...]]
    num_constant: int
    duplicates: dict[str, int]
    in_train: dict[str, int]
    classes: dict[str, dict[int, int]]
    step: float
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Returns it ready for JSON."""
        return dataclasses.asdict(self) | {"step": self.step if self.step == self.step else None}

    def __str__(self) -> str:
        shape = " × ".join(map(str, self.event_shape))
        lines = [f"{self.name}: {shape}, support {self.support}"]
        for split, size in self.sizes.items():
            line = f"  {split}: {plural(size, 'observation')}"
            if split in self.ranges:
                low, mean, high = self.ranges[split]
                line += f", values {low:.4g} to {high:.4g}, mean {mean:.4g}"
                if self.missing[split]:
                    line += f", {self.missing[split]:.1%} missing"
            if split in self.classes:
                line += f", {plural(len(self.classes[split]), 'class')}"
            lines.append(line)
        if self.num_constant:
            where = ", ".join(
                self.names[index[0]] if self.names else str(list(index)) for index in self.constant
            )
            more = ", ..." if self.num_constant > len(self.constant) else ""
            are = "is" if self.num_constant == 1 else "are"
            what = f"{plural(self.num_constant, 'feature')} {are} constant in training"
            lines.append(f"  {what}: {where}{more}")
        for split, count in self.duplicates.items():
            if count:
                lines.append(f"  {count:,} {split} observations equal another one of that split")
        for split, count in self.in_train.items():
            if count:
                lines.append(f"  {said_of_copies(count, self.sizes[split], split)}")
        if self.step < _CLOSE:
            lines.append(
                f"  neighbours in order are {self.step:.2g} times as far apart as random pairs: of "
                "a time series, --split blocks keeps near-copies out of the test set"
                + ("; of groups, --group COLUMN" if self.names else "")
            )
        lines += [f"  {name}: {what}" for name, what in self.columns.items()]
        lines += [f"  {warning}" for warning in self.warnings]
        return "\n".join(lines)


def inspect(data: Dataset) -> DataReport:
    """Looks at a data set before a model does.

    Values that are not finite, shapes that differ and labels of another length never get so far:
    :func:`pyro_vae.data.load` refuses them.

    Args:
        data: A data set.

    Returns:
        The report, which prints itself.

    Raises:
        ValueError: If it is no data set.

    Example:
        >>> import torch
        >>> from pyro_vae.data import load
        >>> x = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [0.0, 3.0]])
        >>> report = inspect(load(x, validation=0, test=0))
        >>> report.num_constant, report.duplicates["train"]
        (1, 2)
    """
    if not isinstance(data, Dataset):
        raise expected("data", "a data set, as `pv.data.load` returns one", data)
    splits = {split: data.split(split) for split in SPLITS}
    filled = {split: x for split, x in splits.items() if len(x)}
    seen = {split: x[~x.isnan()] for split, x in filled.items()}
    still = (data.train == data.train[:1]).all(0).nonzero()
    rows = {split: _digests(data.rows(split)) for split in SPLITS}
    counts = {split: Counter(each) for split, each in rows.items()}
    return DataReport(
        name=data.name,
        event_shape=tuple(data.event_shape),
        support=str(data.support),
        sizes={split: len(x) for split, x in splits.items()},
        ranges={
            split: (x.min().item(), x.mean().item(), x.max().item())
            for split, x in seen.items()
            if len(x)
        },
        missing={split: x.isnan().float().mean().item() for split, x in filled.items()},
        constant=[tuple(index) for index in still[:10].tolist()],
        num_constant=len(still),
        duplicates={s: sum(n for n in each.values() if n > 1) for s, each in counts.items()},
        in_train=_copies(rows),
        classes={
            split: dict(sorted(Counter(labels.tolist()).items()))
            for split, labels in data.labels.items()
            if labels is not None
        },
        step=data.step,
        columns={
            each.name: f"{each.kind}{f', {each.role}' if each.role else ''} ({each.reason})"
            for each in data.schema or ()
        },
        warnings=data.schema.warnings if data.schema else (),
        names=tuple(data.names) if len(data.names) == data.event_shape.numel() else (),
    )


def copies(data: Dataset) -> dict[str, int]:
    """Returns how many observations of the other splits a training observation equals.

    Example:
        >>> import torch
        >>> from pyro_vae.data import load
        >>> copies(load(torch.ones(20, 3)))
        {'validation': 2, 'test': 2}
    """
    return _copies({split: _digests(data.rows(split)) for split in SPLITS})


def copies_of(rows: Rows, train: Rows) -> int:
    """Returns how many observations a training observation equals, with what goes with them.

    Args:
        rows: Observations.
        train: Those that a model was fitted to.

    Example:
        >>> import torch
        >>> copies_of(Rows(torch.tensor([[0.0], [1.0], [0.0]])), Rows(torch.zeros(5, 1)))
        2
    """
    known = set(_digests(train))
    return sum(row in known for row in _digests(rows))


def said_of_copies(count: int, size: int, split: str = "") -> str:
    """Returns a sentence on observations that equal training ones; empty if there are none.

    Args:
        count: Of such observations.
        size: Of all observations.
        split: What they are called, such as test.

    Example:
        >>> said_of_copies(2, 10, "test")[:56]
        '2 of 10 test observations equal training observations: i'
    """
    if not count:
        return ""
    what = f"{count:,} of {size:,} {split} observations".replace("  ", " ")
    if count == 1:
        return f"{what} equals a training observation: if it is the same, it scores too well"
    return f"{what} {COPIES}"


def _copies(digests: Mapping[Split, Sequence[bytes]]) -> dict[str, int]:
    known = set(digests["train"])
    return {s: sum(row in known for row in digests[s]) for s in SPLITS if s != "train"}


def _digests(rows: Rows) -> list[bytes]:
    """Hashes of the observations, with what goes with them: others are no copies."""
    beside = [values for _, values in sorted(rows.tensors().items())]
    parts = [_plain(values).numpy() for values in (rows.x, *beside)]
    found = []
    for each in zip(*parts, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for values in each:
            digest.update(values.tobytes())
        found.append(digest.digest())
    return found


def _plain(x: Tensor) -> Tensor:
    plain = x.detach().cpu()
    # Minus zero is zero.
    return plain + 0.0 if plain.is_floating_point() else plain
