"""Does the model reproduce the data? Checks against its own replicates, and one verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor

from pyro_vae._errors import expected, positive_integer
from pyro_vae._jobs import each
from pyro_vae._untouched import own_store, seeded, undisturbed
from pyro_vae.criticism._compared import Found, rows_of, values
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._of_sequences import Symbols, end_of
from pyro_vae.criticism._of_tables import Expanded
from pyro_vae.criticism._ranks import compare, holm
from pyro_vae.criticism._replicates import at_one_draw, cycled, from_guide, repeated, simulate
from pyro_vae.criticism.effects import Spread, from_auc, spreads_of
from pyro_vae.criticism.latent import collapsed_units, latent_statistics
from pyro_vae.criticism.relations import relations
from pyro_vae.criticism.row import Row
from pyro_vae.criticism.split import (
    Halves,
    Inference,
    halve,
    residual_statistics,
    residuals,
)
from pyro_vae.criticism.statistics import Statistic, default_statistics
from pyro_vae.criticism.two_sample import TwoSample, classify
from pyro_vae.criticism.verdict import Checks, judged
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import GivenLike, Rows, RowsLike
from pyro_vae.data.source import Stream
from pyro_vae.data.sources import is_elsewhere
from pyro_vae.evaluation._common import (
    SIMULATED,
    check_arguments,
    check_ignorable,
    measured_anywhere,
)
from pyro_vae.programs import Amortized, Refit
from pyro_vae.programs.accept import as_tensor
from pyro_vae.programs.accept import rows_of as rows_given
from pyro_vae.programs.protocol import is_amortized
from pyro_vae.programs.weigh import chunk_sizes, draws_at_once, encoded

__all__ = ["Checks", "check", "compare", "holm"]

PRIOR = "z ~ p(z)"
GUIDE = "z ~ q(z|x)"
HALF = "z ~ p(z|half of x)"

_FEWEST = 20  # observations: of fewer, correlations and tails are noise
_GUIDE_DRAWS = 200  # not in the verdict, so that no correction asks for more
_SPLIT_DATA = 200  # whose z are inferred from half of the features, which is what costs
_FEWER = {4: "a quarter", 8: "an eighth"}  # of the features, where half pin z down too sharply
_TOO_SHARP = (
    "the other checks stand; fewer latent units, or a likelihood of a wider scale, leave z "
    "open enough to be drawn"
)
_REPLICATES = 2  # for each observation that a classifier sees
_REFITS, _FEWEST_REFITS = 20, 5
_SHARED = "each data set has its own draw of what its observations share"
_ROWS_SHARE = (
    "rows share a draw of the global latents, and replicates another: "
    "a classifier tells them apart under a true model, too"
)
_REFIT_DRAWS = 100  # replicates of a refit, of which mean and spread are taken, no p-value


@torch.no_grad()
def check(
    vae: Amortized,
    x: RowsLike | Stream,
    *,
    num_draws: int | None = None,
    level: float = 0.05,
    seed: int = 0,
    statistics: Sequence[Statistic | Callable[[Tensor], Tensor]] | None = None,
    max_data: int = 1000,
    base_measure: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    refit: Refit | None = None,
    refits: int | None = None,
    train: RowsLike | None = None,
    **given: Unpack[GivenLike],
) -> Checks:
    r"""Compares held-out data with data sets that the model simulates.

    A statistic T of the observed data is ranked among those of replicates of the same size,

    .. math:: p = \frac{1 + \#\{r : T(x_r) \text{ is as far out as } T(x)\}}{1 + R},
        \quad z_r \sim p(z), \; x_r \sim p(x \mid z_r)

    with ties broken at random, so that p is uniform when the model is true. A statistic of many
    columns is one test, of the column that deviates most from its mean in units of its standard
    deviation. The verdict corrects for the number of tests by Holm's procedure. Many p-values are
    the smallest that R replicates allow, so that rows are in the order of their effect sizes; see
    :mod:`pyro_vae.criticism.effects`.

    Three kinds of checks are calibrated in this sense, and make the verdict: statistics of whole
    data sets, of x and of what the guide makes of x; a classifier that is to distinguish replicates
    from data; and residuals of one half of the features, with z drawn given the other half. Those
    of the order of rows take them to have come in one, which a random split has lost. With latents
    that all observations share, the classifier is shown and not in the verdict: the data have one
    draw of them and replicates another, which it tells apart under a true model, too.

    Replicates with z drawn from q(z|x) are shown too and not in the verdict: they have seen the
    data, and their p-values gather around one half even under a true model.

    A model fails for its family, or for its fit alone. With ``refit`` each check that failed has a
    ``cause``: the effects of refits to data that the model simulates say how much a fit of the
    right family errs; see :mod:`pyro_vae.criticism.refitted`. Refits that start where the fit
    ended, as those of ``Run.refit`` do, have the error of finite data; what a fit that was too
    short left undone, refits that start afresh have, too. They are shared by the processes that
    joblib is configured to have (``joblib.parallel_config``), with the same result.

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
            least 40 a test at 5%. More of them allow smaller p-values.
        level: Probability of any false alarm.
        seed: Of the draws: the same seed gives the same checks.
        statistics: What to ask instead of :func:`pyro_vae.criticism.default_statistics`. A function
            from data sets ``(R, N, *event_shape)`` to values ``(R, S)`` will do.
        max_data: Of more data, so many chosen at random are looked at.
        base_measure: Where data that are no split of a :class:`pyro_vae.data.Dataset` come from.
        progress: Called now and then with the fraction that is done.
        refit: From rows and a seed to a program fitted to them, such as ``Run.refit``.
        refits: How many refits, 5 at least; 20 if not given.
        train: What the model was fitted to, shape ``(M, *event_shape)``: refits are to as many, and
            are given the same. As many as x, if not given.
        **given: What goes with the data (:class:`~pyro_vae.data.Given`). Replicates are given the
            same, and hide what a mask hides; the classifier sees conditions and covariates beside
            x.

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
    num_refits = _num_refits(refit, refits)
    if not isinstance(x, Rows) and not is_elsewhere(x):
        x = as_tensor(x)
    found, described = measured_anywhere(vae, x, given, base_measure)
    fitted = found if train is None else rows_given(vae, train, {})
    # The guide of one draw of the globals is a function of x like another; replicates have draws
    # of their own.
    whole, vae = vae, vae.fixed(1, seed)[0]
    entries = entries_of(vae, x)
    if min(len(found), max_data) < _FEWEST:
        raise expected("x", f"at least {_FEWEST} observations", min(len(found), max_data))
    if num_refits and not isinstance(fitted, Rows):
        what = "rows in memory that are fitted anew, beside data of which some are read at a time"
        raise expected("train", what, train)
    with undisturbed(vae, seed, vae.device):
        order = torch.randperm(len(found))[:max_data].to(vae.device)
        data = found[order]
        asked = None if statistics is None else _named(statistics)
        plan = _Plan(vae, whole, data, order, asked, entries)
        plan.num_draws = _enough(num_draws, plan.num_tests, level)
        counts = _counts(vae, data, plan.num_draws)
        seen = _counts(vae, data, min(plan.num_draws, _GUIDE_DRAWS))
        tick = _Progress(progress, len(counts) + len(seen) + 2 + num_refits)
        spreads = spreads_of(plan.asked, data.x[None], seed)
        rows, classifier = _judged(vae, data, order, plan, spreads, seed, tick)
        rows += _from_guide(whole, data, plan.asked, spreads, seen, tick)
        units = collapsed_units(vae, data)
    effects: dict[int, list[float]] = {}
    if refit is not None:
        assert isinstance(fitted, Rows)
        of_refit = _Refit(whole, data, order, fitted, refit, asked, entries)
        seeds = [seed + 1 + 2 * k for k in range(num_refits)]
        with closing(each(of_refit, seeds, "refit")) as ended:
            for k, effect in ended:
                effects[k] = effect
                tick()
    return Checks(
        rows=judged(vae, rows, entries, level, [effects[k] for k in sorted(effects)]),
        level=level,
        num_draws=plan.num_draws,
        num_data=len(data),
        latent=units,
        classifier=classifier,
        skipped=plan.skipped,
        base_measure=described,
        refits=num_refits,
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
        data: Rows,
        order: Tensor,
        asked: Sequence[Statistic] | None,
        entries: tuple[Entry, ...],
    ) -> None:
        given, self.entries, self.whole = data.given, entries, whole
        self.asked = default_statistics(vae, entries=entries, **given) if asked is None else asked
        self.latent = latent_statistics(vae, **given)
        halves = halve(vae, entries, given) if not whole.has_globals else _SHARED
        self.halves = None if isinstance(halves, str) else halves
        self.skipped = {HALF: halves} if isinstance(halves, str) else {}
        residual = () if self.halves is None else residual_statistics(self.halves)
        self.relations = relations(vae, data, order, entries)
        judged = (self.asked, self.latent, self.relations, residual)
        self.num_tests = (not whole.has_globals) + sum(map(len, judged))  # with the classifier
        self.num_draws = _REFIT_DRAWS


def _counts(vae: Amortized, data: Rows, num_draws: int) -> list[int]:
    """Chunks of replicates of data."""
    return chunk_sizes(num_draws, draws_at_once(vae, data.x))


def _judged(
    vae: Amortized,
    data: Rows,
    order: Tensor,
    plan: _Plan,
    spreads: Sequence[Spread],
    seed: int,
    tick: Callable[[], None],
) -> tuple[list[Row], TwoSample]:
    """Makes the checks that the verdict rests on; ``order`` is where the data were found."""
    rows = [*_population(vae, data, plan, spreads, seed, tick)]
    classifier = _classify(data, order, plan, seed)
    rows.append(_classifier_row(classifier, _ROWS_SHARE if plan.whole.has_globals else ""))
    tick()
    if plan.halves is not None:
        rows += _residual(vae, data[:_SPLIT_DATA], plan, plan.halves, seed)
    tick()
    return rows, classifier


def _residual(vae: Amortized, data: Rows, plan: _Plan, halves: Halves, seed: int) -> Iterator[Row]:
    """Tests features given others: half of them, or fewer where these leave too little of z open.

    Of which there are too few draws, such rows are shown, and not in the verdict.
    """
    on, also = HALF, ""
    chosen = Inference(vae, data, halves)
    for share, name in _FEWER.items():
        fewer = halve(vae, plan.entries, data.given, share) if chosen.until_hopeless() else ""
        if isinstance(fewer, str):
            break
        also = ", and for fewer features than half of x, too"
        tried = Inference(vae, data, fewer)
        if not tried.until_hopeless():
            chosen, halves, on = tried, fewer, f"z ~ p(z|{name} of x)"
    z, note = chosen.draws(plan.num_draws)
    if note:
        note += f"{also}: {_TOO_SHARP}"
    residual = residual_statistics(halves)
    each = residuals(vae, data[: z.shape[1]], halves, z)
    own = next(each)
    found = Found(values(residual, own), spreads_of(residual, own, seed), own.dtype)
    drawn = [values(residual, e) for e in each]
    yield from rows_of(residual, found, drawn, on, calibrated=not note, note=note)


@dataclass(frozen=True)
class _Refit:
    """Simulates, refits, and checks the refit, whose family is true.

    Attributes:
        simulator: The model, which simulates what is fitted to and what is held out, at one draw
            of what observations share.
        data: What the model is checked against.
        order: Where these were found.
        fitted: What it was fitted to.
        refit: From rows and a seed to a fitted program.
        asked: Statistics; the default ones of the refit if None.
        entries: The entries of x.
    """

    simulator: Amortized
    data: Rows
    order: Tensor
    fitted: Rows
    refit: Refit
    asked: Sequence[Statistic] | None
    entries: tuple[Entry, ...]

    @own_store()  # nobody asks for the parameters of a refit again
    @torch.no_grad()
    def __call__(self, seed: int) -> list[float]:
        """Returns the effects of the checks of a refit.

        Args:
            seed: Of what is simulated and of the refit; the next one is that of its checks.
        """
        data, fitted = self.data, self.fitted
        with undisturbed(self.simulator, seed, data.x.device):
            # What is held out is of the draw that was fitted to, as the data are.
            one = at_one_draw(self.simulator)
            simulated = Rows(_drawn(one, len(fitted), fitted), fitted.given)
            held_out = Rows(_drawn(one, len(data), data), data.given)
        with seeded(seed), torch.enable_grad():  # a model that it builds is drawn, too
            twin = self.refit(simulated, seed)
        if not is_amortized(twin):
            raise expected("refit", "a function that returns a fitted program", twin)
        whole, twin = twin, twin.fixed(1, seed)[0]
        with undisturbed(twin, seed + 1, data.x.device):
            plan = _Plan(twin, whole, held_out, self.order, self.asked, self.entries)
            spreads = spreads_of(plan.asked, held_out.x[None], seed)
            rows, _ = _judged(twin, held_out, self.order, plan, spreads, seed, lambda: None)
        return [row.effect for row in rows]


def _drawn(vae: Amortized, size: int, like: Rows) -> Tensor:
    """Draws so many observations, given what goes with others, over and over.

    They are of one data set: what observations share is to be fixed, as each chunk would have its
    own draw of it.
    """
    drawn: list[Tensor] = []
    for count in chunk_sizes(size, draws_at_once(vae, like[:1].x)):
        given = cycled(like.given, count, sum(map(len, drawn)))
        drawn.append(simulate(vae, 1, count, given)[0])
    return torch.cat(drawn)


def _classify(data: Rows, order: Tensor, plan: _Plan, seed: int) -> TwoSample:
    size = _REPLICATES * len(data)
    known = data.without("mask").tensors().values()
    beside = [each.to(data.x).reshape(len(data), -1) for each in known]
    drawn = _drawn(at_one_draw(plan.whole), size, data)
    # Beside what is known of each, x is to look as it should for that.
    index = torch.arange(size, device=data.x.device) % len(data)
    x = torch.cat([data.x, drawn]).flatten(1)
    # Levels without an order are seen one by one, and those of sequences by how many there are.
    end = end_of(plan.whole)
    seen = Expanded(x, plan.entries)(x) if end is None else Symbols(x, end, plan.entries)(x)
    real = torch.cat([seen[: len(data)], *beside], 1)
    made = torch.cat([seen[len(data) :], *(each[index] for each in beside)], 1)
    # A row and its replicates share what goes with it, and no others are like them.
    found = classify(real, made, seed=seed, groups=index if data.given else None)
    return replace(found, index=order.cpu().numpy()[found.index])


def _classifier_row(found: TwoSample, note: str) -> Row:
    return Row(
        statistic="classifier",
        where="area under its ROC",
        observed=found.auc,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        conditioned_on=PRIOR,
        calibrated=not note,
        note=note,
        effect=from_auc(min(max(found.auc, found.auc_low), found.auc_high)),
        effect_low=from_auc(found.auc_low),
        effect_high=from_auc(found.auc_high),
        effect_unit="sd between normals of that area",
    )


def _population(
    vae: Amortized,
    data: Rows,
    plan: _Plan,
    spreads: Sequence[Spread],
    seed: int,
    tick: Callable[[], None],
) -> Iterator[Row]:
    """Replicates with z from the prior are as new to the guide as held-out data are."""

    def all_values(x: Tensor, z: Tensor) -> list[Tensor]:
        both = torch.cat([x.flatten(2), z.flatten(2).to(x)], -1)
        of_x, of_z = values(plan.asked, x), values(plan.latent, z)
        return [*of_x, *of_z, *values(plan.relations, both)]

    replicated = []
    for count in _counts(vae, data, plan.num_draws):
        x = simulate(plan.whole, count, len(data), data.given)
        guide = encoded(vae, x.flatten(0, 1), repeated(data.given, count))
        z = guide.sample().unflatten(0, (count, len(data)))
        replicated.append(all_values(x, z))
        tick()
    z = vae.encode(data.x, **data.given).sample()
    placed = [Spread(None, len(data))] * len(plan.relations)  # of which each row has its place
    varied = [*spreads, *spreads_of(plan.latent, z[None], seed), *placed]
    found = Found(all_values(data.x[None], z[None]), varied, data.x.dtype)
    statistics = [*plan.asked, *plan.latent, *plan.relations]
    yield from rows_of(statistics, found, replicated, PRIOR, calibrated=True)


def _from_guide(
    vae: Amortized,
    data: Rows,
    asked: Sequence[Statistic],
    spreads: Sequence[Spread],
    counts: Sequence[int],
    tick: Callable[[], None],
) -> Iterator[Row]:
    replicated = []
    for x in from_guide(vae, data, counts):
        replicated.append(values(asked, x))
        tick()
    found = Found(values(asked, data.x[None]), spreads, data.x.dtype)
    yield from rows_of(asked, found, replicated, GUIDE, calibrated=False)


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


def _num_refits(refit: Refit | None, refits: int | None) -> int:
    if refit is None:
        if refits is not None:
            what = "a function from rows and a seed to a fitted program, such as `Run.refit`"
            raise expected("refit", f"{what}, beside refits={refits!r}", refit)
        return 0
    if not callable(refit):
        raise expected("refit", "a function from rows and a seed to a fitted program", refit)
    refits = _REFITS if refits is None else positive_integer("refits", refits)
    if refits < _FEWEST_REFITS:
        raise expected(
            "refits", f"at least {_FEWEST_REFITS}, of whose spread something is known", refits
        )
    return refits


class _Progress:
    """Counts steps, and reports the fraction."""

    def __init__(self, progress: Callable[[float], None] | None, steps: int) -> None:
        self._progress, self._steps, self._done = progress, steps, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done / self._steps)
