"""What all experiments share: their options, and what they record beside their figures."""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
RUNS = HERE.parent / "runs"  # fitted models, which other scripts read


_NUMBERS = re.compile(r"\[(?:[-+.\deE,\s]|NaN|Infinity)+\]")


def _git(*words: str) -> str:
    command = ["git", "-C", str(HERE), *words]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _commit() -> str:
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "../pyro_vae", ".")
    return _git("rev-parse", "HEAD") + ("+changes" if changed else "")


_COMMIT = _commit()  # of the code that runs, read as it starts


class Parser(argparse.ArgumentParser):
    """The options of an experiment; those that several have are declared here alone.

    Args:
        doc: The docstring of the script, whose first line describes it.
        smoke: What ``--smoke`` does, or None for a script that has none.
        table: What ``--table`` writes, or None for a script that has none.
        data_root: What is in the folder ``--data-root``, or None for a script that reads none.
        threads: Threads of PyTorch unless ``--threads`` is given, or None to leave them alone.
    """

    def __init__(
        self,
        doc: str | None,
        *,
        smoke: str | None = "a minute's check, no figure",
        table: str | None = None,
        data_root: str | None = None,
        threads: int | None = 1,
    ) -> None:
        super().__init__(description=(doc or "").partition("\n")[0])
        if smoke:
            self.add_argument("--smoke", action="store_true", help=smoke)
        if table:
            self.add_argument(
                "--table", action="store_true", help=f"write {table} from the results"
            )
        if data_root:
            self.add_argument("--data-root", help=f"folder that holds {data_root}")
        if threads:
            self.add_argument("--threads", type=int, default=threads)

    def options(self) -> argparse.Namespace:
        """Returns the options of this run, and sets the number of threads."""
        found = self.parse_args()
        if "threads" in found:
            torch.set_num_threads(found.threads)
        return found


def environment() -> dict[str, Any]:
    """Commit, versions and hardware of this run."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _COMMIT,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "pyro-ppl", "numpy")},
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def report(line: Mapping[str, float], every: int = 5) -> None:
    """Prints one line every few epochs."""
    if line["epoch"] % every == 0:
        shown = {key: line[key] for key in ("loss", "elbo", "validation_elbo", "seconds")}
        words = "  ".join(f"{key} {value:.2f}" for key, value in shown.items())
        print(f"epoch {line['epoch']}  {words}", flush=True)


def write(name: str, result: dict[str, Any]) -> Path:
    """Writes ``results/NAME.json``, lists of numbers on a line each."""
    path = RESULTS / f"{name}.json"
    text = json.dumps({**result, "environment": environment()}, indent=2)
    path.write_text(_NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")
    return path


def read(pattern: str) -> list[dict[str, Any]]:
    """Reads the results whose names match, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()
