"""Static binarised MNIST: log p(x) four ways, and both gaps between it and the bound.

    python experiments/gaps.py --data-root DATA          # 12 minutes a network on one core
    python experiments/gaps.py --table                   # results/gaps.md
    python experiments/gaps.py --smoke --data-root DATA  # under a minute, no figure

The models are those that `experiments/mnist.py` left in runs/; `--runs` names another folder.
All figures are of the same 1,000 test images, drawn once from the 10,000, which are sorted by
class. The gaps are taken from annealed importance sampling.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch

import pyro_vae as pv
from pyro_vae.evaluation import ais, gaps

NETWORKS = ("two-layer", "one-layer")
IMAGES = 1000
CHAINS, TEMPERATURES = 8, 200
WU = "[Wu et al. (2017)](https://arxiv.org/abs/1611.04273)"
PUBLISHED = {"ais_above_iw": "0.8 to 1.2"}
ROWS = {
    "iw_200": "-log p(x), importance-weighted, 200 draws",
    "iw_5000": "-log p(x), importance-weighted, 5,000 draws",
    "ais": "-log p(x), annealed importance sampling",
    "ais_above_iw": "annealed over 5,000 draws, gain",
    "elbo_optimal": "-L[q*], the guide optimised for each image",
    "elbo": "-L[q], the guide as encoded",
    "approximation": "approximation gap, log p(x) - L[q*]",
    "amortisation": "amortisation gap, L[q*] - L[q]",
    "residual": "gained by the last half of the steps",
}
LOWER_IS_BETTER = ("iw_200", "iw_5000", "ais", "elbo_optimal", "elbo")


def timed(name: str, seconds: dict[str, float], call: Callable[[], Any]) -> Any:
    """Calls, and keeps the seconds of this process's CPU that it took."""
    start = time.process_time()
    result = call()
    seconds[name] = time.process_time() - start
    print(f"{name}: {seconds[name]:.0f} s of one core\n{result}", flush=True)
    return result


def run(name: str, root: str | None, runs: Path, smoke: bool) -> None:
    """Scores one network and writes its result."""
    data = pv.data.load("binarized_mnist", root=root, download=False)
    if smoke:
        parts = pv.priors.Normal(5), pv.guides.Normal(5), pv.likelihoods.Bernoulli((1, 28, 28))
        vae = pv.VAE(*parts)
        vae.initialize(data.train)
    else:
        vae = pv.load(runs / f"mnist-{name}-0")
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    x = data.test[order[: 20 if smoke else IMAGES]]
    measure = data.base_measure("test")
    seconds: dict[str, float] = {}
    scores = {
        k: timed(f"iw_{k}", seconds, lambda k=k: pv.evaluate(vae, x, num_samples=k))
        for k in (200, 5000)
    }
    temperatures = 10 if smoke else TEMPERATURES
    annealed = timed(
        "ais",
        seconds,
        lambda: ais(vae, x, num_chains=CHAINS, num_temperatures=temperatures),
    )
    found = timed(
        "gaps",
        seconds,
        lambda: gaps(
            vae,
            x,
            num_steps=20 if smoke else 600,
            log_marginal=annealed.log_marginal,
            mcse=annealed.mcse,
            base_measure=measure,
        ),
    )
    gain = annealed.log_marginal - scores[5000].log_marginal
    variance = annealed.mcse**2 + scores[5000].mcse ** 2
    figures = {
        f"iw_{k}": [s.summary()["log_marginal"], s.summary()["mcse"]] for k, s in scores.items()
    }
    figures["ais"] = [annealed.log_marginal.mean(), (annealed.mcse**2).sum() ** 0.5 / len(x)]
    figures["ais_above_iw"] = [gain.mean(), variance.sum() ** 0.5 / len(x)]
    summary, dropout = found.summary(), vae.encoder.spec()["args"]["dropout"]
    for key in ("elbo_optimal", "elbo", "approximation", "amortisation", "residual"):
        figures[key] = [summary[key], summary[f"{key}_mcse"]]
    result = {
        "network": name + (f", encoder dropout {dropout}" if dropout else ""),
        "figures": {key: [float(v) for v in pair] for key, pair in figures.items()},
        "k_hat_above_threshold": scores[5000].summary()["k_hat_above_threshold"],
        "cpu_seconds": seconds,
        "gaps": summary,
        "annealed": annealed.summary(),
    }
    if not smoke:
        print(common.write(f"gaps-{name}", result))


def table() -> str:
    """Returns the table of all results as Markdown."""
    results = common.read("gaps-*-layer.json")
    names = " | ".join(r["network"] for r in results)
    lines = [
        f"| nats an image, ± Monte Carlo | {names} | {WU} |",
        "|---|" + "---:|" * len(results) + "---|",
    ]
    for key, label in ROWS.items():
        sign = -1 if key in LOWER_IS_BETTER else 1
        cells = [f"{sign * v:.2f} ± {e:.2f}" for v, e in (r["figures"][key] for r in results)]
        lines.append(f"| {label} | {' | '.join(cells)} | {PUBLISHED.get(key, '')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/gaps.md", data_root="binarized_mnist.npz")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS)
    parser.add_argument(
        "--runs", type=Path, default=common.RUNS, help="folder of the fitted models"
    )
    args = parser.options()
    if args.table:
        (common.RESULTS / "gaps.md").write_text(table())
    elif args.smoke:
        run("smoke", args.data_root, args.runs, True)
    else:
        found = [name for name in NETWORKS if (args.runs / f"mnist-{name}-0").is_dir()]
        for name in args.networks or found:
            run(name, args.data_root, args.runs, False)
