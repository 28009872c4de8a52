"""Parts that need the rest of the model, and latents of several sites."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from small import MIXED, small
from torch import Tensor
from torch.distributions import constraints, kl_divergence

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, priors
from pyro_vae.data import Rows
from pyro_vae.distributions import (
    GroupedOneHotCategorical,
    JointBernoulli,
    Site,
    Space,
    same_support,
)
from pyro_vae.distributions.joint import Joint


def _mixed(mode: str = "straight-through") -> pv.VAE:
    guide = guides.Product([guides.Normal(2), guides.GumbelSoftmax(1, 3, mode=mode)])
    return small(priors.Product(MIXED), guide)


def test_the_vamp_prior_is_the_mixture_of_the_guide_at_its_pseudo_inputs() -> None:
    """Fails when the pseudo-inputs are standardised a second time."""
    prior = priors.VampPrior(2, pseudo_inputs=3)
    vae = small(prior, guides.Normal(2))
    x = torch.randint(2, (20, 4)).double()
    vae.initialize(x)
    standardize = vae.guide.standardize
    rows = prior.pseudo * standardize.scale + standardize.shift
    assert all(any(torch.allclose(row, observation) for observation in x) for row in rows)
    z = torch.randn(5, 2).double()
    each = vae.encode(rows).log_prob(z[:, None])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(-1) - torch.tensor(3.0).log())


def test_more_pseudo_inputs_than_data_repeat_them() -> None:
    prior = priors.VampPrior(2, pseudo_inputs=7, inputs="data")
    vae = small(prior, guides.Normal(2))
    vae.initialize(torch.eye(4)[:3].double())
    assert len(prior.pseudo.unique(dim=0)) == 3
    assert "pseudo" not in dict(prior.named_parameters())
    assert "pseudo" in prior.state_dict()


def test_a_copy_is_bound_to_itself() -> None:
    """Fails when a copy's prior still encodes with the original's network."""
    vae = small(priors.VampPrior(2, pseudo_inputs=3), guides.Normal(2))
    for twin in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        z = torch.randn(5, 2).double()
        before = vae.prior().log_prob(z)
        torch.testing.assert_close(twin.prior().log_prob(z), before)
        with torch.no_grad():
            for parameter in twin.encoder.parameters():
                parameter.add_(0.5)
        assert not torch.allclose(twin.prior().log_prob(z), before)
        torch.testing.assert_close(vae.prior().log_prob(z), before)


def _vamp_product(mode: str = "straight-through") -> pv.VAE:
    prior = priors.Product([priors.VampPrior(2, pseudo_inputs=3), priors.Categorical(1, 3)])
    guide = guides.Product([guides.Normal(2), guides.GumbelSoftmax(1, 3, mode=mode)])
    return small(prior, guide)


def test_a_vamp_prior_of_one_site_is_the_mixture_of_the_guide_there() -> None:
    """Beside a discrete site; fails when it is made of the guide of all sites, or of another's."""
    vae = _vamp_product()
    x = torch.randint(2, (20, 4)).double()
    vae.initialize(x)
    z = vae.prior().sample((5,))
    features = vae.guide.encode_inputs(vae.prior.parts[0].pseudo)
    distribution = vae.guide_family(features).site("z1", {})
    log_vamp = distribution.log_prob(z[:, None, :2]).logsumexp(-1) - torch.tensor(3.0).log()
    torch.testing.assert_close(vae.prior().log_prob(z), log_vamp - torch.tensor(3.0).log())
    twin = copy.deepcopy(vae)
    with torch.no_grad():
        next(twin.encoder.parameters()).add_(0.5)
    assert not torch.allclose(twin.prior().log_prob(z), vae.prior().log_prob(z))


@pytest.mark.parametrize("mode", ["straight-through", "enumerate"])
def test_a_vamp_prior_of_one_site_trains(mode: str, tmp_path: Path) -> None:
    vae = _vamp_product(mode)
    x = torch.randint(2, (20, 4)).double()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    pv.fit(vae, x, epochs=2, batch_size=10, seed=0, compile=False)
    assert not [name for name, p in vae.named_parameters() if torch.equal(p, before[name])]
    pv.save(vae, tmp_path / "run")
    twin, z = pv.load(tmp_path / "run"), vae.prior().sample((5,))
    torch.testing.assert_close(twin.prior().log_prob(z), vae.prior().log_prob(z))


