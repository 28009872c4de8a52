"""The rows of speed.py: one VAE, trained by Pyro, CompiledSVI, PyTorch, NumPyro and pythae."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae import CompiledSVI

LR, SEED, STEPS, UNROLL = 1e-3, 0, 48, 4  # steps an epoch; steps a graph
Row = Callable[[int], None]  # takes that many steps, and waits for the last


class Program(nn.Module):
    """The VAE, as a Pyro program and, in ``forward``, written by hand."""

    def __init__(self, d: int, h: int, z: int, depth: int = 1) -> None:
        super().__init__()
        deeper = [layer for _ in range(depth - 1) for layer in (nn.Linear(h, h), nn.ReLU())]
        self.encoder = nn.Sequential(nn.Linear(d, h), nn.ReLU(), *deeper, nn.Linear(h, 2 * z))
        self.decoder = nn.Sequential(nn.Linear(z, h), nn.ReLU(), *deeper, nn.Linear(h, d))
        self.z, self.name = z, f"program{id(self)}"

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.encoder(x).chunk(2, -1)
        return loc, functional.softplus(raw) + 1e-4

    def model(self, x: Tensor) -> None:
        pyro.module(self.name + "decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module(self.name + "encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*self.posterior(x)).to_event(1))

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.posterior(x)
        logits = self.decoder(loc + scale * torch.randn_like(scale))
        kl = 0.5 * (loc**2 + scale**2 - 1).sum() - scale.log().sum()
        return functional.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl


def repeat(step: Callable[..., Any], *args: Any) -> Row:
    """A row that calls ``step`` again and again."""

    def run(steps: int) -> None:
        for _ in range(steps):
            step(*args)

    return run


def pyro_rows(make: Callable[[], Program], data: Tensor, batch: int) -> dict[str, Row]:
    """Stock Pyro as it comes, its ELBO as a module, and CompiledSVI."""
    x = data[:batch].clone()
    program, module, ours = make(), make(), make()
    stock = SVI(program.model, program.guide, pyro.optim.Adam({"lr": LR}), Trace_ELBO())
    elbo = Trace_ELBO()(module.model, module.guide)
    elbo_module = _torch_step(lambda: elbo(x), module)
    compiled = CompiledSVI(ours.model, ours.guide, adam, Trace_ELBO())
    epochs = CompiledSVI(ours.model, ours.guide, adam, Trace_ELBO(), unroll=UNROLL)

    def epoch(steps: int) -> None:
        for _ in range(steps // STEPS):
            epochs.epoch(data, batch_size=batch)

    return {
        "Pyro: SVI.step": repeat(stock.step, x),
        "Pyro: ELBOModule, fused Adam": elbo_module,
        "CompiledSVI.step": repeat(compiled.step, x),
        "CompiledSVI.epoch": epoch,
    }


def adam(params: Any) -> torch.optim.Optimizer:
    """What the rows share."""
    return torch.optim.Adam(params, lr=LR)


def _torch_step(loss: Callable[[], Tensor], module: nn.Module) -> Row:
    optim = torch.optim.Adam(module.parameters(), lr=LR, fused=True)

    def step() -> None:
        optim.zero_grad()
        value = loss()
        value.backward()
        optim.step()
        if value.device.type == "cpu":
            value.item()  # a training loop looks at its loss, as the other rows do

    return repeat(step)


def torch_rows(make: Callable[[], Program], data: Tensor, batch: int) -> dict[str, Row]:
    """Written by hand, without Pyro."""
    x = data[:batch].clone()
    eager, program = make(), make()
    compiled = torch.compile(program)
    return {
        "PyTorch by hand, fused Adam": _torch_step(lambda: eager(x), eager),
        "PyTorch by hand, torch.compile, fused Adam": _torch_step(lambda: compiled(x), program),
    }


def matrix_products(d: int, h: int, z: int, batch: int) -> dict[str, Row]:
    """The eleven matrix products of a step, forward and backward, and nothing else.

    By ``torch.mm``, which is MKL, and by oneDNN, which ``CompiledSVI`` takes where it is faster.
    """
    shapes = [(batch, d, h), (batch, h, 2 * z), (batch, z, h), (batch, h, d)]  # the layers
    shapes += [(i, batch, o) for _, i, o in shapes]  # the gradients of their weights
    shapes += [(batch, o, i) for _, i, o in shapes[1:4]]  # and of their inputs
    inputs = [(torch.rand(m, k), torch.rand(k, n), torch.empty(m, n)) for m, k, n in shapes]

    def mkl() -> None:
        for a, b, out in inputs:
            torch.mm(a, b, out=out)

    def onednn() -> None:
        for a, b, _ in inputs:
            torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")

    return {
        "bare matrix products (torch.mm)": repeat(mkl),
        "bare matrix products (oneDNN)": repeat(onednn),
    }


def numpyro_rows(d: int, h: int, z: int, batch: int, data: Tensor) -> dict[str, Row]:
    """NumPyro: one jitted update a step, and a whole epoch in one jitted loop."""
    import jax
    import numpyro
    import numpyro.distributions as ndist
    from jax import numpy as jnp

    def layer(name: str, i: int, o: int) -> Callable[[Any], Any]:
        bound = i**-0.5
        draw = lambda key: jax.random.uniform(key, (i, o), minval=-bound, maxval=bound)  # noqa: E731
        weight, bias = numpyro.param(f"{name}.w", draw), numpyro.param(f"{name}.b", jnp.zeros(o))
        return lambda x: x @ weight + bias

    def model(x: Any) -> None:
        first, last = layer("decoder1", z, h), layer("decoder2", h, d)
        with numpyro.plate("data", len(x)):
            draw = numpyro.sample("z", ndist.Normal(jnp.zeros(z), 1.0).to_event(1))
            logits = last(jax.nn.relu(first(draw)))
            numpyro.sample("x", ndist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Any) -> None:
        first, last = layer("encoder1", d, h), layer("encoder2", h, 2 * z)
        loc, raw = jnp.split(last(jax.nn.relu(first(x))), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", ndist.Normal(loc, jax.nn.softplus(raw) + 1e-4).to_event(1))

    optim = numpyro.optim.Adam(LR)
    svi = numpyro.infer.SVI(model, guide, optim, numpyro.infer.Trace_ELBO())
    rows, x = jnp.asarray(data.numpy()), jnp.asarray(data[:batch].numpy())
    state = {"step": svi.init(jax.random.PRNGKey(SEED), x)}
    state["epoch"] = state["step"]
    update = jax.jit(svi.update)

    @jax.jit
    def whole(state: Any, key: Any) -> tuple[Any, Any]:
        order = jax.random.permutation(key, len(rows)).reshape(-1, batch)

        def body(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, losses = carry
            state, loss = svi.update(state, rows[order[i]])
            return state, losses.at[i].set(loss)

        return jax.lax.fori_loop(0, len(order), body, (state, jnp.zeros(len(order))))

    def step() -> None:
        state["step"], loss = update(state["step"], x)
        float(loss)

    def epoch(steps: int) -> None:
        for i in range(steps // STEPS):
            state["epoch"], losses = whole(state["epoch"], jax.random.PRNGKey(i))
            losses.block_until_ready()

    return {"NumPyro: jit(svi.update)": repeat(step), "NumPyro: epoch in one jit": epoch}


def pythae_rows(d: int, h: int, z: int, batch: int, data: Tensor) -> dict[str, Row]:
    """Pythae's own trainer, with networks of the same size."""
    import logging

    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.getLogger("pythae").setLevel(logging.ERROR)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(d, h), nn.ReLU())
            self.loc, self.log_var = nn.Linear(h, z), nn.Linear(h, z)

        def forward(self, x: Tensor) -> ModelOutput:
            features = self.body(x)
            return ModelOutput(embedding=self.loc(features), log_covariance=self.log_var(features))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(z, h), nn.ReLU(), nn.Linear(h, d), nn.Sigmoid())

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z))

    model = VAE(VAEConfig((d,), z, reconstruction_loss="bce"), Encoder(), Decoder())
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, learning_rate=LR,
        num_epochs=1, no_cuda=True,
    )  # fmt: skip
    trainer = BaseTrainer(model, BaseDataset(data, torch.zeros(len(data))), training_config=config)
    trainer.prepare_training()

    def epoch(steps: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            for i in range(steps // STEPS):
                trainer.train_step(i)

    return {"pythae: trainer": epoch}
