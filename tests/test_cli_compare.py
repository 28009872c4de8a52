"""``pyro-vae compare``, and what it shares with ``evaluate``, on models that were never fitted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.cli.runs import load_data, record_data

Fails = Callable[..., str]


def _write(folder: Path, family: str, dim: int, seed: int) -> None:
    likelihoods: dict[str, Any] = {"Bernoulli": pv.likelihoods.Bernoulli}
    likelihoods["Normal"] = pv.likelihoods.Normal
    torch.manual_seed(seed)
    likelihood = likelihoods[family]((1, 8, 8))
    data, options = load_data("digits", likelihood.support, root=None, binarize=None)
    networks = (pv.networks.MLP(hidden=(8,)), pv.networks.MLP(hidden=(8,)))
    vae = pv.VAE(pv.priors.Normal(dim), pv.guides.Normal(dim), likelihood, *networks)
    vae.initialize(data.train)
    pv.save(vae, folder)
    record_data(folder, data, options)
    config = {
        "data": "digits",
        "likelihood": {"class": family},
        "latent_dim": dim,
        "seed": seed,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"device": f"cuda:{seed}"}))


@pytest.fixture(scope="module")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    for name, family, dim, seed in (
        ("two", "Bernoulli", 2, 0),
        ("three", "Bernoulli", 3, 0),
        ("three-again", "Bernoulli", 3, 1),
        ("grey", "Normal", 2, 0),
    ):
        _write(folder / name, family, dim, seed)
    return folder


@pytest.fixture(autouse=True)
def runs(_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of one's own, where `runs` are those that all tests share; they stay as they are."""
    before = {path: path.read_bytes() for path in _runs.rglob("*") if path.is_file()}
    (tmp_path / "runs").symlink_to(_runs)
    monkeypatch.chdir(tmp_path)
    yield
    assert {path: path.read_bytes() for path in _runs.rglob("*") if path.is_file()} == before


_FEW = ["--num-samples", "30"]


def _json(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_differences_are_those_of_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    result = _json(capsys, "compare", "runs/two", "runs/three", *_FEW)
    x = pv.data.load("digits").test
    scores = {
        f"runs/{name}": pv.evaluate(pv.load(f"runs/{name}"), x, num_samples=30)
        for name in ("two", "three")
    }
    assert result == pv.compare(scores).summary()
    assert result["models"] == [], "other models, of one seed each"
    alone = _json(capsys, "evaluate", result["runs"][1]["name"], *_FEW)
    assert alone["log_marginal"] == result["runs"][1]["log_marginal"]


def test_fits_of_one_model_are_taken_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when the seed, or the device, counts as part of the model."""
    names = ["runs/three", "runs/two", "runs/three-again"]
    result = _json(capsys, "compare", *names, *_FEW)
    assert {row["name"] for row in result["runs"]} == set(names)
    models = {row["name"]: row for row in result["models"]}
    assert set(models) == {"runs/three", "runs/two"}
    assert models["runs/three"]["runs"] == ["runs/three", "runs/three-again"]
    means = [row["log_marginal"] for row in result["runs"] if "three" in row["name"]]
    spread = torch.tensor(means, dtype=torch.float64).std().item()
    assert models["runs/three"]["spread"] == pytest.approx(spread)
    assert models["runs/two"]["spread"] is None


def test_the_tables_show_what_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs/three", "runs/two", "runs/three-again", *_FEW]) == 0
    printed = capsys.readouterr()
    for words in (
        "360 test observations of digits",
        "1. ",
        "interval",
        "± data",
        "± seeds",
        "fits",
    ):
        assert words in printed.out
    assert "three-again" in printed.err, "the bar names the run"


def test_a_subset_is_the_same_for_every_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Its fingerprint is its own. Fails when the subset is drawn anew."""
    few = ["--max-data", "40", *_FEW]
    result = _json(capsys, "compare", "runs/two", "runs/three", *few)
    assert result["size"] == 40
    alone = _json(capsys, "evaluate", "runs/two", *few, "--seed", "3")
    assert alone["base_measure"] == result["base_measure"]
    assert alone["base_measure"]["split"] == "test[40 of 360]"
    whole = _json(capsys, "evaluate", "runs/two", *_FEW)
    assert whole["base_measure"]["fingerprint"] != alone["base_measure"]["fingerprint"]
    assert _json(capsys, "evaluate", "runs/two", "--max-data", "360", *_FEW) == whole


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("", "`runs`: expected a value"),
        ("runs/two", "`RUN`: expected at least two runs to compare, got ['runs/two']"),
        ("runs/two runs/two/", "`RUN`: expected each run once, got 'runs/two and runs/two'"),
        ("runs/two runs/three/../two", "expected each run once"),
        ("runs/two runs/tow", "expected an existing run folder, got 'runs/tow'"),
        ("runs/two runs/grey", "binarize threshold, transform none, measure counting"),
        ("runs/two runs/grey", "'runs/grey' with fingerprint"),
        ("runs/two runs/three --num-samples 0", "expected a positive integer, got 0"),
        ("runs/two runs/three --max-data 0", "`--max-data`: expected a positive integer, got 0"),
        ("runs/two runs/three --max-dat 5", "did you mean '--max-data'?"),
        ("runs/two runs/three --seed -1", "`--seed`: expected an integer >= 0 and below 2**32"),
    ],
)
def test_a_mistake_is_one_line(argv: str, words: str, fails: Fails) -> None:
    assert words in fails("compare", *argv.split())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("RUN RUN ... [options]", "paired differences", "--max-data", "--json"):
        assert words in printed


