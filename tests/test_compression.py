"""Lossless compression: what comes back, at what rate; the order of coding, and its tables."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from compressed import LIKELIHOODS, PAIRS, cases, model_of, values_of
from hypothesis import given, settings
from scipy import special, stats

import pyro_vae as pv
from pyro_vae.compression.order import steps

pytest.importorskip("constriction")
from pyro_vae.compression.cumulative import BASE, LONGEST, Cumulative
from pyro_vae.compression.numbers import _code, _negative_binomial, _poisson
from pyro_vae.compression.same import alike
from pyro_vae.compression.stack import Stack, initial_bits

ROUNDS = settings(deadline=None, derandomize=True)


def _same(found: np.ndarray, x: np.ndarray) -> bool:
    return found.dtype == x.dtype and found.shape == x.shape and found.tobytes() == x.tobytes()


@cache
def _of_digits(likelihood: str = "Bernoulli", pair: str = "Normal") -> tuple[pv.VAE, np.ndarray]:
    """A model of the digits after two epochs, and all of them."""
    levels = likelihood != "Bernoulli"
    data = pv.data.load("digits", levels=levels)
    x = torch.cat([data.train, data.validation, data.test])
    shape = data.event_shape
    made = {
        "Bernoulli": pv.likelihoods.Bernoulli,
        "Categorical": lambda shape: pv.likelihoods.Categorical(shape, levels=17),
        "BetaBinomial": lambda shape: pv.likelihoods.BetaBinomial(shape, levels=17),
        "DiscretizedLogistic": lambda shape: pv.likelihoods.DiscretizedLogistic(shape, levels=17),
    }
    family = (made | LIKELIHOODS)[likelihood] if likelihood not in made else made[likelihood]
    both = {"encoder": pv.networks.MLP((32,)), "decoder": pv.networks.MLP((32,))}
    vae = pv.VAE(*PAIRS[pair](), family(shape), **both, seed=0)
    pv.fit(vae, data.train, epochs=2, lr=3e-3, seed=0, compile=False)
    return vae, x.numpy().astype(np.uint8)


def _bound(vae: pv.VAE, x: np.ndarray) -> tuple[float, float]:
    """Minus the ELBO of all rows in bits, and the standard error of one draw for each row."""
    rows = vae.accepts(pv.data.Rows(torch.from_numpy(x.astype(np.float32))))
    torch.manual_seed(1)
    weights = vae.draw_weighted(rows, 20).log_weights.double() / math.log(2)
    return -float(weights.mean(0).sum()), float(weights.var(0).sum().sqrt())


@pytest.mark.long
@pytest.mark.parametrize(
    ("likelihood", "pair"),
    [("Bernoulli", pair) for pair in PAIRS]
    + [(each, "Normal") for each in ("Categorical", "BetaBinomial", "DiscretizedLogistic")]
    + [(each, "Normal") for each in ("Poisson", "NegativeBinomial", "ZeroInflatedPoisson")],
)
def test_the_rate_is_the_bound(likelihood: str, pair: str) -> None:
    """Within 1 % and 4 standard errors of the draws; fails where latents are not taken back."""
    vae, x = _of_digits(likelihood, pair)
    content = pv.compression.compress(vae, x)
    assert _same(pv.compression.decompress(vae, content), x)
    header = pv.compression.header_of(content)
    bound, error = _bound(vae, x)
    assert error < 0.005 * bound
    assert abs(header.bits - bound) < 0.01 * bound + 4 * error
    assert header.bits_per_dim == header.bits / x.size
    # The file is the data, the bits to begin with, and what it says of itself.
    assert 8 * len(content) - header.bits - 32 * header.initial < 8 * 1000


@settings(ROUNDS, max_examples=25)
@given(cases())
def test_what_was_compressed_comes_back(case: tuple[pv.VAE, np.ndarray]) -> None:
    vae, x = case
    assert _same(pv.compression.decompress(vae, pv.compression.compress(vae, x)), x)


@pytest.mark.long
@settings(ROUNDS, max_examples=150)
@given(cases())
def test_what_was_compressed_comes_back_more_often(case: tuple[pv.VAE, np.ndarray]) -> None:
    vae, x = case
    assert _same(pv.compression.decompress(vae, pv.compression.compress(vae, x)), x)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", ">i2", "int64", "uint64", "float16", ">f4", "float64"]
)
@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 4, 1)])
def test_dtype_and_shape_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    vae = model_of("Normal", "Bernoulli", (4,), seed=0, gain=1.0)
    x = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    found = pv.compression.decompress(vae, pv.compression.compress(vae, x))
    assert _same(found, x)
    turned = np.asfortranarray(x)
    assert _same(pv.compression.decompress(vae, pv.compression.compress(vae, turned)), x)


def test_tensors_lists_and_rows_are_arrays() -> None:
    vae = model_of("Normal", "Bernoulli", (4,), seed=0, gain=1.0)
    x = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]])
    for each in (x, x.tolist(), pv.data.Rows(x), x.numpy()):
        found = pv.compression.decompress(vae, pv.compression.compress(vae, each))
        assert np.array_equal(found, x.numpy())


def test_a_model_at_a_condition_is_a_model() -> None:
    """And at another condition it is another."""
    prior, likelihood = pv.priors.Conditional(2), pv.likelihoods.Bernoulli((4,))
    vae = pv.VAE(prior, pv.guides.Normal(2), likelihood, cond_size=3, seed=0)
    x = np.random.default_rng(0).integers(0, 2, (9, 4))
    one, two = vae.at([1.0, 0.0, 0.0]), vae.at([0.0, 1.0, 0.0])
    content = pv.compression.compress(one, x)
    assert _same(pv.compression.decompress(one, content), x)
    with pytest.raises(ValueError, match="expected a file written by the model"):
        pv.compression.decompress(two, content)


def test_the_largest_numbers_come_back() -> None:
    """Of any size, whatever the model expects: nothing has probability zero."""
    vae = model_of("Normal", "Poisson", (4,), seed=0, gain=1.0).double()
    x = np.array([[0, 1, BASE**LONGEST - 1, 2**24 + 1], [15, 16, 255, 256]])
    assert _same(pv.compression.decompress(vae, pv.compression.compress(vae, x)), x)


def test_one_order_is_bit_swap_and_the_other_is_not() -> None:
    def words(guide: pv.guides.Guide) -> str:
        prior = pv.priors.Hierarchy([1, 2, 3])
        order = guide(torch.zeros(1, *guide.param_shape)).order  # type: ignore[attr-defined]
        return " ".join(f"{s.kind[0]}{s.name}" for s in steps(prior.space, guide, order))

    up = pv.guides.Hierarchy([1, 2, 3], "bottom-up")
    assert words(up) == "tz1 px tz2 pz1 tz3 pz2 pz3"
    names = ["z3", "z2", "z1"]
    down = pv.guides.Hierarchy([1, 2, 3])
    found = steps(pv.priors.Hierarchy([1, 2, 3]).space, down, names)
    assert [s.name for s in found] == [*names, "x", "z1", "z2", "z3"]
    assert all(step.alike for step in found if step.name != "x")
    assert [s.alike for s in steps(pv.priors.Hierarchy([1, 2, 3]).space, up, names[::-1])] == [
        False, False, False, False, True, False, True
    ]  # fmt: skip


def test_bit_swap_begins_with_fewer_bits() -> None:
    """Each layer above is taken from what x and the layer below have put onto the stack."""
    x = values_of("DiscretizedLogistic", (50, 40), np.random.default_rng(0))
    likelihood = pv.likelihoods.DiscretizedLogistic((40,))
    dims, words = [8, 8, 8, 8], {}
    for direction in ("ladder", "bottom-up"):
        guide = pv.guides.Hierarchy(dims, direction)  # type: ignore[arg-type]
        vae = pv.VAE(pv.priors.Hierarchy(dims), guide, likelihood, seed=0)
        vae.initialize(x)
        words[direction] = pv.compression.header_of(pv.compression.compress(vae, x[:1])).initial
    # Of 32 bits: a layer has 8 entries of about 16 bits, and a word more may be begun.
    assert words["bottom-up"] <= 6
    assert words["ladder"] >= 12


def test_chances_of_counts_are_those_of_scipy() -> None:
    rate, total, p = np.array([0.01, 3.0, 700.0]), np.array([0.3, 5.0, 40.0]), 0.7
    edges = np.tile(np.arange(1300), (3, 1))
    logits = np.full(3, math.log(p / (1 - p)))
    for function, parameters, known in (
        (_poisson, (rate,), stats.poisson(rate[:, None])),
        (_negative_binomial, (total, logits), stats.nbinom(total[:, None], 1 - p)),
    ):
        masses = Cumulative(function, parameters).chances(edges)
        pmf = known.pmf(edges[:, :-1])
        sure = pmf > 1e-200
        ratio = masses[sure] / (pmf / pmf.max(1, keepdims=True))[sure]
        assert np.abs(ratio - 1).max() < 1e-6
        assert (masses[~sure & (pmf.max(1, keepdims=True) > 0)] < 1e-190).all()


def test_chances_of_levels_are_those_of_the_density() -> None:
    """A beta-binomial's by ratios, which take a ninth of the logarithms."""
    d = dist.BetaBinomial(
        torch.tensor([1e-4, 0.5, 30.0]), torch.tensor([40.0, 0.01, 3.0]), torch.tensor(255.0)
    )
    found = _code(d).chances
    known = d.log_prob(torch.arange(256.0)[:, None]).double().softmax(0).T.numpy()
    assert found / found.sum(1, keepdims=True) == pytest.approx(known, rel=1e-3, abs=1e-9)


