"""Programs, and steps of them with and without a graph, for the tests of engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI
from torch import Tensor

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI


def tiny() -> pv.VAE:
    parts = (pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((6,)))
    return pv.VAE(*parts, encoder=pv.networks.MLP((8,)), decoder=pv.networks.MLP((8,)))


Ran: TypeAlias = tuple[list[float], dict[str, Tensor], Any]


def _each(run: Callable[[Any], tuple[list[float], Any]], engines: Sequence[Any]) -> list[Ran]:
    """Runs with each engine from one seed; returns losses, parameters, and what took the steps."""
    ran = []
    for engine in engines:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        losses, svi = run(engine)
        store = pyro.get_param_store()
        ran.append((losses, {name: store[name].detach().clone() for name in store}, svi))
    return ran


def eager_and_captured(
    run: Callable[[bool], tuple[list[float], CompiledSVI]],
) -> tuple[CompiledSVI, CompiledSVI]:
    """Runs with and without capture from one seed, and compares losses and parameters."""
    (losses, params, eager), (our_losses, our_params, ours) = _each(run, (False, True))
    torch.testing.assert_close(our_losses, losses, atol=1e-4, rtol=1e-4)
    # By their order: a model that is made anew may have other names.
    found, wanted = list(our_params.values()), list(params.values())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    return eager, ours


def small(
    compile: bool | str = True, optim: Any = None, objective: Any = None, **options: Any
) -> tuple[pv.VAE, CompiledSVI]:
    # In double precision, where Adam does not blow a difference in rounding up to a step.
    vae = tiny() if "precision" in options else tiny().double()
    optim = optim or (lambda params: torch.optim.Adam(params, lr=0.01))
    objective = objective or pv.objectives.ELBO()
    return vae, CompiledSVI(vae.model, vae.guide, optim, objective, compile=compile, **options)


OPTIMISERS: dict[str, Any] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, maximize=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD, dampening": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, dampening=0.5),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "groups": lambda p: torch.optim.Adam([{"params": p[:2], "lr": 0.1}, {"params": p[2:]}]),
    "Pyro's ClippedAdam": pyro.optim.ClippedAdam({"lr": 0.01, "clip_norm": 1.0}),
    "Pyro's Adam, clipped": pyro.optim.Adam({"lr": 0.01}, {"clip_norm": 1.0}),
    "Pyro's scheduler": pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.9}
    ),
}


def normal_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))


def normal_model(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def against_stock(run: Callable[[type], Any]) -> CompiledSVI:
    """Runs with stock SVI and with ours from one seed, and compares losses and parameters."""
    (stock_losses, stock, _), (losses, ours, svi) = _each(run, (SVI, CompiledSVI))
    torch.testing.assert_close(losses, stock_losses, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)
    assert isinstance(svi, CompiledSVI)
    return svi


def equals_stock(run: Callable[[type], tuple[list[float], Any]]) -> CompiledSVI:
    """The same in double precision, where nothing but the last digits may differ."""
    (stock_losses, stock, _), (losses, ours, svi) = _each(run, (SVI, CompiledSVI))
    torch.testing.assert_close((losses, ours), (stock_losses, stock), atol=1e-9, rtol=1e-9)
    assert isinstance(svi, CompiledSVI)
    return svi
