"""What every test starts from: a fixed seed and an empty Pyro parameter store."""

from __future__ import annotations

import os
from pathlib import Path

import pyro
import pytest


@pytest.fixture(autouse=True)
def fresh_pyro() -> None:
    """Seeds Python, NumPy and PyTorch, and forgets the parameters of earlier tests."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """The folder of downloaded data sets, laid out as torchvision does: ``MNIST/raw/...``."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("PYRO_VAE_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"needs data files in {root}: set PYRO_VAE_DATA to the folder that has them")
    return root
