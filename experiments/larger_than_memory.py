"""Memory and speed of a fit, an evaluation and an imputation of data larger than memory.

    python experiments/larger_than_memory.py --data-root DATA    # a file of 20 GB, which is removed
    python experiments/larger_than_memory.py --data-root DATA --gigabytes 2
    python experiments/larger_than_memory.py --data-root DATA --kind parquet     # or zarr
    python experiments/larger_than_memory.py --table         # results/larger_than_memory.md
    python experiments/larger_than_memory.py --smoke             # digits, 30 MB; nothing is written

The images of a real set are repeated with small changes: each copy has other pixels switched, one
in fifty, so that no two rows are equal. The file is mapped (or one of Parquet or Zarr, read by row
groups or chunks), and fitted for one pass with little memory for data; then rows that are spread
over all of it are evaluated, and filled where a third of their entries is hidden. A thread samples
the anonymous memory of the process (``RssAnon``) and the pages of the file that are mapped
(``RssFile``). The first part of the file, in memory, is fitted by the same steps: steps a second of
processor time are compared, which others on the machine do not change.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

import pyro_vae as pv

MEMORY = "512MiB"  # for data
SPREAD = 100_000  # rows that are evaluated and filled
PART = 200_000  # rows, the first part, which is in memory
SWITCHED = 0.02
EVERY = 0.05  # seconds from one sample of the memory to the next
KINDS = ("npy", "parquet", "zarr")
STAGES = ("fit", "evaluate", "impute")
BATCH = 512
DRAWS = 10
GROUP = 5_000  # rows of a row group, or a chunk


def memory() -> dict[str, int]:
    """Bytes that the process holds: anonymous ones, and those of files that are mapped."""
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {name: int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


def watched(run: Callable[[], Any]) -> dict[str, Any]:
    """Runs something; returns its time, and the memory while it ran."""
    samples: list[dict[str, float]] = []
    done = threading.Event()

    def sample() -> None:
        began = time.perf_counter()
        while not done.wait(EVERY):
            samples.append({"seconds": time.perf_counter() - began, **memory()})

    thread = threading.Thread(target=sample)
    cpu, wall = time.process_time(), time.perf_counter()
    thread.start()
    try:
        value = run()
    finally:
        done.set()
        thread.join()
    times = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    samples = samples or [{"seconds": 0.0, **memory()}]
    peaks = {f"peak {name}": max(each[name] for each in samples) for name in memory()}
    step = max(1, len(samples) // 200)
    return {"value": value, **times, **peaks, "curve": samples[::step]}


def written(path: Path, block: np.ndarray, rows: int) -> None:
    """Writes so many rows, copies of a block with other pixels switched in each."""
    random = np.random.default_rng(0)
    shape = (rows, block.shape[1])
    write, close = writer(path, shape)
    for start in range(0, rows, len(block)):
        some = block[: rows - start].copy()
        some[random.random(some.shape, dtype=np.float32) < SWITCHED] += 1
        write(start, some % 2)
    close()


def writer(
    path: Path, shape: tuple[int, int]
) -> tuple[Callable[[int, np.ndarray], None], Callable[[], None]]:
    """Returns what writes rows from a place on, and what closes the file."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        names = [f"pixel {i}" for i in range(shape[1])]
        schema = pa.schema([(name, pa.float32()) for name in names])
        table = parquet.ParquetWriter(path, schema)

        def in_groups(start: int, rows: np.ndarray) -> None:
            table.write_table(pa.table(list(rows.T), schema=schema), row_group_size=GROUP)

        return in_groups, table.close
    if path.suffix == ".zarr":
        import zarr

        array = zarr.create_array(path, shape=shape, chunks=(GROUP, shape[1]), dtype="float32")
        return lambda start, rows: array.__setitem__(slice(start, start + len(rows)), rows), int
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    return lambda start, rows: file.__setitem__(slice(start, start + len(rows)), rows), file.flush


def model(dim: int) -> pv.VAE:
    """A model of binary images."""
    likelihood = pv.likelihoods.Bernoulli((dim,))
    return pv.VAE(pv.priors.Normal(20), pv.guides.Normal(20), likelihood, seed=0)


