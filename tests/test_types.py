"""What an editor says about the Python of README and docs: nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARRAYS = """
import numpy as np


def arrays_and_lists_are_data() -> None:
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((4,))
    model = pv.VAE(*parts, cond_size=2, seed=0)
    x, cond, mask = np.ones((5, 4)), np.ones((5, 2)), np.ones((5, 4), bool)
    pv.fit(model, x, cond=cond, mask=mask)
    pv.fit(model, x.tolist(), cond=cond.tolist(), validation=0.2)
    pv.evaluate(model, x, cond=cond.tolist(), mask=mask)
    pv.evaluate(model, pv.data.load(x).rows("test"))
    pv.criticism.check(model, x.tolist(), cond=cond)
    model.at(cond[0]).encode(x.tolist()).mean.tolist()
    model.reconstruct(pv.data.Rows(model.sample(5, cond=cond), {}))
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The Python of each page, and arrays as data, as programs in a folder of their own."""
    folder, found = tmp_path_factory.mktemp("types"), []
    docs = ROOT / "docs"
    for page in (ROOT / "README.md", *sorted([*docs.glob("*.md"), *docs.glob("gallery/*.md")])):
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if blocks:
            found.append(folder / f"{page.stem.lower()}_page.py")
            more = [ARRAYS] if page.stem == "README" else []
            found[-1].write_text("\n\n".join([*blocks, *more]), encoding="utf-8")
    assert len(found) > 5
    return found


def _run(*command: object) -> str:
    """What a checker printed; it fails where it could not be started, and does not skip."""
    words = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def _pyright(*programs: Path) -> list[str]:
    folder, names = programs[0].parent, [program.name for program in programs]
    config = {"typeCheckingMode": "basic", "include": names, "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    options = ("--outputjson", "--pythonpath", sys.executable, "--project", folder)
    found = json.loads(_run("basedpyright", *options))
    assert found["summary"]["filesAnalyzed"] == len(programs)
    said = found["generalDiagnostics"]
    return [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in said]


@pytest.mark.long
def test_pyright_accepts_the_pages(programs: list[Path]) -> None:
    """Fails when a public function returns what has not the attribute that a page uses."""
    assert _pyright(*programs) == []


@pytest.mark.long
def test_mypy_accepts_the_pages(programs: list[Path]) -> None:
    """Strict, with this project's settings; nothing is said of the package, as once installed."""
    options = ("--follow-imports=silent", "--config-file", ROOT / "pyproject.toml")
    assert _run("mypy", *options, *programs).startswith("Success")


@pytest.mark.long
def test_pyright_refuses_what_is_wrong(tmp_path: Path) -> None:
    """The checker sees types, not Any. Fails when public names are hidden from it."""
    wrong = tmp_path / "wrong.py"
    lines = [
        "import pyro_vae as pv",
        "vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))",
        "vae.decode(vae.prior().sample()).log_prop",
        "pv.fit(vae, 3)",
        "pv.evaluate(vae, vae.sample(3)).sumary()",
        "pv.priors.Normal(dims=2)",
        "class Mine(pv.priors.Normal):",
        "    def bind(self, view):",
        "        assert view.cond_sise is None",
    ]
    wrong.write_text("\n".join(lines), encoding="utf-8")
    assert sorted({line.partition(":")[0] for line in _pyright(wrong)}) == ["3", "4", "5", "6", "9"]
