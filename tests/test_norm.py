"""Normalisation between layers, and batches of one row."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.engine import CompiledSVI
from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder

EAGER: dict[str, Any] = {"compile": False, "device": "cpu"}


def _vae(norm: Any, shape: Sequence[int] = (4,), **networks: Any) -> pv.VAE:
    torch.manual_seed(0)
    if "encoder" not in networks:
        vectors = len(shape) == 1
        networks["encoder"] = MLP((8, 8), norm=norm) if vectors else ConvEncoder((4,), norm=norm)
        networks["decoder"] = MLP((8, 8), norm=norm) if vectors else ConvDecoder((4,), norm=norm)
    likelihood = pv.likelihoods.Normal(shape)
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, **networks)


def _users_own() -> nn.Module:
    layers = nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)
    return nn.Sequential(*layers)


def test_without_it_networks_are_what_they_were() -> None:
    """The same layers from the same random numbers. Fails when one is drawn for nothing."""

    def dense() -> list[nn.Module]:
        return [nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 5)]

    def encoding() -> list[nn.Module]:
        first, second = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)
        return [first, second, nn.Linear(8 * 2 * 2, 5)]

    def decoding() -> list[nn.Module]:
        first = nn.Linear(3, 8 * 2 * 2)
        return [
            first,
            nn.ConvTranspose2d(8, 4, 3, 2, 1, 1),
            nn.ConvTranspose2d(4, 1, 3, bias=False),
        ]

    cases: list[tuple[Any, Any, Any, Callable[[], list[nn.Module]]]] = [
        (MLP((8, 6)), (3,), (5,), dense),
        (ConvEncoder((4, 8)), (1, 8, 8), (5,), encoding),
        (ConvDecoder((8, 4)), (3,), (1, 8, 8), decoding),
    ]
    for network, in_shape, out_shape, by_hand in cases:
        torch.manual_seed(0)
        network.build(in_shape, out_shape)
        torch.manual_seed(0)
        expected = [p for layer in by_hand() for p in layer.parameters()]
        found = list(network.layers.parameters())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert network.spec()["args"]["norm"] is None


def test_what_goes_into_an_activation_is_normalised() -> None:
    """Over the batch, or over the units. Fails when the other dimension is."""
    x = 100 * torch.randn(64, 4) + 1000
    seen: list[Tensor] = []
    for norm, dim in (("batch", 0), ("layer", 1)):
        net = MLP((32,), norm=norm)  # type: ignore[arg-type]
        net.build((4,), (2,))
        net.layers[2].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        net(x)
        mean, spread = seen[-1].mean(dim), seen[-1].std(dim)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
        torch.testing.assert_close(spread, torch.ones_like(spread), atol=0.05, rtol=0)
    images = 100 * torch.randn(64, 3, 8, 8) + 1000
    for norm, dims in (("batch", (0, 2, 3)), ("layer", (1, 2, 3))):
        encoder = ConvEncoder((8,), norm=norm)  # type: ignore[arg-type]
        encoder.build((3, 8, 8), (2,))
        encoder.layers[2].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        encoder(images)
        mean, spread = seen[-1].mean(dims), seen[-1].std(dims)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
        torch.testing.assert_close(spread, torch.ones_like(spread), atol=0.05, rtol=0)


@pytest.mark.parametrize("network", [MLP((8,), norm="batch"), ConvEncoder((8,), norm="batch")])
def test_one_row_is_normalised_by_running_statistics(network: Any) -> None:
    """In training, too, as in evaluation, and it leaves them alone."""
    shape = (4,) if isinstance(network, MLP) else (4, 6, 6)
    network.build(shape, (2,))
    x = 3 * torch.randn(50, *shape) + 7
    for _ in range(20):
        network(x)
    before = {name: each.clone() for name, each in network.named_buffers()}
    alone = network(x[:1])
    assert all(torch.equal(each, before[name]) for name, each in network.named_buffers())
    torch.testing.assert_close(alone, network.eval()(x[:1]))
    assert not torch.allclose(network.train()(x)[:1], alone)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("shape", [(4,), (1, 5, 5)], ids=str)
def test_a_last_batch_of_one_row_is_taken(norm: str, shape: tuple[int, ...]) -> None:
    vae = _vae(norm, shape)
    run = pv.fit(vae, torch.randn(33, *shape), epochs=2, batch_size=32, seed=0, **EAGER)
    assert run.steps == 4
    assert all(math.isfinite(loss) for loss in run.history["loss"])


def test_a_users_batch_normalisation_is_spared_a_batch_of_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another row is left out in each epoch, and it says so once. Fails with torch's own error."""
    orders: list[Tensor] = []
    epoch = CompiledSVI.epoch

    def spied(self: Any, *tensors: Tensor, position: Any, **options: Any) -> Tensor:
        orders.append(position.order)
        return epoch(self, *tensors, position=position, **options)

    monkeypatch.setattr(CompiledSVI, "epoch", spied)
    vae = _vae(None, encoder=_users_own(), decoder=MLP((8,)))
    with caplog.at_level(logging.WARNING):
        run = pv.fit(vae, torch.randn(33, 4), epochs=4, batch_size=32, seed=0, **EAGER)
    assert caplog.text.count("each epoch leaves out 1 row, another each time") == 1
    assert run.steps == 4
    left = [(set(range(33)) - set(order.tolist())) for order in orders]
    assert [len(each) for each in left] == [1] * 4
    assert len(set.union(*left)) > 1
    caplog.clear()
    for size, batch in ((34, 32), (33, 33), (33, 11)):
        vae = _vae(None, encoder=_users_own(), decoder=MLP((8,)))
        with monkeypatch.context() as patched:
            patched.setattr(CompiledSVI, "epoch", epoch)
            run = pv.fit(vae, torch.randn(size, 4), epochs=1, batch_size=batch, **EAGER)
        assert run.steps == math.ceil(size / batch)
    assert "leaves out" not in caplog.text


