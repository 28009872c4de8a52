"""Draws and densities of a fitted model, as the tree of labelled groups that ArviZ reads."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, get_args

import numpy as np
import torch
import xarray
from torch import Tensor

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae._untouched import undisturbed
from pyro_vae.checkpoint import model_spec
from pyro_vae.criticism._draws import Recorder, pairs_at_once, record_posterior, record_prior
from pyro_vae.criticism._labels import Coords, Dims, Labels, as_they_came, constant, storage
from pyro_vae.data.axes import axes_of
from pyro_vae.data.rows import GivenLike, Rows, RowsLike
from pyro_vae.evaluation._common import check_arguments, check_ignorable, measured
from pyro_vae.evaluation.posterior import Method, PosteriorDraws, posterior_draws
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor

__all__ = ["GROUPS", "to_datatree"]

GROUPS = (
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
)
_OF_Z = ("posterior", "posterior_predictive", "log_likelihood", "sample_stats")
_VERSIONS = ("torch", "pyro-ppl", "xarray", "arviz-base")
_MIB = 2**20
_DIAGNOSTICS = ("k_hat", "ess", "r_hat", "divergences")


def to_datatree(
    vae: Amortized,
    x: RowsLike,
    *,
    num_draws: int | None = None,
    seed: int = 0,
    posterior: Method | PosteriorDraws = "guide",
    groups: Sequence[str] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    objective: str | None = None,
    base_measure: Mapping[str, Any] | None = None,
    dims: Dims | None = None,
    coords: Coords | None = None,
    out: str | Path | None = None,
    max_memory: int = 2048 * _MIB,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> xarray.DataTree:
    r"""Puts a model, its data and draws of both into the groups that ArviZ's functions read.

    ============================ ===================================================================
    ``posterior``                ``z``, drawn from q(z|x); its attribute ``draws`` names how
    ``posterior_predictive``     ``x``, a replicate from each z
    ``log_likelihood``           ``x``, log p(x|z) of each observation, nats
    ``sample_stats``             ``log_p``, log p(x, z), and ``log_q``, log q(z|x), nats; of draws
                                 that are corrected, diagnostics of each observation
    ``prior``                    ``z``, drawn from p(z)
    ``prior_predictive``         ``x``, simulated from each of these
    ``observed_data``            ``x``, as it was given
    ``constant_data``            what was given as such, such as labels; conditions and covariates
    ============================ ===================================================================

    Dimensions are ``chain`` (one, or those of NUTS), ``draw``, ``data``, then those of one event:
    ``latent``, or ``group`` and ``class``, for z; ``feature``, ``row`` and ``column``, or
    ``channel``, ``row`` and ``column``, for x. Discrete variables are integers.
    ``arviz_stats.loo_approximate_posterior(tree, log_p=tree["sample_stats"]["log_p"],
    log_q=tree["sample_stats"]["log_q"])`` corrects each observation's own posterior by weights.

    ``tree.to_netcdf(path, engine="h5netcdf")`` saves the tree, and so does ``tree.to_zarr(path)``
    where zarr is installed.

    References:
        ArviZ a unified library for exploratory analysis of Bayesian models in Python
        (Kumar et al., 2019), https://doi.org/10.21105/joss.01143

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``.
        num_draws: Draws for each observation: 200, or as many as were given as ``posterior``.
        seed: Of the draws: the same seed gives the same tree.
        posterior: ``guide``; ``importance`` or ``nuts``, for draws of
            :func:`pyro_vae.evaluation.posterior_draws`; or what that returned. There is no
            ``log_q`` but for draws of the guide. Those of the other kinds are held in memory.
        groups: Those to make; all of them by default.
        constant_data: Arrays of shape ``(N, ...)`` that belong to the data, by name.
        objective: What the model was fitted by, to be noted in the attributes.
        base_measure: Where data that are no split of a :class:`pyro_vae.data.Dataset` come from,
            as for :func:`pyro_vae.evaluate`.
        dims: Names of the event dimensions, as ``{"x": ["channel", "row", "column"]}``; those that
            data came with, of xarray or of a data set, if not given.
        coords: Labels along dimensions, as ``{"feature": ["height", "weight"]}``, likewise: names
            of columns, and of observations, are labels.
        out: A file ``NAME.nc`` to write the draws to, block by block, and to read them from as
            they are needed.
        max_memory: Bytes that draws may take: all of them without ``out``, one block with it. The
            data, and what the networks need for themselves, come on top.
        progress: Called now and then with the fraction that is done.
        **given: What goes with x (:class:`~pyro_vae.data.Given`). Replicates are masked as x is.

    Returns:
        The tree. Its attributes hold the model, the objective, the base measure of the data, the
        seed and versions, what is no string or number as JSON; of a table also the schema, by which
        :meth:`pyro_vae.data.Schema.decode` makes a table of x.

    Raises:
        ValueError: If the data do not suit the model, an option is not what it should be, or the
            draws do not fit.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((4,)))
        >>> tree = pv.to_datatree(vae, vae.sample(5), num_draws=10)
        >>> tree["posterior"]["z"].dims, dict(tree["log_likelihood"].sizes)
        (('chain', 'draw', 'data', 'latent'), {'chain': 1, 'draw': 10, 'data': 5})
    """
    seed = check_arguments(vae, seed)
    check_ignorable(vae, "evaluation.posterior_draws, or impute")
    num_draws = _checked_draws(num_draws, posterior)
    max_memory = positive_integer("max_memory", max_memory)
    chosen, path = chosen_groups(groups), None if out is None else _new_file(out)
    x = x if isinstance(x, Rows) else as_tensor(x)
    dims, coords = as_they_came(x.x if isinstance(x, Rows) else x, dims, coords)
    data, measure = measured(vae, x, given, base_measure)
    constants = _constants(constant_data or {}, data)
    labels = Labels(vae, dims, coords, {name: v.shape[1:] for name, v in constants.items()})
    share = 0.5 if isinstance(posterior, str) and posterior != "guide" else 0.0
    corrected = _corrected(vae, data, posterior, num_draws, seed, _part(progress, 0.0, share))
    noted = _noted(vae, x, measure, seed, objective)
    recorder = _recorder(vae, data, labels, constants, noted, corrected, num_draws, chosen)
    return _recorded(recorder, vae, data, corrected, path, seed, max_memory, _part(progress, share))


def _checked_draws(num_draws: int | None, posterior: Method | PosteriorDraws) -> int:
    """Returns how many draws there are to be."""
    given = isinstance(posterior, PosteriorDraws)
    if not given and posterior not in get_args(Method):
        known = [*get_args(Method), "what posterior_draws returns"]
        raise unknown_name("posterior", posterior, known)
    if num_draws is None:
        num_draws = len(posterior.z) if isinstance(posterior, PosteriorDraws) else 200
    return positive_integer("num_draws", num_draws)


def _recorder(
    vae: Amortized,
    data: Rows,
    labels: Labels,
    constants: Mapping[str, np.ndarray],
    noted: Mapping[str, Any],
    corrected: PosteriorDraws | None,
    num_draws: int,
    chosen: Sequence[str],
) -> Recorder:
    """Returns what takes the draws, with what is no draw in it already."""
    method = "guide" if corrected is None else corrected.method
    attrs = {group: {"draws": method} for group in _OF_Z} | {"/": noted}
    num_chains = (None if corrected is None else corrected.num_chains) or 1
    sizes, hides = (num_draws, len(data)), data.mask is not None
    recorder = recorder_of(vae, labels, *sizes, chosen, attrs, num_chains, hides=hides)
    _add_arrays(recorder, vae, data, constants, corrected, chosen)
    return recorder


def _noted(
    vae: Amortized,
    x: Any,
    measure: Mapping[str, Any],
    seed: int,
    objective: str | None,
) -> dict[str, Any]:
    """Returns the attributes of the tree itself."""
    noted = model_attrs(vae) | {
        "seed": seed,
        "base_measure": json.dumps(measure),
    }
    came = x.x if isinstance(x, Rows) else x
    schema = axes_of(came).schema if isinstance(came, Tensor) else None
    if schema is not None:
        noted["schema"] = json.dumps(schema.spec())
    return noted if objective is None else noted | {"objective": objective}


def _part(
    progress: Callable[[float], None] | None, start: float, end: float = 1.0
) -> Callable[[float], None] | None:
    """Reports what goes from 0 to 1 as going from ``start`` to ``end``."""
    if progress is None:
        return None
    return lambda done: progress(start + (end - start) * done)


def _corrected(
    vae: Amortized,
    data: Rows,
    posterior: Method | PosteriorDraws,
    num_draws: int,
    seed: int,
    progress: Callable[[float], None] | None,
) -> PosteriorDraws | None:
    """Returns draws that are not the guide's own, as they were given or by a method; else None."""
    if posterior == "guide":
        return None
    if isinstance(posterior, str):
        posterior = posterior_draws(
            vae, data, method=posterior, num_draws=num_draws, seed=seed, progress=progress
        )
    wanted = (num_draws, len(data), *vae.space.event_shape)
    if tuple(posterior.z.shape) != wanted:
        raise expected("posterior", f"z of shape {wanted}", posterior.z)
    return posterior


