"""Rows that processes share: cases that :mod:`several` runs in this process, or in a group."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyro
import torch
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.cli.runs import load_data, record_data
from pyro_vae.engine.distributed import SharedEngine
from pyro_vae.engine.processes import all_processes
from pyro_vae.evaluation._draws import Draws
from pyro_vae.objectives import ELBO

_DRAWN = torch.Generator().manual_seed(3)
MANY = torch.rand(2500, 6, generator=_DRAWN).bernoulli(generator=_DRAWN)  # three batches, or blocks
SEEN = torch.rand(2500, 6, generator=_DRAWN) < 0.8


def model(prior: Any = None, guide: Any = None, **others: Any) -> pv.VAE:
    likelihood = others.pop("likelihood", pv.likelihoods.Bernoulli((6,)))
    parts = prior or pv.priors.Normal(2), guide or pv.guides.Normal(2), likelihood
    sizes = pv.networks.MLP((8,)), others.pop("decoder", pv.networks.MLP((8,)))
    return pv.VAE(*parts, *sizes, **{"seed": 1, **others})


def _hiding() -> pv.VAE:
    normal, missingness = pv.likelihoods.Normal((6,)), pv.missingness.SelfMasking((6,))
    return model(likelihood=normal, missingness=missingness)


def _scores(vae: pv.VAE, **options: Any) -> str:
    found = pv.evaluate(vae, MANY, **{"num_samples": 20, **options})
    columns = (found.log_marginal, found.mcse, found.kl, found.k_hat, found.ess)
    digest = hashlib.sha256(b"".join(each.tobytes() for each in columns)).hexdigest()
    return digest + repr(found.summary())


def _imputed(vae: pv.VAE, **options: Any) -> str:
    known = {"num_samples": 50, "seed": 3, **options}
    found = pv.evaluation.impute(vae, MANY, SEEN, **known)
    columns = (found.x.numpy(), found.ess, found.k_hat, found.num_samples)
    return hashlib.sha256(b"".join(each.tobytes() for each in columns)).hexdigest()


def _categorical() -> pv.VAE:
    return model(pv.priors.Categorical(1, 3), pv.guides.GumbelSoftmax(1, 3))


@contextmanager
def _warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("pyro_vae").addHandler(handler)
    yield lines
    logging.getLogger("pyro_vae").removeHandler(handler)


def _not_drawn() -> list[str]:
    """A planted fault: what is drawn for the rows of another process is not drawn."""
    with mock.patch.object(Draws, "pass_over", return_value=None), _warnings() as lines:
        return [_scores(model()), *lines]


def _error(run: Callable[[], Any]) -> str:
    try:
        run()
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _other_data() -> str:
    """The last process alone has rows that are refused."""
    last = all_processes().rank == 1
    return _error(lambda: pv.evaluate(model(), MANY - float(last), num_samples=2))


def _unreadable() -> str:
    """The last process alone cannot read what it needs for its share."""
    features = pv.VAE.features

    def broken(self: pv.VAE, rows: Any) -> Any:
        if all_processes().rank == 1:
            raise OSError("cannot read")
        return features(self, rows)

    with mock.patch.object(pv.VAE, "features", broken):
        return _error(lambda: pv.evaluate(model(), MANY, num_samples=2))


def _refused_argument() -> list[str]:
    """The last process alone asks for what is refused; then all of them ask for the same."""
    last = all_processes().rank == 1
    found = [
        _error(lambda: pv.evaluate(model(), MANY, num_samples=-1 if last else 2)),
        _error(lambda: pv.evaluate(model(), MANY, num_samples=2, num_globals=3 + last)),
        _error(lambda: pv.evaluation.impute(model(), MANY, None if last else SEEN)),
    ]
    return [*found, _scores(model(), num_samples=2)]


def _with_a_note() -> str:
    """A network that adds to its state what is no tensor."""

    class Noting(torch.nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

        def set_extra_state(self, state: object) -> None: ...

    pyro.set_rng_seed(0)
    vae = model(decoder=torch.nn.Sequential(Noting(2, 6)))
    return _scores(vae)


def _without_a_seed() -> str:
    """The first process alone fills rows, from its own generators."""
    if all_processes().rank == 1:
        return "none"
    pyro.set_rng_seed(0)
    return _imputed(model(), seed=None)


class _Judge:
    """A callback that evaluates, which the first process alone calls."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_epoch(self, line: Mapping[str, float]) -> None:
        vae = model()
        self.found.append(float(pv.evaluate(vae, MANY[:9], num_samples=5).log_marginal.mean()))


