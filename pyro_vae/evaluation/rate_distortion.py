"""What the latent carries: rate, distortion, and how much of the rate is information."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, plural, positive_integer
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import GivenLike, Rows, RowsLike
from pyro_vae.distributions import are_diagonal, log_probs_of_each
from pyro_vae.evaluation._common import bits_per_dim, check_arguments
from pyro_vae.evaluation.importance import evaluate
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import rows_of
from pyro_vae.programs.weigh import observations_at_once

__all__ = ["RateDistortion", "rate_distortion"]

_ENTRIES = 2**20  # of z against q(z|x), at a time
_COLUMNS = 4096
_ESTIMATED = (
    "rate",
    "distortion",
    "mutual_information",
    "mutual_information_upper",
    "marginal_kl",
    "marginal_kl_lower",
)
_WITHIN = 1.96  # standard errors beyond the two ends of a bracket


@dataclass(frozen=True, eq=False, repr=False)
class RateDistortion:
    """The bound of a fixed model, taken apart, in nats per observation.

    ``-(rate + distortion)`` is the ELBO, and ``rate`` is the mutual information plus the marginal
    KL. Each array holds what every observation contributes, shape ``(N,)``: its mean is the figure,
    and its spread over the data gives that figure's standard error.

    Attributes:
        rate: KL(q(z|x) || p(z)).
        distortion: -E_q[log p(x|z)]; negative where densities are above one.
        mutual_information: I(x; z) with x drawn from these data and z from q(z|x). As an estimate
            for the distribution behind the data it is too low in expectation, and never above
            log N.
        mutual_information_upper: The same, each z compared with the q of all other data: too high
            in expectation for the distribution behind the data.
        marginal_kl: KL(q(z) || p(z)), of the mean of q(z|x) over these data: too high in
            expectation for the distribution behind the data.
        marginal_kl_lower: The same, each z compared with the q of all other data: too low in
            expectation for the distribution behind the data.
        active_units: As in :class:`~pyro_vae.evaluation.Scores`.
        num_samples: Draws of z for each observation.
        rate_estimator: ``analytic`` or ``sampled``.
        base_measure: What the log-densities are densities of, as in
            :class:`~pyro_vae.evaluation.Scores`.
    """

    rate: np.ndarray
    distortion: np.ndarray
    mutual_information: np.ndarray
    mutual_information_upper: np.ndarray
    marginal_kl: np.ndarray
    marginal_kl_lower: np.ndarray
    active_units: int
    num_samples: int
    rate_estimator: Literal["analytic", "sampled"]
    base_measure: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Returns the means over the data and their standard errors in nats, ready for JSON.

        The errors ``X_standard_error`` are those of data and of draws together. To first order
        they need nothing for the shared q(z): an observation added to a mixture moves the
        divergence from it only through its own term. They say nothing of the bias, which may be
        many of them: for the distribution behind the data, information and marginal KL have a
        bracket each, ``X_low`` to ``X_high``, from an estimate that is too low in expectation to
        another that is too high, each 1.96 standard errors further.
        ``largest_mutual_information`` is log N; ``bits_per_dim``, of the ELBO, is there for
        discrete data only.
        """
        size = len(self.rate)
        values: dict[str, float] = {"elbo": -(self.rate + self.distortion).mean()}
        for name in _ESTIMATED:
            each = getattr(self, name)
            values[name] = each.mean()
            values[f"{name}_standard_error"] = each.std(ddof=1) / math.sqrt(size)
        ends = {
            "mutual_information": ("mutual_information", "mutual_information_upper"),
            "marginal_kl": ("marginal_kl_lower", "marginal_kl"),
        }
        for name, (low, high) in ends.items():
            values[f"{name}_low"] = values[low] - _WITHIN * values[f"{low}_standard_error"]
            values[f"{name}_high"] = values[high] + _WITHIN * values[f"{high}_standard_error"]
        values["largest_mutual_information"] = math.log(size)
        if self.base_measure["measure"] == "counting":
            values["bits_per_dim"] = bits_per_dim(-values["elbo"], self.base_measure)
        return {name: float(value) for name, value in values.items()} | {
            "active_units": self.active_units,
            "num_samples": self.num_samples,
            "rate_estimator": self.rate_estimator,
            "base_measure": dict(self.base_measure),
        }

    def __repr__(self) -> str:
        known = self.summary()
        shown = {
            name: f"{known[name]:.4g} ± {known[f'{name}_standard_error']:.2g}"
            for name in _ESTIMATED
        }
        return (
            f"RateDistortion({plural(len(self.rate), 'observation')}, nats per observation, "
            "± over data)\n"
            f"  distortion   {shown['distortion']}\n"
            f"  rate         {shown['rate']} ({self.rate_estimator})\n"
            f"  information  {shown['mutual_information']} to {shown['mutual_information_upper']}, "
            f"log N is {known['largest_mutual_information']:.4g}\n"
            f"  marginal KL  {shown['marginal_kl_lower']} to {shown['marginal_kl']}\n"
            f"  units        {self.active_units} active"
        )


