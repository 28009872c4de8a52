"""What every experiment records beside its figures."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def environment() -> dict[str, Any]:
    """Commit, versions and hardware of this run."""
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", "../pyro_vae", "."],
        capture_output=True,
        text=True,
    ).stdout
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.strip() + ("+changes" if changed.strip() else ""),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "pyro-ppl", "numpy")},
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Writes ``results/NAME.json``."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**result, "environment": environment()}, indent=2) + "\n")
    return path


def read(pattern: str) -> list[dict[str, Any]]:
    """Reads the results whose names match, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()
