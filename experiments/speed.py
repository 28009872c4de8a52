"""Microseconds a step: CompiledSVI beside Pyro, PyTorch, NumPyro and pythae, one CPU thread.

    pip install pyro-vae[bench]
    python experiments/speed.py            # about 10 minutes: results/speed.json, .md, .png
    python experiments/speed.py --gpu      # under 8 minutes, on a CUDA device: speed-gpu.json
    python experiments/speed.py --table    # the table and the chart again, from the JSON

All rows train one VAE (an encoder and a decoder with one hidden layer, ReLU, Bernoulli) with Adam
on the same data. They take turns, so that a busy machine slows all of them alike: ratios count.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and JAX come up
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import common
import pyro
import speed_rows
import torch
from pyro.infer import SVI, Trace_ELBO
from speed_rows import LR, SEED, STEPS, UNROLL, Program, Row, adam, repeat

from pyro_vae import CompiledSVI

CASES = {"overhead-bound": (64, 64, 8, 64), "compute-bound": (784, 400, 20, 128)}  # D, H, Z, batch


def measure(rows: dict[str, Row], rounds: int, seconds: float) -> dict[str, Any]:
    """Median microseconds a step; the rows take turns."""
    counts, times = {}, {name: [] for name in rows}
    for name, run in rows.items():
        run(STEPS)  # compiles
        start = time.perf_counter()
        run(STEPS)
        each = (time.perf_counter() - start) / STEPS
        counts[name] = STEPS * max(1, round(seconds / each / STEPS))
    for _ in range(rounds):
        for name, run in rows.items():
            start = time.perf_counter()
            run(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    return {
        name: {"us": statistics.median(each), "rounds": [round(t, 1) for t in each]}
        for name, each in times.items()
    }


def scaling() -> list[dict[str, Any]]:
    """How a step grows with parameter tensors, batch and particles."""
    results = []
    for what, values in {"layers": (1, 4, 8), "batch": (256, 1024), "particles": (4, 16)}.items():
        for value in values:
            d, h, z, batch = CASES["overhead-bound"]
            batch = value if what == "batch" else batch
            particles = value if what == "particles" else 1
            loss = Trace_ELBO(
                num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1
            )
            x = torch.rand(batch, d).round()
            stock, ours = (Program(d, h, z, value if what == "layers" else 1) for _ in range(2))
            optim = pyro.optim.Adam({"lr": LR})
            svi = SVI(stock.model, stock.guide, optim, loss)
            compiled = CompiledSVI(ours.model, ours.guide, adam, loss)
            rows = {
                "stock": repeat(svi.step, x),
                "ours": repeat(compiled.step, x),
            }
            took = measure(rows, 7, 0.1)
            results.append({
                "varied": f"{what} = {value}",
                "parameter_tensors": len(list(ours.parameters())),
                "batch": batch,
                "particles": particles,
                **{name: took[name]["us"] for name in rows},
            })  # fmt: skip
    return results


def cpu(rounds: int, seconds: float) -> None:
    """Measures every row of both cases on one CPU thread, and writes the result."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {"seed": SEED, "rounds": rounds, "cases": {}, "engine_unroll": UNROLL}
    for case, (d, h, z, batch) in CASES.items():
        torch.manual_seed(SEED)
        data = torch.rand(STEPS * batch, d).round()
        rows = speed_rows.pyro_rows(lambda: Program(d, h, z), data, batch)  # noqa: B023
        rows |= speed_rows.torch_rows(lambda: Program(d, h, z), data, batch)  # noqa: B023
        missing = {}
        for package, make in {
            "numpyro": speed_rows.numpyro_rows,
            "pythae": speed_rows.pythae_rows,
        }.items():
            try:
                rows |= make(d, h, z, batch, data)
            except ImportError as error:
                missing[package] = {"us": None, "reason": str(error)}
        rows |= speed_rows.matrix_products(d, h, z, batch)
        result["cases"][case] = {
            "shape": dict(
                zip(("data", "hidden", "latent", "batch"), (d, h, z, batch), strict=True)
            ),
            "rows": measure(rows, rounds, seconds) | missing,
        }
        print(case, *_lines(result["cases"][case]["rows"]), sep="\n", flush=True)
    result["scaling"] = scaling()
    common.write("speed", result)


