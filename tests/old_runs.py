"""How the runs of an old release were made: models, data and fits from recipes.

``fixtures/old-runs-0.1.0/recipes.json`` is the one table of them. ``write_old_runs.py`` made the
archive beside it from that table, and ``test_old_runs.py`` builds the same models and calls from it
to load, score and resume what the archive holds. A recipe names classes and arguments, and what is
used here is the public interface alone, so that it survives whatever moves inside the package.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import random
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

import pyro_vae as pv

FOLDER = Path(__file__).with_name("fixtures") / "old-runs-0.1.0"
ARCHIVE = FOLDER / "runs.tar.xz"
TABLE = json.loads((FOLDER / "recipes.json").read_text())
# Arguments and options are merged with the defaults; parts replace the default ones.
RECIPES: dict[str, dict[str, Any]] = {
    name: TABLE["defaults"] | recipe | {"fit": TABLE["defaults"]["fit"] | recipe.get("fit", {})}
    for name, recipe in TABLE["runs"].items()
}
COMMANDS: dict[str, list[str]] = {name: line.split() for name, line in TABLE["commands"].items()}

Data = dict[str, Any]  # x, and what goes with each observation by the names of the arguments

_TRAIN, _HELD_OUT = 14, 6
_NUM_SAMPLES = 20
_SUBPACKAGES = ("prior", "guide", "likelihood", "encoder", "decoder", "objective")


class Own(nn.Module):
    """A user's network, from three entries to the parameters of a two-dimensional normal."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


CLASSES = {"Own": Own}


def part(role: str, recipe: Mapping[str, Any]) -> Any:
    """One component of a recipe, built by the name of its class."""
    ((name, arguments),) = recipe[role].items()
    module = {"encoder": "networks", "decoder": "networks"}.get(role, f"{role}s")
    made = CLASSES[name] if name in CLASSES else getattr(getattr(pv, module), name)
    return made(**arguments)


def build(recipe: Mapping[str, Any], seed: int = 1) -> pv.VAE:
    """The model of a recipe, not trained; what resumes starts from another seed."""
    pyro.set_rng_seed(seed)
    parts = {role: part(role, recipe) for role in _SUBPACKAGES if role != "objective"}
    return pv.VAE(**parts, **recipe["vae"]).to(getattr(torch, recipe["dtype"]))


def _integers(name: str, *shape: int) -> Tensor:
    """Integers below 4096 that no version of torch or NumPy has a say in."""
    rng = random.Random(name)
    values = [rng.getrandbits(12) for _ in range(math.prod(shape))]
    return torch.tensor(values).reshape(shape)


def _observations(kind: str) -> Tensor:
    """Values that single precision holds exactly, so that the fingerprints are the same anywhere"""
    shape = (_TRAIN + _HELD_OUT, *((1, 5, 6) if kind == "image" else (3,)))
    k = _integers(kind, *shape)
    real = (k - 2048) / 1024
    columns = {
        "binary": lambda: k % 2,
        "image": lambda: k % 2,
        "levels": lambda: k % 7,
        "counts": lambda: k % 6,
        "unit": lambda: (k % 254 + 1) / 256,
        "real": lambda: real,
        "five": lambda: torch.stack([k[:, 0] % 3, k[:, 1] % 3, 5 - k[:, 0] % 3 - k[:, 1] % 3], 1),
        "mixed": lambda: torch.stack([real[:, 0], k[:, 1] % 6, k[:, 2] % 2], 1),
    }
    return columns[kind]().float()


