"""Every function takes the same kinds of data and numbers, and returns the same for all of them."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import criticism, report
from pyro_vae import evaluation as ev
from pyro_vae.criticism import calibrate, check, default_statistics, pit, statistics
from pyro_vae.programs import VAE

SIZE, DIM = 20, 3


@cache
def _counts() -> pv.VAE:
    """A model with all that may go with data."""
    likelihood = pv.likelihoods.Poisson((DIM,), size_factor=True)
    networks = {"encoder": pv.networks.MLP((4,)), "decoder": pv.networks.MLP((4,))}
    prior, guide = pv.priors.Normal(2), pv.guides.Normal(2)
    return pv.VAE(prior, guide, likelihood, **networks, cond_size=2, seed=1).eval()


@cache
def _plain(seed: int = 1) -> pv.VAE:
    """A model with nothing beside its data: for what compares sets of them."""
    likelihood = pv.likelihoods.Normal((DIM,), scale=1.0)
    networks = {"encoder": pv.networks.MLP((4,)), "decoder": pv.networks.MLP((4,))}
    prior, guide = pv.priors.Normal(2), pv.guides.Normal(2)
    return pv.VAE(prior, guide, likelihood, **networks, seed=seed).eval()


@cache
def _classes() -> pv.VAE:
    likelihood = pv.likelihoods.Bernoulli((DIM,))
    networks = {"encoder": pv.networks.MLP((4,)), "decoder": pv.networks.MLP((4,))}
    prior, guide = pv.priors.Categorical(1, 4), pv.guides.GumbelSoftmax(1, 4)
    return pv.VAE(prior, guide, likelihood, **networks, seed=1).eval()


def _data() -> dict[str, Any]:
    """Numbers that float32 holds exactly, whatever they are then given as."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 6, (SIZE, DIM), generator=generator).float()
    mask = torch.rand(SIZE, DIM, generator=generator) > 0.3
    mask[:, 0] = True
    size = torch.randint(1, 4, (SIZE,), generator=generator) / 2
    cond = torch.eye(2).repeat(SIZE // 2, 1)
    return {"x": x, "cond": cond, "mask": mask, "covariates": {"size_factor": size}}


def _strided(value: Tensor) -> Tensor:
    return torch.stack([value, torch.zeros_like(value)], -1)[..., 0]


def _read_only(value: Tensor) -> np.ndarray:
    array = value.numpy().copy()
    array.flags.writeable = False
    return array


def _other_order(value: Tensor) -> np.ndarray:
    array = value.numpy()
    return array.astype(array.dtype.newbyteorder(">"))


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "float32 array": Tensor.numpy,
    "float64 array": lambda t: _double(t).numpy(),
    "float64 tensor": _double,
    "list": Tensor.tolist,
    "strided tensor": _strided,
    "strided array": lambda t: _strided(t).numpy(),
    "reversed array": lambda t: t.flip(0).numpy()[::-1],
    "read-only array": _read_only,
    "array of another byte order": _other_order,
}
if torch.cuda.is_available():
    KINDS["tensor on another device"] = Tensor.cuda

Kind = Callable[[Tensor], Any]
Int = Callable[[int], Any]


class _Given:
    """All that a verb may be called with, as one kind: of arrays, and of integers."""

    def __init__(self, kind: Kind, integer: Int, folder: Path) -> None:
        known = _data()
        self.i, self.folder, self.kind = integer, folder, kind
        self.x, self.cond = kind(known["x"]), kind(known["cond"])
        self.mask = kind(known["mask"])
        self.covariates = {"size_factor": kind(known["covariates"]["size_factor"])}
        self.plain = kind((known["x"] - 2) / 2)
        self.row = kind((known["x"][0] - 2) / 2)
        self.binary = kind((known["x"] > 2).float())
        self.labels = kind(torch.arange(SIZE) % 2)
        self.z = kind(torch.linspace(-1, 1, 2 * SIZE).reshape(SIZE, 2))

    @property
    def conditions(self) -> dict[str, Any]:
        return {"cond": self.cond, "covariates": self.covariates}

    @property
    def beside(self) -> dict[str, Any]:
        return {**self.conditions, "mask": self.mask}


