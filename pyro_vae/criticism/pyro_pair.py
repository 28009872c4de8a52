"""Any model and guide written in Pyro, put into the groups that ArviZ reads."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
import xarray
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae._errors import check_seed, expected, positive_integer, unknown_name
from pyro_vae._untouched import undisturbed
from pyro_vae.criticism._labels import Coords, Dims, constant, label, storage
from pyro_vae.criticism.datatree import chosen_groups, library_attrs

__all__ = ["from_pyro_svi"]

Program = Callable[..., Any]
Site = Mapping[str, Any]


@torch.no_grad()
def from_pyro_svi(
    model: Program,
    guide: Program,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    num_draws: int = 500,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    dims: Dims | None = None,
    coords: Coords | None = None,
) -> xarray.DataTree:
    """Puts a Pyro model and its fitted guide, of whatever kind, into ArviZ's groups.

    Both are run once for each draw, so that any program will do. The groups are those of
    :func:`to_datatree`: ``posterior`` has the latent and deterministic sites as the guide draws
    them; ``posterior_predictive`` has the sites that were observed, drawn anew, and never the
    observations; ``log_likelihood`` and ``observed_data`` have them as observed, the log-density
    being 0 where ``poutine.mask`` hides them; ``prior`` and ``prior_predictive`` come from the
    model alone. ``sample_stats`` has ``log_p`` and ``log_q``,
    the log-densities of model and guide in nats, for each element of the plates that all sites are
    in, or else as one number a draw; a guide that is a point has none.

    Plates become dimensions of their name. Discrete variables are integers.

    References:
        ArviZ a unified library for exploratory analysis of Bayesian models in Python
        (Kumar et al., 2019), https://doi.org/10.21105/joss.01143

    Args:
        model: A Pyro model.
        guide: A Pyro guide with all latent sites of the model: written by hand, or an AutoGuide.
        args: What model and guide are called with, all data at once.
        kwargs: The same by name.
        num_draws: Draws of each site.
        seed: Of the draws: the same seed gives the same tree.
        groups: Those to make; all of them by default.
        constant_data: Arrays that belong to the data, such as covariates, by name.
        dims: Names of the event dimensions of a site, as ``{"x": ["feature"]}``, and of all
            dimensions of constant data; ``x_dim_0`` and so on by default.
        coords: Labels along dimensions, as ``{"feature": ["height", "weight"]}``.

    Returns:
        The tree. Dimensions are ``chain`` (one), ``draw``, those of plates and those of an event.

    Raises:
        ValueError: If the guide lacks a latent site, a plate is subsampled, or an option is not
            what it should be.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("person", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> tree = from_pyro_svi(model, guide, (torch.randn(4),), num_draws=10)
        >>> dict(tree["posterior"].sizes), dict(tree["posterior_predictive"].sizes)
        ({'chain': 1, 'draw': 10}, {'chain': 1, 'draw': 10, 'person': 4})
    """
    for name, program in (("model", model), ("guide", guide)):
        if not callable(program):
            raise expected(name, "a Pyro program", program)
    seed = check_seed("seed", seed)
    num_draws = positive_integer("num_draws", num_draws)
    chosen = chosen_groups(groups)
    arguments = (tuple(args), dict(kwargs or {}))
    draws = _Draws(dict(dims or {}), num_draws)
    tensors = [a for a in (*arguments[0], *arguments[1].values()) if isinstance(a, Tensor)]
    device = tensors[0].device if tensors else torch.empty(0).device
    modules = nn.ModuleList(each for each in (model, guide) if isinstance(each, nn.Module))
    from_prior = "prior" in chosen or "prior_predictive" in chosen
    with undisturbed(modules, seed, device):
        for _ in range(num_draws):
            _draw(draws, model, guide, arguments)
        for _ in range(num_draws if from_prior else 0):
            _draw_from_prior(draws, model, arguments)
    for name, value in (constant_data or {}).items():
        array = constant(name, value)
        draws.whole("constant_data", name, array, draws.event_dims(name, array.shape))
    draws.check_names()

    attrs = library_attrs() | {
        "inference_library": "pyro",
        "inference_library_version": importlib.metadata.version("pyro-ppl"),
        "model": _name(model),
        "guide": _name(guide),
        "seed": seed,
    }
    datasets = {group: draws.dataset(group, coords or {}) for group in chosen}
    for name in coords or {}:
        if name not in draws.sizes:
            raise unknown_name("coords", name, draws.sizes)
    root = xarray.Dataset(attrs=attrs)
    return xarray.DataTree.from_dict(
        {"/": root} | {group: each for group, each in datasets.items() if each.data_vars}
    )


@dataclass
class _Draws:
    """Values of named sites, one draw after the other, and what their dimensions are called."""

    given: dict[str, Sequence[str]]
    num_draws: int
    values: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)
    dims: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    observed: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)

    def add(self, group: str, name: str, site: Site) -> None:
        """Adds one draw of a site."""
        value, names = site["value"], self.site_dims(name, site)
        if not _is_deterministic(site):
            value = value.expand(site["fn"].shape())
        self.number(group, name, _array(site, value), names)

    def number(self, group: str, name: str, value: np.ndarray, names: tuple[str, ...]) -> None:
        """Adds one draw of an array with named dimensions."""
        self._measure(group, name, value.shape, names)
        self.values.setdefault(group, {}).setdefault(name, []).append(value)

    def whole(self, group: str, name: str, value: np.ndarray, names: tuple[str, ...]) -> None:
        """Sets an array that is the same for all draws."""
        self._measure(group, name, value.shape, names)
        self.values.setdefault(group, {})[name] = [value]

    def site_dims(self, name: str, site: Site) -> tuple[str, ...]:
        """Returns the names of plates, then those of the event."""
        shape = site["value"].shape if _is_deterministic(site) else site["fn"].batch_shape
        event = () if _is_deterministic(site) else site["fn"].event_shape
        plates = {f.dim: f for f in _frames(site) if -f.dim <= len(shape)}
        names = self.event_dims(name, event)
        counted = (f"{name}_dim_{i}" for i in range(len(event), len(event) + len(shape)))
        batch = [
            plates[dim].name if dim in plates and plates[dim].size == size else next(counted)
            for dim, size in zip(range(-len(shape), 0), shape, strict=True)
        ]
        return (*batch, *names)

    def event_dims(self, name: str, shape: Sequence[int]) -> tuple[str, ...]:
        """Returns the names given to the dimensions of an event, or counts them."""
        self.named.add(name)
        given = self.given.get(name)
        if given is None:
            return tuple(f"{name}_dim_{i}" for i in range(len(shape)))
        if isinstance(given, str) or len(given) != len(shape):
            what = f"{len(shape)} names for {name}, whose event has shape {tuple(shape)}"
            raise expected("dims", what, given)
        return tuple(given)

    def check_names(self) -> None:
        """Refuses names of dimensions for what is no variable."""
        for name in self.given:
            if name not in self.named:
                raise unknown_name("dims", name, sorted(self.named))

    def dataset(self, group: str, coords: Coords) -> xarray.Dataset:
        """Returns a group with its draws put together."""
        variables: dict[str, Any] = {}
        for name, values in self.values.get(group, {}).items():
            names = self.dims[group, name]
            if group in ("observed_data", "constant_data"):
                variables[name] = (names, values[0])
            else:
                variables[name] = (("chain", "draw", *names), np.stack(values)[None])
        sizes = {"chain": 1, "draw": self.num_draws} | self.sizes
        along = {d: sizes[d] for dims, _ in variables.values() for d in dims}
        return xarray.Dataset(variables, label(along, coords))

    def _measure(
        self, group: str, name: str, shape: tuple[int, ...], names: tuple[str, ...]
    ) -> None:
        for dim, size in zip(names, shape, strict=True):
            if dim in ("chain", "draw") or names.count(dim) > 1:
                raise expected("dims", f"one dimension to a name in {name}", dim)
            if self.sizes.setdefault(dim, size) != size:
                what = f"a dimension {dim} that is {self.sizes[dim]} long in {name} too"
                raise expected("model", what, size)
        if self.dims.setdefault((group, name), names) != names or (
            group in self.values
            and name in self.values[group]
            and self.values[group][name][0].shape != shape
        ):
            raise expected("model", f"a site {name} of the same shape in each run", shape)


def _draw(
    draws: _Draws, model: Program, guide: Program, arguments: tuple[tuple[Any, ...], dict[str, Any]]
) -> None:
    """Runs the guide, the model on its draws, and the model on them without observations."""
    guided = _trace(guide, *arguments)
    observed = _trace(poutine.replay(model, trace=guided), *arguments)
    sites = _random_sites(observed)
    seen = {name for name, site in sites.items() if _is_observed(site)}
    for name, site in sites.items():
        latent = name not in seen and not _is_deterministic(site)
        if latent and name not in guided.nodes:
            raise expected("guide", "every latent site of the model", f"none of {name!r}")

    guided.compute_log_prob()
    observed.compute_log_prob()
    for name, site in sites.items():
        if name in seen:
            dims = draws.site_dims(name, site)
            shape = site["fn"].batch_shape
            # What a mask hides was not observed; a scale is of the objective, not of the data.
            seen_log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
            log_prob = seen_log_prob.expand(shape).cpu().double().numpy()
            draws.number("log_likelihood", name, log_prob, dims[: len(shape)])
            if name not in draws.observed:
                value = site["value"].expand(site["fn"].shape())
                draws.whole("observed_data", name, _array(site, value), dims)
        else:
            draws.add("posterior", name, site)
    _add_densities(draws, guided, observed)

    draws.observed |= seen

    latent_only = observed.copy()
    for site in _sample_sites(observed):
        if site["is_observed"]:  # data, factors, and what is computed anew
            latent_only.remove_node(site["name"])
    replicated = _trace(poutine.replay(poutine.uncondition(model), trace=latent_only), *arguments)
    for name in seen:
        draws.add("posterior_predictive", name, replicated.nodes[name])


def _draw_from_prior(
    draws: _Draws, model: Program, arguments: tuple[tuple[Any, ...], dict[str, Any]]
) -> None:
    """Runs the model alone, without observations."""
    simulated = _trace(poutine.uncondition(model), *arguments)
    for name, site in _random_sites(simulated).items():
        group = "prior_predictive" if name in draws.observed else "prior"
        draws.add(group, name, site)


def _add_densities(draws: _Draws, guided: poutine.Trace, observed: poutine.Trace) -> None:
    traces = {
        kind: [site for site in _sample_sites(trace) if not _is_deterministic(site)]
        for kind, trace in (("log_q", guided), ("log_p", observed))
    }
    if all(_is_point(site["fn"]) for site in traces["log_q"]):
        return
    everyone = [{f.name for f in _frames(s)} for sites in traces.values() for s in sites]
    shared = set.intersection(*everyone)
    for kind, sites in traces.items():
        total: np.ndarray | float = 0.0
        names: tuple[str, ...] = ()
        for site in sites:
            frames = sorted((f for f in _frames(site) if f.name in shared), key=lambda f: f.dim)
            names = tuple(f.name for f in frames)
            log_prob = site["log_prob"].expand(site["fn"].batch_shape).cpu().double().numpy()
            kept = {log_prob.ndim + f.dim for f in frames}
            summed = tuple(axis for axis in range(log_prob.ndim) if axis not in kept)
            total = total + log_prob.sum(summed)
        draws.number("sample_stats", kind, np.asarray(total), names)


def _trace(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> poutine.Trace:
    trace = poutine.trace(program).get_trace(*args, **kwargs)
    for site in _sample_sites(trace):
        for frame in _frames(site):
            if frame.full_size is not None and frame.size < frame.full_size:
                what = f"all data at once in plate {frame.name!r}"
                raise expected("args", what, f"{frame.size} of {frame.full_size}")
    return trace


def _sample_sites(trace: poutine.Trace) -> list[Site]:
    nodes = trace.nodes.values()
    return [site for site in nodes if site["type"] == "sample" and not site_is_subsample(site)]


def _random_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites that have a value: a factor has none."""
    return {s["name"]: s for s in _sample_sites(trace) if not isinstance(s["fn"], dist.Unit)}


def _is_deterministic(site: Site) -> bool:
    return bool(site["infer"].get("_deterministic", False))


def _is_observed(site: Site) -> bool:
    return site["is_observed"] and not _is_deterministic(site)


def _is_point(drawn_from: Any) -> bool:
    while hasattr(drawn_from, "base_dist"):
        drawn_from = drawn_from.base_dist
    return isinstance(drawn_from, dist.Delta)


def _frames(site: Site) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _array(site: Site, value: Tensor) -> np.ndarray:
    try:
        support = site["fn"].support
    except NotImplementedError:  # the distribution has no support
        return value.cpu().numpy()
    return value.cpu().numpy().astype(storage(support, value.dtype))


def _name(program: Program) -> str:
    return getattr(program, "__name__", type(program).__name__)