def data(recipe: Mapping[str, Any]) -> tuple[Data, Data]:
    """Training and held-out data of a recipe."""
    wanted = recipe["data"]
    x = _observations(wanted.get("x", "binary"))
    found: Data = {"x": x}
    if "cond" in wanted:
        found["cond"] = (_integers("cond", len(x), wanted["cond"]) - 2048) / 2048
    if "mask" in wanted:
        found["mask"] = _integers("mask", *x.shape) % 4 > 0
    if "size_factor" in wanted:
        found["covariates"] = {"size_factor": (_integers("size", len(x)) % 8 + 4) / 8}
    if "labels" in wanted:
        found["labels"] = _integers("labels", len(x)) % 4 - 1
    train, held_out = (
        {name: _rows(value, rows) for name, value in found.items()}
        for rows in (slice(_TRAIN), slice(_TRAIN, None))
    )
    held_out.pop("labels", None)  # held-out data are scored without
    return train, held_out


def _rows(value: Any, rows: slice) -> Any:
    if isinstance(value, Mapping):
        return {name: _rows(each, rows) for name, each in value.items()}
    return value[rows]


def _optimizer(recipe: Mapping[str, Any]) -> Any:
    for name, arguments in recipe["optim"].items():
        home, _, kind = name.rpartition(".")
        if home == "pyro.optim":
            return getattr(pyro.optim, kind)(arguments)
        return partial(getattr(torch.optim, kind), **arguments)
    return None


def fit(recipe: Mapping[str, Any], vae: pv.VAE, **options: Any) -> pv.Run:
    """Fits a model as the recipe has it; ``options`` say where to write and how to go on."""
    train, held_out = data(recipe)
    given: dict[str, Any] = {
        name: {"train": value, "validation": held_out[name]} if name in held_out else value
        for name, value in train.items()
        if name != "x"
    }
    return pv.fit(
        vae,
        train["x"],
        validation=held_out["x"],
        objective=part("objective", recipe),
        optim=_optimizer(recipe),
        device="cpu",
        **given,
        **recipe["fit"],
        **options,
    )


def scores(recipe: Mapping[str, Any], vae: pv.VAE) -> dict[str, list[str]]:
    """Scores of the held-out data by a fixed seed, every bit of them."""
    _, held_out = data(recipe)
    options = {"num_samples": _NUM_SAMPLES, "proposal": "guide", "seed": 3}
    found = pv.evaluate(vae, **held_out, **options)
    torch.manual_seed(4)
    log_prob = vae.log_prob(**held_out, num_samples=_NUM_SAMPLES)
    return {
        "log_prob": exactly(log_prob),
        "log_marginal": exactly(found.log_marginal),
        "reconstruction": exactly(found.reconstruction),
        "kl": exactly(found.kl),
    }


def history(run: pv.Run) -> dict[str, list[str]]:
    """Each line of the history but for the clock, every bit of it."""
    return {name: exactly(values) for name, values in run.history.items() if name != "seconds"}


def exactly(values: Any) -> list[str]:
    """Numbers as hexadecimal strings, which lose nothing."""
    return [float(value).hex() for value in values]


def numbers(values: list[str]) -> np.ndarray:
    """What :func:`exactly` wrote."""
    return np.array([float.fromhex(value) for value in values])


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: names, types, shapes and bits."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def covered() -> set[str]:
    """The classes that some recipe names, such as ``priors.Normal``."""
    return {
        f"{'networks' if role in ('encoder', 'decoder') else f'{role}s'}.{name}"
        for recipe in RECIPES.values()
        for role in _SUBPACKAGES
        for name in recipe[role]
        if name not in CLASSES
    }


def environment() -> dict[str, str]:
    """What the last bits may depend on, besides the number of threads, which is one."""
    return {
        **{name: version(name) for name in ("torch", "pyro-ppl", "zuko")},
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


def compiler() -> str:
    """What compiled runs depend on besides: the compiler that torch calls."""
    path = shutil.which("g++")
    if path is None:
        return "none"
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]


def _cpu() -> str:
    """The model of the CPU, by number too: virtual machines leave little of its name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found: dict[str, str] = {}
    for key, _, value in (line.partition(":") for line in lines):
        found.setdefault(key.strip(), value.strip())
    keys = ("model name", "cpu family", "model", "stepping")
    return ", ".join(found[key] for key in keys if key in found) or platform.processor()
