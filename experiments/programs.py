"""Seven programs of plain Pyro, each fitted, evaluated, checked and calibrated as a VAE is.

    python experiments/programs.py               # those without a result yet, a minute each
    python experiments/programs.py topics        # this one, again
    python experiments/programs.py --smoke       # all, seconds each, no figure
    python experiments/programs.py --table       # results/programs.md
    python experiments/programs.py gp_prior --page page.html    # its page, which goes there

They are those of ``experiments/examples/``, each a module. A special case of each has a log p(x)
that is known without draws; importance weighting is compared with it, row by row.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyro
import torch
from examples import EXAMPLES, Case, Example

import pyro_vae as pv
from pyro_vae.criticism import calibrate, check
from pyro_vae.evaluation.averaging import averaged as average
from pyro_vae.evaluation.global_latents import evaluate_globals
from pyro_vae.report import page

SEED = 0
DRAWS, GLOBALS, AVERAGED = 2000, 20, 200  # of z, and of what is shared; the latter when averaged
SIMULATIONS = 500
FEW = {"draws": 100, "globals": 3, "averaged": 10, "simulations": 30, "epochs": 3, "rows": 40}
ALL = {"draws": DRAWS, "globals": GLOBALS, "averaged": AVERAGED, "simulations": SIMULATIONS}
WITHIN = 3.0  # Monte Carlo errors


def model_lines(case: Case) -> int:
    """Lines of the class that has both programs, without those that are empty."""
    source = inspect.getsource(type(case.program.model.program.__self__))
    return sum(bool(line.strip()) for line in source.splitlines())


def fitted(case: Case, sizes: dict[str, int]) -> dict[str, Any]:
    """Fits a program in place, and returns what there is to say of that."""
    options = dict(case.options)
    options["epochs"] = min(options["epochs"], sizes.get("epochs", math.inf))
    start, x, given = time.process_time(), case.train.x, case.train.given
    run = pv.fit(case.program, x, seed=SEED, device="cpu", compile=False, **options, **given)
    return {
        "rows": len(x),
        "epochs": options["epochs"],
        "elbo": run.history["elbo"][-1],
        "seconds": time.process_time() - start,
    }


def evaluated(case: Case, sizes: dict[str, int]) -> dict[str, Any]:
    """Returns what held-out log p(x) is, over draws of global latents where there are some."""
    x, given = case.held_out.x, case.held_out.given
    draws, shared = sizes["draws"], sizes["globals"] if case.program.has_globals else 1
    found = evaluate_globals(case.program, x, num_globals=shared, num_samples=draws, **given)
    first, *_ = found.by_draw
    errors = first.mcse if shared == 1 else found.mcse
    return {
        "rows": len(x),
        "log_marginal": float(found.log_marginal.mean()),
        "se": float(found.log_marginal.std(ddof=1) / math.sqrt(len(x))),
        "mcse": float(np.mean(errors)),
        "unreliable": float(np.mean([each.unreliable.mean() for each in found.by_draw])),
        "num_samples": draws,
        "num_globals": shared if case.program.has_globals else 0,
    }


def compared(case: Case, sizes: dict[str, int]) -> dict[str, Any]:
    """Compares log p(x) of the special case with what is known, at a few draws of its globals."""
    assert case.exact is not None
    x, given = case.held_out.x, case.held_out.given
    found = []
    for one in case.program.fixed(min(5, sizes["globals"])):
        scores = pv.evaluate(one, x, num_samples=sizes["draws"], **given)
        off = scores.log_marginal - case.exact(one, case.held_out).numpy()
        error = math.sqrt((scores.mcse**2).mean() / len(x))
        found.append(
            {
                "log_marginal": float(scores.log_marginal.mean()),
                "known": float((scores.log_marginal - off).mean()),
                "errors": float(off.mean() / error),
                "rows_within": float((np.abs(off) <= WITHIN * scores.mcse).mean()),
            }
        )
    return {
        "at_draws": found,
        "equal": all(abs(each["errors"]) <= WITHIN for each in found),
        "averaged": averaged(case, sizes) if case.averaged is not None else None,
    }


def averaged(case: Case, sizes: dict[str, int]) -> dict[str, Any]:
    """Compares log p(x | training data), over draws of the globals, with its closed form."""
    assert case.averaged is not None
    shared = sizes["averaged"]
    found = evaluate_globals(
        case.program, case.held_out.x, num_globals=shared, **case.held_out.given
    )
    known = case.averaged(case.program, case.held_out).numpy()
    off = found.log_marginal - known
    error = average(found.by_draw).mean_mcse
    return {
        "num_globals": shared,
        "log_marginal": float(found.log_marginal.mean()),
        "known": float(known.mean()),
        "mcse": error,
        "errors": float(off.mean() / error),
        "rows_within": float((np.abs(off) <= WITHIN * found.mcse).mean()),
    }


def judged(case: Case, sizes: dict[str, int]) -> dict[str, Any]:
    """Checks and calibrates a program, at one draw of its global latents if it has some."""
    (one, *_), rows = case.program.fixed(1), case.held_out
    start = time.process_time()
    checks = check(one, rows.x, max_data=sizes.get("rows", 1000), **rows.given)
    seconds = {"check": time.process_time() - start}
    start = time.process_time()
    ranks = calibrate(one, num_simulations=sizes["simulations"], **rows.given)
    seconds["calibrate"] = time.process_time() - start
    summary, ranked = checks.summary(), ranks.summary()
    return {
        "checks": {
            "failed": [row.title for row in checks.rows if row.failed],
            "num_checks": summary["num_checks"],
            "num_draws": summary["num_draws"],
            "auc": summary["classifier"]["auc"],
            "skipped": summary["skipped"],
        },
        "ranks": {
            "failed": [each["name"] for each in ranked["quantities"] if each["failed"]],
            "num_quantities": ranked["num_quantities"],
            "num_simulations": ranked["num_simulations"],
            "advice": ranked["advice"],
        },
        "seconds": seconds,
    }


def judge(example: Example, sizes: dict[str, int]) -> dict[str, Any]:
    """Returns all that is written of an example."""
    start = time.process_time()
    pyro.set_rng_seed(SEED)
    case = example.make()
    row: dict[str, Any] = {"title": example.title, "lines": model_lines(case), "seed": SEED}
    row |= {"fit": fitted(case, sizes), "scores": evaluated(case, sizes)}
    row |= judged(case, sizes)
    pyro.set_rng_seed(SEED)
    special = example.special()
    row["special"] = {"by": example.known, "fit": fitted(special, sizes)}
    row["special"] |= compared(special, sizes)
    row["seconds"]["all"] = time.process_time() - start
    return row


def run(names: Sequence[str], smoke: bool) -> None:
    """Judges examples one after the other, and writes each as it is done."""
    for name in names or EXAMPLES:
        if not (smoke or names) and (common.RESULTS / f"programs-{name}.json").exists():
            continue
        row = judge(EXAMPLES[name], FEW if smoke else ALL)
        print(f"{name}: {_words(row)}", flush=True)
        if not smoke:
            common.write(f"programs-{name}", row)


def _words(row: dict[str, Any]) -> str:
    scores, special = row["scores"], row["special"]
    off = ", ".join(f"{each['errors']:+.1f}" for each in special["at_draws"])
    if special["averaged"]:
        off += f"; averaged {special['averaged']['errors']:+.1f}"
    return (
        f"log p(x) {scores['log_marginal']:.2f}, {len(row['checks']['failed'])} checks and "
        f"{len(row['ranks']['failed'])} ranks failed, errors off {off}, "
        f"{row['seconds']['all']:.0f} s"
    )


def draw_page(name: str, path: Path) -> None:
    """Fits an example and writes its page."""
    pyro.set_rng_seed(SEED)
    case = EXAMPLES[name].make()
    if case.train.given:
        raise SystemExit(f"{name}: the page is drawn of those of which nothing goes with x")
    data = pv.data.load(torch.cat([case.train.x, case.held_out.x]))
    run = pv.fit(case.program, data, seed=SEED, device="cpu", compile=False, **case.options)
    (one, *_) = case.program.fixed(1)
    path.write_text(page(one, data, history=run.history, name=name), encoding="utf-8")


def table() -> str:
    """Returns a row for each example, as Markdown."""
    text = [
        "| program | lines | log p(x) | checks failed | ranks failed | log p(x) of a special case "
        "| by | errors off | CPU seconds |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    found = {name: each for name in EXAMPLES for each in common.read(f"programs-{name}.json")}
    for row in found.values():
        scores, checks, ranks, special = (row[k] for k in ("scores", "checks", "ranks", "special"))
        first, off = special["at_draws"][0], [each["errors"] for each in special["at_draws"]]
        furthest = max(off, key=abs)
        known = f"{first['log_marginal']:.3f}, known {first['known']:.3f}"
        cells = [
            row["title"],
            str(row["lines"]),
            f"{scores['log_marginal']:.2f} ± {scores['se']:.2f}",
            f"{len(checks['failed'])} of {checks['num_checks']}",
            f"{len(ranks['failed'])} of {ranks['num_quantities']}",
            known,
            special["by"],
            f"{furthest:+.1f}",
            f"{row['seconds']['all']:.0f}",
        ]
        text.append("| " + " | ".join(cells) + " |")
        if average := special["averaged"]:
            known = f"{average['log_marginal']:.3f}, known {average['known']:.3f}"
            over = f"posterior predictive, over {average['num_globals']} draws of the weights"
            text.append(f"| | | | | | {known} | {over} | {average['errors']:+.1f} | |")
    some = next(iter(found.values()))
    where = some["environment"]
    text += [
        "",
        f"Nats an observation; ± is the standard error over {some['scores']['rows']} held-out "
        f"rows. {where['cpu']}, one thread, torch {where['versions']['torch']}.",
    ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, smoke="seconds each, nothing written", table="the table")
    parser.add_argument(
        "names", nargs="*", metavar="EXAMPLE", help="to be judged, again if need be"
    )
    parser.add_argument("--page", type=Path, help="write the page of the one example here instead")
    options = parser.options()
    if options.page:
        draw_page(options.names[0], options.page)
    elif not options.table:
        run(options.names, options.smoke)
    if options.table:
        (common.RESULTS / "programs.md").write_text(table(), encoding="utf-8")
