"""Student-t likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.distributions import robust_units_of
from pyro_vae.likelihoods.in_units import weighted_mean
from pyro_vae.likelihoods.likelihood import thinned
from pyro_vae.likelihoods.location_scale import LocationScale, ScaleMode

__all__ = ["StudentT"]

_ROUNDS = 100  # of expectation-maximisation, which converges geometrically


class StudentT(LocationScale):
    r"""Creates independent Student-t variables, for real data with heavy tails.

    .. math:: p(x \mid z) = \prod_d \frac{\Gamma((\nu + 1) / 2)}
        {\Gamma(\nu / 2) \sqrt{\pi \nu}\, \sigma_d}
        \left(1 + \frac{(x_d - \mu_d(z))^2}{\nu \sigma_d^2}\right)^{-(\nu + 1) / 2}

    Learned scales are ``softplus(raw) + 1e-4``, in units of the training data.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation
        (Takahashi et al., 2018), https://www.ijcai.org/proceedings/2018/374

    Args:
        event_shape: Shape of one x.
        scale: A fixed number, in the units of the data; ``shared``, one learned number;
            ``per-dimension``, one learned number for each entry; ``per-channel``, one for each
            channel of series ``(C, T)`` or images ``(C, H, W)``, which then has a unit of its own,
            too; ``predicted``, given by the decoder beside the location; None is
            ``per-dimension`` for vectors and ``shared`` for images.
        df: Degrees of freedom, more than 1; the fewer, the heavier the tails.

    Raises:
        ValueError: If ``scale`` is neither a positive number nor one of these words, or ``df`` is
            not more than 1, where there is no mean.

    Example:
        >>> import torch
        >>> StudentT((12,), df=3.0)(torch.zeros(5, 12)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self, event_shape: Sequence[int], scale: float | ScaleMode | None = None, df: float = 4.0
    ) -> None:
        super().__init__(event_shape, scale)
        if not df > 1:
            raise expected("df", "a number greater than 1", df)
        self.df = df

    @torch.no_grad()
    def take_units(self, x_train: Tensor) -> Tensor:
        # Those of most of the data: outliers are what this likelihood is for.
        self.keep_units(*self.by_channels(robust_units_of, x_train))
        return torch.zeros_like(self.unit_loc, dtype=torch.bool)

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistributionMixin:
        return dist.StudentT(loc.new_tensor(self.df), loc, scale)

    def fit_spread(self, residuals: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
        squares = residuals.square()
        variance = weighted_mean(squares, weights, dims)
        for _ in range(_ROUNDS):  # as in `fit_marginal`, the location known
            # Of channels, one variance goes with all entries of each.
            per = variance.clamp_min(1e-12).reshape(
                [1 if i in dims else size for i, size in enumerate(squares.shape)]
            )
            share = (self.df + 1) / (self.df + squares / per)
            variance = weighted_mean(share * squares, weights, dims)
        return variance.sqrt()

    @torch.no_grad()
    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = thinned(x)
        loc = x.median(0).values
        variance = (x - loc).square().mean(0)
        for _ in range(_ROUNDS):  # a Student-t is a normal whose precision is a gamma variable
            distance = (x - loc).square() / variance.clamp_min(1e-12)
            weights = (self.df + 1) / (self.df + distance)
            loc = (weights * x).sum(0) / weights.sum(0)
            variance = (weights * (x - loc).square()).mean(0)
        return loc, variance.sqrt()
