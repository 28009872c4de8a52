"""A table of a million rows and a hundred columns, from a Parquet file: seconds and memory.

    python experiments/million_rows.py                # 10,000, 100,000 and a million rows
    python experiments/million_rows.py --table        # results/million_rows.md
    python experiments/million_rows.py --smoke        # 2,000 and 4,000 rows; nothing is written

Rows are those of five factors with noise. Each size has a process of its own, which fits one pass,
evaluates, checks and encodes all rows as a stream with little memory for data. A growth is the
exponent of the number of rows in the processor time from a size to the next: at most 1 is linear.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
from larger_than_memory import watched

import pyro_vae as pv

SIZES, SMOKE = (10_000, 100_000, 1_000_000), (2_000, 4_000)
COLUMNS, FACTORS = 100, 5
GROUP = 10_000  # rows of a row group
MEMORY = "256MiB"  # for data
BATCH = 500
DRAWS = 10
STAGES = ("fit", "evaluate", "check", "encode")


def write(path: Path, rows: int) -> None:
    """Writes the table, a row group at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(0)
    loadings = random.normal(size=(FACTORS, COLUMNS))
    scale, loc = np.geomspace(0.01, 1000, COLUMNS), np.linspace(-50, 50, COLUMNS)
    schema = pa.schema([(f"column {i}", pa.float32()) for i in range(COLUMNS)])
    with parquet.ParquetWriter(path, schema) as file:
        for start in range(0, rows, GROUP):
            size = min(GROUP, rows - start)
            x = random.normal(size=(size, FACTORS)) @ loadings + random.normal(size=(size, COLUMNS))
            table = pa.table(list((loc + scale * x).astype(np.float32).T), schema=schema)
            file.write_table(table)


def measure(path: Path) -> dict[str, Any]:
    """Takes all stages; returns the time and the memory of each."""
    import torch

    torch.set_num_threads(1)
    rows = pv.data.stream(path)
    likelihood = pv.likelihoods.Normal((COLUMNS,))
    vae = pv.VAE(pv.priors.Normal(FACTORS), pv.guides.Normal(FACTORS), likelihood, seed=0)
    known: dict[str, Any] = {"epochs": 1, "batch_size": BATCH, "seed": 0, "progress": False}
    # What does not depend on how many rows there are: imports, and what is compiled.
    pv.fit(vae, rows[: 2 * BATCH].read().x, compile=False, **known)
    stages: dict[str, Callable[[], Any]] = {
        "fit": lambda: pv.fit(vae, rows, max_memory=MEMORY, compile=False, **known),
        "evaluate": lambda: pv.evaluate(vae, rows, num_samples=DRAWS),
        "check": lambda: pv.criticism.check(vae, rows),
        "encode": lambda: vae.encode(rows),
    }
    found: dict[str, Any] = {"rows": len(rows)}
    for name, run in stages.items():
        began = time.perf_counter()
        found[name] = watched(run)
        del found[name]["value"], found[name]["curve"]
        print(f"{len(rows):,} rows: {name} in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return found


def table() -> str:
    """Returns the table as Markdown."""
    (result,) = common.read("million_rows.json")
    sizes = result["sizes"]
    head = " | ".join(f"{each['rows']:,} rows" for each in sizes)
    lines = [
        f"| stage | CPU seconds, {head} | growth | anonymous memory at most, GB, {head} |",
        "|---|" + "---:|" * (2 * len(sizes) + 1),
    ]
    for stage in STAGES:
        cpu = [each[stage]["cpu"] for each in sizes]
        rows = [each["rows"] for each in sizes]
        growth = math.log(cpu[-1] / cpu[-2]) / math.log(rows[-1] / rows[-2])
        seconds = " | ".join(f"{each:.1f}" for each in cpu)
        peaks = " | ".join(f"{each[stage]['peak RssAnon'] / 1e9:.2f}" for each in sizes)
        lines.append(f"| `{stage}` | {seconds} | {round(growth, 2) + 0:.2f} | {peaks} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures each size in a process of its own, and writes what came out."""
    parser = common.Parser(__doc__, table="results/million_rows.md")
    parser.add_argument("--file", type=Path, help="measures this file alone, and prints JSON")
    parser.add_argument("--folder", help="where files are written; a temporary folder if none")
    options = parser.options()
    if options.table:
        (common.RESULTS / "million_rows.md").write_text(table(), encoding="utf-8")
        return
    if options.file:
        print(json.dumps(measure(options.file)))
        return
    sizes = []
    for rows in SMOKE if options.smoke else SIZES:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "x.parquet"
            write(path, rows)
            command = [sys.executable, __file__, "--file", str(path)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        sizes.append(json.loads(output.splitlines()[-1]))
    if not options.smoke:
        print(common.write("million_rows", {"sizes": sizes}))


if __name__ == "__main__":
    main()
