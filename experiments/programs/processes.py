"""Gaussian processes of pyro.contrib.gp, and models of pyro.contrib.forecast and its like."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.forecast import ForecastingModel
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_sample
from pyro.infer.reparam import (
    DiscreteCosineReparam,
    HaarReparam,
    LinearHMMReparam,
    LocScaleReparam,
    StableReparam,
)
from pyro.nn import PyroSample
from pyro.optim import DCTAdam
from torch import Tensor, nn

from programs.autoencoders import mlp
from programs.registry import Engine, Step, adam, program


def _curve(count: int = 24) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-2.0, 2.0, count)
    return x, torch.sin(3.0 * x) + 0.1 * torch.randn(count)


@program("Gaussian process regression", "contrib.gp (tutorial)")
def gp_regression(engine: Engine) -> Step:
    """Exact, with kernel parameters at their modes."""
    x, y = _curve()
    kernel = gp.kernels.RBF(1, torch.tensor(1.0), torch.tensor(1.0))
    process = gp.models.GPRegression(x, y, kernel, noise=torch.tensor(0.1))
    process.kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 1.0))
    process.kernel.variance = PyroSample(dist.LogNormal(0.0, 1.0))
    process.kernel.autoguide("lengthscale", dist.Normal)
    svi = engine(process.model, process.guide, adam(), Trace_ELBO())
    return lambda i: svi.step()


@program("sparse Gaussian process, FITC", "contrib.gp (tutorial)")
def gp_sparse(engine: Engine) -> Step:
    """Inducing points are parameters."""
    x, y = _curve()
    kernel = gp.kernels.Sum(gp.kernels.RBF(1), gp.kernels.Matern32(1))
    model = gp.models.SparseGPRegression(
        x, y, kernel, Xu=torch.linspace(-2.0, 2.0, 6), approx="FITC", jitter=1e-5
    )
    svi = engine(model.model, model.guide, adam(), Trace_ELBO())
    return lambda i: svi.step()


def _variational(likelihood: Any, engine: Engine) -> Step:
    x, y = _curve()
    y = (y > 0).to(y.dtype) if isinstance(likelihood(), gp.likelihoods.Binary) else y
    kernel = gp.kernels.RBF(1)
    model = gp.models.VariationalSparseGP(
        x, y, kernel, Xu=torch.linspace(-2.0, 2.0, 6), likelihood=likelihood(),
        num_data=len(x), whiten=True, jitter=1e-5,
    )  # fmt: skip
    svi = engine(model.model, model.guide, adam(), TraceMeanField_ELBO())

    def step(i: int) -> float:
        rows = torch.arange(8) + 8 * (i % 3)
        model.set_data(x[rows], y[rows])
        return svi.step()

    return step


program("variational sparse GP, mini-batches by set_data", "contrib.gp, sv-dkl.py")(
    partial(_variational, gp.likelihoods.Gaussian)
)
program("variational sparse GP, binary", "contrib.gp, sv-dkl.py")(
    partial(_variational, gp.likelihoods.Binary)
)


@program("deep kernel learning, three classes", "contrib/gp/sv-dkl.py")
def deep_kernel(engine: Engine) -> Step:
    """The kernel sees what a network makes of the inputs."""
    x = torch.randn(24, 4)
    y = torch.randint(3, (24,)).double()
    network = mlp(4, 8, 2)
    # The kernel sees differences alone, of which this has no gradient but rounding.
    network[-1].register_parameter("bias", None)
    kernel = gp.kernels.Warping(
        gp.kernels.RBF(2, lengthscale=torch.tensor([1.0, 1.0])), iwarping_fn=network
    )
    model = gp.models.VariationalSparseGP(
        x, y, kernel, Xu=x[:5].clone(), likelihood=gp.likelihoods.MultiClass(3),
        latent_shape=torch.Size([3]), num_data=24, whiten=True, jitter=1e-5,
    )  # fmt: skip
    svi = engine(model.model, model.guide, adam(), TraceMeanField_ELBO())

    def step(i: int) -> float:
        rows = torch.arange(12) + 12 * (i % 2)
        model.set_data(x[rows], y[rows])
        return svi.step()

    return step


@program("GPLVM", "gplvm.py")
def gplvm(engine: Engine) -> Step:
    """Inputs are drawn, around zero."""
    y = torch.randn(4, 15)
    kernel = gp.kernels.RBF(2, lengthscale=torch.ones(2))
    start = torch.zeros(15, 2) + 0.1 * torch.randn(15, 2)
    model = gp.models.SparseGPRegression(
        start.clone(), y, kernel, Xu=torch.randn(5, 2), noise=torch.tensor(0.1), jitter=1e-5
    )
    model.X = PyroSample(dist.Normal(start, 0.5).to_event())
    model.autoguide("X", dist.Normal)
    svi = engine(model.model, model.guide, adam(), Trace_ELBO())
    return lambda i: svi.step()


class LocalLevel(ForecastingModel):
    """A random walk with covariates, as the library wants it."""

    def model(self, zero_data: Tensor, covariates: Tensor) -> None:
        size = zero_data.size(-1)
        weight = pyro.sample(
            "weight", dist.Normal(0.0, 1.0).expand([covariates.size(-1)]).to_event(1)
        )
        drift_scale = pyro.sample("drift_scale", dist.LogNormal(-2.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(-1.0, 1.0))
        with self.time_plate:
            drift = pyro.sample("drift", dist.Normal(torch.zeros(size), drift_scale).to_event(1))
        level = drift.cumsum(-2) + (weight * covariates).sum(-1, keepdim=True)
        self.predict(dist.Normal(torch.zeros(size), scale.unsqueeze(-1)), level)


class Filtered(ForecastingModel):
    """A linear dynamical system, over whose states the distribution integrates."""

    def model(self, zero_data: Tensor, covariates: Tensor) -> None:
        duration, size = zero_data.shape[-2:]
        step = pyro.sample("step", dist.LogNormal(-2.0, 1.0))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        hmm = dist.GaussianHMM(
            dist.Normal(0.0, 10.0).expand([1]).to_event(1),
            torch.eye(1), dist.Normal(0.0, step.reshape(1, 1)).to_event(1),
            torch.ones(1, size), dist.Normal(0.0, noise.reshape(1, 1).expand(1, size)).to_event(1),
            duration=duration,
        )  # fmt: skip
        self.predict(hmm, torch.zeros(duration, size))


class Stable(ForecastingModel):
    """A dynamical system with stable noise, whose auxiliary variables make it normal."""

    def model(self, zero_data: Tensor, covariates: Tensor) -> None:
        duration, size = zero_data.shape[-2:]
        stability = pyro.sample("stability", dist.Uniform(1.2, 1.9))
        scale = pyro.sample("scale", dist.LogNormal(-1.0, 1.0))
        step = dist.Stable(stability, 0.0, scale.reshape(1, 1)).to_event(1)
        hmm = dist.LinearHMM(
            dist.Normal(0.0, 1.0).expand([1]).to_event(1), torch.eye(1), step,
            torch.ones(1, size), dist.Normal(0.0, 0.3 * torch.ones(1, size)).to_event(1),
            duration=duration,
        )  # fmt: skip
        reparam = {"residual": LinearHMMReparam(trans=StableReparam())}
        with poutine.reparam(config=reparam):
            self.predict(hmm, torch.zeros(duration, size))


_REPARAMS = {
    "": {},
    ", decentred": {"drift": LocScaleReparam()},
    ", cosine transform": {"drift": DiscreteCosineReparam(dim=-2, experimental_allow_batch=True)},
    ", Haar transform": {"drift": HaarReparam(dim=-2, experimental_allow_batch=True)},
}


def _forecast(made: type, reparam: dict[str, Any], engine: Engine) -> Step:
    data = torch.randn(20, 2).cumsum(0)
    covariates = torch.linspace(-1.0, 1.0, 20).unsqueeze(-1)
    model: Any = made()
    if reparam:
        model = poutine.reparam(model, reparam)
    guide = AutoNormal(model, init_loc_fn=init_to_sample, init_scale=0.1)
    loss = Trace_ELBO()
    loss.max_plate_nesting = 1
    optim = DCTAdam({"lr": 0.01, "betas": (0.9, 0.99), "lrd": 0.99, "clip_norm": 10.0})
    svi = engine(model, guide, optim, loss)
    return lambda i: svi.step(data, covariates)


for _name, _reparam in _REPARAMS.items():
    program(f"forecast, local level{_name}", "contrib.forecast")(
        partial(_forecast, LocalLevel, _reparam)
    )
program("forecast, Kalman filter", "contrib.forecast")(partial(_forecast, Filtered, {}))
program("forecast, stable noise, LinearHMMReparam", "contrib.forecast")(
    partial(_forecast, Stable, {})
)


@program("panel of series, mini-batches, decentred", "contrib.forecast, mini-batches of series")
def panel(engine: Engine) -> Step:
    """Many series, some of which are drawn at each step; their walks are decentred."""
    x = torch.randn(12, 15).cumsum(-1)

    def plates(x: Tensor) -> Any:
        return pyro.plate("series", 12, subsample_size=6, dim=-1)

    def series(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(-1.0, 1.0))
        with plates(x) as rows:
            start = pyro.sample("start", dist.Normal(torch.zeros(6), 5.0))
            steps = dist.Normal(torch.zeros(6, 15), scale.unsqueeze(-1)).to_event(1)
            drift = pyro.sample("drift", steps)
            level = start.unsqueeze(-1) + drift.cumsum(-1)
            pyro.sample("x", dist.Normal(level, 0.5).to_event(1), obs=x[rows])

    model = poutine.reparam(series, {"drift": LocScaleReparam(0.0)})
    svi = engine(model, AutoNormal(model, create_plates=plates), adam(), Trace_ELBO())
    return lambda i: svi.step(x)


class Positive(nn.Module):
    """A guide whose scale is an ordinary parameter, made positive in the program."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.raw = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> None:
        pyro.module("positive", self)
        scale = constraints.positive
        assert bool(scale.check(torch.tensor(1.0)))
        pyro.sample("w", dist.Normal(self.loc, nn.functional.softplus(self.raw)).to_event(1))


@program("survival with censored times", "infer (factor statements)")
def survival(engine: Engine) -> Step:
    """Censored observations enter by `pyro.factor`."""
    x = torch.randn(25, 3)
    times, censored = torch.rand(25) * 3.0, torch.rand(25) < 0.3

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        rate = (x @ w).exp()
        with pyro.plate("data", len(x)):
            seen = dist.Exponential(rate).log_prob(times)
            pyro.factor("times", torch.where(censored, -rate * times, seen))

    svi = engine(model, Positive(), adam(), Trace_ELBO())
    return lambda i: svi.step(x)