@torch.no_grad()
def rate_distortion(
    vae: Amortized,
    x: RowsLike,
    *,
    num_samples: int = 10,
    seed: int = 0,
    base_measure: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> RateDistortion:
    r"""Measures how many nats the latent spends, and on what.

    .. math:: \underbrace{\mathbb{E}_x \mathrm{KL}(q(z \mid x) \| p(z))}_{\text{rate}}
        = \underbrace{\mathbb{E}_x \mathrm{KL}(q(z \mid x) \| q(z))}_{I(x; z)}
        + \mathrm{KL}(q(z) \| p(z)), \quad q(z) = \frac1N \sum_n q(z \mid x_n)

    Every draw of z is compared with q(z|x) of all data: no minibatch, whose estimate would be
    bounded by the log of its size. The time grows with the square of the number of data.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound
        (Hoffman and Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Fixing a Broken ELBO (Alemi et al., 2018), https://arxiv.org/abs/1711.00464
        On Variational Bounds of Mutual Information (Poole et al., 2019),
        https://arxiv.org/abs/1905.06922

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``.
        num_samples: Draws of z for each observation.
        seed: Of the draws: the same seed gives the same figures.
        base_measure: As in :func:`~pyro_vae.evaluation.evaluate`.
        progress: Called now and then with the fraction that is done.
        **given: What goes with the data (:class:`~pyro_vae.data.Given`). Where the prior depends on
            a condition, the information is that of z about x and c together, and the last term, the
            mean of log q(z) - log p(z|c), is no divergence: it may be negative.

    Returns:
        What each observation contributes; ``summary()`` has the figures and their errors.

    Raises:
        ValueError: If the data do not suit the model or there is only one, or an option is not
            what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> found = rate_distortion(vae, torch.ones(5, 4))
        >>> found.rate.shape, found.summary()["largest_mutual_information"] == math.log(5)
        ((5,), True)
    """
    seed = check_arguments(vae, seed)
    num_samples = positive_integer("num_samples", num_samples)
    data = rows_of(vae, x, given)
    if len(data) < 2:
        raise expected("x", "at least two data, to compare one with the other", x)
    scores = evaluate(
        vae, x, num_samples=num_samples, seed=seed, base_measure=base_measure, **given
    )
    with undisturbed(vae, seed, data.x.device):
        batches = data.batches(observations_at_once(vae, data.x))
        features = torch.cat([vae.features(each) for each in batches])
        if features[0].numel() == 0:
            what = "a guide whose sites depend on x alone, by numbers of each row; `evaluate` has"
            raise expected("vae", f"{what} rate and distortion of others", vae)
        columns = _information(vae, features, data, num_samples, progress)
    return RateDistortion(
        rate=scores.kl,
        distortion=-scores.reconstruction,
        **{name: each.numpy() for name, each in columns.items()},
        active_units=scores.active_units,
        num_samples=num_samples,
        rate_estimator=scores.kl_estimator,
        base_measure=scores.base_measure,
    )


def _information(
    vae: Amortized,
    features: Tensor,
    data: Rows,
    num_samples: int,
    progress: Callable[[float], None] | None,
) -> dict[str, Tensor]:
    """Compares draws of every q(z|x) with all of them, float64 on the CPU."""
    size = len(features)
    column_starts = range(0, size, _COLUMNS)
    entries = min(size, _COLUMNS) * vae.space.event_shape.numel()
    rows = max(1, _ENTRIES // entries)
    terms = []
    for start in range(0, size, rows):
        own = torch.arange(start, min(start + rows, size), device=features.device)
        q = vae.guide_at(features[own], data[own])
        prior = vae.prior_at(data[own].given)
        sums = torch.zeros(4, len(own), dtype=torch.float64)
        for _ in range(num_samples):
            z = q.sample()
            log_own, log_prior = (each.log_prob(z).cpu().double() for each in (q, prior))
            log_others = torch.full_like(log_own, -math.inf)
            for left in column_starts:
                some = slice(left, left + _COLUMNS)
                theirs = vae.guide_at(features[some], data[some])
                if are_diagonal(theirs):
                    log_q = log_probs_of_each(theirs, z)
                else:
                    log_q = theirs.log_prob(z.unsqueeze(1))
                inside = (own >= left) & (own < left + _COLUMNS)
                log_q[inside, own[inside] - left] = -math.inf  # its own term is known
                log_others = torch.logaddexp(log_others, log_q.logsumexp(1).cpu().double())
            log_all = torch.logaddexp(log_others, log_own) - math.log(size)
            log_others -= math.log(size - 1)
            information = [log_own - log_all, log_own - log_others]
            divergence = [log_all - log_prior, log_others - log_prior]
            sums += torch.stack(information + divergence)
        terms.append(sums / num_samples)
        if progress is not None:
            progress((int(own[-1]) + 1) / size)
    return dict(zip(_ESTIMATED[2:], torch.cat(terms, 1), strict=True))
