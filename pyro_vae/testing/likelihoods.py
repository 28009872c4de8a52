"""The contract of likelihoods."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae.likelihoods import Likelihood
from pyro_vae.testing._assertions import all_true, require
from pyro_vae.testing._shared import (
    EXTREME,
    check_batches,
    check_extreme,
    check_gradients,
    check_mass,
)
from pyro_vae.testing.covariates import of_rows, some_covariates
from pyro_vae.testing.distributions import DRAWS, entry_supports
from pyro_vae.testing.parts import check_part

__all__ = ["check_likelihood"]

_STEEP = (-80.0, -3.0, 0.0, 3.0, 80.0)
_ENDS = (-1e6, 0.0, 1e-6, 0.5, 1.0, 1e6)  # of these an entry is given those in its support


def check_likelihood(likelihood: Likelihood) -> None:
    """Checks a likelihood on random parameters, on extreme ones, and where it starts.

    Density and gradient must be finite for extreme parameters, and for extreme data too: at the
    closed ends of the support, for counts of a million, and a millionth and a million from zero.
    ``init_params`` must fit data drawn from the likelihood itself as well as the parameters that
    they were drawn with, to 0.05 nats an observation. A covariate is one number an observation; the
    density must depend on it, and leaving it out must be refused.

    Args:
        likelihood: A likelihood of at most two entries an observation.

    Raises:
        AssertionError: If the likelihood breaks its contract.

    Example:
        >>> from pyro_vae import likelihoods
        >>> check_likelihood(likelihoods.Poisson((2,)))
    """
    check_part(likelihood)
    likelihood = copy.deepcopy(likelihood).double()
    params = check_batches(likelihood, likelihood.event_shape)
    named = some_covariates(likelihood, params.shape[1])
    p = partial(likelihood, **named)
    x = p(params).sample()
    support = likelihood.support
    require(all_true(support.check(x)), f"{likelihood}: draws outside `support`, {support}")
    measures = ("counting", "lebesgue", "mixed")
    require(likelihood.measure in measures, f"{likelihood}: `measure` is not one of {measures}")
    kinds = {bool(each.is_discrete) for each in entry_supports(support, x[0, 0].numel())[1]}
    measure = "mixed" if len(kinds) == 2 else "counting" if kinds == {True} else "lebesgue"
    require(likelihood.measure == measure, f"{likelihood}: `measure` contradicts `support`")
    mean = p(params).mean
    require(mean.shape == x.shape, f"{likelihood}: mean of shape {tuple(mean.shape)}")
    check_gradients(likelihood, [params], lambda: p(params).log_prob(x))
    check_mass(likelihood, likelihood(params[0, 0].detach(), **of_rows(named, 0)))
    _check_covariates(likelihood, params.detach(), x)
    _check_start(likelihood)
    for extreme in EXTREME:
        far = torch.full((5, *likelihood.param_shape), extreme, dtype=torch.float32)
        check_extreme(copy.deepcopy(likelihood).float(), far, x[0, :5].float())
    ends = _ends(support, likelihood.event_shape)
    for extreme in _STEEP:
        steep = torch.full((len(ends), *likelihood.param_shape), extreme)
        check_extreme(copy.deepcopy(likelihood).float(), steep, ends)


def _check_covariates(likelihood: Likelihood, params: Tensor, x: Tensor) -> None:
    named = some_covariates(likelihood, params.shape[1])
    before = likelihood(params, **named).log_prob(x)
    inputs = likelihood.encoder_input(x, **named)
    require(
        inputs.shape == x.shape, f"{likelihood}: `encoder_input` has shape {tuple(inputs.shape)}"
    )
    for name, value in named.items():
        after = likelihood(params, **named | {name: 2 * value}).log_prob(x)
        require(
            bool((after != before).all()), f"{likelihood}: the density does not depend on {name}"
        )
        try:
            likelihood(params, **{k: v for k, v in named.items() if k != name})
        except ValueError as error:
            require("\n" not in str(error), f"{error}: an error of more than one line")
        else:
            require(False, f"{likelihood}: does without its covariate {name}")


def _check_start(likelihood: Likelihood) -> None:
    """Checks that ``init_params`` fits drawn data as well as the parameters of the draw do."""
    with torch.no_grad():
        true = torch.randn(*likelihood.param_shape, dtype=torch.float64)
        named = some_covariates(likelihood, DRAWS)
        p = partial(likelihood, **named)
        many = true.expand(DRAWS, *true.shape)
        x = p(many).sample()
        best = p(many).log_prob(x).mean()
        init_params: Callable[..., Tensor] = likelihood.init_params
        start = init_params(x, **named)
        require(
            start.shape == likelihood.param_shape,
            f"{likelihood}: init_params of shape {tuple(start.shape)}, "
            f"not {tuple(likelihood.param_shape)}",
        )
        found = p(start.expand_as(many)).log_prob(x).mean()
        require(
            bool(found > best - 0.05),
            f"{likelihood}: init_params explains data of the likelihood itself with {found:.3f} "
            f"nats an observation, their own parameters with {best:.3f}",
        )
        constant = init_params(x[:1].expand(8, *x.shape[1:]), **of_rows(named, slice(8)))
        require(
            all_true(constant.isfinite()),
            f"{likelihood}: init_params of constant data is not finite",
        )


def _ends(support: Any, event_shape: torch.Size) -> Tensor:
    """Returns data at the ends of a support and far out, shape ``(N, *event_shape)``."""
    support, entries = entry_supports(support, event_shape.numel())
    columns = []
    for i, each in enumerate(entries):
        known = {*_ENDS, *(getattr(each, f"{side}_bound", 0.0) for side in ("lower", "upper"))}
        values = torch.tensor(sorted(map(float, known)))
        values = values[each.check(values)]
        # Shifted from entry to entry, so that both ends meet in one observation.
        columns.append(values.roll(i)[torch.arange(len(known)) % len(values)])
    longest = max(map(len, columns))
    rows = [column[torch.arange(longest) % len(column)] for column in columns]
    data = torch.stack(rows, -1).reshape(-1, *event_shape)
    return data[support.check(data).reshape(len(data), -1).all(-1)]
