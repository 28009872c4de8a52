"""Models of p(x | condition): every part is conditioned, and a wrong condition is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CONDITIONAL, Case
from small import MIXED, small
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, priors

COND = torch.eye(3).double().repeat(4, 1)


@pytest.mark.parametrize("case", CONDITIONAL, ids=str)
def test_conditional_priors_depend_on_the_condition(case: Case, tmp_path: Path) -> None:
    vae = small(case(), guides.Normal(2), cond_size=3)
    with torch.no_grad():
        for parameter in vae.prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    x = torch.ones(12, 4).double()
    p = vae.prior(COND)
    assert p.batch_shape == (12,)
    assert vae.prior.support is constraints.real_vector
    z = torch.randn(12, 2).double()
    one_by_one = torch.cat([vae.prior(c[None]).log_prob(v[None]) for c, v in zip(COND, z)])  # noqa: B905
    torch.testing.assert_close(p.log_prob(z), one_by_one)
    assert len(p.log_prob(z[:1].expand(12, -1)).unique()) == 3
    loss = pv.objectives.ELBO().differentiable_loss(vae.model, vae.guide, x, cond=COND)
    loss.backward()
    assert all(bool(q.grad.abs().sum() > 0) for q in vae.parameters())  # type: ignore[union-attr]
    pv.save(vae, tmp_path / "run")
    twin = pv.load(tmp_path / "run")
    torch.testing.assert_close(twin.prior(COND).log_prob(z), p.log_prob(z))


@pytest.mark.parametrize(
    ("encoder", "decoder", "shape"),
    [
        (networks.MLP((8,)), networks.MLP((8,)), (4,)),
        (networks.ConvEncoder((2,)), networks.ConvDecoder((2,)), (1, 4, 4)),
    ],
    ids=["mlp", "conv"],
)
def test_a_conditional_model_conditions_all_its_parts(
    encoder: Any, decoder: Any, shape: tuple[int, ...]
) -> None:
    vae = pv.VAE(
        priors.Normal(2), guides.Normal(2), likelihoods.Bernoulli(shape), encoder, decoder, 3
    ).double()
    x = torch.ones(12, *shape).double()
    q = vae.encode(x, cond=COND)
    assert len(q.mean.unique(dim=0)) == 3
    assert len(vae.decode(torch.zeros(12, 2).double(), cond=COND).mean.unique(dim=0)) == 3
    assert vae.sample(12, cond=COND).shape == vae.reconstruct(x, cond=COND).shape == x.shape
    torch.manual_seed(1)
    one = vae.log_prob(x, 200, cond=COND)
    scores = pv.evaluate(vae, x, cond=COND, num_samples=2000)
    assert abs(one - torch.from_numpy(scores.log_marginal)).max() < 0.5
    assert scores.base_measure["cond"]
    shown = vae.sample(3, cond=torch.eye(3).double()[[0, 0, 0]])
    assert shown.shape == (3, *shape)


@pytest.mark.parametrize(
    "prior",
    [
        priors.Normal(2),
        priors.Conditional(2),
        priors.Product([{"class": "Conditional", "dim": 1}, {"class": "Normal", "dim": 1}]),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_a_model_at_one_condition_is_that_model(prior: Any) -> None:
    """Fails when another condition is taken."""
    one = {"class": "Normal", "dim": 1}
    guide = guides.Product([one, one]) if len(prior.space) > 1 else guides.Normal(2)
    vae = small(prior, guide, likelihoods.Normal((4,)), cond_size=3, show_mask=True)
    x = torch.randn(30, 4).double()
    vae.initialize(x)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    cond = torch.tensor([0.0, 1.0, 0.0]).double()
    group, rows = vae.at(cond), cond.expand(30, -1)
    for seed in (1, 2):
        scores = pv.evaluate(vae, x, cond=rows, num_samples=20, seed=seed)
        fixed = pv.evaluate(group, x, num_samples=20, seed=seed)
        torch.testing.assert_close(
            torch.from_numpy(scores.log_marginal), torch.from_numpy(fixed.log_marginal)
        )
    torch.manual_seed(3)
    drawn = vae.sample(30, cond=rows)
    torch.manual_seed(3)
    assert torch.allclose(drawn, group.sample(30))
    pv.evaluation.rate_distortion(group, x)
    with torch.no_grad():
        next(vae.decoder.parameters()).add_(1.0)
    again = pv.evaluate(group, x, num_samples=20, seed=2)
    assert (again.log_marginal == fixed.log_marginal).all()  # it is a copy
    for says, call in (
        (r"`cond`: expected a tensor of shape", lambda: vae.at(rows)),
        (r"`cond`: expected None", lambda: group.at(cond)),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_states_are_summed_under_the_condition_of_each_observation() -> None:
    """Against each state apart; fails when states have a batch of their own, or one condition."""
    guide = guides.GumbelSoftmax(2, 3, mode="enumerate")
    vae = small(priors.Categorical(2, 3), guide, cond_size=3)
    x = torch.eye(4).double().repeat(3, 1)
    states = vae.prior().enumerate_support()
    joint = [
        vae.decode(state.expand(12, 2, 3), cond=COND).log_prob(x) + vae.prior().log_prob(state)
        for state in states
    ]
    exact = torch.stack(joint).logsumexp(0)
    found = pv.objectives.Enumerated("prior").terms(vae.model, vae.guide, x, cond=COND).elbo
    torch.testing.assert_close(found, exact)
    log_q = torch.stack([vae.encode(x, cond=COND).log_prob(state) for state in states])
    bound = (log_q.exp() * (torch.stack(joint) - log_q)).sum()
    for objective in (pv.objectives.Enumerated(), pv.objectives.ELBO(num_particles=2)):
        loss = objective.differentiable_loss(vae.model, vae.guide, x, cond=COND)
        torch.testing.assert_close(-loss, bound)


def test_wrong_conditions_are_named_in_one_line() -> None:
    x = torch.ones(2, 4).double()
    plain = small(priors.Normal(2), guides.Normal(2))
    given = small(priors.Normal(2), guides.Normal(2), cond_size=3)
    bad = COND[:2].clone()
    bad[0, 0] = torch.nan
    for says, call in (
        (r"`cond`: expected None for a model built without", lambda: plain.log_prob(x, 1, cond=x)),
        (r"`cond`: expected a tensor of shape \(2, 3\), got None", lambda: given.log_prob(x, 1)),
        (r"`cond`: expected a tensor of shape \(2, 3\)", lambda: given.sample(2, cond=COND)),
        (r"`cond`: expected finite numbers, got '1 that", lambda: given.sample(2, cond=bad)),
        (r"`cond`: expected a tensor of shape", lambda: pv.evaluation.gaps(given, x)),
        (r"`cond`: expected a tensor of shape", lambda: pv.criticism.check(given, x)),
        (r"`cond_size`: expected a positive", lambda: small(*_normals(), cond_size=0)),
        (r"`show_mask`: expected True or False", lambda: small(*_normals(), show_mask=1)),
        (
            r"`cond_size`: expected the entries of a condition",
            lambda: small(priors.Conditional(2), guides.Normal(2)),
        ),
        (
            r"`prior`: expected one that takes conditions",
            lambda: small(priors.VampPrior(2), guides.Normal(2), cond_size=3),
        ),
        (
            r"`guide`: expected latents that are independent given x",
            lambda: small(
                priors.Product([priors.VampPrior(2), priors.Categorical(1, 3)]),
                guides.Product([guides.Normal(2), guides.GumbelSoftmax(1, 3)], independent=False),
            ),
        ),
        (r"`prior`: expected one that is part of a VAE", lambda: priors.VampPrior(2)()),
        (
            r"`guide`: expected one that is part of a VAE",
            lambda: guides.Hierarchy((1, 2))(torch.zeros(2, 6)).sample(),
        ),
        (r"`parts`: expected two or more priors", lambda: priors.Product(["Normal"])),
        (
            "`parts`: did you mean 'Normal'.* got 'Norml'",
            lambda: priors.Product([{"class": "Norml"}, "Normal"]),
        ),
        (
            r"`parts`: expected options of Normal",
            lambda: priors.Product([{"class": "Normal", "dims": 2}, {"class": "Normal", "dim": 1}]),
        ),
        (
            r"`guide`: expected a distribution on the same space .*z1: .*z2: .* got Normal",
            lambda: small(priors.Product(MIXED), guides.Normal(5)),
        ),
        (r"`dims`: expected two or more", lambda: priors.Hierarchy([2])),
        (r"`direction`: expected one of", lambda: guides.Hierarchy([2, 2], direction="up")),
    ):
        with pytest.raises(ValueError, match=says) as error:
            call()
        assert "\n" not in str(error.value)


def test_programs_and_distributions_tell_of_wrong_conditions_and_masks_in_one_line() -> None:
    """Whoever calls them; fails when torch is left to find out."""
    x, z = torch.ones(4, 4).double(), torch.zeros(3, 4, 2).double()
    plain = small(*_normals())
    given = [small(prior(2), guides.Normal(2), cond_size=3) for prior in _CONDITIONED]
    for vae in (plain, *given):
        calls: list[Any] = [
            lambda v=vae, **k: v.encode(x, **k),
            lambda v=vae, **k: v.decode(z, **k),
            lambda v=vae, **k: v.model(x, **k),
            lambda v=vae, **k: v.guide(x, **k),
        ]
        right = COND[:4] if vae in given else None
        wrong: list[Any] = [COND[:4, :2], COND[:3], COND[0, 0]]
        wrong += [None] if vae in given else [COND[:4]]
        for call in calls:
            call(cond=right)
            for cond in wrong:
                with pytest.raises(ValueError, match=r"^`cond`: expected .*[^\n]*$") as error:
                    call(cond=cond)
                assert "\n" not in str(error.value)
            with pytest.raises(
                ValueError, match=r"^`mask`: expected a boolean tensor.*, got Tensor"
            ):
                call(cond=right, mask=torch.ones(4, 4))
            call(cond=right, mask=torch.ones(4, 4, dtype=torch.bool))
    for vae in given:
        vae.encode(x, cond=COND[0])  # one for all


_CONDITIONED = (priors.Normal, priors.Conditional)


def _normals() -> tuple[Any, Any]:
    return priors.Normal(2), guides.Normal(2)
