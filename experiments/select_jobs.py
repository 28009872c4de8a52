"""How much sooner is a selection done by two processes than by one, and is it the same?

    python experiments/select_jobs.py            # twice each, in turn: on a machine that is quiet
    python experiments/select_jobs.py --smoke    # fits of an epoch, once each, no figure
    python experiments/select_jobs.py --table    # writes results/select_jobs.md

The command is that of the documentation, ``select digits --latent-dim 2,4,8 --folds 5``, with all
that it takes: imports, processes that start, fits, scores, and the picture. Each process has one
thread, whatever the number of jobs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

from pyro_vae.checkpoint import read_json

COMMAND = ["select", "digits", "--latent-dim", "2,4,8", "--folds", "5"]
JOBS, TIMES = (1, 2), 2


def selected(jobs: int, out: Path, beside: list[str]) -> tuple[float, dict[str, Any]]:
    """Runs the command; returns its seconds, and what it selected besides the clock."""
    command = [sys.executable, "-m", "pyro_vae.cli", *COMMAND, *beside]
    environment = {name: each for name, each in os.environ.items() if name != "OMP_NUM_THREADS"}
    began = time.perf_counter()
    subprocess.run(
        [*command, "--jobs", str(jobs), "--out", str(out)],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - began
    return seconds, read_json(out / "selection.json") | {"seconds": None}


def main(beside: list[str], times: int, keep: bool) -> None:
    """Runs one job and two in turn."""
    seconds: dict[int, list[float]] = {jobs: [] for jobs in JOBS}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(times):
            for jobs in JOBS:
                took, selection = selected(jobs, Path(folder, f"{turn}-{jobs}"), beside)
                seconds[jobs].append(took)
                found.append(selection)
                print(f"{jobs} jobs: {took:.1f} s", flush=True)
    identical = all(each == found[0] for each in found)
    result = {
        "command": " ".join(COMMAND),
        "cores": os.cpu_count(),
        "seconds": {str(jobs): each for jobs, each in seconds.items()},
        "speedup": min(seconds[1]) / min(seconds[2]),
        "identical": identical,
    }
    print(json.dumps(result))
    if keep:
        common.write("select_jobs", result)


def table() -> None:
    """Writes ``results/select_jobs.md``."""
    (found,) = common.read("select_jobs.json")
    shortest = {jobs: min(each) for jobs, each in found["seconds"].items()}
    lines = ["| jobs | seconds | times as fast |", "|---|---|---|"]
    for jobs, took in shortest.items():
        lines.append(f"| {jobs} | {took:.0f} | {shortest['1'] / took:.2f} |")
    path = common.RESULTS / "select_jobs.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    options = common.Parser(__doc__, table="results/select_jobs.md").options()
    if options.table:
        table()
    elif options.smoke:
        main(["--epochs", "1", "--num-samples", "10"], 1, keep=False)
    else:
        main([], TIMES, keep=True)
