"""Time series: convolutions over time, a scale for each channel, lengths, and plans by masks."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.networks import TemporalConvDecoder, TemporalConvEncoder

SCRIPT = Path(__file__).parents[1] / "experiments" / "applications" / "motion.py"
SMALL = shlex.split(
    "--layout channels-last --latent-dim 4 --likelihood Normal --likelihood.scale per-channel "
    "--encoder TemporalConvEncoder --encoder.channels [4] --decoder TemporalConvDecoder "
    "--decoder.channels [4] --epochs 1 --compile false --device cpu --num-samples 5"
)


def test_convolutions_are_over_time_alone() -> None:
    """A step is seen by its neighbours in time: each layer by hand, from its formula."""
    torch.manual_seed(0)
    net = TemporalConvEncoder((3,), kernel_size=3)
    net.build((2, 5), (4,))
    x = torch.randn(7, 2, 5)
    first, last = net.layers[0], net.layers[-1]
    padded = torch.cat([x[..., :1], x, x[..., -1:]], 2)  # a series goes on as it ends
    seen = torch.stack([padded[..., i : i + 3] for i in (0, 2, 4)], 1)
    hidden = torch.einsum("nsck,hck->nhs", seen, first.weight) + first.bias[:, None]
    by_hand = torch.nn.functional.silu(hidden).flatten(1) @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), by_hand)


def test_a_decoder_of_constant_weights_interpolates() -> None:
    """Fails where a pattern of the stride, or of the ends, is laid over what is coarse."""
    torch.manual_seed(0)
    net = TemporalConvDecoder((1, 1, 1), kernel_size=5)
    net.build((1,), (1, 37))
    for layer in net.layers:
        if isinstance(layer, torch.nn.Conv1d):
            layer.weight.data.fill_(0.2)
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data.fill_(1.0)
            layer.bias.data.zero_()  # type: ignore[union-attr]
    made = net(torch.tensor([[3.0]])).detach()
    torch.testing.assert_close(made, made[..., :1].expand_as(made))


@pytest.mark.parametrize("shape", [(4,), (1, 6, 6)])
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_what_is_no_series_is_refused(shape: tuple[int, ...], role: str) -> None:
    net = TemporalConvEncoder() if role == "encoder" else TemporalConvDecoder()
    shapes = (shape, (2,)) if role == "encoder" else ((2,), shape)
    with pytest.raises(ValueError, match=rf"`{role}`: .*\(C, T\).*layout='channels-last'"):
        net.build(*shapes)
    with pytest.raises(ValueError, match="`kernel_size`: expected an odd number"):
        TemporalConvDecoder(kernel_size=4)


def test_time_in_place_of_channels_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    TemporalConvEncoder((2,)).build((50, 6), (2,))
    assert "convolved as 50 channels of 6 steps" in caplog.text
    caplog.clear()
    TemporalConvEncoder((2,)).build((12, 6), (2,))  # six, and their mask
    assert caplog.text == ""


def test_a_scale_a_channel_is_the_residuals_of_that_channel() -> None:
    """Units and noise are by channel. Fails where one is taken over all, or over one entry."""
    random = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1.0, 1000.0])[:, None]
    x = sizes * torch.randn(400, 2, 10, generator=random) + 5 * sizes
    likelihood = pv.likelihoods.Normal((2, 10), scale="per-channel")
    likelihood.take_units(x)
    expected = x.var(0, correction=0).mean(1, keepdim=True).sqrt().expand(2, 10)
    torch.testing.assert_close(likelihood.unit_scale, expected)
    params = torch.zeros(400, 2, 10)
    mask = torch.rand(x.shape, generator=random) < 0.5
    likelihood.fit_scale(x, params, mask)
    assert likelihood.raw_scale.shape == (2, 1)
    errors = (x - x.mean(0)).square()
    wanted = torch.stack([errors[:, c][mask[:, c]].mean().sqrt() for c in range(2)])
    found = likelihood(torch.zeros(2, 10)).stddev.detach()
    torch.testing.assert_close(found, wanted[:, None].expand(2, 10), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(3, 3), (3, 1), (3, 4), (3, 2, 2)])
def test_scales_of_channels_are_fitted_by_channel(shape: tuple[int, ...]) -> None:
    """As each channel by itself. Fails where scales are laid along the steps, as of (3, 3)."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, *shape, generator=random)
    x = x * torch.tensor([1.0, 10.0, 100.0]).reshape(-1, *[1] * (len(shape) - 1))
    weights = torch.rand(200, generator=random)
    for kind in (pv.likelihoods.Normal, pv.likelihoods.Laplace, pv.likelihoods.StudentT):
        whole, alone = kind(shape, scale="per-channel"), []
        whole.fit_scale(x, torch.zeros_like(x), weights=weights)
        for each in x.split(1, 1):
            one = kind(each.shape[1:], scale="shared")
            one.fit_scale(each, torch.zeros_like(each), weights=weights)
            alone.append(one.raw_scale.detach())
        torch.testing.assert_close(whole.raw_scale.detach().flatten(), torch.stack(alone))


