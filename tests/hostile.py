"""Run folders from a stranger, who means to have something run, or to take all memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def faults(run: Path, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """What a stranger may have put there, by name."""
    weights, described = run / "model.safetensors", run / "model.json"
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (trap,)

    def replaced(content: bytes) -> None:
        weights.write_bytes(content)
        edit(run, lambda d: d.update({"sha256": hashlib.sha256(content).hexdigest()}))

    def header(shape: list[int], end: int) -> bytes:
        told = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}
        text = json.dumps(told).encode()
        return len(text).to_bytes(8, "little") + text

    def linked(path: Path) -> None:
        outside = tmp_path / f"outside-{path.name}"
        path.rename(outside)
        path.symlink_to(Path("..") / outside.name)

    return {
        "pickle": lambda: replaced(pickle.dumps(Trap())),
        "torch.save": lambda: replaced(_saved(Trap())),
        "10^12 elements": lambda: replaced(header([10**12], 4 * 10**12)),
        "overflowing shape": lambda: replaced(header([2**62, 2**62], 16)),
        "endless header": lambda: replaced((2**62).to_bytes(8, "little")),
        "path outside": lambda: linked(weights),
        "description outside": lambda: linked(described),
        "pipe": lambda: (weights.unlink(), os.mkfifo(weights)),
        "sparse terabyte": lambda: os.truncate(weights, 10**12),
        "class os.system": lambda: _named(run, "os.system", {"command": f"touch {trap}"}),
        "class ../evil": lambda: _named(run, "../evil", {}),
        "class eval": lambda: _named(run, "builtins.eval", {"source": f"open({str(trap)!r}, 'w')"}),
        "10^12 dimensions": lambda: _named(run, "priors.Normal", {"dim": 10**12}),
        "10^30 dimensions": lambda: _named(run, "priors.Normal", {"dim": 10**30}),
        "10^6 by 10^6 classes": lambda: _named(
            run, "priors.Categorical", {"groups": 10**6, "classes": 10**6}
        ),
        "10^9 components": lambda: _named(run, "priors.Mixture", {"dim": 2, "components": 10**9}),
        "wide network": lambda: edit(
            run, lambda d: d["vae"]["encoder"]["args"].update({"hidden": [10**6, 10**6]})
        ),
        "10^5 layers": lambda: edit(
            run, lambda d: d["vae"]["encoder"]["args"].update({"hidden": [1] * 10**5})
        ),
        "10^9 transforms": lambda: _named(run, "priors.Flow", {"dim": 2, "transforms": 10**9}),
        "10^5 parts": lambda: _named(
            run, "priors.Product", {"parts": [{"class": "priors.Normal"}] * 10**5}
        ),
        "10^7 values": lambda: described.write_text('{"a":[' + "{}," * 10**7 + "{}]}"),
        "nested lists": lambda: described.write_text("[" * 10**5 + "]" * 10**5),
        "nested objects": lambda: described.write_text('{"a":' * 10**5 + "1" + "}" * 10**5),
        "not a number": lambda: described.write_text('{"schema": NaN}'),
        "binary": lambda: described.write_bytes(bytes(range(256))),
        "sparse json": lambda: os.truncate(described, 10**11),
    }


def _saved(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def _named(run: Path, name: str, arguments: dict[str, Any]) -> None:
    edit(run, lambda d: d["vae"]["prior"].update({"class": name, "args": arguments}))


def edit(run: Path, change: Any) -> None:
    description = json.loads((run / "model.json").read_text())
    change(description)
    (run / "model.json").write_text(json.dumps(description))
