"""An encoder of sequences of levels, such as the letters of a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.distributions.autoregressive_levels import ended
from pyro_vae.networks.network import Network
from pyro_vae.networks.sequence_layers import GRU, Attention, Pooling

__all__ = ["SequenceEncoder"]

_NETWORKS = ("gru", "transformer", "pooling")


class SequenceEncoder(Network):
    """Creates an embedding of levels, and a network that sums a sequence of them up in a vector.

    A ``gru`` runs through the sequence from both sides, and its last states count; of a
    ``transformer`` of two blocks, and of ``pooling``, which looks at each entry and those beside
    it, the mean over the entries does. What follows an end is not seen.

    References:
        Generating Sentences from a Continuous Space (Bowman et al., 2016),
        https://arxiv.org/abs/1511.06349

    Args:
        levels: Number of levels, K, of data that hold 0 to K - 1.
        hidden: Width.
        network: ``gru``, ``transformer`` or ``pooling``.
        end: The level that ends a sequence; None if all have the same length.

    Raises:
        ValueError: If ``levels`` or ``hidden`` is no positive integer, the network is unknown, or
            ``end`` is no level.

    Example:
        >>> net = SequenceEncoder(levels=5, hidden=8, end=0)
        >>> net.build((12,), (4,))
        >>> net(torch.zeros(3, 12)).shape
        torch.Size([3, 4])
    """

    roles: ClassVar[tuple[Literal["encoder", "decoder"], ...]] = ("encoder",)
    levels: int

    def __init__(
        self,
        levels: int,
        hidden: int = 64,
        network: Literal["gru", "transformer", "pooling"] = "gru",
        end: int | None = None,
    ) -> None:
        super().__init__()
        self.levels = positive_integer("levels", levels)
        self.hidden = positive_integer("hidden", hidden)
        if network not in _NETWORKS:
            raise unknown_name("network", network, _NETWORKS)
        if end is not None and (isinstance(end, bool) or end not in range(levels)):
            raise expected("end", f"a level from 0 to {levels - 1}, or None", end)
        self.network, self.end = network, end
        self.embedding = nn.Embedding(levels, hidden)
        self.layers = nn.ModuleList()
        self.last = nn.Linear(hidden, hidden)
        self.out_shape = torch.Size()

    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        hidden, length = self.hidden, math.prod(in_shape)
        self.embedding = nn.Embedding(self.levels, hidden)
        summed = hidden
        if self.network == "gru":
            self.layers, summed = nn.ModuleList(GRU(hidden, hidden) for _ in range(2)), 2 * hidden
        elif self.network == "transformer":
            self.layers = nn.ModuleList(Attention(hidden) for _ in range(2))
            self.place = nn.Parameter(torch.randn(length, hidden))
        else:
            self.layers = nn.ModuleList([Pooling(hidden)])
        self.last = nn.Linear(summed + cond_size, math.prod(out_shape))
        self.out_shape = torch.Size(out_shape)

    @torch.no_grad()
    def start_at(self, output: Tensor) -> None:
        self.last.weight.mul_(0.01)
        self.last.bias.copy_(output.flatten())

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Returns the outputs, ``(B, *out_shape)``.

        Args:
            x: Levels, shape ``(B, *in_shape)``.
            cond: What they are conditioned on, shape ``(B, cond_size)``, if it was built for that.
        """
        x = x.flatten(1).long()
        seen = ~ended(x, self.end)
        summary = self._summary(x, seen)
        if cond is not None:
            summary = torch.cat([summary, cond.to(summary)], 1)
        return self.last(summary).reshape(-1, *self.out_shape)

    def _summary(self, x: Tensor, seen: Tensor) -> Tensor:
        h = self.embedding(x)
        if self.network == "gru":
            forth, back = (cast(GRU, layer) for layer in self.layers)
            zero = h.new_zeros(len(h), self.hidden)
            states = forth.last_state(h, zero, seen), back.last_state(h.flip(1), zero, seen.flip(1))
            return torch.cat(states, 1)
        if self.network == "transformer":
            h = h + self.place
            for block in self.layers:
                h = block(h, seen[:, None, None, :])
        else:
            h = self.layers[0](torch.where(seen[..., None], h, 0.0))
        weights = seen.to(h) / seen.sum(1, keepdim=True)
        return (weights[..., None] * h).sum(1)
