"""What a notebook stores of a fit: the bar, once, in its last state, readable without a kernel."""

from __future__ import annotations

import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import pyro_vae as pv
from pyro_vae._progress import Monitor

EPOCHS = 40
FIT = f"""
import torch, pyro_vae as pv
likelihood = pv.likelihoods.Bernoulli((4,))
vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
x = torch.eye(4).repeat(8, 1)
run = pv.fit(vae, x, epochs={EPOCHS}, validation=0.25, compile=False, seed=0, callbacks=[])
"""
STOPPED = """
class Stops:
    def on_epoch(self, line):
        if line["epoch"] == 3:
            raise RuntimeError("enough")
""" + FIT.replace("callbacks=[]", "callbacks=[Stops()]")


class _Text(HTMLParser):
    """The text of markup, and its elements."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.text, self.elements = "", []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _executed(*cells: str) -> list[Any]:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    environment = {name: os.environ[name] for name in os.environ if name != "PYTEST_CURRENT_TEST"}
    client = nbclient.NotebookClient(notebook, timeout=200, allow_errors=True)
    client.execute(env=environment)
    if saved := os.environ.get("PYRO_VAE_NOTEBOOK"):
        nbformat.write(notebook, saved)
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.filterwarnings("default")  # of packages that are not ours
def test_a_kernel_stores_the_bar_once() -> None:
    fitted, (table,), stopped = _executed(FIT, "run", STOPPED)
    # Beside it are warnings: of a posterior that collapses, and of what is not installed.
    (bar,) = [output for output in fitted if output.output_type == "display_data"]
    assert set(bar.data) == {"text/plain", "text/html"}
    plain, read = bar.data["text/plain"], _Text(bar.data["text/html"])
    assert re.search(rf"^{EPOCHS}/{EPOCHS} epochs +━+ 100% ", plain)
    assert "\x1b" not in plain
    (progress,) = [attributes for name, attributes in read.elements if name == "progress"]
    assert progress["value"] == progress["max"] == str(EPOCHS)
    for name in ("ELBO", "val.", "KL"):
        assert name in plain
        assert name in read.text
    assert "Run: " in table.data["text/html"]
    (bar,) = [output for output in stopped if output.output_type == "display_data"]
    assert bar.data["text/plain"].startswith(f"3/{EPOCHS} epochs ")
    assert stopped[-1].ename == "RuntimeError"


def test_a_bar_is_escaped_and_needs_no_kernel() -> None:
    monitor = Monitor()
    monitor.selecting()(1, 4, "<b>latent-dim 2</b>")
    shown = monitor._repr_mimebundle_()
    read = _Text(shown["text/html"])
    assert {name for name, _ in read.elements} == {"div", "span", "progress"}
    assert "<b>latent-dim 2</b>" in read.text
    assert "25%" in read.text
    text = io.StringIO()
    Console(file=text, width=100).print(monitor)
    assert [line.split() for line in text.getvalue().splitlines()] == [
        line.split() for line in shown["text/plain"].splitlines()
    ]


def test_a_run_is_read_back(tmp_path: Path) -> None:
    """With its history, as a table and as a picture, and what a notebook shows of it."""
    from stopping import X, build, fit, same_run

    run = fit(build(), X, validation=X[:6], out=tmp_path / "<b>run")
    again = pv.Run.load(tmp_path / "<b>run")
    assert same_run(run, again)
    assert (again.steps, again.best_epoch, again.out) == (run.steps, run.best_epoch, run.out)
    assert again.frame.index.tolist() == [1, 2, 3, 4]
    assert again.frame["validation_elbo"].tolist() == run.history["validation_elbo"]
    assert [axes.get_title() for axes in again.plot()] == [
        axes.get_title() for axes in pv.plots.history(run.history)
    ]
    read = _Text(again._repr_html_())
    assert "b" not in {name for name, _ in read.elements}
    assert "<b>run" in read.text
    best = f"{run.history['validation_elbo'][run.best_epoch - 1]:.4g}"
    assert best in read.text
    with pytest.raises(ValueError, match=r"^`folder`: expected an existing run folder"):
        pv.Run.load(tmp_path / "none")
