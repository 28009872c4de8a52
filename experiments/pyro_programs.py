"""Programs in the manner of Pyro's examples: are they captured, equal to stock SVI, and faster?

    python experiments/pyro_programs.py               # those not in results/pyro_programs.json yet
    python experiments/pyro_programs.py VAE "HMM 1"   # these, again
    python experiments/pyro_programs.py --smoke       # all, 12 steps of graphs not compiled
    python experiments/pyro_programs.py --table       # results/pyro_programs.md

Each takes 100 steps with ``pyro.infer.SVI`` and with ``CompiledSVI``, from one seed, in double
precision: losses and parameters have to agree to 1e-9. Then both go on in turns, on one core, for
the time of a step. A minute or less a program, most of it the compiler's.
"""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch comes up

import common
import pyro
import torch
from programs import PROGRAMS, Program
from pyro.infer import SVI
from torch import Tensor

from pyro_vae import CompiledSVI

SEED, STEPS, ROUNDS, SECONDS, WARM = 0, 100, 7, 0.1, 12
TOLERANCE, SMALL = 1e-9, 1e-3  # a difference is relative to the value or, if larger, to SMALL
RESULT = common.RESULTS / "pyro_programs.json"


class Run:
    """A program with one engine, and a parameter store of its own.

    Args:
        program: Of the catalogue.
        engine: The class of its engines.
    """

    def __init__(self, program: Program, engine: Callable[..., Any]) -> None:
        self.engines: list[Any] = []
        self.taken = 0
        pyro.clear_param_store()
        pyro.set_rng_seed(SEED)

        def made(*args: Any) -> Any:
            self.engines.append(engine(*args))
            return self.engines[-1]

        self._step = program.make(made)
        self._store = dict(vars(pyro.get_param_store()))

    def take(self, count: int) -> list[float]:
        """Takes steps and returns their losses, one after the other."""
        vars(pyro.get_param_store()).update(self._store)
        losses: list[float] = []
        for _ in range(count):
            loss = self._step(self.taken)
            losses += loss if isinstance(loss, tuple | list) else (loss,)
            self.taken += 1
        self._store = dict(vars(pyro.get_param_store()))
        return losses

    def values(self) -> dict[str, Tensor]:
        """Returns a copy of its parameters, unconstrained."""
        return {name: value.detach().clone() for name, value in self._store["_params"].items()}


class Reasons(logging.Handler):
    """Keeps why programs run eagerly."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().removeprefix("CompiledSVI runs eagerly: ")
        self.lines += [line] if line not in self.lines else []


def difference(ours: Tensor, stock: Tensor) -> float:
    """Returns the largest difference, relative to stock's value; infinite for another shape."""
    if ours.shape != stock.shape or not torch.equal(ours.isfinite(), stock.isfinite()):
        return math.inf
    finite = stock.isfinite()
    ours, stock = ours[finite], stock[finite]
    if not len(stock):
        return 0.0
    return float(((ours - stock).abs() / stock.abs().clamp_min(SMALL)).max())


def compare(program: Program, steps: int) -> tuple[Run, Run, dict[str, Any]]:
    """Takes steps with stock and with ours; returns both, and what there is to say of them."""
    stock = Run(program, SVI)
    losses = torch.tensor(stock.take(steps))
    expected = stock.values()
    log, reasons = logging.getLogger("pyro_vae"), Reasons()
    log.addHandler(reasons)
    try:
        ours = Run(program, CompiledSVI)
        start = time.perf_counter()
        found = torch.tensor(ours.take(steps))
        seconds = time.perf_counter() - start
    finally:
        log.removeHandler(reasons)
    params = ours.values()
    same = params.keys() == expected.keys()
    moved = max(difference(params[name], expected[name]) for name in params) if same else math.inf
    counts = [svi.engine_steps for svi in ours.engines]
    from_graphs = sum(count for each in counts for name, count in each.items() if name != "eager")
    lost = difference(found, losses)
    return (
        stock,
        ours,
        {
            "source": program.source,
            "steps": steps,
            "captured": all(svi.engine != "eager" for svi in ours.engines),
            "share_from_graphs": from_graphs / max(1, sum(sum(each.values()) for each in counts)),
            "graphs": sum(svi.captures for svi in ours.engines),
            "reasons": reasons.lines,
            "losses_differ": lost,
            "parameters_differ": moved,
            "equal": max(lost, moved) <= TOLERANCE,
            "seconds_of_ours": seconds,
        },
    )


