"""Old names and old ways to call: served for one more release, with a warning."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import guides, likelihoods, objectives, priors
from pyro_vae.criticism import pit


def test_an_old_name_calls_the_method_that_replaced_it() -> None:
    objective = objectives.ELBO(label_weight=0.1)
    with pytest.warns(
        DeprecationWarning, match=r"`ELBO.told` is deprecated.*use `prepare`"
    ) as seen:
        objective.told(100, 20)
    assert objective.data_per_label == 5.0
    assert seen[0].filename == __file__  # where the old name was written
    table = likelihoods.Mixed((2,), ["Normal", {"class": "Poisson", "size_factor": True}])
    with pytest.warns(DeprecationWarning, match="use `entry`"):
        assert table.law_of((1,)) is table.entry((1,))
    x, sizes = torch.tensor([[1.0, 6.0]]), torch.tensor([2.0])
    with pytest.warns(DeprecationWarning, match="use `encoder_input`"):
        inputs = table.seen(x, size_factor=sizes)
    assert inputs.tolist() == [[1.0, 3.0]]


def test_an_override_of_an_old_name_is_called_by_the_new_one() -> None:
    """Fails when ``super()`` in the override leads back to the override."""
    with pytest.warns(DeprecationWarning, match=r"`Halved.told` is deprecated") as seen:

        class Halved(objectives.ELBO):
            def told(self, num_data: int, num_labels: int = 0) -> None:
                with pytest.warns(DeprecationWarning, match="is deprecated"):
                    super().told(num_data // 2, num_labels)

    assert seen[0].filename == __file__
    objective = Halved(label_weight=0.1)
    objective.prepare(100, 20)
    assert objective.data_per_label == 2.5
    objective.told(200, 20)
    assert objective.data_per_label == 5.0

    with pytest.warns(DeprecationWarning, match=r"`Rooted.seen` is deprecated"):

        class Rooted(likelihoods.Poisson):
            def seen(self, x: Tensor, **covariates: Tensor) -> Tensor:
                return x.sqrt()

    assert Rooted((1,)).encoder_input(torch.tensor([[4.0]])).tolist() == [[2.0]]


def test_an_override_of_the_new_name_is_called_by_the_old_one(recwarn: Any) -> None:
    class Rooted(likelihoods.Poisson):
        def encoder_input(self, x: Tensor, **covariates: Tensor) -> Tensor:
            return x.sqrt()

    assert not recwarn.list
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        assert Rooted((1,)).seen(torch.tensor([[4.0]])).tolist() == [[2.0]]


def test_old_names_and_ways_to_call_a_vae() -> None:
    vae = pv.VAE(
        priors.Normal(2), guides.Normal(2), likelihoods.Bernoulli((3,)), cond_size=2
    ).double()
    cond, x = torch.eye(2).double(), torch.ones(2, 3).double()
    with pytest.warns(DeprecationWarning, match="use `guide_family`") as seen:
        assert vae.posterior is vae.guide_family
    assert seen[0].filename == __file__
    mask = x > 0
    mask[0, 0] = False
    wanted = vae.encode(x, cond=cond, mask=mask).mean
    with pytest.warns(DeprecationWarning, match="`encode`: give `cond=`") as seen:
        assert torch.equal(vae.encode(x, cond, mask).mean, wanted)
    assert seen[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="`log_prob`: give `cond=`"):
        assert vae.log_prob(x, 3, cond).shape == (2,)
    with pytest.warns(DeprecationWarning, match="`sample`: give `cond=`"):
        assert vae.sample(2, cond).shape == (2, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'conds'"):
        vae.encode(x, conds=cond)
    with pytest.raises(ValueError, match="^`labels`: expected None"):
        vae.log_prob(x, cond=cond, labels=torch.zeros(2).long())


def test_a_prior_that_takes_no_condition_is_called_with_one() -> None:
    with pytest.warns(DeprecationWarning, match="`Wide.forward` is to take `cond=None`") as seen:

        class Wide(priors.Normal):
            def forward(self) -> Any:  # type: ignore[override]
                return dist.Normal(self.loc, 2 * self.scale).to_event(1)

    assert seen[0].filename == __file__
    prior = Wide(2)
    assert prior(torch.zeros(5, 3)).variance.tolist() == prior().variance.tolist() == [4.0, 4.0]


def test_an_old_argument_is_the_one_that_replaced_it() -> None:
    """Fails when the old name is taken and ignored, or the warning points elsewhere."""
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihoods.Bernoulli((4,)))
    x = vae.sample(5)
    with pytest.warns(DeprecationWarning, match="`given` of pit.*use `condition_on`") as seen:
        old = pit(vae, x, given="rest", num_draws=9)  # type: ignore[call-arg]
    assert seen[0].filename == __file__
    new = pit(vae, x, condition_on="rest", num_draws=9)
    assert (old.values == new.values).all()
    assert (old.values != pit(vae, x, num_draws=9).values).any()
    with pytest.warns(DeprecationWarning, match="`PIT.given` is deprecated.*`condition_on`"):
        assert old.given == "rest"
    with pytest.raises(TypeError, match="takes `condition_on` or `given`, not both"):
        pit(vae, x, given="rest", condition_on="rest")  # type: ignore[call-arg]


def test_what_nothing_calls_any_more_is_refused() -> None:
    """Fails when an override of an old method is passed over, and the model is another."""
    with pytest.raises(TypeError, match=r"`Old.given`: expected `space` and a `Joint`"):

        class Old(priors.Normal):
            def given(self, cond: Any) -> Any:
                return self()

    with pytest.raises(TypeError, match=r"`Sites.sites`: expected `space`"):

        class Sites(guides.Normal):
            @property
            def sites(self) -> Any:
                return {}


def test_a_mixin_that_takes_no_condition() -> None:
    class Wide:
        def forward(self) -> Any:
            return dist.Normal(torch.zeros(2), 2.0).to_event(1)

    with pytest.warns(DeprecationWarning, match="`Both.forward` is to take"):

        class Both(Wide, priors.Normal):
            pass

    assert Both(2)(torch.zeros(5, 3)).variance.tolist() == [4.0, 4.0]


def test_too_many_positions_and_an_argument_twice() -> None:
    vae = pv.VAE(priors.Normal(2), guides.Normal(2), likelihoods.Bernoulli((3,)))
    x = torch.ones(2, 3)
    with pytest.raises(TypeError, match="positional arguments"):
        vae.encode(x, None, None, None, "more")
    with (
        pytest.warns(DeprecationWarning, match="give `cond=`"),
        pytest.raises(TypeError, match="multiple values for argument 'cond'"),
    ):
        vae.encode(x, None, cond=None)
    with pytest.warns(DeprecationWarning, match="`initialize`: give `mask=`"):
        vae.initialize(x, x > 0)
    assert vae.initialized