def test_a_stack_gives_back_what_was_put_onto_it() -> None:
    """The last first; and it is then what it was."""
    stack, before = Stack(initial_bits(64)), initial_bits(64)
    taken = stack.pop(np.array([[1.0, 2.0, 0.0], [3.0, 1e-300, 1.0]]))
    coins = stack.pop_binary(np.array([0.0, 1.0, 0.3]))
    numbers = stack.pop_uniform(4, 2**16)
    assert (taken < 3).all()
    assert coins[:2].tolist() == [0, 1]
    stack.push_uniform(numbers, 2**16)
    stack.push_binary(coins, np.array([0.0, 1.0, 0.3]))
    stack.push(taken, np.array([[1.0, 2.0, 0.0], [3.0, 1e-300, 1.0]]))
    assert np.array_equal(stack.words(), before)
    assert initial_bits(64)[:4].tolist() == initial_bits(5)[:4].tolist()


def test_many_levels_in_float32_have_a_probability_each() -> None:
    """Fails where the coder adds up float32, whose sums leave nothing for some of the levels."""
    rng = np.random.default_rng(0)
    chances = np.exp(-np.arange(256) * rng.random((2000, 1))).astype(np.float32)
    symbols = rng.integers(0, 256, 2000)
    stack = Stack(initial_bits(8))
    stack.push(symbols, chances)
    assert np.array_equal(stack.pop(chances), symbols)
    assert np.array_equal(stack.words(), initial_bits(8))


