"""Seeds: of the weights and of a fit; and the caller's generators are as they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.selection import select

X = torch.eye(4).repeat(8, 1)
FIT: dict[str, Any] = {"epochs": 2, "batch_size": 10, "compile": False, "device": "cpu"}


def _normal(seed: int | None = None) -> pv.VAE:
    likelihood = pv.likelihoods.Bernoulli((4,))
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=seed)


def _vamp(seed: int | None = None) -> pv.VAE:
    parts = pv.priors.VampPrior(2, 3), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,))
    return pv.VAE(*parts, seed=seed)


def _conditional(seed: int | None = None) -> pv.VAE:
    parts = pv.priors.Conditional(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,))
    return pv.VAE(*parts, cond_size=3, seed=seed)


def _weights(vae: pv.VAE) -> Tensor:
    return torch.cat([each.detach().flatten() for each in vae.parameters()])


def _states() -> tuple[Any, ...]:
    states = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
    if torch.cuda.is_available():
        states += [each.tolist() for each in torch.cuda.get_rng_state_all()]
    return tuple(states)


@pytest.mark.parametrize("make", [_normal, _vamp, _conditional])
def test_a_seed_draws_the_weights(make: Callable[..., pv.VAE]) -> None:
    """Those of :func:`pyro.set_rng_seed`, whatever was drawn before, and with no trace of it."""
    pyro.set_rng_seed(3)
    known = _weights(make())
    before = _states()
    assert torch.equal(_weights(make(seed=3)), known)
    assert torch.equal(_weights(make(seed=np.int64(3))), known)
    assert not torch.equal(_weights(make(seed=4)), known)
    assert _states() == before
    make()
    assert _states() != before


@pytest.mark.parametrize("seed", [-1, 2**32, True, 1.0, "1"])
def test_what_is_no_seed_of_weights_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="`seed`: expected an integer"):
        _normal(seed=seed)


@pytest.mark.parametrize("validation", [None, 0.25])
def test_a_fit_with_a_seed_leaves_no_trace(validation: float | None) -> None:
    """And is the fit that it was after :func:`pyro.set_rng_seed`."""
    plain = _normal(seed=0)
    pyro.set_rng_seed(5)
    if validation is None:  # which data validate would be drawn otherwise
        pv.fit(plain, X, **FIT)
        random.random(), np.random.rand(), torch.rand(())
    else:
        pv.fit(plain, X, **FIT, validation=validation, seed=5)
    before = _states()
    seeded = _normal(seed=0)
    pv.fit(seeded, X, **FIT, validation=validation, seed=np.int64(5))
    assert torch.equal(_weights(seeded), _weights(plain))
    assert _states() == before


def test_a_fit_that_fails_leaves_no_trace() -> None:
    before = _states()

    def stop(line: Any) -> None:
        raise KeyError(line["epoch"])

    with pytest.raises(KeyError):
        pv.fit(_normal(seed=0), X, **FIT, seed=5, on_epoch=stop)
    assert _states() == before


def test_a_selection_leaves_no_trace() -> None:
    def build(dim: int) -> pv.VAE:
        random.random(), np.random.rand()
        return pv.VAE(pv.priors.Normal(dim), pv.guides.Normal(dim), pv.likelihoods.Bernoulli((4,)))

    before = _states()
    select(build, X, {"dim": [1, 2]}, folds=2, num_samples=5, epochs=1, device="cpu")
    assert _states() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_generator_of_a_gpu_is_left_alone_too() -> None:
    torch.cuda.manual_seed(7)
    before = _states()
    fits = []
    for _ in range(2):
        vae = _normal(seed=0)
        pv.fit(vae, X, **FIT | {"device": "cuda"}, seed=5)
        fits.append(_weights(vae))
    with torch.device("cuda"):
        drawn = [_weights(_normal(seed=1)) for _ in range(2)]
    assert torch.equal(*fits)
    assert torch.equal(*drawn)
    assert _states() == before
