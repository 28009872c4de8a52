"""What a notebook and a terminal show of an object: small, escaped, and of any colours."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae._html import shown, table, tag
from pyro_vae.criticism import Checks, Row, calibrate
from pyro_vae.criticism.two_sample import TwoSample
from pyro_vae.evaluation import gaps
from pyro_vae.evaluation.scores import EXACT

_FOLD = ("details", "summary")
EVIL = "<script>alert(1)</script>"


class _Cells(HTMLParser):
    """The cells of the tables, line by line, and every tag and attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        elif tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data


def _read(thing: Any) -> _Cells:
    """What is shown, which needs nothing beside itself and sets no colours but those of lines."""
    text = thing._repr_html_()
    read = _Cells(text)
    assert read.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "strong", *_FOLD}
    assert read.attributes <= {"style"}
    assert set(re.findall(r"(?<![-\w])(?:color|background): ([^;\"]+)", text)) == {
        "inherit",
        "none",
    }
    return read


@pytest.fixture(scope="module")
def vae() -> pv.VAE:
    likelihood = pv.likelihoods.Poisson((4,), size_factor=True)
    prior = pv.priors.Product([pv.priors.Normal(2), pv.priors.Categorical(1, 3)])
    guide = pv.guides.Product([pv.guides.Normal(2), pv.guides.GumbelSoftmax(1, 3)])
    return pv.VAE(prior, guide, likelihood, pv.networks.MLP((5,)), cond_size=3, seed=0)


def test_a_model_is_a_table_of_its_parts(vae: pv.VAE) -> None:
    lines = _read(vae).lines
    assert [line[0] for line in lines[1:]] == ["prior", "guide", "encoder", "decoder", "likelihood"]
    assert lines[1][1] == "Product(parts=[Normal(dim=2), Categorical(groups=1, classes=3)])"
    assert lines[3] == ["encoder", "MLP(hidden=(5,))", "→ (7,)", str((4 + 3) * 5 + 5 + 5 * 7 + 7)]
    total = sum(int(line[3].replace(",", "")) for line in lines[1:])
    assert f'<div style="opacity: 0.8">{total:,} parameters, float32, on cpu' in vae._repr_html_()
    for note in ("z1 (2,), z2 (1, 3)", "a condition of 3 entries", "covariates: size_factor"):
        assert note in vae._repr_html_()


def test_a_network_of_ones_own_goes_by_its_class() -> None:
    class Decoder(nn.Linear):
        pass

    likelihood = pv.likelihoods.Normal((4,), scale=1.0)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, decoder=Decoder(2, 4))
    assert _read(vae).lines[4] == ["decoder", "Decoder", "→ (4,)", "12"]
    assert _read(vae).lines[5][1] == "Normal(event_shape=(4,), scale=1.0)"


def test_a_data_set_is_a_table_of_its_splits() -> None:
    x = np.random.default_rng(0).random((20, 3))
    x[:5, 0] = np.nan
    data = pv.data.load(x, missing=True)
    named = dataclasses.replace(data, name=EVIL, names=["a<b", *map(str, range(11))])
    lines = _read(named).lines
    assert [line[0] for line in lines[1:]] == ["train", "validation", "test"]
    assert sum(int(line[3]) for line in lines[1:]) == 20
    assert lines[1][1] == "mask (3,)"
    assert lines[1][4] == f"{data.train.isnan().double().mean():.1%}"
    assert EVIL not in named._repr_html_()
    assert "a&lt;b, 0, 1, 2, 3, 4, 5, 6 and 4 more" in named._repr_html_()
    digits = pv.data.load("digits", cond="digit")
    assert _read(digits).lines[1] == ["train", "cond (10,)", "10 classes", "1,257", "–"]


def test_scores_are_a_table_of_their_means() -> None:
    likelihood = pv.likelihoods.Bernoulli((4,))
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
    scores = pv.evaluate(vae, torch.eye(4), num_samples=20)
    summary = scores.summary()
    lines = {line[0]: line[1:] for line in _read(scores).lines}
    names = ("log_marginal", "standard_error", "mcse")
    assert lines["log p(x)"] == [f"{summary[name]:.4g}" for name in names]
    assert lines["bits per dimension"][0] == f"{summary['bits_per_dim']:.4g}"
    measure = {**scores.base_measure, "data": EVIL}
    assert EVIL not in dataclasses.replace(scores, base_measure=measure)._repr_html_()
    summed = dataclasses.replace(scores, estimator=EXACT)
    assert not any("k-hat" in line[0] for line in _read(summed).lines)
    assert "; all states of z; " in summed._repr_html_()
    lone = dataclasses.replace(scores, k_hat=np.full(4, np.nan))
    assert {line[0]: line[1:] for line in _read(lone).lines}["k-hat, median"][0] == "–"


