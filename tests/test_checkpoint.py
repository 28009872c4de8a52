"""A model comes back from its files bit by bit, and bad files are named."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import hostile
import pyro
import pytest
import torch
from cases import GUIDES, LIKELIHOODS, NETWORKS, PRIORS, Case
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.checkpoint import read_json, write_json
from pyro_vae.testing import some_covariates


def small_vae(**networks: nn.Module) -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)), **networks
    )


def assert_same_model(a: pv.VAE, b: pv.VAE, x: Tensor, **given: Any) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
        assert tensor.dtype == theirs[name].dtype, name
    values = []
    for vae in (a, b):
        pyro.set_rng_seed(1)
        values.append(vae.log_prob(x, 5, **given))
    assert torch.equal(*values)


def _models() -> list[tuple[Case, Case, Case]]:
    """Every pair with one likelihood, every likelihood with one pair: files keep parts apart."""
    pairs = [(p, q) for p, q in itertools.product(PRIORS, GUIDES) if p().space == q().space]
    first, *others = LIKELIHOODS
    return [(*pair, first) for pair in pairs] + [(*pairs[0], each) for each in others]


@pytest.mark.parametrize(("prior", "guide", "likelihood"), _models(), ids=str)
def test_round_trip(prior: Case, guide: Case, likelihood: Case, tmp_path: Path) -> None:
    vae = pv.VAE(prior(), guide(), likelihood())
    covariates = some_covariates(vae.likelihood, 6)
    x = vae.sample(6, covariates=covariates)
    vae.initialize(x, covariates=covariates)
    pv.save(vae, tmp_path / "run")
    loaded = pv.load(tmp_path / "run")
    assert_same_model(vae, loaded, x, covariates=covariates)
    for part in ("prior", "guide_family", "likelihood", "encoder", "decoder"):
        assert getattr(loaded, part).spec() == getattr(vae, part).spec()


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_round_trip_of_networks(network: Case, tmp_path: Path) -> None:
    for place in ("encoder", "decoder"):
        series = network.part.__name__.startswith("TemporalConv")
        likelihood = pv.likelihoods.Poisson((2, 6) if series else (2, 6, 5))
        if network.part is pv.networks.SequenceEncoder:
            likelihood = pv.likelihoods.Categorical((6,), levels=7)
        try:
            vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, **{place: network()})
        except ValueError:
            continue  # a network for the other direction
        x = vae.sample(6)
        pv.save(vae.double(), tmp_path / place)
        assert_same_model(vae, pv.load(tmp_path / place), x)
    assert list(tmp_path.iterdir())


class Own(nn.Module):
    """A user's decoder, built without arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z)


class Shifted(pv.priors.Normal):
    """A user's prior, with an argument of its own."""

    def __init__(self, dim: int, shift: float) -> None:
        super().__init__(dim)
        self.loc.fill_(shift)


def test_users_classes_are_looked_up_where_they_are_given(tmp_path: Path) -> None:
    vae = pv.VAE(
        Shifted(2, shift=3.0), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)), decoder=Own()
    )
    pv.save(vae, tmp_path / "run")
    loaded = pv.load(tmp_path / "run", classes={"Own": Own, "Shifted": Shifted})
    assert_same_model(vae, loaded, torch.ones(3, 4))
    assert isinstance(loaded.decoder, Own)
    assert torch.equal(loaded.prior.loc, torch.full((2,), 3.0))
    with pytest.raises(ValueError, match=r"`prior`: expected one of .*got 'Shifted'"):
        pv.load(tmp_path / "run", classes={"Own": Own})


def test_a_fitted_model_is_not_initialised_again(tmp_path: Path) -> None:
    vae, x = small_vae(), torch.bernoulli(torch.full((50, 4), 0.3))
    vae.initialize(x)
    loaded = pv.load(pv.save(vae, tmp_path / "run"))
    loaded.initialize(1 - x)
    assert_same_model(vae, loaded, x)


def test_a_model_is_never_overwritten(tmp_path: Path) -> None:
    pv.save(small_vae(), tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="`folder`: expected one that holds no model yet"):
        pv.save(small_vae(), tmp_path / "run")
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_what_json_cannot_say_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Odd(pv.priors.Normal):
        def __init__(self, dim: int, scale: Any) -> None:
            super().__init__(dim)

    vae = pv.VAE(Odd(2, torch.ones(2)), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
    with pytest.raises(ValueError, match="`scale`: expected a number, a string, a part"):
        pv.save(vae, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_at_a_condition_is_not_saved(tmp_path: Path) -> None:
    """Fails when a folder is written that nothing can load."""
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,))
    vae = pv.VAE(*parts, cond_size=3)
    with pytest.raises(ValueError, match=r"^`vae`: expected the model with conditions[^\n]*$"):
        pv.save(vae.at(torch.ones(3)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    pv.save(vae, tmp_path / "run")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json") == {"x": 1}


# Bad files. Nothing in them is run: names are looked up, never imported.


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return pv.save(small_vae(), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["vae"]["prior"].update({"class": "priors.Norml"}), "did you mean 'priors.No"),
        (lambda d: d["vae"]["prior"].update({"class": "os.system"}), "`prior`: expected one of"),
        (lambda d: d["vae"]["prior"].update({"class": "priors.Prior"}), "`prior`: "),
        (lambda d: d["vae"]["prior"].update({"class": 3}), "`prior`: expected one of"),
        (lambda d: d["vae"]["prior"].update({"args": {"dims": 2}}), "`prior`: .*'dims'"),
        (lambda d: d["vae"]["prior"].update({"args": {"dim": -2}}), "`dim`: expected a positive"),
        (lambda d: d["vae"]["prior"].update({"args": [2]}), "`prior`: expected a class and its"),
        (lambda d: d["vae"].update({"prior": None}), "`prior`: expected a class"),
        (lambda d: d["vae"].pop("guide"), "expected parts prior, guide"),
        (lambda d: d.update({"vae": []}), "expected parts prior, guide"),
        (lambda d: d.update({"schema": 99}), r"expected schema 1, which pyro-vae .* reads, got 99"),
        (lambda d: d.update({"sha256": "0" * 64}), "expected SHA-256 000"),
        (
            lambda d: d["vae"]["encoder"]["args"].update({"hidden": [3]}),
            "expected the weights of model.json.*size mismatch",
        ),
    ],
)
def test_a_changed_description_is_named(run: Path, change: Any, says: str) -> None:
    hostile.edit(run, change)
    with pytest.raises(ValueError, match=says) as error:
        pv.load(run)
    assert "\n" not in str(error.value)


