"""Power and size of the checks: planted misfits, and true models.

    python experiments/misfits.py overdispersed   # a case of CASES, 40 fits: minutes on a core
    python experiments/misfits.py true-Poisson    # 200 data sets of true models, no fit
    python experiments/misfits.py --table         # results/misfits.md
    python experiments/misfits.py overdispersed --smoke

A case simulates 1,000 training and 500 held-out data of 12 features from two latent dimensions,
fits a VAE with a linear decoder, and checks the held-out data at 5 %. The decoder is linear and
two-dimensional so that the misfit stays one: a richer model may well explain it by z. Where the
misfit is "none", the data follow the model's own distribution, and what is rejected is the error of
the fit. A true model is not fitted: its parameters are drawn, and its own data are checked.
"""

from __future__ import annotations

import time
from collections import Counter

import common
import torch
from planted import CASES, FEATURES, LATENT
from scipy.stats import kstest

import pyro_vae as pv
from pyro_vae.criticism import check
from pyro_vae.criticism.checks import holm

TRAIN, HELD_OUT = 1000, 500
RECIPE = {"epochs": 12, "batch_size": 100, "lr": 0.05, "schedule": "cosine"}  # 120 steps
TRUE_FEATURES, TRUE_DATA = 6, 200
LIKELIHOODS = ("Poisson", "Normal", "Bernoulli")


def model(likelihood: str, features: int) -> pv.VAE:
    """A VAE with a linear decoder."""
    part = getattr(pv.likelihoods, likelihood)((features,))
    networks = pv.networks.MLP(hidden=(32,)), pv.networks.MLP(hidden=())
    return pv.VAE(pv.priors.Normal(LATENT), pv.guides.Normal(LATENT), part, *networks)


def run(case: str, replications: int, smoke: bool) -> None:
    """Counts rejections, and writes the result every ten replications."""
    planted = case in CASES
    what, likelihood, simulate = CASES.get(case, ("true", case.removeprefix("true-"), None))
    rejected, by, p_values, start = (
        0,
        Counter[str](),
        dict[str, list[float]](),
        time.process_time(),
    )
    for seed in range(replications):
        torch.manual_seed(seed)
        vae = model(likelihood, FEATURES if planted else TRUE_FEATURES)
        if planted:
            x = simulate(TRAIN + HELD_OUT)
            pv.fit(vae, x[:TRAIN], seed=seed, device="cpu", compile=False, **RECIPE)
            x = x[TRAIN:]
        else:
            for parameter in vae.decoder.parameters():
                parameter.data.normal_()
            x = vae.sample(TRUE_DATA)
        checks = check(vae, x, seed=seed)
        rejected += checks.num_failed > 0
        by.update(row.statistic for row in checks.rows if row.failed)
        for row in (row for row in checks.rows if row.calibrated):
            p_values.setdefault(row.statistic, []).append(row.p_value)
        print(case, seed, rejected, dict(by), flush=True)
        if not smoke and (seed + 1) % 10 == 0:
            found = {
                "misfit": what,
                "law": likelihood,
                "convicted": rejected,
                "by": by.most_common(),
            }
            if not planted:
                uniform = [float(kstest(each, "uniform").pvalue) for each in p_values.values()]
                found["uniformity"] = dict(zip(p_values, holm(uniform), strict=True))
            found |= {"replications": seed + 1, "p_values": p_values}
            common.write(f"misfits-{case}", found | {"seconds": time.process_time() - start})


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = ["| planted misfit | likelihood | rejected | by, most often |", "|---|---|---:|---|"]
    for each in (found for name in CASES for found in common.read(f"misfits-{name}.json")):
        by = ", ".join(f"{name} {count}" for name, count in each["by"][:3])
        count = f"{each['convicted']} of {each['replications']}"
        lines.append(f"| {each['misfit']} | `{each['law']}` | {count} | {by} |")
    for each in common.read("misfits-true-*.json"):
        worst = min(each["uniformity"], key=each["uniformity"].get)
        count = f"{each['convicted']} of {each['replications']}"
        lines.append(
            f"| none, and the true parameters | `{each['law']}` | {count} | uniform p-values: "
            f"smallest p by Kolmogorov-Smirnov after Holm {each['uniformity'][worst]:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, smoke="two replications, no figure", table="results/misfits.md")
    names = (*CASES, *(f"true-{name}" for name in LIKELIHOODS))
    parser.add_argument("case", nargs="?", choices=names, default=names[0])
    args = parser.options()
    if args.table:
        (common.RESULTS / "misfits.md").write_text(table())
    else:
        run(args.case, 2 if args.smoke else 40 if args.case in CASES else 200, args.smoke)
