"""Adding a part, shown: one file and its name, and the tests that then run.

    python experiments/adding_a_part.py    # results/adding_a_part.md, about a minute on one core

Works in a copy of the repository: writes likelihoods/logistic.py, adds its name to the subpackage,
and runs the tests whose names contain that of the likelihood. One of them requires an independent
density; with two lines of SciPy all pass, and the command line fits the likelihood.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import common

ROOT = common.HERE.parent
FILE = '''"""Logistic likelihood."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.likelihoods.location_scale import LocationScale

__all__ = ["Logistic"]


class Logistic(LocationScale):
    r"""Creates independent logistic variables, for real data with tails like Laplace's.

    .. math:: p(x \\mid z) = \\prod_d \\frac{1}{4 \\sigma_d}
        \\operatorname{sech}^2\\left(\\frac{x_d - \\mu_d(z)}{2 \\sigma_d}\\right)

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934

    Args:
        event_shape: Shape of one x.
        scale: A fixed number, or ``shared``, ``per-dimension`` or ``predicted``.
    """

    def distribution(self, loc: Tensor, scale: Tensor) -> Any:
        return dist.Logistic(loc, scale)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(0), x.std(0, correction=0) * math.sqrt(3) / math.pi
'''
BEFORE = "from pyro_vae.likelihoods.mixed import Mixed\n"
IMPORT = "from pyro_vae.likelihoods.logistic import Logistic\n"
CASE = """        case likelihoods.Logistic:
            terms = _location_scale(scipy.stats.logistic.logpdf, case, params, x)
"""
TESTS = ["tests/test_contracts.py", "tests/test_pairs.py", "tests/test_doctests.py"]
COMMAND = "pyro-vae fit digits --likelihood Logistic --likelihood.scale predicted --epochs 1"


def edit(path: Path, before: str, text: str) -> None:
    """Puts text before some of a file."""
    content = path.read_text()
    if content.count(before) != 1:
        raise ValueError(f"{path}: expected {before!r} once")
    path.write_text(content.replace(before, text + before))


def diff(folder: Path) -> str:
    """Returns the changes since the last call, and commits them."""
    _run(["git", "add", "-A"], folder)
    found = _run(["git", "-c", "core.abbrev=7", "diff", "--cached"], folder).stdout
    _run(["git", "-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "."], folder)
    kept = [line for line in found.splitlines() if not re.match(r"(diff|index|new file) ", line)]
    return "```diff\n" + "\n".join(kept) + "\n```\n"


def tests(folder: Path) -> str:
    """Runs the tests of the likelihood, and reports how each ended."""
    words = [sys.executable, "-m", "pytest", "-n0", "-v", "-p", "no:cacheprovider", *TESTS]
    printed = _run([*words, "-k", "likelihoods.logistic"], folder, check=False).stdout
    lines = re.findall(r"^(tests/\S+) (PASSED|FAILED)", printed, re.MULTILINE)
    reasons = re.findall(r"^E\s+Failed: (write .*)$", printed, re.MULTILINE)
    rows = [f"{'✓' if how == 'PASSED' else '✗'} {name}" for name, how in lines]
    count = sum(how == "PASSED" for _, how in lines)
    failed = "".join(f" Each ✗ fails with: {line}." for line in sorted(set(reasons)))
    return "```text\n" + "\n".join(rows) + f"\n```\n\n{count} of {len(rows)} pass.{failed}\n"


def _run(words: list[str], folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        words, cwd=folder, env=environment, check=check, capture_output=True, text=True
    )


def shown() -> str:
    """Adds the likelihood to a copy, and returns the changes and the tests as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in _run(["git", "ls-files"], ROOT).stdout.splitlines():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
        _run(["git", "init", "-q"], folder)
        diff(folder)
        package = folder / "pyro_vae" / "likelihoods"
        (package / "logistic.py").write_text(FILE)
        edit(package / "__init__.py", BEFORE, IMPORT)
        edit(package / "__init__.py", '    "Mixed",\n', '    "Logistic",\n')
        words = ["One file, and its name in the subpackage:\n", diff(folder)]
        words += ["The tests that then run, none of them written for it:\n", tests(folder)]
        edit(folder / "tests" / "test_contracts.py", "        case likelihoods.StudentT:\n", CASE)
        words += ["The density, computed independently:\n", diff(folder), tests(folder)]
        program = [sys.executable, "-c", "from pyro_vae.cli import entry; entry()"]
        _run([*program, *COMMAND.split()[1:]], folder)
        words.append(f"The command line has it, too: `{COMMAND}` succeeds.\n")
    return "\n".join(words)


if __name__ == "__main__":
    (common.RESULTS / "adding_a_part.md").write_text("# Adding a part\n\n" + shown())
