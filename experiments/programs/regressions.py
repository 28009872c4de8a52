"""Regressions: batting averages, schools, Bayesian networks, and deep gamma factors."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_feasible,
)
from pyro.infer.reparam import LocScaleReparam, TransformReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.optim import AdagradRMSProp
from torch import Tensor, nn

from programs.registry import Engine, Step, adam, program

PLAYERS = 18


def batting() -> tuple[Tensor, Tensor]:
    """At-bats and hits of the players."""
    at_bats = torch.full((PLAYERS,), 45.0)
    return at_bats, torch.binomial(at_bats, 0.2 + 0.15 * torch.rand(PLAYERS))


def pooled(at_bats: Tensor) -> None:
    """Every player has the chance of all."""
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    with pyro.plate("players", len(at_bats)):
        pyro.sample("obs", dist.Binomial(at_bats, phi))


def partially_pooled(at_bats: Tensor) -> None:
    """Chances come from one beta distribution."""
    m = pyro.sample("m", dist.Uniform(0.0, 1.0))
    kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
    with pyro.plate("players", len(at_bats)):
        phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        pyro.sample("obs", dist.Binomial(at_bats, phi))


def on_the_logit_scale(at_bats: Tensor) -> None:
    """Log odds come from one normal distribution."""
    loc = pyro.sample("loc", dist.Normal(-1.0, 1.0))
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    with pyro.plate("players", len(at_bats)):
        alpha = pyro.sample("alpha", dist.Normal(loc, scale))
        pyro.sample("obs", dist.Binomial(at_bats, logits=alpha))


def conditioned(model: Any, at_bats: Tensor, hits: Tensor) -> Any:
    """The model given the hits."""
    return poutine.condition(model, data={"obs": hits})(at_bats)


def _baseball(model: Any, guide: Any, engine: Engine) -> Step:
    data = batting()
    given = partial(conditioned, model)
    svi = engine(given, guide(given), adam(), Trace_ELBO())
    return lambda i: svi.step(*data)


for _name, _model in (
    ("batting averages, pooled", pooled),
    ("batting averages, partially pooled", partially_pooled),
    ("batting averages, logits", on_the_logit_scale),
):
    program(_name, "baseball.py")(partial(_baseball, _model, AutoDiagonalNormal))


@program("batting averages, guide of beta distributions", "baseball.py")
def beta_guide(engine: Engine) -> Step:
    """Distributions on the scale of the chances themselves."""
    at_bats, hits = batting()

    def guide(at_bats: Tensor) -> None:
        positive = constraints.positive
        a = pyro.param("a", torch.tensor(10.0), constraint=positive)
        b = pyro.param("b", torch.tensor(10.0), constraint=positive)
        m = pyro.sample("m", dist.Beta(a, b))
        loc, scale = (
            pyro.param("k", torch.tensor(3.0)),
            pyro.param("s", torch.tensor(0.1), positive),
        )
        shifted = dist.TransformedDistribution(
            dist.Normal(loc, scale), [dist.transforms.ExpTransform(), _one_more()]
        )
        kappa = pyro.sample("kappa", shifted)
        with pyro.plate("players", len(at_bats)):
            pyro.sample("phi", dist.Beta(m * kappa + hits, (1 - m) * kappa + at_bats - hits))

    given = poutine.condition(partially_pooled, data={"obs": hits})
    svi = engine(given, guide, adam(), Trace_ELBO())
    return lambda i: svi.step(at_bats)


def _one_more() -> Any:
    return dist.transforms.AffineTransform(1.0, 1.0)


def schools(y: Tensor, sigma: Tensor) -> None:
    """Effects of eight schools around a mean."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfCauchy(25.0))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("obs", dist.Normal(theta, sigma), obs=y)


_EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
_SIGMAS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


