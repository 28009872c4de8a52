"""Sequences of several lengths: padded, masked, and annealed, as in Pyro's deep Markov model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from steps import equals_stock
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("double")

FEATURES, LATENT, HIDDEN = 3, 2, 4


def _mask(x: Tensor, lengths: Tensor) -> Tensor:
    """True at the steps of each sequence, shape ``(sequences, steps)``."""
    return torch.arange(x.shape[1]) < lengths[:, None]


def _reversed(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence backwards, its padding where it was; by lengths as tensors."""
    steps = torch.arange(x.shape[1])
    index = torch.where(_mask(x, lengths), lengths[:, None] - 1 - steps, steps)
    return x.gather(1, index[:, :, None].expand_as(x))


def _reversed_one_by_one(x: Tensor, lengths: Tensor) -> Tensor:
    """The same as Pyro's example does it, by lengths as numbers."""
    back = torch.zeros_like(x)
    for i, row in enumerate(x):
        length = int(lengths[i])
        back[i, :length] = row[torch.arange(length - 1, -1, -1)]
        back[i, length:] = row[length:]
    return back


class _Markov(nn.Module):
    """A deep Markov model whose guide looks at the future, by a recurrent network backwards.

    References:
        Structured Inference Networks for Nonlinear State Space Models (Krishnan et al., 2017),
        https://arxiv.org/abs/1609.09869
    """

    def __init__(self, reverse: Callable[[Tensor, Tensor], Tensor], packs: bool) -> None:
        super().__init__()
        self.transition = nn.Linear(LATENT, 2 * LATENT)
        self.emitter = nn.Linear(LATENT, FEATURES)
        self.network = nn.RNN(FEATURES, HIDDEN, batch_first=True)
        self.combiner = nn.Linear(HIDDEN + LATENT, 2 * LATENT)
        self.start = nn.Parameter(torch.zeros(LATENT))
        self.reverse, self.packs = reverse, packs

    def model(self, x: Tensor, lengths: Tensor, weight: float = 1.0) -> None:
        pyro.module("dmm", self)
        mask = _mask(x, lengths)
        z = self.start.expand(len(x), LATENT)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                loc, scale = self.transition(z).chunk(2, -1)
                with poutine.scale(scale=weight):
                    prior = dist.Normal(loc, scale.exp()).mask(mask[:, t : t + 1]).to_event(1)
                    z = pyro.sample(f"z_{t}", prior)
                kind = dist.Bernoulli(logits=self.emitter(z)).mask(mask[:, t : t + 1]).to_event(1)
                pyro.sample(f"x_{t}", kind, obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor, weight: float = 1.0) -> None:
        pyro.module("dmm", self)
        mask = _mask(x, lengths)
        hidden = self._futures(x, lengths)
        z = self.start.expand(len(x), LATENT)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                loc, scale = self.combiner(torch.cat([hidden[:, t], z], -1)).chunk(2, -1)
                with poutine.scale(scale=weight):
                    family = dist.Normal(loc, scale.exp()).mask(mask[:, t : t + 1]).to_event(1)
                    z = pyro.sample(f"z_{t}", family)

    def _futures(self, x: Tensor, lengths: Tensor) -> Tensor:
        back = self.reverse(x, lengths)
        if self.packs:
            packed = nn.utils.rnn.pack_padded_sequence(back, lengths, batch_first=True)
            hidden, _ = nn.utils.rnn.pad_packed_sequence(self.network(packed)[0], batch_first=True)
        else:
            hidden, _ = self.network(back)
        return self.reverse(hidden, lengths)


def _batches(count: int, shortest: int = 3, kinds: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Batches padded to the longest in each, which are of some lengths, the longest first."""
    made = []
    for i in range(count):
        steps = shortest + i % kinds
        lengths = torch.randint(1, steps + 1, (4,)).sort(descending=True).values
        lengths[0] = steps
        x = torch.rand(4, steps, FEATURES).round()
        made.append((x * _mask(x, lengths)[:, :, None], lengths))
    return made


def _train(reverse: Any, packs: bool, batches: Callable[[], Any] = lambda: _batches(9)) -> Any:
    def run(engine: type) -> tuple[list[float], Any]:
        dmm = _Markov(reverse, packs)
        svi = engine(dmm.model, dmm.guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
        losses = [svi.step(*batch, min(1.0, 0.2 + 0.1 * i)) for i, batch in enumerate(batches())]
        return losses, svi

    return equals_stock(run)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
def test_padded_sequences_have_a_graph_for_each_padded_length() -> None:
    """The lengths are values, and so is the weight, which changes at each step."""
    svi = _train(_reversed, packs=False)
    assert svi.captures == 2
    assert svi.engine_steps["inductor"] >= 8


@pytest.mark.slow
def test_compiled_code_equals_stock() -> None:
    svi = _train(_reversed, packs=False, batches=lambda: _batches(4, shortest=2, kinds=1))
    assert svi.engine_steps["inductor"] >= 3


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("reverse", "packs", "site"),
    [(_reversed, True, "_pack_padded_sequence"), (_reversed_one_by_one, False, "item")],
)
def test_lengths_that_are_sizes_run_eagerly_and_the_way_out_is_said(
    reverse: Any, packs: bool, site: str, caplog: pytest.LogCaptureFixture
) -> None:
    svi = _train(reverse, packs)
    assert svi.engine_steps == {"eager": 9}
    lines = [line for line in caplog.messages if "runs eagerly" in line]
    assert any("reads a value back" in line for line in lines)
    if site == "_pack_padded_sequence":
        assert "pad the sequences and mask them" in caplog.text


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
def test_a_markov_chain_of_several_lengths_is_captured() -> None:
    """Steps after the end of a sequence are masked, and its states are summed out."""

    @config_enumerate
    def model(x: Tensor, lengths: Tensor) -> None:
        moves = pyro.param("moves", torch.eye(2) + 0.1)
        locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
        mask = _mask(x, lengths)
        with pyro.plate("sequences", len(x), dim=-1):
            state: Any = 0
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=mask[:, t]):
                    state = pyro.sample(f"state_{t}", dist.Categorical(logits=moves[state]))
                    pyro.sample(f"x_{t}", dist.Normal(locs[state], 1.0), obs=x[:, t, 0])

    def run(engine: type) -> tuple[list[float], Any]:
        loss = TraceEnum_ELBO(max_plate_nesting=1)
        svi = engine(model, lambda *_: None, pyro.optim.Adam({"lr": 0.02}), loss)
        return [svi.step(*batch) for batch in _batches(6)], svi

    svi = equals_stock(run)
    assert (svi.captures, svi.engine_steps) == (2, {"eager": 1, "inductor": 5})
