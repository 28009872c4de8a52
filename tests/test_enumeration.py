"""Programs whose discrete sites are summed out: captured, and equal to stock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, TraceTMC_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal
from pyro.ops.indexing import Vindex
from steps import equals_stock
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.engine import CompiledSVI

pytestmark = pytest.mark.usefixtures("double")

STATES = 3


class Case(NamedTuple):
    model: Any
    guide: Any
    args: tuple[Any, ...]
    loss: Any


def _steps(make: Callable[[], Case], count: int = 6) -> CompiledSVI:
    def run(engine: type) -> tuple[list[float], Any]:
        case = make()
        svi = engine(case.model, case.guide, pyro.optim.Adam({"lr": 0.02}), case.loss)
        return [svi.step(*case.args) for _ in range(count)], svi

    return equals_stock(run)


def _points() -> Tensor:
    return torch.cat([torch.randn(10) * 0.5 - 2, torch.randn(10) + 3])


def _mixture(x: Tensor) -> None:
    weights = pyro.param("weights", torch.ones(STATES) / STATES, constraint=constraints.simplex)
    locs = pyro.sample("locs", dist.Normal(torch.zeros(STATES), 5.0).to_event(1))
    with pyro.plate("data", len(x)):
        state = pyro.sample("state", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(Vindex(locs)[..., state], 1.0), obs=x)


def _locations(x: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor([-1.0, 0.0, 1.0]))
    scale = pyro.param("scale", torch.ones(STATES), constraint=constraints.positive)
    pyro.sample("locs", dist.Normal(loc, scale).to_event(1))


def _assignments(x: Tensor) -> None:
    _locations(x)
    with pyro.plate("data", len(x)):
        logits = pyro.param("logits", torch.zeros(len(x), STATES))
        pyro.sample("state", dist.Categorical(logits=logits))


def _of_mixture(guide: Any, **options: Any) -> Callable[[], Case]:
    model = config_enumerate(_mixture) if guide is _locations else _mixture
    return lambda: Case(model, guide, (_points(),), TraceEnum_ELBO(**options))


def _markov_chain(ys: Tensor) -> None:
    """A hidden Markov model, vectorised over sequences, by a loop over time."""
    start = 0.9 * torch.eye(STATES) + 0.1 / STATES
    moves = pyro.param("moves", start, constraint=constraints.simplex)
    locs = pyro.param("locs", torch.arange(float(STATES)))
    with pyro.plate("sequences", len(ys), dim=-1):
        state: Any = 0
        for t in pyro.markov(range(ys.shape[1])):
            state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]))
            pyro.sample(f"y_{t}", dist.Normal(locs[state], 1.0), obs=ys[:, t])


def _nothing(*args: Any) -> None:
    """The guide of a model that has no other latent sites."""


def _chain() -> Case:
    model = config_enumerate(_markov_chain)
    return Case(model, _nothing, (torch.randn(4, 3) + 1,), TraceEnum_ELBO(max_plate_nesting=1))


def _second_order() -> Case:
    """States that depend on the two before."""

    def model(ys: Tensor) -> None:
        start = torch.ones(2, 2, 2) / 2
        moves = pyro.param("moves", start, constraint=constraints.simplex)
        with pyro.plate("sequences", len(ys), dim=-1):
            before: Any = 0
            last: Any = 0
            for t in pyro.markov(range(ys.shape[1]), history=2):
                state = pyro.sample(f"state_{t}", dist.Categorical(Vindex(moves)[before, last]))
                before, last = last, state
                pyro.sample(f"y_{t}", dist.Normal(state * 1.0, 1.0), obs=ys[:, t])

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Case(config_enumerate(model), _nothing, (torch.randn(3, 3),), loss)


def _semi_supervised() -> Case:
    """M2: classes are summed out for those observations that have no label."""
    encoder, classifier, decoder = nn.Linear(6 + STATES, 4), nn.Linear(6, STATES), nn.Linear(5, 6)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(STATES) / STATES), obs=y)
            y = y.expand(*torch.broadcast_shapes(y.shape[:-1], z.shape[:-1]), STATES)
            z = z.expand(*y.shape[:-1], 2)
            logits = decoder(torch.cat([z, y], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("encoder", encoder)
        pyro.module("classifier", classifier)
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(x)))
            x, y = (each.expand(*y.shape[:-2], len(x), -1) for each in (x, y))
            loc, scale = encoder(torch.cat([x, y], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    x = torch.rand(8, 6).round()
    loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    return Case(model, config_enumerate(guide), (x,), loss)


def _topics() -> Case:
    """LDA, with the topics of words summed out, and documents amortised."""
    predictor = nn.Sequential(nn.Linear(7, 5), nn.Sigmoid(), nn.Linear(5, STATES), nn.Softmax(-1))

    def model(words: Tensor) -> None:
        with pyro.plate("topics", STATES):
            weights = pyro.sample("topic_weights", dist.Gamma(1.0 / STATES, 1.0))
            topics = pyro.sample("topic_words", dist.Dirichlet(torch.ones(7) / 7))
        with pyro.plate("documents", words.shape[1], dim=-1):
            shares = pyro.sample("doc_topics", dist.Dirichlet(weights))
            with pyro.plate("words", len(words), dim=-2):
                kind = dist.Categorical(shares)
                topic = pyro.sample("word_topics", kind, infer={"enumerate": "parallel"})
                pyro.sample("doc_words", dist.Categorical(topics[topic]), obs=words)

    def guide(words: Tensor) -> None:
        pyro.module("predictor", predictor)
        weights = pyro.param("loc", lambda: torch.ones(STATES), constraint=constraints.positive)
        topics = pyro.param(
            "concentration",
            lambda: torch.ones(STATES, 7) + 0.5,
            constraint=constraints.greater_than(0.5),
        )
        with pyro.plate("topics", STATES):
            pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(topics))
        counts = torch.zeros(7, words.shape[1]).scatter_add(0, words, torch.ones(words.shape))
        with pyro.plate("documents", words.shape[1], dim=-1):
            pyro.sample("doc_topics", dist.Delta(predictor(counts.t()), event_dim=1))

    return Case(model, guide, (torch.randint(7, (6, 5)),), TraceEnum_ELBO(max_plate_nesting=2))


def _capture_recapture() -> Case:
    """Cormack, Jolly and Seber: who is alive is summed out, from the first capture on."""

    def model(captured: Tensor) -> None:
        survival = pyro.sample("phi", dist.Uniform(0.0, 1.0))
        recapture = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        with pyro.plate("animals", len(captured), dim=-1):
            alive = torch.ones(len(captured))
            seen = torch.zeros(len(captured)).bool()
            for t in pyro.markov(range(captured.shape[1])):
                with poutine.mask(mask=seen):
                    p = seen.to(survival) * survival * alive + (1 - seen.to(survival))
                    kind = dist.Bernoulli(p)
                    alive = pyro.sample(f"z_{t}", kind, infer={"enumerate": "parallel"})
                    pyro.sample(f"y_{t}", dist.Bernoulli(recapture * alive), obs=captured[:, t])
                seen |= captured[:, t].bool()

    guide = AutoDiagonalNormal(poutine.block(model, expose=["phi", "rho"]))
    captured = torch.rand(12, 3).gt(0.5).double()
    return Case(model, guide, (captured,), TraceEnum_ELBO(max_plate_nesting=1))


def _impossible() -> Case:
    """A guide with a state of probability zero, which an expectation leaves out."""

    def guide(x: Tensor) -> None:
        probs = pyro.param("p", torch.tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
        probs = probs * torch.tensor([1.0, 1.0, 0.0])
        with pyro.plate("data", len(x)):
            pyro.sample("state", dist.Categorical(probs / probs.sum()))

    def model(x: Tensor) -> None:
        locs = pyro.param("locs", torch.tensor([-1.0, 1.0, 0.0]))
        with pyro.plate("data", len(x)):
            state = pyro.sample("state", dist.Categorical(torch.ones(STATES)))
            pyro.sample("x", dist.Normal(locs[state], 1.0), obs=x)

    return Case(model, config_enumerate(guide), (_points(),), TraceEnum_ELBO())


def _sequential() -> Case:
    """A program that branches on a site of which every value is tried in turn."""

    def model(x: Tensor) -> None:
        which = pyro.sample("which", dist.Bernoulli(0.5))
        loc = pyro.param("loc", torch.zeros(()))
        shape = dist.Normal(loc, 1.0) if which else dist.StudentT(3.0, loc, 2.0)
        with pyro.plate("data", len(x)):
            pyro.sample("x", shape, obs=x)

    def guide(x: Tensor) -> None:
        p = pyro.param("p", torch.tensor(0.3), constraint=constraints.unit_interval)
        pyro.sample("which", dist.Bernoulli(p), infer={"enumerate": "sequential"})

    return Case(model, guide, (_points(),), TraceEnum_ELBO(max_plate_nesting=1))


def _annealed_by_a_number() -> Case:
    """Every enumerated site has the scale that is a number among the arguments."""

    def model(x: Tensor, beta: float) -> None:
        with poutine.scale(scale=beta):
            _mixture(x)

    def guide(x: Tensor, beta: float) -> None:
        _locations(x)

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Case(config_enumerate(model), guide, (_points(), 0.5), loss)


def _subsampled() -> Case:
    def model(x: Tensor) -> None:
        locs = pyro.sample("locs", dist.Normal(torch.zeros(STATES), 5.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=5) as index:
            state = pyro.sample("state", dist.Categorical(torch.ones(STATES)))
            pyro.sample("x", dist.Normal(Vindex(locs)[..., state], 1.0), obs=x[index])

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    guide = AutoDelta(poutine.block(model, expose=["locs"]))
    return Case(config_enumerate(model), guide, (_points(),), loss)


def _sampled_locally(loss: Any) -> Callable[[], Case]:
    guide = config_enumerate(_assignments, num_samples=4)
    return lambda: Case(_mixture, guide, (_points(),), loss(max_plate_nesting=1))


CASES: dict[str, Callable[[], Case]] = {
    "mixture, nesting given": _of_mixture(_locations, max_plate_nesting=1),
    "mixture, particles at once": _of_mixture(
        _locations, num_particles=3, vectorize_particles=True
    ),
    "enumerated in the guide": _of_mixture(config_enumerate(_assignments)),
    "draws in the guide": _of_mixture(_assignments, strict_enumeration_warning=False),
    "several draws in the guide": _sampled_locally(TraceEnum_ELBO),
    "tensor Monte Carlo": _sampled_locally(TraceTMC_ELBO),
    "hidden Markov model": _chain,
    "second order": _second_order,
    "semi-supervised": _semi_supervised,
    "topics": _topics,
    "capture and recapture": _capture_recapture,
    "an impossible state": _impossible,
    "sequential": _sequential,
    "subsampled": _subsampled,
    "annealed": _annealed_by_a_number,
}


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", CASES)
def test_an_enumerated_program_is_captured_and_equals_stock(name: str) -> None:
    svi = _steps(CASES[name])
    assert svi.captures == 1
    assert svi.engine_steps["inductor"] >= 5  # one creates the parameters


@pytest.mark.long
def test_compiled_code_equals_stock() -> None:
    assert _steps(_impossible, 3).engine_steps == {"eager": 1, "inductor": 2}


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
def test_labels_are_other_arguments_with_a_graph_of_their_own() -> None:
    """As semi-supervised training takes turns with labelled and other batches.

    Fails where a graph, captured before the classifier was trained, leaves out its momentum.
    """

    def run(engine: type) -> tuple[list[float], Any]:
        case = _semi_supervised()
        svi = engine(case.model, case.guide, pyro.optim.Adam({"lr": 0.02}), case.loss)
        (x,) = case.args
        y = torch.eye(STATES)[torch.arange(8) % STATES]
        return [svi.step(x, *([y] if i % 3 == 0 else [])) for i in range(9)], svi

    assert equals_stock(run).captures == 3


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("name", "reason"),
    [("tensors as scales", "tensors as scales"), ("a branch", "control flow on data")],
)
def test_what_is_read_of_enumerated_programs_runs_eagerly(
    name: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def scaled(x: Tensor) -> None:
        with poutine.scale(scale=1 / x.abs().max()):
            _mixture(x)

    def branching(x: Tensor) -> None:
        if x[0] < 0:
            _mixture(x)

    model = config_enumerate(scaled if name == "tensors as scales" else branching)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    svi = _steps(lambda: Case(model, _locations, (_points(),), loss))
    assert svi.engine_steps == {"eager": 6}
    assert reason in caplog.text
    assert "at site `x` or after it" in caplog.text or name == "a branch"


@pytest.mark.usefixtures("interpreted")
def test_scales_that_begin_to_differ_are_refused_as_stock_does() -> None:
    """A scale of one site alone may be one at first: it is part of what a graph stands for."""

    def model(x: Tensor, beta: float) -> None:
        with pyro.plate("data", len(x)):
            state = pyro.sample("state", dist.Categorical(torch.ones(STATES)))
            with poutine.scale(scale=beta):
                locs = pyro.param("locs", torch.zeros(STATES))
                pyro.sample("x", dist.Normal(locs[state], 1.0), obs=x)

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    optim = pyro.optim.Adam({"lr": 0.02})
    svi = CompiledSVI(config_enumerate(model), lambda x, beta: None, optim, loss)
    for _ in range(3):
        svi.step(_points(), 1.0)
    with pytest.raises(ValueError, match="scale"):
        svi.step(_points(), 0.5)