def _judged() -> int:
    judge = _Judge()
    options: dict[str, Any] = {"batch_size": 8, "epochs": 2, "shards": 2, "compile": False}
    pv.fit(model(), MANY[:16], callbacks=[judge], device="cpu", seed=0, progress=False, **options)
    return len(judge.found)


def _validated(objective: Any, *, drawn: bool = True) -> list[Any]:
    """The history of a fit with three batches of validation rows, and how many are scored here."""
    counted, kept = mock.Mock(), ELBO.terms
    options: dict[str, Any] = {"batch_size": 64, "epochs": 3, "shards": 2, "compile": False}
    options |= {"device": "cpu", "seed": 0, "progress": False, "objective": objective}

    def terms(self: Any, *args: Any, **given: Any) -> Any:
        counted()
        if not drawn:
            torch.rand(counted.call_count)
        return kept(self, *args, **given)

    with mock.patch.object(ELBO, "terms", terms):
        run = pv.fit(model(), MANY[:128], validation=MANY.repeat(2, 1), **options)
    scores = {name: column for name, column in run.history.items() if name != "seconds"}
    return [repr(scores), counted.call_count]


def _slow() -> list[str]:
    """What is logged of a fit of 25 steps an epoch, in which the last process is slow."""
    parts = SharedEngine._parts

    def slow(self: SharedEngine, *args: Any) -> Any:
        if all_processes().rank == 1:
            time.sleep(0.03)
        return parts(self, *args)

    options: dict[str, Any] = {"batch_size": 8, "epochs": 2, "shards": 2, "compile": False}
    with mock.patch.object(SharedEngine, "_parts", slow), _warnings() as lines:
        pv.fit(model(), MANY[:200], device="cpu", seed=0, progress=False, **options)
    return lines


def run_of_a_table(folder: Path) -> Path:
    """Writes the folder of a run of numbers and words, some of them missing, as `fit` does."""
    rng = np.random.default_rng(0)
    numbers, kinds = rng.normal(size=(1500, 2)), rng.choice(["cat", "dog", "fox"], 1500)
    rows = [[*(f"{v:.3f}" for v in pair), kind] for pair, kind in zip(numbers, kinds, strict=True)]
    for row in rows:
        row[rng.integers(3)] = ""
    for name, some in (("t.csv", rows), ("few.csv", rows[:260])):
        text = "\n".join(["a,b,kind", *map(",".join, some)]) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    data, options = load_data(
        str(folder / "t.csv"), constraints.real, root=None, binarize=None, missing=True
    )
    assert data.schema is not None
    likelihood = pv.likelihoods.suggest(data).build(data.event_shape)
    sizes = pv.networks.MLP((8,)), pv.networks.MLP((8,))
    pyro.set_rng_seed(0)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, *sizes, seed=1)
    vae.initialize(data.train, **data.given("train"))
    pv.save(vae, folder / "table")
    record_data(folder / "table", data, options)
    return folder / "table"


