"""A likelihood of tables, whose columns have likelihoods of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

import pyro_vae.likelihoods as package
from pyro_vae._errors import expected
from pyro_vae.distributions import Columns, ColumnSupport
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.part import named_part

__all__ = ["Mixed"]


class Mixed(Likelihood):
    r"""Creates independent columns, each with a likelihood of its own, for tables of any kind.

    .. math:: p(x \mid z) = \prod_k p_k(x_{C_k} \mid z), \quad
        C_1, C_2, \dots \text{ the columns, in order}

    The decoder's parameters are those of the likelihoods, one after the other.

    References:
        Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020),
        https://arxiv.org/abs/1807.03653

    Args:
        event_shape: Shape of one x: the number of columns.
        columns: A likelihood for each column, in order: its name, for its defaults; a mapping of
            ``class`` and options; or the likelihood itself, of one column or of several.

    Raises:
        ValueError: If a likelihood is unknown, its columns are dependent given z, or all have
            more or fewer columns than ``event_shape``.

    Example:
        >>> table = Mixed((3,), ["Normal", "Poisson", {"class": "Categorical", "levels": 5}])
        >>> table.param_shape, table.measure
        (torch.Size([7]), 'mixed')
    """

    support: constraints.Constraint = constraints.real

    def __init__(self, event_shape: Sequence[int], columns: Sequence[Any]) -> None:
        super().__init__(event_shape)
        if isinstance(columns, str) or not isinstance(columns, Sequence) or len(columns) == 0:
            raise expected("columns", "a list of likelihoods", columns)
        parts = [_likelihood(column) for column in columns]
        sizes = [part.event_shape.numel() for part in parts]
        if self.event_shape != (sum(sizes),):
            what = f"likelihoods of {' × '.join(map(str, event_shape))} columns in all"
            raise expected("columns", what, sum(sizes))
        # The table is rebuilt from the likelihoods as they were built, options and all.
        self._arguments = self._arguments | {"columns": parts}
        self.columns = nn.ModuleList(parts)
        self.param_shape = torch.Size([sum(part.param_shape.numel() for part in parts)])
        self.support = ColumnSupport([part.support for part in parts], sizes)
        measures = {part.measure for part in parts}
        self.measure = measures.pop() if len(measures) == 1 else "mixed"
        self.covariates = tuple(sorted({name for part in parts for name in part.covariates}))

    @property
    def are_counts(self) -> Tensor:
        return torch.cat([part.are_counts for part in self._parts()])

    @property
    def are_angles(self) -> Tensor:
        return torch.cat([part.are_angles for part in self._parts()])

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        each = [part.words or ((),) * part.event_shape.numel() for part in self._parts()]
        columns = tuple(words for part in each for words in part)
        return columns if any(columns) else ()

    @property
    def base_measure(self) -> str:
        columns = range(self.event_shape.numel())
        counting = [str(i) for i in columns if self.entry((i,)).measure == "counting"]
        if self.measure != "mixed":
            return self.measure
        return f"mixed, counting in columns {', '.join(counting)}"

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """Returns the parameters of each likelihood, ``(*, B, *its param_shape)``.

        Args:
            params: All of them, one after the other, ``(*, B, *param_shape)``.
        """
        return params.split([part.param_shape.numel() for part in self._parts()], -1)

    def entry(self, index: Sequence[int]) -> Likelihood:
        """Returns the likelihood of a column, which may be one of several columns.

        Args:
            index: Of the column, one integer.

        Raises:
            IndexError: If there is no such column.
        """
        (left,) = index
        for part in self._parts():
            if left < part.event_shape.numel():
                return part
            left -= part.event_shape.numel()
        raise IndexError(f"column {index[0]} of {self.event_shape.numel()}")

    def encoder_input(self, x: Tensor, **covariates: Tensor) -> Tensor:
        """Returns what an encoder sees of each column."""
        each = zip(self._parts(), self._columns(x), strict=True)
        inputs = [part.encoder_input(own, **_its(part, covariates)) for part, own in each]
        return torch.cat(inputs, -1)

    def take_units(self, x_train: Tensor) -> Tensor:
        each = zip(self._parts(), self._columns(x_train), strict=True)
        return torch.cat([part.take_units(x) for part, x in each])

    def standardized(self, inputs: Tensor) -> Tensor:
        each = zip(self._parts(), self._columns(inputs), strict=True)
        return torch.cat([part.standardized(own) for part, own in each], -1)

    def to_units(self, x: Tensor) -> Tensor:
        each = zip(self._parts(), self._columns(x), strict=True)
        return torch.cat([part.to_units(own) for part, own in each], -1)

    def from_units(self, u: Tensor) -> Tensor:
        each = zip(self._parts(), self._columns(u), strict=True)
        return torch.cat([part.from_units(own) for part, own in each], -1)

    def init_params(self, x_train: Tensor, **covariates: Tensor) -> Tensor:
        """Returns the start of each likelihood, fitted to its own columns.

        Args:
            x_train: Training data, shape ``(N, *event_shape)``.
            covariates: Those that some of the likelihoods declare, by name, shape ``(N,)`` each.
        """
        each = zip(self._parts(), self._columns(x_train), strict=True)
        return torch.cat([part.init_params(x, **_its(part, covariates)) for part, x in each])

    @property
    def fits_scale(self) -> bool:
        return any(part.fits_scale for part in self._parts())

    def fit_scale(
        self, x: Tensor, params: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        if not self.fits_scale:
            super().fit_scale(x, params, mask, weights)
        masks = self._columns(torch.ones_like(x, dtype=torch.bool) if mask is None else mask)
        each = zip(self._parts(), self._columns(x), self.split(params), masks, strict=True)
        for part, own, own_params, own_mask in each:
            if part.fits_scale:
                part.fit_scale(own, own_params, own_mask, weights)

    def forward(self, params: Tensor, **covariates: Tensor) -> Distribution:
        """Returns p(x|z) from the parameters of all likelihoods.

        Args:
            params: Shape ``(*, B, *param_shape)``.
            covariates: Those that some of the likelihoods declare, by name, shape ``(B,)`` each.
        """
        each = zip(self._parts(), self.split(params), strict=True)
        ds = [part(own, **_its(part, covariates)).base_dist for part, own in each]
        return Columns(ds).to_event(1)

    def _columns(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split([part.event_shape.numel() for part in self._parts()], -1)

    def _parts(self) -> list[Likelihood]:
        return [part for part in self.columns if isinstance(part, Likelihood)]


def _its(part: Likelihood, covariates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The covariates that the likelihood of a column needs."""
    return {name: covariates[name] for name in part.covariates if name in covariates}


def _likelihood(column: object) -> Likelihood:
    """The likelihood of a column, or of several."""
    known = {
        name: getattr(package, name)
        for name in package.__all__
        if name not in ("Likelihood", "Mixed", "suggest")
    }
    column = named_part("columns", column, known, event_shape=(1,))
    if not isinstance(column, Likelihood) or len(column.event_shape) != 1:
        raise expected("columns", "names, mappings or likelihoods of columns", column)
    ones = {name: torch.ones(()) for name in column.covariates}
    d = column(torch.zeros(column.param_shape), **ones)
    if not isinstance(d, Independent) or d.base_dist.event_shape:
        what = "likelihoods under which columns are independent given z"
        raise expected("columns", what, type(column).__name__)
    return column
