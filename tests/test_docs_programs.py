"""What docs/programs.md says works: its Python and its commands run, with less effort."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_vae.cli import main

_PAGE = (Path(__file__).parents[1] / "docs" / "programs.md").read_text(encoding="utf-8")
_LESS = {
    "fit": ["--epochs", "1", "--compile", "false", "--device", "cpu", "--num-samples", "5"],
    "evaluate": ["--num-samples", "5", "--num-globals", "3"],
}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.long
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, file, session = _blocks("python")
    names: dict[str, object] = {"__name__": "programs"}
    for block in (plain, file, session):
        exec(compile(block, "programs.md", "exec"), names)
    assert -20.0 < names["log_p"] < -2.0  # type: ignore[operator]
    assert "averaged over 10 draws of the global latents" in names["scores"].estimator  # type: ignore[attr-defined]
    Path("models.py").write_text(file, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 1)) * [1.0, 2.0] + 0.5 * rng.normal(size=(240, 2))
    pd.DataFrame(x, columns=["a", "b"]).to_csv("table.csv", index=False)
    (commands,) = _blocks("console")
    for line in commands.splitlines():
        _, verb, *words = shlex.split(line)
        assert main([verb, *words, *_LESS.get(verb, [])]) == 0, line
    assert len(pd.read_csv("new.csv")) > 0
