"""Seconds that a check and a page of an MNIST-size run take, by stage, in fresh processes.

    python experiments/check_speed.py --data-root DATA   # two threads; fits first, some minutes
    python experiments/check_speed.py --smoke            # digits, nothing is written
    python experiments/check_speed.py --table            # only the table again

A run is fitted by ``pyro-vae fit``. One fresh process checks its 10,000 held-out images twice, of
which the first pays for what is imported; another writes the page by ``pyro-vae report``. The page
itself says how long each section took.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import common

import pyro_vae as pv

GUIDE_DRAWS = 200  # replicates of `check` with z from the guide, at most
STAGES = ("replicates, z ~ p(z)", "classifier", "half of x", "replicates, z ~ q(z|x)", "the rest")


def checked(name: str, folder: str, root: str | None) -> list[dict[str, float]]:
    """Checks a run twice; one data set a chunk, so that each tick of progress is one replicate."""
    vae: Any = pv.load(folder)
    x = pv.data.load(name, root=root).test
    found = []
    for _ in range(2):
        cpu, ticks = time.process_time(), [time.perf_counter()]
        checks = pv.criticism.check(vae, x, progress=lambda _, to=ticks: to.append(_now()))
        ticks.append(_now())
        guide = min(checks.num_draws, GUIDE_DRAWS)
        chunks = len(ticks) - 4 - guide  # of replicates from the prior, if those are single
        ends = (0, chunks, chunks + 1, chunks + 2, len(ticks) - 2, len(ticks) - 1)
        seconds = [ticks[last] - ticks[first] for first, last in pairwise(ends)]
        stages = dict(zip(STAGES, seconds, strict=True))
        found.append(stages | {"all": ticks[-1] - ticks[0], "cpu": time.process_time() - cpu})
    return found


def _now() -> float:
    return time.perf_counter()


def _cpu_of_children() -> float:
    """Seconds of all threads of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str, root: str | None, epochs: int, threads: int) -> dict[str, Any]:
    """Fits a run, and times its checks and its page."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if root:
        environment["PYRO_VAE_DATA"] = root

    def run(*words: str) -> tuple[str, float, float]:
        start, before = _now(), _cpu_of_children()
        done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout, _now() - start, _cpu_of_children() - before

    verb = (sys.executable, "-m", "pyro_vae.cli")
    with tempfile.TemporaryDirectory() as scratch:
        folder, page = f"{scratch}/run", f"{scratch}/page.html"
        own = (f"--data-root={root}",) if root else ()
        options = ("--epochs", str(epochs), "--latent-dim", "20")
        run(*verb, "fit", name, *options, "--out", folder, *own)
        child = (sys.executable, __file__, f"--threads={threads}", "--of", name, folder)
        out, process, _ = run(*child, *own)
        _, whole, cpu = run(*verb, "report", folder, "--out", page)
        text = Path(page).read_text(encoding="utf-8")
    sections = re.findall(r"this page: ([^<]*)</t[hd]>\s*<td[^>]*>([\d.,]+) s", text)
    return {
        "data": name,
        "epochs": epochs,
        "check": json.loads(out.splitlines()[-1]),
        "check_process": process,
        "page": {title: float(seconds.replace(",", "")) for title, seconds in sections},
        "page_process": whole,
        "page_cpu": cpu,
    }


def table() -> None:
    """Writes the table from the JSON."""
    (result,) = common.read("check_speed.json")
    first, second = result["check"]
    lines = ["| `check`, seconds | first call | second |", "|---|---:|---:|"]
    lines += [f"| {each} | {first[each]:.1f} | {second[each]:.1f} |" for each in (*STAGES, "all")]
    lines.append(f"| processor time, all threads | {first['cpu']:.1f} | {second['cpu']:.1f} |")
    lines += ["", "| the page, seconds | |", "|---|---:|"]
    lines += [f"| {title} | {seconds:.1f} |" for title, seconds in result["page"].items()]
    lines.append(f"| the process, with imports and data | {result['page_process']:.1f} |")
    lines.append(f"| its processor time, all threads | {result['page_cpu']:.1f} |")
    where = result["environment"]
    lines += [
        "",
        f"{result['data']}, {where['threads']} threads, {where['cpu']}, torch "
        f"{where['versions']['torch']}; load of the machine {result['load']:.1f} before.",
    ]
    (common.RESULTS / "check_speed.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = common.Parser(
        __doc__, smoke="digits, nothing written", table="the table", data_root="MNIST", threads=2
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--of", nargs=2, metavar=("DATA", "RUN"), help="only check this run")
    options = parser.options()
    if options.of:
        print(json.dumps(checked(*options.of, options.data_root)))
    elif options.smoke:
        print(json.dumps(measure("digits", None, 1, options.threads), indent=1))
    elif not options.table:
        load = os.getloadavg()[0]
        result = measure("mnist", options.data_root, options.epochs, options.threads)
        common.write("check_speed", {**result, "load": load})
    if not (options.smoke or options.of):
        table()