def gpu(device: str = "cuda", rounds: int = 7) -> None:
    """Measures stock, PyTorch and CompiledSVI on one device, with the kernel-time floor."""
    result: dict[str, Any] = {"seed": SEED, "rounds": rounds, "device": device, "cases": {}}
    for case, (d, h, z, batch) in CASES.items():
        torch.manual_seed(SEED)
        data = torch.rand(60_000 if d == 784 else STEPS * batch, d, device=device).round()

        def make(d: int = d, h: int = h, z: int = z) -> Program:
            return Program(d, h, z).to(device)

        rows = speed_rows.pyro_rows(make, data[: STEPS * batch], batch) | speed_rows.torch_rows(
            make, data, batch
        )
        rows = {name: _synchronised(run) for name, run in rows.items()} if device != "cpu" else rows
        entry = {"rows": measure(rows, rounds, 0.5)}
        if device != "cpu":
            entry["kernel_us"] = _kernel_time(rows["CompiledSVI.epoch"])
        if d == 784:
            program = make()
            svi = CompiledSVI(program.model, program.guide, adam, Trace_ELBO(), unroll=UNROLL)
            svi.epoch(data, batch_size=batch)
            start = time.perf_counter()
            for _ in range(5):
                svi.epoch(data, batch_size=batch)
            entry["mnist_epochs_per_second"] = 5 / (time.perf_counter() - start)
        result["cases"][case] = entry
        print(case, *_lines(entry["rows"]), sep="\n", flush=True)
    common.write("speed-gpu", result)


def _synchronised(run: Row) -> Row:
    def wrapped(steps: int) -> None:
        run(steps)
        torch.cuda.synchronize()

    return wrapped


def _kernel_time(run: Row) -> float:
    """Microseconds a step that the device computes: what no launching can go below."""
    activity = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activity) as profile:
        run(STEPS)
    return sum(event.self_device_time_total for event in profile.key_averages()) / STEPS


def _lines(rows: dict[str, Any]) -> list[str]:
    stock = rows["Pyro: SVI.step"]["us"]
    return [f"| {name} | {_figure(row)} | {_times(stock, row)} |" for name, row in rows.items()]


def _times(stock: float, row: dict[str, Any]) -> str:
    return f"{stock / row['us']:.1f} ×" if row["us"] else ""


def _figure(row: dict[str, Any]) -> str:
    return f"{row['us']:,.0f} µs" if row["us"] else f"not measured: {row['reason']}"


def table() -> None:
    """Writes the table and the chart from the JSON."""
    (result,) = common.read("speed.json")
    text, where = [], result["environment"]
    for case, entry in result["cases"].items():
        d, h, z, batch = entry["shape"].values()
        text += [f"**{case}**: {d}-{h}-{z}, batch {batch}", ""]
        text += ["| a step | median | stock Pyro ÷ this |", "|---|---:|---:|"]
        text += [*_lines(entry["rows"]), ""]
    text += ["| varied | parameter tensors | Pyro: SVI.step | CompiledSVI.step |"]
    text += ["|---|---:|---:|---:|"]
    for row in result["scaling"]:
        count, stock, ours = row["parameter_tensors"], row["stock"], row["ours"]
        text += [f"| {row['varied']} | {count} | {stock:,.0f} µs | {ours:,.0f} µs |"]
    gpus = common.read("speed-gpu.json")
    text += ["", *([_gpu_line(gpus[0])] if gpus else ["GPU: not measured."])]
    text += ["", f"{where['cpu']}, one thread, torch {where['versions']['torch']}."]
    (common.RESULTS / "speed.md").write_text("\n".join(text) + "\n")
    _chart(result)


def _gpu_line(result: dict[str, Any]) -> str:
    parts = []
    for case, entry in result["cases"].items():
        rows = entry["rows"]
        ours, stock = rows["CompiledSVI.epoch"]["us"], rows["Pyro: SVI.step"]["us"]
        parts.append(f"{case} {ours:,.0f} µs (stock {stock:,.0f})")
    return f"{result['environment']['gpu']}: {'; '.join(parts)}."


def _chart(result: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
    for ax, (case, entry) in zip(axes, result["cases"].items(), strict=True):
        rows = {name: row["us"] for name, row in entry["rows"].items() if row["us"]}
        names = list(rows)[::-1]
        colours = ["#d1495b" if name.startswith("CompiledSVI") else "#8d99ae" for name in names]
        bars = ax.barh(names, [rows[name] for name in names], color=colours)
        ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        ax.set_xlim(right=max(rows.values()) * 1.12)
        ax.set_xlabel("µs a step")
        d, h, z, batch = entry["shape"].values()
        ax.set_title(f"{case}: {d}-{h}-{z}, batch {batch}", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.RESULTS / "speed.png", dpi=150)


if __name__ == "__main__":
    parser = common.Parser(__doc__, smoke=None, table="table and chart", threads=None)
    parser.add_argument("--gpu", action="store_true", help="measure on a CUDA device instead")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each row in each round")
    options = parser.options()
    if options.gpu:
        if torch.cuda.is_available():
            gpu(rounds=options.rounds)
        else:
            print("no CUDA device: not measured")
    elif not options.table:
        cpu(options.rounds, options.seconds)
    if not options.gpu:
        table()
