"""What ranks rows as anomalies: typicality, parts of the bound, a ratio, from Python and typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from linear import LinearGaussian

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.cli.anomalies import _ranked as ranked
from pyro_vae.evaluation import anomalies, outliers
from pyro_vae.evaluation.downstream import _auroc as auroc
from pyro_vae.evaluation.downstream import _average_precision as average_precision
from pyro_vae.evaluation.outliers import _less_typical as less_typical

ROOT = Path(__file__).parents[1]
Fails = Callable[..., str]


def test_precision_of_ties_is_that_of_finding_them_together() -> None:
    """By hand: at 1 two of three are anomalies, at 0 three of six."""
    found = average_precision(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert found == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 1 / 2)
    assert average_precision(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert average_precision(np.zeros(6), np.zeros(2)) == 0.25


@pytest.mark.parametrize("alone", [False, True])
def test_a_row_is_among_those_whose_mean_it_is_compared_with(alone: bool) -> None:
    """As counted row by row. Fails when the mean is that of the reference without the row."""
    model = LinearGaussian(dim=6, latent=2, noise=1.0)
    x, reference = model.vae.sample(40), None if alone else model.vae.sample(9)
    found = outliers(model.vae, x, reference=reference, score="typicality", num_samples=5)
    own, others = found.log_marginal, found.reference
    expected = []
    for each in own:
        bag = others if alone else np.append(others, each)
        off = np.abs(bag - bag.mean())
        expected.append(np.mean(off >= abs(each - bag.mean()) - 1e-9))
    np.testing.assert_allclose(found.p_value, expected)
    np.testing.assert_allclose(found.scores["typicality"], np.abs(own - others.mean()))


def test_p_values_of_typicality_are_no_smaller_than_they_say() -> None:
    """Of rows like the reference, each with a reference of its own; to 4 standard errors."""
    model = LinearGaussian(dim=6, latent=2, noise=1.0)
    levels = np.array([0.1, 0.3, 0.5])
    below = []
    for _ in range(60):
        found = outliers(
            model.vae,
            model.vae.sample(8),
            reference=model.vae.sample(9),
            score="typicality",
            num_samples=2,
        )
        below.append((found.p_value[:, None] <= levels + 1e-9).mean(0))
    error = np.std(below, 0, ddof=1) / 60**0.5
    assert (np.abs(np.mean(below, 0) - levels) < 4 * error).all()


def test_data_at_the_mode_are_dense_and_not_typical() -> None:
    """What typicality is for: by -log p(x) they are the last, by it the first."""
    model = LinearGaussian(dim=64, latent=2)
    x = torch.cat([model.vae.sample(20), 0.2 * model.vae.sample(5)])
    known: dict[str, Any] = {"reference": model.vae.sample(60), "num_samples": 2}
    dense = outliers(model.vae, x, **known)
    assert set(dense.order[-5:]) == set(range(20, 25))
    assert (dense.p_value[20:] == 1).all()
    untypical = outliers(model.vae, x, score="typicality", **known)
    assert set(untypical.order[:5]) == set(range(20, 25))
    assert (untypical.p_value[20:] == 1 / 61).all()
    assert "for reference, by typicality" in repr(untypical)


def test_distortion_and_rate_are_the_parts_of_the_bound() -> None:
    model = LinearGaussian(dim=6, latent=2, noise=1.0)
    x = model.vae.sample(12)
    scores = pv.evaluate(model.vae, x, num_samples=20)
    for name, expected in (("distortion", -scores.reconstruction), ("rate", scores.kl)):
        found = outliers(model.vae, x, score=name, num_samples=20)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.scores[name], expected)
        assert (np.diff(expected[found.order]) <= 0).all()
        ranks = (expected >= expected[:, None]).mean(1)
        np.testing.assert_allclose(found.p_value, ranks)
    total = found.scores["distortion"] + found.scores["rate"]
    np.testing.assert_allclose(total, -scores.elbo)


def test_the_ratio_is_to_the_background() -> None:
    """Both densities are known. Fails when it is the other way round."""
    model, other = LinearGaussian(dim=6, latent=2), LinearGaussian(dim=6, latent=2, seed=1)
    x, reference = model.vae.sample(30), model.vae.sample(20)

    def exact(rows: Any) -> np.ndarray:
        return np.asarray(other.log_prob(rows) - model.log_prob(rows))

    found = outliers(
        model.vae, x, reference=reference, score="ratio", background=other.vae, num_samples=5
    )
    np.testing.assert_allclose(found.scores["ratio"], exact(x), atol=1e-3)
    above = (exact(reference) >= exact(x)[:, None] - 1e-9).sum(1)
    assert np.abs(found.p_value - (1 + above) / 21).max() <= 1 / 21  # a tie to rounding
    strange = other.vae.sample(30)
    areas = anomalies(
        model.vae, x, strange, reference=reference, background=other.vae, num_samples=5
    )
    # By Neyman and Pearson there is no better one.
    assert areas.auroc["ratio"] > areas.auroc["log_marginal"]
    assert areas.auroc["ratio"] == pytest.approx(
        np.mean(exact(strange)[:, None] > exact(x)), abs=0.01
    )
    assert areas.summary()["average_precision"]["ratio"] > 0.5


def test_what_has_no_density_is_the_greatest_outlier() -> None:
    """By all scores: its square is no float. Fails, with p = 1, when it is in the mean."""
    model = LinearGaussian(dim=6, latent=2)
    x, reference = model.vae.sample(5), model.vae.sample(9)
    x[3, 0] = 1e30
    for score in ("log_marginal", "typicality", "distortion", "ratio"):
        found = outliers(
            model.vae,
            x,
            reference=reference,
            score=score,  # type: ignore[arg-type]
            background=LinearGaussian(dim=6, latent=2, seed=1).vae,
            num_samples=5,
        )
        assert found.order[0] == 3
        assert found.p_value[3] == pytest.approx(0.1)
        assert np.isfinite(np.delete(found.scores[score], 3)).all()


@pytest.mark.parametrize("score", ["log_marginal", "typicality", "distortion", "rate", "ratio"])
def test_what_overflows_in_a_network_is_the_greatest_outlier(score: Any) -> None:
    """Its log p(x) is no number. Fails, as the last with p = 1, when it is sorted as one."""
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.StudentT((4,))
    vae, other = pv.VAE(*parts, seed=0), pv.VAE(*parts, seed=1)
    x = vae.sample(5, seed=0)
    x[3, 0] = 3e38
    found = outliers(
        vae, x, reference=vae.sample(9, seed=1), score=score, background=other, num_samples=5
    )
    assert found.order[0] == 3
    assert found.p_value[3] == pytest.approx(0.1)
    assert found.log_marginal[3] == -np.inf


def test_areas_of_infinite_scores() -> None:
    """As if they were large. scikit-learn takes no infinity."""
    inliers, far = np.array([0.0, 1.0, 4.0]), np.array([2.0, np.inf, np.inf])
    large = np.array([2.0, 9.0, 9.0])
    assert auroc(inliers, far) == auroc(inliers, large)
    assert average_precision(inliers, far) == average_precision(inliers, large) < 1


def test_no_warning_of_a_row_without_density() -> None:
    """The mean of the others is finite. NumPy warned of zero times infinity."""
    log_probs = np.array([-np.inf, 1.0, 2.0])
    assert less_typical(log_probs, log_probs, 0).tolist() == [1, 3, 3]


def test_a_column_called_as_a_result_is_kept() -> None:
    """Fails when the p-values replace a label of that name."""
    model = LinearGaussian(dim=6, latent=2)
    found = outliers(model.vae, model.vae.sample(3), num_samples=5)
    rows = ranked(found, {"p_value": np.array([7, 8, 9]), "row": np.arange(1, 4)})
    assert rows.columns[:2].tolist() == ["p_value of the table", "row"]
    assert (rows["p_value of the table"] == rows["row"] + 6).all()
    np.testing.assert_array_equal(rows["p_value"], found.p_value[found.order])


def test_wrong_scores_and_backgrounds() -> None:
    parts = pv.priors.Normal(2), pv.guides.Normal(2)
    vae = pv.VAE(*parts, pv.likelihoods.Bernoulli((4,)))
    x = torch.ones(5, 4)
    scores = "log_marginal, typicality, distortion, rate, ratio"
    with pytest.raises(ValueError, match=f"`score`: expected one of {scores}, got 'surprise'"):
        outliers(vae, x, score="surprise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`background`: expected a model of the background"):
        outliers(vae, x, score="ratio")
    with pytest.raises(ValueError, match="`background`: expected a VAE, or a Program, got 3"):
        outliers(vae, x, background=3)  # type: ignore[arg-type]
    real = pv.VAE(*parts, pv.likelihoods.Normal((4,)))
    with pytest.raises(ValueError, match="`background`: expected one base measure for all"):
        anomalies(vae, x, x, reference=x, background=real, num_samples=5)
    wide = pv.VAE(*parts, pv.likelihoods.Bernoulli((5,)))
    with pytest.raises(ValueError, match="`background`: expected a tensor of shape"):
        outliers(vae, x, background=wide, num_samples=5)


QUICK = ["--epochs", "2", "--num-samples", "5", "--compile", "false", "--device", "cpu",
         "--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with normal rows, the same mixed up, and new ones."""
    monkeypatch.chdir(tmp_path)
    r = np.random.default_rng(0)
    first = r.normal(size=90)
    normal = pd.DataFrame({"a": first, "b": first + 0.1 * r.normal(size=90)})
    normal["kind"] = np.where(first > 0, "up", "down")
    normal[:70].to_csv("normal.csv", index=False)
    normal[70:].assign(part_id=[f"p{i}" for i in range(20)]).to_csv("new.csv", index=False)
    return tmp_path


