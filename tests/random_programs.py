"""Random Pyro programs, as source text, and a change of something between two steps of them.

A program is drawn part by part by a function that chooses among alternatives: Hypothesis's in
tests, which makes what fails smaller, or that of a seeded generator. ``Drawn.source`` is what to
look at where one fails.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_vae.engine import CompiledSVI

Choose = Callable[[Sequence[Any]], Any]

HEADER = """
import collections, contextvars, dataclasses, functools, random, types
import numpy as np
import pyro, torch
import pyro.distributions as dist
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

@dataclasses.dataclass
class Settings:
    scale: float
    def double(self):
        return 2 * self.scale

@dataclasses.dataclass(slots=True)
class Slotted:
    scale: float

def scaled(value, scale=1.0):
    return value * scale

def variable(value):
    def read():
        return value
    def write(new):
        nonlocal value
        value = new
    return read, write
"""


@dataclass(frozen=True)
class Read:
    """A way to read a positive number: how it is set up, read and changed.

    ``{v}`` is a name of its own, ``{a}`` the number, and ``{b}`` another.
    """

    field: str  # in the constructor
    read: str
    changes: tuple[str, ...]
    variable: str = ""  # at the top of the module


def _replaced(make: str, read: str, *in_place: str, field: str = "self.{v}") -> Read:
    """Something in an attribute, that is replaced or changed in place."""
    changes = (f"p.{{v}} = {make.replace('{a}', '{b}')}", *(f"p.{{v}}{each}" for each in in_place))
    return Read(f"self.{{v}} = {make}", read.replace("$", field), changes)


READS: dict[str, Read] = {
    "float": _replaced("{a}", "$"),
    "NumPy scalar": _replaced("np.float32({a})", "float($)"),
    "NumPy array": _replaced("np.array([{a}, 1.0])", "float($[0])", "[0] = {b}"),
    "list": _replaced("[{a}, 1.0]", "$[0]", "[0] = {b}", ".insert(0, {b})", ".reverse()"),
    "list in a list": _replaced("[[{a}]]", "$[0][0]", "[0][0] = {b}", "[0] = [{b}]"),
    "tuple": _replaced("({a}, 1.0)", "sum($)"),
    "dict": _replaced(
        "{{'a': {a}, 'b': 1.0}}", "$['a']", "['a'] = {b}", ".update(a={b})", ".pop('b')"
    ),
    "dict's values": _replaced("{{'a': {a}}}", "sum($.values())", "['b'] = {b}"),
    "deque": _replaced("collections.deque([{a}, 1.0])", "$[0]", ".rotate()", ".appendleft({b})"),
    "set": _replaced("{{'a'}}", "({a} if 'a' in $ else {b})", ".remove('a')", ".add('b')"),
    "string": _replaced("'{a}'", "float($)"),
    "UserDict": _replaced("collections.UserDict(a={a})", "$['a']", "['a'] = {b}"),
    "namespace": _replaced("types.SimpleNamespace(scale={a})", "$.scale", ".scale = {b}"),
    "function": _replaced("(lambda: {a})", "$()", ".__code__ = (lambda: {b}).__code__"),
    "default argument": _replaced("(lambda scale={a}: scale)", "$()", ".__defaults__ = ({b},)"),
    "partial": _replaced(
        "functools.partial(scaled, scale={a})", "$(1.0)", ".keywords['scale'] = {b}"
    ),
    "bound method": _replaced("Settings({a}).double", "$()", ".__self__.scale = {b}"),
    "dataclass": _replaced("Settings({a})", "$.scale", ".scale = {b}"),
    "slotted dataclass": _replaced("Slotted({a})", "$.scale", ".scale = {b}"),
    "distribution": _replaced("dist.Normal(0.0, {a})", "$.scale", ".scale = torch.tensor({b})"),
    "tensor": _replaced("torch.tensor({a})", "$", ".fill_({b})", ".data = torch.tensor({b})"),
    "tensor in a list": _replaced("[torch.tensor({a})]", "$[0]", "[0] = torch.tensor({b})"),
    "dropout": _replaced("nn.Dropout(0.0)", "$(torch.tensor({a}))", ".p = 0.5", ".eval()"),
    "by its name": _replaced("{a}", "getattr(self, '{v}'[:1] + '{v}'[1:])"),
    "class": _replaced("dist.Normal", "$(0.0, {a}).scale", field="self.{v}"),
    "variable of a module": Read("pass", "{v}", ("m.{v} = {b}",), "{v} = {a}"),
    "list of a module": Read("pass", "{v}[0]", ("m.{v}[0] = {b}", "m.{v} = [{b}]"), "{v} = [{a}]"),
    "closure": Read(
        "pass", "{v}()", ("m.{v}_write({b})",), "{v}, {v}_write = variable({a})"
    ),
    "context variable": Read(
        "pass", "{v}.get()", ("m.{v}.set({b})",), "{v} = contextvars.ContextVar('{v}', default={a})"
    ),
    "class's": Read("type(self).{v} = {a}", "self.{v}", ("type(p).{v} = {b}", "p.{v} = {b}")),
    "another's module": Read(
        "pass", "{v}.a", ("m.{v}.a = {b}",), "{v} = types.ModuleType('{v}'); {v}.a = {a}"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Extra:
    """Something more in a model: ``{n}`` is its name, ``{s}`` a number, ``{t}`` a tensor."""

    model: tuple[str, ...]
    value: str = ""
    fields: tuple[str, ...] = ()
    guide: tuple[str, ...] = ()
    of: tuple[str, ...] = ("object", "nn.Module", "PyroModule")
    feature: str = ""  # what may keep the program from being captured


_SITE = "    pyro.sample('{n}', dist.Normal({t}, {s}), obs=torch.tensor(0.3))"
EXTRAS: dict[str, Extra] = {
    "factor": Extra(("pyro.factor('{n}', -{s} * {t} ** 2)",)),
    "deterministic": Extra(("{n} = pyro.deterministic('{n}', {t} * {s})",), "{n}"),
    "param": Extra(("{n} = pyro.param('{n}', torch.tensor(0.5)) * {s}",), "{n}"),
    "positive param": Extra(
        ("{n} = pyro.param('{n}', torch.tensor({s}), constraint=constraints.positive)",), "{n}"
    ),
    "network": Extra(
        ("pyro.module('net', self.net)", "{n} = self.net({t}.reshape(1))[0]"),
        "{n}",
        ("self.net = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))",),
        of=("object",),
    ),
    "scale": Extra(("with poutine.scale(scale={s}):", _SITE.replace("{s}", "1.0"))),
    "mask": Extra(("with poutine.mask(mask=torch.tensor(True)):", _SITE)),
    "masked out": Extra(("with poutine.mask(mask=torch.tensor(False)):", _SITE)),
    "condition": Extra(
        (
            "def sub():",
            "    return pyro.sample('{n}', dist.Normal({t}, {s}))",
            "{n} = poutine.condition(sub, data={{'{n}': torch.tensor(0.5)}})()",
        ),
        "{n}",
    ),
    "block": Extra(
        (
            "with poutine.block(hide=['{n}']):",
            "    {n} = pyro.sample('{n}', dist.Normal(0.0, {s}))",
        ),
        "{n}",
    ),
    "plate": Extra(
        (
            "with pyro.plate('{n}_plate', 3, dim=-2):",
            "    pyro.sample('{n}', dist.Normal({t}, {s}), obs=torch.ones(3, 1))",
        )
    ),
    "nested plates": Extra(
        (
            "with pyro.plate('{n}_outer', 2, dim=-2), pyro.plate('{n}_inner', 3, dim=-1):",
            "    pyro.sample('{n}', dist.Normal({t}, {s}), obs=torch.ones(2, 3))",
        )
    ),
    "PyroSample": Extra(
        ("{n} = self.bias + self.shift",),
        "{n}",
        (
            "self.bias = PyroSample(dist.Normal(0.0, 2.0))",
            "self.shift = PyroParam(torch.tensor(0.1))",
        ),
        ("pyro.sample('bias', dist.Normal(pyro.param('bias_loc', torch.zeros(())), 0.5))",),
        of=("PyroModule",),
    ),
    "counter": Extra(
        ("self.counter += 1",), "(0.1 * self.counter)", ("self.counter = 0",), feature="counter"
    ),
    "item": Extra(("{n} = {t}.mean().item()",), "{n}", feature="item"),
    "NumPy": Extra(("{n} = float(np.tanh({t}.detach().numpy()))",), "{n}", feature="item"),
    "branch": Extra(("{n} = 1.0 if {t} > 0 else 2.0",), "{n}", feature="item"),
    "random": Extra(("{n} = random.random()",), "{n}", feature="random"),
    "NumPy's random": Extra(("{n} = float(np.random.rand())",), "{n}", feature="random"),
}
# Priors, by the support of the site, that take a positive number.
REAL = (
    "dist.Normal(0.0, {s})",
    "dist.Laplace(0.0, {s})",
    "dist.StudentT(5.0, 0.0, {s})",
    "dist.Gumbel(0.0, {s})",
    "dist.Logistic(0.0, {s})",
    "dist.Normal(torch.zeros(()), 1.0).expand([]).mask(True)",
    "dist.TransformedDistribution(dist.Normal(0.0, {s}), dist.transforms.AffineTransform(1, 2))",
)
POSITIVE = (
    "dist.LogNormal(0.0, {s})",
    "dist.Gamma(2.0, {s})",
    "dist.Exponential({s})",
    "dist.HalfNormal({s})",
    "dist.InverseGamma(3.0, {s})",
)
LIKELIHOODS = (
    "dist.Normal({mean}, {s})",
    "dist.StudentT(4.0, {mean}, {s})",
    "dist.Laplace({mean}, {s})",
)
GUIDES = (
    *("by hand", "by hand, amortised", "AutoNormal", "AutoDiagonalNormal"),
    *("AutoMultivariateNormal", "AutoLowRankMultivariateNormal", "AutoDelta"),
)
AROUND: dict[str, str] = {
    "poutine.scale": "poutine.scale(scale=0.5)",
    "poutine.mask": "poutine.mask(mask=False)",
    "poutine.block": "poutine.block(hide=['d'])",
    "no_grad": "torch.no_grad()",
    "poutine.condition": "poutine.condition(data={'z0': torch.tensor(0.5)})",
}
# Why a program may run eagerly: what it has to have for the reason to be true.
REASONS: dict[str, str] = {
    r"reads a value back": "item",
    r"random numbers": "random",
    r"is active around the step": "around",
    r"changes at every run": "counter",
    r"may read values back": "loss",
}


@dataclass
class Drawn:
    """A random program.

    Attributes:
        source: Of a module with a class ``Program``.
        change: A statement about the program ``p`` and its module ``m`` between two steps.
        features: What may keep it from being captured.
        arguments: Other arguments than the data, before and after.
        around: What surrounds the last steps.
        rows: Rows of data, before and after.
        loss: Of ``pyro.infer``.
        optim: Of ``pyro.optim``.
    """

    source: str = ""
    change: str = "pass"
    features: set[str] = field(default_factory=set)
    arguments: tuple[tuple[Any, ...], tuple[Any, ...]] = ((), ())
    around: str = ""
    rows: tuple[int, int] = (6, 6)
    loss: str = "Trace_ELBO()"
    optim: str = "Adam({'lr': 0.01})"
    dtype: str = "torch.float64"

    def __str__(self) -> str:
        made = f"loss {self.loss}, optim {self.optim}, arguments {self.arguments}, rows {self.rows}"
        return f"{self.source}\n# then {self.change}; around {self.around or 'nothing'}; {made}\n"


class _Writer:
    """Writes one program."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.drawn = Drawn()
        self.variables: list[str] = []
        self.fields: list[str] = []
        self.changes: list[str] = []
        self.model: list[str] = []
        self.guide: list[str] = []
        self.sites: list[str] = []  # expressions, scalars or of the data's plate
        self.count = 0

    def maybe(self, times: int = 2) -> bool:
        """Tells yes once in so many times; no is the simpler one."""
        return bool(self.choose([False] * (times - 1) + [True]))

    def number(self) -> str:
        """Returns an expression for a positive number, read somewhere."""
        if self.maybe(6):
            return "1.5"
        kind = self.choose(list(READS))
        read, name = READS[kind], f"v{self.count}"
        self.count += 1
        values = {"v": name, "a": self.choose(["1.25", "0.75"]), "b": self.choose(["2.5", "0.5"])}
        self.variables.append(read.variable.format(**values))
        self.fields.append(read.field.format(**values))
        self.changes += [change.format(**values) for change in read.changes]
        return read.read.format(**values)

    def latent(self, name: str, local: bool) -> None:
        positive = self.maybe(3)
        made = self.choose(POSITIVE if positive else REAL).format(s=self.number())
        self.model.append(f"{name} = pyro.sample('{name}', {made})")
        shape = "len(x)" if local else "()"
        loc = f"pyro.param('{name}_loc', torch.zeros({shape}))"
        if local and self.amortised:
            loc = "self.encoder(x)[:, 0]"
        scale = f"pyro.param('{name}_scale', torch.tensor(0.3), constraint=constraints.positive)"
        family = "LogNormal" if positive else self.choose(["Normal", "Normal", "Laplace"])
        if self.maybe(5):
            scale = f"0.2 * {self.number()}"
        self.guide.append(f"pyro.sample('{name}', dist.{family}({loc}, {scale}))")
        self.sites.append(name)

    def extra(self) -> None:
        """Something more in the model, outside of the data's plate."""
        name = self.choose(list(EXTRAS))
        extra = EXTRAS[name]
        if self.kind not in extra.of or (extra.feature and not self.maybe(4)):
            return
        if extra.feature:
            self.drawn.features.add(extra.feature)
        values = {"n": f"e{len(self.model)}", "t": f"torch.as_tensor({self.sites[-1]})"}
        values["s"] = self.number() if "{s}" in "".join(extra.model) else ""
        self.fields += [line.format(**values) for line in extra.fields]
        self.model += [line.format(**values) for line in extra.model]
        self.guide += [line.format(**values) for line in extra.guide]
        if extra.value:
            self.sites.append(extra.value.format(**values))

    def write(self) -> Drawn:
        choose, drawn = self.choose, self.drawn
        self.kind = choose(["object", "object", "nn.Module", "PyroModule"])
        guide = choose(GUIDES)
        self.amortised = guide == "by hand, amortised"
        for i in range(choose([1, 1, 2])):
            self.latent(f"z{i}", local=False)
        for _ in range(choose([0, 1, 2, 3])):
            self.extra()
        self._data(guide)
        if self.amortised:
            self.fields.append("self.encoder = nn.Linear(1, 1)")
            self.guide.insert(0, "pyro.module('encoder', self.encoder)")
        self._around()
        drawn.loss = choose(
            [
                *("Trace_ELBO()",) * 7,
                *("Trace_ELBO(num_particles=2)", "TraceMeanField_ELBO()", "TraceMeanField_ELBO()"),
                *("TraceGraph_ELBO()", "RenyiELBO(num_particles=2)"),
            ]
        )
        if "Graph" in drawn.loss or "Renyi" in drawn.loss:
            drawn.features.add("loss")
        drawn.optim = choose(
            [
                "Adam({'lr': 0.01})",
                "ClippedAdam({'lr': 0.01})",
                "SGD({'lr': 1e-4, 'momentum': 0.9})",
            ]
        )
        drawn.source = self._source(guide)
        return drawn

    def _data(self, guide: str) -> None:
        """The plate of the data, with local latents or without, subsampled or not."""
        before = len(self.model), len(self.guide)
        local = self.maybe(2)
        subsampled = not local and self.maybe(4)
        total = " + ".join(self.sites)
        if local:
            self.latent("l", local=True)
            total += " + l"
        scale = self.number()
        if self.maybe(4):
            scale = f"0.5 * beta * {scale}"
        made = self.choose(LIKELIHOODS).format(mean=total, s=scale)
        self.model.append(f"pyro.sample('x', {made}, obs={'x[i, 0]' if subsampled else 'x[:, 0]'})")
        size = ", subsample_size=4" if subsampled else ""
        inner = self.model[before[0] :]
        del self.model[before[0] :]
        self.model += [f"with pyro.plate('data', len(x){size}) as i:", *(f"    {s}" for s in inner)]
        inner = self.guide[before[1] :]
        del self.guide[before[1] :]
        if inner:
            self.guide += ["with pyro.plate('data', len(x)):", *(f"    {line}" for line in inner)]

    def _around(self) -> None:
        """What is changed between two steps."""
        choose, drawn = self.choose, self.drawn
        kind = choose(["read", "read", "read", "nothing", "number", "around", "rows", "dtype"])
        drawn.arguments = ((1.5,), (1.5,))
        if kind == "read" and self.changes:
            drawn.change = choose(self.changes)
        elif kind == "number":
            drawn.arguments = ((1.5,), choose([(2.5,), (2,)]))
        elif kind == "around":
            drawn.around = AROUND[choose(list(AROUND))]
            drawn.features.add("around")
        elif kind == "rows":
            drawn.rows = (6, 6) if "l_loc" in "".join(self.guide) else (6, 8)
        elif kind == "dtype":
            drawn.dtype = "torch.float32"

    def _source(self, guide: str) -> str:
        base = {"object": "", "nn.Module": "(nn.Module)", "PyroModule": "(PyroModule)"}[self.kind]
        start = ["super().__init__()"] if base else []
        automatic = guide.startswith("Auto")
        lines = [*self.variables, f"class Program{base}:", "    def __init__(self):"]
        made = f"self.guide = autoguide.{guide}(self.model)" if automatic else "pass"
        if automatic and base:  # which would be a submodule of itself
            made = f"object.__setattr__(self, 'guide', autoguide.{guide}(self.model))"
        lines += [f"        {line}" for line in (*start, *self.fields, made)]
        lines += ["    def model(self, x, beta):", *(f"        {line}" for line in self.model)]
        if not automatic:
            lines += ["    def guide(self, x, beta):", *(f"        {line}" for line in self.guide)]
        return HEADER + "\n".join(line for line in lines if line) + "\n"