def test_a_unit_of_one_channel_changes_no_fit() -> None:
    """Metres or millimetres: the same density, but for the factor's logarithm."""
    torch.manual_seed(0)
    x = torch.randn(40, 2, 8).cumsum(2)
    scores = []
    for factor in (1.0, 1024.0):  # exact in binary
        units = torch.tensor([1.0, factor])[:, None]
        vae = pv.VAE(
            pv.priors.Normal(2),
            pv.guides.Normal(2),
            pv.likelihoods.Normal((2, 8), scale="per-channel"),
            TemporalConvEncoder((4,)),
            TemporalConvDecoder((4,)),
            seed=0,
        )
        pv.fit(vae, x * units, epochs=2, seed=0, compile=False, device="cpu")
        found = pv.evaluate(vae, x * units, num_samples=20).log_marginal
        scores.append(found + 8 * np.log(factor))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)


@pytest.fixture
def series(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    random = np.random.default_rng(0)
    each = [random.normal(size=(n, 2)).cumsum(0) for n in (5, 9, 1, 7)]
    lengths = np.array([len(one) for one in each])
    np.savez(tmp_path / "series.npz", values=np.concatenate(each), lengths=lengths)
    return tmp_path / "series.npz", each


def test_series_of_several_lengths_end_where_they_end(
    series: tuple[Path, list[np.ndarray]],
) -> None:
    path, each = series
    data = pv.data.load(path, missing=True, layout="channels-last", validation=0, test=0)
    assert data.train.shape == (4, 2, 9)
    for one, row, seen in zip(each, data.train, data.mask["train"], strict=True):
        np.testing.assert_allclose(row[:, : len(one)].T.numpy(), one, rtol=1e-6)
        assert seen[:, : len(one)].all()
        assert not seen[:, len(one) :].any()
    # What nobody observed has no share in a density: it may be anything.
    vae = pv.VAE(
        pv.priors.Normal(1), pv.guides.Normal(1), pv.likelihoods.Normal((2, 9), "per-channel")
    )
    vae.initialize(data.train.nan_to_num(), mask=data.mask["train"])
    scores = [
        pv.evaluate(
            vae, data.train.nan_to_num(fill), mask=data.mask["train"], num_samples=10
        ).log_marginal
        for fill in (0.0, 1e3)
    ]
    np.testing.assert_array_equal(*scores)


def test_lengths_that_do_not_fit_are_one_line(
    series: tuple[Path, list[np.ndarray]], tmp_path: Path
) -> None:
    path, _ = series
    with pytest.raises(ValueError, match=r"series of one length, got '1 to 9'; `missing`"):
        pv.data.load(path)
    values = np.zeros((4, 2))
    for lengths, line in (
        ([1, 2], "3 rows under the key values"),
        ([5, -1], "positive whole numbers under the key lengths"),
        ([1.0, 3.0], "positive whole numbers under the key lengths"),
    ):
        np.savez(tmp_path / "bad.npz", values=values, lengths=np.array(lengths))
        with pytest.raises(ValueError, match=line):
            pv.data.load(tmp_path / "bad.npz", missing=True)


def test_a_plan_is_filled_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page has it, of six; what is written lies as what was read: steps by coordinates."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.save("Drums.npy", random.normal(size=(6, 20, 3)).cumsum(1))
    assert main(["fit", "Drums.npy", *SMALL, "--out", "runs/drums"]) == 0
    plan = np.full((1, 20, 3), np.nan)
    plan[0, [0, 10, -1]] = random.normal(size=(3, 3))
    np.save("plan.npy", plan)
    assert main(["impute", "runs/drums", "plan.npy", "--out", "motion.npy"]) == 0
    motion = np.load("motion.npy")
    assert motion.shape == plan.shape
    assert np.isfinite(motion).all()
    np.testing.assert_allclose(motion[~np.isnan(plan)], plan[~np.isnan(plan)], rtol=1e-6)
    command = ["impute", "runs/drums", "plan.npy", "--num-imputations", "2", "--out", "some.npz"]
    assert main(command) == 0
    assert np.load("some.npz")["x"].shape == (2, 1, 20, 3)


def test_a_plan_with_its_channels_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("Drums.npy", np.random.default_rng(0).normal(size=(12, 20, 3)))
    assert main(["fit", "Drums.npy", *SMALL, "--out", "run"]) == 0
    np.save("plan.npy", np.full((1, 3, 20), np.nan))
    line = fails("impute", "run", "plan.npy", "--out", "motion.npy")
    assert "observations of shape (3, 20)" in line


@pytest.mark.slow
def test_the_experiment_runs() -> None:
    """Its small version: both methods on simulated motions."""
    done = subprocess.run([sys.executable, str(SCRIPT), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'roughness'" in done.stdout


@pytest.mark.long
def test_the_program_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = SCRIPT.parents[2] / "docs" / "gallery" / "motion.md"
    programs = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.save("Drums.npy", random.normal(size=(6, 1000, 6)).cumsum(1))
    np.savez("Pouring.npz", values=random.normal(size=(50, 6)), lengths=[20, 30])
    exec(programs[0], {})
    assert np.isnan(np.load("plan.npy")).any()
    short = programs[1].replace("epochs=", "compile=False, epochs=1 or ")
    short = short.replace("num_draws=100, num_warmup=100", "num_draws=4, num_warmup=4")
    assert "num_draws=4," in short
    exec(short, {})