def test_the_loss_of_a_pass_is_a_mean_of_the_rows_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when what was left out is counted."""
    sums: list[float] = []
    epoch = CompiledSVI.epoch

    def spied(self: Any, *tensors: Tensor, **options: Any) -> Tensor:
        losses = epoch(self, *tensors, **options)
        sums.append(float(losses.sum()))
        return losses

    monkeypatch.setattr(CompiledSVI, "epoch", spied)
    vae = _vae(None, encoder=_users_own(), decoder=MLP((8,)))
    run = pv.fit(vae, torch.randn(33, 4), epochs=1, batch_size=16, seed=0, **EAGER)
    assert run.history["loss"] == [pytest.approx(sums[0] / 32)]


def _steps_equal_stock(shape: tuple[int, ...]) -> None:
    """Weights, losses and running statistics, with a batch of one row among those of 32."""
    ran = []
    x = torch.randn(65, *shape, dtype=torch.float64)
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        vae = _vae("batch", shape).double()
        svi = engine(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(batch) for batch in (*x.split(32), *x.split(32))]
        ran.append((losses, vae.state_dict(), svi))
    (stock_losses, stock, _), (losses, ours, svi) = ran
    assert svi.engine == "inductor"
    torch.testing.assert_close((losses, ours), (stock_losses, stock), atol=1e-9, rtol=1e-9)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("shape", [(4,), (1, 5, 5)], ids=str)
def test_captured_steps_equal_stock_steps(shape: tuple[int, ...]) -> None:
    _steps_equal_stock(shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4,), (1, 5, 5)], ids=str)
def test_compiled_steps_equal_stock_steps(shape: tuple[int, ...]) -> None:
    _steps_equal_stock(shape)


def test_what_was_normalised_is_kept(tmp_path: Path) -> None:
    x = torch.randn(60, 4)
    vae = _vae("batch")
    pv.fit(vae, x, epochs=3, batch_size=20, seed=0, **EAGER)
    again = pv.load(pv.save(vae, tmp_path / "model"))
    assert torch.equal(again.encode(x).mean, vae.encode(x).mean)
    together = vae.encode(x).mean
    alone = torch.cat([vae.encode(each).mean for each in x.split(1)])
    torch.testing.assert_close(alone, together)


@pytest.mark.long
def test_normalisation_is_an_option_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(42, 4)))  # 33 of them to train on
    quick = "--epochs 1 --batch-size 32 --num-samples 5 --compile false --device cpu --json"
    argv = ["fit", "x.npy", "--likelihood", "Normal", *quick.split(), "--latent-dim", "2"]
    small = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]"]
    norms = ["--encoder.norm", "batch", "--decoder.norm", "layer"]
    assert main([*argv, *small, *norms, "--out", "run"]) == 0
    vae = pv.load("run")
    specs = [network.spec()["args"]["norm"] for network in (vae.encoder, vae.decoder)]
    assert specs == ["batch", "layer"]
    assert main([*argv, "--encoder.norm", "bach"]) == 2
    assert "did you mean 'batch'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [MLP, ConvEncoder, ConvDecoder])
def test_an_unknown_normalisation_is_reported_in_one_line(kind: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`norm`: expected one of batch, layer, None, got 'group'"
    ):
        kind(norm="group")
