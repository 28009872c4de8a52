"""Every prior with every guide and likelihood: a step where they fit, an error where not."""

from __future__ import annotations

import copy
import itertools
import re
from typing import Any

import pyro
import pytest
import torch
from cases import GUIDES, LIKELIHOODS, PRIORS, Case

import pyro_vae as pv
from pyro_vae.data.rows import given_of
from pyro_vae.testing import some_covariates
from pyro_vae.testing.covariates import of_rows


def _fit_together(prior: Case, guide: Case) -> bool:
    return prior().space == guide().space


PAIRS = list(itertools.product(PRIORS, GUIDES))
FITTING = [pair for pair in PAIRS if _fit_together(*pair)]
MISFITS = [pair for pair in PAIRS if not _fit_together(*pair)]


def _case(cases: list[Case], part: type, **arguments: Any) -> Case:
    return next(c for c in cases if c.part is part and c.arguments.items() >= arguments.items())


# One pair of each kind, which every likelihood is tried with: what a likelihood makes of z depends
# on the decoder's inputs, real or one-hot, and on nothing else of prior and guide.
CONTINUOUS = (_case(PRIORS, pv.priors.Normal), _case(GUIDES, pv.guides.Normal))
DISCRETE = (
    _case(PRIORS, pv.priors.Categorical),
    _case(GUIDES, pv.guides.GumbelSoftmax, mode="straight-through"),
)
BERNOULLI = _case(LIKELIHOODS, pv.likelihoods.Bernoulli)


def test_there_are_pairs_of_both_kinds() -> None:
    assert {prior.part for prior, _ in FITTING} == {prior.part for prior in PRIORS}
    assert {guide.part for _, guide in FITTING} == {guide.part for guide in GUIDES}
    assert MISFITS
    assert CONTINUOUS in FITTING
    assert DISCRETE in FITTING


def _sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01)


def _shallow(case: Case) -> Any:
    """Builds a part with one map, if it has any: more of them are captured as the first is."""
    return case(transforms=1) if "transforms" in case.arguments else case()


def _first_of_class(cases: list[Case], case: Case) -> bool:
    return case is _case(cases, case.part)


def _check_a_step(
    prior: Case, guide: Case, likelihood: Case, engines: tuple[str, ...] = ("eager", "inductor")
) -> None:
    """Takes a step by each engine: the same loss, and every parameter moves to the same place."""
    parts = (_shallow(prior), _shallow(guide), likelihood())
    networks = {"encoder": pv.networks.MLP((8,)), "decoder": pv.networks.MLP((8,))}
    vae = pv.VAE(*parts, **networks).double()
    # An odd number: the sum of signs that is the gradient of Laplace's location cannot vanish.
    params = torch.randn(17, *vae.likelihood.param_shape).double()
    named = some_covariates(vae.likelihood, 17)
    x = vae.likelihood(params, **named).sample()
    # At its own optimum a step may have no gradient.
    vae.initialize(x[:9], covariates=of_rows(named, slice(9)))
    first: tuple[float, dict[str, Any]] | None = None
    for engine in engines:
        twin = copy.deepcopy(vae)
        pyro.set_rng_seed(1)
        objective, compiled = pv.objectives.ELBO(), engine == "inductor"
        svi = pv.CompiledSVI(twin.model, twin.guide, _sgd, objective, compile=compiled)
        loss, after = svi.step(x, **given_of({"covariates": named})), dict(twin.named_parameters())
        assert svi.engine_steps == {engine: 1}
        first = first or (loss, after)
        assert loss == pytest.approx(first[0], rel=1e-6)  # one is in single precision
        for name, before in vae.named_parameters():
            assert after[name].isfinite().all(), name
            assert not torch.equal(after[name], before), f"{name} has not moved"
            torch.testing.assert_close(after[name], first[1][name])
    assert vae.log_prob(x, num_samples=5, covariates=named).isfinite().all()
    three = of_rows(named, slice(3))
    reconstructed = vae.reconstruct(x[:3], covariates=three)
    assert vae.sample(3, covariates=three).shape == reconstructed.shape == (3, *vae.event_shape)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("prior", "guide"), FITTING, ids=str)
def test_every_pair_takes_a_step(prior: Case, guide: Case) -> None:
    # Capturing takes most of the time, and prior and guide meet in nothing but z: each option of
    # either with a plain partner here, each with each in the slow test.
    plain = prior is CONTINUOUS[0] or guide is CONTINUOUS[1]
    once = plain or prior().support is not CONTINUOUS[0]().support
    _check_a_step(prior, guide, BERNOULLI, ("eager", "inductor") if once else ("eager",))


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("pair", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_every_likelihood_takes_a_step(likelihood: Case, pair: tuple[Case, Case]) -> None:
    once = pair is CONTINUOUS and _first_of_class(LIKELIHOODS, likelihood)
    _check_a_step(*pair, likelihood, ("eager", "inductor") if once else ("eager",))


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
@pytest.mark.parametrize(("prior", "guide"), FITTING, ids=str)
def test_every_pair_with_every_likelihood(prior: Case, guide: Case, likelihood: Case) -> None:
    _check_a_step(prior, guide, likelihood)


@pytest.mark.parametrize("prior", PRIORS, ids=str)
def test_a_misfit_names_both(prior: Case) -> None:
    likelihood = pv.likelihoods.Bernoulli((4,))
    for guide in [guide for misfit, guide in MISFITS if misfit is prior]:
        with pytest.raises(ValueError, match=r"^`guide`: ") as error:
            pv.VAE(prior(), guide(), likelihood)
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
