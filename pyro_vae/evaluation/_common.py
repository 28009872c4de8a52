"""What every evaluation does: leave the model as it was, and record what its numbers belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import check_seed, expected, unknown_name
from pyro_vae.data import Stream, base_measure_of
from pyro_vae.data.dataset import fingerprint
from pyro_vae.data.rows import Rows, RowsLike
from pyro_vae.distributions import Space, same_support
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor, rows_of
from pyro_vae.programs.composition import Composition
from pyro_vae.programs.protocol import is_amortized
from pyro_vae.programs.pyro_programs import refuse_missingness
from pyro_vae.programs.streamed import StreamedRows, checked, streamed

__all__ = [
    "SIMULATED",
    "bits_per_dim",
    "check_arguments",
    "check_ignorable",
    "check_unbounded",
    "describe",
    "finite",
    "measured",
    "measured_anywhere",
    "states_of",
    "summarize",
    "variance_by_site",
]

# Replicates hide what the data hide, though other values would be observed elsewhere.
SIMULATED = "compare data with `vae.model(size=N)`, which simulates the site `mask`, too"
_DESCRIBED = ("data", "split", "binarize", "dequantize", "transform")


def check_arguments(vae: object, seed: object) -> int:
    """Returns the seed, and refuses what is no program.

    Raises:
        ValueError: If it is none, or the seed is no integer >= 0 and below 2**32.
    """
    if not is_amortized(vae):
        raise expected("vae", "a VAE, or a Program", vae)
    return check_seed("seed", seed)


def check_ignorable(vae: Amortized, instead: str = "evaluate") -> None:
    """Refuses a model of what is missing, where what is missing would have to be drawn, too.

    Raises:
        ValueError: If it is one.
    """
    if isinstance(vae, Composition):
        refuse_missingness(vae.model, instead)


def check_unbounded(vae: Amortized, instead: str = "enumerate_log_prob or evaluate") -> None:
    """Refuses a latent that has no gradient, or one with an edge to run into.

    Raises:
        ValueError: If the prior's support is not all real vectors.
    """
    support = vae.space.support
    if support.is_discrete:
        raise expected("vae", f"a continuous latent; for a discrete one, {instead}", _prior(vae))
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if not same_support(support, constraints.real):
        raise expected("vae", "a latent on all real vectors", _prior(vae))


def _prior(vae: Amortized) -> object:
    return vae.prior if isinstance(vae, Composition) else vae.space


def measured_anywhere(
    vae: Amortized,
    x: RowsLike | Stream,
    given: Mapping[str, Any],
    origin: Mapping[str, Any] | None,
) -> tuple[Rows | StreamedRows, dict[str, Any]]:
    """Returns the same as :func:`measured`; data that do not fit into memory stay elsewhere.

    They are read once, for what does not suit the model and for the base measure.

    Raises:
        ValueError: As there.
    """
    if (rows := streamed(vae, x, given)) is None:
        return measured(vae, cast(RowsLike, x), given, origin)
    observed = counted = 0

    def look(block: Rows, accepted: Rows) -> dict[str, Tensor]:
        nonlocal observed, counted
        seen = block.x
        if (some := _counted(vae, accepted.x)) is not None:
            counted += int(some.sum())
        if (mask := accepted.mask) is not None:
            observed += int(mask.sum())
            seen = seen.where(mask.to(seen.device), math.nan)
        return {"x": seen, **accepted.tensors()}

    prints = checked(rows, "x", look)
    found: dict[str, Any] = {"fingerprint": prints.pop("x"), "dim": vae.event_shape.numel()}
    if rows.stream.first.mask is not None:
        found["dim"] = observed / len(rows)
    if counted > 0:
        found["counted"] = counted / len(rows)
    return rows, _described(vae, found | prints, origin or {}, origin)


def measured(
    vae: Amortized, x: RowsLike, given: Mapping[str, Any], origin: Mapping[str, Any] | None
) -> tuple[Rows, dict[str, Any]]:
    """Returns data as the model accepts them, and the base measure of their densities.

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``, or with what goes with them.
        given: What goes with them.
        origin: Where they come from; None if they know.

    Raises:
        ValueError: If they do not suit the model, or ``origin`` names what is no part of it.
    """
    rows = rows_of(vae, x, given)
    came = x.x if isinstance(x, Rows) else as_tensor(x)
    return rows, describe(vae, Rows(came, rows.given), origin)


def states_of(prior: Any, rows: Rows) -> Tensor:
    """Returns the joint states of a discrete p(z), to be decoded for some rows.

    Their shape is ``(K, 1, *event_shape)``, or ``(K, B, *event_shape)`` where a decoder is to see
    what goes with each of B rows.
    """
    states: Tensor = prior.enumerate_support(expand=False)
    states = states if prior.batch_shape else states[:, None]
    return states.expand(-1, len(rows), *prior.event_shape) if rows.given else states


def summarize(
    log_marginal: np.ndarray, mcse: np.ndarray, base_measure: Mapping[str, Any], **means: float
) -> dict[str, Any]:
    """Returns the mean of log p(x) with its errors, and further means, ready for JSON.

    Args:
        log_marginal: Estimates per observation, shape ``(N,)``.
        mcse: Their Monte Carlo errors.
        base_measure: What they belong to.
        **means: Shown as they are; None where not finite.
    """
    size = len(log_marginal)
    values = {
        "log_marginal": log_marginal.mean(),
        "mcse": math.sqrt((mcse**2).sum()) / size,
        "standard_error": log_marginal.std(ddof=1) / size**0.5 if size > 1 else math.nan,
        **means,
    }
    if base_measure["measure"] == "counting":
        nats = -values["log_marginal"]
        values["bits_per_dim"] = bits_per_dim(nats, base_measure)
    return finite(values) | {"base_measure": dict(base_measure)}


def bits_per_dim(nats: float, base_measure: Mapping[str, Any]) -> float:
    """Returns the mean of -log p(x) in bits for each entry that the density is of.

    Args:
        nats: The mean over the data.
        base_measure: Their own.
    """
    entries: float = base_measure.get("counted", base_measure["dim"])
    return nats / (entries * math.log(2))


def _counted(vae: Amortized, x: Tensor) -> Tensor | None:
    """Which entries the density is of; None if of all."""
    return vae.likelihood.counted(x) if isinstance(vae, Composition) else None


def variance_by_site(means: Tensor, space: Space) -> dict[str, Tensor]:
    """Returns how much the posterior means of each unit of each site vary over the data.

    A one-hot variable is one unit: of its classes, the variance of the most variable.

    Args:
        means: Of z given each observation, shape ``(N, *event_shape)``.
        space: Where z lives, which knows the sites.
    """
    variance = means.var(0, correction=0)
    one_hot = {n for n, site in space.items() if same_support(site.support, constraints.one_hot)}
    each = space.split(variance)
    return {name: v.amax(-1) if name in one_hot else v for name, v in each.items()}


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Returns plain floats for JSON, which has no number that is not finite: None for those."""
    return {name: float(v) if np.isfinite(v) else None for name, v in values.items()}


