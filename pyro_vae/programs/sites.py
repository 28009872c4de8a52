"""What a run of a Pyro program says of each observation: values and densities by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.distributions.constraints import Constraint

from pyro_vae.distributions import Site, by_entry, same_support

__all__ = [
    "COUNTLESS",
    "Local",
    "Means",
    "Values",
    "by_row",
    "entry_log_probs",
    "frame_of",
    "local_of",
    "log_probs",
    "samples",
    "states_of_site",
]

DATA = "data"
COUNTLESS = 2**63
"""Of states that nobody has counted."""


class Flat(Constraint):
    """The support of an array of the user's, of which all entries are one vector.

    Args:
        support: Of the distribution.
        shape: Of the array, without the plate of the observations.
    """

    event_dim = 1

    def __init__(self, support: Constraint, shape: torch.Size) -> None:
        self.support, self.shape = support, shape
        self.is_discrete = bool(support.is_discrete)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Returns for each vector whether all its entries are in the support."""
        flags = self.support.check(value.reshape(*value.shape[:-1], *self.shape))
        return flags.reshape(*value.shape[:-1], -1).all(-1)


@dataclass(frozen=True)
class Local:
    """A site in the plate of the observations.

    Attributes:
        name: Of the site.
        dim: The dimension of the plate, counted from the right of the batch shape.
        batch_shape: Of one observation, 1 in the place of the plate.
        event_shape: Of the distribution.
        dtype: Of its values.
        support: Of its distribution.
        is_nominal: Whether it is of classes whose numbers are in no order.
    """

    name: str
    dim: int
    batch_shape: torch.Size
    event_shape: torch.Size
    dtype: torch.dtype
    support: Constraint
    is_nominal: bool = False

    @property
    def shape(self) -> torch.Size:
        """Of one observation, the plate's dimension left out."""
        batch = list(self.batch_shape)
        del batch[self.dim]
        return torch.Size(batch) + self.event_shape

    @property
    def base_support(self) -> Constraint:
        """Where an entry lives, or an event that does not come apart."""
        support = self.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        return support

    @property
    def as_vector(self) -> Site:
        """The site as an entry of a space, all its entries one vector."""
        size = torch.Size([self.shape.numel()])
        if same_support(self.base_support, constraints.real):
            return Site(size, constraints.real_vector)
        return Site(size, Flat(self.support, self.shape))

    def rows(self, value: Tensor, size: int) -> Tensor:
        """Returns a value of the site as ``(size, *shape)``."""
        batch = list(self.batch_shape)
        batch[self.dim] = size
        value = value.expand(torch.Size(batch) + self.event_shape)
        return value.movedim(len(batch) + self.dim, 0)

    def value(self, rows: Tensor) -> Tensor:
        """Returns what :meth:`rows` returned, ``(size, *)``, as a value of the site."""
        own = rows.reshape(len(rows), *self.shape)
        own = own.movedim(0, len(self.batch_shape) + self.dim)
        return (
            own if own.dtype == self.dtype or self.dtype.is_floating_point else own.to(self.dtype)
        )


def states_of_site(site: Mapping[str, Any], local: Local) -> tuple[Tensor, int] | None:
    """Returns the values that an entry of a discrete site can have, and how many entries it has.

    An entry is an event that does not come apart, such as a one-hot vector. Where the site is
    masked for some observations there is nothing to sum over, and where its values differ between
    observations they cannot be listed: None.

    Args:
        site: Of a trace.
        local: What it looks like.

    Returns:
        Values of shape ``(V, E)``, and the number of entries.
    """
    base = site["fn"]
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if site["mask"] is not None or not base.has_enumerate_support:
        return None
    try:
        values = base.enumerate_support(expand=False)
    except NotImplementedError:
        return None
    size = base.event_shape.numel()
    return values.reshape(len(values), size), local.shape.numel() // size


def samples(trace: poutine.Trace) -> Iterator[Mapping[str, Any]]:
    """Yields the sample sites of a trace that are random variables, observed or not."""
    for site in trace.nodes.values():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if not site["infer"].get("_deterministic", False):
            yield site


def frame_of(site: Mapping[str, Any]) -> Any:
    """Returns the frame of the plate of the observations, if the site is in it."""
    return next((f for f in site["cond_indep_stack"] if f.name == DATA and f.vectorized), None)


def local_of(site: Mapping[str, Any]) -> Local:
    """Returns what a site in the plate of the observations looks like."""
    d, dim = site["fn"], frame_of(site).dim
    batch = list(d.batch_shape)
    batch[dim] = 1
    value = site["value"]
    entries = d
    while hasattr(entries, "base_dist"):
        entries = entries.base_dist
    return Local(
        site["name"],
        dim,
        torch.Size(batch),
        d.event_shape,
        value.dtype,
        _support(d, value),
        isinstance(entries, Categorical),
    )


def _support(d: Any, value: Tensor) -> Constraint:
    try:
        support: Constraint = d.support
    except NotImplementedError:
        support = constraints.real if value.is_floating_point() else constraints.nonnegative_integer
    return support


def by_row(site: Mapping[str, Any], values: Tensor, size: int) -> Tensor:
    """Adds values of a site's batch up over all dimensions but the plate's: ``(size,)``."""
    dim = frame_of(site).dim
    values = values.expand(torch.broadcast_shapes(values.shape, site["fn"].batch_shape))
    values = values.movedim(values.ndim + dim, 0)
    if len(values) != size:
        values = values.expand(size, *values.shape[1:])
    return values.reshape(size, -1).sum(-1)


def log_probs(trace: poutine.Trace, names: Any, size: int) -> Tensor:
    """Returns the log-density of some sites for each observation, ``(size,)``, nats.

    What ``poutine.mask`` hides is left out; a scale is of the objective, and no density.
    """
    total = torch.zeros(())
    for name in names:
        site = trace.nodes[name]
        own = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        total = total + by_row(site, scale_and_mask(own, mask=site["mask"]), size)
    return total


def entry_log_probs(site: Mapping[str, Any]) -> Tensor | None:
    """Returns the log-density of each entry of a site's value; None where they are dependent."""
    d, event_dim = site["fn"], len(site["fn"].event_shape)
    entries = d if event_dim == 0 else by_entry(d, event_dim)
    if entries is None:
        return None
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = mask[(...,) + (None,) * event_dim]
    log_probs: Tensor = scale_and_mask(entries.log_prob(site["value"]), mask=mask)
    return log_probs


class Values(Messenger):
    """Gives sites the values that are known, and marks nothing as observed.

    A latent under ``poutine.mask``, such as a state beyond the end of its sequence, has no density:
    it is one number wherever it is hidden, so that nobody compares what programs happen to draw.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._values:
            msg["value"], msg["done"] = self._values[msg["name"]], True
            msg["is_observed"] = False

    def _pyro_post_sample(self, msg: Any) -> None:
        mask, value = msg["mask"], msg["value"]
        if msg["is_observed"] or not isinstance(mask, Tensor) or site_is_subsample(msg):
            return
        mask = mask[(...,) + (None,) * len(msg["fn"].event_shape)]
        if bool(mask.all()):
            return
        for number in (0, 1):
            same = torch.full_like(value, number)
            if bool(_support(msg["fn"], value).check(same).all()):
                msg["value"] = torch.where(mask, value, same)
                return


class Means(Messenger):
    """Gives latent sites the means of their distributions in place of draws."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not msg["done"] and not site_is_subsample(msg):
            msg["value"], msg["done"] = msg["fn"].mean, True
