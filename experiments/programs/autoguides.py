"""Every automatic guide on one hierarchical regression, and guides that are put together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide, easy_guide
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, autoguide
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoHierarchicalNormalMessenger,
    AutoNormal,
    AutoNormalMessenger,
    AutoRegressiveMessenger,
    init_to_mean,
    init_to_median,
    init_to_sample,
)
from pyro.nn import PyroParam
from torch import Tensor

from programs.registry import Engine, Step, adam, program

ROWS, GROUPS = 30, 5


def regression_data() -> tuple[Tensor, Tensor, Tensor]:
    """Two covariates, the group of each row, and what is observed."""
    x, group = torch.randn(ROWS, 2), torch.randint(GROUPS, (ROWS,))
    levels = torch.randn(GROUPS)
    y = x @ torch.tensor([1.0, -0.5]) + levels[group] + 0.3 * torch.randn(ROWS)
    return x, group, y


def regression(x: Tensor, group: Tensor, y: Tensor) -> None:
    """Varying intercepts with a common scale, and noise of unknown scale."""
    slopes = pyro.sample("slopes", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    with pyro.plate("groups", GROUPS):
        level = pyro.sample("level", dist.Normal(0.0, spread))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((x * slopes).sum(-1) + level[..., group], noise), obs=y)


_GUIDES: dict[str, Callable[[Any], Any]] = {
    "AutoDelta": AutoDelta,
    "AutoNormal": AutoNormal,
    "AutoNormal from the mean": partial(AutoNormal, init_loc_fn=init_to_mean, init_scale=0.05),
    "AutoDiagonalNormal": AutoDiagonalNormal,
    "AutoDiagonalNormal from a draw": partial(AutoDiagonalNormal, init_loc_fn=init_to_sample),
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": partial(autoguide.AutoLowRankMultivariateNormal, rank=2),
    "AutoIAFNormal": partial(autoguide.AutoIAFNormal, hidden_dim=[12], num_transforms=2),
    "AutoNormalizingFlow": partial(
        autoguide.AutoNormalizingFlow,
        init_transform_fn=partial(dist.transforms.iterated, 2, dist.transforms.planar),
    ),
    "AutoLaplaceApproximation": autoguide.AutoLaplaceApproximation,
    "AutoStructured": autoguide.AutoStructured,
    "AutoStructured, chosen": partial(
        autoguide.AutoStructured,
        conditionals={"slopes": "mvn", "spread": "normal", "noise": "delta", "level": "normal"},
        dependencies={"level": {"spread": "linear"}},
    ),
    "AutoGaussian, dense": partial(autoguide.AutoGaussian, backend="dense"),
    "AutoNormalMessenger": AutoNormalMessenger,
    "AutoHierarchicalNormalMessenger": AutoHierarchicalNormalMessenger,
    "AutoRegressiveMessenger": AutoRegressiveMessenger,
}


def _with_guide(guide: Callable[[Any], Any], loss: Callable[[], Any], engine: Engine) -> Step:
    data = regression_data()
    svi = engine(regression, guide(regression), adam(), loss())
    return lambda i: svi.step(*data)


for _name, _guide in _GUIDES.items():
    program(_name, "infer.autoguide")(partial(_with_guide, _guide, Trace_ELBO))
program("AutoNormal, analytic KL", "infer.autoguide")(
    partial(_with_guide, AutoNormal, TraceMeanField_ELBO)
)
program("AutoNormal, 8 particles at once", "infer.autoguide")(
    partial(_with_guide, AutoNormal, partial(Trace_ELBO, 8, vectorize_particles=True))
)


@program("AutoGuideList", "infer.autoguide")
def guide_list(engine: Engine) -> Step:
    """Two automatic guides and a function, each for some sites."""
    data = regression_data()

    def noise(x: Tensor, group: Tensor, y: Tensor) -> None:
        loc = pyro.param("noise_loc", torch.tensor(0.0))
        scale = pyro.param("noise_scale", torch.tensor(0.1), constraint=constraints.positive)
        pyro.sample("noise", dist.LogNormal(loc, scale))

    guide = AutoGuideList(regression)
    guide.append(AutoDelta(poutine.block(regression, expose=["spread"])))
    guide.append(AutoDiagonalNormal(poutine.block(regression, expose=["slopes", "level"])))
    guide.append(noise)
    svi = engine(regression, guide, adam(), Trace_ELBO())
    return lambda i: svi.step(*data)


def _switches(x: Tensor) -> None:
    rates = pyro.sample("rates", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(x)):
        which = pyro.sample("which", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Poisson(rates[which.long()]), obs=x)


@program("AutoDiscreteParallel", "infer.autoguide")
def discrete_parallel(engine: Engine) -> Step:
    """A categorical guide for a binary site, summed over in guide and model."""
    x = torch.poisson(torch.tensor([1.0, 6.0]).repeat(10))
    guide = AutoGuideList(_switches)
    guide.append(AutoNormal(poutine.block(_switches, hide=["which"])))
    guide.append(autoguide.AutoDiscreteParallel(poutine.block(_switches, expose=["which"])))
    svi = engine(_switches, guide, adam(), TraceEnum_ELBO(max_plate_nesting=1))
    return lambda i: svi.step(x)


class _Messenger(AutoNormalMessenger):
    """Its location of one site follows from another site's draw."""

    def get_posterior(self, name: str, prior: Any) -> Any:
        if name == "level":
            weight = self._get_params_weight()
            spread = self.upstream_value("spread")
            return dist.Normal(torch.zeros(GROUPS) + weight * spread, 0.5)
        return super().get_posterior(name, prior)

    def _get_params_weight(self) -> Tensor:
        return pyro.param("weight", torch.tensor(0.1))


