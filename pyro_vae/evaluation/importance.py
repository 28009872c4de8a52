"""Importance-weighted log p(x) per datum, with its Monte Carlo error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, kl_divergence

from pyro_vae._errors import positive_integer
from pyro_vae.evaluation._common import check_arguments, describe, undisturbed
from pyro_vae.evaluation.pareto import k_hat, tail_length
from pyro_vae.evaluation.scores import Scores
from pyro_vae.vae import VAE

__all__ = ["evaluate"]

_BLOCK = 512  # draws gathered before they are summed: few small operations, and few megabytes
_ACTIVE = 0.01  # variance of the posterior mean, Burda et al. (2016), section 5.3


@torch.no_grad()
def evaluate(
    vae: VAE,
    x: Tensor,
    *,
    num_samples: int = 1000,
    seed: int = 0,
    base_measure: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Scores:
    r"""Scores a model on held-out data, by importance weighting with its guide.

    .. math:: \log \hat p(x) = \log \frac1S \sum_s w_s, \quad
        w_s = \frac{p(x \mid z_s) \, p(z_s)}{q(z_s \mid x)}, \quad z_s \sim q(z \mid x)

    Discrete latents are drawn as they are, never relaxed. Memory does not grow with
    ``num_samples``, but for the sqrt(S) largest weights of a batch. The model and the caller's
    random state stay as they were.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``.
        num_samples: Draws of z for each datum, S.
        seed: Of the draws: the same seed gives the same scores.
        base_measure: Where data that are no split of a :class:`pyro_vae.data.Dataset` come from:
            any of ``data``, ``split``, ``binarize``, ``dequantize``, ``transform``. What the data
            themselves tell (their fingerprint and dimension) is never taken from it.
        progress: Called now and then with the fraction that is done.

    Returns:
        Scores per datum; ``scores.summary()`` has their means and errors.

    Raises:
        ValueError: If the data do not suit the model, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> scores = pv.evaluate(vae, torch.ones(5, 4), num_samples=100)
        >>> scores.log_marginal.shape, scores.kl_estimator, scores.summary()["num_samples"]
        ((5,), 'analytic', 100)
    """
    check_arguments(vae, seed)
    positive_integer("num_samples", num_samples)
    data = vae.check(x)
    described = describe(vae, x, base_measure)
    batches = vae.batches(data)
    columns, means, kl_estimators = [], [], set()
    with undisturbed(vae, seed, data.device):
        for i, batch in enumerate(batches):
            sums = _Sums(len(batch), num_samples)
            for block in _blocks(vae.importance(batch, num_samples)):
                sums.update(*block)
                if progress is not None:
                    progress((i + sums.count / num_samples) / len(batches))
            guide = vae.encode(batch)
            kl = _analytic_kl(guide, vae.prior())
            kl_estimators.add("sampled" if kl is None else "analytic")
            columns.append(sums.scores(kl))
            means.append(guide.mean.cpu().double())
    return Scores(
        **{name: torch.cat([c[name] for c in columns]).numpy() for name in columns[0]},
        active_units=_active_units(torch.cat(means), vae.prior.support),
        num_samples=num_samples,
        estimator="importance weighting, draws of the guide",
        kl_estimator="sampled" if "sampled" in kl_estimators else "analytic",
        base_measure=described,
    )


class _Sums:
    """Running sums over draws of z, one column a datum.

    They are kept in float64 on the CPU: some accelerators have none.
    """

    def __init__(self, size: int, num_samples: int) -> None:
        zeros = torch.zeros(size, dtype=torch.float64)
        self.count = 0
        self.log_weight = zeros - math.inf  # log of the sum of weights
        self.log_square = zeros - math.inf  # log of the sum of their squares
        self.log_likelihood = zeros
        self.log_ratio = zeros  # of guide to prior
        self.largest = zeros.new_empty(0, size)
        self.kept = tail_length(num_samples) + 1

    def update(self, log_likelihood: Tensor, log_prior: Tensor, log_guide: Tensor) -> None:
        log_ratio = log_guide - log_prior
        log_weights = log_likelihood - log_ratio
        self.count += len(log_weights)
        self.log_weight = torch.logaddexp(self.log_weight, log_weights.logsumexp(0))
        self.log_square = torch.logaddexp(self.log_square, (2 * log_weights).logsumexp(0))
        self.log_likelihood = self.log_likelihood + log_likelihood.sum(0)
        self.log_ratio = self.log_ratio + log_ratio.sum(0)
        candidates = torch.cat([self.largest, log_weights])
        self.largest = candidates.topk(min(self.kept, len(candidates)), dim=0).values

    def scores(self, kl: Tensor | None) -> dict[str, Tensor]:
        """Returns the columns of the scores; the KL is sampled where it is not given."""
        # Relative to the squared mean of the weights; only rounding takes it below one.
        mean_square = (self.count * (self.log_square - 2 * self.log_weight).exp()).clamp_min(1)
        return {
            "log_marginal": self.log_weight - math.log(self.count),
            "mcse": ((mean_square - 1) / (self.count - 1)).sqrt(),  # NaN for a single draw
            "reconstruction": self.log_likelihood / self.count,
            "kl": self.log_ratio / self.count if kl is None else kl.cpu().double(),
            "k_hat": k_hat(self.largest),
            "ess": self.count / mean_square,
        }


def _blocks(chunks: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Gathers draws into blocks of float64 on the CPU."""
    held: list[Tensor] = []
    for chunk in chunks:
        held.append(torch.stack(chunk))
        if sum(each.shape[1] for each in held) >= _BLOCK:
            yield torch.cat(held, 1).cpu().double().unbind(0)
            held = []
    if held:
        yield torch.cat(held, 1).cpu().double().unbind(0)


def _analytic_kl(guide: Any, prior: Any) -> Tensor | None:
    try:
        return kl_divergence(guide, prior).expand(guide.batch_shape)
    except NotImplementedError:  # no closed form for this pair
        return None


def _active_units(means: Tensor, support: constraints.Constraint) -> int:
    variance = means.var(0, correction=0)
    if support is constraints.one_hot:
        variance = variance.amax(-1)
    return int((variance > _ACTIVE).sum())
