"""Drawing from a model that was never fitted warns, once; from any other it does not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae as pv

X = torch.eye(4).repeat(8, 1)
LINE = "sample: the decoder has the weights that it began with: fit the model first"


def _model(**options: Any) -> pv.VAE:
    options = {"encoder": pv.networks.MLP((5,)), "decoder": pv.networks.MLP((5,))} | options
    likelihood = pv.likelihoods.Bernoulli((4,))
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, **options)


@pytest.mark.parametrize(
    "change",
    [
        lambda vae: vae,
        lambda vae: vae.double(),
        lambda vae: vae.eval(),
        copy.deepcopy,
        lambda vae: pickle.loads(pickle.dumps(vae)),
        lambda vae: (vae.log_prob(X, 3), vae)[1],
    ],
)
def test_a_model_that_was_never_fitted_warns_once(
    change: Callable[[pv.VAE], pv.VAE], caplog: pytest.LogCaptureFixture
) -> None:
    vae = change(_model())
    for _ in range(3):
        vae.sample(2)
    assert [record.message for record in caplog.records] == [LINE]


def test_a_model_at_a_condition_warns_too(caplog: pytest.LogCaptureFixture) -> None:
    likelihood = pv.likelihoods.Bernoulli((4,))
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, cond_size=3)
    vae.at(torch.ones(3)).sample(2)
    assert [record.message for record in caplog.records] == [LINE]


def _by_hand(vae: pv.VAE) -> pv.VAE:
    assert isinstance(vae.decoder, pv.networks.MLP)
    vae.decoder.layers[-1].bias.data[0] = 0.5  # type: ignore[union-attr]
    return vae


def _by_pyro(vae: pv.VAE) -> pv.VAE:
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(X)
    return vae


def _by_the_engine(vae: pv.VAE) -> pv.VAE:
    pv.CompiledSVI(
        vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), pv.objectives.ELBO(), compile=False
    ).step(X)
    return vae


def _by_a_fit(vae: pv.VAE) -> pv.VAE:
    return pv.fit(vae, X, epochs=1, compile=False, device="cpu").vae


def _from_a_state(vae: pv.VAE) -> pv.VAE:
    vae.load_state_dict(_by_pyro(_model()).state_dict())
    return vae


def _started(vae: pv.VAE) -> pv.VAE:
    vae.initialize(X)
    return vae


def _with_networks_of_before(vae: pv.VAE) -> pv.VAE:
    class Own(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.cat([z, -z], -1)

    return _model(decoder=Own())


@pytest.mark.parametrize(
    "change",
    [
        _by_hand,
        _by_pyro,
        _by_the_engine,
        _by_a_fit,
        _from_a_state,
        _started,
        _with_networks_of_before,
        lambda vae: _by_a_fit(vae).double(),
        lambda vae: copy.deepcopy(_by_pyro(vae)),
    ],
)
def test_any_other_model_does_not(
    change: Callable[[pv.VAE], pv.VAE], caplog: pytest.LogCaptureFixture
) -> None:
    """Fails when a way to come by weights is not seen, such as what is written to ``data``."""
    change(_model()).sample(2)
    assert caplog.records == []


def test_a_model_from_a_file_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pv.load(pv.save(_by_pyro(_model()), tmp_path / "trained")).sample(2)
    pv.load(pv.save(_by_a_fit(_model()), tmp_path / "fitted")).sample(2)
    assert caplog.records == []


class Lazy(pv.networks.MLP):
    """Takes the width of what comes from what came first."""

    def build(self, in_shape: Any, out_shape: Any, cond_size: int = 0) -> None:
        self.layers = nn.Sequential(nn.LazyLinear(out_shape.numel()))
        self.out_shape = out_shape


class Fixed(pv.networks.MLP):
    """Has nothing to fit."""

    def build(self, in_shape: Any, out_shape: Any, cond_size: int = 0) -> None:
        self.layers = nn.Sequential(nn.ReplicationPad1d((0, out_shape.numel() - in_shape[0])))
        self.out_shape = out_shape


@pytest.mark.parametrize("decoder", [Lazy, Fixed])
def test_a_decoder_without_weights_is_not_judged(
    decoder: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    assert _model(decoder=decoder()).sample(2).shape == (2, 4)
    assert caplog.records == []