def test_a_comparison_is_a_table_of_its_runs() -> None:
    likelihood = pv.likelihoods.Bernoulli((4,))
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
    scores = pv.evaluate(vae, torch.eye(4).repeat(5, 1), num_samples=20)
    worse = dataclasses.replace(scores, log_marginal=scores.log_marginal - 2.5)
    found = pv.compare({"worse": worse, EVIL: scores})
    read = _read(found)
    mean = scores.log_marginal.mean()
    assert read.lines[1][:4] == ["1", EVIL, f"{mean:.2f}", "0.00"]
    assert read.lines[2][:4] == ["2", "worse", f"{mean - 2.5:.2f}", "-2.50"]
    between = [float(each) for each in read.lines[2][5].split(" to ")]
    assert between == pytest.approx(
        [found.runs[1].difference_low, found.runs[1].difference_high], abs=0.006
    )
    assert read.lines[1][5] == "–"
    seeds = {"a-1": scores, "a-2": worse, "b": scores}
    assert len(_read(pv.compare(seeds, groups={"a-1": "a", "a-2": "a", "b": "b"})).lines) == 6


def test_gaps_are_a_table_of_their_parts() -> None:
    likelihood = pv.likelihoods.Bernoulli((4,))
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
    found = gaps(vae, torch.eye(4), num_steps=20, num_samples=50, seed=0)
    summary = found.summary()
    read = _read(found)
    lines = {line[0].split(",")[0].split(":")[0]: line[1:] for line in read.lines}
    for word, name in {"log p(x)": "log_marginal", "amortisation": "amortisation"}.items():
        assert lines[word] == [f"{summary[name]:.4g}", f"{summary[f'{name}_mcse']:.2g}"]
    assert len(read.lines) == 7


def _row(name: str, p: float, **options: Any) -> Row:
    known: dict[str, Any] = {"conditioned_on": "z ~ p(z)", "calibrated": True, "adjusted": p}
    return Row(name, "x[0]", 0.5, 0.1, 0.4, p, **known | options)


def _checks(*rows: Row) -> Checks:
    skipped = {"latent holes": f"{EVIL} too few data"}
    some = np.zeros(2)
    seen = TwoSample(0.63, 0.6, 0.01, 0.45, 0.55, some, some, some, some, 0.6, 0.66)
    return Checks(rows, 0.05, 500, 40, {}, seen, skipped, {})


def test_checks_are_a_table_of_their_rows() -> None:
    unjudged = {"conditioned_on": "z ~ q(z|x)", "calibrated": False, "adjusted": np.nan}
    failed = _row("mean", 0.0021, failed=True, advice="a richer decoder")
    checks = _checks(failed, _row(EVIL, 0.3), _row("mean", 0.2, **unjudged))
    read = _read(checks)
    numbers = ["0.5", "0.1 to 0.4", "0.0021", "0.0021"]
    assert read.lines[1] == ["mean, x[0]", "z ~ p(z)", "failed", *numbers]
    assert read.lines[2][:3] == [f"{EVIL}, x[0]", "z ~ p(z)", "passed"]
    assert read.lines[3][1:3] == ["z ~ q(z|x)", "not judged"]
    assert read.lines[3][-1] == "–"
    text = checks._repr_html_()
    assert EVIL not in text
    for words in ("1 of 2 failed at 0.05", "a richer decoder", "40 observations", "too few data"):
        assert words in text
    assert "a classifier tells draws from data: AUC 0.63 [0.60, 0.66]" in text