def _add_arrays(
    recorder: Recorder,
    vae: Amortized,
    data: Rows,
    constants: Mapping[str, np.ndarray],
    corrected: PosteriorDraws | None,
    chosen: Sequence[str],
) -> None:
    """Adds what is no draw: diagnostics, the data, and what goes with them."""
    if corrected is not None and corrected.method != "guide":
        recorder.variables.pop(("sample_stats", "log_q"), None)
    measured = {name: getattr(corrected, name, None) for name in _DIAGNOSTICS}
    diagnostics = {name: (("data",), each) for name, each in measured.items() if each is not None}
    if diagnostics and "sample_stats" in chosen:
        recorder.add("sample_stats", diagnostics)
    dims = recorder.labels.dims
    if "observed_data" in chosen:
        x = data.x
        if data.mask is not None:
            x = x.where(data.mask, math.nan)
        observed = x.cpu().numpy().astype(stored_x(vae, data.x.dtype, data.mask is not None))
        recorder.add("observed_data", {"x": (dims("x", "data"), observed)})
    if constants and "constant_data" in chosen:
        recorder.add("constant_data", {n: (dims(n, "data"), v) for n, v in constants.items()})


def _recorded(
    recorder: Recorder,
    vae: Amortized,
    data: Rows,
    corrected: PosteriorDraws | None,
    path: Path | None,
    seed: int,
    max_memory: int,
    progress: Callable[[float], None] | None,
) -> xarray.DataTree:
    """Draws what the recorder wants, and returns it in memory, or in a file."""
    if path is None and recorder.nbytes > max_memory:
        what = f"{-(-recorder.nbytes // _MIB)} MiB for these draws, or `out` of to_datatree, a file"
        raise expected("max_memory", what, f"{max_memory // _MIB} MiB")
    z = None if corrected is None else corrected.z.to(data.x)
    pairs = pairs_at_once(vae, None if path is None else max_memory)
    from_posterior = any(recorder.wants(group) for group in _OF_Z)
    from_prior = recorder.wants("prior") or recorder.wants("prior_predictive")
    total, done = recorder.num_draws * len(data) * (from_posterior + from_prior), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done / total)

    def record() -> None:
        with undisturbed(vae, seed, data.x.device):
            if from_posterior:
                record_posterior(recorder, vae, data, z=z, pairs=pairs, progress=advance)
            if from_prior:
                record_prior(recorder, vae, data.given, pairs=pairs, progress=advance)

    if path is None:
        with recorder.in_memory() as tree:
            record()
        return tree
    with recorder.in_file(path):
        record()
    return xarray.open_datatree(path, engine="h5netcdf")