def test_nothing_of_the_caller_is_changed() -> None:
    vae = model_of("bottom-up", "Bernoulli", (4,), seed=0, gain=1.0).train()
    x = np.ones((3, 4), np.uint8)
    torch.set_num_threads(2)
    try:
        state, numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
        content = pv.compression.compress(vae, x)
        pv.compression.decompress(vae, content)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy).all()
    assert vae.training
    assert all(each.training for each in vae.modules())
    assert pv.compression.compress(vae.eval(), x) == content


@contextmanager
def _after(change: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


ONEDNN = torch.backends.mkldnn
SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: _after(torch.set_default_dtype, torch.float64, torch.float32),
    "meta": lambda: torch.device("meta"),
    "medium": lambda: _after(torch.set_float32_matmul_precision, "medium", "highest"),
    "no oneDNN": lambda: _after(lambda on: setattr(ONEDNN, "enabled", on), False, True),
    "bfloat16": lambda: _after(lambda p: setattr(ONEDNN.conv, "fp32_precision", p), "bf16", "none"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "errors": lambda: np.errstate(all="raise"),
    "errors of SciPy": lambda: special.errstate(all="raise"),
}


@cache
def _sensitive() -> list[tuple[pv.VAE, np.ndarray, bytes]]:
    """Convolutions, products that are large, long tails, and tensors of the default dtype."""
    rng = np.random.default_rng(0)
    both = {"encoder": pv.networks.ConvEncoder(), "decoder": pv.networks.ConvDecoder()}
    likelihood = pv.likelihoods.DiscretizedLogistic((1, 8, 8))
    conv = pv.VAE(pv.priors.Normal(4), pv.guides.Normal(4), likelihood, **both, seed=0)
    models = [(conv, rng.integers(0, 256, (5, 1, 8, 8)))]
    for name in ("Binomial", "Geometric", "DiscretizedLogistic", "ZeroInflatedNegativeBinomial"):
        vae = model_of("bottom-up", name, (5,), seed=3, gain=4.0)
        models.append((vae, values_of(name, (5, 5), rng)))
    return [(vae, x, pv.compression.compress(vae, x)) for vae, x in models]


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_the_caller_has_set_changes_no_file(setting: str) -> None:
    """Nor whether it can be read; and it is set afterwards as it was, after an error, too."""

    def state() -> list[Any]:
        parts = [part.fp32_precision for part in (ONEDNN.matmul, ONEDNN.conv, ONEDNN.rnn)]
        errors = [np.geterr(), special.geterr(), torch.is_autocast_enabled("cpu")]
        return [*parts, ONEDNN.enabled, torch.get_default_dtype(), *errors]

    for vae, x, content in _sensitive():
        with SETTINGS[setting]():
            before = state()
            assert pv.compression.compress(vae, x) == content
            assert _same(pv.compression.decompress(vae, content), x)
            assert state() == before
            with pytest.raises(ValueError, match="in the support|numbers from 0"):
                pv.compression.compress(vae, x - 1000)
            with pytest.raises(ZeroDivisionError), alike(vae):
                raise ZeroDivisionError
            assert state() == before


@pytest.mark.long
def test_the_program_of_the_page_runs() -> None:
    """With fewer epochs; its last line compares the arrays."""
    page = Path(__file__).parents[1] / "docs" / "gallery" / "compression.md"
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M
    )
    short = program.replace("epochs=60", "epochs=1, compile=False")
    assert short != program
    exec(short, {})


@pytest.mark.slow
def test_the_experiment_runs() -> None:
    """Its small version: rates, rivals and round trips."""
    pytest.importorskip("zstandard")
    script = Path(__file__).parents[1] / "experiments" / "applications" / "compression.py"
    done = subprocess.run([sys.executable, str(script), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'all_equal': True" in done.stdout