def _fit(g: _Given) -> Any:
    vae = VAE(
        pv.priors.Normal(g.i(2)),
        pv.guides.Normal(g.i(2)),
        pv.likelihoods.Poisson((g.i(DIM),), size_factor=True),
        pv.networks.MLP((g.i(4),)),
        pv.networks.MLP([g.i(4)]),
        cond_size=g.i(2),
        seed=g.i(3),
    )
    run = pv.fit(
        vae, g.x, **g.beside, epochs=g.i(2), batch_size=g.i(7), patience=g.i(1), seed=g.i(1),
        validation=0.3, compile=False, device="cpu", keep=g.i(2), checkpoint_every=g.i(2),
        out=g.folder / "run", objective=pv.objectives.IWAE(g.i(2)),
    )  # fmt: skip
    again = pv.load(g.folder / "run")
    return [torch.cat([p.flatten() for p in each.parameters()]) for each in (run.vae, again)]


def _select(g: _Given) -> Any:
    def build(dim: Any) -> pv.VAE:
        networks = {"encoder": pv.networks.MLP(()), "decoder": pv.networks.MLP(())}
        prior, guide = pv.priors.Normal(dim), pv.guides.Normal(dim)
        return pv.VAE(prior, guide, pv.likelihoods.Normal((DIM,), scale=1.0), **networks)

    found = pv.select(
        build, g.plain, {"dim": [g.i(1), g.i(2)]}, folds=g.i(2), seeds=g.i(1),
        num_samples=g.i(3), seed=g.i(2), epochs=g.i(1), device="cpu",
    )  # fmt: skip
    return [found.log_marginal, found.summary()]


def _labelled(g: _Given) -> Any:
    vae = _classes()
    found = ev.probe(
        _plain(), g.plain, g.labels, test=g.plain, test_labels=g.labels, folds=g.i(2),
        neighbours=g.i(2), seed=g.i(1),
    )  # fmt: skip
    right = ev.accuracy(vae, g.binary, g.labels)
    features = {"x": g.plain}
    others = ev.probe_features(
        features, g.labels, components=g.i(2), folds=g.i(2), neighbours=g.i(2), seed=g.i(1)
    )
    return [found.accuracy, right, {name: each.summary() for name, each in others.items()}]


def _gaps(g: _Given) -> Any:
    found = ev.gaps(
        _counts(), g.x, num_steps=g.i(2), num_particles=g.i(2), num_samples=g.i(3), seed=g.i(1),
        log_marginal=g.kind(torch.zeros(SIZE)), mcse=g.kind(torch.ones(SIZE)), **g.beside,
    )  # fmt: skip
    return [found.approximation, found.summary()]


def _evaluate(g: _Given) -> Any:
    options = {"num_samples": g.i(25), "seed": g.i(1), "max_memory": g.i(2**22)}
    scores = pv.evaluate(_counts(), g.x, **options, **g.beside)
    return [scores.log_marginal, scores.k_hat, scores.summary()]


def _check(g: _Given) -> Any:
    only = statistics.Statistic("mean", lambda x: x.mean(-2))
    found = check(
        _counts(), g.x, seed=g.i(1), max_data=g.i(50), num_draws=g.i(480), statistics=[only],
        **g.beside,
    )  # fmt: skip
    return found.summary()


def _tree(tree: Any) -> Any:
    """The draws of a tree, and no date."""
    return [
        tree[group][name].values
        for group in sorted(tree.groups)
        for name in sorted(tree[group].data_vars)
    ]


def _ais(g: _Given) -> Any:
    few = {"num_chains": g.i(2), "num_temperatures": g.i(3), "num_leapfrog": g.i(1)}
    found = ev.ais(_counts(), g.x, **few, seed=g.i(1), **g.beside)
    return [found.log_marginal, found.summary()]


def _bdmc(g: _Given) -> Any:
    few = {"num_chains": g.i(2), "num_temperatures": g.i(3), "num_leapfrog": g.i(1)}
    found = ev.bdmc(_counts(), g.i(SIZE), **few, seed=g.i(1), **g.conditions)
    return [found.lower, found.upper, found.summary()]


