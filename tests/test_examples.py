"""Programs of plain Pyro, wrapped and judged, against what is known of them without draws.

They and what judges them are those of ``experiments/programs.py``, whose name is a package's, too.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import Rows
from pyro_vae.plots._panels import line
from pyro_vae.report.sections.fitted import _parts

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.append(str(EXPERIMENTS))  # scripts, which import each other by name

from examples import EXAMPLES  # noqa: E402

_spec = importlib.util.spec_from_file_location("programs_script", EXPERIMENTS / "programs.py")
assert _spec is not None
script: Any = importlib.util.module_from_spec(_spec)
assert _spec.loader is not None
_spec.loader.exec_module(script)

_EPOCHS = {"bayesian_decoder": 200, "deep_markov": 12}  # of one batch, and of many sites
_QUICK = {"mixed_effects", "multi_view", "semi_supervised"}  # global, several sites, discrete


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
def test_importance_weighting_agrees_with_what_is_known(name: str) -> None:
    """Kalman, quadrature, conjugacy, normal marginals: within three errors, in sum and by row."""
    pyro.set_rng_seed(0)
    case = EXAMPLES[name].special()
    epochs = {"epochs": _EPOCHS.get(name, 20)}
    held_out, options = case.held_out[:60], dict(case.options) | epochs
    fit = options | {"seed": 0, "device": "cpu", "compile": False}
    pv.fit(case.program, case.train.x, **fit, **case.train.given)
    (one, *_) = case.program.fixed(1)
    scores = pv.evaluate(one, held_out.x, num_samples=1000, **held_out.given)
    assert scores.log_marginal.shape == (60,)
    off = scores.log_marginal - case.exact(one, held_out).numpy()  # type: ignore[misc]
    assert abs(off.sum()) < 3 * math.sqrt((scores.mcse**2).sum())
    assert (np.abs(off) < 3 * scores.mcse).mean() > 0.9
    if case.averaged is not None:
        found = script.averaged(replace(case, held_out=held_out), {"averaged": 30})
        assert abs(found["errors"]) < 3


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXAMPLES],
)
def test_every_example_is_judged(name: str) -> None:
    row = script.judge(EXAMPLES[name], script.FEW)
    assert row["lines"] <= 60
    assert row["checks"]["num_checks"] >= 10
    assert row["ranks"]["num_quantities"] >= 5
    assert math.isfinite(row["scores"]["log_marginal"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_shapes_of_an_example(name: str) -> None:
    pyro.set_rng_seed(0)
    case = EXAMPLES[name].make()
    assert script.model_lines(case) <= 60
    rows = case.held_out[:6]
    case.program.initialize(rows.x, **rows.without("labels").given)
    (one, *_) = case.program.fixed(1)
    accepted = one.accepts(Rows(rows.x, rows.given))
    assert one.simulate(accepted.given if rows.given else 6, 2).x.shape == (12, *rows.x.shape[1:])
    assert one.replicate(accepted, 3).shape == (3, *rows.x.shape)
    z = one.infer(accepted).sample((2,))
    assert z.shape == (2, 6, *one.space.event_shape)
    assert one.log_joint(z, accepted).shape == (2, 6)
    prior = one.prior_at(rows.conditions).expand((6,)).log_prob(z) if not rows.given else None
    if prior is not None:
        both = prior + one.log_likelihood(z, accepted)
        assert torch.allclose(one.log_joint(z, accepted), both, rtol=1e-4)


def test_the_page_names_what_is_global_and_that_it_is_of_one_draw() -> None:
    case = EXAMPLES["topics"].make()
    case.program.initialize(case.train.x)
    (one, *_) = case.program.fixed(1)
    assert _parts(one)["global latents"] == "topics (3, 12): this page is of one draw of the guide"
    other = EXAMPLES["multi_view"].make()
    other.program.initialize(other.train.x)
    assert "global latents" not in _parts(other.program)


@pytest.mark.parametrize(("shape", "lines"), [((12, 3), 3), ((36,), 1), ((3, 12), 1), ((12, 9), 1)])
def test_channels_of_a_series_are_a_line_each(shape: tuple[int, ...], lines: int) -> None:
    """One line through all of them would go up and down with the channels."""
    x = torch.arange(float(np.prod(shape))).reshape(shape)
    _, axes = plt.subplots()
    line(axes, x, x + 0.5)
    drawn = [each.get_ydata() for each in axes.lines]
    assert len(drawn) == 2 * lines
    first = x[:, 0] if lines > 1 else x.flatten()
    assert np.array_equal(drawn[0], first.numpy())
