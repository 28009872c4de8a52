"""The page about a run: escaped, self-contained, and seen by a real browser."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from chromium import Chromium, find
from torch import nn

import pyro_vae as pv
from pyro_vae import report
from pyro_vae._html import Html, table, tag
from pyro_vae.checkpoint import read_json, tensors_of
from pyro_vae.cli import main
from pyro_vae.cli.scores_by_row import recorded_by_row, write_by_row
from pyro_vae.data.rows import Rows
from pyro_vae.evaluation.scores import OF_EACH
from pyro_vae.programs.weigh import observations_at_once
from pyro_vae.report import findings as findings_module
from pyro_vae.report import story
from pyro_vae.report.beside import beside
from pyro_vae.report.findings import Findings
from pyro_vae.report.sections import scores as scores_section
from pyro_vae.report.sections.header import conditions, header
from pyro_vae.report.sections.verdict import verdict

_WIDTHS = (400, 800, 1400)
_HOSTILE = "<script>alert('x')</script>&\"a-very-long-name-without-a-space-" + 80 * "w"
_HISTORY = {
    "epoch": [1.0, 2.0, 3.0],
    "elbo": [-30.0, -20.0, -18.0],
    "reconstruction": [-29.0, -17.0, -14.0],
    "kl": [1.0, 3.0, 4.0],
    "seconds": [0.5, 1.0, 1.5],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """A headless Chromium."""
    path = find()
    if path is None:
        pytest.skip("needs a Chromium: Debian's package `chromium`")
    with Chromium(path) as started:
        yield started


def _data(kind: str) -> pv.data.Dataset:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(60, 1, 6, 5, generator=generator)
    values = {
        "binary images": (uniform > 0.5).float(),
        "vectors": uniform.flatten(1)[:, :7] - 0.5,
        "counts": (20 * uniform).floor().flatten(1)[:, :5],
        "one number": uniform.flatten(1)[:, :1],
    }[kind]
    labels = None if kind == "vectors" else torch.arange(60) % 3
    return pv.data.load(values, labels=labels)


def _page(kind: str, latent: str = "Normal", **options: object) -> str:
    data = _data(kind)
    likelihoods = {"binary images": pv.likelihoods.Bernoulli, "counts": pv.likelihoods.Poisson}
    likelihood = likelihoods.get(kind, pv.likelihoods.Normal)(data.event_shape)
    if latent == "Normal":
        vae = pv.VAE(pv.priors.Normal(3), pv.guides.Normal(3), likelihood)
    else:
        vae = pv.VAE(pv.priors.Categorical(3, 4), pv.guides.GumbelSoftmax(3, 4), likelihood)
    return report.page(vae, data, num_samples=30, **{"history": _HISTORY, **options})


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "latent"),
    [
        ("binary images", "Normal"),
        ("counts", "Categorical"),
        pytest.param("binary images", "Categorical", marks=pytest.mark.slow),
        pytest.param("vectors", "Normal", marks=pytest.mark.slow),
        pytest.param("one number", "Normal", marks=pytest.mark.slow),
    ],
)
def test_a_browser_sees_all_of_it_at_any_width(
    kind: str, latent: str, browser: Chromium, tmp_path: Path
) -> None:
    """Nothing is fetched, nothing complains, nothing is cut off; names are text.

    Fails when the table of facts may not wrap, or when names are not escaped.
    """
    path = tmp_path / "page.html"
    settings = {_HOSTILE: _HOSTILE}
    path.write_text(_page(kind, latent, name=_HOSTILE, settings=settings), encoding="utf-8")
    for width in _WIDTHS:
        seen = browser.look(path, width)
        assert seen.width == width
        assert seen.scrolled <= width
        assert seen.beyond == []
        assert seen.broken == 0
        assert seen.images >= 8
        assert seen.complaints == []
        assert seen.requests == []
        assert seen.text.count(_HOSTILE) >= 3, "names are shown as they are"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<p>as it should be</p>", ""),
        ("<p style='width: 1500px'>wide</p>", "beyond"),
        ("<p style='position: relative; left: -9px'>to the left</p>", "beyond"),
        ("<div style='overflow-x: auto'><p style='width: 1500px'>scrolls</p></div>", ""),
        ("<img src='data:image/png;base64,AAAA'>", "broken"),
        ("<img src='https://192.0.2.1/a.png'>", "requests"),
        ("<script>console.error('x')</script>", "complaints"),
        ("<script>nothing.at.all</script>", "complaints"),
    ],
)
def test_the_browser_finds_planted_faults(
    body: str, fault: str, browser: Chromium, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    head = "<!doctype html><meta charset='utf-8'><link rel='icon' href='data:,'>"
    path.write_text(f"{head}<body style='margin: 0'>{body}</body>", encoding="utf-8")
    seen = browser.look(path, 400)
    faults = {"beyond": seen.beyond, "requests": seen.requests, "complaints": seen.complaints}
    found = {name for name, each in faults.items() if each} | ({"broken"} if seen.broken else set())
    assert (fault in found) if fault else found == set()
    assert (seen.scrolled > 400) == ("'width: 1500px'>wide" in body)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of images, of a table with names, and of two runs side by side."""
    torch.manual_seed(0)
    frame = pd.DataFrame(torch.rand(60, 3).numpy(), columns=["height", "weight", "income"])
    table_ = pv.data.load(frame)
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,))
    vae = pv.VAE(*parts)
    runs = {name: (vae, table_.rows("train")) for name in ("first", "second")}
    scores = {name: pv.evaluate(vae, table_.train, num_samples=30) for name in runs}
    found = pv.criticism.check(vae, table_.rows("train"))
    pages = {
        "images": _page("binary images"),
        "table": report.page(vae, table_, history=_HISTORY, num_samples=30),
        "runs": beside(runs, pv.compare(scores), dict.fromkeys(runs, found)),
    }
    paths = {kind: tmp_path_factory.mktemp("pages") / f"{kind}.html" for kind in pages}
    for kind, path in paths.items():
        path.write_text(pages[kind], encoding="utf-8")
    return paths


