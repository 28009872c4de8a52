"""Models of sequences: hidden Markov models summed over, the deep one, capture and recapture."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, TraceTMC_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal
from pyro.optim import ClippedAdam
from torch import Tensor, nn

from programs.autoencoders import mlp
from programs.registry import Engine, Step, adam, program

SEQUENCES, LENGTH, NOTES, STATES = 8, 6, 5, 3


def tunes() -> tuple[Tensor, Tensor]:
    """Binary sequences, shape ``(SEQUENCES, LENGTH, NOTES)``, and how long each is."""
    tones = torch.bernoulli(torch.full((SEQUENCES, LENGTH, NOTES), 0.3))
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (SEQUENCES,))
    lengths[0] = LENGTH
    return tones, lengths


def hmm_1(sequences: Tensor, lengths: Tensor) -> None:
    """Notes depend on the state, the state on the one before."""
    count, length, notes = sequences.shape
    with poutine.mask(mask=torch.ones((), dtype=torch.bool)):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))
        probs_y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([STATES, notes]).to_event(2))
    tones = pyro.plate("tones", notes, dim=-1)
    with pyro.plate("sequences", count, dim=-2) as batch:
        x: Any = 0
        for t in pyro.markov(range(length)):
            with poutine.mask(mask=(t < lengths[batch]).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=_PARALLEL)
                with tones:
                    fn = dist.Bernoulli(probs_y[x.squeeze(-1)])
                    pyro.sample(f"y_{t}", fn, obs=sequences[batch, t])


def hmm_2(sequences: Tensor, lengths: Tensor) -> None:
    """Notes depend on the state and on the notes before."""
    count, length, notes = sequences.shape
    probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))
    probs_y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([STATES, 2, notes]).to_event(3))
    tones = pyro.plate("tones", notes, dim=-1)
    with pyro.plate("sequences", count, dim=-2):
        x, y = torch.tensor(0), torch.zeros(count, notes)
        which = torch.arange(notes)
        for t in pyro.markov(range(length)):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=_PARALLEL)
                with tones:
                    fn = dist.Bernoulli(probs_y[x, y.long(), which])
                    y = pyro.sample(f"y_{t}", fn, obs=sequences[:, t])


def hmm_3(sequences: Tensor, lengths: Tensor) -> None:
    """Two chains of states, of both of which the notes depend (a factorial HMM)."""
    count, length, notes = sequences.shape
    size = 2
    prior = dist.Dirichlet(0.9 * torch.eye(size) + 0.1).to_event(1)
    probs_w, probs_x = pyro.sample("probs_w", prior), pyro.sample("probs_x", prior)
    probs_y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([size, size, notes]).to_event(3))
    tones = pyro.plate("tones", notes, dim=-1)
    with pyro.plate("sequences", count, dim=-2):
        w, x = torch.tensor(0), torch.tensor(0)
        which = torch.arange(notes)
        for t in pyro.markov(range(length)):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer=_PARALLEL)
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=_PARALLEL)
                with tones:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[w, x, which]), obs=sequences[:, t])


_PARALLEL = {"enumerate": "parallel"}


class NotesBefore(nn.Module):
    """The neural HMM: a network of the state and the notes before gives the notes."""

    def __init__(self) -> None:
        super().__init__()
        self.x_to_hidden, self.y_to_hidden = nn.Linear(STATES, 8), nn.Linear(NOTES, 8)
        self.to_logits = nn.Linear(8, NOTES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        one_hot = torch.eye(STATES, dtype=y.dtype)[x.squeeze(-1)]
        return self.to_logits(torch.relu(self.x_to_hidden(one_hot) + self.y_to_hidden(y)))

    def model(self, sequences: Tensor, lengths: Tensor) -> None:
        pyro.module("tones", self)
        count, length, _ = sequences.shape
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))
        with pyro.plate("sequences", count, dim=-2):
            x, y = torch.tensor(0), torch.zeros(count, NOTES)
            for t in pyro.markov(range(length)):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=_PARALLEL)
                    with pyro.plate(f"tones_{t}", NOTES, dim=-1):
                        logits = self(x, y)
                        pyro.sample(f"y_{t}", dist.Bernoulli(logits=logits), obs=sequences[:, t])
                    y = sequences[:, t]


def _hmm(model: Any, loss: Any, engine: Engine) -> Step:
    data = tunes()
    made = model()
    guide = AutoDelta(poutine.block(made, expose_fn=lambda msg: msg["name"].startswith("probs_")))
    svi = engine(made, guide, adam(0.05), loss(max_plate_nesting=2))
    return lambda i: svi.step(*data)


for _name, _model, _loss in (
    ("HMM 1: states", lambda: hmm_1, TraceEnum_ELBO),
    ("HMM 2: states and notes before", lambda: hmm_2, TraceEnum_ELBO),
    ("HMM 3: factorial", lambda: hmm_3, TraceEnum_ELBO),
    ("HMM 5: neural", lambda: NotesBefore().model, TraceEnum_ELBO),
    ("HMM 1, tensor Monte Carlo", lambda: hmm_1, TraceTMC_ELBO),
):
    program(_name, "hmm.py")(partial(_hmm, _model, _loss))


@program("HMM as one distribution", "distributions.DiscreteHMM")
def hmm_distribution(engine: Engine) -> Step:
    """The states are summed over in parallel, by the distribution."""
    x = torch.randn(10, 20).cumsum(-1)

    def model(x: Tensor) -> None:
        initial = pyro.sample("initial", dist.Dirichlet(torch.ones(STATES)))
        trans = pyro.sample("trans", dist.Dirichlet(torch.ones(STATES, STATES)).to_event(1))
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0).expand([STATES]).to_event(1))
        hmm = dist.DiscreteHMM(initial.log(), trans.log(), dist.Normal(loc, 1.0), duration=20)
        with pyro.plate("data", len(x)):
            pyro.sample("x", hmm, obs=x)

    svi = engine(model, AutoDelta(model), adam(), Trace_ELBO())
    return lambda i: svi.step(x)


class DMM(nn.Module):
    """The deep Markov model: gated transitions, an emitter, and a recurrent guide.

    Args:
        packed: Whether the guide's network runs over packed sequences, as Pyro's does; otherwise
            over whole ones, whose tails are masked.
        flow: Whether the guide's draws go through an autoregressive flow.
    """

    def __init__(self, packed: bool = False, flow: bool = False) -> None:
        super().__init__()
        self.packed, size = packed, 2
        self.emitter = mlp(size, 8, NOTES, between=nn.ReLU)
        self.gate, self.proposed = mlp(size, 8, size), mlp(size, 8, size, between=nn.ReLU)
        self.kept, self.scale = nn.Linear(size, size), nn.Linear(size, size)
        self.combiner = nn.Linear(size, 6)
        self.to_loc, self.to_scale = nn.Linear(6, size), nn.Linear(6, size)
        self.rnn = nn.RNN(NOTES, 6, batch_first=True, nonlinearity="relu", dropout=0.0)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, 6))
        self.flows = nn.ModuleList([affine_autoregressive(size, [8])] if flow else [])

    def transition(self, z: Tensor) -> Any:
        """The distribution of the next state."""
        gate = torch.sigmoid(self.gate(z))
        proposed = self.proposed(z)
        loc = (1 - gate) * self.kept(z) + gate * proposed
        return dist.Normal(loc, nn.functional.softplus(self.scale(torch.relu(proposed))))

    def model(self, x: Tensor, back: Tensor, mask: Tensor, lengths: Tensor, beta: Any) -> None:
        pyro.module("dmm", self)
        z = self.z_0.expand(len(x), -1)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.scale(scale=beta):
                    masked = self.transition(z).mask(mask[:, t : t + 1]).to_event(1)
                    z = pyro.sample(f"z_{t}", masked)
                emitted = dist.Bernoulli(logits=self.emitter(z)).mask(mask[:, t : t + 1])
                pyro.sample(f"x_{t}", emitted.to_event(1), obs=x[:, t])

    def guide(self, x: Tensor, back: Tensor, mask: Tensor, lengths: Tensor, beta: Any) -> None:
        pyro.module("dmm", self)
        hidden = self._hidden(back, lengths)
        z = self.z_q_0.expand(len(x), -1)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                both = 0.5 * (torch.tanh(self.combiner(z)) + hidden[:, t])
                scale = nn.functional.softplus(self.to_scale(both))
                fn: Any = dist.Normal(self.to_loc(both), scale)
                with poutine.scale(scale=beta):
                    if self.flows:
                        fn = dist.TransformedDistribution(fn, list(self.flows))
                        z = pyro.sample(f"z_{t}", fn.mask(mask[:, t]))
                    else:
                        z = pyro.sample(f"z_{t}", fn.mask(mask[:, t : t + 1]).to_event(1))

    def _hidden(self, back: Tensor, lengths: Tensor) -> Tensor:
        """What the reversed sequences come to, each turned round again within its length."""
        start = self.h_0.expand(1, len(back), -1).contiguous()
        if self.packed:
            pack = nn.utils.rnn.pack_padded_sequence(back, lengths, batch_first=True)
            out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(pack, start)[0], batch_first=True)
        else:
            out, _ = self.rnn(back, start)
        return turned(out, lengths)


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverses each sequence within its length, shape ``(N, T, *)``."""
    at = lengths.unsqueeze(-1) - 1 - torch.arange(x.shape[1])
    at = torch.where(at < 0, torch.arange(x.shape[1]), at)
    return x.gather(1, at.unsqueeze(-1).expand_as(x))