def test_a_prior_keeps_what_it_has_learned_in_another_model() -> None:
    """Fails when a part is made anew each time that a model takes it."""
    sizes = {priors.VampPrior: None, priors.Conditional: 3}
    for prior, cond_size in ((kind(2), size) for kind, size in sizes.items()):
        first = small(prior, guides.Normal(2), cond_size=cond_size)
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(1.0)
        learned = {name: value.clone() for name, value in prior.state_dict().items()}
        assert learned
        for twin in (prior, copy.deepcopy(first).prior):
            second = small(twin, guides.Normal(2), cond_size=cond_size)
            assert all(torch.equal(v, learned[n]) for n, v in second.prior.state_dict().items())
        other, says = (
            ({"cond_size": 2}, r"`cond_size`: expected 3, .* got 2")
            if cond_size
            else ({"likelihood": likelihoods.Bernoulli((5,))}, r"`prior`: .*shape \(4,\).*\(5,\)")
        )
        with pytest.raises(ValueError, match=says):
            small(prior, guides.Normal(2), **other)


def test_dropout_is_off_in_the_priors_distribution_too() -> None:
    """Of a model left in `train` mode; fails when the prior encodes with units left out."""
    vae = pv.VAE(
        priors.VampPrior(2, pseudo_inputs=3),
        guides.Normal(2),
        likelihoods.Bernoulli((4,)),
        networks.MLP((8,), dropout=0.5),
        networks.MLP((8,)),
    ).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(3)  # such that a unit more or less is seen
    x = torch.eye(4).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    z = torch.randn(5, 4, *vae.prior.event_shape).double()
    calls = {
        "sample": lambda: vae.sample(5),
        "log_prob": lambda: vae.log_prob(x, 5),
        "impute": lambda: vae.draw_weighted(Rows(x, {"mask": mask}), 5).log_weights,
        "log_joint": lambda: vae.log_joint(z, Rows(x)),
    }
    for name, call in calls.items():
        drawn = []
        for training in (False, True):
            vae.train(training)
            torch.manual_seed(1)
            drawn.append(call())
            assert all(module.training == training for module in vae.modules())
        torch.testing.assert_close(*drawn, rtol=0, atol=0, msg=name)


def test_a_part_that_is_bound_owns_none_of_the_rest() -> None:
    vae = small(priors.VampPrior(2, pseudo_inputs=3), guides.SemiAmortized(2))
    assert list(dict(vae.prior.named_parameters())) == ["pseudo"]
    assert not list(vae.guide_family.parameters())
    keys = list(vae.state_dict())
    assert len(keys) == len(set(keys)) == len({t.data_ptr() for t in vae.state_dict().values()})


def test_the_joint_distribution_is_the_product_of_its_sites() -> None:
    vae = _mixed()
    prior, x = vae.prior, torch.ones(6, 4).double()
    trace = poutine.trace(vae.model).get_trace(x)
    assert [n for n, s in trace.nodes.items() if s["type"] == "sample"][1:] == ["z1", "z2", "x"]
    draws = {name: trace.nodes[name]["value"] for name in ("z1", "z2")}
    trace.compute_log_prob()
    by_site = trace.nodes["z1"]["log_prob"] + trace.nodes["z2"]["log_prob"]
    torch.testing.assert_close(prior().log_prob(prior.space.join(draws)), by_site)
    z = prior().sample((3, 6))
    assert z.shape == (3, 6, 5)
    assert bool(prior.support.check(z).all())
    assert not bool(prior.support.check(z + 0.5).any())
    assert not prior().has_rsample
    with pytest.raises(NotImplementedError):
        prior().enumerate_support()


def test_divergence_of_products_is_the_sum_of_their_sites() -> None:
    vae = _mixed()
    x = torch.ones(6, 4).double()
    q = vae.encode(x)
    prior = vae.prior()
    by_site = sum(kl_divergence(q.site(n, {}), prior.site(n, {})) for n in vae.space)
    torch.testing.assert_close(kl_divergence(q, vae.prior()), by_site)
    assert pv.evaluate(vae, x, num_samples=10).kl_estimator == "analytic"


