"""A pytest plug-in that has test modules use our SVI where they use Pyro's, and records what ran.

    python -m pytest -p pyro_suite_plugin --svi ours --svi-report ours.json tests/infer

With ``--svi stock`` it replaces nothing and records alike. ``--svi interpreted`` is ours with its
graphs run operation by operation: the same capture and guards, without the compiler's seconds.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro.infer
import pytest
import torch

import pyro_vae

STOCK = pyro.infer.SVI


class _Record:
    """What one test has done: how it ended, which engine took its steps, and why."""

    def __init__(self) -> None:
        self.outcome = ""
        self.message = ""
        self.steps: dict[str, int] = {}
        self.captures = 0
        self.reasons: list[str] = []

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}


_records: dict[str, _Record] = {}
_running: list[_Record] = []


class Recorded(pyro_vae.CompiledSVI):
    """Ours, which notes down which engine took each step."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        before, captures = dict(self.engine_steps), self.captures
        try:
            return super().step(*args, **kwargs)
        finally:
            if _running:
                record = _running[-1]
                for engine, count in self.engine_steps.items():
                    new = count - before.get(engine, 0)
                    record.steps[engine] = record.steps.get(engine, 0) + new
                record.captures += self.captures - captures


class RecordedStock(STOCK):  # type: ignore[misc]
    """Pyro's, which counts its steps."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        if _running:
            _running[-1].steps["stock"] = _running[-1].steps.get("stock", 0) + 1
        return super().step(*args, **kwargs)


class _Reasons(logging.Handler):
    """Notes down why a test's programs run eagerly."""

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if _running and "runs eagerly" in said and said not in _running[-1].reasons:
            _running[-1].reasons.append(said)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the choice of the engine, and where the report goes."""
    parser.addoption("--svi", choices=["stock", "ours", "interpreted"], default="ours")
    parser.addoption("--svi-report", type=Path, default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Puts ours in the place of Pyro's before a test module imports it."""
    chosen = config.getoption("--svi")
    logger = logging.getLogger("pyro_vae")
    logger.addHandler(_Reasons(logging.WARNING))
    if chosen == "interpreted":
        from torch._inductor import compile_fx

        def keep(module: torch.nn.Module, examples: Any, **kwargs: Any) -> Any:
            return module

        compile_fx.compile_fx = keep
    _replace(RecordedStock if chosen == "stock" else Recorded)


def _replace(engine: type) -> None:
    """Replaces Pyro's SVI wherever it is a global variable, of Pyro's packages too."""
    for name, module in list(sys.modules.items()):
        if name.startswith("pyro_vae") or name == __name__:
            continue
        if isinstance(space := getattr(module, "__dict__", None), dict):
            for key, value in list(space.items()):
                if value is STOCK:
                    space[key] = engine


def pytest_collection_finish(session: pytest.Session) -> None:
    """Looks once more, at the modules that tests have imported."""
    _replace(RecordedStock if session.config.getoption("--svi") == "stock" else Recorded)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Attributes steps and reasons to the test that is running."""
    record = _records.setdefault(item.nodeid, _Record())
    _running.append(record)
    yield
    _running.pop()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes down how a test has ended."""
    record = _records.setdefault(report.nodeid, _Record())
    if report.when == "call" or report.outcome != "passed":
        expected = hasattr(report, "wasxfail")
        record.outcome = f"x{report.outcome}" if expected else report.outcome
        if report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            record.message = getattr(crash, "message", str(report.longrepr))[-600:]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the report."""
    path: Path | None = session.config.getoption("--svi-report")
    if path is not None:
        found = {name: record.as_dict() for name, record in _records.items()}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