@pytest.mark.parametrize("kind", ["images", "table", "runs"])
def test_paper_has_all_of_it_on_few_sheets(
    kind: str, browser: Chromium, written: dict[str, Path]
) -> None:
    """Fails without a style for print: twice as many sheets."""
    seen = browser.look(written[kind], 800)
    assert (seen.beyond, seen.broken, seen.complaints, seen.requests) == ([], 0, [], [])
    assert 1 <= browser.sheets() <= 8


def _axe() -> str:
    if "PYRO_VAE_AXE" not in os.environ:
        pytest.skip("needs PYRO_VAE_AXE, the path of axe-core's axe.min.js: .ci/run fetches it")
    return Path(os.environ["PYRO_VAE_AXE"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["images", "table", "runs"])
def test_everybody_can_read_it(kind: str, browser: Chromium, written: dict[str, Path]) -> None:
    """Fails for a picture without words, or grey on grey."""
    axe = _axe()
    browser.look(written[kind], 1400)
    assert browser.violations(axe) == []


def test_what_nobody_can_read_is_found(browser: Chromium, tmp_path: Path) -> None:
    axe, path = _axe(), tmp_path / "page.html"
    picture = "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>"
    path.write_text(
        f"<!doctype html><html><title>x</title><p style='color:#ddd'>pale words</p>{picture}"
    )
    browser.look(path, 400)
    found = {each.partition(":")[0] for each in browser.violations(axe)}
    assert {"color-contrast", "html-has-lang", "image-alt"} <= found


def test_tables_are_written_as_they_are(written: dict[str, Path]) -> None:
    page = written["table"].read_text(encoding="utf-8")
    heads = re.findall(r"<h3>(Rows[^<]*)</h3><div[^>]*><table[^>]*><thead><tr>(.*?)</tr>", page)
    assert [title.split(" ")[:3] for title, _ in heads] == [
        ["Rows", "of", "the"],
        ["Rows", "that", "the"],
    ]
    for _, head in heads:
        assert re.findall(r"<th[^>]*>([^<]*)</th>", head) == ["height", "weight", "income"]


def test_runs_stand_side_by_side(written: dict[str, Path]) -> None:
    """The same run twice: a difference of nothing, and the same effects."""
    page = written["runs"].read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    (second,) = (each for each in cells if each and each[0].endswith("1. second"))
    assert second[2:4] == ["0.00", "± 0.00"]
    effects = [each for each in cells if len(each) == 3 and "[" in each[1]]
    assert len(effects) > 5
    assert all(first == other for _, first, other in effects)


@pytest.mark.long
def test_the_verdict_is_that_of_the_checks_and_of_calibration() -> None:
    """Of the same model: it reproduces what it draws itself, and not what is far from that."""
    torch.manual_seed(0)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,)))
    verdicts = []
    for x in (vae.sample(60), vae.sample(60) + 5):
        data = pv.data.load(x, validation=0, test=0.5)
        verdicts.append(verdict(Findings(vae, data, None, None, {}, "", 100, None, 0, None)))
    own, far = verdicts
    assert "Nothing rejects it" in own
    assert re.search(r"No: \d+ of \d+ checks fail", far)
    assert "nats per observation" in own
    assert "nats above the ELBO" in own