@pytest.mark.long
def test_the_commands_of_the_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Word for word but for the effort of a fit, in the order of the page."""
    page = (ROOT / "docs" / "gallery" / "anomalies.md").read_text(encoding="utf-8")
    (mixing,) = re.findall(r"^```python\n(import numpy.*?)^```$", page, re.S | re.M)
    printed = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.S | re.M)).replace("\\\n", " ")
    commands = [line.split()[1:] for line in printed.splitlines() if line.strip()]
    assert [words[0] for words in commands].count("fit") == 2
    for words in commands:
        if "mixed.csv" in words:
            exec(mixing, {})
        effort = QUICK if words[0] == "fit" else []
        effort = [*effort, "--num-samples", "5"] if words[0] == "anomalies" else effort
        assert main([*words, *effort]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "by typicality" in out
    assert "by ratio" in out
    assert max(map(len, out[out.index("20 rows of") :].splitlines())) <= 80
    ranked = pd.read_csv("ranked.csv")
    assert list(ranked.columns[-8:]) == [
        "row",
        "surprise",
        "mcse",
        "typicality",
        "distortion",
        "rate",
        "ratio",
        "p_value",
    ]
    assert ranked.ratio.is_monotonic_decreasing
    data = pv.data.load("normal.csv")
    new = pv.data.load("new.csv", like=data).test
    expected = outliers(
        pv.load("runs/normal"),
        new,
        reference=data.test,
        score="ratio",
        background=pv.load("runs/mixed"),
        num_samples=5,
    )
    np.testing.assert_allclose(ranked.ratio, expected.scores["ratio"][expected.order], rtol=1e-5)
    np.testing.assert_allclose(ranked.p_value, expected.p_value[expected.order])


@pytest.mark.long
def test_a_background_of_other_columns_is_refused(
    folder: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words of the same number would be taken for each other."""
    assert main(["fit", "normal.csv", *QUICK, "--out", "run"]) == 0
    other = pd.read_csv("normal.csv").replace({"up": "left", "down": "right"})
    other.to_csv("other.csv", index=False)
    assert main(["fit", "other.csv", *QUICK, "--out", "other"]) == 0
    ratio = ["anomalies", "run", "--score", "ratio"]
    assert "`--background`: expected a run, which the ratio is to" in fails(*ratio)
    missing = fails(*ratio, "--background", "nowhere")
    assert "`--background`: expected an existing run folder, got 'nowhere'" in missing
    assert "the same columns, of the same kinds and levels" in fails(
        *ratio, "--background", "other"
    )
    capsys.readouterr()
    assert main(["anomalies", "run", "--score", "rate", "--num-samples", "5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rates = [row["rate"] for row in said["rows"]]
    assert rates == sorted(rates, reverse=True)
    assert said["score"] == "rate"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anomalies", "features"])
def test_the_experiments_run(name: str) -> None:
    """Their small versions: a VAE and its rivals, on two sets."""
    script = ROOT / "experiments" / "applications" / f"{name}.py"
    done = subprocess.run([sys.executable, str(script), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "breast_cancer" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", ["anomalies", "features"])
def test_the_programs_of_the_pages_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "gallery" / f"{name}.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(import pyro_vae.*?)^```$", page, re.S | re.M)
    short = re.sub(r"epochs=\d+", "epochs=1", program)
    assert short != program
    exec(short, {})