def test_discrete_products_are_enumerated() -> None:
    """Fails when the states of one site are paired with those of the next, not crossed."""
    two = [{"class": "Categorical", "groups": 1, "classes": k} for k in (2, 3)]
    guide = guides.Product([guides.GumbelSoftmax(1, k) for k in (2, 3)])
    vae = small(priors.Product(two), guide)
    x = torch.ones(6, 4).double()
    exact = pv.evaluation.enumerate_log_prob(vae, x)
    by_hand = torch.stack(
        [
            vae.decode(torch.cat([a, b]).expand(6, -1)).log_prob(x)
            for a in torch.eye(2).double()
            for b in torch.eye(3).double()
        ]
    )
    torch.testing.assert_close(exact, by_hand.logsumexp(0) - torch.tensor(6.0).log())


def test_states_are_counted_before_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the states of a site are listed to tell that there are too many of all."""
    parts = [{"class": "Bernoulli", "dim": 16}, {"class": "Categorical", "groups": 2, "classes": 5}]
    distribution = priors.Product(parts)()
    assert distribution.num_states == 2**16 * 25

    def listed(*_: Any, **__: Any) -> Any:
        raise AssertionError("listed")

    for kind in (JointBernoulli, GroupedOneHotCategorical):
        monkeypatch.setattr(kind, "enumerate_support", listed)
    with pytest.raises(
        ValueError, match=r"`prior`: expected at most 65536 joint states, got 16384"
    ):
        distribution.enumerate_support()
    with pytest.raises(NotImplementedError):
        _ = priors.Product(MIXED)().num_states


@pytest.mark.parametrize("mode", ["enumerate", "concrete", "straight-through", "soft"])
def test_continuous_and_discrete_sites_train_together(mode: str) -> None:
    vae = _mixed(mode)
    before = [p.detach().clone() for p in vae.parameters()]
    loss = pv.objectives.ELBO(
        kl="sampled" if mode == "concrete" else "analytic"
    ).differentiable_loss(vae.model, vae.guide, torch.ones(6, 4).double())
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in vae.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def _two_discrete(first: dict[str, Any], second: dict[str, Any]) -> pv.VAE:
    sizes = ((1, 3), (1, 2))
    prior = priors.Product([priors.Categorical(*size) for size in sizes])
    options = zip(sizes, (first, second), strict=True)
    return small(prior, guides.Product([guides.GumbelSoftmax(*n, **o) for n, o in options]))


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.permutations(["concrete", "enumerate", "soft"], 2))
)
def test_each_site_is_relaxed_as_it_asks(first: str, second: str) -> None:
    """Guide and model alike; fails when the first relaxation is that of the whole guide."""
    vae = _two_discrete({"mode": first, "temperature": 0.6}, {"mode": second, "temperature": 2.0})
    objective, x = pv.objectives.ELBO(), torch.ones(6, 4).double()
    with objective._relaxed(vae.guide, {}):
        ((model, guide),) = objective._traces(vae.model, vae.guide, (x,), {})
    wanted = {"z1": (first, 0.6), "z2": (second, 2.0)}
    for trace in (model, guide):
        for name, (mode, temperature) in wanted.items():
            site = trace.nodes[name]
            assert site["infer"]["relaxed"] == mode
            has = getattr(site["fn"], "base_dist", None)
            assert getattr(has, "temperature", None) == (
                temperature if mode == "concrete" else None
            )
    for name, (mode, _) in wanted.items():
        value = guide.nodes[name]["value"]
        value = value.exp() if mode == "concrete" else value
        torch.testing.assert_close(value.sum(-1), torch.ones_like(value[..., 0]))
        assert bool(((value == 0) | (value == 1)).all()) == (mode == "enumerate")
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in vae.parameters())  # type: ignore[union-attr]


def test_one_site_is_enumerated_and_another_drawn() -> None:
    """The mean loss is minus the exact ELBO, within 4 standard errors of 60 means of 200 draws.

    Fails when the states of one count equally, or both sites are relaxed as the first.
    """
    vae = _two_discrete({"mode": "straight-through"}, {"mode": "enumerate"})
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(3)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]]).double()
    q, prior = vae.encode(x), vae.prior()
    states = q.enumerate_support()
    log_q = q.log_prob(states)
    gain = vae.decode(states).log_prob(x) + prior.log_prob(states) - log_q
    exact = -(log_q.exp() * gain).sum()
    torch.manual_seed(0)
    objective, many = pv.objectives.ELBO(), x.expand(200, -1)
    each = [objective.loss(vae.model, vae.guide, many) / 200 for _ in range(60)]
    losses = torch.tensor(each).double()
    error = losses.std() / 60**0.5
    assert abs(losses.mean() - exact) < 4 * error


def test_what_one_site_asks_for_counts_for_the_bound() -> None:
    """Fails when the first relaxation is taken for that of the whole guide."""
    guide = _two_discrete({"mode": "enumerate"}, {"mode": "soft"}).guide
    assert list(guide.relaxations) == ["z1", "z2"]
    assert not pv.objectives.ELBO().bounds(guide)
    vae, x = _two_discrete({"mode": "concrete"}, {"mode": "soft"}), torch.ones(2, 4).double()
    for objective, says in (
        (pv.objectives.IWAE(2), r"`guide`: expected the relaxation `concrete`.*got 'soft'"),
        (pv.objectives.ELBO("sampled"), r"`kl`: expected `analytic` with the relaxation 'soft'"),
        (pv.objectives.MMD(), r"`guide`: expected the relaxation `soft`.*got 'concrete'"),
    ):
        with pytest.raises(ValueError, match=says):
            objective.loss(vae.model, vae.guide, x)


def test_enumerating_one_site_weighs_the_others() -> None:
    """The exact expectation over y of a continuous site that depends on it, by hand.

    Fails when the divergence of a site is summed over the states of another without weights.
    """

    class Both(guides.Product):
        """q(y|x) q(z|x, y): the location of z moves with y."""

        def forward(self, features: Tensor) -> Any:
            joint = super().forward(features)

            def site(name: str, earlier: Any) -> Any:
                alone = joint.site(name, earlier)
                if name == "z1":
                    return alone
                move = earlier["z1"] @ torch.tensor([[0.0], [1.0], [3.0]]).double()
                return dist.Normal(alone.mean + move[..., 0, :], 0.7).to_event(1)

            return Joint(site, self.space, batch_shape=features.shape[:-1])

    vae = small(
        priors.Product(MIXED[::-1]),
        Both([guides.GumbelSoftmax(1, 3, mode="enumerate"), guides.Normal(2)]),
    )
    x = torch.eye(4).double()
    torch.manual_seed(0)
    loss = pv.objectives.ELBO().differentiable_loss(vae.model, vae.guide, x)
    joint, prior = vae.encode(x), vae.prior()
    q = joint.site("z1", {})
    probs = q.base_dist.probs[:, 0]
    by_hand = kl_divergence(q, prior.site("z1", {})).sum()
    torch.manual_seed(0)
    states = torch.eye(3).double()[:, None, None].expand(3, 4, 1, 3)
    distribution = joint.site("z2", {"z1": states})
    z = distribution.rsample()
    by_hand = by_hand + (probs.T * kl_divergence(distribution, prior.site("z2", {}))).sum()
    reconstruction = vae.decode(vae.space.join({"z1": states, "z2": z})).log_prob(x)
    torch.testing.assert_close(loss, by_hand - (probs.T * reconstruction).sum())


def _linear(direction: str) -> pv.VAE:
    """Two layers and linear maps, all normal, so that the posterior is known."""
    dims = [1, 2]
    vae = pv.VAE(
        priors.Hierarchy(dims, hidden=()),
        guides.Hierarchy(dims, direction=direction, hidden=()),
        likelihoods.Normal((3,), scale=1.0),
        encoder=networks.MLP(()),
        decoder=networks.MLP(()),
    ).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in vae.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise)
        (below,) = vae.prior.below
        below.network.layers[0].weight[2:] = 0.0  # a scale that does not depend on the layer above
    return vae


def _marginal(vae: pv.VAE) -> dist.MultivariateNormal:
    """The distribution of x by what linear maps do to means and covariances."""
    (below,) = vae.prior.below
    (map_z,), (map_x,) = below.network.layers, vae.decoder.layers
    scale = torch.nn.functional.softplus(map_z.bias[2:]) + 1e-4
    loc = map_x.weight @ map_z.bias[:2] + map_x.bias
    of_z = map_z.weight[:2] @ map_z.weight[:2].T + torch.diag(scale**2)
    noise = torch.eye(3, dtype=torch.float64)
    return dist.MultivariateNormal(loc, map_x.weight @ of_z @ map_x.weight.T + noise)


@pytest.mark.parametrize("direction", ["ladder", "bottom-up"])
def test_a_linear_hierarchy_has_the_evidence_of_its_normal_law(direction: str) -> None:
    """Within 4 standard errors of exact; fails when the decoder sees the top layer."""
    vae = _linear(direction)
    with torch.no_grad():
        exact_law = _marginal(vae)
        torch.manual_seed(0)
        x = exact_law.sample((40,))
    scores = pv.evaluate(vae, x, num_samples=20_000, proposal="defensive", seed=1)
    exact = exact_law.log_prob(x).detach().numpy()
    error = (scores.mcse**2).sum() ** 0.5
    assert abs((scores.log_marginal - exact).sum()) < 4 * error + 40 * 1e-3
    assert (scores.elbo < exact).all()
    assert scores.kl_estimator == "sampled"


@pytest.mark.parametrize("direction", ["ladder", "bottom-up"])
def test_divergences_of_layers_are_those_of_their_draws(direction: str) -> None:
    """Closed form or not, within 4 standard errors, where layers say much about each other.

    Fails when that of the lowest layer has a closed form though the one above is drawn after it.
    """
    vae = _linear(direction)
    with torch.no_grad():
        for given in [*vae.prior.below, *getattr(vae.guide_family, "above", [])]:
            (layer,) = given.network.layers
            loc, raw_scale = layer.weight.chunk(2)
            loc.fill_(1.0)
            raw_scale.zero_()
    x = torch.ones(1, 3).double().expand(20_000, -1)
    found = []
    for kl in ("analytic", "sampled"):
        torch.manual_seed(0)
        found.append(pv.objectives.ELBO(kl=kl).terms(vae.model, vae.guide, x))  # type: ignore[arg-type]
    means = [each.kl.mean() for each in found]
    error = sum(each.kl.var() / len(x) for each in found) ** 0.5
    assert abs(means[0] - means[1]) < 4 * error
    assert found[0].kl_estimator == {
        "z2": "analytic",
        "z1": "analytic" if direction == "ladder" else "sampled",
    }


@pytest.mark.parametrize("reverse", [False, True])
def test_a_pair_of_ones_own_has_a_closed_form_in_the_order_of_the_model(reverse: bool) -> None:
    """Fails when a closed form is taken of a distribution given what the guide draws later."""

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            above = pyro.sample("above", dist.Normal(torch.zeros(len(x)), 1.0))
            below = pyro.sample("below", dist.Normal(above, 1.0))
            pyro.sample("x", dist.Normal(below, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        names = ["below", "above"] if reverse else ["above", "below"]
        with pyro.plate("data", len(x)):
            first = pyro.sample(names[0], dist.Normal(x, 1.0))
            pyro.sample(names[1], dist.Normal(first, 0.5))

    terms = pv.objectives.ELBO().terms(model, guide, torch.ones(3))
    below = "sampled" if reverse else "analytic"
    assert terms.kl_estimator == {"above": "analytic", "below": below}


def test_a_ladder_multiplies_the_distributions_of_encoder_and_prior() -> None:
    """Fails when variances are added in place of precisions."""
    vae = _linear("ladder")
    x = torch.randn(5, 3).double()
    features = vae.guide.features(x)
    above = torch.randn(5, 1).double()
    distribution = vae.guide_family(features).site("z1", {"z2": above})
    said, prior = features[:, 2:].chunk(2, -1), vae.prior().site("z1", {"z2": above})
    scale = torch.nn.functional.softplus(said[1]) + 1e-4
    z = torch.randn(7, 5, 2).double()
    product = dist.Normal(said[0], scale).to_event(1).log_prob(z) + prior.log_prob(z)
    ratio = product - distribution.log_prob(z)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))  # the same but for a constant


def test_names_of_sites_and_what_the_decoder_sees() -> None:
    vae = _linear("bottom-up")
    x = torch.randn(5, 3).double()
    trace = poutine.trace(vae.guide).get_trace(x)
    assert [n for n, s in trace.nodes.items() if s["type"] == "sample"][1:] == ["z1", "z2"]
    model = poutine.trace(poutine.replay(vae.model, trace=trace)).get_trace(x)
    z1 = trace.nodes["z1"]["value"]
    torch.testing.assert_close(
        model.nodes["x"]["fn"].base_dist.loc, vae.decoder(z1), rtol=1e-12, atol=1e-12
    )


def test_the_joint_draws_are_the_programs_draws() -> None:
    """Means of draws of the joint distribution and of the program's sites agree within 4 errors."""
    vae = _linear("bottom-up")
    x = torch.zeros(1, 3).double()
    torch.manual_seed(0)
    joint = vae.encode(x).sample((20_000,))[:, 0]
    trace = poutine.trace(vae.guide).get_trace(x.expand(20_000, -1))
    program = torch.cat([trace.nodes[name]["value"] for name in ("z2", "z1")], -1)
    error = ((joint.var(0) + program.var(0)) / 20_000).sqrt()
    assert ((joint.mean(0) - program.mean(0)) / error).abs().max() < 4
    torch.testing.assert_close(joint.T.cov(), program.T.cov(), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("direction", ["ladder", "bottom-up"])
def test_stock_pyro_trains_a_hierarchy(direction: str) -> None:
    dims = (1, 2)
    vae = small(priors.Hierarchy(dims), guides.Hierarchy(dims, direction=direction))
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(torch.eye(4).double())
    assert not [name for name, p in vae.named_parameters() if torch.equal(p, before[name])]


def test_a_joint_distribution_of_dependent_sites_has_no_closed_divergence() -> None:
    def site(name: str, earlier: Any) -> Any:
        loc = torch.zeros(1) if name == "a" else earlier["a"]
        return dist.Normal(loc, 1.0).to_event(1)

    one = Site(torch.Size([1]), constraints.real_vector)
    joint = Joint(site, Space({"a": one, "b": one}))
    with pytest.raises(NotImplementedError):
        kl_divergence(joint, joint)
    z = joint.rsample((50_000,))
    torch.testing.assert_close(
        z.T.cov(), torch.tensor([[1.0, 1.0], [1.0, 2.0]]), atol=0.05, rtol=0.05
    )
    assert joint.has_rsample
    assert joint.expand((3,)).sample((2,)).shape == (2, 3, 2)
    assert isinstance(joint.mean, Tensor)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_copy_is_on_the_same_space(conditional: bool) -> None:
    """Fails when supports are compared by identity, as a copy of a support is another object."""
    if conditional:
        parts: Any = (priors.Conditional(2), guides.Normal(2))
    else:
        parts = (
            priors.Product([priors.Normal(2), priors.Laplace(1)]),
            guides.Product([guides.Normal(2), guides.Normal(1)]),
        )
    vae = pv.VAE(*parts, likelihoods.Bernoulli((4,)), cond_size=3 if conditional else None)
    vae = vae.at(torch.zeros(3)) if conditional else vae
    for twin in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        assert same_support(twin.prior.support, constraints.real_vector)
        assert same_support(twin.guide_family.support, constraints.real_vector)
        assert twin.prior.space == twin.guide_family.space


def test_two_sites_are_not_enumerated_together() -> None:
    """Fails when their states are broadcast against each other before anybody asks."""
    parts = [
        {"class": "GumbelSoftmax", "groups": 1, "classes": 3, "mode": "enumerate"},
        {"class": "RelaxedBernoulli", "dim": 2, "mode": "enumerate"},
    ]
    with pytest.raises(ValueError, match="`parts`: expected at most one whose states are enum"):
        guides.Product(parts)
    del parts[0]["mode"], parts[1]["mode"]
    prior = priors.Product([priors.Categorical(1, 3), priors.Bernoulli(2)])
    vae = small(prior, guides.Product(parts))
    for over in ("guide", "prior"):
        objective = pv.objectives.Enumerated(over)  # type: ignore[arg-type]
        for call in (objective.loss, objective.terms):
            with pytest.raises(ValueError, match=r"`guide`: expected one latent site.*'z1', 'z2'"):
                call(vae.model, vae.guide, torch.ones(5, 4).double())