def test_rows_that_lack_entries_are_ranked_by_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum over fewer entries is nearer to zero: such a row is not the most likely for that."""
    shown: list[tuple[list[int], list[str]]] = []
    keep = lambda _, index, titles: shown.append((index.tolist(), titles)) or []  # noqa: E731
    monkeypatch.setattr(scores_section, "lines", keep)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    found: Any = SimpleNamespace(
        scores=SimpleNamespace(log_marginal=np.array([-8.0, -3.0, -2.0, -5.0])),
        rows=SimpleNamespace(mask=mask), x=torch.zeros(4, 4), images=False, columns=True,
    )  # fmt: skip
    text = scores_section._extremes(found)
    assert [index for index, _ in shown] == [[1, 3], [2, 0]]
    assert shown[0][1][0] == "Least likely: log p(x) an observed entry −3.00"
    assert "ranked by nats an observed entry" in text
    found.rows.mask = None
    assert "observed entry" not in scores_section._extremes(found)
    assert [index for index, _ in shown[2:]] == [[0, 3], [2, 1]]


def test_a_one_hot_site_of_several_is_one_unit_of_the_page() -> None:
    """Fails when each of its classes is counted among the units that have collapsed."""
    data = _data("counts")
    vae = pv.VAE(
        pv.priors.Product([pv.priors.Normal(2), pv.priors.Categorical(1, 9)]),
        pv.guides.Product([pv.guides.Normal(2), pv.guides.GumbelSoftmax(1, 9)]),
        pv.likelihoods.Poisson(data.event_shape),
    )
    story = Findings(vae, data, None, None, {}, "", 10, None, 0, None)
    means = torch.cat(
        [vae.encode(batch).mean for batch in story.x.split(observations_at_once(vae, story.x))]
    ).double()
    variance = means.var(0, correction=0)
    expected = torch.stack([variance[0], variance[1], variance[2:].max()])
    torch.testing.assert_close(story.variances, expected.detach())
    assert re.search(r"active latent units.{1,40}?\b\d of 3\b", header(story), re.DOTALL)


def test_what_is_no_markup_is_escaped() -> None:
    cell = tag("td", 'a < b & "c"', tag("i", Html("&amp;")), title='"><script>')
    assert cell == (
        '<td title="&quot;&gt;&lt;script&gt;">a &lt; b &amp; &quot;c&quot;<i>&amp;</i></td>'
    )
    assert "<th" in table(("a<", "b"), [("<x>", 1)])
    assert "<x>" not in table(("a<", "b"), [("<x>", 1)])


@pytest.mark.long
def test_the_page_needs_nothing_beside_itself() -> None:
    page = _page("binary images")
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert len(addresses) > 15
    assert {address.partition(":")[0] for address in addresses if address[0] != "#"} == {"data"}
    assert "url(" not in page
    assert "@import" not in page
    assert "<script" not in page


@pytest.mark.long
def test_the_contents_list_each_section_in_order() -> None:
    page = _page("counts", history=None)
    links = re.findall(r'<li><a href="#(\w+)">([^<]*)</a></li>', page)
    sections = re.findall(r'<section id="(\w+)"><h2>([^<]*)</h2>', page)
    assert links == sections
    titles = dict(sections)
    assert "curves" not in titles, "there is no history to draw"
    assert titles["samples"] == "Samples from the prior"
    assert titles["traversals"] == "Latent traversals and interpolations"
    assert titles["calibration"] == "Posterior calibration (SBC)"


@pytest.mark.long
def test_a_page_is_the_same_again_and_leaves_the_model_alone() -> None:
    data = _data("binary images")
    likelihood = pv.likelihoods.Bernoulli(data.event_shape)
    vae = pv.VAE(pv.priors.Normal(3), pv.guides.Normal(3), likelihood).train()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (
        re.sub(r"\d+\.\d s", "", report.page(vae, data, num_samples=20)) for _ in range(2)
    )
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in vae.modules())
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())


class _Sum(nn.Module):
    """A decoder whose outputs show where it stands: the weighted sum of z."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (z * self.weights).flatten(1).sum(1, keepdim=True)


