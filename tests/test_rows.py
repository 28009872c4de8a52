"""Rows, and what goes with each of them: taken along, checked in one place, never passed over."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.data import Rows
from pyro_vae.distributions import Joint, Site, Space

X = torch.rand(6, 4).round()


def small(**options: Any) -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)), **options
    )


def test_rows_are_cut_and_moved_with_all_that_goes_with_them() -> None:
    ids = torch.arange(6.0)
    given = {"cond": ids[:, None], "covariates": {"size_factor": ids}, "mask": X > -1}
    rows = Rows(X, given)
    for some, wanted in ((rows[1:3], ids[1:3]), (rows[torch.tensor([4, 0])], ids[[4, 0]])):
        assert torch.equal(some.given["cond"][:, 0], wanted)
        assert torch.equal(some.given["covariates"]["size_factor"], wanted)
        assert len(some) == len(some.mask) == len(wanted)
    batches = list(rows.batches(4))
    assert [len(batch) for batch in batches] == [4, 2]
    assert torch.cat([batch.given["cond"][:, 0] for batch in batches]).tolist() == ids.tolist()
    assert rows.tensors().keys() == {"cond", "size_factor", "mask"}
    assert rows.conditions.keys() == {"cond", "covariates"}
    again = Rows.unflatten(*rows.flatten())
    assert torch.equal(again.given["covariates"]["size_factor"], ids)
    assert rows.to("meta").given["covariates"]["size_factor"].device.type == "meta"


@pytest.mark.parametrize(
    ("says", "call"),
    [
        ("^`labels`: expected None, as labels", lambda v, y: v.encode(X, labels=y)),
        ("^`labels`: expected None, as labels", lambda v, y: v.reconstruct(X, labels=y)),
        ("^`labels`: expected None, as labels", lambda v, y: v.initialize(X, labels=y)),
        ("^`labels`: expected None, as labels", lambda v, y: pv.evaluate(v, X, labels=y)),
        ("^`labels`: expected None, as nothing", lambda v, y: v.sample(6, labels=y)),
        ("^`mask`: expected None, as nothing", lambda v, y: v.sample(6, mask=X > 0)),
        ("^`mask`: expected a boolean tensor", lambda v, y: pv.evaluate(v, X, mask=X.numpy())),
        ("^`mask`: expected a boolean tensor", lambda v, y: v.encode(X, mask=X.numpy())),
        ("^`cond`: expected None for a model", lambda v, y: pv.evaluate(v, X, cond=X.numpy())),
    ],
)
def test_nothing_that_is_given_is_passed_over(says: str, call: Any) -> None:
    with pytest.raises(ValueError, match=says) as error:
        call(small(), torch.zeros(6).long())
    assert "\n" not in str(error.value)


class Pair(pv.priors.Prior):
    """b follows a, which may be written down or not."""

    def __init__(self, parents: tuple[str, ...] | None) -> None:
        super().__init__()
        one = Site(torch.Size([1]), constraints.real_vector)
        below = Site(torch.Size([1]), constraints.real_vector, parents)
        self.space = Space({"a": one, "b": below})

    def forward(self, cond: Tensor | None = None) -> Any:
        def site(name: str, earlier: Mapping[str, Tensor]) -> Any:
            loc = torch.zeros(1) if name == "a" else 3 * earlier["a"]
            return dist.Normal(loc, 1.0).to_event(1)

        return Joint(site, self.space)


class BottomUp(pv.guides.Guide):
    """Draws b, then a given b."""

    def __init__(self) -> None:
        super().__init__()
        one = Site(torch.Size([1]), constraints.real_vector)
        self.space = Space({"a": one, "b": one})
        self.param_shape = torch.Size([2])

    def forward(self, features: Tensor) -> Any:
        def site(name: str, earlier: Mapping[str, Tensor]) -> Any:
            loc = features[..., :1] if name == "b" else 0.3 * earlier["b"]
            return dist.Normal(loc, 0.5).to_event(1)

        return Joint(site, self.space, order=["b", "a"], batch_shape=features.shape[:-1])


@pytest.mark.parametrize("parents", [None, ("a",)])
def test_parents_that_are_not_written_down_are_all_before(parents: tuple[str, ...] | None) -> None:
    """Fails when b, drawn before a, is given a closed form of its divergence.

    E[log q - log p] by hand: log q and log p are quadratic in draws whose moments are known. Within
    5 standard errors of 20,000 draws.
    """
    vae = pv.VAE(Pair(parents), BottomUp(), pv.likelihoods.Bernoulli((4,)), nn.Linear(4, 2))
    q, p = vae.encode(X[:1]), vae.prior()
    z = q.sample((100_000,))[:, 0]
    ratio = (q.log_prob(z[:, None])[:, 0] - p.log_prob(z)).detach()
    torch.manual_seed(0)
    objective = pv.objectives.ELBO(num_particles=20_000)
    terms = objective.terms(vae.model, vae.guide, X[:1])
    error = float(ratio.std()) * (1 / 100_000 + 1 / 20_000) ** 0.5
    assert abs(float(terms.kl) - float(ratio.mean())) < 5 * error
    assert terms.kl_estimator["b"] == "sampled"


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_a_copy_of_a_composite_is_as_unbounded(twin: Any) -> None:
    """Fails when supports are kept with the parts, and compared by identity."""
    vae = pv.VAE(
        pv.priors.Hierarchy([1, 2]), pv.guides.Hierarchy([1, 2]), pv.likelihoods.Bernoulli((4,))
    )
    assert vae.prior.support is constraints.real_vector
    copied = twin(vae)
    assert copied.prior.support is copied.guide_family.support is constraints.real_vector
    pv.evaluation.ais(copied, X[:2], num_chains=2, num_temperatures=3)


def test_a_model_at_a_condition_and_what_a_user_calls_condition() -> None:
    """Fails when the mark of a model at a condition is a name that a user may have."""

    class Own(pv.priors.Normal):
        def condition(self) -> int:
            return 3

    vae = pv.VAE(Own(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)), cond_size=2)
    assert not vae.fixed_cond
    group = vae.at(torch.tensor([0.0, 1.0]))
    assert group.fixed_cond
    assert group.prior(cond=None).batch_shape == ()
    assert list(group.state_dict()) == list(vae.state_dict())


def test_a_part_that_declares_nothing_is_named() -> None:
    class Bare(pv.priors.Prior):
        def forward(self, cond: Tensor | None = None) -> Any:
            return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    with pytest.raises(TypeError, match="^`Bare`: expected `event_shape`, or `space`"):
        Bare().space  # noqa: B018
    Bare.event_shape = torch.Size([2])
    with pytest.raises(TypeError, match="^`Bare`: expected `support`, or `space`"):
        Bare().space  # noqa: B018


def test_a_composite_that_is_no_joint_is_refused_in_one_line() -> None:
    class Wrong(Pair):
        def forward(self, cond: Tensor | None = None) -> Any:
            return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    vae = pv.VAE(Wrong(None), BottomUp(), pv.likelihoods.Bernoulli((4,)))
    with pytest.raises(ValueError, match=r"^`forward`: expected a Joint of a, b"):
        vae.model(X)


def test_columns_may_not_take_the_names_of_other_options() -> None:
    with pytest.raises(ValueError, match="^`covariates`: expected names other than"):
        pv.data.load("digits", covariates="mask=label")