def _calibrate(g: _Given) -> Any:
    few = {"num_simulations": g.i(SIZE), "num_draws": g.i(19)}
    return calibrate(_counts(), **few, seed=g.i(1), **g.beside).summary()


def _posterior(g: _Given) -> Any:
    few = {"num_draws": g.i(5), "num_proposals": g.i(50)}
    drawn = ev.posterior_draws(_counts(), g.x, method="importance", **few, seed=g.i(1), **g.beside)
    return [drawn.z, drawn.k_hat]


def _anomalies(g: _Given) -> Any:
    few = {"num_samples": g.i(5), "seed": g.i(1)}
    return ev.anomalies(_plain(), g.plain, g.plain, reference=g.plain, **few).summary()


def _initialize(g: _Given) -> Any:
    vae = copy.deepcopy(_counts())
    vae.initialize(g.x, **g.conditions)
    return [each for name, each in vae.named_buffers() if "standardize" in name]


def _pictures(g: _Given) -> Any:
    vae, path = _counts(), g.folder / "picture.png"
    written = [
        report.reconstructions(vae, g.x, path, **g.beside),
        report.latent(vae, g.x, path, color_by=g.labels, **g.beside),
        report.side_by_side({"one": (_plain(), g.plain), "other": (_plain(2), g.plain)}, path),
        report.samples(vae, path, num_samples=g.i(SIZE), reference=g.x, **g.conditions),
    ]
    return [each.read_bytes()[:4] for each in written]


VERBS: dict[str, Callable[[_Given], Any]] = {
    "encode": lambda g: _counts().encode(g.x, **g.beside).mean,
    "decode": lambda g: _counts().decode(g.z, **g.conditions).mean,
    "sample": lambda g: _counts().sample(g.i(SIZE), seed=g.i(2), **g.conditions),
    "reconstruct": lambda g: _counts().reconstruct(g.x, **g.beside),
    "log_prob": lambda g: _counts().log_prob(g.x, g.i(3), **g.beside).shape,
    "classify": lambda g: _classes().classify(g.binary),
    "at": lambda g: _counts().at(g.kind(torch.eye(2)[0])).decode(
        g.z, covariates=g.covariates
    ).mean,
    "impute": lambda g: _counts().impute(
        g.x, g.mask, num_samples=g.i(3), num_imputations=g.i(2), **g.conditions
    ).shape,
    "fit": _fit,
    "select": _select,
    "evaluate": _evaluate,
    "enumerate_log_prob": lambda g: ev.enumerate_log_prob(_classes(), g.binary),
    "ais": _ais,
    "bdmc": _bdmc,
    "gaps": _gaps,
    "posterior_draws": _posterior,
    "probe and accuracy, probe_features": _labelled,
    "anomalies": _anomalies,
    "outliers": lambda g: ev.outliers(
        _plain(), g.plain, reference=g.plain, num_samples=g.i(5), seed=g.i(1)
    ).summary(),
    "rate_distortion": lambda g: ev.rate_distortion(
        _counts(), g.x, num_samples=g.i(2), seed=g.i(1), **g.beside
    ).summary(),
    "check": _check,
    "calibrate": _calibrate,
    "pit": lambda g: pit(
        _counts(), g.x, num_draws=g.i(99), seed=g.i(1), **g.beside
    ).summary(),
    "default_statistics": lambda g: [
        each.name for each in default_statistics(_counts(), size=g.i(30), **g.beside)
    ],
    "to_datatree": lambda g: _tree(
        pv.to_datatree(_counts(), g.x, num_draws=g.i(5), seed=g.i(1), **g.beside)
    ),
    "posterior_predictive": lambda g: _tree(
        pv.posterior_predictive(_counts(), g.x, num_draws=g.i(5), seed=g.i(1), **g.beside)
    ),
    "prior_predictive": lambda g: _tree(
        pv.prior_predictive(
            _counts(), size=g.i(SIZE), num_draws=g.i(5), seed=g.i(1), **g.conditions
        )
    ),
    "traversals": lambda g: report.traversals(_plain(), g.row, g.kind(torch.tensor([0, 1]))),
    "interpolations": lambda g: report.interpolations(_plain(), g.plain, g.plain, steps=g.i(4)),
    "initialize": _initialize,
    "pictures": _pictures,
    "load": lambda g: pv.data.load(
        g.plain, labels=g.labels, seed=g.i(1)
    ).some_labels(g.i(4), seed=g.i(1)),
    "load, then score": lambda g: pv.evaluate(
        _plain(), pv.data.load(g.plain, seed=g.i(1)).train, num_samples=g.i(5), seed=g.i(1)
    ).log_marginal,
}  # fmt: skip
ELSEWHERE = {
    "compare": "takes scores",
    "calibrate_globals": "takes a program and a function that fits it",
    "save": "takes a folder",
    "fit_many": "hands all that it takes to fit",
    "push": "takes a model or a folder, see tests/test_hub.py",
    "tree_for": "takes a tree",
    "from_pyro_svi": "what it takes is of the user's own program",
    "coherence": "takes topics and counts, see tests/test_topics.py",
    "complete": "takes counts, see tests/test_topics.py",
    "completion": "takes probabilities and counts, see tests/test_topics.py",
    "diversity": "takes topics, see tests/test_topics.py",
    "representative": "takes counts, see tests/test_topics.py",
    "top_words": "takes topics, see tests/test_topics.py",
    "recommend": "takes counts, see tests/test_recommendation.py",
    "recommendation_scores": "takes counts, see tests/test_recommendation.py",
    "ranking": "takes scores, see tests/test_recommendation.py",
    "accepts": "takes rows",
    "uses": "takes rows",
    "draw_weighted": "takes rows that a model accepted",
    "log_joint": "takes rows that a model accepted",
}


