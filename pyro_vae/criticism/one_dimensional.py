"""One number per observation, for the plots of ArviZ that want nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from pyro_vae._errors import expected, unknown_name
from pyro_vae.criticism._draws import slices

__all__ = ["tree_for"]

_GROUPS = ("posterior_predictive", "prior_predictive", "observed_data")
_BLOCK = 2**22  # numbers read together: a tree may lie in a file that memory would not hold


def tree_for(
    tree: xarray.DataTree,
    *,
    feature: int | Sequence[int] | None = None,
    statistic: Callable[[Tensor], Tensor] | None = None,
    name: str = "x",
) -> xarray.DataTree:
    """Reduces every observation, observed and simulated, to one number.

    ``plot_ppc_pit``, ``plot_ppc_rootogram`` and ``plot_loo_pit`` want variables whose only
    dimension beside ``chain`` and ``draw`` is that of the data.

    References:
        Visualization in Bayesian workflow (Gabry et al., 2019), https://arxiv.org/abs/1709.01449,
        for these plots

    Args:
        tree: What :func:`to_datatree`, :func:`posterior_predictive`, :func:`prior_predictive` or
            :func:`from_pyro_svi` returned.
        feature: The index of one entry of an observation: as many integers as it has dimensions.
        statistic: In its place, a function from data as real numbers, shape ``(S, N, *event)``, to
            one number for each, shape ``(S, N)``.
        name: The variable.

    Returns:
        Those of the groups ``posterior_predictive``, ``prior_predictive`` and ``observed_data``
        that are there. Whole numbers made from integers are integers.

    Raises:
        ValueError: If not one of ``feature`` and ``statistic`` is given, the index is out of range,
            or the statistic does not return one number per observation.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((4,)))
        >>> tree = pv.posterior_predictive(vae, vae.sample(5), num_draws=10)
        >>> tree_for(tree, feature=3)["observed_data"]["x"].sizes
        Frozen({'data': 5})
        >>> totals = tree_for(tree, statistic=lambda x: x.sum(-1))
        >>> totals["posterior_predictive"]["x"].dims, totals["posterior_predictive"]["x"].dtype
        (('chain', 'draw', 'data'), dtype('int64'))
    """
    if (feature is None) == (statistic is None):
        got = "neither" if feature is None else "both"
        raise expected("feature", "either a feature or a `statistic`", got)
    if statistic is not None and not callable(statistic):
        raise expected("statistic", "a function from data to one number per observation", statistic)
    there = tree.children if isinstance(tree, xarray.DataTree) else {}
    groups = {group: there[group].to_dataset() for group in _GROUPS if group in there}
    if not groups:
        raise expected("tree", f"a tree with a group among {', '.join(_GROUPS)}", tree)
    reduced = {}
    for group, dataset in groups.items():
        if name not in dataset:
            raise unknown_name("name", name, [str(each) for each in dataset.data_vars])
        values = dataset[name]
        leading = [d for d in ("chain", "draw") if d in values.dims]
        data, *event = [str(d) for d in values.dims if d not in leading]
        if statistic is None:
            numbers = values.isel(_index(feature, values, event)).values
        else:
            numbers = _apply(statistic, values, leading)
        if values.dtype.kind in "iu" and (numbers == np.round(numbers)).all():
            numbers = numbers.astype(np.int64)
        kept = [*leading, data]
        coords = {d: values.coords[d] for d in kept if d in values.coords}
        reduced[group] = xarray.Dataset({name: (kept, numbers)}, coords, dataset.attrs)
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=tree.attrs)} | reduced)


def _index(feature: Any, values: xarray.DataArray, event: Sequence[str]) -> dict[str, int]:
    index = (feature,) if isinstance(feature, int) else feature
    sizes = [values.sizes[dim] for dim in event]
    ranges = ", ".join(f"0 to {size - 1} along {d}" for d, size in zip(event, sizes, strict=True))
    if (
        not isinstance(index, Sequence)
        or len(index) != len(sizes)
        or not all(isinstance(i, int) and 0 <= i < n for i, n in zip(index, sizes, strict=True))
    ):
        raise expected("feature", f"an index from {ranges}", feature)
    return dict(zip(event, index, strict=True))


def _apply(
    statistic: Callable[[Tensor], Tensor], values: xarray.DataArray, leading: Sequence[str]
) -> np.ndarray:
    """Calls a statistic on some draws at a time, as one dimension of draws."""
    step = max(1, _BLOCK // max(1, values[(0,) * len(leading)].size))
    blocks = (
        [{}]
        if not leading
        else [
            {"chain": chain, "draw": draws}
            for chain in range(values.sizes["chain"])
            for draws in slices(values.sizes["draw"], step)
        ]
    )
    results = []
    for block in blocks:
        read = values.isel(block).values
        data = torch.as_tensor(read if leading else read[None], dtype=torch.float64)
        result = statistic(data)
        if not isinstance(result, Tensor) or result.shape != data.shape[:2]:
            what = f"a result of shape {tuple(data.shape[:2])} for data of {tuple(data.shape)}"
            raise expected("statistic", what, result)
        results.append(result.numpy())
    return np.concatenate(results).reshape(values.shape[: len(leading) + 1])
