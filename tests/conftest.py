"""What every test starts from: a fixed seed and an empty Pyro parameter store."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyro
import pytest
import torch
from torch import nn

from pyro_vae.cli import main


def pytest_configure(config: pytest.Config) -> None:
    """Leaves the other cores to the other processes."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects thousands of tests, which all stay: looking for garbage is a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()  # what is there now is not looked at again


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Seeds what is drawn as a module is imported, whatever other modules there are."""
    if isinstance(collector, pytest.Module):
        pyro.set_rng_seed(0)


@pytest.fixture(autouse=True)
def fresh_pyro() -> None:
    """Seeds Python, NumPy and PyTorch, and forgets the parameters of earlier tests."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Puts the levels of the package's loggers back, which a reader's block of the docs may set."""
    before = logging.root.manager.loggerDict.keys() | {"pyro_vae"}
    names = {name for name in before if name.partition(".")[0] == "pyro_vae"}
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] == "pyro_vae":
            logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """Closes what pyplot holds open, as ArviZ's plots are."""
    yield
    plt.close("all")


class _Refusals(logging.Handler):
    """Keeps what is said of programs that run eagerly for a reason that is not theirs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if "runs eagerly" in line and ("an internal error" in line or "compiler failed" in line):
            self.lines.append(line)


@pytest.fixture(autouse=True)
def nothing_is_refused_for_an_internal_reason(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test in which a graph was given up silently, which is right and slow.

    A test that breaks the compiler on purpose is marked ``breaks_capture``.
    """
    log, refusals = logging.getLogger("pyro_vae"), _Refusals()
    log.addHandler(refusals)
    yield
    log.removeHandler(refusals)
    if request.node.get_closest_marker("breaks_capture") is None:
        assert refusals.lines == []


@pytest.fixture
def double() -> Iterator[None]:
    """Makes double precision the default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """The folder of downloaded data sets, laid out as torchvision does: ``MNIST/raw/...``."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("PYRO_VAE_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"needs data files in {root}: set PYRO_VAE_DATA to the folder that has them")
    return root


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs captured graphs operation by operation: what is captured counts, not the compiler."""
    # Seconds to import: not for tests that capture nothing.
    from torch._inductor import compile_fx
    from torch.fx.experimental import proxy_tensor

    def keep(module: nn.Module, examples: Any, **kwargs: Any) -> Any:
        return module

    def itself(value: Any, **kwargs: Any) -> Any:
        """In place of a fake tensor, which only a compiler needs and costs a third of a trace."""
        return value

    monkeypatch.setattr(compile_fx, "compile_fx", keep)
    monkeypatch.setattr(proxy_tensor, "extract_val", itself)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as at a terminal: a run started in the background would ignore it, as it should."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that is a mistake; returns its one line on standard error."""

    def run(*argv: str) -> str:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        folders = set(tmp_path.rglob("*"))
        capsys.readouterr()  # what earlier commands said
        assert main(list(argv)) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1, said.err
        assert set(tmp_path.rglob("*")) == folders, "something was written"
        assert {path: path.read_bytes() for path in before} == before
        return said.err

    return run