class _Fixed(nn.Module):
    """An encoder that gives the same features to all data but for their first entry."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1].reshape(-1, *[1] * self.features.ndim) + self.features


def test_the_head_names_what_the_model_is_given(tmp_path: Path) -> None:
    """Fails where a reader cannot know that predictions are given a covariate of each row."""
    lines = [f"{i % 7}.5,{i % 3 + 1},{'ab'[i % 2]},{i % 5 + 0.25}" for i in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(["count,size,arm,other", *lines]))
    data = pv.data.load(tmp_path / "t.csv", cond="arm", size_factor="size")
    likelihood = pv.likelihoods.Normal((2,))
    vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood, cond_size=2)
    for given, words in (
        ({"cond": data.cond["train"]}, "arm"),
        ({**data.given("train"), "mask": data.train > 0},
         "arm, a size factor and which entries are observed"),
        ({}, ""),
    ):  # fmt: skip
        known: Any = SimpleNamespace(data=data, rows=Rows(data.train, given))
        assert conditions(known) == words
    without = dataclasses.replace(data, covariates={})  # which a normal likelihood takes none of
    story = Findings(vae, without, None, None, {}, "", 10, None, 0, None)
    assert "With each observation the model is given arm: scores, draws and checks" in header(story)


def test_a_traversal_moves_one_unit_in_standard_deviations() -> None:
    """z = (5, 5) at x = 5; unit 1, of weight 10, goes from -3 to 3. Fails when both move."""
    vae = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Normal((1,)),
        encoder=_Fixed(torch.zeros(4)),
        decoder=_Sum(torch.tensor([1.0, 10.0])),
    )
    traversed = report.traversals(vae, torch.tensor([5.0]), torch.tensor([1]), steps=3)
    assert traversed.flatten().tolist() == [-25.0, 5.0, 35.0]


def test_a_one_hot_unit_takes_each_class() -> None:
    weights = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    vae = pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Normal((1,)),
        encoder=_Fixed(torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])),
        decoder=_Sum(weights),
    )
    traversed = report.traversals(vae, torch.zeros(1), torch.tensor([1, 0]))
    assert traversed.squeeze(-1).tolist() == [[12.0, 22.0, 32.0], [31.0, 32.0, 33.0]]


def test_interpolations_go_from_end_to_end() -> None:
    vae = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Normal((1,)),
        encoder=_Fixed(torch.zeros(4)),
        decoder=_Sum(torch.tensor([1.0, 1.0])),
    )
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
    path = report.interpolations(vae, first, second, steps=3)
    assert path.squeeze(-1).tolist() == [[0.0, 1.0, 2.0], [2.0, 4.0, 6.0]]


def _fit_digits() -> None:
    """Fits a small model by the command line, into `run`."""
    quick = ["--epochs", "1", "--num-samples", "20", "--compile", "false", "--device", "cpu"]
    small = ["--latent-dim", "2", "--encoder.hidden", "[8]", "--decoder.hidden", "[8]"]
    assert main(["fit", "digits", "--out", "run", *quick, *small]) == 0


@pytest.mark.long
def test_the_verb_writes_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _fit_digits()
    capsys.readouterr()
    Path("run/report.html").write_text("mine")
    assert main(["report", "run", "--num-samples", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["out"] == "run/report-2.html"
    assert Path("run/report.html").read_text() == "mine"
    page = Path(result["out"]).read_text(encoding="utf-8")
    assert result["bytes"] == len(page.encode())
    summary = read_json(Path("run/scores.json"))
    assert f"{summary['log_marginal']:.2f}".replace("-", "−") in page
    for recorded in ("likelihoods.Bernoulli", "objectives.ELBO", "seed=0", "eager: 10 steps"):
        assert recorded in page

    before = sorted(tmp_path.rglob("*"))
    for argv, words in (
        (["nowhere"], "an existing run folder"),
        (["run", "--out", "run/report.html"], "does not exist yet"),
        (["run", "--num-samples", "0"], "--num-samples"),
        (["run", "--seed=-1"], "--seed"),
    ):
        assert main(["report", *argv]) == 2
        printed = capsys.readouterr()
        assert words in printed.err
        assert printed.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_verb_shows_the_scores_of_the_run_and_makes_none_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when they are of other rows, when they are made again, or damage is shown."""
    monkeypatch.chdir(tmp_path)
    _fit_digits()
    path, summary = Path("run/scores.safetensors"), read_json(Path("run/scores.json"))
    data = pv.data.load("digits")
    again = pv.evaluate(pv.load("run"), data.test, num_samples=20)
    found = recorded_by_row(Path("run"), summary, len(data.test))
    assert found is not None
    for name in OF_EACH:
        np.testing.assert_allclose(getattr(found, name), getattr(again, name), rtol=1e-4)
    assert found.summary()["kl"] == summary["kl"]
    assert found.of_first(7).log_marginal.tolist() == found.log_marginal[:7].tolist()

    shown = list[Findings]()

    def keep(findings: Findings) -> str:
        shown.append(findings)
        assert findings.summarised == len(data.test)
        return f"{len(findings.scores.log_marginal)} scores"

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("scores are made again")

    monkeypatch.setattr(story, "_document", keep)
    with monkeypatch.context() as patched:
        patched.setattr(findings_module, "evaluate", refused)
        assert main(["report", "run", "--num-samples", "20"]) == 0
        assert shown[-1].scores.log_marginal.tolist() == found.log_marginal.tolist()
        for argv in (["--num-samples", "30"], ["--num-samples", "20", "--data", "new.npy"]):
            np.save("new.npy", data.test[:40].numpy())
            with pytest.raises(AssertionError, match="made again"):
                main(["report", "run", *argv])
    capsys.readouterr()

    whole = path.read_bytes()
    pv.checkpoint.write_tensors(path, tensors_of(path, whole)[0] | {"log_marginal": -torch.ones(3)})
    assert main(["report", "run", "--num-samples", "20"]) == 2
    assert "of 360 observations" in capsys.readouterr().err
    other = tensors_of(path, whole)[0]
    pv.checkpoint.write_tensors(path, other | {"log_marginal": other["log_marginal"] - 1})
    assert main(["report", "run", "--num-samples", "20"]) == 2
    assert "as scores.json has it" in capsys.readouterr().err
    path.unlink()  # as in a run from before there were such files
    assert main(["report", "run", "--num-samples", "20"]) == 0
    assert shown[-1].known_scores is None


