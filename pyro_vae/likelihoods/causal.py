"""Networks from a sequence to the logits of each entry, given those before it and a context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae._errors import expected, is_number, positive_integer, unknown_name
from pyro_vae.networks.sequence_layers import GRU, Attention, places

__all__ = ["CAUSAL", "Causal", "CausalName", "causal_network"]

CausalName: TypeAlias = Literal["convolutions", "gru", "transformer"]

_QUIET = 0.05  # share of the usual size that the last weights start with: near the marginal fit


class Causal(nn.Module, ABC):
    """Logits of each entry of a sequence, given those before it and a context.

    Args:
        length: Entries, L.
        levels: Number of levels, K.
        hidden: Width, and size of the context.
        dropout: Share of the levels that a step of training does not see as those before.
    """

    def __init__(self, length: int, levels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.length, self.dropout = length, dropout
        self.start = nn.Parameter(torch.randn(hidden))
        self.embedding = nn.Embedding(levels, hidden)

    def add_last(self, length: int, levels: int, hidden: int) -> None:
        """Adds the layer of the logits.

        Each network says when, as the initial weights of a seed depend on the order of its layers.
        """
        self.last = nn.Linear(hidden, levels, bias=False)
        self.bias = nn.Parameter(torch.zeros(length, levels))
        with torch.no_grad():
            self.last.weight.mul_(_QUIET)

    def before(self, x: Tensor) -> Tensor:
        """Returns what each entry sees of the one before it, ``(N, L, hidden)``."""
        seen = self.embedding(x[:, :-1])
        if self.dropout > 0:
            # Ones that remain are scaled up, and scaled down again: a level is there or it is not.
            kept = F.dropout(torch.ones_like(seen[..., :1]), self.dropout, self.training)
            seen = seen * (kept > 0).to(seen)
        return torch.cat([self.start.expand(len(x), 1, -1), seen], 1)

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Returns logits ``(N, L, K)`` for levels ``(N, L)`` and contexts ``(N, hidden)``."""

    @abstractmethod
    def begin(self, context: Tensor) -> Any:
        """Returns what the first step takes from those before it."""

    @abstractmethod
    def step(self, t: int, x: Tensor, context: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Returns what the last layer sees at one step, ``(N, hidden)``, and what the next takes.

        Args:
            t: The step, from 0.
            x: What it sees of the entry before, ``(N, hidden)``.
            context: Shape ``(N, hidden)``.
            state: What the step before returned.
        """

    def unroll(
        self,
        context: Tensor,
        choose: Callable[[Tensor], Tensor],
        stop: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """Chooses levels one by one; what earlier steps have computed is kept.

        Args:
            context: Shape ``(N, hidden)``.
            choose: From logits ``(N, K)`` to levels ``(N,)``.
            stop: Whether no further level is wanted.

        Returns:
            Levels ``(N, L)``, or as many as there are until it stops.
        """
        state, chosen = self.begin(context), list[Tensor]()
        x = self.start.expand(len(context), -1)
        for t in range(self.length):
            h, state = self.step(t, x, context, state)
            chosen.append(choose(self.last(h) + self.bias[t]))
            if stop():
                break
            x = self.embedding(chosen[-1])
        return torch.stack(chosen, 1)


class CausalNetwork(Causal):
    """Convolutions whose dilation doubles, until the last entry depends on the first.

    Args:
        length: Entries, L.
        levels: Number of levels, K.
        hidden: Width, and size of the context.
        dropout: Share of the levels that a step of training does not see as those before.
    """

    def __init__(self, length: int, levels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(length, levels, hidden, dropout)
        # Dilations 1, 2, 4, ... add up to the distance of the last entry from the first.
        self.dilations = [2**i for i in range(max(1, (length - 1).bit_length()))]
        self.layers = nn.ModuleList(nn.Linear(3 * hidden, hidden) for _ in self.dilations)
        self.add_last(length, levels, hidden)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.before(x)
        contexts = context[:, None].expand_as(h)
        for dilation, layer in zip(self.dilations, self.layers, strict=True):
            past = F.pad(h, (0, 0, dilation, 0))[:, : h.shape[1]]
            h = h + F.silu(layer(torch.cat([h, past, contexts], -1)))
        return self.last(h) + self.bias

    def begin(self, context: Tensor) -> Any:
        return [context.new_zeros(self.length, *context.shape) for _ in self.dilations]

    def step(self, t: int, x: Tensor, context: Tensor, state: Any) -> tuple[Tensor, Any]:
        h = x
        for before, dilation, layer in zip(state, self.dilations, self.layers, strict=True):
            before[t] = h
            past = before[t - dilation] if t >= dilation else torch.zeros_like(h)
            h = h + F.silu(layer(torch.cat([h, past, context], -1)))
        return h, state


class CausalGRU(Causal):
    """A gated recurrent unit, which begins at the context and sees it at each step.

    Args:
        length: Entries, L.
        levels: Number of levels, K.
        hidden: Width, and size of the context.
        dropout: Share of the levels that a step of training does not see as those before.
    """

    def __init__(self, length: int, levels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(length, levels, hidden, dropout)
        self.add_last(length, levels, hidden)
        self.first = nn.Linear(hidden, hidden)
        self.gru = GRU(2 * hidden, hidden)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        before = self.before(x)
        inputs = torch.cat([before, context[:, None].expand_as(before)], -1)
        return self.last(self.gru(inputs, self.begin(context))) + self.bias

    def begin(self, context: Tensor) -> Any:
        return torch.tanh(self.first(context))

    def step(self, t: int, x: Tensor, context: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = self.gru.step(torch.cat([x, context], -1), state)
        return state, state


class CausalTransformer(Causal):
    """Two blocks of attention to the entries before, to whose places the context is added.

    Args:
        length: Entries, L.
        levels: Number of levels, K.
        hidden: Width, and size of the context.
        dropout: Share of the levels that a step of training does not see as those before.
    """

    def __init__(self, length: int, levels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(length, levels, hidden, dropout)
        self.add_last(length, levels, hidden)
        self.place = nn.Parameter(torch.randn(length, hidden))
        self.of_context = nn.Linear(hidden, hidden)
        self.blocks = nn.ModuleList(Attention(hidden) for _ in range(2))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.before(x) + self.place + self.of_context(context)[:, None]
        seen = places(self.length, h)
        for block in self.blocks:
            h = block(h, seen)
        return self.last(self.norm(h)) + self.bias

    def begin(self, context: Tensor) -> Any:
        return [None for _ in self.blocks]

    def step(self, t: int, x: Tensor, context: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, states = x + self.place[t] + self.of_context(context), []
        for block, before in zip(self.blocks, state, strict=True):
            h, kept = cast(Attention, block).step(h, before)
            states.append(kept)
        return self.norm(h), states


CAUSAL: dict[str, type[Causal]] = {
    "convolutions": CausalNetwork,
    "gru": CausalGRU,
    "transformer": CausalTransformer,
}


def causal_network(
    network: CausalName | None, length: int, levels: int, hidden: int, dropout: float
) -> Causal:
    """Returns the network of a name; convolutions if there is none.

    Raises:
        ValueError: If the name is unknown, ``hidden`` is no positive integer, or the dropout not in
            [0, 1).
    """
    positive_integer("hidden", hidden)
    if not (is_number(dropout) and 0 <= dropout < 1):
        raise expected("word_dropout", "a number from 0 to less than 1", dropout)
    if network is not None and network not in CAUSAL:
        raise unknown_name("network", network, CAUSAL)
    return CAUSAL[network or "convolutions"](length, levels, hidden, dropout)
