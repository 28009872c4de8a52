"""One seed has one result, whichever verb draws by it, and another seed has another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.cli import main

SMALL = "--encoder.hidden [4] --decoder.hidden [4] --latent-dim 2 --compile false --device cpu"
FIT = f"fit t.csv {SMALL} --epochs 2 --num-samples 10 --missing --label kind"
# What each verb is asked, and the file it writes besides.
VERBS = {
    "fit": (f"{FIT} --json --out OUT", "OUT/model.safetensors"),
    "evaluate": ("evaluate run --num-samples 10 --json", None),
    "check": ("check run --num-draws 720 --json", None),
    "compare": ("compare run other --num-samples 10 --json --out OUT.png", None),
    "sample": ("sample run --num-samples 5 --out OUT.csv", "OUT.csv"),
    "impute": ("impute run --data t.csv --num-samples 10 --out OUT.csv", "OUT.csv"),
    "anomalies": ("anomalies run --data t.csv --num-samples 10 --out OUT.csv", "OUT.csv"),
    "rate-distortion": ("rate-distortion run --num-samples 10 --json", None),
    "select": (
        f"select t.csv {SMALL.replace('dim 2', 'dim 1,2')} --epochs 1 --folds 2 --num-samples 10 "
        "--missing --label kind --json --out OUT",
        None,
    ),
}
CLOCKS = re.compile(r"second|minutes|date|time|out$|path|file|took")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table and two runs of it; do not write to them."""
    root = tmp_path_factory.mktemp("determinism")
    r = np.random.default_rng(0)
    kind = r.integers(0, 2, 240)
    columns = {"height": r.normal(3.0 * kind, 1.0), "visits": r.poisson(3, 240), "kind": kind}
    frame = pd.DataFrame(columns)
    frame["kind"] = frame["kind"].map({0: "a", 1: "b"})
    frame.loc[::7, "height"] = None
    frame.to_csv(root / "t.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main([*FIT.split(), "--json", "--out", "run"]) == 0
        assert main([*FIT.split(), "--json", "--seed", "1", "--out", "other"]) == 0
    return root


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All that a JSON object holds, but for clocks and places."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not CLOCKS.search(key):
                yield from _leaves(each, f"{name}.{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _leaves(each, f"{name}[{number}]")
    else:
        yield name, value


def _result(verb: str, seed: int, out: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    words, file = VERBS[verb]
    argv = words.replace("OUT", out).split()
    assert main([*argv, "--seed", str(seed)]) == 0
    said = capsys.readouterr().out
    found = dict(_leaves(json.loads(said))) if "--json" in argv else {}
    if file is not None:
        content = Path(file.replace("OUT", out)).read_bytes()
        found["file"] = content
    return found


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_a_seed_has_one_result(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To the bit with as many threads, whatever was drawn before; and it is the seed's."""
    torch.manual_seed(5)
    first = _result(verb, 3, f"{verb}-1", capsys)
    torch.manual_seed(6)
    assert first
    assert repr(_result(verb, 3, f"{verb}-2", capsys)) == repr(first)  # where NaN equals itself
    assert repr(_result(verb, 4, f"{verb}-3", capsys)) != repr(first)
