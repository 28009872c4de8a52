"""A network whose weights are latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from pyro_vae._errors import expected, positive_integer
from pyro_vae.networks.network import Network

__all__ = ["Bayesian"]

_SCALE = 0.05  # of q, at first: so little that a fit starts near the network as it was drawn


class Bayesian(nn.Module):
    r"""Creates a network whose weights and biases are one latent vector, w.

    .. math:: w \sim p(w), \quad w \sim q(w) = N(\mu, \mathrm{diag}(\sigma^2) + V V^\top)

    All observations share it, so that it is drawn outside their plate, in a
    :class:`pyro_vae.Program`: ``model`` draws it from :meth:`prior` and calls :meth:`at`, and
    ``guide`` draws it from :meth:`guide`, or is an ``AutoGuide``, at the site of the same name.
    The guide starts at the weights that the network has.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), Appendix F,
        https://arxiv.org/abs/1312.6114
        Weight Uncertainty in Neural Networks (Blundell et al., 2015),
        https://arxiv.org/abs/1505.05424

    Args:
        network: The network, which gives up its parameters, none of them tied; one of
            :class:`pyro_vae.networks.Network` is to be built: by :meth:`build`, or before.
        prior: Of each weight, a distribution without batch dimensions, or of all of them, of batch
            shape ``(num_weights,)``; a standard normal one if not given.
        rank: Columns of V, of the guide; 0 for independent weights.

    Raises:
        ValueError: If an argument is not what it should be.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> decoder = Bayesian(nn.Linear(1, 3), prior=dist.Normal(0.0, 1.0))
        >>> def model(x):
        ...     decode = decoder.at(pyro.sample("decoder", decoder.prior()))
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(decode(z), 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     pyro.module("decoder", decoder)  # whose mean and scale of q are trained
        ...     pyro.sample("decoder", decoder.guide())
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x[:, :1], 1.0).to_event(1))
        >>> import pyro_vae as pv
        >>> program = pv.Program(model, guide)
        >>> x = torch.zeros(5, 3)
        >>> pv.evaluate(program, x, num_samples=10, num_globals=2).log_marginal.shape
        (5,)
    """

    def __init__(
        self, network: nn.Module, prior: dist.TorchDistribution | None = None, *, rank: int = 0
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            what = "a network" if network is not None else "a network, and `build` returns none"
            raise expected("network", what, network)
        if prior is None:
            prior = dist.Normal(0.0, 1.0)
        if not isinstance(prior, torch.distributions.Distribution) or len(prior.event_shape) > 0:
            raise expected("prior", "a distribution of a number, such as Normal(0.0, 1.0)", prior)
        self.rank = rank if rank == 0 else positive_integer("rank", rank)
        self.network = network
        self._kind: Any = type(prior)
        # Of a distribution that is made of another one, such as a log-normal one, they are
        # properties; in ``vars`` there is only one of several names for a parameter.
        self._names = [
            name
            for name in prior.arg_constraints
            if name in vars(prior) or isinstance(getattr(type(prior), name, None), property)
        ]
        for name in self._names:
            self.register_buffer(f"prior_{name}", getattr(prior, name).detach().clone())
        try:
            self._kind(**{name: getattr(prior, name) for name in self._names})
        except (TypeError, ValueError):
            what = "a distribution that its parameters alone make, such as Normal(0.0, 1.0)"
            raise expected("prior", what, prior) from None
        self.loc: nn.Parameter | None = None
        if any(True for _ in network.parameters()):
            self._start()
        elif not isinstance(network, Network):
            raise expected("network", "one that has weights", network)

    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        """Makes the layers, and starts the guide at their weights.

        Args:
            in_shape: Shape of one input, without the batch dimension.
            out_shape: Shape of one output, likewise.
            cond_size: Entries of a condition, given as a second input.

        Raises:
            ValueError: If the network is no :class:`pyro_vae.networks.Network`, or cannot map one
                shape to the other.
        """
        if not isinstance(self.network, Network):
            raise expected("network", "one of pyro_vae.networks, which is sized", self.network)
        self.network.build(in_shape, out_shape, cond_size)
        self._start()

    def _start(self) -> None:
        # What the network was drawn with is where the guide starts; only the guide is trained, so
        # that the network has places for weights, and no parameters.
        parameters = dict(self.network.named_parameters())
        own = [
            (f"{prefix}.{name}" if prefix else name, each)
            for prefix, module in self.network.named_modules()
            for name, each in module.named_parameters(recurse=False, remove_duplicate=False)
        ]
        if len(own) > len(parameters):  # where a module is there twice, its weights are there once
            met = [name for name, each in own if sum(each is other for _, other in own) > 1]
            got = f"{', '.join(met)} of one parameter"
            raise expected("network", "weights that are not tied", got)
        self._shapes = {name: each.shape for name, each in parameters.items()}
        flat = torch.cat([each.detach().flatten() for each in parameters.values()])
        for module in self.network.modules():
            for name, each in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, each.detach(), persistent=False)
        for name in self._names:  # a file is read in one precision
            setattr(self, f"prior_{name}", getattr(self, f"prior_{name}").to(flat))
        self.loc = nn.Parameter(flat.clone())
        start = torch.full_like(flat, _SCALE).expm1().log()
        self.raw_scale = nn.Parameter(start)
        if self.rank:
            self.factor = nn.Parameter(flat.new_empty(len(flat), self.rank))
            nn.init.normal_(self.factor, std=0.1 * _SCALE)

    @property
    def num_weights(self) -> int:
        """How many weights and biases there are.

        Raises:
            ValueError: If the network is not built yet.
        """
        return len(self._loc)

    @property
    def _loc(self) -> Tensor:
        if self.loc is None:
            raise expected("network", "one that is built: `build(in_shape, out_shape)`", self)
        return self.loc

    def prior(self) -> Any:
        """Returns p(w), event shape ``(num_weights,)``."""
        given = {name: getattr(self, f"prior_{name}").to(self._loc) for name in self._names}
        return self._kind(**given).expand([self.num_weights]).to_event(1)

    def guide(self) -> Any:
        """Returns q(w), event shape ``(num_weights,)``: normal."""
        loc, scale = self._loc, F.softplus(self.raw_scale)
        if not self.rank:
            return dist.Normal(loc, scale).to_event(1)
        return dist.LowRankMultivariateNormal(loc, self.factor, scale.square())

    def at(self, weights: Tensor) -> Callable[..., Tensor]:
        """Returns the network at some weights, a function of its inputs.

        Args:
            weights: Shape ``(num_weights,)``; of several draws ``(*, 1, num_weights)``, as a
                vectorised objective makes them, which inputs ``(*, B, ...)`` then go with.
        """
        if weights.ndim == 1:
            return partial(self._call, weights)
        batch = weights.shape[:-2]

        def call(*inputs: Tensor) -> Tensor:
            flat = [x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in inputs]
            drawn = weights.reshape(-1, self.num_weights)
            outputs = vmap(self._call, randomness="different")(drawn, *flat)
            return outputs.reshape(*batch, *outputs.shape[1:])

        return call

    def _call(self, weights: Tensor, *inputs: Tensor) -> Tensor:
        parts = weights.split([shape.numel() for shape in self._shapes.values()])
        pairs = zip(self._shapes.items(), parts, strict=True)
        given = {name: part.reshape(shape) for (name, shape), part in pairs}
        outputs: Tensor = functional_call(self.network, given, inputs)
        return outputs
