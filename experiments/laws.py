"""The table of parts: what each class says of itself, and what the command that fits it gives.

    python experiments/laws.py                      # all that have no result: minutes on a core
    python experiments/laws.py likelihoods.Poisson  # these alone, anew
    python experiments/laws.py --table              # results/laws.md
    python experiments/laws.py --data               # only the simulated tables, in runs/laws
    python experiments/laws.py likelihoods.Poisson --smoke

Law, support, paper and year are read off the classes; a class that is exported has a row. Commands
run as a user's would, in the root of the repository. Digits are scikit-learn's; the other tables
are simulated from the law itself, with two latent dimensions and a linear decoder.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import re
import shlex
import tempfile
from pathlib import Path

import common
import numpy as np
import torch
import yaml
from parts import COLUMNS, GREY, command, parts, reference, support

from pyro_vae.cli import main

DATA = common.RUNS / "laws"
EFFORT = ["--epochs", "20", "--num-samples", "100", "--compile", "false", "--device", "cpu"]
SIZE, FEATURES, LATENT = 1200, 12, 2
# Of the simulated tables: what is not as it comes.
SHAPES = {"Mixed": 4}
SIMULATED = {"Autoregressive": {"levels": 5}, "Mixed": {"columns": yaml.safe_load(COLUMNS)}}
START = {"Multinomial": 20.0}  # added to the law's own parameters, so that there is something


def simulate() -> None:
    """Writes a table for each likelihood that the digits do not suit."""
    DATA.mkdir(parents=True, exist_ok=True)
    for name, cls in parts().items():
        room, _, law = name.partition(".")
        if room == "likelihoods" and law not in GREY:
            torch.manual_seed(0)
            likelihood = cls((SHAPES.get(law, FEATURES),), **SIMULATED.get(law, {}))
            for each in likelihood.parameters():
                each.data.add_(torch.randn_like(each) / 30 + START.get(law, 0.0))
            weight = torch.randn(LATENT, *likelihood.param_shape)
            params = torch.randn(SIZE, LATENT) @ weight + torch.randn(likelihood.param_shape)
            x = likelihood(params).sample()
            np.savetxt(DATA / f"{law}.csv", x.numpy(), fmt="%.6g", delimiter=",")


def run(name: str, smoke: bool) -> dict[str, object]:
    """Runs the command of one class."""
    words, printed = shlex.split(command(name)), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        effort = ["--epochs", "1", "--num-samples", "10", *EFFORT[4:]] if smoke else EFFORT
        code = main([*words, *effort, "--json", "--out", str(Path(folder) / "run")])
    if code != 0:
        raise ValueError(f"{name}: `pyro-vae {command(name)}` ended with {code}")
    found = json.loads(printed.getvalue())
    return {"command": command(name), "effort": EFFORT} | {
        k: found[k] for k in ("seconds", "scores")
    }


def table(results: dict[str, dict]) -> str:
    """Returns the rows of all classes as Markdown."""
    lines = [
        "| Class | What it is | Support | Paper | Year | `pyro-vae` … | log p(x), nats | measure |",
        "|---|---|---|---|---:|---|---:|---|",
    ]
    for name, cls in parts().items():
        title, url, year = reference(cls)
        what = re.sub(r"^Creates (an? )?|\.$", "", inspect.getdoc(cls).partition("\n")[0])
        scores = results.get(name, {"scores": None})["scores"]
        score = f"{scores['log_marginal']:.2f}" if scores else "not measured"
        measure = scores["base_measure"]["measure"].partition(",")[0] if scores else ""
        lines.append(
            f"| `{name}` | {what} | {support(cls)} | [{title}]({url}) | {year} | "
            f"`{command(name)}` | {score} | {measure} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="classes, such as priors.Mixture")
    parser.add_argument("--data", action="store_true", help="write the simulated tables and stop")
    parser.add_argument("--smoke", action="store_true", help="one epoch, no figure")
    parser.add_argument("--table", action="store_true", help="write results/laws.md and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = {k: v for found in common.read("laws.json") for k, v in found["laws"].items()}
    if args.table:
        (common.RESULTS / "laws.md").write_text(table(known))
    else:
        simulate()
        failed = []
        for name in [] if args.data else args.names or [n for n in parts() if n not in known]:
            try:
                known[name] = run(name, args.smoke)
            except ValueError as error:
                failed.append(str(error))
                continue
            print(name, known[name]["seconds"], known[name]["scores"]["log_marginal"], flush=True)
            if not args.smoke:
                common.write("laws", {"laws": known})
        if failed:
            raise SystemExit("\n".join(failed))
