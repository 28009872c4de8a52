"""Normalising flows, by the maps of zuko, which is imported only where one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae._errors import expected, positive_integer

__all__ = ["Autoregressive", "NormalizingFlow", "zuko"]

_BINS = 8
_START = 0.1  # of the usual size of the last weights: a map that begins near the identity


def zuko() -> Any:
    """Returns zuko, without what importing it does to everybody's distributions.

    It switches their validation off, for the whole process.
    """
    validates = Distribution._validate_args
    try:
        import zuko as library
    finally:
        Distribution.set_default_validate_args(validates)
    return library


class Autoregressive(nn.Module):
    """A chain of maps, each of whose outputs depends on the inputs up to its own.

    One pass through the networks maps; the way back takes as many passes as there are dimensions.

    References:
        Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017),
        https://arxiv.org/abs/1705.07057
        Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032

    Args:
        dim: Number of dimensions.
        context: Number of features that the maps depend on beside their inputs; 0 for none.
        transforms: Number of maps in the chain, of alternating order.
        hidden: Widths of the hidden layers of each of their networks.
        spline: Whether the maps of single entries are monotonic splines on [-5, 5], the identity
            elsewhere; else they are affine.

    Raises:
        ValueError: If a size is not positive.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Autoregressive:
        # What is unpickled next are classes of zuko, imported by name.
        zuko()
        return super().__new__(cls)

    def __init__(
        self, dim: int, *, context: int, transforms: int, hidden: Sequence[int], spline: bool
    ) -> None:
        super().__init__()
        positive_integer("transforms", transforms)
        if not hidden or any(width < 1 for width in hidden):
            raise expected("hidden", "positive widths", hidden)
        library = zuko()
        options: dict[str, Any] = {}
        if spline:
            options["univariate"] = library.transforms.MonotonicRQSTransform
            options["shapes"] = [(_BINS,), (_BINS,), (_BINS - 1,)]
        ascending = torch.arange(dim)
        self.maps = nn.ModuleList(
            library.flows.MaskedAutoregressiveTransform(
                dim,
                context,
                order=ascending if i % 2 == 0 else ascending.flip(0),
                hidden_features=tuple(hidden),
                activation=nn.SiLU,
                **options,
            )
            for i in range(transforms)
        )
        with torch.no_grad():
            for each in self.maps:
                for parameter in list(each.parameters())[-2:]:
                    parameter.mul_(_START)

    def __repr__(self) -> str:
        # Those of zuko draw random numbers.
        return f"{type(self).__name__}({len(self.maps)} maps)"

    def forward(self, context: Tensor | None = None) -> Any:
        """Returns the map, a transform whose ``call_and_ladj`` is one pass."""
        return zuko().transforms.ComposedTransform(*(each(context) for each in self.maps))


class NormalizingFlow(TorchDistribution):
    """Creates normal variables that an invertible map carries on.

    The density of the last draw is kept with it: its way back may take as many passes through a
    network as there are dimensions. There is no closed mean; that given is the mean of what the map
    makes of a fixed set of points, spread as the normal law is.

    Args:
        base: Independent normal variables, event shape ``(dim,)``.
        transform: From ``base`` to the draws, with ``call_and_ladj`` as zuko's have it.

    Example:
        >>> import pyro_vae as pv
        >>> law = pv.priors.Flow(2)()
        >>> z = law.rsample()
        >>> bool(torch.isclose(law.log_prob(z), law.log_prob(z.clone()), atol=1e-3))
        True
    """

    POINTS: ClassVar[int] = 128

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, base: Any, transform: Any, validate_args: Any = None) -> None:
        self.base, self.transform = base, transform
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalizingFlow:
        new = NormalizingFlow(self.base.expand(batch_shape), self.transform, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        drawn = self.base.rsample(sample_shape)
        value, log_det = self.transform.call_and_ladj(drawn)
        self._last = (value, self.base.log_prob(drawn) - log_det)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._last is not None and value is self._last[0]:
            log_prob = self._last[1]
            # A draw taken without gradients is a constant: its density still has some.
            if log_prob.requires_grad or not torch.is_grad_enabled():
                return log_prob
        drawn, log_det = self.transform.inv.call_and_ladj(value)
        return self.base.log_prob(drawn) + log_det

    @property
    def mean(self) -> Tensor:
        """The mean of a fixed set of points, carried on."""
        return self._carried().mean(0)

    @property
    def variance(self) -> Tensor:
        """The variance of a fixed set of points, carried on."""
        return self._carried().var(0)

    def _carried(self) -> Tensor:
        loc, scale = self.base.base_dist.loc, self.base.base_dist.scale
        uniform = torch.quasirandom.SobolEngine(loc.shape[-1], scramble=True, seed=0)
        points = uniform.draw(self.POINTS, dtype=torch.float64)
        normal = torch.special.ndtri(points.clamp(1e-6, 1 - 1e-6)).to(loc)
        normal = normal.reshape(-1, *(1,) * len(self.batch_shape), loc.shape[-1])
        return self.transform(loc + scale * normal)
