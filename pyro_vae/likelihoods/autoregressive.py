"""Autoregressive likelihood of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected
from pyro_vae.distributions import AutoregressiveLevels
from pyro_vae.distributions.autoregressive_levels import ended
from pyro_vae.likelihoods.categorical import at_least_two_levels
from pyro_vae.likelihoods.causal import CausalName, causal_network
from pyro_vae.likelihoods.likelihood import Likelihood, several_entries

__all__ = ["Autoregressive"]


class Autoregressive(Likelihood):
    r"""Creates categorical variables one after the other, for sequences of levels 0 to K - 1.

    .. math:: p(x \mid z) = \prod_t p(x_t \mid x_1, \dots, x_{t - 1}, z)

    What the decoder returns is an input, at each step, of a causal network of the likelihood's own:
    a stack of convolutions whose dilation doubles from layer to layer, until the last entry depends
    on the first; a gated recurrent unit; or a transformer of two blocks. The density takes one
    pass, given what was observed; a draw takes a step for each entry. Images are sequences in
    raster order.

    Lines of text differ in length: with an ``end``, a level that ends a sequence, what follows it
    costs nothing, is drawn as that level, and is nothing that the density looks at.

    Such a likelihood can model data without z, and then the KL is 0 (posterior collapse): a weaker
    network (``hidden``) helps, ``word_dropout``, which hides levels from those after them while the
    model is trained, or free bits or a capacity (:class:`pyro_vae.objectives.ELBO`).

    The ``mean`` is the greedy sequence, the likeliest level at each step given those chosen before:
    a mean of names means nothing, and that of numbers has no closed form.

    References:
        Improved Variational Autoencoders for Text Modeling using Dilated Convolutions
        (Yang et al., 2017), https://arxiv.org/abs/1702.08139
        Generating Sentences from a Continuous Space (Bowman et al., 2016),
        https://arxiv.org/abs/1511.06349, for the word dropout

    Args:
        event_shape: Shape of one x.
        levels: Number of levels, K.
        hidden: Width of the network, and how many numbers the decoder gives it.
        network: ``convolutions``, ``gru`` or ``transformer``; None for convolutions.
        end: The level that ends a sequence; None if all have the same length.
        word_dropout: Share of the levels that each training step hides from those after them.

    Raises:
        ValueError: If there are fewer than two entries or levels, ``hidden`` is no positive
            integer, the network is unknown, ``end`` no level, or the dropout not in [0, 1).

    Example:
        >>> import torch
        >>> d = Autoregressive((12,), levels=5, hidden=16)(torch.zeros(3, 16))
        >>> d.log_prob(d.sample()).shape
        torch.Size([3])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int = 256,
        hidden: int = 64,
        network: CausalName | None = None,
        end: int | None = None,
        word_dropout: float = 0.0,
    ) -> None:
        self.levels = at_least_two_levels(levels)
        super().__init__(several_entries(event_shape))
        if end is not None and (isinstance(end, bool) or end not in range(levels)):
            raise expected("end", f"a level from 0 to {levels - 1}, or None", end)
        self.end = end
        self.support = constraints.integer_interval(0, levels - 1)
        length = self.event_shape.numel()
        self.network = causal_network(network, length, levels, hidden, word_dropout)
        self.param_shape = torch.Size([hidden])

    def counted(self, x: Tensor) -> Tensor | None:
        """Returns which entries do not follow an end; None if nothing ends."""
        return None if self.end is None else ~ended(x.flatten(1), self.end).reshape(x.shape)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns zeros; the network starts at the frequencies of each level at each place."""
        x = x_train.flatten(1).long()
        places = self.levels * torch.arange(x.shape[1], device=x.device)
        counted = (places + x)[~ended(x, self.end)]
        counts = torch.bincount(counted, minlength=x.shape[1] * self.levels)
        counts = counts.reshape(x.shape[1], self.levels)
        total = counts.sum(-1, keepdim=True)
        self.network.bias.copy_(((counts + 0.5) / (total + self.levels / 2)).log())
        return x_train.new_zeros(self.param_shape)

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from the network's context, ``(*, B, hidden)``."""
        return AutoregressiveLevels(
            self.network, params, self.event_shape, self.levels, end=self.end
        )
