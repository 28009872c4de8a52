"""How often true models are rejected, given conditions, size factors and missing entries.

    python experiments/false_alarms.py           # what is missing of 100 replications: 30 minutes
    python experiments/false_alarms.py --table   # results/false_alarms.md

Data are simulated from a model with the parameters that judge them: each rejection at 5% is a
false alarm. Of 100, more than 13 have a probability of one in a thousand; of all 900, more than 64.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import common
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import calibrate, check, pit

SIZE, REPLICATIONS, LEVEL = 100, 100, 0.05
MOST, MOST_OF_ALL = 13, 64
PATH = common.RESULTS / "false_alarms.json"


@dataclass(frozen=True)
class Setting:
    """A model with its parameters, and what goes with its data."""

    name: str
    vae: pv.VAE
    given: dict[str, Any]

    def data(self) -> Tensor:
        """Simulates data; what a mask hides is there, and not looked at."""
        simulated = {name: value for name, value in self.given.items() if name != "mask"}
        return self.vae.sample(SIZE, **simulated)


def settings() -> list[Setting]:
    """Returns the three models, their weights from a fixed seed and large enough to matter."""
    torch.manual_seed(0)
    digits = pv.data.load("digits", cond="digit")
    networks = {"encoder": pv.networks.MLP((32,)), "decoder": pv.networks.MLP((32,))}
    likelihood = pv.likelihoods.Bernoulli(digits.event_shape)
    by_digit = pv.VAE(
        pv.priors.Normal(2), pv.guides.Normal(2), likelihood, **networks, cond_size=10
    )
    pv.fit(by_digit, digits, epochs=5, lr=1e-2, seed=0, compile=False, device="cpu")

    counts = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Poisson((6,), size_factor=True),
        **{"encoder": pv.networks.MLP((32,)), "decoder": pv.networks.MLP((32,))},
    )
    size = torch.linspace(0.5, 4.0, SIZE)
    _fit(
        counts,
        torch.poisson(3 * size[:, None] * torch.rand(SIZE, 6)),
        covariates={"size_factor": size},
    )

    table = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Normal((6,), scale=0.5),
        **{"encoder": pv.networks.MLP((32,)), "decoder": pv.networks.MLP((32,))},
    )
    mask = torch.rand(SIZE, 6) > 0.3
    mask[:, 0] = True
    _fit(table, torch.randn(SIZE, 2) @ torch.randn(2, 6), mask=mask)
    return [
        Setting("digits given their digit", by_digit, {"cond": digits.cond["test"][:SIZE]}),
        Setting("counts with a size factor", counts, {"covariates": {"size_factor": size}}),
        Setting("a table with missing entries", table, {"mask": mask}),
    ]


def _fit(vae: pv.VAE, x: Tensor, **given: Any) -> None:
    pv.fit(vae, x, **given, epochs=30, lr=1e-2, seed=0, compile=False, device="cpu")


def _check(setting: Setting, seed: int) -> bool:
    x = setting.data()
    return check(setting.vae, x, level=LEVEL, seed=seed, **setting.given).num_failed > 0


def _pit(setting: Setting, seed: int) -> bool:
    x = setting.data()
    return pit(setting.vae, x, level=LEVEL, seed=seed, **setting.given).num_failed > 0


def _calibrate(setting: Setting, seed: int) -> bool:
    """The guide is not the posterior; draws of it that are corrected by weights are."""
    options: dict[str, Any] = {"num_simulations": SIZE, "num_draws": 19, "draws": "importance"}
    found = calibrate(setting.vae, level=LEVEL, seed=seed, **options, **setting.given)
    return found.num_failed > 0


VERBS: dict[str, Callable[[Setting, int], bool]] = {
    "check": _check,
    "calibrate": _calibrate,
    "pit": _pit,
}


def run(replications: int) -> dict[str, list[bool]]:
    """Goes on where it was stopped; writes after each replication of all cells."""
    known = json.loads(PATH.read_text()) if PATH.exists() else {"alarms": {}}
    alarms: dict[str, list[bool]] = known["alarms"]
    made = settings()
    for seed in range(replications):
        for setting in made:
            for verb, judged in VERBS.items():
                done = alarms.setdefault(f"{verb}: {setting.name}", [])
                if len(done) <= seed:
                    torch.manual_seed(1000 + seed)
                    done.append(judged(setting, seed))
        common.write("false_alarms", {"alarms": alarms, "level": LEVEL, "size": SIZE})
        print(seed, {cell: sum(each) for cell, each in alarms.items()}, flush=True)
    return alarms


def table() -> str:
    """Returns a row for each verb, as Markdown."""
    (found,) = common.read("false_alarms.json")
    alarms = found["alarms"]
    names = list(dict.fromkeys(cell.partition(": ")[2] for cell in alarms))
    lines = [
        f"| rejected at 5%, true model | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for verb in VERBS:
        cells = [alarms[f"{verb}: {name}"] for name in names]
        lines.append(f"| `{verb}` | {' | '.join(f'{sum(c)} of {len(c)}' for c in cells)} |")
    total, runs = sum(map(sum, alarms.values())), sum(map(len, alarms.values()))
    limit = f"more than {MOST_OF_ALL} of 900, or {MOST} of 100, would be too many"
    lines += ["", f"{total} of {runs} in all; at 5%, {limit}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="the table of false alarms")
    options = parser.options()
    if options.table:
        (common.RESULTS / "false_alarms.md").write_text(table(), encoding="utf-8")
    elif options.smoke:
        for setting in settings():
            print(setting.name, {verb: judged(setting, 0) for verb, judged in VERBS.items()})
    else:
        run(REPLICATIONS)