def test_checks_show_how_large_an_effect_is() -> None:
    effect = {"effect": -0.6, "effect_low": -0.75, "effect_high": -0.45}
    checks = _checks(_row("mean", 0.001, failed=True, advice="a richer decoder", **effect))
    read = _read(checks)
    assert read.lines[0][2:4] == ["size", "effect, sd"]
    assert read.lines[1][2:4] == ["moderate", "-0.60 [-0.75, -0.45]"]
    assert "mean, x[0] (moderate, -0.60 [-0.75, -0.45] sd): a richer decoder" in repr(checks)


def test_a_calibration_is_a_table_of_its_ranks() -> None:
    likelihood = pv.likelihoods.Bernoulli((4,))
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
    calibration = calibrate(vae, num_simulations=30)
    lines = _read(calibration).lines
    ranked = [line[0].split(", ECDF at ")[0] for line in lines[1:]]
    assert ranked == [f"rank of {name}" for name in calibration.names]
    assert [line[-1] for line in lines[1:]] == [f"{p:.3g}" for p in calibration.adjusted]
    assert len(lines[1]) == 6


def test_numbers_are_aligned_and_words_are_not() -> None:
    """Fails where a column of words stands at the right, as a table of data had them."""
    head = ["colour", "price", "seen"]
    made = table(head, [["red", "1.50", "missing"], ["blue", tag("b", "2"), "−3"]], text=0)
    assert re.findall(r'<th scope="col"( class="number")?>', made) == [
        "", ' class="number"', ' class="number"'
    ]  # fmt: skip
    sides = re.findall("text-align: ([a-z]+)", shown("title", head, [["red", "1.50", "−3"]]))
    assert sides == ["left", "right", "right"] * 2


def test_of_very_many_rows_those_of_the_smallest_p_are_shown() -> None:
    many = _checks(*(_row(str(i), 1 - i / 100) for i in range(100)))
    lines = [line for line in _read(many).lines if line[0] != "what"]
    assert [line[0] for line in lines] == [f"{i}, x[0]" for i in range(60, 100)]
    assert "60 more, with larger p-values" in many._repr_html_()


@pytest.mark.parametrize("count", [9, 10, 11, 25])
def test_ten_checks_are_seen_at_once_and_the_others_are_folded(count: int) -> None:
    """Fails when a long table is shown whole, when a row is lost, or a fold has no head."""
    text = _checks(*(_row(str(i), 0.5) for i in range(count)))._repr_html_()
    seen, *folded = re.split(r"<details><summary[^>]*>(.*?)</summary>", text)
    assert [line[0] for line in _Cells(seen + "</div>" * bool(folded)).lines][1:] == [
        f"{i}, x[0]" for i in range(min(count, 10))
    ]
    assert text.count("<details>") == text.count("</details>") == (count > 10)
    if folded:
        words, rest = folded
        assert words == ("1 more row" if count == 11 else f"{count - 10} more rows")
        inside = _Cells(rest.partition("</details>")[0]).lines
        assert [line[0] for line in inside] == [
            "what", *(f"{i}, x[0]" for i in range(10, count))
        ]  # fmt: skip


def test_what_is_no_markup_is_escaped() -> None:
    made = shown("<", ["&"], [[tag("b", "<")]], notes=[">"])
    assert _Cells(made).lines == [["&"], ["<"]]
    assert "&lt;</div>" in made


@pytest.mark.parametrize("validation", [None, 0.25])
def test_a_run_is_ten_lines_at_most(validation: float | None, tmp_path: Any) -> None:
    likelihood = pv.likelihoods.Bernoulli((4,))
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
    x = torch.eye(4).repeat(10, 1)
    run = pv.fit(
        vae, x, epochs=3, batch_size=10, validation=validation, out=tmp_path / "run",
        seed=0, compile=False, device="cpu",
    )  # fmt: skip
    first, *lines = repr(dataclasses.replace(run, skipped=2)).splitlines()
    assert len(lines) < 10
    assert first.startswith(f"Run(3 epochs, {run.steps} steps in ")
    assert "  prior       Normal(dim=2)" in lines
    assert f"eager: {run.steps} steps; 2 skipped" in lines[-2]
    assert str(tmp_path / "run") in lines[-1]
    best = run.best_epoch or 3
    for word, start in (("training", ""), ("validation", "validation_")):
        found = [line for line in lines if line.startswith(f"  {word}")]
        if start and validation is None:
            assert found == []
        else:
            assert f"ELBO {run.history[f'{start}elbo'][best - 1]:.4g} =" in found[0]