def measure(path: Path, block: np.ndarray, rows: int, compile: bool) -> dict[str, Any]:
    """Fits all rows of a file, evaluates and fills some, and fits its first part in memory."""
    # In a process of its own, so that what it leaves behind is not counted.
    writing = multiprocessing.get_context("spawn").Process(target=written, args=(path, block, rows))
    writing.start()
    writing.join()
    assert writing.exitcode == 0
    x = np.load(path, mmap_mode="r") if path.suffix == ".npy" else pv.data.stream(path)
    dim = block.shape[1]
    known: dict[str, Any] = {"epochs": 1, "batch_size": BATCH, "seed": 0, "compile": compile}
    known |= {"progress": False, "device": "cpu"}
    first = pv.data.stream(x)[: min(PART, rows // 2)].read().x
    part = first.float()
    del first
    steps: dict[str, float] = {}
    found: dict[str, Any] = {"rows": rows, "bytes": 4 * rows * dim, "before": memory()}

    def fitted(name: str, data: Any, **options: Any) -> dict[str, Any]:
        vae = model(dim)
        clock: list[float] = []
        each = watched(lambda: pv.fit(vae, data, callbacks=[_Clock(clock)], **known, **options))
        # Between the first step, with which a graph is compiled, and the last, of fewer rows.
        steps[name] = (len(clock) - 2) / (clock[-2] - clock[0])
        return {**each, "value": vae}

    found["in memory"] = fitted("in memory", part)
    del part
    found["fit"] = fitted("streamed", x, max_memory=MEMORY)
    vae = found["fit"]["value"]
    some = pv.data.stream(x)[np.linspace(0, rows - 1, min(SPREAD, rows // 4)).astype(np.int64)]
    mask = np.random.default_rng(1).random((len(some), dim), dtype=np.float32) > 1 / 3
    hidden = pv.data.stream(some, mask=mask)
    found["evaluate"] = watched(lambda: pv.evaluate(vae, some, num_samples=DRAWS))
    found["impute"] = watched(lambda: pv.evaluation.impute(vae, hidden, num_samples=DRAWS))
    for each in found.values():
        if isinstance(each, dict):
            each.pop("value", None)
    return found | {"steps a cpu second": steps, "share": steps["streamed"] / steps["in memory"]}


class _Clock:
    """Notes the processor time after each step."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def on_step(self, step: int, loss: torch.Tensor) -> None:
        self._clock.append(time.process_time())


def table() -> str:
    """Returns the table of all results as Markdown, and draws the memory of each over time."""
    lines = [
        "| file | rows | stage | CPU seconds | anonymous memory at most, GB | steps a CPU second, "
        "of those in memory |",
        "|---|---:|---|---:|---:|---:|",
    ]
    results = [
        (f"{result['bytes'] / 1e9:.0f} GB, {kind}", result)
        for kind in KINDS
        for result in common.read(f"larger_than_memory-{kind}-*.json")
    ]
    for name, result in results:
        start = result["before"]["RssAnon"] / 1e9
        lines.append(f"| {name} | {result['rows']:,} | before | | {start:.2f} | |")
        cells = "| | "
        for stage in ("in memory", *STAGES):
            each = result[stage]
            share = f"{result['share']:.2f}" if stage == "fit" else ""
            peak = each["peak RssAnon"] / 1e9
            cells += f"| {stage} | {each['cpu']:.0f} | {peak:.2f} | {share} |"
            lines.append(cells)
            cells = "| | "
    draw(results)
    return "\n".join(lines) + "\n"


def draw(results: list[tuple[str, dict[str, Any]]]) -> None:
    """Draws anonymous memory over time, a panel a stage, a line a file."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(STAGES), figsize=(9, 2.8), sharey=True, layout="tight")
    for axis, stage in zip(axes, STAGES, strict=True):
        for name, result in results:
            curve = result[stage]["curve"]
            seconds = [each["seconds"] for each in curve]
            axis.plot(seconds, [each["RssAnon"] / 1e9 for each in curve], label=name)
        axis.set(title=stage, xlabel="seconds")
    most = max(result[stage]["peak RssAnon"] for _, result in results for stage in STAGES)
    axes[0].set(ylabel="anonymous memory, GB", ylim=(0, 1.05 * most / 1e9))
    axes[0].legend(fontsize=7)
    figure.savefig(common.RESULTS / "larger_than_memory.png", dpi=150)


def main() -> None:
    """Measures, prints what came out and writes it."""
    parser = common.Parser(__doc__, data_root="mnist", table="results/larger_than_memory.md")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="of the file")
    parser.add_argument("--kind", choices=KINDS, default="npy", help="of file")
    parser.add_argument("--folder", help="where the file is written; a temporary folder if none")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    options = parser.options()
    if options.table:
        (common.RESULTS / "larger_than_memory.md").write_text(table(), encoding="utf-8")
        return
    name, root = ("digits", None) if options.smoke else ("mnist", options.data_root)
    block = pv.data.load(name, root=root).train.flatten(1).numpy()
    size = 30e6 if options.smoke else options.gigabytes * 1e9
    rows = int(size / block[0].nbytes)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(
            Path(folder) / f"x.{options.kind}",
            block,
            rows,
            compile=not (options.smoke or options.eager),
        )
    for stage in ("in memory", *STAGES):
        each = found[stage]
        peak = each["peak RssAnon"] / 1e9
        print(f"{stage}: {each['cpu']:.1f} s of CPU, RssAnon {peak:.2f} GB at most,", end=" ")
        print(f"RssFile {each['peak RssFile'] / 1e9:.2f} GB at most")
    print(f"before: {found['before']['RssAnon'] / 1e9:.2f} GB; {found['rows']:,} rows")
    print(f"steps a CPU second, streamed over in memory: {found['share']:.2f}")
    if not options.smoke:
        content = {"environment": common.environment(), **found}
        name = f"larger_than_memory-{options.kind}-{options.gigabytes:g}.json"
        path = common.RESULTS / name
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
