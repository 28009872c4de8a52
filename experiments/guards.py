"""What the guards of a captured step cost: values watched, and microseconds a check.

    python experiments/guards.py    # 2 minutes on one core: guards.json, and the table below

Six programs, as people write them: of the speed experiment, the same with a logger in its module,
a VAE, a VAE with a flow as its guide, a class with many methods of which two are run, and methods
of a test class. Graphs are interpreted, as no step is timed. The fastest of many checks counts:
whatever else the machine does can only make one slower.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import common
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from speed_rows import Program
from torch import Tensor, nn
from torch._inductor import compile_fx

import pyro_vae as pv

SEED = 0
log = logging.getLogger("experiments.guards")


class Logging(Program):
    """The program of the speed experiment, which tells what it does."""

    def model(self, x: Tensor) -> None:
        log.debug("a batch of %d", len(x))
        super().model(x)


class Comparison(nn.Module):
    """A class that trains, evaluates and plots itself, as in Pyro's ``vae_comparison.py``."""

    modes = ("train", "test")

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
        self.history: dict[str, list[float]] = {mode: [] for mode in self.modes}
        self.colours = {i: f"C{i}" for i in range(1000)}
        self.started = time.time()
        self.epoch = 0

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(8), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    def train_epoch(self, batches: list[Tensor], step: Callable[[Tensor], float]) -> None:
        for batch in batches:
            self.history["train"].append(step(batch))
        self.epoch += 1
        log.info("epoch %d after %.1f s", self.epoch, time.time() - self.started)

    def show(self) -> None:
        import matplotlib.pyplot as plt

        for colour, mode in zip(self.colours.values(), self.modes, strict=False):
            plt.plot(self.history[mode], color=colour)


class Suite:
    """Programs that are methods of a test class."""

    names = (f"case_{i}" for i in itertools.count())

    def setup_method(self) -> None:
        self.loc = torch.zeros(8)
        self.cases = [torch.randn(8) for _ in range(50)]

    def model(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(8))
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    def test_all(self) -> None:
        for name, case in zip(self.names, self.cases, strict=False):
            assert case.isfinite().all(), name


def programs() -> dict[str, tuple[Any, Any, Tensor]]:
    """The programs: model and guide, loss, and one batch."""
    x, small = torch.rand(64, 64).round(), torch.rand(16, 8)
    plain, logs, comparison, suite = Program(64, 64, 8), Logging(64, 64, 8), Comparison(), Suite()
    suite.setup_method()

    def vae(guide: nn.Module) -> pv.VAE:
        parts = pv.priors.Normal(8), guide, pv.likelihoods.Bernoulli((64,))
        return pv.VAE(*parts, encoder=pv.networks.MLP((64,)), decoder=pv.networks.MLP((64,)))

    return {
        "speed experiment": (plain, Trace_ELBO(), x),
        "the same, with a logger": (logs, Trace_ELBO(), x),
        "pv.VAE": (vae(pv.guides.Normal(8)), pv.objectives.ELBO(), x),
        "pv.VAE with a flow": (vae(pv.guides.Flow(8)), pv.objectives.ELBO(), x),
        "class with many methods": (comparison, Trace_ELBO(), x),
        "methods of a test class": (suite, Trace_ELBO(), small),
    }


def measure(program: Any, loss: Any, x: Tensor, rounds: int) -> dict[str, Any]:
    """Takes some steps and times the guards of the graph that was captured."""
    pyro.clear_param_store()
    svi = pv.CompiledSVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    for _ in range(3):
        svi.step(x)
    assert svi.engine == "inductor", "it was not captured"
    ((captured,),) = svi._engine._graphs.values()  # type: ignore[attr-defined]
    dependencies = captured.dependencies
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(50):
            assert dependencies.changed() is None
        best = min(best, (time.perf_counter() - start) / 50)
    tensors = len(dependencies._walk.tensors)
    return {"us": round(best * 1e6, 2), "values": dependencies.count, "tensors": tensors}


def main(rounds: int) -> None:
    """Measures all programs, and writes and prints the result."""
    compile_fx.compile_fx = lambda module, examples, **options: module
    torch.manual_seed(SEED)
    result: dict[str, Any] = {"seed": SEED, "rounds": rounds, "programs": {}}
    print("| program | values watched | tensors | µs a step |\n|---|---:|---:|---:|")
    for name, (program, loss, x) in programs().items():
        row = result["programs"][name] = measure(program, loss, x, rounds)
        print(f"| {name} | {row['values']} | {row['tensors']} | {row['us']:.1f} |", flush=True)
    common.write("guards", result)


if __name__ == "__main__":
    parser = common.Parser(__doc__, smoke=None)
    parser.add_argument("--rounds", type=int, default=500)
    main(parser.options().rounds)
