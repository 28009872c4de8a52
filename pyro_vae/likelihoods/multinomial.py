"""Multinomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected
from pyro_vae.distributions import TotalMultinomial, TotalSupport, inverse_positive, positive
from pyro_vae.likelihoods.dispersed import inverse_dispersion, negative_binomial
from pyro_vae.likelihoods.likelihood import Likelihood, several_entries

__all__ = ["Multinomial"]


class Multinomial(Likelihood):
    r"""Creates counts that share a total, for bags of words and for clicks.

    .. math:: p(x \mid z) = p(n) \, \frac{n!}{\prod_d x_d!} \prod_d \pi_d^{x_d}, \quad
        n = \sum_d x_d, \quad \pi = \mathrm{softmax}(\mathrm{params})

    The decoder gives the probabilities of words; how many there are has a distribution that does
    not depend on z. So the gradient for the decoder is that of the multinomial given the total, as
    in the papers, while log p(x|z) is the log-probability of all counts and draws have a length.
    For log p(x|n, z), subtract log p(n), the ``log_prob`` of :meth:`total_distribution`.

    References:
        Neural Variational Inference for Text Processing (Miao et al., 2016),
        https://arxiv.org/abs/1511.06038
        Variational Autoencoders for Collaborative Filtering (Liang et al., 2018),
        https://arxiv.org/abs/1802.05814

    Args:
        event_shape: Shape of one x.
        total: ``learned``, one negative binomial distribution for all observations, of two learned
            numbers that start at the moments of the training totals; or the number that every
            observation adds up to: others are refused.

    Raises:
        ValueError: If there are fewer than two entries, or ``total`` is neither this word nor a
            positive integer.

    Example:
        >>> import torch
        >>> d = Multinomial((5,), total=20)(torch.zeros(3, 5))
        >>> d.sample().sum(-1)
        tensor([20., 20., 20.])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(
        self, event_shape: Sequence[int], total: int | Literal["learned"] = "learned"
    ) -> None:
        super().__init__(several_entries(event_shape))
        if total == "learned":
            self.raw_mean = nn.Parameter(inverse_positive(torch.ones(())))
            self.raw_dispersion = nn.Parameter(inverse_positive(torch.ones(())))
        elif not isinstance(total, int) or isinstance(total, bool) or total < 1:
            raise expected("total", "a positive integer or learned", total)
        else:
            self.support = TotalSupport(total, len(self.event_shape))
        self.total = total

    @property
    def are_counts(self) -> Tensor:
        return torch.ones(self.event_shape, dtype=torch.bool)

    def total_distribution(self) -> int | Distribution:
        """Returns the distribution of the total; the number itself if it is known."""
        if isinstance(self.total, int):
            return self.total
        return negative_binomial(positive(self.raw_mean), positive(self.raw_dispersion))

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the logs of the shares of all counts, half a count added to each."""
        if self.total == "learned":
            totals = x_train.flatten(1).sum(1)
            mean, variance = totals.mean(), totals.var(correction=0)
            self.raw_mean.copy_(inverse_positive(mean))
            theta = inverse_dispersion(mean.square(), variance - mean)
            self.raw_dispersion.copy_(inverse_positive(theta))
        counted = x_train.sum(0) + 0.5
        return (counted / counted.sum()).log()

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from logits of shape ``(*, B, *event_shape)``."""
        return TotalMultinomial(self.total_distribution(), params, len(self.event_shape))
