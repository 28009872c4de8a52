"""Every verb that takes observations refuses the same values, in the same words."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation import posterior_draws


@cache
def _model(likelihood: str) -> pv.VAE:
    networks = {"encoder": pv.networks.MLP((4,)), "decoder": pv.networks.MLP((4,))}
    parts = pv.priors.Normal(2), pv.guides.Normal(2)
    family = getattr(pv.likelihoods, likelihood)((4,))
    return pv.VAE(*parts, family, **networks, seed=0).eval()


def _fit(vae: pv.VAE, x: Any) -> Any:
    return pv.fit(vae, x, epochs=1, compile=False, device="cpu", seed=0)


VERBS: dict[str, Callable[[pv.VAE, Any], Any]] = {
    "encode": lambda vae, x: vae.encode(x),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
    "log_prob": lambda vae, x: vae.log_prob(x, 3),
    "impute": lambda vae, x: vae.impute(x, np.ones(np.shape(x), bool), num_samples=3),
    "fit": _fit,
    "evaluate": lambda vae, x: pv.evaluate(vae, x, num_samples=3),
    "check": lambda vae, x: pv.criticism.check(vae, x),
    "posterior_draws": lambda vae, x: posterior_draws(vae, x, num_draws=3),
    "to_datatree": lambda vae, x: pv.to_datatree(vae, x, num_draws=3),
}
BAD = {
    "negative counts": ("Poisson", -5.0, "IntegerGreaterThan.*got -5 at index"),
    "halves of counts": ("Poisson", 0.5, "IntegerGreaterThan.*got 0.5 at index"),
    "grey values of binary data": ("Bernoulli", 0.5, "got 0.5 at index"),
    "negative amounts": ("Gamma", -1.0, "got -1 at index"),
    "NaN without a mask": ("Normal", float("nan"), "got nan at index.*`mask` says which entries"),
    "infinity": ("Normal", float("inf"), "got inf at index"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("bad", BAD)
def test_a_verb_refuses_what_no_observation_is(verb: str, bad: str) -> None:
    """Fails when a verb computes with it, or when torch refuses what a network made of it."""
    family, value, says = BAD[bad]
    x = torch.ones(6, 4)
    x[2, 1] = value
    message = rf"^`(x|data)`: expected values in the support of \w+.*{says}"
    with pytest.raises(ValueError, match=message) as error:
        VERBS[verb](_model(family), x)
    assert "\n" not in str(error.value)


def test_what_a_mask_hides_may_be_anything() -> None:
    x, mask = torch.ones(6, 4), torch.ones(6, 4, dtype=torch.bool)
    mask[2, 1] = False
    means = _model("Poisson").encode(x, mask=mask).mean
    x[2, 1] = float("nan")
    assert torch.equal(_model("Poisson").encode(x, mask=mask).mean, means)
    assert torch.equal(_model("Poisson").encode(pv.data.Rows(x, {"mask": mask})).mean, means)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: pv.likelihoods.Normal(4), r"^`event_shape`: expected a shape, such as \(4,\)"),
        (lambda: pv.networks.MLP(hidden=16), r"^`hidden`: expected widths .* such as \(16,\)"),
        (lambda: pv.networks.ConvEncoder(8), r"^`channels`: expected widths .* such as \(8,\)"),
    ],
)
def test_a_number_in_place_of_a_shape_is_one_line(make: Callable[[], Any], says: str) -> None:
    """Fails with what Python says of a number that is iterated over."""
    with pytest.raises(ValueError, match=says):
        make()