def _command(folder: Path, *argv: str) -> list[Any]:
    """Runs a command as torchrun does, where there is a group, and returns what it said."""
    processes, out, error = all_processes(), io.StringIO(), io.StringIO()
    of_group = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": str(processes.count)}
    environment = of_group | {"RANK": str(processes.rank)} if processes.count > 1 else {}
    with mock.patch.dict(os.environ, environment), redirect_stdout(out), redirect_stderr(error):
        code = main(list(argv))
    return [code, *(each.getvalue().replace(str(folder), "") for each in (out, error))]


def _commands(folder: Path) -> list[Any]:
    """What is said and written; all are to be the same for any number of processes."""
    if all_processes().is_first:
        run_of_a_table(folder)
    all_processes().gathered(None)
    run, fill = str(folder / "table"), ["--num-samples", "20", "--json"]
    few = ["--data", str(folder / "few.csv"), "--num-imputations", "2"]
    few += ["--probabilities", str(folder / "levels.csv")]
    found = [
        _command(folder, "evaluate", run, "--num-samples", "20", "--split", "train", "--json"),
        _command(folder, "encode", run, "--out", str(folder / "z.npz"), "--json"),
        _command(folder, "impute", run, "--out", str(folder / "filled.csv"), *fill),
        _command(folder, "impute", run, "--out", str(folder / "drawn.csv"), *fill, *few),
    ]
    names = ("filled.csv", "drawn-1.csv", "drawn-2.csv", "levels.csv")
    files = [(folder / name).read_text(encoding="utf-8") for name in names]
    with np.load(folder / "z.npz") as arrays:
        files += [repr(arrays["loc"].tobytes()), repr(arrays["scale"].tobytes())]
    return [found, [hashlib.sha256(each.encode()).hexdigest() for each in files]]


def _refused(folder: Path) -> list[Any]:
    """What the last one alone refuses, what the first one cannot write, and what none shares."""
    if all_processes().count == 1:
        return []
    run, out = str(folder / "table"), ["--out", str(folder / "y.csv")]
    last = all_processes().rank == 1
    found = [
        _command(folder, "encode", str(folder / "none") if last else run, *out),
        _command(folder, "encode", run, "--out", str(folder / "table" / "model.json" / "y.csv")),
        _command(folder, "evaluate", run, "--ais"),
        _command(folder, "impute", run, *out, "--num-imputations", "2", "--num-fits", "2"),
        _command(folder, "check", run),
    ]
    return [*found, (folder / "y.csv").exists()]


CASES: dict[str, Callable[[Path], Any]] = {
    "scores": lambda _: _scores(model()),
    "of a flow": lambda _: _scores(model(guide=pv.guides.Flow(2), prior=pv.priors.Normal(2))),
    "defensive": lambda _: _scores(model(), proposal="defensive", smooth=True),
    "summed": lambda _: _scores(_categorical()),
    "of few draws": lambda _: _scores(model(), num_samples=3),
    "of what is missing": lambda _: _scores(_hiding(), mask=SEEN),
    "filled": lambda _: _imputed(model()),
    "filled by draws": lambda _: _imputed(model(), num_imputations=2),
    "filled, summed": lambda _: _imputed(_categorical()),
    "not drawn": lambda _: _not_drawn(),
    "another model": lambda _: _error(lambda: _scores(model(seed=1 + all_processes().rank))),
    "another seed": lambda _: _error(lambda: _scores(model(), seed=all_processes().rank)),
    "refused rows": lambda _: _other_data(),
    "unreadable": lambda _: _unreadable(),
    "refused argument": lambda _: _refused_argument(),
    "of a network with a note": lambda _: _with_a_note(),
    "filled without a seed": lambda _: _without_a_seed(),
    "judged": lambda _: _judged(),
    "validated": lambda _: _validated(pv.objectives.ELBO()),
    "validated by a bound": lambda _: _validated(pv.objectives.IWAE(2)),
    "validated otherwise each time": lambda _: _validated(pv.objectives.ELBO(), drawn=False),
    "slow": lambda _: _slow(),
    "commands": _commands,
    "refused commands": _refused,
}
