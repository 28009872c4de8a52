"""Draws of a model a block at a time, kept in memory or written to a file."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import h5netcdf
import numpy as np
import torch
import xarray
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae._errors import expected
from pyro_vae.criticism._labels import Labels
from pyro_vae.criticism._replicates import draw_prior, prior_of
from pyro_vae.data.rows import Given, Rows
from pyro_vae.programs import Amortized
from pyro_vae.programs.weigh import draws_at_once

__all__ = ["Recorder", "pairs_at_once", "record_posterior", "record_prior", "slices"]

# Numbers that a block holds for each entry of its data: z and x, their parameters, what a density
# is made of, and the copy that is written. Measured by tests/test_datatree.py.
_COPIES = 16
_LONGEST = 1024  # data encoded together


def slices(total: int, step: int) -> Iterator[slice]:
    """Cuts ``range(total)`` into pieces of ``step``."""
    for first in range(0, total, step):
        yield slice(first, min(first + step, total))


def pairs_at_once(vae: Amortized, max_memory: int | None = None) -> int:
    """Returns how many data are decoded together, each with a z of its own.

    Raises:
        ValueError: If ``max_memory``, in bytes, is not enough for one.
    """
    parameter = next(vae.parameters(), torch.empty(0, device=vae.device))
    pairs = draws_at_once(vae, parameter.new_empty(1, 0))
    if max_memory is None:
        return pairs
    entries = max(vae.event_shape.numel(), vae.space.event_shape.numel())
    needed = entries * max(parameter.element_size(), 4) * _COPIES
    if max_memory < needed:
        raise expected("max_memory", f"at least {needed} bytes, for one observation", max_memory)
    return min(pairs, max_memory // needed)


@dataclass
class Recorder:
    """Takes draws of named variables block by block.

    Args:
        labels: The names of dimensions.
        num_draws: Draws of each variable, of all chains together.
        size: Length of dimension ``data``.
        attrs: Attributes of each group; those of the tree under ``/``.
        num_chains: Length of dimension ``chain``; draws come one chain after the other.
    """

    labels: Labels
    num_draws: int
    size: int
    attrs: Mapping[str, Mapping[str, Any]]
    num_chains: int = 1
    variables: dict[tuple[str, str], tuple[tuple[str, ...], np.dtype[Any]]] = field(
        default_factory=dict
    )
    fixed: dict[str, dict[str, tuple[tuple[str, ...], Any]]] = field(default_factory=dict)
    _arrays: dict[tuple[str, str], Any] = field(default_factory=dict)

    def declare(self, group: str, name: str, dtype: np.dtype[Any], *, event: bool = True) -> None:
        """Announces a variable: an event, or else a number, for each draw and observation."""
        leading = ("chain", "draw", "data")
        dims = self.labels.dims(name, *leading) if event else leading
        self.variables[group, name] = (dims, dtype)

    def wants(self, group: str) -> bool:
        """Returns whether a variable of that group was announced."""
        return any(group == each for each, _ in self.variables)

    def add(self, group: str, variables: Mapping[str, tuple[tuple[str, ...], Any]]) -> None:
        """Adds whole variables that do not depend on draws, as dimensions and values."""
        self.fixed.setdefault(group, {}).update(variables)

    def put(self, group: str, name: str, draws: slice, rows: slice, values: Tensor) -> None:
        """Writes a block, shape ``(draws, rows, *event_shape)``, of an announced variable."""
        array = self._arrays.get((group, name))
        if array is None:
            return
        block = values.cpu().numpy().astype(array.dtype, copy=False)
        length = self.num_draws // self.num_chains
        for chain in range(draws.start // length, -(-draws.stop // length)):
            first, last = max(draws.start, chain * length), min(draws.stop, (chain + 1) * length)
            within = slice(first - chain * length, last - chain * length)
            array[chain, within, rows] = block[first - draws.start : last - draws.start]

    @property
    def nbytes(self) -> int:
        """What the announced variables take in memory."""
        return sum(
            int(np.prod(self._shape(dims))) * dtype.itemsize
            for dims, dtype in self.variables.values()
        )

    @contextmanager
    def in_memory(self) -> Iterator[xarray.DataTree]:
        """Gives a tree of labelled arrays, filled by what is put while inside."""
        groups: dict[str, dict[str, Any]] = {g: dict(v) for g, v in self.fixed.items()}
        for (group, name), (dims, dtype) in self.variables.items():
            self._arrays[group, name] = np.empty(self._shape(dims), dtype)
            groups.setdefault(group, {})[name] = (dims, self._arrays[group, name])
        datasets = {g: self._dataset(g, variables) for g, variables in groups.items()}
        yield self._tree(datasets)

    @contextmanager
    def in_file(self, path: Path) -> Iterator[None]:
        """Writes to a netCDF file what is put while inside; it is there if all went well."""
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            groups: dict[str, list[str]] = {}
            for (group, _), (dims, _) in self.variables.items():
                groups.setdefault(group, []).extend(dims)
            labels = {
                group: self._dataset(group, self.fixed.get(group, {}), groups.get(group, []))
                for group in [*groups, *(g for g in self.fixed if g not in groups)]
            }
            self._tree(labels).to_netcdf(beside, engine="h5netcdf")
            with h5netcdf.File(beside, "a") as file:
                for (group, name), (dims, dtype) in self.variables.items():
                    # Contiguous, since a cache of chunks would hold more than the block.
                    self._arrays[group, name] = file[group].create_variable(name, dims, dtype)
                yield
            beside.replace(path)
        finally:
            self._arrays.clear()
            beside.unlink(missing_ok=True)

    def _tree(self, datasets: Mapping[str, xarray.Dataset]) -> xarray.DataTree:
        root = xarray.Dataset(attrs=self.attrs.get("/"))
        return xarray.DataTree.from_dict({"/": root} | dict(datasets))

    def _dataset(
        self,
        group: str,
        variables: Mapping[str, tuple[tuple[str, ...], Any]],
        further: Iterable[str] = (),
    ) -> xarray.Dataset:
        dims = [*further, *(name for names, _ in variables.values() for name in names)]
        return xarray.Dataset(dict(variables), self._coords(dims), self.attrs.get(group))

    def _coords(self, dims: list[str]) -> dict[str, np.ndarray]:
        length = self.num_draws // self.num_chains
        return self.labels.coords(dict.fromkeys(dims), self.num_chains, length, self.size)

    def _shape(self, dims: tuple[str, ...]) -> tuple[int, ...]:
        chains, length = self.num_chains, self.num_draws // self.num_chains
        sizes = {"chain": chains, "draw": length, "data": self.size} | self.labels.sizes
        return tuple(sizes[name] for name in dims)


@torch.no_grad()
def record_posterior(
    recorder: Recorder,
    vae: Amortized,
    data: Rows,
    *,
    z: Tensor | None = None,
    pairs: int,
    progress: Callable[[int], None],
) -> None:
    """Draws z for each observation, a replicate from each z, and the log-densities of both.

    Args:
        recorder: Where the draws go.
        vae: The model, not to be disturbed.
        data: Data that the model accepted.
        z: Draws to use in place of the guide's, shape ``(num_draws, N, *prior.event_shape)``.
        pairs: Data decoded together.
        progress: Called with the number of draws made since the last call.
    """
    for rows in slices(len(data), min(_LONGEST, max(1, pairs // 4))):
        batch = data[rows]
        prior, guide = prior_of(vae, batch.given), vae.encode(batch.x, **batch.given)
        for draws in slices(recorder.num_draws, max(1, pairs // len(batch))):
            count = draws.stop - draws.start
            drawn = guide.sample((count,)) if z is None else z[draws, rows]
            recorder.put("posterior", "z", draws, rows, drawn)
            decoded = vae.decode(drawn, **batch.given)
            if recorder.wants("posterior_predictive"):
                replicate = _hidden(decoded.sample(), batch.given)
                recorder.put("posterior_predictive", "x", draws, rows, replicate)
            if recorder.wants("log_likelihood") or recorder.wants("sample_stats"):
                log_likelihood = decoded.log_prob(batch.x).cpu().double()
                recorder.put("log_likelihood", "x", draws, rows, log_likelihood)
                log_prior = prior.log_prob(drawn).cpu().double()
                recorder.put("sample_stats", "log_p", draws, rows, log_likelihood + log_prior)
                recorder.put("sample_stats", "log_q", draws, rows, guide.log_prob(drawn))
            progress(count * len(batch))


@torch.no_grad()
def record_prior(
    recorder: Recorder, vae: Amortized, given: Given, *, pairs: int, progress: Callable[[int], None]
) -> None:
    """Draws z from the prior and an observation from each z.

    Args:
        recorder: Where the draws go.
        vae: The model, not to be disturbed.
        given: What goes with the observations of a data set.
        pairs: Data decoded together.
        progress: Called with the number of draws made since the last call.
    """
    for rows in slices(recorder.size, pairs):
        size = rows.stop - rows.start
        own = cast(Given, tree_map(lambda each, rows=rows: each[rows], dict(given)))
        prior = prior_of(vae, own)
        for draws in slices(recorder.num_draws, max(1, pairs // size)):
            z = draw_prior(prior, draws.stop - draws.start, size)
            recorder.put("prior", "z", draws, rows, z)
            if recorder.wants("prior_predictive"):
                x = _hidden(vae.decode(z, **own).sample(), own)
                recorder.put("prior_predictive", "x", draws, rows, x)
            progress(len(z) * size)


def _hidden(x: Tensor, given: Given) -> Tensor:
    """Marks entries that are hidden in the data: they are no numbers, there or in replicates."""
    mask = given.get("mask")
    return x if mask is None else x.where(mask, math.nan)