@contextmanager
def one_core() -> Iterator[None]:
    """Inside it, this process keeps to one core; what compiles takes any."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def in_turns(runs: dict[str, Run], rounds: int, seconds: float) -> dict[str, float]:
    """Returns the median microseconds of a step of each; the runs take turns.

    The first steps after a turn do not count: the parameter store has just been exchanged, for
    which what programs depend on is looked through again.
    """
    counts: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            run.take(WARM)
            count = counts.get(name, WARM)
            start = time.perf_counter()
            run.take(count)
            each = (time.perf_counter() - start) / count
            if number == 0:
                counts[name] = max(WARM, round(seconds / each))
            else:
                times[name].append(each * 1e6)
    return {f"{name}_us": statistics.median(each) for name, each in times.items()}


def judge(program: Program, steps: int, rounds: int) -> dict[str, Any]:
    """Returns what is written of a program."""
    try:
        stock, ours, row = compare(program, steps)
        if rounds:
            with one_core():
                row |= in_turns({"stock": stock, "ours": ours}, rounds, SECONDS)
    except Exception as error:
        traceback.print_exc()
        row = {"source": program.source, "error": f"{type(error).__name__}: {error}"}
    return row | {"environment": common.environment()}


def run(names: list[str], smoke: bool) -> None:
    """Judges programs one after the other, and writes each as it is done."""
    torch.set_default_dtype(torch.float64)
    if smoke:
        from torch._inductor import compile_fx

        compile_fx.compile_fx = lambda module, examples, **options: module
    warnings.simplefilter("ignore")
    before = json.loads(RESULT.read_text())["programs"] if RESULT.exists() else {}
    for name in names or [name for name in PROGRAMS if smoke or name not in before]:
        row = judge(PROGRAMS[name], 12 if smoke else STEPS, 0 if smoke else ROUNDS)
        print(f"{name}: {_words(row)}", *row.get("reasons", ()), sep="\n    ", flush=True)
        if not smoke:
            before[name] = row
            kept = {name: before[name] for name in PROGRAMS if name in before}
            common.write("pyro_programs", {"seed": SEED, "rounds": ROUNDS, "programs": kept})


def _words(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"]
    how = f"captured, {row['graphs']} graphs" if row["captured"] else "eager"
    differs = max(row["losses_differ"], row["parameters_differ"])
    words = f"{how}, differs by {differs:.0e}{'' if row['equal'] else ' WRONG'}"
    took = (
        f", {row['stock_us']:,.0f} µs stock, {row['ours_us']:,.0f} µs" if "ours_us" in row else ""
    )
    return words + took


def table() -> str:
    """Returns a row for each program, and what they come to, as Markdown."""
    (result,) = common.read("pyro_programs.json")
    rows = {name: row for name, row in result["programs"].items() if name in PROGRAMS}
    text = [
        "| program | in the manner of | captured | differs from stock | stock | compiled | |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        if "error" in row:
            text.append(f"| {name} | `{row['source']}` | {row['error']} | | | | |")
            continue
        reason = "; ".join(row["reasons"]).replace("|", "\\|")
        how = "yes" if row["captured"] else f"no: {reason}"
        differs = max(row["losses_differ"], row["parameters_differ"])
        stock, ours = row["stock_us"], row["ours_us"]
        took = f"{stock:,.0f} µs | {ours:,.0f} µs | {stock / ours:.1f} ×"
        text.append(f"| {name} | `{row['source']}` | {how} | {differs:.0e} | {took} |")
    captured = [row for row in rows.values() if row.get("captured")]
    wrong = [name for name, row in rows.items() if not row.get("equal")]
    gain = statistics.median(row["stock_us"] / row["ours_us"] for row in captured)
    where = next(iter(rows.values()))["environment"]
    text += [
        "",
        f"{len(captured)} of {len(rows)} programs ({len(captured) / len(rows):.0%}) are captured; "
        f"{len(wrong)} {'differs' if len(wrong) == 1 else 'differ'} from stock by more than "
        f"{TOLERANCE:.0e}. The median of stock's time divided by ours is {gain:.1f} for those "
        f"captured. {where['cpu']}, one thread, torch {where['versions']['torch']}, Pyro "
        f"{where['versions']['pyro-ppl']}.",
    ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    parser = common.Parser(
        __doc__, smoke="uncompiled, 12 steps, nothing written", table="the table"
    )
    parser.add_argument(
        "names", nargs="*", metavar="PROGRAM", help="to be judged, again if need be"
    )
    options = parser.options()
    if not options.table:
        run(options.names, options.smoke)
    if not options.smoke:
        (common.RESULTS / "pyro_programs.md").write_text(table(), encoding="utf-8")