def test_every_function_is_tried_or_has_a_reason() -> None:
    """Fails when a new function is left out."""
    public = {
        name
        for package in (pv, ev, criticism)
        for name in package.__all__
        if inspect.isfunction(getattr(package, name))
    }
    public |= {name for name, each in vars(VAE).items() if inspect.isfunction(each)}
    public = {name for name in public if not name.startswith("_")}
    tried = {word for verb in VERBS for word in re.split(" and |, ", verb)}
    assert public - tried - set(ELSEWHERE) == set()
    assert set(ELSEWHERE) <= public


def _as_numbers(value: Any) -> Any:
    """What a verb found, as nested lists that compare; what is for a file must be fit for one."""
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in ("seconds", "base_measure")}
        return json.loads(json.dumps(value))
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return [_as_numbers(each) for each in value] if isinstance(value, list | tuple) else value


def _same(found: Any, known: Any) -> None:
    if isinstance(known, dict):
        assert found.keys() == known.keys()
        for key in known:
            _same(found[key], known[key])
    elif isinstance(known, list):
        assert len(found) == len(known)
        for each, other in zip(found, known, strict=True):
            _same(each, other)
    elif isinstance(known, np.ndarray | float) and np.asarray(known).dtype.kind in "fiu":
        np.testing.assert_allclose(found, known, rtol=2e-4, atol=1e-5)
    else:
        assert np.all(found == known)


