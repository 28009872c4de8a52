"""Fits that processes share: cases to run in this process, or by a group of this very script."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import several_rows
import torch
from stopping import signal_at
from torch import Tensor

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.engine.processes import Processes, all_processes

_DRAWN = torch.Generator().manual_seed(0)
X = torch.rand(75, 6, generator=_DRAWN).bernoulli(
    generator=_DRAWN
)  # two batches of 32, and 8 + 3 + 0 + 0 rows
LABELS = torch.randint(-1, 3, (75,), generator=_DRAWN)


def model(prior: Any = None, guide: Any = None, **encoder: Any) -> pv.VAE:
    return pv.VAE(
        prior or pv.priors.Normal(2),
        guide or pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((6,)),
        pv.networks.MLP((8,), **encoder),
        pv.networks.MLP((8,)),
        seed=1,
    )


def categorical() -> pv.VAE:
    return model(pv.priors.Categorical(1, 3), pv.guides.GumbelSoftmax(1, 3, mode="enumerate"))


def fit(vae: pv.VAE, x: Tensor = X, **options: Any) -> pv.Run:
    known = {"epochs": 2, "batch_size": 32, "device": "cpu", "compile": False, "seed": 0}
    return pv.fit(vae, x, **{**known, "shards": 4, "progress": False, **options})


def digest(vae: Any) -> str:
    found = hashlib.sha256()
    for name, tensor in vae.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def _weights(run: pv.Run) -> str:
    return digest(run.vae) + repr([run.history["loss"], run.history["elbo"]])


def _captured(run: Callable[[], Any]) -> Any:
    """Runs captured graphs operation by operation, as the fixture ``interpreted`` does."""
    from torch._inductor import compile_fx

    def keep(module: Any, examples: Any, **kwargs: Any) -> Any:
        return module

    with mock.patch.object(compile_fx, "compile_fx", keep):
        return run()


def _alone(vae: pv.VAE) -> list[float]:
    """Without draws, and with all rows in a batch, so that their order does not count."""
    known = {"objective": pv.objectives.Enumerated(), "batch_size": 76, "epochs": 6}
    run = fit(vae.double(), X.double(), shards=None, compile=True, **known)
    return torch.cat([p.detach().flatten() for p in run.vae.parameters()]).tolist()


def _error(**options: Any) -> str:
    try:
        fit(model(), **options)
    except ValueError as error:
        return str(error)
    return "none"


class _Counted:
    """A callback that counts epochs."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_epoch(self, line: Mapping[str, float]) -> None:
        self.epochs += 1


def _calls() -> int:
    counted = _Counted()
    fit(model(), callbacks=[counted])
    return counted.epochs


def _stopped_by_the_last(folder: Path) -> str:
    """The last process alone is asked to stop, at step 2 of 6."""
    last = all_processes().rank == all_processes().count - 1
    with ExitStack() as stack:
        if last:
            stack.enter_context(signal_at(2, signal.SIGTERM))
        try:
            fit(model(), out=folder / "stopped")
        except Interrupted as left:
            return str(left).partition(";")[0]
    return "not stopped"


def _went_on(folder: Path) -> list[str]:
    """A run of two epochs, and two of one that go on; what is hidden is drawn at a start alone."""
    mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(4)) < 0.8
    runs = [fit(model(), mask=mask)]
    for out in (None, folder / "further"):
        runs.append(fit(model(), mask=mask, epochs=1, out=out).resume(epochs=2))
    return [_weights(run) for run in runs]


def _guessed() -> str:
    """The first evaluation of the objective runs the programs to count plates, which draws."""
    vae = model(dropout=0.1)
    vae.model.max_plate_nesting = None  # type: ignore[assignment]
    return _weights(fit(vae, objective=pv.objectives.IWAE(3, "dreg")))


def _unseeded() -> str:
    """Each process draws its own weights, and takes those of the first."""
    pyro.set_rng_seed(all_processes().rank)
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((6,))
    return digest(fit(pv.VAE(*parts), seed=None).vae)


def _unreduced() -> str:
    """A planted fault: each process adds up what it has."""
    with mock.patch.object(Processes, "stacked", lambda self, rows: rows.repeat(self.count, 1)):
        return _weights(fit(model()))


CASES: dict[str, Callable[[Path], Any]] = {
    "dropout": lambda _: _weights(fit(model(dropout=0.1), validation=0.2)),
    "statistics of batches": lambda _: _weights(fit(model(norm="batch"))),
    "clipped, accumulated": lambda _: _weights(
        fit(model(), clip_norm=0.1, accumulate=2, batch_size=16, average="ema")
    ),
    "labels": lambda _: _weights(fit(categorical(), labels=LABELS)),
    "another optimiser": lambda _: _weights(fit(model(), optim=torch.optim.RMSprop)),
    "captured": lambda _: _captured(
        lambda: _weights(
            fit(model(), compile=True, objective=pv.objectives.IWAE(3, "dreg"), clip_norm=1.0)
        )
    ),
    "guessed": lambda _: _guessed(),
    "without shards": lambda _: _captured(lambda: _alone(categorical())),
    "without a seed": lambda _: _unseeded(),
    "without a reduction": lambda _: _unreduced(),
    "a run": lambda folder: _weights(fit(model(), out=folder / "run")),
    "stopped": _stopped_by_the_last,
    "went on": _went_on,
    "callbacks": lambda _: _calls(),
    "other data": lambda _: _error(x=X + all_processes().rank),
    "a folder that exists": lambda folder: _error(out=folder),
    "a batch of 33": lambda _: _error(batch_size=33, shards=None),
    "three shards": lambda _: _error(batch_size=33, shards=3),
    "total correlation": lambda _: _error(objective=pv.objectives.TotalCorrelation(), shards=None),
    **several_rows.CASES,
}


def found(folder: Path) -> dict[str, Any]:
    """Runs all cases, in this process or with others of its group."""
    results = {}
    for name, case in CASES.items():
        pyro.clear_param_store()
        try:
            results[name] = case(folder)
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
    return results


def by_group(count: int, folder: Path) -> list[dict[str, Any]]:
    """Runs all cases by a group of processes; returns what each has found."""
    with tempfile.TemporaryDirectory() as store:
        shared = folder / "shared"
        shared.mkdir()
        command = [sys.executable, __file__, str(count), f"{store}/store", str(shared)]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen([*command, str(rank)], env=environment, **both)
            for rank in range(count)
        ]
        said = [each.communicate(timeout=600) for each in running]
    assert [each.returncode for each in running] == [0] * count, said
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


if __name__ == "__main__":
    from torch import distributed

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    number, store, where, rank = sys.argv[1:]
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(number)
    )
    print(json.dumps(found(Path(where))))
