"""What ``experiments/mutation.py`` plants, and what it leaves alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "experiments"))  # scripts, which import each other

import mutation  # noqa: E402

SOURCE = b'''"""Text."""
Kind = int | None

def _held(a: int, b: int = 2) -> bool:
    """Text 1."""
    log.info("%d", 1)
    if a is None:
        raise expected("a", f"{a + 1} or more", 3)
    table[a] = min(a, b) * 4  # 5
    return (a + b).any(dim=-1) and not a
'''


def test_what_runs_is_changed_and_what_is_read_is_not() -> None:
    """Fails when an annotation or a message is a mutant, or when parentheses are lost."""
    found = {each.key.partition(": ")[2] for each in mutation.mutants_of("a.py", SOURCE)}
    assert found == {
        "2 -> 3",
        "a is None -> (a is not None)",
        'raise expected("a", f"{a + 1} or more", 3) -> pass',
        "table[a] = min(a, b) * 4 -> pass",
        "min(a, b) * 4 -> (min(a, b) / 4)",
        "min(a, b) -> (min(b, a))",
        "min -> max",
        "4 -> 5",
        "(a + b).any(dim=-1) and not a -> None",
        "(a + b).any(dim=-1) and not a -> ((a + b).any(dim=-1) or not a)",
        "(a + b).any -> (a + b).all",
        "a + b -> (a - b)",
        "-1 -> (1)",
        "1 -> 2",
        "not a -> (a)",
    }


@pytest.mark.parametrize("name", ["checkpoint.py", "engine/svi.py", "data/cells.py"])
def test_each_changes_the_code_and_has_a_name_of_its_own(name: str) -> None:
    source = (ROOT / "pyro_vae" / name).read_bytes()
    mutants = list(mutation.mutants_of(name, source))
    assert len({each.key for each in mutants}) == len(mutants) > 100
    before = ast.dump(ast.parse(source))
    for each in mutants[::29]:
        assert ast.dump(ast.parse(each.applied(source))) != before, each.key
    text, names = mutation.marked(name, source.decode())
    assert len(names) == text.count("pyro_vae._hits") > 10
