"""What a model accepts: the one place that checks observations and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyro_vae._errors import expected
from pyro_vae.data.axes import Axes, axes_of, keep_axes
from pyro_vae.data.containers import Contents, contents_or_value, is_container
from pyro_vae.data.raw import plain_tensor
from pyro_vae.data.rows import Conditions, Given, Rows, RowsLike, given_of
from pyro_vae.data.source import Stream
from pyro_vae.distributions import masked
from pyro_vae.likelihoods import Likelihood
from pyro_vae.likelihoods.suggestion import what_fits
from pyro_vae.networks import Network

if TYPE_CHECKING:
    from pyro_vae.programs.composition import Composition
    from pyro_vae.programs.protocol import Amortized
    from pyro_vae.programs.vae import VAE

__all__ = [
    "accepted",
    "as_batch",
    "as_tensor",
    "as_tensors",
    "checked_given",
    "cond_of",
    "covariates_of",
    "decodable",
    "encodable",
    "rows_of",
    "simulated_given",
    "unlabelled",
    "used",
]


_PIECE = 2**20  # entries that are checked at once


def rows_of(vae: Amortized, x: RowsLike, given: Mapping[str, Any], argument: str = "x") -> Rows:
    """Returns what a verb was called with as rows that the model accepts.

    Args:
        vae: The model.
        x: Observations, shape ``(N, *event_shape)``, a tensor or an array; or rows of a data set,
            with what goes with them: what the model has no use for is left out.
        given: The verb's keyword arguments. None of them may be labels: only a fit, and verbs that
            say so, have a use for them.
        argument: What to call ``x`` in an error.

    Raises:
        ValueError: If the model does not accept them.
        TypeError: If a keyword is none of :class:`Given`.
    """
    checked = unlabelled(given)
    if isinstance(x, Stream):
        raise expected(argument, "rows in memory, as `.read()` of a stream returns them", x)
    if not isinstance(x, Rows):
        return vae.accepts(Rows(as_tensor(x, argument), checked), argument)
    if checked:
        raise expected(min(checked), f"None, as `{argument}` brings what goes with it", "one more")
    return vae.accepts(vae.uses(x.without("labels")), argument)


def as_tensor(value: Any, argument: str = "x") -> Any:
    """Returns real numbers as a tensor, of arrays, lists and containers; anything else as it is.

    Whoever takes it says what was expected. That is so of a masked array, too, whose hidden values
    would otherwise be data. The names of dimensions and entries stay with the tensor.

    Args:
        value: What a caller gave.
        argument: What to call it in an error.

    Raises:
        ValueError: If a container holds something else, or is first to be loaded.
    """
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        with suppress(TypeError, ValueError, RuntimeError):
            value = np.asarray(value)
    found = contents_or_value(value, argument)
    if not isinstance(found, Contents):
        return plain_tensor(found)
    if isinstance(x := plain_tensor(found.x), Tensor):
        keep_axes(x, Axes(tuple(found.dims), found.coords, tuple(found.names), found.index))
    return x


def as_tensors(given: Mapping[str, Any]) -> Given:
    """Returns what goes with observations as tensors, where it is arrays, lists or containers."""
    kept: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and not is_container(value):
            kept[name] = {key: as_tensor(each, f"{name}: {key}") for key, each in value.items()}
        else:
            kept[name] = as_tensor(value, name)
    return cast(Given, kept)


def unlabelled(given: Mapping[str, Any]) -> Given:
    """Returns what goes with observations where no label may.

    Raises:
        ValueError: If there are labels.
        TypeError: If a keyword is none of :class:`Given`.
    """
    present = as_tensors(given_of(given))
    if "labels" in present:
        raise expected("labels", "None, as labels are used in fitting alone", present["labels"])
    return present


def accepted(vae: Composition, rows: Rows, argument: str = "x") -> Rows:
    """Returns rows as a model takes them: in its dtype, on its device, hidden entries feasible.

    Raises:
        ValueError: If something is not what it should be, is missing, or has no use in this model;
            or if a value is not finite or outside the support of the likelihood.
    """
    x, given = _batch(vae, rows.x, argument), rows.given
    size = len(x)
    cond, covariates = cond_of(vae, given.get("cond"), size), _covariates(vae, given, (size,))
    labels, mask = _labels(vae, given.get("labels"), size), _mask(vae, given.get("mask"), size)
    checked = {"cond": cond, "mask": mask, "covariates": covariates, "labels": labels}
    return Rows(_observations(vae, x, argument, mask), given_of(checked))


def encodable(vae: VAE, x: RowsLike, given: Mapping[str, Any]) -> Rows:
    """Returns rows as :func:`rows_of` does; one condition may stand for all of them.

    Raises:
        ValueError: As there.
        TypeError: As there.
    """
    cond = as_tensor(given.get("cond"), "cond")
    if isinstance(cond, Tensor) and cond.ndim > 0 and cond.shape[:-1].numel() == 1:
        x = as_tensor(x)
        if isinstance(x, Tensor) and x.ndim > 0:
            given = {**given, "cond": cond.reshape(-1).expand(len(x), -1)}
    return rows_of(vae, x, given)


def decodable(vae: Composition, z: Tensor, given: Given) -> tuple[Tensor, Given]:
    """Returns latents, and what goes with what they are decoded to, as a model takes them.

    Raises:
        ValueError: If something is not what it should be, is missing, or has no use in this model.
    """
    event_shape = vae.prior.event_shape
    batch = z.ndim - len(event_shape) if isinstance(z, Tensor) else -1
    if batch < 0 or z.shape[batch:] != event_shape or z.is_complex():
        what = f"a tensor of real numbers of shape (*, B{''.join(f', {n}' for n in event_shape)})"
        raise expected("z", what, z)
    checked: dict[str, Any] = dict(given)
    if isinstance(cond := given.get("cond"), Tensor) and not cond.is_complex():
        checked["cond"] = _finite_cond(vae, cond)
    if isinstance(mask := given.get("mask"), Tensor):
        checked["mask"] = mask.to(vae.initialized.device)
    checked["covariates"] = _covariates(vae, given, tuple(z.shape[:batch]))
    return z.to(vae.model.filler), given_of(checked)


def used(vae: Composition, rows: Rows) -> Rows:
    """Returns rows without the conditions and covariates that a model has no use for."""
    unused = ["cond"] if vae.cond_size is None else []
    return rows.without(*unused, *(() if vae.likelihood.covariates else ("covariates",)))


def as_batch(x: Tensor, event_shape: torch.Size, module: nn.Module) -> Tensor:
    """Returns ``x`` in the dtype of the module's parameters.

    Raises:
        ValueError: If ``x`` is no batch of real data of that shape.
    """
    wanted = f"a tensor of shape (N{''.join(f', {size}' for size in event_shape)})"
    if not isinstance(x, Tensor) or x.shape[1:] != event_shape or x.ndim == 0:
        raise expected("x", wanted, x)
    if x.is_complex():
        raise expected("x", "real numbers", x)
    parameter = next(module.parameters(), None)
    return x.to(torch.get_default_dtype() if parameter is None else parameter.dtype)


def covariates_of(likelihood: Likelihood, given: Conditions) -> dict[str, Tensor]:
    """Returns the covariates that a likelihood names.

    Raises:
        ValueError: If there are others, or one is missing.
    """
    found, wanted = given.get("covariates"), list(likelihood.covariates)
    if not isinstance(found, Mapping | None):
        raise expected("covariates", "a mapping of names to tensors", found)
    named = dict(found or {})
    if named.keys() != set(wanted):
        each = f"{', '.join(wanted)} of each observation"
        what = each if wanted else "None with this likelihood"
        raise expected("covariates", what, sorted(named) or None)
    return named


def cond_of(vae: Composition, cond: Tensor | None, size: int) -> Tensor | None:
    """Returns conditions as a model takes them.

    Raises:
        ValueError: If they are not ``size`` conditions of this model, or it has none.
    """
    if vae.cond_size is None:
        if cond is not None:
            raise expected("cond", "None for a model built without `cond_size`", cond)
        return None
    shape = (size, vae.cond_size)
    if not isinstance(cond, Tensor) or cond.shape != shape or cond.is_complex():
        raise expected("cond", f"a tensor of shape {shape}", cond)
    return _finite_cond(vae, cond)


def _finite_cond(vae: Composition, cond: Tensor) -> Tensor:
    cond = cond.to(vae.model.filler)
    if not cond.isfinite().all():
        raise expected("cond", "finite numbers", f"{int((~cond.isfinite()).sum())} that are not")
    return cond


def checked_given(vae: Composition, given: Mapping[str, Any], size: int) -> Given:
    """Returns the conditions and covariates of ``size`` observations that are to be simulated.

    Raises:
        ValueError: If they are not what the model needs.
    """
    for name in given_of(given).keys() - {"cond", "covariates"}:
        raise expected(name, "None, as nothing is observed of what is simulated", given.get(name))
    known = as_tensors(given)
    cond, covariates = cond_of(vae, known.get("cond"), size), _covariates(vae, known, (size,))
    return given_of({"cond": cond, "covariates": covariates})


def simulated_given(vae: Composition, given: Mapping[str, Any]) -> Given:
    """Returns what goes with data that are to be simulated like some observed ones.

    Raises:
        ValueError: If the model needs what is not there, or it is not what it should be.
    """
    checked = unlabelled(given)
    each = tree_leaves([checked.get(name) for name in ("cond", "mask", "covariates")])
    size = next((len(rows) for rows in each if getattr(rows, "ndim", 0) > 0), 0)
    others = {name: value for name, value in checked.items() if name != "mask"}
    known = checked_given(vae, cast(Conditions, others), size)
    return given_of({**known, "mask": _mask(vae, checked.get("mask"), size)})


def _batch(vae: Composition, x: Tensor, argument: str) -> Tensor:
    try:
        x = as_batch(x, vae.event_shape, vae)
    except ValueError as error:
        raise ValueError(str(error).replace("`x`", f"`{argument}`", 1)) from None
    if len(x) == 0:
        raise expected(argument, "at least one observation", x)
    if x.is_meta or x.layout is not torch.strided:
        raise expected(argument, "a dense tensor of numbers", f"one on {x.device}, {x.layout}")
    return x


def _observations(vae: Composition, x: Tensor, argument: str, mask: Tensor | None) -> Tensor:
    """Returns observations on the device of the model, all in the support of its likelihood."""
    names = axes_of(x).names
    if mask is not None:
        x = torch.where(mask.to(x.device), x, vae.model.filler.to(x))
    support = vae.likelihood.support
    # In pieces: what is right is checked without another array of its size.
    if not all(bool(each.isfinite().all()) for each in _pieces(x)):
        raise _outside(vae, x, ~x.isfinite() | ~support.check(x), argument, mask, names)
    x = x.to(vae.initialized.device)
    if not all(bool(support.check(each).all()) for each in _pieces(x)):
        raise _outside(vae, x, ~support.check(x), argument, mask, names)
    return x


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(max(1, _PIECE // max(1, x[:1].numel())))


def _outside(
    vae: Composition,
    x: Tensor,
    bad: Tensor,
    argument: str,
    mask: Tensor | None,
    names: tuple[str, ...] = (),
) -> ValueError:
    """Says what is outside the support, and which likelihood would take it."""
    where = bad.nonzero()[0].tolist()
    entry = vae.likelihood.entry(where[1:])
    family = f"{type(entry).__name__}, {entry.support}"
    of = f" of {names[where[1]]}" if len(names) == x.shape[1:].numel() else ""
    got = f"{x[bad][0].item():g} at index {where}{of}, {int(bad.sum())} bad in all"
    seen = x if mask is None else torch.where(mask.to(x.device), x, torch.nan)
    fits = what_fits(vae.likelihood, seen, bad)
    if x[bad].isnan().any():  # no family takes it
        fits = "`mask` says which entries are observed, as does `missing` where data are loaded"
    message = f"`{argument}`: expected values in the support of {family}, got {got}"
    return ValueError(f"{message}; {fits}" if fits else message)


def _covariates(vae: Composition, given: Conditions, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Returns covariates of the shape, or of as many of its last dimensions as they have."""
    named = covariates_of(vae.likelihood, given)
    for name, value in named.items():
        argument, domain = f"covariates: {name}", vae.likelihood.domain_of(name)
        wanted = shape[-value.ndim :] if isinstance(value, Tensor) and value.ndim > 0 else shape
        if not isinstance(value, Tensor) or value.shape != wanted or value.is_complex():
            raise expected(argument, f"a tensor of shape {shape[-1:]}", value)
        value = named[name] = value.to(vae.model.filler)
        bad = ~(value.isfinite() & domain.check(value))
        if bad.any():
            got = f"{value[bad][0].item():g}, {int(bad.sum())} bad in all"
            raise expected(argument, f"finite numbers that are {domain}", got)
    return named


def _labels(vae: Composition, labels: Tensor | None, size: int) -> Tensor | None:
    if labels is None:
        return None
    classes = vae.guide_family.space[vae.guide.label_site].shape[1]
    whole = isinstance(labels, Tensor) and not labels.is_floating_point()
    if not whole or labels.shape != (size,):
        raise expected("labels", f"{size} integers, one for each observation", labels)
    if len(bad := labels[(labels < -1) | (labels >= classes)]):
        raise expected("labels", f"classes from 0 to {classes - 1}, or -1", bad[0].item())
    return labels.to(vae.initialized.device, torch.long)


def _mask(vae: Composition, mask: Tensor | None, size: int) -> Tensor | None:
    if mask is None:
        return None
    shape = (size, *vae.event_shape)
    if not isinstance(mask, Tensor) or mask.shape != shape or mask.dtype is not torch.bool:
        raise expected("mask", f"a boolean tensor of shape {shape}", mask)
    if isinstance(vae.encoder, Network) and vae.encoder.levels is not None:
        # A level that is missing would be seen as one that there is.
        raise expected("mask", f"None with {type(vae.encoder).__name__}, which sees levels", mask)
    # Refused by a likelihood that cannot be masked.
    params = vae.model.filler.new_zeros(1, *vae.likelihood.param_shape)
    one = vae.model.filler.new_ones(vae.event_shape, dtype=torch.bool)
    named = {name: params.new_ones(1) for name in vae.likelihood.covariates}
    masked(vae.likelihood(params, **named), one)
    return mask.to(vae.initialized.device)
