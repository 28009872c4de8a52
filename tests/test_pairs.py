"""Every prior with every guide and likelihood: a step where they fit, an error where not."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from cases import GUIDES, LIKELIHOODS, PRIORS, Case
from pyro.infer import SVI
from pyro.optim import Adam

import pyro_vae as pv


def _fit_together(prior: Case, guide: Case) -> bool:
    p, q = prior(), guide()
    return p.event_shape == q.event_shape and p.support is q.support


PAIRS = list(itertools.product(PRIORS, GUIDES))
FITTING = [pair for pair in PAIRS if _fit_together(*pair)]
MISFITS = [pair for pair in PAIRS if not _fit_together(*pair)]


def test_there_are_pairs_of_both_kinds() -> None:
    assert {prior.part for prior, _ in FITTING} == {prior.part for prior in PRIORS}
    assert {guide.part for _, guide in FITTING} == {guide.part for guide in GUIDES}
    assert MISFITS


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
@pytest.mark.parametrize(("prior", "guide"), FITTING, ids=lambda case: str(case))
def test_one_step(prior: Case, guide: Case, likelihood: Case) -> None:
    vae = pv.VAE(
        prior(),
        guide(),
        likelihood(),
        encoder=pv.networks.MLP((8,)),
        decoder=pv.networks.MLP((8,)),
    )
    params = torch.randn(1, *vae.likelihood.param_shape).expand(16, -1)
    x = vae.likelihood(params).sample()
    vae.initialize(x[:9])  # at its own optimum a step may have no gradient
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), pv.objectives.ELBO())
    loss = svi.step(x)
    assert torch.tensor(loss).isfinite()
    for name, parameter in vae.named_parameters():
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), f"{name} has not moved"
    assert vae.log_prob(x, num_samples=5).isfinite().all()
    assert vae.sample(3).shape == vae.reconstruct(x[:3]).shape == (3, *vae.event_shape)


@pytest.mark.parametrize(("prior", "guide"), MISFITS, ids=lambda case: str(case))
def test_a_misfit_names_both(prior: Case, guide: Case) -> None:
    with pytest.raises(ValueError, match=r"^`guide`: ") as error:
        pv.VAE(prior(), guide(), pv.likelihoods.Bernoulli((4,)))
    message = str(error.value)
    assert re.search(rf"{prior.part.__name__}\(.*got {guide.part.__name__}\(", message)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("prior", "guide"),
    [
        (pv.priors.Normal(2), pv.guides.Normal(3)),
        (pv.priors.Categorical(2, 3), pv.guides.GumbelSoftmax(3, 2)),
        (pv.priors.Categorical(2, 3), pv.guides.Normal(6)),
    ],
)
def test_sizes_that_differ_are_a_misfit(prior: pv.priors.Prior, guide: pv.guides.Guide) -> None:
    with pytest.raises(ValueError, match=r"^`guide`: .*\(2.*got .*\([36]"):
        pv.VAE(prior, guide, pv.likelihoods.Bernoulli((4,)))


def test_parts_in_the_wrong_place_are_named() -> None:
    normal = pv.priors.Normal(2)
    with pytest.raises(ValueError, match=r"^`guide`: expected a Guide, got Normal"):
        pv.VAE(normal, normal, pv.likelihoods.Bernoulli((4,)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^`likelihood`: expected a Likelihood, got 'Bernoulli'"):
        pv.VAE(normal, pv.guides.Normal(2), "Bernoulli")  # type: ignore[arg-type]