def draw(choose: Choose) -> Drawn:
    """Draws a program."""
    return _Writer(choose).write()


def numbered(seed: int, number: int) -> Drawn:
    """Returns a program by its number."""
    return draw(random.Random(f"{seed}, {number}").choice)


# What becomes of it


@dataclass
class Outcome:
    """What became of a program: ``wrong``, ``captured``, ``eager`` or ``stock fails``."""

    kind: str
    why: str = ""


class _Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def interpreted() -> Iterator[None]:
    """Has graphs run operation by operation, and traced without what only the compiler reads."""
    from torch._inductor import compile_fx
    from torch.fx.experimental import proxy_tensor

    kept = compile_fx.compile_fx, proxy_tensor.extract_val
    compile_fx.compile_fx = lambda module, examples, **options: module
    proxy_tensor.extract_val = lambda value, **options: value  # faking it is half of a trace
    try:
        yield
    finally:
        compile_fx.compile_fx, proxy_tensor.extract_val = kept


@contextmanager
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _steps(drawn: Drawn, engine: type, steps: int) -> tuple[list[Any], dict[str, Tensor], Any]:
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    module = sys.modules["random_program"] = ModuleType("random_program")
    exec(compile(drawn.source, "<random program>", "exec"), vars(module))
    program = module.Program()
    loss = eval(f"infer.{drawn.loss}", {"infer": pyro.infer})
    optim = eval(f"optim.{drawn.optim}", {"optim": pyro.optim})
    svi = engine(program.model, program.guide, optim, loss)
    x = torch.randn(drawn.rows[0], 1)
    losses: list[Any] = []
    try:
        losses += [svi.step(x, *drawn.arguments[0]) for _ in range(steps)]
        exec(drawn.change, {**vars(module), "p": program, "m": module})
        x = torch.randn(drawn.rows[1], 1)
        if drawn.dtype != "torch.float64":
            x = x.to(torch.float32)
        for _ in range(steps):
            if drawn.around:
                with eval(drawn.around, vars(module)):
                    losses.append(svi.step(x, *drawn.arguments[1]))
            else:
                losses.append(svi.step(x, *drawn.arguments[1]))
    except Exception as error:
        losses.append(error)
    store = pyro.get_param_store()
    return losses, {name: store[name].detach().clone() for name in store}, svi