@pytest.mark.long
def test_annealing_and_gaps_are_those_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--max-data", "6", "--num-samples", "30"]
    result = _json(
        capsys,
        "evaluate",
        "runs/two",
        *few,
        "--ais",
        "--num-chains",
        "4",
        "--num-temperatures",
        "5",
        "--gaps",
    )
    assert result["ais"]["num_chains"] == 4
    assert result["ais"]["num_temperatures"] == 5
    assert result["ais"]["base_measure"] == result["gaps"]["base_measure"] == result["base_measure"]
    # The gaps start from the annealed log p(x), and add up to what lies between it and the bound.
    assert result["gaps"]["log_marginal"] == pytest.approx(result["ais"]["log_marginal"])
    both = result["gaps"]["approximation"] + result["gaps"]["amortisation"]
    assert both == pytest.approx(result["gaps"]["log_marginal"] - result["gaps"]["elbo"])
    assert not {"ais", "gaps"} & set(_json(capsys, "evaluate", "runs/two", *few))


@pytest.mark.long
def test_checks_compare_what_densities_cannot(
    capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    argv = ["compare", "runs/two", "runs/grey", "--max-data", "30"]
    assert "can be: --checks" in fails(*argv)
    result = _json(capsys, *argv, "--checks")
    assert "support" in result["refused"] or "measure" in result["refused"]
    assert set(result["checks"]) == {"runs/two", "runs/grey"}
    assert all(found["num_data"] == 30 for found in result["checks"].values())
    assert main([*argv, "--checks", "--out", "both.png"]) == 0
    shown = capsys.readouterr().out
    assert Path("both.png").stat().st_size > 10_000
    assert "does not exist yet" in fails(*argv, "--checks", "--out", "both.png")
    assert "ends in .png" in fails(*argv, "--checks", "--out", "both.pdf")
    assert "log p(x) is not compared" in shown
    assert "failed" in shown


@pytest.mark.long
def test_a_page_puts_runs_side_by_side(
    capsys: pytest.CaptureFixture[str], fails: Fails, tmp_path: Path
) -> None:
    """With checks, asked for or not."""
    few = ["--max-data", "40", *_FEW]
    result = _json(capsys, "compare", "runs/two", "runs/three", *few, "--html", "new/page.html")
    assert result["html"] == "new/page.html"
    ranked = [row["name"] for row in result["runs"]]
    assert list(result["checks"]) == ranked, "all is in the order of the scores"
    other = ["compare", ranked[1], ranked[0], *few, "--checks"]
    assert list(_json(capsys, *other)["checks"]) == ranked
    page = (tmp_path / "new/page.html").read_text(encoding="utf-8")
    for row in result["runs"]:
        assert f"{row['rank']}. {row['name']}" in page
        assert f"{row['log_marginal']:.2f}".replace("-", "−") in page
    assert "ends in .html" in fails("compare", "runs/two", "runs/three", "--html", "page.png")