def test_a_page_refuses_scores_of_other_data() -> None:
    data = _data("vectors")
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((7,)))
    some = pv.evaluate(vae, data.train[:5], num_samples=10)
    with pytest.raises(ValueError, match=r"`scores`: expected scores of \d+ observations"):
        report.page(vae, data, scores=some)


def test_scores_whose_mean_cancels_out_are_those_of_their_summary(tmp_path: Path) -> None:
    """Whichever order a processor adds them up in."""
    vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), pv.likelihoods.Bernoulli((7,)))
    scores = pv.evaluate(vae, (_data("vectors").train > 0).float(), num_samples=10)
    values = np.linspace(-1000.0, 1000.0, len(scores.log_marginal))
    write_by_row(tmp_path, dataclasses.replace(scores, log_marginal=values))
    for mean, same in ((1e-9, True), (-1e-9, True), (1e-3, False)):
        summary = scores.summary() | {"log_marginal": mean}
        with nullcontext() if same else pytest.raises(ValueError, match="scores of mean"):
            assert recorded_by_row(tmp_path, summary, len(values)) is not None


def test_exact_scores_of_each_observation_come_back(tmp_path: Path) -> None:
    """Fails where one array that is two columns is not written, or a NaN is refused."""
    vae = pv.VAE(
        pv.priors.Categorical(1, 3), pv.guides.GumbelSoftmax(1, 3), pv.likelihoods.Bernoulli((7,))
    )
    scores = pv.evaluate(vae, (_data("vectors").train > 0).float())
    write_by_row(tmp_path, scores)
    found = recorded_by_row(tmp_path, scores.summary(), len(scores.log_marginal))
    assert found is not None
    assert found.is_exact
    for name in OF_EACH:
        np.testing.assert_array_equal(getattr(found, name), getattr(scores, name))
