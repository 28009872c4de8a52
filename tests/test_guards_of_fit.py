"""Models and data that no fit can do anything with are refused before one, in one line."""

from __future__ import annotations

import math

import pytest
import torch
from stopping import build

import pyro_vae as pv


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_half_precision_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"`vae`: expected a model of float32 or float64 .* in "):
        pv.fit(build().to(dtype), torch.rand(30, 6).round(), epochs=1, device="cpu", compile=False)


def test_tf32_on_a_cpu_is_said_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    for precision, said in (("float32", False), ("tf32", True)):
        caplog.clear()
        x, options = torch.rand(30, 6).round(), {"device": "cpu", "compile": False}
        pv.fit(build(), x, epochs=1, precision=precision, **options)
        assert any("has no effect on a CPU" in line for line in caplog.messages) == said


@pytest.mark.parametrize(("scale", "refused"), [(1e20, True), (1e10, False)])
def test_numbers_whose_squares_overflow_are_the_fault_of_the_data(
    scale: float, refused: bool
) -> None:
    """Fails when a parameter is blamed, which is the first to be no number; a normal likelihood has
    units of its own, and takes any."""
    x = (scale * torch.rand(40, 3, generator=torch.Generator().manual_seed(0))).round()
    known = {"epochs": 1, "device": "cpu", "compile": False, "seed": 0}

    def model(likelihood: pv.likelihoods.Likelihood) -> pv.VAE:
        return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)

    assert math.isfinite(pv.fit(model(pv.likelihoods.Normal((3,))), x, **known).history["elbo"][0])
    if not refused:
        pv.fit(model(pv.likelihoods.Poisson((3,))), x, **known)
        return
    with pytest.raises(ValueError, match=r"`data`: expected numbers up to .* take another unit"):
        pv.fit(model(pv.likelihoods.Poisson((3,))), x, **known)
