"""What works in a process in which much has been imported has to work in a fresh one."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest
import torch

from pyro_vae.engine import graph
from pyro_vae.engine.errors import NotCapturable


def test_the_first_graph_of_a_process_is_captured() -> None:
    """Torch makes tables of its functions as a first graph is traced: of the functions themselves.

    Fails when it finds those that refuse to seed in their place, one for several.
    """
    program = """
        import sys
        import torch
        from pyro_vae.engine import graph

        assert "torch._dynamo" not in sys.modules
        graph._trace(lambda x: [x + 1], [], [torch.ones(1)])
        from torch._dynamo import trace_rules

        known = trace_rules.get_torch_obj_rule_map()
        assert not [f for f in known if getattr(f, "__module__", "") == graph.__name__]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_a_failure_of_the_capture_itself_is_told_from_one_of_the_program() -> None:
    def broken(x: torch.Tensor) -> list[torch.Tensor]:
        raises = "def raises():\n    assert False, 'a table has two entries'"
        space = {"__name__": "torch._dynamo.trace_rules"}
        exec(raises, space)  # as if it were of that module
        space["raises"]()  # type: ignore[operator]
        return [x]

    def fails(x: torch.Tensor) -> list[torch.Tensor]:
        raise RuntimeError("of its own")

    for function, is_internal in ((broken, True), (fails, False)):
        with pytest.raises(NotCapturable) as error:
            graph._trace(function, [], [torch.ones(1)])
        assert ("an internal error" in str(error.value)) is is_internal


@pytest.mark.breaks_capture
def test_a_refusal_for_an_internal_reason_is_noticed(request: pytest.FixtureRequest) -> None:
    """By the fixture that fails every other test for it."""
    handler = logging.getLogger("pyro_vae").handlers[-1]
    for reason in ("an internal error, KeyError in torch._dynamo: 3", "it reads a value back"):
        logging.getLogger("pyro_vae").warning("CompiledSVI runs eagerly: %s", reason)
    assert len(getattr(handler, "lines")) == 1  # noqa: B009


def test_a_process_of_many_fits_imports_no_pictures() -> None:
    """Each process that fits for a selection imports what its command's functions are of."""
    program = """
        import sys
        import pyro_vae.cli.select

        heavy = {"matplotlib", "scipy.stats", "xarray", "arviz", "pandas", "pyro_vae.criticism"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
