"""Importance-weighted log p(x) per observation, with its Monte Carlo error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, positive_integer
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import GivenLike, Rows, RowsLike
from pyro_vae.data.source import Stream
from pyro_vae.distributions import Space, closed_kl
from pyro_vae.engine.by_rows import Report, by_rows, check_alike, in_turn
from pyro_vae.evaluation._common import check_arguments, measured_anywhere, variance_by_site
from pyro_vae.evaluation._draws import Draws, Proposal
from pyro_vae.evaluation.averaging import averaged
from pyro_vae.evaluation.enumeration import enumerated, is_summed, num_mixed, summed_terms
from pyro_vae.evaluation.pareto import k_hat, smooth_tail, tail_length
from pyro_vae.evaluation.scores import EXACT, Scores
from pyro_vae.programs import Amortized
from pyro_vae.programs.streamed import StreamedRows
from pyro_vae.programs.weigh import chunk_sizes

__all__ = ["evaluate"]

_ACTIVE = 0.01  # variance of the posterior mean, Burda et al. (2016), section 5.3
_PARTS = 10  # of the draws, each of which estimates log p(x), too


@torch.no_grad()
def evaluate(
    vae: Amortized,
    x: RowsLike | Stream,
    *,
    num_samples: int = 1000,
    proposal: Proposal = "auto",
    smooth: bool = False,
    max_memory: int | None = None,
    seed: int = 0,
    base_measure: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    num_globals: int = 20,
    **given: Unpack[GivenLike],
) -> Scores:
    r"""Scores a model on held-out data, by importance weighting with its guide.

    .. math:: \log \hat p(x) = \log \frac1S \sum_s w_s, \quad
        w_s = \frac{p(x \mid z_s) \, p(z_s)}{q(z_s \mid x)}, \quad z_s \sim q(z \mid x)

    A discrete latent of no more than ``num_samples`` joint states is summed, which costs less and
    has no error. Discrete sites of a :class:`pyro_vae.Program` that has continuous ones, too, are
    summed where they have 32 joint states at most, at each of which the others are drawn. Any other
    is drawn as it is, never relaxed. Memory does not grow with
    ``num_samples``, but for the sqrt(S) largest weights of a batch. The model and the caller's
    random state stay as they were. Where there is enough work for it to pay, the draws are one
    compiled graph, with the same numbers on a CPU. Several processes that ``torchrun`` has started
    share the rows, and all of them have all scores.

    A ``defensive`` proposal is a mixture, :math:`\frac45 q(z \mid x) + \frac15 p(z)`, which bounds
    each weight by 5 p(x|z): for guides that miss a part of the posterior, which is what k-hat warns
    of. ELBO, reconstruction and KL remain those of the guide.

    Smoothed weights vary less where the tail is heavy, but each is at most the largest that was
    drawn: the estimate stays too low, and its error, that of the smoothed weights as if they were
    independent, does not cover that. Where k-hat is high a defensive proposal or more draws help.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646
        Safe and Effective Importance Sampling (Owen and Zhou, 2000),
        https://doi.org/10.1080/01621459.2000.10473909

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``: a tensor, an array, or
            :class:`~pyro_vae.data.Rows`, which bring with them what the model needs to know; or a
            :class:`~pyro_vae.data.Stream`, or an array that is mapped to a file and larger than a
            quarter of free memory, of which some rows are read at a time.
        num_samples: Draws of z for each observation, S.
        proposal: Where they are drawn: ``guide`` or ``defensive``; ``auto`` sums a small discrete
            latent, and draws any other from the guide.
        smooth: Whether to smooth the largest weights by a generalised Pareto distribution.
        max_memory: Bytes to take at once beside the model, the data and the scores; None takes
            what is fastest, some megabytes for a small network.
        seed: Of the draws: the same seed gives the same scores.
        base_measure: Where data that are no split of a :class:`pyro_vae.data.Dataset` come from:
            any of ``data``, ``split``, ``binarize``, ``dequantize``, ``transform``. What the data
            themselves show (their fingerprint and dimension) is never taken from it.
        progress: Called now and then with the fraction that is done.
        num_globals: Of a :class:`pyro_vae.Program` with latents that all observations share, draws
            of these: log p(x) is that of the mean of p(x | globals) over them, with its error by
            the jackknife; k-hat and ESS are the worst of any draw.
        **given: What goes with the data (:class:`~pyro_vae.data.Given`): scores are of log p(x|c),
            and of what a mask leaves. With a missingness model they are of what is observed
            together with the mask, no mask being one of ones, and what is missing is drawn with
            each z.

    Returns:
        Scores per observation; ``scores.summary()`` has their means and errors.

    Raises:
        ValueError: If the data do not suit the model, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> scores = pv.evaluate(vae, torch.ones(5, 4), num_samples=100)
        >>> scores.log_marginal.shape, scores.kl_estimator, scores.summary()["num_samples"]
        ((5,), 'analytic', 100)
    """
    with by_rows():
        seed = check_arguments(vae, seed)
        num_samples = positive_integer("num_samples", num_samples)
        if not isinstance(smooth, bool):
            raise expected("smooth", "True or False", smooth)
        num_globals = positive_integer("num_globals", num_globals)
        rows, described = measured_anywhere(vae, x, given, base_measure)
        options = (num_samples, proposal, smooth, max_memory)
        asked = {"x": described, "seed": seed, "num_samples": options, "num_globals": num_globals}
        check_alike(vae, asked, {})
        programs = vae.fixed(num_globals, seed)
        scores = []
        for s, one in enumerate(programs):
            own = None if progress is None else partial(_share, progress, s, len(programs))
            # With random numbers of its own each: the jackknife then sees the error of weights, too
            scores.append(_scored(one, rows, *options, (seed + s) % 2**32, described, own))
    return averaged(scores) if vae.has_globals else scores[0]


def _share(progress: Callable[[float], None], done: int, total: int, fraction: float) -> None:
    """Reports what is done of all draws of the globals, from what is done of one."""
    progress((done + fraction) / total)


def _scored(
    vae: Amortized,
    rows: Rows | StreamedRows,
    num_samples: int,
    proposal: Proposal,
    smooth: bool,
    max_memory: int | None,
    seed: int,
    described: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> Scores:
    """Scores rows that the model accepted, of which it has no latents that they share."""
    if proposal == "auto":
        if not smooth and is_summed(vae, rows, num_samples):
            return _summed(vae, rows, max_memory, seed, described, progress)
        proposal, mixed = "guide", num_mixed(vae)
    else:
        mixed = 0
    with undisturbed(vae, seed, vae.device):
        draws = Draws(vae, rows, num_samples, proposal, max_memory)

    def score(batch: Rows, report: Report) -> tuple[dict[str, Tensor], Tensor, str]:
        if mixed:
            strata = _mixed(vae, draws, batch, num_samples, mixed, report)
            found = _columns(strata[False], strata[True], None, smooth)
            return found, vae.infer(batch).mean.cpu().double(), "sampled"
        features, strata = _weighed(draws, batch, num_samples, report)
        guide = vae.guide_at(features, batch)
        kl = closed_kl(guide, vae.prior_at(batch.given))
        kl = None if kl is None else kl.expand(guide.batch_shape)
        found = _columns(strata[False], strata[True], kl, smooth)
        return found, guide.mean.cpu().double(), "sampled" if kl is None else "analytic"

    def draw(batch: Rows) -> Tensor:
        features = vae.features(batch)
        draws.pass_over(batch, features)
        mean: Tensor = vae.guide_at(features, batch).mean
        return mean

    # What is missing, and sites at each state of others, are drawn with the weights.
    draws_apart = vae.is_ignorable and not mixed
    passes = draw if draws_apart else None
    found = in_turn(vae, rows, draws.batch, seed, score, passes, progress)
    columns, means, kl_estimators = zip(*found, strict=True)
    return Scores(
        **{name: torch.cat([c[name] for c in columns]).numpy() for name in columns[0]},
        active_units=_active_units(torch.cat(means), vae.space),
        num_samples=num_samples,
        estimator=_estimator(proposal, smooth, mixed),
        kl_estimator="sampled" if "sampled" in kl_estimators else "analytic",
        base_measure=described,
    )


def _estimator(proposal: Proposal, smooth: bool, mixed: int) -> str:
    """Says what draws and weights there are."""
    origin = "the guide" if proposal == "guide" else "a mixture of guide and prior"
    if mixed:
        origin += f" at each of {mixed} states of discrete sites, summed"
    return f"importance weighting, draws of {origin}{', Pareto smoothed' if smooth else ''}"


def _summed(
    vae: Amortized,
    rows: Rows | StreamedRows,
    max_memory: int | None,
    seed: int,
    described: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> Scores:
    """Scores a model whose latent has few enough states to list."""
    found = enumerated(vae, rows, max_memory, seed, progress)
    size = len(found.log_marginal)
    return Scores(
        log_marginal=found.log_marginal.numpy(),
        mcse=np.zeros(size),
        reconstruction=found.reconstruction.numpy(),
        kl=found.kl.numpy(),
        k_hat=np.full(size, math.nan),
        ess=np.full(size, math.nan),
        log_marginal_tenth=found.log_marginal.numpy(),
        active_units=_active_units(found.mean, vae.space),
        num_samples=found.num_states,
        estimator=EXACT,
        kl_estimator="analytic",
        base_measure=described,
    )


def _weighed(
    draws: Draws, batch: Rows, num_samples: int, report: Report
) -> tuple[Tensor, dict[bool, _Sums]]:
    """Draws and weighs z for a batch: returns its features, and sums by whether p(z) drew."""
    features = draws.vae.features(batch)
    strata = {from_prior: _Sums(len(batch), num_samples) for from_prior in draws.counts}
    done = 0
    for from_prior, (log_likelihood, log_prior, log_guide) in draws.of(batch, features):
        log_weights = log_likelihood + log_prior
        log_weights -= draws.log_proposal(log_prior, log_guide)
        strata[from_prior].update(log_weights, log_likelihood, log_guide - log_prior)
        done += len(log_weights)
        report(done / num_samples)
    return features, strata


def _mixed(
    vae: Amortized,
    draws: Draws,
    batch: Rows,
    num_samples: int,
    states: int,
    report: Report,
) -> dict[bool, _Sums]:
    """Draws and weighs the continuous sites of a batch at each state of the others."""
    strata = {from_prior: _Sums(len(batch), num_samples) for from_prior in (False, True)}
    done = 0
    for count in chunk_sizes(num_samples, max(1, max(draws.counts[False]) // states)):
        strata[False].update(*summed_terms(vae, batch, count))
        done += count
        report(done / num_samples)
    return strata


class _Sums:
    """Running sums over draws of z from one component, a column per observation, in float64."""

    def __init__(self, size: int, num_samples: int) -> None:
        zeros = torch.zeros(size, dtype=torch.float64)
        self.count = 0
        self.log_weight = zeros - math.inf  # log of the sum of weights
        self.log_square = zeros - math.inf  # log of the sum of their squares
        self.log_likelihood = zeros
        self.log_ratio = zeros  # of guide to prior
        self.parts = zeros.expand(_PARTS, size) - math.inf  # log of the sum of every tenth weight
        self.largest = zeros.new_empty(0, size)
        self.kept = tail_length(num_samples) + 1

    def update(self, log_weights: Tensor, log_likelihood: Tensor, log_ratio: Tensor) -> None:
        first = [(part - self.count) % _PARTS for part in range(_PARTS)]
        parts = torch.stack([log_weights[start::_PARTS].logsumexp(0) for start in first])
        self.parts = torch.logaddexp(self.parts, parts)
        self.count += len(log_weights)
        self.log_weight = torch.logaddexp(self.log_weight, log_weights.logsumexp(0))
        self.log_square = torch.logaddexp(self.log_square, (2 * log_weights).logsumexp(0))
        self.log_likelihood = self.log_likelihood + log_likelihood.sum(0)
        self.log_ratio = self.log_ratio + log_ratio.sum(0)
        self.largest = _largest(self.kept, self.largest, log_weights)


def _largest(count: int, *log_weights: Tensor) -> Tensor:
    candidates = torch.cat(log_weights)
    return candidates.topk(min(count, len(candidates)), dim=0).values


def _columns(guide: _Sums, prior: _Sums, kl: Tensor | None, smooth: bool) -> dict[str, Tensor]:
    """Returns the columns of the scores; the KL is sampled where it is not given."""
    count = guide.count + prior.count
    log_weight = torch.logaddexp(guide.log_weight, prior.log_weight)
    log_square = torch.logaddexp(guide.log_square, prior.log_square)
    largest = _largest(guide.kept, guide.largest, prior.largest)
    if smooth:
        log_weight, log_square = _smoothed(log_weight, log_square, largest)
    # Relative to the squared mean of the weights; only rounding takes it below one.
    mean_square = (count * (log_square - 2 * log_weight).exp()).clamp_min(1)
    # Smoothed weights belong to no component any more: their error is that of all as one.
    strata = [guide] if smooth or not prior.count else [guide, prior]
    if len(strata) == 1:
        variance = (mean_square - 1) / (count - 1)  # NaN for a single draw
    else:
        variance = sum((_variance(each, log_weight) for each in strata), torch.zeros(()))
    return {
        "log_marginal": log_weight - math.log(count),
        "mcse": variance.sqrt(),
        "reconstruction": guide.log_likelihood / guide.count,
        "kl": guide.log_ratio / guide.count if kl is None else kl.cpu().double(),
        "k_hat": k_hat(largest),
        "ess": count / mean_square,
        "log_marginal_tenth": _of_a_tenth(guide, prior),
    }


def _of_a_tenth(*strata: _Sums) -> Tensor:
    """What a tenth of the draws gives of log p(x), the mean over the ten parts of them."""
    counts = sum(torch.tensor([len(range(part, each.count, _PARTS)) for part in range(_PARTS)])
                 for each in strata)  # fmt: skip
    parts = torch.stack([each.parts for each in strata]).logsumexp(0)
    known = (parts - torch.as_tensor(counts, dtype=torch.float64)[:, None].log()).mean(0)
    return torch.where(known.isfinite(), known, math.nan)


def _variance(stratum: _Sums, log_weight: Tensor) -> Tensor:
    """The variance of a sum of weights of one component, relative to a squared sum."""
    if stratum.count == 1:
        return torch.full_like(log_weight, math.nan)
    square = (stratum.log_square - 2 * log_weight).exp()
    mean_square = (2 * (stratum.log_weight - log_weight)).exp() / stratum.count
    return (square - mean_square).clamp_min(0) * (stratum.count / (stratum.count - 1))


def _smoothed(log_weight: Tensor, log_square: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Takes the tail off both sums, and puts the smoothed one in its place."""
    if len(largest) < 2:
        return log_weight, log_square
    top, sums = largest[0], []
    smooth = smooth_tail(largest)
    for power, total in ((1, log_weight), (2, log_square)):
        body = (total - power * top).exp() - (power * (largest[:-1] - top)).exp().sum(0)
        tail = (power * (smooth - top)).exp().sum(0)
        sums.append((body.clamp_min(0) + tail).log() + power * top)
    return sums[0], sums[1]


def _active_units(means: Tensor, space: Space) -> int:
    return sum(int((each > _ACTIVE).sum()) for each in variance_by_site(means, space).values())