@program("eight schools, guide by hand", "eight_schools/svi.py")
def eight_schools(engine: Engine) -> Step:
    """A normal distribution an effect."""
    y, sigma = torch.tensor(_EFFECTS), torch.tensor(_SIGMAS)

    def guide(y: Tensor, sigma: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(10))
        scale = pyro.param("scale", 0.1 * torch.ones(10), constraint=constraints.positive)
        pyro.sample("mu", dist.Normal(loc[0], scale[0]))
        pyro.sample("tau", dist.LogNormal(loc[1], scale[1]))
        with pyro.plate("schools", 8):
            pyro.sample("theta", dist.Normal(loc[2:], scale[2:]))

    svi = engine(schools, guide, adam(), Trace_ELBO())
    return lambda i: svi.step(y, sigma)


@program("eight schools, decentred by reparam", "eight_schools, infer.reparam")
def eight_schools_reparam(engine: Engine) -> Step:
    """The centring of the effects is learned."""
    y, sigma = torch.tensor(_EFFECTS), torch.tensor(_SIGMAS)
    model = poutine.reparam(schools, {"theta": LocScaleReparam(None)})
    svi = engine(model, AutoNormal(model), adam(), Trace_ELBO())
    return lambda i: svi.step(y, sigma)


class Bayesian(PyroModule):
    """A linear regression whose weights are drawn."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](inputs, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, inputs]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def _line() -> tuple[Tensor, Tensor]:
    x = torch.randn(30, 3)
    return x, torch.sin(x @ torch.tensor([1.0, -2.0, 0.5])) + 0.1 * torch.randn(30)


def _bayesian(guide: Any, engine: Engine) -> Step:
    x, y = _line()
    model = Bayesian(3)
    svi = engine(model, guide(model), adam(0.03), Trace_ELBO())
    return lambda i: svi.step(x, y)


program("Bayesian regression, diagonal", "bayesian_regression (tutorial)")(
    partial(_bayesian, AutoDiagonalNormal)
)
program("Bayesian regression, full", "bayesian_regression (tutorial)")(
    partial(_bayesian, AutoMultivariateNormal)
)


class BayesianNetwork(PyroModule):
    """Two layers, all weights of which are drawn, with a prior scale that is learned."""

    def __init__(self, inputs: int, hidden: int = 6) -> None:
        super().__init__()
        self.first = PyroModule[nn.Linear](inputs, hidden)
        self.second = PyroModule[nn.Linear](hidden, 1)
        self.spread = PyroParam(torch.tensor(1.0), constraints.positive)
        for layer in (self.first, self.second):
            for name, param in list(layer.named_parameters()):
                shape = param.shape
                setattr(layer, name, PyroSample(partial(self._prior, shape)))

    def _prior(self, shape: Any, layer: Any) -> Any:
        return dist.Normal(0.0, self.spread).expand(shape).to_event(len(shape))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        mean = self.second(torch.tanh(self.first(x))).squeeze(-1)
        sigma = pyro.sample("sigma", dist.LogNormal(-1.0, 0.5))
        with pyro.plate("data", 30, subsample_size=10) as rows:
            found = None if y is None else y[rows]
            pyro.sample("obs", dist.Normal(mean[rows], sigma), obs=found)


@program("Bayesian network, PyroSample", "bnn (PyroSample)")
def bnn(engine: Engine) -> Step:
    """Mini-batches that the plate draws."""
    x, y = _line()
    model = BayesianNetwork(3)
    svi = engine(model, AutoNormal(model, init_scale=0.05), adam(), TraceMeanField_ELBO())
    return lambda i: svi.step(x, y)


class GammaFactors:
    """A deep exponential family of gamma variables, two layers and their weights."""

    width, top, pixels, alpha, shape = 4, 3, 8, 0.1, 0.3

    def model(self, x: Tensor) -> None:
        with pyro.plate("w_top_plate", self.top * self.width):
            w_top = pyro.sample("w_top", dist.Gamma(self.alpha, self.shape))
        with pyro.plate("w_bottom_plate", self.width * self.pixels):
            w_bottom = pyro.sample("w_bottom", dist.Gamma(self.alpha, self.shape))
        with pyro.plate("data", len(x)):
            ones = torch.ones(self.top)
            z_top = pyro.sample("z_top", dist.Gamma(self.alpha * ones, ones).to_event(1))
            mean = z_top @ w_top.reshape(self.top, self.width)
            z = pyro.sample("z", dist.Gamma(torch.tensor(0.1), 0.1 / mean).to_event(1))
            rate = z @ w_bottom.reshape(self.width, self.pixels)
            pyro.sample("obs", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        def q(name: str, *shape: int) -> Any:
            loc = pyro.param(f"loc_{name}", lambda: 0.5 + 0.1 * torch.randn(shape))
            mean = pyro.param(f"mean_{name}", lambda: 0.1 * torch.randn(shape))
            softplus = nn.functional.softplus
            alpha, mean = softplus(loc), softplus(mean)
            return dist.Gamma(alpha, alpha / mean)

        with pyro.plate("w_top_plate", self.top * self.width):
            pyro.sample("w_top", q("w_top", self.top * self.width))
        with pyro.plate("w_bottom_plate", self.width * self.pixels):
            pyro.sample("w_bottom", q("w_bottom", self.width * self.pixels))
        with pyro.plate("data", len(x)):
            pyro.sample("z_top", q("z_top", len(x), self.top).to_event(1))
            pyro.sample("z", q("z", len(x), self.width).to_event(1))


class _EasyGamma(EasyGuide):
    """Log-normal distributions a group of sites."""

    def guide(self, x: Tensor) -> None:
        for name, size in (("w_top", 12), ("w_bottom", 32)):
            with self.plate(f"{name}_plate", size, dim=-1):
                self._normal(name, size)
        with self.plate("data", len(x), dim=-1):
            for name in ("z_top", "z"):
                self._normal(name, len(x))

    def _normal(self, name: str, count: int) -> None:
        group = self.group(match=name + "$")
        shape = (count, *group.event_shape)
        loc = pyro.param(f"{name}_loc", lambda: torch.zeros(shape))
        scale = pyro.param(f"{name}_scale", lambda: 0.1 * torch.ones(shape), constraints.positive)
        group.sample(f"{name}_joint", dist.Normal(loc, scale).to_event(1))


def _clipped(low: float) -> None:
    """Keeps parameters from where draws of gamma variables lose their precision."""
    store = pyro.get_param_store()
    for name in store:
        if name.startswith(("loc_", "mean_")):
            store[name].data.clamp_(min=low)


def _sparse_gamma(kind: str, engine: Engine) -> Step:
    x, factors = torch.poisson(3.0 * torch.rand(15, GammaFactors.pixels)), GammaFactors()
    guide: Any = factors.guide
    if kind == "auto":
        guide = AutoDiagonalNormal(factors.model, init_loc_fn=init_to_feasible)
    elif kind == "mean field":
        guide = AutoNormal(factors.model, init_loc_fn=init_to_feasible)
    elif kind == "easy":
        guide = _EasyGamma(factors.model)
    loss = TraceMeanField_ELBO() if kind == "custom" else Trace_ELBO()
    svi = engine(factors.model, guide, AdagradRMSProp({"eta": 0.5, "t": 0.1}), loss)

    def step(i: int) -> float:
        found = svi.step(x)
        if kind == "custom":
            _clipped(-4.0)
        return found

    return step


for _name in ("custom", "auto", "mean field", "easy"):
    program(f"sparse gamma factors, {_name} guide", "sparse_gamma_def.py")(
        partial(_sparse_gamma, _name)
    )


@program("heavy tails, TransformReparam", "infer.reparam")
def transform_reparam(engine: Engine) -> Step:
    """A log-normal site drawn as a normal one."""
    x = torch.randn(20).exp()

    def model(x: Tensor) -> None:
        noise = dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(0.0, 2.0)]
        )
        loc = pyro.sample("loc", noise)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.StudentT(4.0, loc, 1.0), obs=x)

    moved = poutine.reparam(model, {"loc": TransformReparam()})
    svi = engine(moved, AutoNormal(moved), adam(), Trace_ELBO())
    return lambda i: svi.step(x)
