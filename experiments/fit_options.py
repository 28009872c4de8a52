"""Each option of a fit, eager and compiled, in one go, interrupted and going on: the same bits.

    python experiments/fit_options.py           # results/fit_options.json: an hour on one core
    python experiments/fit_options.py --engine eager   # half of it, in minutes
    python experiments/fit_options.py --table   # results/fit_options.md
    python experiments/fit_options.py --smoke   # one option, eager: seconds, no figure

The options are those of `tests/test_fit_options.py`. Of each, eager and compiled, a whole run is
compared with the same run again; with one that a signal stops in the middle of an epoch and that
another model and another object resume; and, where it is defined, with a shorter run that goes on
to as many epochs. Compared are the history and the three sets of weights, bit for bit. What is
there already is not run again: a script that was stopped goes on by the same command.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import common
import pyro

import pyro_vae as pv

sys.path.insert(0, str(common.HERE.parent / "tests"))
from stopping import X, build, fit, same, same_run, stopped
from test_fit_options import OPTIONS

ENGINES = ("eager", "compiled")
WAYS = ("again", "interrupted", "longer")
PATH = common.RESULTS / "fit_options.json"
SHORT = 2  # epochs, before it goes on to all


def _alike(run: pv.Run, whole: pv.Run) -> bool:
    """Whether two runs end in the same bits."""
    weights = ("best_weights", "averaged_weights")
    return same_run(run, whole) and all(same(getattr(run, w), getattr(whole, w)) for w in weights)


def case(name: str, engine: str) -> dict[str, Any]:
    """Runs an option by an engine, and says of each way whether it ends in the same bits."""
    options: dict[str, Any] = OPTIONS[name] | {"compile": engine == "compiled"}
    began = time.process_time()
    whole = fit(build(), X, **options)
    pyro.clear_param_store()
    found: dict[str, Any] = {"engine": whole.engine, "steps": whole.steps}
    found["again"] = _alike(fit(build(), X, **options), whole)
    at = whole.steps - 2  # in the last epoch, where there is most to put back
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        stopped(out, at, **options)
        pyro.clear_param_store()
        resumed = fit(build(5), X, **options, out=out, resume=True)
        found["interrupted"] = _alike(resumed, whole)
    pyro.clear_param_store()
    # A mean of the last epochs begins elsewhere, and the last epoch has a score of its own.
    if options.get("average") != "swa" and options.get("schedule") != "cosine":
        short = fit(build(), X, **options | {"epochs": SHORT})
        found["longer"] = _alike(short.resume(epochs=len(whole.history["epoch"])), whole)
    return found | {"cpu_seconds": time.process_time() - began}


def run(engines: Sequence[str], smoke: bool) -> None:
    """Runs the cases that are not there yet, and writes each as it ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # one started in the background
    for engine, name in product(engines, OPTIONS):
        if not smoke and f"{name}, {engine}" in _cases():
            continue
        found = {f"{name}, {engine}": case(name, engine)}
        print(found, flush=True)
        if smoke:
            return
        common.write("fit_options", {"rows": len(X), "cases": _cases() | found})


def _cases() -> dict[str, Any]:
    """What is there by now, by whichever process."""
    return dict(json.loads(PATH.read_text())["cases"]) if PATH.exists() else {}


def table() -> str:
    """Returns the table of all results as Markdown."""
    cases = common.read("fit_options.json")[0]["cases"]
    heads = [f"{engine}, {way}" for engine in ENGINES for way in WAYS]
    lines = [f"| option | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name in OPTIONS:
        cells = []
        for engine in ENGINES:
            found = cases.get(f"{name}, {engine}")
            for way in WAYS:
                if found is None:
                    cells.append("not run")
                else:
                    cells.append({True: "same", False: "**differs**", None: "–"}[found.get(way)])
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/fit_options.md")
    parser.add_argument("--engine", choices=ENGINES, help="one of the two; both if not given")
    args = parser.options()
    if args.table:
        (common.RESULTS / "fit_options.md").write_text(table())
    else:
        run(ENGINES if args.engine is None else (args.engine,), args.smoke)
