"""Does the model reproduce the data? Checks against its own replicates, and one verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor

from pyro_vae._errors import expected, positive_integer
from pyro_vae._untouched import undisturbed
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._replicates import cycled, from_guide, repeated, simulate
from pyro_vae.criticism.advice import advise
from pyro_vae.criticism.latent import collapsed_units, latent_statistics
from pyro_vae.criticism.row import Row, rows_shown
from pyro_vae.criticism.split import halve, infer, residual_statistics, residuals
from pyro_vae.criticism.statistics import Statistic, default_statistics
from pyro_vae.criticism.two_sample import TwoSample, classify
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import Given, GivenLike, Rows, RowsLike
from pyro_vae.evaluation._common import SIMULATED, check_arguments, check_ignorable, measured
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor
from pyro_vae.programs.weigh import chunk_sizes, draws_at_once, encoded

__all__ = ["Checks", "check", "compare", "holm"]

PRIOR = "z ~ p(z)"
GUIDE = "z ~ q(z|x)"
HALF = "z ~ p(z|half of x)"

_FEWEST = 20  # observations: of fewer, correlations and tails are noise
_GUIDE_DRAWS = 200  # not in the verdict, so that no correction asks for more
_SPLIT_DATA = 200  # whose z are inferred from half of the features, which is what costs
_REPLICATES = 2  # for each observation that a classifier sees
_INTERVAL = (0.025, 0.975)
_SHARED = "each data set has its own draw of what its observations share"


@dataclass(frozen=True, repr=False)
class Checks:
    """What :func:`check` returns.

    Attributes:
        rows: The checks, those of the verdict first.
        level: Probability of any false alarm, at most.
        num_draws: Replicated data sets behind each p-value.
        num_data: Data in each.
        latent: Units of the latent space and which collapsed, see
            :func:`pyro_vae.criticism.latent.collapsed_units`.
        classifier: How well a classifier separates replicates from data; ``index`` counts in ``x``.
        skipped: What could not be checked, and why.
        base_measure: Which data these are.
    """

    rows: tuple[Row, ...]
    level: float
    num_draws: int
    num_data: int
    latent: dict[str, Any]
    classifier: TwoSample
    skipped: dict[str, str]
    base_measure: dict[str, Any]

    @property
    def num_failed(self) -> int:
        """How many checks reject the model."""
        return sum(row.failed for row in self.rows)

    def summary(self) -> dict[str, Any]:
        """Returns everything, ready for JSON: what is not finite is None."""
        return {
            "num_failed": self.num_failed,
            "num_checks": sum(row.calibrated for row in self.rows),
            "level": self.level,
            "num_draws": self.num_draws,
            "num_data": self.num_data,
            "rows": [row.summary() for row in self.rows],
            "latent": self.latent,
            "classifier": self.classifier.summary(),
            "skipped": self.skipped,
            "base_measure": self.base_measure,
        }

    def __repr__(self) -> str:
        failed = [f"  {row.title}: {row.advice}" for row in self.rows if row.failed]
        verdict = f"{self.num_failed} of {sum(row.calibrated for row in self.rows)} failed"
        return "\n".join([f"Checks({verdict} at {self.level:g})", *failed])

    def _repr_html_(self) -> str:
        title, *advice = repr(self).splitlines()
        size = f"{self.num_data:,} observations, {self.num_draws:,} simulated data sets of as many"
        missed = [f"not checked: {what}: {why}" for what, why in self.skipped.items()]
        return rows_shown(title, self.rows, [*advice, size, *missed])


@torch.no_grad()
def check(
    vae: Amortized,
    x: RowsLike,
    *,
    num_draws: int | None = None,
    level: float = 0.05,
    seed: int = 0,
    statistics: Sequence[Statistic | Callable[[Tensor], Tensor]] | None = None,
    max_data: int = 1000,
    base_measure: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> Checks:
    r"""Compares held-out data with data sets that the model simulates.

    A statistic T of the observed data is ranked among those of replicates of the same size,

    .. math:: p = \frac{1 + \#\{r : T(x_r) \text{ is as far out as } T(x)\}}{1 + R},
        \quad z_r \sim p(z), \; x_r \sim p(x \mid z_r)

    with ties broken at random, so that p is uniform when the model is true. A statistic of many
    columns is one test, of the column that deviates most from its mean in units of its standard
    deviation. The verdict corrects for the number of tests by Holm's procedure.

    Three kinds of checks are calibrated in this sense, and make the verdict: statistics of whole
    data sets, of x and of what the guide makes of x; a classifier that is to distinguish replicates
    from data; and residuals of one half of the features, with z drawn given the other half.

    Replicates with z drawn from q(z|x) are shown too and not in the verdict: they have seen the
    data, and their p-values gather around one half even under a true model.

    References:
        Bayesian data analysis (Gelman et al., 2013), chapter 6, http://www.stat.columbia.edu/~gelman/book/
        Population predictive checks (Moran et al., 2024), https://arxiv.org/abs/1908.00882
        Revisiting Classifier Two-Sample Tests (Lopez-Paz and Oquab, 2017),
        https://arxiv.org/abs/1610.06545
        A simple sequentially rejective multiple test procedure (Holm, 1979),
        https://www.jstor.org/stable/4615733

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``, at least 20. The model's own training data
            would be reproduced too well.
        num_draws: Replicated data sets, R; if not given as many as Holm's correction needs, at
            least 40 a test at 5 %.
        level: Probability of any false alarm.
        seed: Of the draws: the same seed gives the same checks.
        statistics: What to ask instead of :func:`pyro_vae.criticism.default_statistics`. A function
            from data sets ``(R, N, *event_shape)`` to values ``(R, S)`` will do.
        max_data: Of more data, so many chosen at random are looked at.
        base_measure: Where data that are no split of a :class:`pyro_vae.data.Dataset` come from.
        progress: Called now and then with the fraction that is done.
        **given: What goes with the data. Replicates are given the same, and hide what a mask hides;
            the classifier sees conditions and covariates beside x.

    Returns:
        The checks; ``checks.num_failed`` of them reject the model.

    Raises:
        ValueError: If the data do not suit the model, there are too few, or an option is not what
            it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> check(vae, torch.ones(100, 4)).num_failed > 0
        True
    """
    seed = check_arguments(vae, seed)
    check_ignorable(vae, SIMULATED)
    if not isinstance(level, float) or not 0 < level < 1:
        raise expected("level", "a number between 0 and 1", level)
    max_data = positive_integer("max_data", max_data)
    x = x if isinstance(x, Rows) else as_tensor(x)
    data, described = measured(vae, x, given, base_measure)
    # The guide of one draw of the globals is a function of x like another; replicates have draws
    # of their own.
    whole, vae = vae, vae.fixed(1, seed)[0]
    entries = entries_of(vae, x)
    if min(len(data), max_data) < _FEWEST:
        raise expected("x", f"at least {_FEWEST} observations", min(len(data), max_data))
    with undisturbed(vae, seed, data.x.device):
        order = torch.randperm(len(data))[:max_data].to(data.x.device)
        data = data[order]
        if statistics is None:
            asked = default_statistics(vae, entries=entries, **data.given)
        else:
            asked = _named(statistics)
        plan = _Plan(vae, whole, data.given, asked, entries, num_draws, level)
        rows, classifier = _rows(vae, data, order, plan, seed, progress)
        units = collapsed_units(vae, data)
    return Checks(
        rows=_verdict(vae, rows, entries, level),
        level=level,
        num_draws=plan.num_draws,
        num_data=len(data),
        latent=units,
        classifier=classifier,
        skipped=plan.skipped,
        base_measure=described,
    )


class _Plan:
    """What is asked of a model, and how many replicates that takes.

    Replicates are of the ``whole`` program: each data set has its own draw of latents that all its
    observations share.
    """

    def __init__(
        self,
        vae: Amortized,
        whole: Amortized,
        given: Given,
        asked: Sequence[Statistic],
        entries: tuple[Entry, ...],
        num_draws: int | None,
        level: float,
    ) -> None:
        self.asked, self.whole = asked, whole
        self.latent = latent_statistics(vae, **given)
        halves = halve(vae, entries, given) if not whole.has_globals else _SHARED
        self.halves = None if isinstance(halves, str) else halves
        self.skipped = {HALF: halves} if isinstance(halves, str) else {}
        self.residual = () if self.halves is None else residual_statistics(self.halves)
        num_tests = len(asked) + len(self.latent) + len(self.residual) + 1
        self.num_draws = _enough(num_draws, num_tests, level)


def _rows(
    vae: Amortized,
    data: Rows,
    order: Tensor,
    plan: _Plan,
    seed: int,
    progress: Callable[[float], None] | None,
) -> tuple[list[Row], TwoSample]:
    """Makes every check of the plan; ``order`` is where the data were found."""
    counts = chunk_sizes(plan.num_draws, draws_at_once(vae, data.x))
    guide_counts = chunk_sizes(min(plan.num_draws, _GUIDE_DRAWS), draws_at_once(vae, data.x))
    tick = _Progress(progress, len(counts) + len(guide_counts) + 2)
    rows = [*_population(vae, data, plan, counts, tick)]
    classifier = _classify(plan.whole, data, order, draws_at_once(vae, data[:1].x), seed)
    rows.append(_classifier_row(classifier))
    tick()
    if plan.halves is not None:
        some, residual = data[:_SPLIT_DATA], plan.residual
        z, note = infer(vae, some, plan.halves, plan.num_draws)
        each = (values(residual, e) for e in residuals(vae, some, plan.halves, z))
        rows += rows_of(residual, next(each), list(each), HALF, calibrated=not note, note=note)
    tick()
    rows += _from_guide(plan.whole, data, plan.asked, guide_counts, tick)
    return rows, classifier


def _classify(vae: Amortized, data: Rows, order: Tensor, at_once: int, seed: int) -> TwoSample:
    drawn: list[Tensor] = []
    size = _REPLICATES * len(data)
    known = data.without("mask").tensors().values()
    beside = [each.to(data.x).reshape(len(data), -1) for each in known]
    for count in chunk_sizes(size, at_once):
        given = cycled(data.given, count, sum(map(len, drawn)))
        drawn.append(simulate(vae, 1, count, given)[0])
    # Beside what is known of each, x is to look as it should for that.
    index = torch.arange(size, device=data.x.device) % len(data)
    real = torch.cat([data.x.flatten(1), *beside], 1)
    made = torch.cat([torch.cat(drawn).flatten(1), *(each[index] for each in beside)], 1)
    found = classify(real, made, seed=seed)
    return replace(found, index=order.cpu().numpy()[found.index])


def _classifier_row(found: TwoSample) -> Row:
    return Row(
        statistic="classifier",
        where="area under its ROC",
        observed=found.auc,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        conditioned_on=PRIOR,
        calibrated=True,
    )


def _population(
    vae: Amortized,
    data: Rows,
    plan: _Plan,
    counts: Sequence[int],
    tick: Callable[[], None],
) -> Iterator[Row]:
    """Replicates with z from the prior are as new to the guide as held-out data are."""
    asked, latent, replicated = plan.asked, plan.latent, []
    for count in counts:
        x = simulate(plan.whole, count, len(data), data.given)
        guide = encoded(vae, x.flatten(0, 1), repeated(data.given, count))
        z = guide.sample().unflatten(0, (count, len(data)))
        replicated.append([*values(asked, x), *values(latent, z)])
        tick()
    z = vae.encode(data.x, **data.given).sample()
    observed = [*values(asked, data.x[None]), *values(latent, z[None])]
    yield from rows_of([*asked, *latent], observed, replicated, PRIOR, calibrated=True)


def _from_guide(
    vae: Amortized,
    data: Rows,
    asked: Sequence[Statistic],
    counts: Sequence[int],
    tick: Callable[[], None],
) -> Iterator[Row]:
    replicated = []
    for x in from_guide(vae, data, counts):
        replicated.append(values(asked, x))
        tick()
    yield from rows_of(asked, values(asked, data.x[None]), replicated, GUIDE, calibrated=False)


def values(statistics: Iterable[Statistic], x: Tensor) -> list[Tensor]:
    """Returns one table ``(R, S)`` a statistic, in float64 on the CPU."""
    return [statistic(x).cpu().double() for statistic in statistics]


def rows_of(
    statistics: Sequence[Statistic],
    observed: Sequence[Tensor],
    replicated: Sequence[Sequence[Tensor]],
    conditioned_on: str,
    *,
    calibrated: bool,
    note: str = "",
) -> Iterator[Row]:
    """Compares each statistic.

    Args:
        statistics: What was asked.
        observed: A table ``(1, S)`` for each.
        replicated: Chunks of replicates; in each a table ``(R, S)`` for each statistic.
        conditioned_on: What the z of the replicates were drawn from.
        calibrated: Whether a true model makes p uniform.
        note: Why the rows are not to be trusted.
    """
    columns = zip(*replicated, strict=True)
    for statistic, one, chunks in zip(statistics, observed, columns, strict=True):
        many = torch.cat(chunks)
        p_value, worst = compare(one[0], many)
        ends = many[:, worst].quantile(many.new_tensor(_INTERVAL)).tolist()
        numbers, unit, shown = statistic.in_units(worst, [one[0, worst].item(), *ends])
        yield Row(
            statistic=statistic.name,
            where=statistic.column(worst, one.shape[1]),
            observed=numbers[0],
            low=numbers[1],
            high=numbers[2],
            p_value=p_value,
            conditioned_on=conditioned_on,
            calibrated=calibrated,
            note=note,
            entries=tuple(each.name for each in statistic.about(worst)),
            title=statistic.title(worst),
            unit=unit,
            shown=shown,
        )


def compare(observed: Tensor, replicated: Tensor) -> tuple[float, int]:
    """Ranks how far out the observed values lie among all.

    One column is ranked from both ends. Of several, each data set has two scores, the deviation
    of its most deviant column, in standard deviations, and how far out its columns rank on the
    whole, and the better rank of the two is ranked again: the first finds one bad entry of x, the
    second many that are a little off. Observed and replicated are treated alike, which makes the
    last rank uniform when they are exchangeable; ties are broken at random.

    References:
        Resampling-based multiple testing (Westfall and Young, 1993), section 2.3

    Args:
        observed: Values, shape ``(S,)``.
        replicated: Values, shape ``(R, S)``.

    Returns:
        The p-value, one of 1 / (R + 1), ..., 1, and the column that deviates most.

    Example:
        >>> compare(torch.tensor([50.0]), torch.arange(99.0)[:, None])[0] > 0.9
        True
        >>> compare(torch.tensor([0.0, 9.0]), torch.randn(999, 2))
        (0.001, 1)
    """
    pool = torch.cat([observed[None], replicated]).double()
    # Of each value, how many more lie to one side of it than to the other: from 0 to R.
    outside = (_rank(pool) - _rank(-pool)).abs()
    if pool.shape[1] == 1:
        score, worst = outside[:, 0], 0
    else:
        deviation = (pool - pool.mean(0)).abs()
        scale = pool.std(0, correction=0)
        # Rounding gives a constant column a spread of its own.
        deviation = torch.where(scale > 1e-12 * pool.abs().amax(0), deviation / scale, 0.0)
        worst = int(deviation[0].argmax())
        extent = -torch.log1p(-outside / len(pool)).mean(1)
        ranks = _rank(torch.stack([deviation.amax(1), extent], 1))
        score = ranks.amax(1) + ranks.amin(1) / len(pool)
    farther = int((score[1:] > score[0]).sum())
    ties = int((score[1:] == score[0]).sum())
    rank = farther + int(torch.randint(ties + 1, ()))
    return (1 + rank) / len(pool), worst


def _rank(pool: Tensor) -> Tensor:
    """For each value, how many of its column are smaller."""
    columns = pool.T.contiguous()
    return torch.searchsorted(columns.sort(1).values, columns).T.double()


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number: reject those at or below the level.

    References:
        A simple sequentially rejective multiple test procedure (Holm, 1979),
        https://www.jstor.org/stable/4615733

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for done, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - done) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _verdict(
    vae: Amortized, rows: Sequence[Row], entries: Sequence[Entry], level: float
) -> tuple[Row, ...]:
    """Corrects the rows of the verdict for their number, and gives advice on those that fail."""
    tried = [row for row in rows if row.calibrated]
    known = {each.name: each for each in entries if each.named}
    judged = []
    for row, adjusted in zip(tried, holm([row.p_value for row in tried]), strict=True):
        failed = adjusted <= level
        higher = row.observed > (row.low + row.high) / 2
        about = [known[name] for name in row.entries if name in known]
        advice = advise(vae, row.statistic, higher, about) if failed else ""
        judged.append(replace(row, adjusted=adjusted, failed=failed, advice=advice))
    return (*judged, *(row for row in rows if not row.calibrated))


def _named(
    statistics: Sequence[Statistic | Callable[[Tensor], Tensor]],
) -> tuple[Statistic, ...]:
    if (
        not isinstance(statistics, list | tuple)
        or not statistics
        or not all(map(callable, statistics))
    ):
        raise expected("statistics", "a list of statistics or functions", statistics)
    return tuple(
        each if isinstance(each, Statistic) else Statistic(_name(each), each) for each in statistics
    )


def _name(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _enough(num_draws: int | None, num_tests: int, level: float) -> int:
    """Replicates with which Holm's correction can reject: the smallest p is 1 / (R + 1)."""
    needed = math.ceil(2 * num_tests / level)
    if num_draws is None:
        return needed
    num_draws = positive_integer("num_draws", num_draws)
    if num_draws < needed:
        what = f"at least {needed}, since {num_tests} tests at {level:g} are corrected for"
        raise expected("num_draws", what, num_draws)
    return num_draws


class _Progress:
    """Counts steps, and reports the fraction."""

    def __init__(self, progress: Callable[[float], None] | None, steps: int) -> None:
        self._progress, self._steps, self._done = progress, steps, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done / self._steps)
