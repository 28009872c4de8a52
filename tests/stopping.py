"""Small fits and how to stop them, for the tests of runs that go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.engine import CompiledSVI


def build(seed: int = 0) -> pv.VAE:
    pyro.set_rng_seed(seed)
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((6,)),
        pv.networks.MLP((8,), dropout=0.1),
        pv.networks.MLP((8,)),
    )


_GENERATOR = torch.Generator().manual_seed(3)
X = torch.rand(30, 6, generator=_GENERATOR).bernoulli(generator=_GENERATOR)


fit = partial(pv.fit, device="cpu", compile=False, epochs=4, batch_size=8, seed=1)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def same_run(a: pv.Run, b: pv.Run) -> bool:
    """Weights, best weights and history, but for the clock."""
    histories = [{k: v for k, v in run.history.items() if k != "seconds"} for run in (a, b)]
    weights = same(a.last_weights, b.last_weights) and same(a.vae.state_dict(), b.vae.state_dict())
    # In words, by which NaN equals itself.
    return weights and repr(histories[0]) == repr(histories[1]) and a.best_epoch == b.best_epoch


@contextmanager
def signal_at(step: int, *signums: int) -> Iterator[None]:
    """Inside it, signals come while the n-th step is taken, whatever the engine."""
    count = CompiledSVI._count

    def counting(self: CompiledSVI, *args: Any) -> None:
        count(self, *args)
        if self.steps == step:
            for signum in signums:
                os.kill(os.getpid(), signum)

    with mock.patch.object(CompiledSVI, "_count", counting):
        yield


def stopped(out: Path, at: int, signum: int = signal.SIGINT, **options: Any) -> Interrupted:
    """Fits until the signal comes."""
    with signal_at(at, signum), pytest.raises(Interrupted) as left:
        fit(build(), X, out=out, **options)
    return left.value


ELBO = pv.objectives.ELBO
