"""What an editor says about the README's Python: nothing."""

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
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's Python, and arrays as data, as one program in a folder of its own."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    path = tmp_path_factory.mktemp("types") / "readme.py"
    path.write_text("\n\n".join([*blocks, ARRAYS]), encoding="utf-8")
    return path


def _run(*command: object) -> str:
    """What a checker printed; it fails where it could not be started, and does not skip."""
    words = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def _pyright(program: Path) -> list[str]:
    config = {"typeCheckingMode": "basic", "include": [program.name], "pythonVersion": "3.11"}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    options = ("--outputjson", "--pythonpath", sys.executable, "--project", program.parent)
    found = json.loads(_run("basedpyright", *options))
    assert found["summary"]["filesAnalyzed"] == 1
    said = found["generalDiagnostics"]
    return [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in said]


def test_pyright_accepts_the_readme(program: Path) -> None:
    """Fails when a public function returns what has not the attribute that the README uses."""
    assert _pyright(program) == []


def test_mypy_accepts_the_readme(program: Path) -> None:
    """Strict, with this project's settings; nothing is said of the package, as once installed."""
    options = ("--follow-imports=silent", "--config-file", ROOT / "pyproject.toml")
    assert _run("mypy", *options, program).startswith("Success")


def test_pyright_refuses_what_is_wrong(program: Path, tmp_path: Path) -> None:
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