def recorder_of(
    vae: Amortized,
    labels: Labels,
    num_draws: int,
    size: int,
    groups: Sequence[str],
    attrs: Mapping[str, Mapping[str, Any]],
    num_chains: int = 1,
    *,
    hides: bool = False,
) -> Recorder:
    """Returns what takes the draws of these groups."""
    recorder = Recorder(labels, num_draws, size, attrs, num_chains)
    dtype = next(vae.parameters(), torch.empty(0)).dtype
    kept = {
        "x": stored_x(vae, dtype, hides),
        "z": storage(vae.space.support, dtype),
    }
    for group, name in (
        ("posterior", "z"),
        ("posterior_predictive", "x"),
        ("prior", "z"),
        ("prior_predictive", "x"),
    ):
        if group in groups:
            recorder.declare(group, name, kept[name])
    for group, name in (
        ("log_likelihood", "x"),
        ("sample_stats", "log_p"),
        ("sample_stats", "log_q"),
    ):
        if group in groups:
            recorder.declare(group, name, np.dtype(np.float64), event=False)
    return recorder


def stored_x(vae: Amortized, dtype: torch.dtype, hides: bool) -> np.dtype[Any]:
    """Returns how x is stored: no integers where an entry may be hidden, as they have no NaN."""
    kept = storage(vae.x_support, dtype)
    return np.dtype(np.float32) if hides and kept.kind in "iub" else kept


def model_attrs(vae: Amortized) -> dict[str, str]:
    """Returns the attributes that describe a model: how it is built, and by which versions."""
    return library_attrs() | {"model": json.dumps(model_spec(vae))}


def library_attrs() -> dict[str, str]:
    """Returns the attributes that ArviZ calls the inference library, and further versions."""
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {
        "inference_library": "pyro_vae",
        "inference_library_version": importlib.metadata.version("pyro-vae"),
        "versions": json.dumps(versions),
    }


def chosen_groups(groups: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the groups asked for, or all.

    Raises:
        ValueError: If there is no such group, or none was asked for.
    """
    chosen = GROUPS if groups is None else groups
    if isinstance(chosen, str) or len(chosen) == 0:
        raise expected("groups", f"some of {', '.join(GROUPS)}", groups)
    for group in chosen:
        if group not in GROUPS:
            raise unknown_name("groups", group, GROUPS)
    return tuple(chosen)


def _new_file(out: str | Path) -> Path:
    path = Path(out)
    if path.suffix != ".nc" or path.exists() or not path.parent.is_dir():
        raise expected("out", "a new file NAME.nc in an existing folder", str(out))
    return path


def _constants(named: Mapping[str, Any], rows: Rows) -> dict[str, np.ndarray]:
    """Returns what goes with the data as arrays: what was given as such, and conditions."""
    conditions = rows.without("mask").tensors()
    known = {name: each.cpu().numpy() for name, each in conditions.items()}
    return known | {name: _constant(name, value, len(rows)) for name, value in named.items()}


def _constant(name: str, value: Any, size: int) -> np.ndarray:
    array = constant(name, value)
    if array.shape[:1] != (size,):
        raise expected("constant_data", f"{size} numbers or strings for {name}", value)
    return array