def _dmm(packed: bool, flow: bool, loss: Any, engine: Engine) -> Step:
    tones, lengths = tunes()
    lengths, order = lengths.sort(descending=True)
    tones = tones[order] * (torch.arange(LENGTH) < lengths.unsqueeze(-1)).unsqueeze(-1)
    mask = torch.arange(LENGTH) < lengths.unsqueeze(-1)
    dmm = DMM(packed, flow)
    optim = ClippedAdam({"lr": 3e-3, "betas": (0.96, 0.999), "clip_norm": 10.0, "lrd": 0.9999})
    svi = engine(dmm.model, dmm.guide, optim, loss())

    def step(i: int) -> float:
        rows = torch.arange(4) + 4 * (i % 2)
        longest = int(lengths[rows].max())
        x = tones[rows][:, :longest]
        beta = min(1.0, 0.2 + 0.8 * i / 50)
        args = x, turned(x, lengths[rows]), mask[rows][:, :longest], lengths[rows]
        return svi.step(*args, beta)

    return step


program("deep Markov model, masked, annealed", "dmm.py")(partial(_dmm, False, False, Trace_ELBO))
program("deep Markov model, packed sequences", "dmm.py")(partial(_dmm, True, False, Trace_ELBO))
program("deep Markov model, analytic KL", "dmm.py")(
    partial(_dmm, False, False, TraceMeanField_ELBO)
)
program("deep Markov model, flow", "dmm.py")(partial(_dmm, False, True, Trace_ELBO))