def outcome(drawn: Drawn, steps: int = 3) -> Outcome:
    """Takes steps of a program with stock SVI and with ours, and compares them.

    Losses and parameters are to agree to 1e-9 in double precision; where stock raises an error,
    ours has to raise one of that kind at the same step.
    """
    said, log = _Said(), logging.getLogger("pyro_vae")
    log.addHandler(said)
    try:
        with _double(), warnings.catch_warnings(action="ignore"):
            stock, stock_params, _ = _steps(drawn, SVI, steps)
            ours, params, svi = _steps(drawn, CompiledSVI, steps)
    finally:
        log.removeHandler(said)
    if isinstance(stock[-1], Exception):
        if type(ours[-1]) is not type(stock[-1]) or len(ours) != len(stock):
            return Outcome("wrong", f"stock raises {stock[-1]!r}, ours {ours[-1]!r}")
        ours, stock = ours[:-1], stock[:-1]
    elif isinstance(ours[-1], Exception):
        return Outcome("wrong", f"it raises {ours[-1]!r}")
    try:
        torch.testing.assert_close(ours, stock, rtol=1e-9, atol=1e-9, equal_nan=True)
        torch.testing.assert_close(params, stock_params, rtol=1e-9, atol=1e-9, equal_nan=True)
    except AssertionError as error:
        return Outcome("wrong", str(error))
    if svi.engine_steps.get("inductor", 0):
        return Outcome("captured")
    if len(stock) == 0:
        return Outcome("stock fails")
    why = "; ".join(line.partition("eagerly: ")[2] or line for line in said.lines)
    return Outcome("eager", why)


def is_true(why: str, drawn: Drawn) -> bool:
    """Tells whether a program has what the reasons why it runs eagerly say that it has."""

    def is_one(reason: str) -> bool:
        return any(
            re.search(known, reason) and feature in drawn.features
            for known, feature in REASONS.items()
        )

    return all(map(is_one, why.split("; ")))
