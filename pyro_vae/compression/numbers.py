"""What x is made of: how the entries of each distribution of whole numbers are coded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyro.distributions as dist
import torch
from scipy.special import betainc, expit, gammainc, gammaincc
from torch import Tensor
from torch import distributions as of_torch
from torch.distributions import constraints

from pyro_vae._errors import expected
from pyro_vae.compression.cumulative import BASE, LONGEST, Cumulative, Function
from pyro_vae.compression.stack import Stack
from pyro_vae.distributions import Columns, DiscretizedLogistic, by_entry
from pyro_vae.likelihoods import Likelihood

__all__ = ["MOST", "check_likelihood", "pop_numbers", "push_numbers", "rows_at_once"]

MOST = BASE**LONGEST - 1
"""The largest number that is coded."""

_AT_ONCE = 2**21  # entries of the tables that are made at once
_LEVELS = 2**16  # of a table


class _Code(Protocol):
    """How n entries are coded."""

    def push(self, stack: Stack, values: np.ndarray) -> None:
        """Puts values onto a stack, shape ``(n,)``."""

    def pop(self, stack: Stack) -> np.ndarray:
        """Takes values from a stack, shape ``(n,)``."""


@dataclass(frozen=True)
class _Binary:
    """Zeros and ones, by the probabilities of one, shape ``(n,)``."""

    chances: np.ndarray

    def push(self, stack: Stack, values: np.ndarray) -> None:
        stack.push_binary(values, self.chances)

    def pop(self, stack: Stack) -> np.ndarray:
        return stack.pop_binary(self.chances)


@dataclass(frozen=True)
class _Table:
    """Numbers from ``least`` on, by what their probabilities are proportional to, ``(n, K)``."""

    chances: np.ndarray
    least: int = 0

    def push(self, stack: Stack, values: np.ndarray) -> None:
        stack.push(values - self.least, self.chances)

    def pop(self, stack: Stack) -> np.ndarray:
        return stack.pop(self.chances) + self.least


@dataclass(frozen=True)
class _Digits:
    """Numbers of at most so many digits, by their distribution function."""

    cumulative: Cumulative
    digits: int

    def push(self, stack: Stack, values: np.ndarray) -> None:
        self.cumulative.push(stack, values, self.digits)

    def pop(self, stack: Stack) -> np.ndarray:
        return self.cumulative.pop(stack, self.digits)


@dataclass(frozen=True)
class _Counts:
    """Numbers without a bound, by their distribution function."""

    cumulative: Cumulative

    def push(self, stack: Stack, values: np.ndarray) -> None:
        self.cumulative.push_any(stack, values)

    def pop(self, stack: Stack) -> np.ndarray:
        return self.cumulative.pop_any(stack)


def check_likelihood(likelihood: Likelihood) -> None:
    """Refuses a likelihood whose data cannot be coded entry by entry.

    Raises:
        ValueError: If it is a density, of which no value has a probability, needs covariates, or
            its entries are dependent given z.
    """
    name = type(likelihood).__name__
    if likelihood.measure != "counting":
        what = "one of binary data, levels or counts: a density gives no value a probability"
        raise expected("likelihood", what, name)
    if likelihood.covariates:
        what = "one without covariates, which no file holds"
        raise expected("likelihood", what, f"{name} with {', '.join(likelihood.covariates)}")
    params = torch.zeros(1, *likelihood.param_shape)
    entries = _entries(likelihood, params.to(next(likelihood.parameters(), params)))
    for _, part in _groups(entries):
        if _kind(part) is None:
            what = "one whose entries have a distribution function, or few levels"
            raise expected("likelihood", what, f"{name} ({type(part).__name__})")


def rows_at_once(likelihood: Likelihood) -> int:
    """Returns for how many rows there is room for the tables of their entries."""
    bounds = getattr(likelihood, "levels", 1)
    levels = bounds if isinstance(bounds, int) else 1
    return max(1, _AT_ONCE // (likelihood.event_shape.numel() * max(levels, 2 * BASE)))


def push_numbers(stack: Stack, x: np.ndarray, likelihood: Likelihood, params: Tensor) -> None:
    """Puts rows onto a stack.

    Args:
        stack: Where to.
        x: Whole numbers, shape ``(n, D)``.
        likelihood: p(x|z).
        params: What the decoder returned for these rows, shape ``(n, *param_shape)``.
    """
    for columns, part in reversed([*_groups(_entries(likelihood, params))]):
        _code(part).push(stack, x[:, columns].reshape(-1))


def pop_numbers(stack: Stack, likelihood: Likelihood, params: Tensor) -> np.ndarray:
    """Takes rows from a stack, shape ``(n, D)``: the inverse of :func:`push_numbers`."""
    x = np.empty((len(params), likelihood.event_shape.numel()), np.int64)
    for columns, part in _groups(_entries(likelihood, params)):
        x[:, columns] = _code(part).pop(stack).reshape(len(params), -1)
    return x


def _entries(likelihood: Likelihood, params: Tensor) -> Any:
    """Returns the distribution of single entries of x, batch shape ``(n, *event_shape)``."""
    found = by_entry(likelihood(params), len(likelihood.event_shape))
    if found is None:
        what = "one whose entries are independent given z"
        raise expected("likelihood", what, type(likelihood).__name__)
    return found


def _groups(entries: Any) -> Iterator[tuple[slice, Any]]:
    """Yields entries of one family each, and which of a row they are."""
    if not isinstance(entries, Columns):
        yield slice(None), entries
        return
    start = 0
    for part, size in zip(entries.distributions, entries.sizes, strict=True):
        yield slice(start, start + size), part
        start += size


def _kind(d: Any) -> str | None:
    """Returns which of the ways below suits a distribution of entries; None if none does."""
    if isinstance(d, of_torch.Bernoulli):
        return "binary"
    if isinstance(d, of_torch.Categorical):
        return "logits"
    if isinstance(d, DiscretizedLogistic):
        return "intervals"
    if _function(d) is not None:
        return "counts"
    support = d.support
    if isinstance(support, constraints.integer_interval):
        return "levels" if np.ptp(_bounds(support)) < _LEVELS else None
    if support is constraints.boolean:
        return "levels"
    if support is constraints.nonnegative_integer and _has_cdf(d):
        return "cdf"
    return None


def _code(d: Any) -> _Code:
    """Returns how the entries of a distribution are coded, in the order of a flattened array."""
    match _kind(d):
        case "binary":
            return _Binary(expit(_flat(d.logits)))
        case "logits":
            logits = d.logits.flatten(0, -2) if d.logits.ndim > 1 else d.logits[None]
            return _Table(logits.softmax(-1).numpy())
        case "intervals":
            parameters = (d.loc, d.scale, d.logits.log_softmax(-1).exp())
            pairs = (each.double().flatten(0, -2).numpy() for each in parameters)
            return _Digits(Cumulative(_between(d.levels), tuple(pairs)), _digits(d.levels))
        case "counts":
            function = _function(d)
            assert function is not None
            return _Counts(Cumulative(function, _parameters(d)))
        case "cdf":
            return _Counts(Cumulative(_by_cdf(d), (np.arange(d.batch_shape.numel()),)))
        case _:
            return _levels(d)


def _flat(parameter: Tensor) -> np.ndarray:
    found: np.ndarray = parameter.double().reshape(-1).numpy()
    return found


def _digits(levels: int) -> int:
    """Returns how many digits levels 0 to K - 1 have.

    Example:
        >>> _digits(2), _digits(16), _digits(17), _digits(256)
        (1, 1, 2, 2)
    """
    return next(n for n in range(1, LONGEST + 1) if levels <= BASE**n)


def _bounds(support: Any) -> tuple[int, int]:
    ends = torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)
    return int(ends[0].min()), int(ends[1].max())


def _levels(d: Any) -> _Code:
    """Codes few levels by the density of each."""
    if isinstance(d, dist.BetaBinomial) and (d.total_count == d.total_count.max()).all():
        return _Table(_beta_binomial(d))
    least, last = (0, 1) if d.support is constraints.boolean else _bounds(d.support)
    shape = d.batch_shape
    levels = torch.arange(least, last + 1, dtype=torch.get_default_dtype())
    log_probs = d.log_prob(levels.reshape(-1, *(1 for _ in shape)).expand(-1, *shape))
    chances = log_probs.double().reshape(last + 1 - least, -1).softmax(0)
    return _Table(chances.T.numpy(), least)


def _beta_binomial(d: Any) -> np.ndarray:
    """Probabilities of all levels, ``(n, K)``, by the ratio of each to the one before it.

    That takes one logarithm a level, where the density takes nine of the gamma function.
    """
    total = int(d.total_count.max())
    alpha, beta = _flat(d.concentration1)[:, None], _flat(d.concentration0)[:, None]
    k = np.arange(total)
    ratios = (total - k) * (k + alpha) / ((k + 1) * (total - k - 1 + beta))
    logs = np.zeros((len(alpha), total + 1))
    np.cumsum(np.log(ratios), 1, out=logs[:, 1:])
    found: np.ndarray = np.exp(logs - logs.max(1, keepdims=True))
    return found


def _between(levels: int) -> Function:
    """The unit intervals that a mixture of logistic variables falls in, with open ends."""

    def function(
        edges: np.ndarray, loc: np.ndarray, scale: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        # Components first, (M, n, K): sums over a short last dimension are slow.
        loc, scale, weights = (np.moveaxis(each, -1, 0) for each in (loc, scale, weights))
        at = (edges - 0.5 - loc) / scale
        # Of both tails, each with all its digits, by one exponential.
        tail = np.exp(-np.abs(at))
        most = weights / (1 + tail)
        least, right = tail * most, at > 0
        below = np.where(right, most, least).sum(0)
        above = np.where(right, least, most).sum(0)
        first, last = edges <= 0, edges >= levels
        below, above = np.where(first, 0.0, below), np.where(first, 1.0, above)
        return np.where(last, 1.0, below), np.where(last, 0.0, above)

    return function


def _function(d: Any) -> Function | None:
    """Returns the distribution function of counts, of families that have one."""
    if isinstance(d, of_torch.Poisson):
        return _poisson
    if isinstance(d, of_torch.NegativeBinomial):
        return _negative_binomial
    if isinstance(d, dist.ZeroInflatedDistribution) and (base := _function(d.base_dist)):
        return _zero_inflated(base)
    return None


def _parameters(d: Any) -> tuple[np.ndarray, ...]:
    if isinstance(d, of_torch.Poisson):
        return (_flat(d.rate),)
    if isinstance(d, of_torch.NegativeBinomial):
        return _flat(d.total_count), _flat(d.logits)
    gate = d.gate_logits.expand(d.batch_shape)
    return _flat(gate), *_parameters(d.base_dist.expand(d.batch_shape))


def _poisson(edges: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, at = edges <= 0, np.maximum(edges, 1).astype(float)
    return np.where(first, 0.0, gammaincc(at, rate)), np.where(first, 1.0, gammainc(at, rate))


def _negative_binomial(
    edges: np.ndarray, total: np.ndarray, logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    first, at = edges <= 0, np.maximum(edges, 1).astype(float)
    below, above = betainc(total, at, expit(-logits)), betainc(at, total, expit(logits))
    return np.where(first, 0.0, below), np.where(first, 1.0, above)


def _zero_inflated(base: Function) -> Function:
    def function(
        edges: np.ndarray, gate: np.ndarray, *parameters: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        below, above = base(edges, *parameters)
        zero = np.where(edges <= 0, 0.0, expit(gate))
        return zero + expit(-gate) * below, np.where(edges <= 0, 1.0, expit(-gate) * above)

    return function


def _has_cdf(d: Any) -> bool:
    try:
        d.cdf(torch.zeros(d.batch_shape))
    except NotImplementedError:
        return False
    return True


def _by_cdf(d: Any) -> Function:
    """The distribution function that a distribution has of its own, of all its entries at once."""
    shape, size = d.batch_shape, d.batch_shape.numel()

    def function(edges: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        every = np.zeros((edges.shape[1], size))
        every[:, which[:, 0]] = edges.T - 1
        at = torch.from_numpy(every).to(torch.get_default_dtype()).reshape(-1, *shape)
        found = d.cdf(at.clamp_min(0)).double().reshape(len(every), -1).numpy().T[which[:, 0]]
        below = np.where(edges <= 0, 0.0, found)
        return below, 1 - below

    return function