@program("AutoMessenger with a posterior of its own", "infer.autoguide")
def own_messenger(engine: Engine) -> Step:
    """Overrides the posterior of one site."""
    data = regression_data()
    svi = engine(regression, _Messenger(regression), adam(), Trace_ELBO())
    return lambda i: svi.step(*data)


class _Easy(EasyGuide):
    """Slopes and levels jointly normal, the scales by a map estimate each."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.loc = PyroParam(torch.zeros(2 + GROUPS))
        self.scale = PyroParam(torch.full((2 + GROUPS,), 0.1), constraints.positive)

    def guide(self, x: Tensor, group: Tensor, y: Tensor) -> None:
        self.map_estimate("spread")
        self.map_estimate("noise")
        joint = self.group(match="slopes|level")
        joint.sample("joint", dist.Normal(self.loc, self.scale).to_event(1))

    def init(self, site: Any) -> Any:
        return init_to_median(site, num_samples=5)


@program("EasyGuide as a class", "contrib.easyguide")
def easy_class(engine: Engine) -> Step:
    """Groups of sites."""
    data = regression_data()
    svi = engine(regression, _Easy(regression), adam(), Trace_ELBO())
    return lambda i: svi.step(*data)


@program("EasyGuide as a decorator", "contrib.easyguide")
def easy_decorator(engine: Engine) -> Step:
    """Plates of the guide's own, with mini-batches of the groups' levels."""
    x, _, y = regression_data()

    def model(x: Tensor, y: Tensor, index: Tensor) -> None:
        slopes = pyro.sample("slopes", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("data", ROWS, subsample=index):
            offset = pyro.sample("offset", dist.Normal(0.0, 0.5))
            pyro.sample("y", dist.Normal(x @ slopes + offset, 0.3), obs=y)

    @easy_guide(model)
    def guide(self: Any, x: Tensor, y: Tensor, index: Tensor) -> None:
        self.map_estimate("slopes")
        with self.plate("data", ROWS, subsample=index):
            loc = pyro.param("loc", torch.zeros(ROWS), event_dim=0)
            scale = pyro.param("scale", torch.ones(ROWS), constraints.positive, event_dim=0)
            pyro.sample("offset", dist.Normal(loc, scale))

    svi = engine(model, guide, adam(), Trace_ELBO())

    def step(i: int) -> float:
        index = torch.randperm(ROWS)[:10]
        return svi.step(x[index], y[index], index)

    return step
