"""The VampPrior: the guide's own mixture over pseudo-inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.distributions import mixture
from pyro_vae.priors.prior import Prior

if TYPE_CHECKING:  # programs are made of parts, and know them
    from pyro_vae.programs.view import View

__all__ = ["VampPrior"]


class VampPrior(Prior):
    r"""Creates a mixture of the guide's distributions at pseudo-inputs.

    .. math:: p(z) = \frac1K \sum_{k=1}^{K} q(z \mid u_k)

    The pseudo-inputs are data as the encoder sees them, standardised. They start at training data
    drawn at random, and are learned, or stay there. There is no closed form of the divergence from
    it: objectives sample it. Of a guide that refines its parameters it mixes the distributions that
    the encoder starts, as a pseudo-input has no likelihood to refine them by.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), https://arxiv.org/abs/1705.07120

    Args:
        dim: Number of latent dimensions.
        pseudo_inputs: Their number, K.
        inputs: Whether they are ``learned``, or stay the ``data`` they start at.

    Raises:
        ValueError: If a number is not a positive integer, or ``inputs`` is unknown.

    Example:
        >>> import pyro_vae as pv
        >>> prior = VampPrior(2, pseudo_inputs=10)
        >>> vae = pv.VAE(prior, pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> prior().component_distribution.batch_shape
        torch.Size([10])
    """

    support = constraints.real_vector
    pseudo: Tensor

    def __init__(
        self, dim: int, pseudo_inputs: int = 500, inputs: Literal["learned", "data"] = "learned"
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        if inputs not in ("learned", "data"):
            raise unknown_name("inputs", inputs, ("learned", "data"))
        self.number = positive_integer("pseudo_inputs", pseudo_inputs)
        self.inputs = inputs
        self._view: View | None = None

    def bind(self, view: View) -> None:
        if view.cond_size is not None:
            raise expected("prior", "one that takes conditions, in a model with `cond_size`", self)
        if not getattr(view.guide, "independent", True):
            what = "latents that are independent given x, of one of which this prior is made"
            raise expected("guide", what, view.guide)
        shape = torch.Size([self.number, *view.event_shape])
        known = getattr(self, "pseudo", None)  # of an earlier model, learned there
        if known is not None and known.shape != shape:
            what = f"data of shape {tuple(known.shape[1:])}, as its pseudo-inputs are"
            raise expected("prior", what, view.event_shape)
        self._view = view
        if known is not None:
            return
        start = torch.randn(shape)
        if self.inputs == "learned":
            self.pseudo = nn.Parameter(start)
        else:
            self.register_buffer("pseudo", start)

    @torch.no_grad()
    def start(self, x_train: Tensor) -> None:
        chosen = torch.randperm(len(x_train), device=x_train.device)
        # As many as there are, and those again, if there are fewer data than pseudo-inputs.
        index = chosen.repeat(-(-self.number // len(chosen)))[: self.number]
        self.pseudo.copy_(x_train[index])

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), event shape ``(dim,)``.

        Raises:
            ValueError: If the prior is part of no model.
        """
        if self._view is None:
            raise expected("prior", "one that is part of a VAE, whose guide it is made of", self)
        components = self._view.encode(self.pseudo)
        weights = dist.Categorical(logits=self.pseudo.new_zeros(self.number))
        return mixture(weights, components)
