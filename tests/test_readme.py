"""What README and docs say works: commands are there for the gate, each page's Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_stub import Hub
from torch import nn

import pyro_vae as pv

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PARTS = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# What programs.md prints is run, with its commands, by tests/test_docs_programs.py.
WITH_PYTHON = [
    page
    for page in PAGES
    if _blocks(page.read_text(encoding="utf-8"), "python") and page.stem != "programs"
]


def _ran(page: Path) -> dict[str, Any]:
    """The names of a page after its Python ran: one program, later blocks use earlier names."""
    names: dict[str, Any] = {"__name__": page.stem}
    for block in _blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(block, page.name, "exec"), names)
    return names


def _learned(names: dict[str, Any]) -> None:
    """One Bernoulli distribution a pixel, without z, gives -24.8."""
    summary = pv.evaluate(names["vae"], names["data"].test, num_samples=100).summary()
    assert summary["log_marginal"] > -21.0
    assert summary["elbo"] > -21.5


# ArviZ 1.3 fits a Pareto distribution to the tails of each observation's draws, where counts are
# often tied.
@pytest.mark.long
@pytest.mark.filterwarnings(
    "ignore:invalid value encountered:RuntimeWarning:arviz_stats.base.diagnostics"
)
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a page's program does, when training does not learn, or draws have no shape."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path / "cache").module())
    names = _ran(page)
    if page.stem in ("README", "start"):
        _learned(names)
    if page.stem == "start":
        assert names["images"].shape == (16, *names["data"].event_shape)
    if page.stem == "pyro":
        # The last epoch is ten batches. Below that distribution, what the encoder says is used.
        assert sum(names["losses"][-10:]) / 1257 < 23.5
    if page.stem == "parts":
        assert isinstance(names["floods"], nn.Module)


def test_the_gate_reads_the_two_commands() -> None:
    commands = [block.strip() for block in _blocks(README, "sh")]
    assert commands == ["pip install . && pyro-vae fit digits", "pip install '.[test]' && pytest"]
    # The gate takes whole lines that start so; nothing else in the README may.
    assert re.findall(r"^pip install.*$", README, re.MULTILINE) == commands
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "docs" / "gallery").glob("*.md"))], ids=lambda page: page.stem
)
def test_tables_are_those_of_the_results(page: Path) -> None:
    """No figure is typed by hand. Fails when a figure in a page is changed."""
    text = page.read_text(encoding="utf-8")
    sections = re.findall(r"<!-- table (\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert len(sections) > 0 or "<!-- table" not in text
    for name, table in sections:
        result = ROOT / "experiments" / "results" / f"{name}.md"
        assert table == result.read_text(encoding="utf-8").strip(), name


def test_the_comparison_counts_what_there_is() -> None:
    """Fails when a likelihood, a part or a tutorial comes or goes, and the page is not told."""
    page = (ROOT / "docs" / "compared.md").read_text(encoding="utf-8")
    parts = set(re.findall(r"^\| `(\w+\.\w+)` \|", PARTS, re.MULTILINE))
    likelihoods = [name for name in parts if name.startswith("likelihoods.")]
    counts = {
        "Likelihoods to swap in one word": len(likelihoods),
        "Published autoencoders by name": len(parts),
        "Tutorials": len([*(ROOT / "docs" / "tutorials").glob("*.md")]),
    }
    for line, count in counts.items():
        told = re.findall(rf"^\| {line} \| \[(?:partly: )?(\d+)\b", page, re.MULTILINE)
        assert told == [str(count)], line


@pytest.mark.parametrize(
    "base",
    [
        pv.priors.Prior,
        pv.guides.Guide,
        pv.likelihoods.Likelihood,
        pv.networks.Network,
        pv.objectives.Objective,
    ],
)
def test_the_table_lists_every_part(base: type) -> None:
    room = base.__module__.split(".")[1]
    exported = {name: getattr(getattr(pv, room), name) for name in getattr(pv, room).__all__}
    parts = {name for name, part in exported.items() if base in getattr(part, "__mro__", ())[1:]}
    assert len(parts) > 0
    assert set(re.findall(rf"`{room}\.(\w+)`", PARTS)) == parts
    for name in parts:
        cited = rf"^\| `{room}\.{name}` \|.*\]\((https?://\S+)\) \| (\d{{4}}) \|"
        told = re.findall(cited, PARTS, re.MULTILINE)
        add = f"add a row: python experiments/parts.py {room}.{name}, then --table, then tables.py"
        assert told, add
        docstring = exported[name].__doc__ or ""
        assert all(word in docstring for row in told for word in row), f"{name} cites others: {add}"