def test_missing_and_damaged_files_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`folder`: expected an existing run folder"):
        pv.load(tmp_path / "nowhere")
    weights = run / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model.safetensors`: expected SHA-256"):
            pv.load(run)
    weights.unlink()
    with pytest.raises(ValueError, match=r"`folder`: expected a file model.safetensors in it"):
        pv.load(run)
    (run / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.json`: expected valid JSON"):
        pv.load(run)
    (run / "model.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"model.json`: expected a JSON object"):
        pv.load(run)
    (run / "model.json").unlink()
    with pytest.raises(ValueError, match=r"`folder`: expected a file model.json in it"):
        pv.load(run)


# A run folder from a stranger: nothing in it is run, and it takes no more memory than its size.


@pytest.mark.parametrize("what", list(hostile.every(Path(), Path())))
def test_a_hostile_folder_is_refused(what: str, run: Path, tmp_path: Path) -> None:
    """Fails when links are followed, a name that comes twice counts once, or NaN is a weight."""
    hostile.every(run, tmp_path)[what]()
    began = time.thread_time()
    with pytest.raises(ValueError, match=r"model\.(json|safetensors)") as error:
        pv.load(run)
    assert time.thread_time() - began < 1.5
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


# --- Networks of the user's own -------------------------------------------------------------------


class Wide(nn.Module):
    """A user's network that takes an argument."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = _layers(4, width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _layers(*widths: int) -> nn.Sequential:
    first, middle, last = widths
    return nn.Sequential(nn.Linear(first, middle), nn.ReLU(), nn.Linear(middle, last))


def test_two_networks_of_one_class_come_back(tmp_path: Path) -> None:
    """Fails when the networks are looked up by the name of their class, which both have."""
    vae = small_vae(encoder=_layers(4, 8, 4), decoder=_layers(2, 8, 4))
    pv.save(vae, tmp_path / "run")
    encoder, decoder = _layers(4, 8, 4), _layers(2, 8, 4)
    loaded = pv.load(tmp_path / "run", encoder=encoder, decoder=decoder)
    assert loaded.encoder is encoder
    assert_same_model(vae, loaded, torch.ones(3, 4))


def test_one_network_may_be_given_and_the_other_named(tmp_path: Path) -> None:
    vae = small_vae(encoder=Wide(8), decoder=Own())
    pv.save(vae, tmp_path / "run")
    loaded = pv.load(tmp_path / "run", classes={"Own": Own}, encoder=Wide(8))
    assert_same_model(vae, loaded, torch.ones(3, 4))


@pytest.mark.parametrize(
    ("encoder", "names"),
    [
        (_layers(4, 8, 4), "`encoder`: no file has the arguments of a Sequential"),
        (Wide(8), "`encoder`: no file has the arguments of a Wide"),
        (nn.Sequential(pv.networks.MLP()), "of a Sequential"),
        (pv.networks.MLP((3,)), None),
        (nn.Identity(), "of a Identity"),
    ],
)
def test_what_no_file_rebuilds_is_said_when_it_is_saved(
    encoder: nn.Module, names: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails when a folder is written without a word that nothing can load."""
    pv.save(small_vae(encoder=encoder, decoder=Own()), tmp_path / "run")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (names is not None)
    assert all(names in line and "`pv.load(folder, encoder=...)`" in line for line in said)
    assert "\n" not in "".join(said)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, r"`encoder`: expected a network of your own: `pv.load\(folder, encoder=...\)` .*"
             r"`classes=\{'Sequential': ...\}`"),
        ({"encoder": _layers(4, 5, 4)}, "expected the weights of model.json, got size mismatch"),
        ({"encoder": nn.Sequential}, "^`encoder`: expected a network, built as"),
        ({"encoder": _layers(4, 8, 4), "decoder": 3}, "^`decoder`: expected a network, built as"),
    ],
)  # fmt: skip
def test_a_network_that_is_not_given_or_is_another_is_named(
    given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    pv.save(small_vae(encoder=_layers(4, 8, 4)), tmp_path / "run")
    with pytest.raises(ValueError, match=says) as error:
        pv.load(tmp_path / "run", **given)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
