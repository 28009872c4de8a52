"""Importing the package is cheap: what is slow to import is imported where it is first used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from types import ModuleType

import pytest

import pyro_vae as pv

SLOW = (
    "scipy.stats",
    "pandas",
    "xarray",
    "arviz",
    "arviz_stats",
    "sklearn",
    "matplotlib",
    "torchvision",
)
START = "import sys; from pyro_vae.cli import entry; sys.argv[0] = 'pyro-vae'; entry()"


def _imported(code: str, *modules: str) -> set[str]:
    """Which of the modules a fresh process has imported, after the code."""
    code += f"\nimport sys\nprint(*[m for m in {modules!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_the_package_alone_imports_neither_torch_nor_pyro() -> None:
    assert _imported("import pyro_vae, pyro_vae.cli", "torch", "pyro", "numpy", *SLOW) == set()


@pytest.mark.long
def test_a_model_and_its_fit_import_no_statistics_and_no_plots() -> None:
    code = "import pyro_vae as pv\npv.VAE, pv.fit, pv.priors.Normal, pv.data"
    assert _imported(code, "torch", "pyro", *SLOW) == {"torch", "pyro"}


@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("--version", 0), ("evaluat", 2)])
def test_the_command_line_answers_before_torch_is_imported(word: str, code: int) -> None:
    """Fails when the way to an answer imports it: then the module that refuses is met."""
    refuse = "import sys; sys.modules['torch'] = sys.modules['pyro'] = None; "
    command = [sys.executable, "-c", refuse + START, word]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == code
    lines = ran.stderr.splitlines()
    assert len(lines) == (code == 2), ran.stderr


def test_an_interrupt_while_torch_is_imported_is_one_line() -> None:
    """Fails with a traceback when a module is imported where nobody waits for the signal."""
    ready = "import builtins, os\nslow = builtins.__import__\n" + (
        "def tell(name, *args, **kwargs):\n"
        "    if name == 'torch' and not told:\n"
        "        told.append(name); print('now', flush=True)\n"
        "    return slow(name, *args, **kwargs)\n"
        "told = []\nbuiltins.__import__ = tell\n"
    )
    command = [sys.executable, "-c", ready + START, "fit", "digits"]
    # A run in the background would ignore the signal.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "now\n"
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (130, "interrupted\n")


def test_a_notebook_is_not_told_of_bars_that_it_lacks() -> None:
    """Fails when Pyro's import of tqdm warns a person who has no ipywidgets."""
    noted = "import warnings, tqdm; warnings.warn('IProgress not found. Please', tqdm.TqdmWarning)"
    for before, warned in ("", True), ("import pyro_vae; ", False):
        code = [sys.executable, "-c", before + noted]
        ran = subprocess.run(code, capture_output=True, text=True, check=True)
        assert ("IProgress" in ran.stderr) == warned


def test_every_public_name_is_there() -> None:
    """Fails when a name is listed that no module has, or that ``dir`` does not show."""
    for name in pv.__all__:
        assert getattr(pv, name) is not None
    assert set(pv.__all__) <= set(dir(pv))
    assert not {"Any", "TYPE_CHECKING", "import_module", "warnings"} & set(dir(pv))
    for room in (getattr(pv, name) for name in pv.__all__):
        if isinstance(room, ModuleType):
            assert set(room.__all__) <= set(dir(room)), room
    assert pv.__version__ == version("pyro-vae")
    with pytest.raises(AttributeError, match="'pyro_vae' has no attribute 'Vae'"):
        pv.Vae  # noqa: B018


def test_python_runs_the_command_line_as_a_module() -> None:
    """As torchrun and people without scripts on their path do."""
    done = subprocess.run(
        [sys.executable, "-m", "pyro_vae.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout
