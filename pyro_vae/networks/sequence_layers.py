"""Layers of sequences that decoders and encoders share: a gated recurrent unit, attention."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GRU", "Attention", "Pooling", "places"]


class GRU(nn.Module):
    r"""A gated recurrent unit, of plain operations, which a graph of a whole step can hold.

    .. math:: h_t = z_t h_{t - 1} + (1 - z_t) \tanh(W x_t + b + r_t (U h_{t - 1} + c))

    It computes what :class:`torch.nn.GRU` does, whose fused kernels can be neither captured nor
    differentiated twice everywhere.

    References:
        Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
        Translation (Cho et al., 2014), https://arxiv.org/abs/1406.1078

    Args:
        inputs: Entries of each input.
        hidden: Entries of the state.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(inputs, 3 * hidden)
        self.of_state = nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Returns all states ``(N, L, H)`` for inputs ``(N, L, I)`` from a state ``(N, H)`` on."""
        states = []
        for projected in self.of_input(x).unbind(1):
            state = self._next(projected, state)
            states.append(state)
        return torch.stack(states, 1)

    def last_state(self, x: Tensor, state: Tensor, seen: Tensor) -> Tensor:
        """Returns the state ``(N, H)`` after all inputs but those that are not seen, ``(N, L)``."""
        for projected, there in zip(self.of_input(x).unbind(1), seen.unbind(1), strict=True):
            state = torch.where(there[:, None], self._next(projected, state), state)
        return state

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """Returns the next state ``(N, H)`` for one input ``(N, I)``."""
        return self._next(self.of_input(x), state)

    def _next(self, projected: Tensor, state: Tensor) -> Tensor:
        size = state.shape[-1]
        recurrent = self.of_state(state)
        gates = torch.sigmoid(projected[:, : 2 * size] + recurrent[:, : 2 * size])
        reset, kept = gates[:, :size], gates[:, size:]
        new = torch.tanh(projected[:, 2 * size :] + reset * recurrent[:, 2 * size :])
        return new + kept * (state - new)


class Attention(nn.Module):
    """A block of a transformer: attention and a perceptron, each added to its normalised input.

    References:
        Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
        On Layer Normalization in the Transformer Architecture (Xiong et al., 2020),
        https://arxiv.org/abs/2002.04745, for the place of the normalisation

    Args:
        hidden: Entries of each input, which 4, 2 or 1 heads share.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in (4, 2, 1) if hidden % heads == 0)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden, bias=False)  # a bias adds the same to all scores
        self.value = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)
        self.widened = nn.Linear(hidden, 4 * hidden)
        self.narrowed = nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Returns ``(N, L, H)`` for inputs of that shape.

        Args:
            x: The inputs.
            seen: Which entries (last dimension) each one sees, at least one: ``(*, L, L)``, which
                expands to ``(N, heads, L, L)``.
        """
        normal = self.norms[0](x)
        key, value = self._by_head(self.key(normal)), self._by_head(self.value(normal))
        return self._rest(x, self._mixed(normal, key, value, seen))

    def step(self, x: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Any]:
        """Returns the output ``(N, H)`` for the next input, and keys and values of all so far."""
        one = x[:, None]
        normal = self.norms[0](one)
        key, value = self._by_head(self.key(normal)), self._by_head(self.value(normal))
        if before is not None:
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        return self._rest(one, self._mixed(normal, key, value, None))[:, 0], (key, value)

    def _by_head(self, x: Tensor) -> Tensor:
        """From ``(N, L, H)`` to ``(N, heads, L, H / heads)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _mixed(self, normal: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
        query = self._by_head(self.query(normal))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(-2))

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + mixed
        return x + self.narrowed(F.gelu(self.widened(self.norms[1](x))))


class Pooling(nn.Module):
    """The mean of what a perceptron makes of each entry and those beside it, where there are any.

    Args:
        hidden: Entries of each input.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(N, L, H)`` for inputs of that shape."""
        before, after = F.pad(x, (0, 0, 1, 0))[:, :-1], F.pad(x, (0, 0, 0, 1))[:, 1:]
        return F.silu(self.layer(torch.cat([before, x, after], -1)))


def places(length: int, like: Tensor) -> Tensor:
    """Returns which of L entries each one sees, itself and those before: ``(L, L)``, boolean."""
    return torch.ones(length, length, dtype=torch.bool, device=like.device).tril()
