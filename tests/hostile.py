"""Run folders from a stranger, who means to have something run, or to take all memory."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save


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


def every(run: Path, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """All of them, by name."""
    return faults(run, tmp_path) | further_faults(run, tmp_path)


def further_faults(run: Path, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """What a stranger may have written into the header of the weights, or into the description."""
    weights, described = run / "model.safetensors", run / "model.json"
    zero = "model.decoder.layers.0.bias"

    def replaced(content: bytes) -> None:
        weights.write_bytes(content)
        edit(run, lambda d: d.update({"sha256": hashlib.sha256(content).hexdigest()}))

    def header(
        change: Callable[[dict[str, Any]], object], text: Callable[[str], str] = str
    ) -> None:
        content = weights.read_bytes()
        size = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + size])
        change(told)
        new = text(json.dumps(told)).encode()
        replaced(len(new).to_bytes(8, "little") + new + content[8 + size :])

    def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        state = load(weights.read_bytes())
        change(state)
        replaced(save(state, {"schema": "1"}))

    def cast(dtype: torch.dtype) -> None:
        tensors(lambda s: s.update({name: each.to(dtype) for name, each in s.items()}))

    def filled(value: float) -> None:
        tensors(lambda s: s[zero].fill_(value))

    def part(name: str, arguments: dict[str, Any], role: str = "prior") -> None:
        edit(run, lambda d: d["vae"].update({role: {"class": name, "args": arguments}}))

    def twice(text: str) -> str:
        name = json.dumps(zero)
        return text.replace(
            name, f'{name}: {{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}, {name}'
        )

    def nested(depth: int) -> str:
        inner = '{"class": "priors.Normal", "args": {"dim": 2}}'
        around = '{"class": "priors.Product", "args": {"parts": ['
        return described.read_text().replace(
            '"prior": {', f'"prior": {around * depth}{inner}{"]}}" * depth}, "other": {{', 1
        )

    of_text = described.write_text
    return {
        "a tensor twice": lambda: header(lambda h: None, twice),
        "overlapping tensors": lambda: header(
            lambda h: h[zero].update(data_offsets=_others(h, zero)["data_offsets"])
        ),
        "negative offsets": lambda: header(lambda h: h[zero].update(data_offsets=[-8, 24])),
        "offsets past the end": lambda: header(
            lambda h: h[zero].update(data_offsets=[2**62, 2**63])
        ),
        "offsets back to front": lambda: header(lambda h: h[zero]["data_offsets"].reverse()),
        "a negative shape": lambda: header(lambda h: h[zero].update(shape=[-8])),
        "a shape of 10^5 dimensions": lambda: header(lambda h: h[zero].update(shape=[1] * 10**5)),
        "an unknown dtype": lambda: header(lambda h: h[zero].update(dtype="F1024")),
        "a header of blanks": lambda: header(lambda h: None, lambda text: text + " " * 10**8),
        "a nested header": lambda: header(lambda h: None, lambda text: "[" * 10**6),
        "10^5 tensors": lambda: header(
            lambda h: h.update({str(i): h[zero] | {"shape": [0]} for i in range(10**5)})
        ),
        "a tensor less": lambda: tensors(lambda s: s.pop(zero)),
        "a tensor more": lambda: tensors(lambda s: s.update(other=torch.zeros(2))),
        "a tensor of another shape": lambda: tensors(lambda s: s.update({zero: torch.zeros(9)})),
        "NaN weights": lambda: filled(math.nan),
        "infinite weights": lambda: filled(math.inf),
        "integer weights": lambda: cast(torch.int64),
        "boolean weights": lambda: cast(torch.bool),
        "half weights": lambda: cast(torch.float16),
        "bfloat16 weights": lambda: cast(torch.bfloat16),
        "no bytes": lambda: replaced(b""),
        "weights of another schema": lambda: header(lambda h: h["__metadata__"].update(schema="2")),
        "metadata of numbers": lambda: header(lambda h: h["__metadata__"].update(schema=1)),
        "weights that are a folder": lambda: (weights.unlink(), weights.mkdir()),
        "weights that are a device": lambda: (weights.unlink(), weights.symlink_to("/dev/zero")),
        "weights that lead to themselves": lambda: (weights.unlink(), weights.symlink_to(weights)),
        "a name twice": lambda: of_text(described.read_text().rstrip()[:-1] + ', "vae": {}}'),
        "no description": lambda: described.write_bytes(b""),
        "a mark before the description": lambda: of_text("\ufeff{}"),
        "a description that is a folder": lambda: (described.unlink(), described.mkdir()),
        "10^9 in a float": lambda: of_text('{"vae": 1e999}'),
        "5,000 digits": lambda: of_text(f'{{"vae": {"9" * 5000}}}'),
        "half a character": lambda: part("\ud800", {}),
        "an escape": lambda: part("\x1b[2J", {}),
        "schema 2": lambda: edit(run, lambda d: d.update(schema=2)),
        "schema null": lambda: edit(run, lambda d: d.update(schema=None)),
        "sha256 null": lambda: edit(run, lambda d: d.update(sha256=None)),
        "sha256 of lists": lambda: edit(run, lambda d: d.update(sha256=[[]])),
        "a part less": lambda: edit(run, lambda d: d["vae"].pop("guide")),
        "a part more": lambda: edit(run, lambda d: d["vae"].update(evil={"class": "eval"})),
        "a part that is a list": lambda: edit(run, lambda d: d["vae"].update(guide=[])),
        "an unknown option": lambda: edit(run, lambda d: d["options"].update(evil=1)),
        "10^12 conditions": lambda: edit(run, lambda d: d["options"].update(cond_size=10**12)),
        "-1 conditions": lambda: edit(run, lambda d: d["options"].update(cond_size=-1)),
        "a base class": lambda: part("priors.Prior", {}),
        "a module": lambda: part("priors.normal", {}),
        "an attribute": lambda: part("priors.Normal.__init__", {"dim": 2}),
        "torch.nn.Linear": lambda: part("torch.nn.Linear", {"in_features": 2}, "encoder"),
        "a constructor's own name": lambda: part("priors.Normal", {"self": 1, "dim": 2}),
        "arguments that are a list": lambda: part("priors.Normal", [2]),  # type: ignore[arg-type]
        "dimension -1": lambda: part("priors.Normal", {"dim": -1}),
        "dimension 2.5": lambda: part("priors.Normal", {"dim": 2.5}),
        "dimension true": lambda: part("priors.Normal", {"dim": True}),
        "dimension null": lambda: part("priors.Normal", {"dim": None}),
        "dimension 10^300": lambda: part("priors.Normal", {"dim": 10**300}),
        "dropout 10^308": lambda: part(
            "networks.MLP", {"hidden": [8], "dropout": 1e308}, "encoder"
        ),
        "hidden in words": lambda: part("networks.MLP", {"hidden": "888"}, "encoder"),
        "a negative width": lambda: part("networks.MLP", {"hidden": [-8]}, "encoder"),
        "an endless event": lambda: part(
            "likelihoods.Bernoulli", {"event_shape": [10**6, 10**6]}, "likelihood"
        ),
        "900 parts in one another": lambda: of_text(nested(900)),
        "a prior of another size": lambda: part("priors.Normal", {"dim": 3}),
    }


def _others(header: dict[str, Any], name: str) -> Any:
    return next(told for key, told in header.items() if key not in (name, "__metadata__"))
