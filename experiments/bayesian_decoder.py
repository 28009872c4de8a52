"""Does a decoder with latent weights widen predictive intervals where data are few?

    python experiments/bayesian_decoder.py           # about 3 minutes on one core
    python experiments/bayesian_decoder.py --table   # results/bayesian_decoder.md
    python experiments/bayesian_decoder.py --smoke   # seconds, no figure

Each of two columns is a curve of a condition c, moved along a direction of its own by z, in noise:
x = (sin 3c, cos 2c) + (1, -1) z / 2 + noise of 0.1, z standard normal. No c of the training data is
in a gap, 0.2 < c < 0.8. One decoder is a network of c and z; the other is the same network with
latent weights, of a standard normal prior and a normal guide (Kingma and Welling, 2014, Appendix F,
https://arxiv.org/abs/1312.6114). Intervals are of x given c, of 400 draws of z, weights and noise.
"""

from __future__ import annotations

import time
from typing import Any

import common
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae as pv

ROWS = (50, 500)
GAP = (0.2, 0.8)
SEEDS = 3
NOMINAL = 0.9


def data(size: int, seed: int, *, inside: bool) -> tuple[Tensor, Tensor]:
    """Returns x, ``(size, 2)``, and c, ``(size, 1)``, in the gap or outside of it."""
    generator = torch.Generator().manual_seed(seed)
    c = torch.rand(size, 1, generator=generator)
    if inside:
        c = GAP[0] + (GAP[1] - GAP[0]) * c
    else:  # from -1 to 1 without the gap
        c = 2 * c - 1
        low = torch.rand(size, 1, generator=generator) * 1.2 - 1
        c = torch.where((c > GAP[0]) & (c < GAP[1]), low, c)
    z = torch.randn(size, 1, generator=generator)
    mean = torch.cat([(3 * c).sin(), (2 * c).cos()], 1)
    noise = 0.1 * torch.randn(size, 2, generator=generator)
    return mean + torch.tensor([0.5, -0.5]) * z + noise, c


def pair(bayesian: bool, seed: int) -> pv.Program:
    """Returns the program with latent weights, or with the best ones."""
    torch.manual_seed(seed)
    network = pv.networks.MLP((32,), activation="tanh")
    network.build((1,), (2,), cond_size=1)
    decoder = pv.networks.Bayesian(network) if bayesian else network
    encoder = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))

    def model(x: Tensor, cond: Tensor) -> None:
        pyro.module("decoder", decoder)
        decode: Any = decoder
        if isinstance(decoder, pv.networks.Bayesian):
            decode = decoder.at(pyro.sample("weights", decoder.prior()))
        scale = pyro.param("scale", torch.tensor(0.3), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z, cond), scale).to_event(1), obs=x)

    def guide(x: Tensor, cond: Tensor) -> None:
        pyro.module("encoder", encoder)
        if isinstance(decoder, pv.networks.Bayesian):
            pyro.sample("weights", decoder.guide())
        with pyro.plate("data", len(x)):
            loc, raw = encoder(torch.cat([x, cond], 1)).split(1, -1)
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))

    return pv.Program(model, guide)


def intervals(program: pv.Program, c: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Returns both ends of the central interval of each entry given c, ``(N, 2)`` each."""
    each = program.fixed(draws, seed=1)
    torch.manual_seed(2)
    if len(each) == 1:
        drawn = torch.stack([each[0].simulate({"cond": c}).x for _ in range(draws)])
    else:
        drawn = torch.stack([one.simulate({"cond": c}).x for one in each])
    low, high = drawn.quantile(torch.tensor([(1 - NOMINAL) / 2, (1 + NOMINAL) / 2]), 0)
    return low, high


def judged(rows: int, bayesian: bool, seed: int, *, smoke: bool) -> dict[str, Any]:
    """Fits one decoder to so many rows, and judges it in the gap and outside."""
    x, c = data(rows, seed, inside=False)
    program = pair(bayesian, seed)
    epochs = 2 if smoke else 200_000 // (rows + 50)
    began = time.perf_counter()
    pv.fit(program, x, cond=c, epochs=epochs, batch_size=50, lr=0.01, schedule="cosine",
           seed=seed, device="cpu")  # fmt: skip
    found: dict[str, Any] = {"rows": rows, "bayesian": bayesian, "seed": seed}
    for where, inside in (("outside", False), ("gap", True)):
        new, beside = data(20 if smoke else 200, 1000 + seed, inside=inside)
        scores = pv.evaluate(program, new, cond=beside, num_samples=10 if smoke else 200,
                             num_globals=3 if smoke else 20)  # fmt: skip
        low, high = intervals(program, beside, 20 if smoke else 400)
        found[where] = {
            "log_marginal": float(scores.log_marginal.mean()),
            "mcse": float(np.sqrt((scores.mcse**2).sum()) / len(new)),
            "covered": float(((low <= new) & (new <= high)).float().mean()),
            "width": float((high - low).mean()),
        }
    return found | {"seconds": time.perf_counter() - began}


def table(results: list[dict[str, Any]]) -> str:
    """The means over seeds, a row a decoder and a number of rows."""
    lines = [
        "| rows | weights | 90% intervals cover, with data | width | in the gap | width | "
        "log p(x), with data | in the gap |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for rows in ROWS:
        for bayesian in (False, True):
            own = [r for r in results if r["rows"] == rows and r["bayesian"] == bayesian]

            def mean(where: str, what: str, own: list[dict[str, Any]] = own) -> float:
                return float(np.mean([each[where][what] for each in own]))

            cells = [f"{mean(w, 'covered'):.0%} | {mean(w, 'width'):.2f}" for w in
                     ("outside", "gap")]  # fmt: skip
            cells += [f"{mean(w, 'log_marginal'):.2f}" for w in ("outside", "gap")]
            name = "latent" if bayesian else "fixed"
            lines.append(f"| {rows} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Fits, judges and writes; or writes the table."""
    parser = common.Parser(__doc__, smoke="seconds, no figure", table="results/bayesian_decoder.md")
    options = parser.options()
    if options.table:
        (result,) = common.read("bayesian_decoder.json")
        (common.RESULTS / "bayesian_decoder.md").write_text(table(result["fits"]) + "\n")
        return
    seeds = range(1 if options.smoke else SEEDS)
    cases = [(rows, own, seed) for rows in ROWS for own in (False, True) for seed in seeds]
    results = []
    for rows, own, seed in cases:
        results.append(judged(rows, own, seed, smoke=options.smoke))
        print(results[-1], flush=True)
    if options.smoke:
        print(table(results))
    else:
        print(common.write("bayesian_decoder", {"fits": results}))


if __name__ == "__main__":
    main()
