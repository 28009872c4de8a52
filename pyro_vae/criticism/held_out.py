"""Where each entry of held-out data falls in its predictive distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
import xarray
from torch import Tensor

from pyro_vae._deprecated import renamed_argument, renamed_property
from pyro_vae._errors import expected, plural, positive_integer, unknown_name
from pyro_vae._untouched import undisturbed
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._labels import Labels
from pyro_vae.criticism._replicates import draw_prior, prior_of
from pyro_vae.criticism.checks import holm
from pyro_vae.criticism.uniformity import Bands, bands, ecdf, how_uneven, uniformity
from pyro_vae.data.entries import counted
from pyro_vae.data.rows import GivenLike, Rows, RowsLike
from pyro_vae.distributions import by_entry
from pyro_vae.evaluation._common import SIMULATED, check_arguments, check_ignorable
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor, rows_of
from pyro_vae.programs.weigh import chunk_sizes, draws_at_once, observations_at_once

__all__ = ["PIT", "pit"]

ConditionOn = Literal["nothing", "rest"]

_CONDITIONED_ON = {"nothing": "z ~ p(z)", "rest": "z ~ p(z | the other entries)"}
_BINS = 100
_FEW = 20  # effective draws, of which a distribution function has but a few steps
_UNTRUSTED = 0.1  # share of such values with which an entry of a true model fails too often
_NAMED = 3  # entries named in a sentence before it only counts them
_SENTENCES = {
    "high": "x is higher than predicted in {where}: the decoder is biased; train it longer or give "
    "it more capacity",
    "low": "x is lower than predicted in {where}: the decoder is biased; train it longer or give "
    "it more capacity",
    "outer": "x is more spread out than predicted in {where}: swap the likelihood for one of more "
    "variance or heavier tails",
    "inner": "x is less spread out than predicted in {where}: swap the likelihood for one whose "
    "scale is learned",
    "uneven": "x has a distribution of another shape than predicted in {where}: look at the ECDF",
}


@dataclass(frozen=True, eq=False, repr=False)
class PIT:
    """What :func:`pit` returns, for N data.

    Attributes:
        values: Shape ``(N, *event_shape)``: uniform on (0, 1) if the model is true; NaN where an
            entry is hidden.
        p_values: Of the uniformity of each entry, shape ``event_shape``.
        adjusted: The same after Holm's correction over entries that are ``trusted``, shape
            ``event_shape``; NaN for the others.
        ess: Effective numbers of draws behind each value, shape ``(N, *event_shape)``; all draws
            where nothing is conditioned on, NaN where an entry is hidden.
        num_draws: Draws of z for each observation.
        condition_on: ``nothing`` or ``rest``.
        level: Probability of any false alarm, at most.
        dims: Names of the dimensions of one observation.
        entries: Names of the entries of one observation, flattened; ``x[3]`` where they have none.
    """

    values: np.ndarray
    p_values: np.ndarray
    adjusted: np.ndarray
    ess: np.ndarray
    num_draws: int
    condition_on: ConditionOn
    level: float
    dims: tuple[str, ...]
    entries: tuple[str, ...] = ()

    given = renamed_property("given", "condition_on")

    @property
    def conditioned_on(self) -> str:
        """What the z of the predictive distributions are drawn from."""
        return _CONDITIONED_ON[self.condition_on]

    @property
    def trusted(self) -> np.ndarray:
        """Which entries are in the verdict, shape ``event_shape``: enough draws are behind them."""
        return _trusted(self.ess, self.condition_on)

    @property
    def failed(self) -> np.ndarray:
        """Which entries reject the model, shape ``event_shape``."""
        return self.adjusted <= self.level

    @property
    def num_failed(self) -> int:
        """How many entries reject the model."""
        return int(self.failed.sum())

    @property
    def bands(self) -> Bands:
        """Bands that the ECDF of one entry leaves with probability ``level`` at most.

        Of the entry that is observed least often.
        """
        observed = (~np.isnan(self.values)).sum(0)
        return bands(max(1, int(observed.min())), self.level, _BINS)

    @property
    def ecdf(self) -> np.ndarray:
        """ECDFs of the values at ``bands.points``, shape ``(*event_shape, K - 1)``."""
        columns = self.values.reshape(len(self.values), -1).T
        each = [ecdf(column[~np.isnan(column)][:, None], _BINS)[0] for column in columns]
        curves = np.stack(each)
        return curves.reshape(*self.p_values.shape, -1)

    @property
    def advice(self) -> tuple[str, ...]:
        """A sentence on each kind of failure: what is wrong, and what to swap."""
        grouped: dict[str, list[str]] = {}
        columns = self.values.reshape(len(self.values), -1)
        for k in np.flatnonzero(self.failed):
            seen = columns[~np.isnan(columns[:, k]), k]
            grouped.setdefault(how_uneven(seen), []).append(self._names[k])
        return tuple(
            _SENTENCES[kind].format(
                where=", ".join(names[:_NAMED])
                + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            )
            for kind, names in grouped.items()
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return self.entries or counted(self.p_values.shape)

    @property
    def note(self) -> str:
        """Why the values are not to be trusted, if they are not."""
        left_out = int((~self.trusted).sum())
        if left_out == 0:
            return ""
        share = float((self.ess[~np.isnan(self.ess)] < _FEW).mean())
        return (
            f"{left_out} of {self.trusted.size} entries are not in the verdict: fewer than {_FEW} "
            f"effective draws behind {share:.0%} of the values, the guide is too far from the "
            f"posterior; a better guide, or more draws"
        )

    def summary(self) -> dict[str, Any]:
        """Returns the verdict and what it rests on, ready for JSON."""
        worst = np.unravel_index(int(np.argmin(self.p_values)), self.p_values.shape)
        return {
            "num_failed": self.num_failed,
            "num_entries": self.p_values.size,
            "num_trusted": int(self.trusted.sum()),
            "level": self.level,
            "conditioned_on": self.conditioned_on,
            "num_data": len(self.values),
            "num_draws": self.num_draws,
            "ess_median": float(np.nanmedian(self.ess)),
            "ess_min": float(np.nanmin(self.ess)),
            "note": self.note,
            "worst": {
                "index": [int(i) for i in worst],
                "entry": self._names[int(np.argmin(self.p_values))],
                "p_value": float(self.p_values[worst]),
                "adjusted": float(self.adjusted[worst]) if self.trusted[worst] else None,
            },
            "advice": list(self.advice),
        }

    def to_datatree(self) -> xarray.DataTree:
        """Returns the values for ArviZ's ``plot_ecdf_pit(tree, group="pit")``.

        Dimension ``draw`` counts the data.
        """
        dims, shape = ("chain", "draw", *self.dims), (1, *self.values.shape)
        coords: dict[str, Any] = {d: np.arange(n) for d, n in zip(dims, shape, strict=True)}
        if len(self.dims) == 1 and self.entries and not self.entries[0].startswith("x["):
            coords[self.dims[0]] = list(self.entries)
        dataset = xarray.Dataset(
            {"x": (dims, self.values[None])},
            coords=coords,  # ArviZ finds the panel of an entry by its coordinates
            attrs={"conditioned_on": self.conditioned_on, "num_draws": self.num_draws},
        )
        return xarray.DataTree.from_dict({"pit": dataset})

    def __repr__(self) -> str:
        verdict = f"{self.num_failed} of {self.trusted.sum()} entries failed at {self.level:g}"
        head = f"PIT({plural(len(self.values), 'observation')}, {self.conditioned_on}): {verdict}"
        sentences = [*self.advice, *([self.note] if self.note else [])]
        return "\n".join([head, *(f"  {sentence}" for sentence in sentences)])


@renamed_argument("given", "condition_on")
@torch.no_grad()
def pit(
    vae: Amortized,
    x: RowsLike,
    *,
    condition_on: ConditionOn = "nothing",
    num_draws: int | None = None,
    level: float = 0.05,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> PIT:
    r"""Asks of each entry of held-out data whether its predictive distribution is right.

    .. math:: u_d = F_d(x_d^-) + v \, \{F_d(x_d) - F_d(x_d^-)\}, \quad v \sim U(0, 1)

    is uniform when F_d is the distribution of x_d, for discrete data too. F_d is conditioned

    - on ``nothing``, the marginal distribution: z is drawn from the prior, anew for each
      observation, and the value is an exact rank. Latents are local, so that this is also what
      leaving the observation out of a fixed model's inference gives.
    - on the ``rest``, the distribution of x_d given the other entries: z is drawn from q(z|x) with
      weight p(x, z) / {q(z|x) p(x_d|z)}, which takes x_d out again, and the values are as good as
      ``ess``. Entries with too few effective draws are left out of the verdict, and ``note``
      reports it.

    Draws of q(z|x) alone would gather the values around one half, even with the exact posterior.

    References:
        Predictive Model Assessment for Count Data (Czado, Gneiting and Held, 2009),
        https://doi.org/10.1111/j.1541-0420.2009.01191.x
        Bayesian model evaluation by leave-one-out predictive densities
        (Vehtari, Gelman and Gabry, 2017), https://arxiv.org/abs/1507.04544

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        condition_on: What each entry is predicted from: ``nothing`` or the ``rest`` of its
            observation.
        num_draws: Draws of z for each observation; 99 conditioned on nothing, else 1000.
        level: Probability of any false alarm, at most.
        seed: Of the draws: the same seed gives the same values.
        progress: Called now and then with the fraction that is done.
        **given: What goes with the data (:class:`~pyro_vae.data.Given`). What a mask hides has no
            value, and predicts nothing.

    Returns:
        The values, p-values of each entry, and advice.

    Raises:
        ValueError: If the data do not suit the model, an option is not what it should be, or the
            rest is conditioned on and the likelihood does not factorise over entries.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> pit(vae, vae.sample(50)).values.shape
        (50, 4)
    """
    seed = check_arguments(vae, seed)
    check_ignorable(vae, SIMULATED)
    if condition_on not in get_args(ConditionOn):
        raise unknown_name("condition_on", condition_on, get_args(ConditionOn))
    total = (99 if condition_on == "nothing" else 1000) if num_draws is None else num_draws
    total = positive_integer("num_draws", total)
    if not isinstance(level, float) or not 0 < level < 1:
        raise expected("level", "a number between 0 and 1", level)
    x = x if isinstance(x, Rows) else as_tensor(x)
    data = rows_of(vae, x, given)
    entries = tuple(each.name for each in entries_of(vae, x))
    values, ess, done = [], [], 0
    with undisturbed(vae, seed, data.x.device):
        for batch in data.batches(observations_at_once(vae, data.x)):
            placed, effective = _placed(vae, batch, total, condition_on)
            values.append(placed)
            ess.append(effective)
            done += len(batch)
            if progress is not None:
                progress(done / len(data))
    numbers = torch.cat(values).numpy()
    shape = tuple(vae.event_shape)
    p_values = _p_values(numbers.reshape(len(numbers), -1)).reshape(shape)
    draws = torch.cat(ess).numpy()
    trusted = _trusted(draws, condition_on)
    adjusted = np.full(shape, math.nan)
    adjusted[trusted] = holm(p_values[trusted].tolist())
    return PIT(
        values=numbers,
        p_values=p_values,
        adjusted=adjusted,
        ess=draws,
        num_draws=total,
        condition_on=condition_on,
        level=level,
        dims=Labels(vae, None, None).event["x"],
        entries=entries,
    )


def _p_values(values: np.ndarray) -> np.ndarray:
    """Of the uniformity of each column, of as many values as are observed; 1 where none is."""
    seen = ~np.isnan(values)
    if seen.all():
        return uniformity(values, _BINS).p_value
    found = np.ones(values.shape[1])
    for k in np.flatnonzero(seen.any(0)):
        found[k] = uniformity(values[seen[:, k], k][:, None], _BINS).p_value[0]
    return found


def _trusted(ess: np.ndarray, condition_on: ConditionOn) -> np.ndarray:
    # Without weights a rank among few draws is exact all the same.
    if condition_on == "nothing":
        return np.ones(ess.shape[1:], dtype=bool)
    few = np.where(np.isnan(ess), 0, ess < _FEW).sum(0) / np.maximum(1, (~np.isnan(ess)).sum(0))
    return np.asarray(few < _UNTRUSTED)


def _placed(
    vae: Amortized, rows: Rows, num_draws: int, condition_on: ConditionOn
) -> tuple[Tensor, Tensor]:
    """Places each entry among replicates of it: values and effective draws, shaped as ``x``."""
    x, prior = rows.x, prior_of(vae, rows.given)
    guide = vae.encode(x, **rows.given) if condition_on == "rest" else None
    nothing = torch.full(x.shape, -math.inf, dtype=torch.float64)
    below, equal, weight, square = nothing, nothing, nothing, nothing  # logarithms of sums
    for count in chunk_sizes(num_draws, draws_at_once(vae, x)):
        z = draw_prior(prior, count, len(x)) if guide is None else guide.sample((count,))
        decoded = vae.decode(z, **rows.given)
        replicate = decoded.sample()
        log_weights = torch.zeros(replicate.shape, dtype=torch.float64)
        if guide is not None:
            entries = _entries(decoded, x)
            others = entries.flatten(2).sum(-1) + prior.log_prob(z) - guide.log_prob(z)
            others = others.reshape(*others.shape, *(1,) * (x.ndim - 1))
            log_weights = (others - entries).cpu().double()
        weight = torch.logaddexp(weight, log_weights.logsumexp(0))
        square = torch.logaddexp(square, (2 * log_weights).logsumexp(0))
        lower, ties = (replicate < x).cpu(), (replicate == x).cpu()
        below = torch.logaddexp(below, log_weights.where(lower, -math.inf).logsumexp(0))
        equal = torch.logaddexp(equal, log_weights.where(ties, -math.inf).logsumexp(0))
    # The entry itself is one more draw of the same distribution, which makes ranks of it exact.
    own = 1 / num_draws
    uniform = torch.rand(x.shape, dtype=torch.float64)
    shares = (below - weight).exp() + uniform * ((equal - weight).exp() + own)
    values = (shares / (1 + own)).clamp(0, math.nextafter(1, 0))
    if values.isnan().any():
        raise expected("vae", "log-densities of the data that are numbers", "NaN")
    effective = (2 * weight - square).exp()
    if rows.mask is not None:  # nothing is known of what is hidden
        values = values.where(rows.mask.cpu(), math.nan)
        effective = effective.where(rows.mask.cpu(), math.nan)
    return values, effective


def _entries(decoded: Any, x: Tensor) -> Tensor:
    """Returns log p(x_d|z) of each entry."""
    entries = by_entry(decoded, x.ndim - 1)
    if entries is None:
        got = type(decoded).__name__
        raise expected(
            "condition_on", "nothing, since the likelihood does not factorise over x", got
        )
    return entries.log_prob(x)
