"""Autoregressive likelihood of sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import AutoregressiveLevels
from pyro_vae.likelihoods.categorical import at_least_two_levels
from pyro_vae.likelihoods.likelihood import Likelihood, several_entries

__all__ = ["Autoregressive"]

_QUIET = 0.05  # share of the usual size that the last weights start with: near the marginal fit


class Autoregressive(Likelihood):
    r"""Creates categorical variables one after the other, for sequences of levels 0 to K - 1.

    .. math:: p(x \mid z) = \prod_t p(x_t \mid x_1, \dots, x_{t - 1}, z)

    What the decoder returns is an input, at each step, of a causal network of the likelihood's own:
    a stack of convolutions whose dilation doubles from layer to layer, until the last entry depends
    on the first. The density takes one pass, given what was observed; a draw takes a step for each
    entry. Images are sequences in raster order.

    Such a likelihood can model data without z, and then the KL is 0 (posterior collapse): a weaker
    network (``hidden``) helps, or free bits or a capacity (:class:`pyro_vae.objectives.ELBO`).

    The ``mean`` is the greedy sequence, the likeliest level at each step given those chosen before:
    a mean of names means nothing, and that of numbers has no closed form.

    References:
        Improved Variational Autoencoders for Text Modeling using Dilated Convolutions
        (Yang et al., 2017), https://arxiv.org/abs/1702.08139
        Generating Sentences from a Continuous Space (Bowman et al., 2016),
        https://arxiv.org/abs/1511.06349

    Args:
        event_shape: Shape of one x.
        levels: Number of levels, K.
        hidden: Width of the network, and how many numbers the decoder gives it.

    Raises:
        ValueError: If there are fewer than two entries or levels, or ``hidden`` is no positive
            integer.

    Example:
        >>> import torch
        >>> d = Autoregressive((12,), levels=5, hidden=16)(torch.zeros(3, 16))
        >>> d.log_prob(d.sample()).shape
        torch.Size([3])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(self, event_shape: Sequence[int], levels: int = 256, hidden: int = 64) -> None:
        self.levels = at_least_two_levels(levels)
        super().__init__(several_entries(event_shape))
        self.param_shape = torch.Size([positive_integer("hidden", hidden)])
        self.support = constraints.integer_interval(0, levels - 1)
        self.network = CausalNetwork(self.event_shape.numel(), levels, hidden)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns zeros; the network starts at the frequencies of each level at each place."""
        x = x_train.flatten(1)
        counts = torch.stack([(x == level).sum(0) for level in range(self.levels)], -1)
        self.network.bias.copy_(((counts + 0.5) / (len(x) + self.levels / 2)).log())
        return x_train.new_zeros(self.param_shape)

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from the network's context, ``(*, B, hidden)``."""
        return AutoregressiveLevels(self.network, params, self.event_shape, self.levels)


class CausalNetwork(nn.Module):
    """Logits of each entry of a sequence, given those before it and a context.

    Args:
        length: Entries, L.
        levels: Number of levels, K.
        hidden: Width, and size of the context.
    """

    def __init__(self, length: int, levels: int, hidden: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(hidden))
        self.embedding = nn.Embedding(levels, hidden)
        # Dilations 1, 2, 4, ... add up to the distance of the last entry from the first.
        self.dilations = [2**i for i in range(max(1, (length - 1).bit_length()))]
        self.layers = nn.ModuleList(nn.Linear(3 * hidden, hidden) for _ in self.dilations)
        self.last = nn.Linear(hidden, levels, bias=False)
        self.bias = nn.Parameter(torch.zeros(length, levels))
        with torch.no_grad():
            self.last.weight.mul_(_QUIET)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Returns logits ``(N, L, K)`` for levels ``(N, L)`` and contexts ``(N, hidden)``."""
        start = self.start.expand(len(x), 1, -1)
        h = torch.cat([start, self.embedding(x[:, :-1])], 1)
        contexts = context[:, None].expand_as(h)
        for dilation, layer in zip(self.dilations, self.layers, strict=True):
            past = F.pad(h, (0, 0, dilation, 0))[:, : h.shape[1]]
            h = h + F.silu(layer(torch.cat([h, past, contexts], -1)))
        return self.last(h) + self.bias

    def unroll(self, context: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Chooses levels ``(N, L)`` one by one; what earlier steps have computed is kept."""
        length = len(self.bias)
        kept = [context.new_zeros(length, *context.shape) for _ in self.dilations]
        chosen: list[Tensor] = []
        for t in range(length):
            h = self.embedding(chosen[-1]) if t else self.start.expand_as(context)
            for before, dilation, layer in zip(kept, self.dilations, self.layers, strict=True):
                before[t] = h
                past = before[t - dilation] if t >= dilation else torch.zeros_like(h)
                h = h + F.silu(layer(torch.cat([h, past, context], -1)))
            chosen.append(choose(self.last(h) + self.bias[t]))
        return torch.stack(chosen, 1)