def recaptures() -> tuple[Tensor, Tensor]:
    """Who was caught when, shape ``(20, 6)``, and sex, shape ``(20,)``."""
    alive = torch.bernoulli(torch.full((20, 6), 0.85)).cumprod(-1)
    return alive * torch.bernoulli(torch.full((20, 6), 0.6)), torch.randint(2, (20,)).double()


def cjs_1(history: Tensor, sex: Tensor) -> None:
    """Survival and recapture are constants."""
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    with pyro.plate("animals", len(history), dim=-1):
        z = torch.ones(len(history))
        first = torch.zeros(len(history), dtype=torch.bool)
        for t in pyro.markov(range(history.shape[1])):
            with poutine.mask(mask=first):
                z = pyro.sample(f"z_{t}", dist.Bernoulli(z * phi), infer=_PARALLEL)
                pyro.sample(f"y_{t}", dist.Bernoulli(z * rho), obs=history[:, t])
            first |= history[:, t].bool()


def cjs_3(history: Tensor, sex: Tensor) -> None:
    """Survival varies with time, around a mean, and by sex; so does recapture, by sex."""
    count, times = history.shape
    mean = pyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
    sigma = pyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))
    by_sex = pyro.sample("rho", dist.Uniform(0.0, 1.0).expand([2]).to_event(1))
    rho = by_sex[sex.long()]
    with pyro.plate("animals", count, dim=-1):
        z = torch.ones(count)
        first = torch.zeros(count, dtype=torch.bool)
        for t in pyro.markov(range(times)):
            effect = pyro.sample(f"eps_{t}", _alone(mean, sigma)) if t else torch.tensor(0.0)
            phi = torch.sigmoid(torch.logit(mean, eps=1e-6) + effect)
            with poutine.mask(mask=first):
                z = pyro.sample(f"z_{t}", dist.Bernoulli(z * phi), infer=_PARALLEL)
                pyro.sample(f"y_{t}", dist.Bernoulli(z * rho), obs=history[:, t])
            first = first | history[:, t].bool()


def _alone(mean: Tensor, sigma: Tensor) -> Any:
    return dist.Normal(torch.zeros(()), sigma).expand([20])


def _cjs(model: Any, loss: Any, engine: Engine) -> Step:
    data = recaptures()
    hidden = poutine.block(model, expose_fn=lambda msg: msg["name"][:3] in ("phi", "rho", "eps"))
    svi = engine(model, AutoDiagonalNormal(hidden), adam(), loss(max_plate_nesting=1))
    return lambda i: svi.step(*data)


program("capture-recapture, constant", "capture_recapture/cjs.py")(
    partial(_cjs, cjs_1, TraceEnum_ELBO)
)
program("capture-recapture, in time and by sex", "capture_recapture/cjs.py")(
    partial(_cjs, cjs_3, TraceEnum_ELBO)
)
program("capture-recapture, tensor Monte Carlo", "capture_recapture/cjs.py")(
    partial(_cjs, cjs_1, TraceTMC_ELBO)
)
