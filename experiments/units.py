"""What a fit owes to the units that data come in: nothing but the Jacobian.

    python experiments/units.py           # results/units.json: 10 minutes
    python experiments/units.py --table   # results/units.md

For every real-valued and every positive likelihood, and every word and number that ``scale`` takes:
log p(x) of a x + b after 200 steps in double precision, beside that of x less log a for each entry.
Then five simulated tables, in their own units and standardised, in double and single precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import common
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.likelihoods.location_scale import LocationScale
from pyro_vae.likelihoods.positive import Positive

SIZE, FEATURES, STEPS = 320, 5, 200
FACTORS = (1e-12, 1e-6, 1e-3, 7.0, 1e3, 1e6, 1e12)
POWERS = (2.0**-40, 2.0**40)
SCALES = ("shared", "per-dimension", "predicted", 0.3)
SHIFT = 1e3  # standard deviations
SEEDS = 5


def _model(likelihood: pv.likelihoods.Likelihood, dtype: torch.dtype, seed: int) -> pv.VAE:
    torch.manual_seed(seed)
    networks = {"encoder": pv.networks.MLP((32,)), "decoder": pv.networks.MLP((32,))}
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, **networks).to(dtype)


def _scored(vae: pv.VAE, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return vae.log_prob(x, num_samples=50)


def _fitted(vae: pv.VAE, x: Tensor, epochs: int, batch_size: int, seed: int = 0) -> pv.VAE:
    options: dict[str, Any] = {"compile": False, "device": "cpu", "lr": 3e-3}
    pv.fit(vae, x, epochs=epochs, batch_size=batch_size, seed=seed, **options)
    return vae


def _families() -> dict[str, tuple[Any, ...]]:
    """Likelihoods that work in units of the data, and what their ``scale`` takes."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in pv.likelihoods.__all__:
        family = getattr(pv.likelihoods, name)
        if not isinstance(family, type):
            continue
        if issubclass(family, LocationScale):
            found[name] = SCALES
        elif issubclass(family, Positive):
            found[name] = (None,)
    return found


def equivariance(name: str, scale: Any) -> dict[str, Any]:
    """Returns the largest difference of log p(x), nats an observation, for each a and b."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, FEATURES, generator=generator)
    x = torch.randn(SIZE, 2, generator=generator) @ weight
    x = (x + 0.3 * torch.randn(SIZE, FEATURES, generator=generator)).double()
    positive = scale is None
    if positive:
        x = x.exp()
    family = getattr(pv.likelihoods, name)

    def score(a: float, b: Tensor | float) -> tuple[pv.VAE, Tensor]:
        own = {} if scale is None else {"scale": scale if isinstance(scale, str) else a * scale}
        vae = _model(family((FEATURES,), **own), torch.float64, 1)
        _fitted(vae, a * x + b, epochs=STEPS // 5, batch_size=SIZE // 5)
        return vae, _scored(vae, a * x + b) + FEATURES * math.log(a)

    first, log_prob = score(1.0, 0.0)
    exact = True
    for a in POWERS:
        other, _ = score(a, 0.0)
        pairs = zip(first.parameters(), other.parameters(), strict=True)
        exact &= all(torch.equal(p, q) for p, q in pairs)
    worst = {}
    for a in FACTORS:
        for sign in (0.0,) if positive else (0.0, SHIFT, -SHIFT):
            difference = score(a, sign * a * x.std(0))[1] - log_prob
            worst[f"{a:g}, {sign:g}"] = float(difference.abs().max())
    return {"likelihood": name, "scale": scale, "bit_for_bit": exact, "differences": worst}


def _linear(z: Tensor, noise: Tensor) -> Tensor:
    weight = torch.randn(2, FEATURES, generator=torch.Generator().manual_seed(2))
    return z @ weight.to(z) + 0.2 * noise


def _tails(z: Tensor, noise: Tensor) -> Tensor:
    return _linear(z, noise) + 0.1 * (noise / noise.roll(1, -1).abs().clamp_min(0.1))


def _curve(z: Tensor, noise: Tensor) -> Tensor:
    t = z[:, :1] * torch.arange(1.0, FEATURES + 1).to(z) / 2
    return t.sin() + 0.1 * noise


def _clusters(z: Tensor, noise: Tensor) -> Tensor:
    centres = 3 * torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(3)).to(z)
    return centres[(z[:, 0] > 0).long() + 2 * (z[:, 1] > 0).long()] + 0.3 * noise


def _skewed(z: Tensor, noise: Tensor) -> Tensor:
    return (0.5 * _linear(z, noise)).exp()


TABLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": _linear,
    "heavy tails": _tails,
    "a curve": _curve,
    "clusters": _clusters,
    "skewed": _skewed,
}


def table_in_units(name: str) -> dict[str, Any]:
    """Returns held-out log p(x) in standardised units, of each precision and seed."""
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    x = TABLES[name](z, torch.randn(2000, FEATURES, generator=generator, dtype=torch.float64))
    x = (x - x.mean(0)) / x.std(0)
    scale = torch.tensor([1e4, 1e2, 1.0, 1e-2, 1e-3]).double()
    own = scale * x + 3 * scale
    found: dict[str, Any] = {"table": name}
    for dtype, seeds in ((torch.float64, 1), (torch.float32, SEEDS)):
        for units, data, log_jacobian in (
            ("standardised", x, 0.0),
            ("own", own, float(scale.log().sum())),
        ):
            scores = []
            for seed in range(seeds):
                vae = _model(pv.likelihoods.Normal((FEATURES,)), dtype, seed)
                _fitted(vae, data[:1600].to(dtype), epochs=25, batch_size=128, seed=seed)
                held_out = _scored(vae, data[1600:].to(dtype))
                scores.append(float(held_out.double().mean()) + log_jacobian)
            found[f"{units}, {str(dtype).removeprefix('torch.')}"] = scores
    return found


def table() -> str:
    """Returns both tables, as Markdown."""
    (found,) = common.read("units.json")
    lines = [
        "| likelihood | `scale` | largest difference (nats an observation) | bit for bit |",
        "|---|---|---|---|",
    ]
    for row in found["equivariance"]:
        worst, exact = max(row["differences"].values()), "yes" if row["bit_for_bit"] else "no"
        scale = "" if row["scale"] is None else f"`{row['scale']}`"
        lines.append(f"| `{row['likelihood']}` | {scale} | {worst:.1e} | {exact} |")
    lines += [
        "",
        "| simulated table | standardised, float64 | own units, float64 | standardised, float32 "
        "| own units, float32 |",
        "|---|---|---|---|---|",
    ]
    for row in found["tables"]:
        cells = [row["table"]]
        for precision in ("float64", "float32"):
            for units in ("standardised", "own"):
                scores = torch.tensor(row[f"{units}, {precision}"])
                spread = f" ± {scores.std():.3f}" if len(scores) > 1 else ""
                cells.append(f"{scores.mean():.3f}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="the tables of units", smoke=None)
    options = parser.options()
    if options.table:
        (common.RESULTS / "units.md").write_text(table(), encoding="utf-8")
    else:
        rows = []
        for family, scales in _families().items():
            for each in scales:
                rows.append(equivariance(family, each))
                print(rows[-1], flush=True)
        tables = [table_in_units(name) for name in TABLES]
        common.write("units", {"steps": STEPS, "equivariance": rows, "tables": tables})
