"""Where the inputs of graphs live: on the device of the parameters, or no CUDA graph is one.

No device is needed to see that: a model on torch's ``meta`` device has shapes and no values, and
whatever its graph reads from anywhere else shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyro
import pytest
import torch
from cases import GUIDES, OBJECTIVES, PRIORS, Case
from steps import small
from torch import Tensor

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI, compiled
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.rehearsal import Trial
from pyro_vae.programs import VAE

META = torch.device("meta")


def _vae(guide: Any) -> VAE:
    """With the prior of the guide's own name, or else the one of the fewest parameters."""
    fits = [prior for prior in (case() for case in PRIORS) if prior.space == guide.space]
    name = type(guide).__name__
    prior = min(fits, key=lambda prior: (type(prior).__name__ != name, len([*prior.parameters()])))
    networks = {"encoder": pv.networks.MLP((8,)), "decoder": pv.networks.MLP((8,))}
    return VAE(prior, guide, pv.likelihoods.Bernoulli((4,)), **networks)


def _pairs() -> Iterator[tuple[Case, Case]]:
    """Each guide with one objective, and each objective with one guide that it takes."""
    elbo = next(case for case in OBJECTIVES if case.part is pv.objectives.ELBO)
    normal = next(case for case in GUIDES if case.part is pv.guides.Normal)
    states = next(case for case in GUIDES if case.arguments.get("mode") == "enumerate")
    # Torch draws from a Dirichlet distribution on real devices alone.
    yield from ((elbo, guide) for guide in GUIDES if guide.part is not pv.guides.Hyperspherical)
    for objective in OBJECTIVES:
        yield objective, states if objective.part is pv.objectives.Enumerated else normal


def _inputs(
    svi: CompiledSVI, vae: VAE, tensors: Sequence[Tensor], monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    """The tensors that a graph reads besides its arguments; the arguments are looked at here.

    What a rehearsal does with values is left out: there are none.
    """
    seen: list[list[Tensor]] = []

    def compile(graph: Graph, module: Any, args: Sequence[Tensor]) -> None:
        seen.append([t for t in graph._inputs if isinstance(t, Tensor)] + list(args))

    def rehearse(*args: Any) -> Any:
        for program in (vae.model, vae.guide):
            program._register()
        params = [p for p in pyro.get_param_store()._params.values() if p.requires_grad]
        return Trial(params, params, [], 0.0)

    monkeypatch.setattr(compiled, "rehearse", rehearse)
    monkeypatch.setattr(Graph, "_compile", compile)
    monkeypatch.setattr(Graph, "__call__", lambda graph, *args: [torch.zeros(1)])
    svi.step(*tensors)
    assert svi.captures == 1
    return seen[0]


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("objective", "guide"), list(_pairs()), ids=str)
def test_every_input_is_where_the_parameters_are(
    objective: Case, guide: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a schedule, a count or a constant of an objective or a guide is on the CPU."""
    vae = _vae(guide())
    loss = objective()
    loss.prepare(100)
    loss.loss(vae.model, vae.guide, torch.zeros(6, 4))  # what a first run finds out is then known
    pyro.clear_param_store()
    vae.to(META)
    # Nothing of what a tensor holds can be looked at here.
    options = {"validate": False, "check_every": None}
    svi = CompiledSVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p), loss, **options)
    inputs = _inputs(svi, vae, [torch.zeros(6, 4, device=META)], monkeypatch)
    assert {tensor.device for tensor in inputs} == {META}


def test_the_step_of_an_objective_is_saved_on_the_cpu() -> None:
    """A checkpoint is one file for all devices. Fails when it is saved where it lives."""
    objective = pv.objectives.ELBO(warmup=3)
    _, svi = small(False, objective=objective)
    svi._problem.settle(META)
    assert objective.step.device == META
    objective.step = torch.ones(())
    saved = svi.state_dict()["objective_step"]
    objective.advance()
    assert (saved.device.type, float(saved)) == ("cpu", 1.0)
