"""Random programs, of which something changes between two steps, do what stock SVI does."""

from __future__ import annotations

import collections

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_programs import draw, interpreted, is_true, numbered, outcome


@pytest.mark.long
def test_random_programs_equal_stock_or_say_that_they_run_eagerly() -> None:
    """Fails where something that a program reads is not watched, or a reason is not true."""
    found: collections.Counter[str] = collections.Counter()

    @settings(
        max_examples=50,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        drawn = draw(lambda options: data.draw(st.sampled_from(list(options))))
        became = outcome(drawn)
        found[became.kind] += 1
        assert became.kind != "wrong", f"{became.why}\n{drawn}"
        assert became.kind != "eager" or is_true(became.why, drawn), f"{became.why}\n{drawn}"

    with interpreted():
        compare()
    assert found["captured"] >= 0.6 * found.total(), found


@pytest.mark.long
def test_a_guard_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the programs and their changes would not show what is stale."""
    monkeypatch.setattr("pyro_vae.engine.guards.Guards.stand", lambda self: True)
    with interpreted():
        assert any(outcome(numbered(0, number)).kind == "wrong" for number in range(40))
