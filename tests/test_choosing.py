"""The applications of choosing and of textbooks: claims, small versions and pages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pyro_vae.cli import main

ROOT = Path(__file__).parents[1]
APPLICATIONS = ROOT / "experiments" / "applications"
SMALL = "--epochs 1 --compile false --device cpu --num-samples 5 --out"


@pytest.fixture
def textbooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(APPLICATIONS.parent))
    monkeypatch.syspath_prepend(str(APPLICATIONS))
    import textbooks

    return textbooks


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(APPLICATIONS.parent))
    monkeypatch.syspath_prepend(str(APPLICATIONS))
    import choosing

    return choosing


def test_textbook_losses_are_those_models(textbooks: ModuleType) -> None:
    """Minus the ELBO of a model and a constant each. Fails when a scale is off by a factor of 2."""
    apart = textbooks.derivations()
    assert len(apart) == 7
    assert max(apart.values()) < 1e-6


def test_the_cross_entropy_of_grey_values_is_no_density(textbooks: ModuleType) -> None:
    """Its mass is not one, and depends on z; that of what it is scored as is one."""
    x = torch.linspace(0, 1, 2001).double()
    for logit, mass in ((0.0, 0.5), (4.0, 0.2410)):
        params = torch.full((len(x), 1), logit).double()
        loss = textbooks.CrossEntropy((1,))(params).log_prob(x[:, None]).exp()
        assert float(torch.trapezoid(loss, x)) == pytest.approx(mass, abs=1e-3)
        scored = textbooks.pv.likelihoods.ContinuousBernoulli((1,))(params).log_prob(x[:, None])
        assert float(torch.trapezoid(scored.exp(), x)) == pytest.approx(1.0, abs=1e-4)


def test_densities_of_all_methods_are_of_one_measure(choosing: ModuleType) -> None:
    """In other units log p falls by the logarithms of the factors. Fails without a Jacobian."""
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 4)) @ random.normal(size=(4, 4))
    units = np.array([0.1, 1.0, 20.0, 5.0])
    methods = (
        lambda rows: choosing.by_pca(rows, 2),
        lambda rows: choosing.by_factors(rows, 2),
        lambda rows: choosing.by_covariance(rows, 0.1),
        lambda rows: choosing.by_mixture(rows, 2, "diag", 1e-2),
    )
    for method in methods:
        ours, theirs = method(x)(x), method(x * units)(x * units)
        np.testing.assert_allclose(theirs, ours - np.log(units).sum(), atol=1e-4)


def test_a_normal_distribution_has_its_density(choosing: ModuleType) -> None:
    """One component without a ridge and a covariance without shrinkage are the same."""
    x = np.random.default_rng(0).normal(size=(100, 3)) * [1, 2, 3]
    one, other = choosing.by_mixture(x, 1, "full", 0.0), choosing.by_covariance(x, 0.0)
    np.testing.assert_allclose(one(x), other(x), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), [("choosing", "planted 0"), ("textbooks", "sweep")])
def test_the_experiments_run(name: str, said: str) -> None:
    """Their small versions."""
    command = [sys.executable, str(APPLICATIONS / f"{name}.py"), "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", ["choosing", "textbooks"])
def test_the_program_of_a_page_runs(name: str) -> None:
    """With fewer epochs and draws."""
    page = (ROOT / "docs" / "gallery" / f"{name}.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M)
    short = re.sub(r"epochs=\d+", "epochs=1, compile=False", program)
    short = short.replace("folds=3", "folds=2, num_samples=5")
    assert short != program
    exec(short, {"__name__": name})


@pytest.mark.long
def test_the_commands_of_the_pages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On few small images, and tables of the same kinds."""
    from pyro_vae.data import loading

    read = loading.read_named
    monkeypatch.setattr(loading, "read_named", lambda name, *args: read("digits", *args))
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.save("uniform.npy", random.random((80, 20)).astype(np.float32))
    np.savetxt("answers.csv", random.normal(size=(60, 4)), delimiter=",", header="a,b,c,d")
    monkeypatch.setattr("pyro_vae.report.pictures", lambda *args: [])
    pages = [ROOT / "docs" / "gallery" / f"{name}.md" for name in ("choosing", "textbooks")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", "")
    commands = re.findall(r"^pyro-vae (.*)$", text, re.M)
    assert len(commands) == 9
    for at, command in enumerate(commands):
        words = shlex.split(command.replace("--out runs/chosen", ""))
        if words[0] == "rate-distortion":
            assert main(["rate-distortion", str(at - 1), "--num-samples", "2"]) == 0
            continue
        words = [*words, *shlex.split(SMALL), str(at)]
        assert main(words) == 0, f"{command}: {capsys.readouterr().err}"