@cache
def _known(verb: str, folder: Path) -> Any:
    return _as_numbers(VERBS[verb](_Given(lambda t: t, int, folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("known")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_any_kind_of_data(verb: str, kind: str, folder: Path, tmp_path: Path) -> None:
    """Fails where a kind is a traceback, is refused, or gives another result."""
    _same(_as_numbers(VERBS[verb](_Given(KINDS[kind], int, tmp_path))), _known(verb, folder))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_numbers_of_numpy(verb: str, folder: Path, tmp_path: Path) -> None:
    found = VERBS[verb](_Given(lambda t: t, np.int64, tmp_path))
    _same(_as_numbers(found), _known(verb, folder))


WRONG: dict[str, tuple[str, Any]] = {
    "masked array": ("x", np.ma.masked_array(np.ones((SIZE, DIM)), np.eye(SIZE, DIM) > 0)),
    "words": ("x", [["a"] * DIM] * SIZE),
    "ragged list": ("x", [[1.0] * DIM, [1.0]]),
    "complex array": ("x", np.ones((SIZE, DIM), complex)),
    "complex tensor": ("x", torch.ones(SIZE, DIM, dtype=torch.complex64)),
    "a number": ("x", 3.0),
    "None": ("x", None),
    "a tensor without numbers": ("x", torch.ones(SIZE, DIM, device="meta")),
    "a sparse tensor": ("x", torch.eye(SIZE)[:, :DIM].to_sparse()),
    "no rows": ("x", np.ones((0, DIM))),
    "another width": ("x", np.ones((SIZE, DIM + 1))),
    "no finite number": ("x", np.full((SIZE, DIM), np.nan)),
    "a condition of another width": ("cond", np.ones((SIZE, 3))),
    "conditions of fewer": ("cond", np.ones((SIZE - 1, 2))),
    "a condition of words": ("cond", [["a", "b"]] * SIZE),
    "no condition": ("cond", None),
    "a condition that is infinite": ("cond", np.full((SIZE, 2), np.inf)),
    "a mask of numbers": ("mask", np.ones((SIZE, DIM))),
    "a mask of another shape": ("mask", np.ones((SIZE, 1), bool)),
    "covariates that are a list": ("covariates", [1.0] * SIZE),
    "covariates that are an array": ("covariates", np.ones(SIZE)),
    "no covariates": ("covariates", None),
    "another covariate": ("covariates", {"exposure": np.ones(SIZE)}),
    "covariates of fewer": ("covariates", {"size_factor": np.ones(SIZE - 1)}),
    "a covariate out of its domain": ("covariates", {"size_factor": -np.ones(SIZE)}),
    "a covariate in words": ("covariates", {"size_factor": ["a"] * SIZE}),
}
SIMULATING = {
    "decode": ("cond", "covariates"),
    "sample": ("cond", "covariates"),
    "bdmc": ("cond", "covariates"),
    "prior_predictive": ("cond", "covariates"),
    "default_statistics": ("cond", "covariates"),
    "calibrate": ("cond", "covariates"),
}
WITH_ALL = (
    "encode", "reconstruct", "log_prob", "fit", "evaluate", "ais", "gaps", "posterior_draws",
    "rate_distortion", "check", "pit", "to_datatree", "posterior_predictive", "impute",
)  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "wrong"),
    [(verb, wrong) for verb in WITH_ALL for wrong in WRONG]
    + [(verb, wrong) for verb, names in SIMULATING.items() for wrong in WRONG
       if WRONG[wrong][0] in names],
)  # fmt: skip
def test_what_is_wrong_is_one_clear_line(verb: str, wrong: str, tmp_path: Path) -> None:
    """Fails with a traceback of NumPy's or torch's, or where it is taken for data."""
    name, value = WRONG[wrong]
    given = _Given(lambda t: t, int, tmp_path)
    setattr(given, name, value)
    with pytest.raises(ValueError, match=f"^`({name}|data|covariates: \\w+)`: expected") as said:
        VERBS[verb](given)
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < 250


@pytest.mark.parametrize("number", [2.0, "2", True, 0, -1, None, torch.tensor([1, 2])])
@pytest.mark.parametrize("verb", ["sample", "bdmc", "prior_predictive", "log_prob", "impute"])
def test_what_is_no_count_is_one_clear_line(verb: str, number: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`\w+`: expected (a positive|an) integer"):
        VERBS[verb](_Given(lambda t: t, lambda n: number, tmp_path))


@pytest.mark.parametrize(
    ("z", "said"),
    [
        (np.ones((5, 3)), r"`z`: expected a tensor of real numbers of shape \(\*, B, 2\)"),
        (3.0, "`z`: expected"),
        ([["a", "b"]], "`z`: expected"),
        (np.ones((5, 2), complex), "`z`: expected"),
    ],
)
def test_what_is_no_latent_is_one_clear_line(z: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _plain().decode(z)