def describe(vae: Amortized, rows: Rows, origin: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the base measure: what was recorded of the data, and what they show themselves.

    What goes with the data, conditions and the like, is part of it, by its fingerprints; what a
    mask hides is not, and ``dim`` is then the mean number of entries that are observed. Where
    sequences end, ``counted`` is the mean number of entries up to their ends.

    Args:
        vae: The model.
        rows: The data as they came, and what goes with them as the model accepted it.
        origin: Where they come from; None if they know.

    Raises:
        ValueError: If something was recorded that is no part of it.
    """
    x, mask = rows.x, rows.mask
    found: dict[str, Any] = {"fingerprint": fingerprint(x), "dim": vae.event_shape.numel()}
    if mask is not None:
        seen = x.where(mask.to(x.device), math.nan)
        found = {"fingerprint": fingerprint(seen), "dim": mask.sum().item() / len(mask)}
    if (some := _counted(vae, x)) is not None:
        found["counted"] = some.sum().item() / len(x)
    found |= {name: fingerprint(part) for name, part in rows.tensors().items()}
    known = origin if origin is not None else base_measure_of(x) or {}
    return _described(vae, found, known, origin)


def _described(
    vae: Amortized,
    found: Mapping[str, Any],
    known: Mapping[str, Any],
    origin: Mapping[str, Any] | None,
) -> dict[str, Any]:
    for name in origin or {}:
        if name not in (*_DESCRIBED, *found, "measure"):
            raise unknown_name("base_measure", name, _DESCRIBED)
    described = {name: known.get(name) for name in _DESCRIBED}
    return described | dict(found) | {"measure": vae.base_measure}
