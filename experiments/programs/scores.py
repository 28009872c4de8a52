"""Discrete latent variables by the score function, baselines, and other losses than the ELBO."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer import (
    EnergyDistance,
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceGraph_ELBO,
    TraceTailAdaptive_ELBO,
)
from torch import Tensor, nn

from programs.autoencoders import BATCHES, HIDDEN, LATENT, PIXELS, VAE, Encoder, images, mlp
from programs.registry import Engine, Step, adam, program

OBJECTS, WHERE, WHAT = 3, 2, 3


class Scene(nn.Module):
    """Attend, infer, repeat: up to three objects, each present or not, at a place, with a look.

    Args:
        baseline: None, ``network`` or ``average``: of the presence.
    """

    def __init__(self, baseline: str | None) -> None:
        super().__init__()
        self.baseline = baseline
        self.rnn = nn.RNNCell(PIXELS + WHERE + WHAT + 1, HIDDEN)
        self.head = nn.Linear(HIDDEN, 1 + 2 * WHERE)
        self.look = Encoder(PIXELS + WHERE, WHAT)
        self.decoder = mlp(WHERE + WHAT, HIDDEN, PIXELS)
        self.value = mlp(PIXELS, HIDDEN, 1)

    def model(self, x: Tensor) -> None:
        pyro.module("scene", self)
        with pyro.plate("data", len(x)):
            present, canvas = x.new_ones(len(x), 1), x.new_zeros(x.shape)
            for t in range(OBJECTS):
                chance = 0.5 * present
                present = pyro.sample(f"pres_{t}", dist.Bernoulli(chance).to_event(1))
                where, what = (
                    pyro.sample(
                        f"{name}_{t}",
                        dist.Normal(x.new_zeros(len(x), size), 1.0).mask(present).to_event(1),
                    )
                    for name, size in (("where", WHERE), ("what", WHAT))
                )
                canvas = canvas + present * self.decoder(torch.cat([where, what], -1)).sigmoid()
            pyro.sample("obs", dist.Normal(canvas, 0.3).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("scene", self)
        infer = self._infer(x)
        with pyro.plate("data", len(x)):
            hidden = x.new_zeros(len(x), HIDDEN)
            present, where, what = (x.new_zeros(len(x), n) for n in (1, WHERE, WHAT))
            present = present + 1
            for t in range(OBJECTS):
                hidden = self.rnn(torch.cat([x, where, what, present], -1), hidden)
                chance, loc, scale = self.head(hidden).split([1, WHERE, WHERE], -1)
                chance = chance.sigmoid() * present
                present = pyro.sample(f"pres_{t}", dist.Bernoulli(chance).to_event(1), infer=infer)
                spread = nn.functional.softplus(scale)
                where = pyro.sample(
                    f"where_{t}", dist.Normal(loc, spread).mask(present).to_event(1)
                )
                loc, scale = self.look(x, where)
                what = pyro.sample(f"what_{t}", dist.Normal(loc, scale).mask(present).to_event(1))

    def _infer(self, x: Tensor) -> dict[str, Any]:
        if self.baseline == "network":
            return {"baseline": {"nn_baseline": self.value, "nn_baseline_input": x}}
        if self.baseline == "average":
            return {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.95}}
        return {}


class _Squeezed(Scene):
    """Its network's baseline has the shape of the plate."""

    def __init__(self) -> None:
        super().__init__("network")
        self.value = nn.Sequential(mlp(PIXELS, HIDDEN, 1), nn.Flatten(0))


def _scene(made: Any, loss: Any, engine: Engine) -> Step:
    x, net = images(), made()
    svi = engine(net.model, net.guide, adam(1e-3), loss())
    return lambda i: svi.step(x[i % BATCHES])


for _name, _made, _loss in (
    ("attend, infer, repeat; score function", partial(Scene, None), Trace_ELBO),
    ("attend, infer, repeat; a network as baseline", _Squeezed, TraceGraph_ELBO),
    ("attend, infer, repeat; decaying average", partial(Scene, "average"), TraceGraph_ELBO),
):
    program(_name, "air")(partial(_scene, _made, _loss))


@program("coin flips until heads", "rsa, recursive programs")
def geometric(engine: Engine) -> Step:
    """Recursion on what was drawn: only Python can run it."""
    x = torch.tensor([1.0, 2.0, 4.0])

    def flips(p: Tensor, t: int = 0) -> int:
        heads = pyro.sample(f"flip_{t}", dist.Bernoulli(p))
        return t + 1 if bool(heads == 1) or t > 5 else flips(p, t + 1)

    def model(x: Tensor) -> None:
        count = flips(torch.tensor(0.5))
        pyro.sample("x", dist.Normal(float(count), 1.0).expand([3]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        flips(pyro.param("p", torch.tensor(0.6), constraint=constraints.unit_interval))

    svi = engine(model, guide, adam(), Trace_ELBO())
    return lambda i: svi.step(x)


@program("geometric distribution, score function", "infer (SVI tutorial, part III)")
def geometric_site(engine: Engine) -> Step:
    """The same by one site, several particles at once."""
    x = torch.tensor([1.0, 2.0, 4.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", 3):
            count = pyro.sample("count", dist.Geometric(torch.tensor(0.4)))
            pyro.sample("x", dist.Normal(count, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        p = pyro.param("p", 0.5 * torch.ones(3), constraint=constraints.unit_interval)
        with pyro.plate("data", 3):
            pyro.sample("count", dist.Geometric(p))

    loss = Trace_ELBO(num_particles=5, vectorize_particles=True)
    svi = engine(model, guide, adam(), loss)
    return lambda i: svi.step(x)


def _autoencoder(loss: Any, engine: Engine) -> Step:
    x, net = images(), VAE()
    svi = engine(net.model, net.guide, adam(), loss())
    return lambda i: svi.step(x[i % BATCHES])


_LOSSES: dict[str, Any] = {
    "RenyiELBO": partial(RenyiELBO, alpha=0.0, num_particles=3),
    "RenyiELBO, vectorised": partial(
        RenyiELBO, alpha=0.5, num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
    "ReweightedWakeSleep": partial(ReweightedWakeSleep, num_particles=3),
    "TraceTailAdaptive_ELBO": partial(
        TraceTailAdaptive_ELBO, num_particles=4, vectorize_particles=True, max_plate_nesting=1
    ),
    "JitTrace_ELBO": JitTrace_ELBO,
}
for _name, _loss in _LOSSES.items():
    program(f"VAE, {_name}", "infer")(partial(_autoencoder, _loss))


def _with_mmd(net: VAE) -> Any:
    from pyro.contrib.gp.kernels import RBF

    return Trace_MMD(kernel=RBF(LATENT), mmd_scale=1.0, vectorize_particles=True)


@program("VAE, Trace_MMD", "infer")
def mmd(engine: Engine) -> Step:
    """The guide's draws are compared with the prior's by a kernel."""
    x, net = images(), VAE()
    svi = engine(net.model, net.guide, adam(), _with_mmd(net))
    return lambda i: svi.step(x[i % BATCHES])


@program("VAE, EnergyDistance", "infer")
def energy_distance(engine: Engine) -> Step:
    """Needs no density, only draws; a normal likelihood has a reparameterised one."""
    x, net = torch.randn(BATCHES, 20, PIXELS), VAE()

    def model(x: Tensor) -> None:
        pyro.module("decoder", net.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(net.decoder(z), 1.0).to_event(1), obs=x)

    svi = engine(model, net.guide, adam(), EnergyDistance(num_particles=2))
    return lambda i: svi.step(x[i % BATCHES])
