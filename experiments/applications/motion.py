"""Motions of a robot by VAEs over trajectories, beside probabilistic movement primitives (ProMP).

    python experiments/applications/motion.py --data-root DATA    # 5 minutes of one core
    python experiments/applications/motion.py 0 --data-root DATA  # one split alone
    python experiments/applications/motion.py --table             # results/motion.md, .png
    python experiments/applications/motion.py --smoke             # under a minute, no figure

63 demonstrations of pouring, of 70 to 393 steps, are resampled to 50 steps of phase, for all
methods: densities are of these 50 x 6 numbers, in metres and radians. Each is held out once, in
three splits; a quarter of the others validates. Each method has four trials in each split, of which
the one of the highest log p of validation demonstrations is judged. The ProMP is then fitted to the
validation demonstrations, too, for which it has a closed form; the VAE needs them for its noise.

A plan is what a model expects of a held-out demonstration given its first, middle and last step:
the posterior of z, or of the weights, given a mask. DATA/robot holds `Pouring.npz`.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import numpy as np
import torch
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.networks import MLP, TemporalConvDecoder
from pyro_vae.programs.adaptive import refined

SPLITS = 3
STEPS = 50
DRAWS = 1000
AXES = ("x, m", "y, m", "z, m", "roll, rad", "pitch, rad", "yaw, rad")
SHRINKAGE = 5.0  # pseudo-demonstrations of independent weights
COPIES = 20  # of each demonstration in an epoch, which is short otherwise


@dataclass(frozen=True)
class Plans:
    """What a model makes of some demonstrations: densities, and motions through via-points."""

    log_p: np.ndarray
    motion: np.ndarray
    model: Any


Judge = Callable[[np.ndarray, np.ndarray], Plans]


def demonstrations(path: Path) -> np.ndarray:
    """Reads demonstrations of any lengths, at equal steps of phase: ``(N, coordinates, STEPS)``."""
    data = pv.data.load(path, missing=True, layout="channels-last", validation=0, test=0)
    return np.stack([resampled(one[:, ~one.isnan().all(0)].numpy()) for one in data.train])


def resampled(one: np.ndarray) -> np.ndarray:
    """Interpolates a demonstration ``(coordinates, T)`` linearly."""
    at, known = np.linspace(0, one.shape[1] - 1, STEPS), np.arange(one.shape[1])
    return np.stack([np.interp(at, known, values) for values in one])


def planted() -> np.ndarray:
    """Returns simulated motions of two coordinates, for a check."""
    random, phase = np.random.default_rng(0), np.linspace(0, 1, STEPS)
    goal, bend = random.normal(size=(2, 30, 2, 1))
    clean = goal * phase + 0.5 * bend * np.sin(np.pi * phase)
    return clean + 0.02 * random.normal(size=clean.shape)


def via(x: np.ndarray) -> np.ndarray:
    """Returns the mask of the first, the middle and the last step."""
    mask = np.zeros(x.shape, bool)
    mask[..., [0, x.shape[2] // 2, -1]] = True
    return mask


def promp(x: np.ndarray, held_out: np.ndarray, bases: int) -> Judge:
    """Fits a ProMP by EM: a normal distribution over weights of normalised radial bases."""
    del held_out  # nothing is stopped early
    size, depth, steps = x.shape
    phase = np.linspace(0, 1, steps)[:, None] - np.linspace(0, 1, bases)
    values = np.exp(-0.5 * (phase * (bases - 1)) ** 2)
    basis = np.kron(np.eye(depth), values / values.sum(1, keepdims=True))
    y, unit = x.reshape(size, -1), x.var((0, 2))
    noise = 0.01 * unit
    weights = y @ basis @ np.linalg.inv(basis.T @ basis + 1e-3 * np.eye(basis.shape[1]))
    mean = weights.mean(0)
    covariance = np.cov(weights.T) + np.diag(0.01 * np.repeat(unit, bases))
    for _ in range(20):
        precision = basis / np.repeat(noise, steps)[:, None]
        posterior = np.linalg.inv(np.linalg.inv(covariance) + basis.T @ precision)
        weights = mean + (y - basis @ mean) @ precision @ posterior
        mean = weights.mean(0)
        scatter = (weights - mean).T @ (weights - mean) + size * posterior
        independent = np.diag(np.diag(scatter)) / size
        covariance = (scatter + SHRINKAGE * independent) / (size + SHRINKAGE)
        spread = np.einsum("ij,jk,ik->i", basis, posterior, basis)
        squares = (y - weights @ basis.T) ** 2 + spread
        noise = np.maximum(squares.mean(0).reshape(depth, steps).mean(1), 1e-6 * unit)
    prior, over = basis @ covariance @ basis.T, np.repeat(noise, steps)

    def judge(new: np.ndarray, mask: np.ndarray) -> Plans:
        errors = new.reshape(len(new), -1) - basis @ mean
        factor = np.linalg.cholesky(prior + np.diag(over))
        white = np.linalg.solve(factor, errors.T)
        log_p = -0.5 * (white**2).sum(0) - np.log(np.diag(factor)).sum()
        log_p -= 0.5 * errors.shape[1] * math.log(2 * math.pi)
        seen = mask[0].reshape(-1)
        gain = prior[:, seen] @ np.linalg.inv((prior + np.diag(over))[np.ix_(seen, seen)])
        motion = basis @ mean + errors[:, seen] @ gain.T
        return Plans(log_p, motion.reshape(new.shape), None)

    return judge


def vae(x: np.ndarray, held_out: np.ndarray, dim: int, channels: tuple[int, ...]) -> Judge:
    """Fits a VAE whose decoder is linear, or convolves over time if it has channels."""
    decoder = TemporalConvDecoder(channels) if channels else MLP(())
    model = pv.VAE(
        prior=pv.priors.Normal(dim),
        guide=pv.guides.FullNormal(dim),
        likelihood=pv.likelihoods.Normal(x.shape[1:], scale="per-channel"),
        encoder=MLP(()),
        decoder=decoder,
        seed=0,
    )
    pv.fit(
        model,
        torch.tensor(x, dtype=torch.float32).repeat(COPIES, 1, 1),
        validation=torch.tensor(held_out, dtype=torch.float32).repeat(4, 1, 1),
        epochs=30,
        batch_size=48,
        lr=3e-3,
        schedule="cosine",
        seed=0,
        device="cpu",
        compile=False,
        progress=False,
    )

    @torch.no_grad()
    def judge(new: np.ndarray, mask: np.ndarray) -> Plans:
        model.eval()
        torch.manual_seed(0)
        rows = pv.data.Rows(torch.tensor(new, dtype=torch.float32), {})
        log_weights = refined(model, model.accepts(rows), DRAWS)[1].double()
        log_p = log_weights.logsumexp(0) - math.log(DRAWS)
        rows = pv.data.Rows(rows.x, {"mask": torch.tensor(mask)})
        z, log_weights = refined(model, model.accepts(rows), DRAWS)
        shares = log_weights.softmax(0)[..., None, None]
        return Plans(log_p.numpy(), (shares * model.decode(z).mean).sum(0).numpy(), model)

    return judge


METHODS: Mapping[str, tuple[str, Callable[..., Judge], list[dict[str, Any]]]] = {
    "vae": (
        "VAE",
        vae,
        [
            {"dim": 24, "channels": ()},
            {"dim": 48, "channels": ()},
            {"dim": 16, "channels": (32, 32, 32)},
            {"dim": 32, "channels": (32, 32, 32)},
        ],
    ),
    "promp": ("ProMP", promp, [{"bases": bases} for bases in (12, 18, 25, 30)]),
}


def measures(x: np.ndarray, plans: Plans, unit: np.ndarray) -> dict[str, float]:
    """Judges motions, in standard deviations of each coordinate over the training data."""
    errors, seen = (plans.motion - x) / unit[:, None], via(x)
    rough = [float((np.diff(each / unit[:, None], 2) ** 2).mean()) for each in (plans.motion, x)]
    return {
        "log_p": float(plans.log_p.mean()),
        "error": float(np.sqrt((errors[~seen] ** 2).mean())),
        "via": float(np.sqrt((errors[seen] ** 2).mean())),
        "roughness": rough[0] / rough[1],
    }


def by_nuts(plans: Plans, x: np.ndarray, unit: np.ndarray) -> dict[str, float]:
    """Compares one plan by importance sampling with that by HMC, of two chains."""
    one, mask = torch.tensor(x[:1], dtype=torch.float32), torch.tensor(via(x[:1]))
    found = pv.evaluation.posterior_draws(
        plans.model, one, mask=mask, method="nuts", num_draws=200, num_warmup=150, num_chains=2
    )
    with torch.no_grad():
        motion = plans.model.decode(found.z).mean.mean(0).numpy()
    difference = (motion - plans.motion[:1]) / unit[:, None]
    r_hat = found.summary()["r_hat_max"]
    return {"difference": float(np.sqrt((difference**2).mean())), "r_hat": r_hat}


def run(x: np.ndarray, split: int, smoke: bool) -> None:
    """Fits and judges all methods in a split."""
    order = np.random.default_rng(0).permutation(len(x))
    tests = np.array_split(order, SPLITS)
    result: dict[str, Any] = {"split": split, "methods": {}, "seed": 0}
    result |= {"demonstrations": len(x), "shape": list(x.shape[1:])}
    train = np.concatenate([each for i, each in enumerate(tests) if i != split])
    apart = len(train) // 4
    known, checked, new = x[train[apart:]], x[train[:apart]], x[tests[split]]
    unit = x[train].std((0, 2))
    shown: dict[str, Any] = {"demonstration": new[0]}
    for name, (_, fit, trials) in METHODS.items():
        start, tried = time.process_time(), []
        for options in trials[-2:] if smoke else trials:
            judge = fit(known, checked, **options)
            score = float(judge(checked, via(checked)).log_p.mean())
            tried.append((score, options, judge))
            print(f"split {split}, {name}, {options}: {score:.1f}", flush=True)
        _, best, judge = max(tried, key=lambda each: each[0])
        judge = fit(x[train], checked, **best) if fit is promp else judge
        plans = judge(new, via(new))
        found: dict[str, Any] = measures(new, plans, unit) | {"chosen": best}
        found["trials"] = [{"validation_log_p": s, **o} for s, o, _ in tried]
        found["seconds"] = time.process_time() - start
        if fit is vae and split == 0:
            result["nuts"] = by_nuts(plans, new, unit)
        mean = np.broadcast_to(x[train].mean(0), new.shape)
        found["error_of_mean"] = measures(new, Plans(plans.log_p, mean, None), unit)["error"]
        result["methods"][name] = found
        shown[name] = plans.motion[0]
        print(f"split {split}, {name}: {found}", flush=True)
    if split == 0:
        result["shown"] = {k: np.asarray(v).round(5).tolist() for k, v in shown.items()}
    if not smoke:
        print(common.write(f"motion-{split}", result))


MEASURES = (("log_p", ".0f"), ("error", ".3f"), ("via", ".4f"), ("roughness", ".2f"))


def mean_of(values: list[float]) -> tuple[float, float]:
    """Returns a mean over splits, and its standard error."""
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def table(results: list[dict[str, Any]]) -> str:
    """Returns the table of all methods as Markdown."""
    lines = [
        f"| held-out pouring, {len(results)} splits | log p, nats | error between "
        "| at via-points | roughness |",
        "|---|---:|---:|---:|---:|",
    ]
    runs = {name: [each["methods"][name] for each in results] for name in METHODS}
    for name, (title, _, _) in METHODS.items():
        cells = []
        for key, form in MEASURES:
            mean, error = mean_of([each[key] for each in runs[name]])
            cells.append(f"{mean:{form}} ± {error:{form}}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    cells = []
    for key, form in MEASURES:
        pairs = zip(runs["vae"], runs["promp"], strict=True)
        mean, error = mean_of([a[key] - b[key] for a, b in pairs])
        cells.append(f"{mean:+{form}} ± {error:{form}}")
    lines.append(f"| VAE − ProMP | {' | '.join(cells)} |")
    mean, error = mean_of([each["error_of_mean"] for each in runs["promp"]])
    lines.append(f"| mean of the demonstrations |  | {mean:.3f} ± {error:.3f} |  |  |")

    def words(options: dict[str, Any]) -> str:
        if "bases" in options:
            return f"{options['bases']} bases"
        return f"{options['dim']} latents, {'convolutions' if options['channels'] else 'linear'}"

    for name, (title, _, _) in METHODS.items():
        chosen = "; ".join(words(each["chosen"]) for each in runs[name])
        lines += ["", f"Chosen by validation in the splits, {title}: {chosen}."]
    nuts = results[0]["nuts"]
    lines += [
        "",
        f"A plan by HMC (NUTS, R-hat {nuts['r_hat']:.3f}) differs from the same by importance "
        f"sampling by {nuts['difference']:.3f}.",
    ]
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any]) -> None:
    """Draws a held-out demonstration and the plans of both methods through its via-points."""
    shown = {name: np.array(values) for name, values in result["shown"].items()}
    true = shown.pop("demonstration")
    figure = Figure(figsize=(11, 5), layout="constrained")
    phase, at = np.linspace(0, 1, STEPS), [0, STEPS // 2, STEPS - 1]
    for i, axes in enumerate(figure.subplots(2, 3, sharex=True).flat):
        axes.plot(phase, true[i], color="#9a9996", lw=4, label="held-out demonstration")
        for (name, motion), colour in zip(shown.items(), ("#1a5fb4", "#c64600"), strict=True):
            style = "-" if name == "vae" else "--"
            axes.plot(phase, motion[i], style, color=colour, lw=1.6, label=METHODS[name][0])
        axes.plot(phase[at], true[i][at], "o", color="black", ms=5, label="via-points", zorder=3)
        axes.set_title(AXES[i], fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if i > 2:
            axes.set_xlabel("phase")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(common.RESULTS / "motion.png", dpi=120)


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/motion.md", data_root="robot")
    parser.add_argument("split", nargs="?", type=int, choices=range(SPLITS))
    args = parser.options()
    if args.table:
        known = common.read("motion-*.json")
        (common.RESULTS / "motion.md").write_text(table(known))
        draw(known[0])
    elif args.smoke:
        run(planted(), 0, smoke=True)
    else:
        if args.data_root is None:
            parser.error("--data-root: expected the folder that holds robot")
        every = demonstrations(Path(args.data_root) / "robot" / "Pouring.npz")
        for split in range(SPLITS) if args.split is None else [args.split]:
            run(every, split, smoke=False)
