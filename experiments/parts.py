"""The table of parts: each class with its reference, and the result of the command that fits it.

    python experiments/parts.py                      # all that have no result: minutes on a core
    python experiments/parts.py likelihoods.Poisson  # these alone, anew
    python experiments/parts.py --table              # results/parts.md
    python experiments/parts.py --data               # only the simulated tables, in runs/simulated
    python experiments/parts.py likelihoods.Poisson --smoke

Description, support, paper and year are read off the classes; every exported class has a row.
Commands run as a user's would, in the root of the repository. Digits are scikit-learn's; the other
tables are simulated from the likelihood itself, with two latent dimensions and a linear decoder.
"""

from __future__ import annotations

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
from catalogue import COLUMNS, GREY, command, parts, reference, support

from pyro_vae.cli import main

DATA = common.RUNS / "simulated"
EFFORT = ["--epochs", "20", "--num-samples", "100", "--compile", "false", "--device", "cpu"]
SIZE, FEATURES, LATENT = 1200, 12, 2
# Of the simulated tables: what is not the default.
SHAPES = {"Mixed": 4}
SIMULATED = {"Autoregressive": {"levels": 5}, "Mixed": {"columns": yaml.safe_load(COLUMNS)}}
START = {"Multinomial": 20.0}  # added to the likelihood's parameters: else counts are 0


def simulate() -> None:
    """Writes a table for each likelihood that the digits do not suit."""
    DATA.mkdir(parents=True, exist_ok=True)
    for name, cls in parts().items():
        package, _, part = name.partition(".")
        if package == "likelihoods" and part not in GREY:
            torch.manual_seed(0)
            likelihood = cls((SHAPES.get(part, FEATURES),), **SIMULATED.get(part, {}))
            for each in likelihood.parameters():
                each.data.add_(torch.randn_like(each) / 30 + START.get(part, 0.0))
            weight = torch.randn(LATENT, *likelihood.param_shape)
            params = torch.randn(SIZE, LATENT) @ weight + torch.randn(likelihood.param_shape)
            x = likelihood(params).sample()
            np.savetxt(DATA / f"{part}.csv", x.numpy(), fmt="%.6g", delimiter=",")
    torch.manual_seed(0)
    x = torch.randn(SIZE, LATENT) @ torch.randn(LATENT, FEATURES) + torch.randn(SIZE, FEATURES)
    mask = torch.rand(x.shape) < torch.sigmoid(-2 * x)
    holes = torch.where(mask, x, torch.nan)
    np.savetxt(DATA / "SelfMasking.csv", holes.numpy(), fmt="%.6g", delimiter=",")
    rate, size = torch.rand(SIZE, 1, 1), torch.randn(SIZE, FEATURES // 4, 1)
    waves = size * torch.sin(8 * rate * torch.linspace(0, 1, 40))
    np.save(DATA / "Series.npy", (waves + 0.1 * torch.randn(waves.shape)).numpy())


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
    parser = common.Parser(__doc__, smoke="one epoch, no figure", table="results/parts.md")
    parser.add_argument("names", nargs="*", help="classes, such as priors.Mixture")
    parser.add_argument("--data", action="store_true", help="write the simulated tables and stop")
    args = parser.options()
    known = {k: v for found in common.read("parts.json") for k, v in found["laws"].items()}
    if args.table:
        (common.RESULTS / "parts.md").write_text(table(known))
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
                common.write("parts", {"laws": known})
        if failed:
            raise SystemExit("\n".join(failed))
