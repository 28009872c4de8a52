"""Gradients a second of annealed importance sampling, beside the same loop in JAX, one thread.

    pip install pyro-vae[bench]
    python experiments/annealing_speed.py            # some minutes
    python experiments/annealing_speed.py --smoke    # seconds, and nothing is written
    python experiments/annealing_speed.py --table    # results/annealing_speed.md

``ais`` runs as it is; now and then it is held up, from its progress callback, to time as many
transitions of the JAX loop, which is one compiled scan over temperatures with the same shapes,
momenta, leapfrog steps and acceptance. Times are those of the processor, so that other programs
count for less. Random weights and data make the same work.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and JAX come up
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import common
import jax
import torch
from jax import numpy as jnp

import pyro_vae as pv
from pyro_vae.evaluation import _draws, ais

SEED, SIZE, CHAINS, LEAPFROG, BLOCK, ROUNDS = 0, 20, 16, 3, 50, 9
NETWORKS = {"50-200-200-784": ((200, 200), 50), "40-400-784": ((400,), 40)}
WORTH = {"run as it is": 1e18, "compiled": 0.0}


def build(hidden: tuple[int, ...], latent: int) -> pv.VAE:
    """A VAE with weights as they are drawn."""
    parts = pv.priors.Normal(latent), pv.guides.Normal(latent), pv.likelihoods.Bernoulli((784,))
    return pv.VAE(*parts, pv.networks.MLP(hidden), pv.networks.MLP(hidden), seed=SEED)


def scan_of(vae: pv.VAE, x: torch.Tensor) -> Callable[[], None]:
    """The same chains in JAX: a function that takes BLOCK transitions and waits for them."""
    layers = [each for each in vae.decoder.modules() if isinstance(each, torch.nn.Linear)]
    weights = [(jnp.asarray(w.weight.detach().T), jnp.asarray(w.bias.detach())) for w in layers]
    observed = jnp.asarray(x)
    guide = vae.guide_at(vae.features(pv.data.Rows(x)), pv.data.Rows(x))
    loc, scale = (jnp.asarray(v.detach()) for v in (guide.mean, guide.stddev))

    def base(z: jax.Array) -> jax.Array:
        return (-0.5 * ((z - loc) / scale) ** 2 - jnp.log(scale) - 0.9189385).sum(-1)

    def ratio(z: jax.Array) -> jax.Array:
        h = z
        for w, b in weights[:-1]:
            h = jax.nn.relu(h @ w + b)
        logits = h @ weights[-1][0] + weights[-1][1]
        likelihood = (observed * logits - jax.nn.softplus(logits)).sum(-1)
        return likelihood + (-0.5 * z**2 - 0.9189385).sum(-1) - base(z)

    def point(z: jax.Array) -> tuple[jax.Array, ...]:
        values, backs = zip(*(jax.vjp(each, z) for each in (base, ratio)), strict=True)
        return (z, *values, *(back(jnp.ones_like(values[0]))[0] for back in backs))

    def transition(state: tuple[Any, ...], beta: jax.Array) -> tuple[tuple[Any, ...], None]:
        key, now = state
        key, *keys = jax.random.split(key, 4)
        spread = 1 + 0.5 * (2 * jax.random.uniform(keys[0], now[1].shape) - 1)
        stride = (0.1 * spread)[..., None] * scale
        momentum = jax.random.normal(keys[1], now[0].shape)
        end, new = momentum + stride / 2 * (now[3] + beta * now[4]), now
        for step in range(LEAPFROG):
            new = point(new[0] + stride * end)
            last = step == LEAPFROG - 1
            end = end + (stride / 2 if last else stride) * (new[3] + beta * new[4])
        kinetic = (momentum**2 - end**2).sum(-1) / 2
        log_ratio = new[1] + beta * new[2] - now[1] - beta * now[2] + kinetic
        probability = jnp.exp(jnp.minimum(jnp.nan_to_num(log_ratio, nan=-jnp.inf), 0))
        taken = jax.random.uniform(keys[2], probability.shape) < probability
        chosen = (
            jnp.where(taken[..., None] if a.ndim > 2 else taken, a, b)
            for a, b in zip(new, now, strict=True)
        )
        return (key, tuple(chosen)), None

    @jax.jit
    def several(state: tuple[Any, ...], betas: jax.Array) -> tuple[Any, ...]:
        return jax.lax.scan(transition, state, betas)[0]

    betas = jnp.linspace(0.1, 0.9, BLOCK)
    key = jax.random.PRNGKey(SEED)
    start = loc + scale * jax.random.normal(key, (CHAINS, *loc.shape))
    state = [several((key, jax.jit(point)(start)), betas)]

    def take() -> None:
        state[0] = jax.block_until_ready(several(state[0], betas))

    return take


class Clock:
    """A progress callback that times blocks of transitions, and those of JAX between them."""

    def __init__(self, beside: Callable[[], None], skip: int) -> None:
        self.beside, self.skip, self.ticks = beside, skip, 0
        self.seconds: dict[str, list[float]] = {"ais": [], "jax": []}
        self.resumed = time.process_time()

    def __call__(self, fraction: float) -> None:
        self.ticks += 1
        if self.ticks < self.skip or (self.ticks - self.skip) % BLOCK:
            return
        if self.ticks > self.skip:
            self.seconds["ais"].append(time.process_time() - self.resumed)
            start = time.process_time()
            self.beside()
            self.seconds["jax"].append(time.process_time() - start)
        self.resumed = time.process_time()


def measure(hidden: tuple[int, ...], latent: int, rounds: int) -> dict[str, Any]:
    """Gradients a CPU second of each row, medians of rounds in turns."""
    vae = build(hidden, latent)
    x = torch.rand((SIZE, 784), generator=torch.Generator().manual_seed(SEED)).round()
    with torch.no_grad():
        beside = scan_of(vae, x)
    beside()
    gradients = CHAINS * SIZE * LEAPFROG * BLOCK
    rates: dict[str, float] = {}
    jax_rates = []
    for name, worth in WORTH.items():
        _draws._WORTH["cpu"] = worth
        temperatures = (rounds + 1) * BLOCK + 1
        warmup = 20 + 101  # transitions of the warm-up; then one block, in which a graph is made
        clock = Clock(beside, warmup + BLOCK)
        run = partial(ais, vae, x, num_chains=CHAINS, num_leapfrog=LEAPFROG, seed=SEED)
        run(num_temperatures=temperatures, progress=clock)
        rates[name] = gradients / statistics.median(clock.seconds["ais"])
        jax_rates += clock.seconds["jax"]
    rates["JAX, one scan"] = gradients / statistics.median(jax_rates)
    return rates


def table() -> str:
    """Returns the table as Markdown."""
    (result,) = common.read("annealing_speed.json")
    rows = [*WORTH, "JAX, one scan"]
    lines = [f"| decoder | {' | '.join(rows)} | compiled ÷ JAX |", "|---|" + "---:|" * 4]
    for name, rates in result["networks"].items():
        ratio = rates["compiled"] / rates["JAX, one scan"]
        cells = " | ".join(f"{rates[row]:,.0f}" for row in rows)
        lines.append(f"| {name} | {cells} | {ratio:.2f} |")
    where = result["environment"]
    return "\n".join(
        [*lines, "", f"Gradients a CPU second, {SIZE * CHAINS} chains, one thread, {where['cpu']}."]
    ) + "\n"  # fmt: skip


if __name__ == "__main__":
    parser = common.Parser(__doc__, smoke="two rounds", table="results/annealing_speed.md")
    options = parser.options()
    if options.table:
        (common.RESULTS / "annealing_speed.md").write_text(table(), encoding="utf-8")
    else:
        networks = list(NETWORKS.items())[: 1 if options.smoke else None]
        rounds = 2 if options.smoke else ROUNDS
        found = {}
        for name, network in networks:
            found[name] = measure(*network, rounds=rounds)
            print(name, found[name], flush=True)
        if not options.smoke:
            common.write("annealing_speed", {"seed": SEED, "networks": found})
