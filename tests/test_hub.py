"""Models on the Hugging Face Hub: what is sent, what is fetched, and what is refused.

The client is a stub, which keeps repositories in a folder (tests/hub_stub.py).
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from hostile import faults
from hub_stub import Hub, Repository
from torch import nn

import pyro_vae as pv
from pyro_vae import _hub
from pyro_vae._hub import Address
from pyro_vae.cli import main

REPO = "some-lab/people"
X = torch.bernoulli(torch.full((40, 4), 0.4), generator=torch.Generator().manual_seed(0))
MODEL = {"README.md", "model.json", "model.safetensors"}
RECORD = {"config.yaml", "data.json", "engine.json", "fit.json", "history.json", "schema.json",
          "scores.json"}  # fmt: skip
QUICK = ("--epochs 2 --num-samples 20 --latent-dim 2 --compile false --device cpu "
         "--encoder.hidden [4] --decoder.hidden [4]")  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty Hub, and nothing fetched yet."""
    found = Hub(tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "huggingface_hub", found.module())
    monkeypatch.setattr(_hub, "_copies", {})
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a table of words and numbers; do not write to it."""
    folder = tmp_path_factory.mktemp("secret-place")
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal(50, 9):.1f},{['no', 'yes', 'maybe'][rng.integers(3)]},{rng.integers(9)}"
            for _ in range(240)]  # fmt: skip
    table = folder / "people.csv"
    table.write_text("\n".join(["age,a|`owns`<b>house</b>,visits", *rows]) + "\n")
    argv = f"fit {table} {QUICK} --checkpoint-every 1 --out {folder / 'run'}"
    assert main(argv.split()) == 0
    return folder / "run"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs a command that is a mistake and returns the one line that says so."""

    def failing(argv: str) -> str:
        capsys.readouterr()
        code = main(argv.split())
        said = capsys.readouterr().err
        assert (code, said.count("\n")) == (2, 1)
        return said

    return failing


def small(**options: Any) -> pv.VAE:
    networks = {"encoder": pv.networks.MLP((8,)), "decoder": pv.networks.MLP((8,))}
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,))
    return pv.VAE(*parts, **(networks | options), seed=0)


def scores_of(vae: Any) -> np.ndarray:
    return pv.evaluate(vae, X, num_samples=20, seed=0).log_marginal


def block(card: str, at: int) -> str:
    """The code of a card in Python, by its place."""
    return card.split("```python\n")[at + 1].partition("```")[0]


def test_what_is_loaded_is_what_was_shared(hub: Hub) -> None:
    vae = small()
    url = pv.push(vae, REPO)
    assert url == "https://huggingface.co/some-lab/people"
    assert set(hub.repos[REPO].files()) == MODEL | {".gitattributes"}
    assert not hub.repos[REPO].private
    loaded = pv.load(f"hf://{REPO}")
    assert np.array_equal(scores_of(loaded), scores_of(vae))
    assert set(hub.fetched) == MODEL - {"README.md"}


def test_a_branch_has_a_model_of_its_own(hub: Hub) -> None:
    first, second = small(), small(show_mask=True)
    pv.push(first, REPO)
    assert pv.push(second, REPO, revision="v2").endswith("/some-lab/people/tree/v2")
    assert np.array_equal(scores_of(pv.load(f"hf://{REPO}")), scores_of(first))
    assert pv.load(f"hf://{REPO}@v2").guide.show_mask
    commit = hub.repos[REPO].branches["v2"]
    assert pv.load(f"hf://{REPO}@{commit}").guide.show_mask
    assert f'pv.load("hf://{REPO}@v2")' in hub.repos[REPO].files("v2")["README.md"].decode()
    with pytest.raises(ValueError, match=r"expected a branch.* of some-lab/people, got 'v3'"):
        pv.load(f"hf://{REPO}@v3")


def test_a_newer_commit_is_what_is_loaded_next(hub: Hub) -> None:
    """Fails when what was fetched before stands for a branch that has moved on."""
    pv.push(small(), REPO)
    assert not pv.load(f"hf://{REPO}").guide.show_mask
    pv.push(small(show_mask=True), REPO)
    assert pv.load(f"hf://{REPO}").guide.show_mask


def test_what_is_to_be_private_is_never_sent_to_a_public_place(hub: Hub) -> None:
    pv.push(small(), REPO, private=True)
    assert hub.repos[REPO].private
    hub.repos[REPO].private = False
    before = hub.repos[REPO].files()
    with pytest.raises(ValueError, match=r"`private`: expected a private repository.*is public"):
        pv.push(small(), REPO, private=True)
    assert hub.repos[REPO].files() is before


def test_a_repository_of_something_else_is_left_alone(hub: Hub) -> None:
    files = {"README.md": b"mine", "pytorch_model.bin": b"theirs"}
    hub.repos[REPO] = Repository(private=False)
    hub.repos[REPO].commit("main", files)
    with pytest.raises(ValueError, match=r"one with a model of pyro-vae, got .*pytorch_model.bin"):
        pv.push(small(), REPO)
    assert hub.repos[REPO].files() is files


def test_exactly_the_files_of_a_run_are_sent(hub: Hub, run: Path, tmp_path: Path) -> None:
    """Fails when data, checkpoints, paths, or the extremes of a column are sent."""
    (run / "people.csv").write_text("1,2")
    (run / "notes.pkl").write_bytes(pickle.dumps("x"))
    assert (run / "last.safetensors").exists()
    pv.push(run, REPO)
    files = hub.repos[REPO].files()
    assert set(files) == MODEL | RECORD | {".gitattributes"}
    everything = b"\n".join(content for name, content in files.items()).decode(errors="replace")
    assert str(run.parent) not in everything
    assert "secret-place" not in everything
    assert "reason" not in files["schema.json"].decode()
    assert "reason" in (run / "schema.json").read_text()
    assert json.loads(files["data.json"])["source"] == "people.csv"
    assert yaml.safe_load(files["config.yaml"])["data"] == "people.csv"
    pv.push(run, REPO, pictures=True)
    pictures = {"samples.png", "reconstructions.png", "latent.png", "curves.png", "pairs.png"}
    assert set(hub.repos[REPO].files()) == MODEL | RECORD | pictures | {".gitattributes"}
    assert "![samples](samples.png)" in hub.repos[REPO].files()["README.md"].decode()


def test_an_earlier_push_leaves_nothing_and_other_files_stay(hub: Hub, run: Path) -> None:
    """Fails when a model lies beside the scores of the one before."""
    pv.push(run, REPO)
    hub.repos[REPO].files()["figure.svg"] = b"theirs"
    pv.push(run, REPO, model_only=True)
    assert set(hub.repos[REPO].files()) == MODEL | {".gitattributes", "figure.svg"}


def test_a_run_on_the_hub_does_as_the_folder_does(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Fails when a command reads another folder, or writes into the one that is removed."""
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(run), REPO]) == 0
    assert "pv.load('hf://some-lab/people') loads it" in capsys.readouterr().out
    data = f"--data {run.parent / 'people.csv'} --num-samples 20 --json"
    printed = []
    for folder in (str(run), f"hf://{REPO}"):
        assert main(f"evaluate {folder} {data}".split()) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert main(f"sample hf://{REPO} -n 5 --out new.csv".split()) == 0
    assert Path("new.csv").read_text().startswith("age,a|`owns`<b>house</b>,visits\n")
    assert main(f"sample hf://{REPO} -n 5".split()) == 0
    assert Path("draws.png").is_file()
    assert main(f"compare {run} hf://{REPO} {data}".split()) == 0
    assert f"hf://{REPO}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "verb",
    ["evaluate", "check", "sample", "encode --out z.npz", "anomalies", "report", "impute",
     "rate-distortion", "compare hf://no-one/else", "probe --label x"],
)  # fmt: skip
def test_every_verb_of_a_run_takes_an_address(
    verb: str, hub: Hub, fails: Callable[[str], str]
) -> None:
    """Fails when a verb takes the address for a path."""
    name, *rest = verb.split()
    said = fails(" ".join([name, "hf://no-one/nothing", *rest]))
    assert "expected a repository that there is and that you have access to" in said


def test_the_card_loads_and_builds_the_model(hub: Hub) -> None:
    """Its code is run as it stands."""
    vae = small(show_mask=True)
    scores = pv.evaluate(vae, X, num_samples=200, seed=0)
    checks, calibration = pv.criticism.check(vae, X), pv.criticism.calibrate(vae)
    pv.push(vae, REPO, scores=scores, checks=checks, calibration=calibration, license="mit")
    card = hub.repos[REPO].files()["README.md"].decode()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "pyro-vae"
    assert yaml.safe_load(front)["license"] == "mit"
    names: dict[str, Any] = {}
    exec(block(text, 0), names)
    assert np.array_equal(scores_of(names["vae"]), scores_of(vae))
    assert names["x"].shape == (16, 4)
    exec(block(text, 1), names)
    assert pv.checkpoint.model_spec(names["vae"]) == pv.checkpoint.model_spec(vae)
    assert names["vae"].guide.show_mask
    summary = scores.summary()
    mean, error = (
        f"{summary[key]:.2f}".replace("-", "−") for key in ("log_marginal", "standard_error")
    )
    assert f"log p(x) = {mean} ± {error} nats per observation" in text
    assert (
        f"{checks.num_failed} of {sum(row.calibrated for row in checks.rows)} checks fail" in text
    )
    assert "Nothing says otherwise" in text or "quantities fail" in text
    assert "Not checked" not in text


def test_what_is_not_known_is_said(hub: Hub) -> None:
    pv.push(small(), REPO)
    card = hub.repos[REPO].files()["README.md"].decode()
    assert "license" not in card
    assert "Not scored" in card
    assert "Whether it reproduces the data was not checked." in card


def test_a_card_has_names_as_text(hub: Hub, run: Path) -> None:
    """Rendered as the Hub does: fails when a name of a column is markup, or breaks its table."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    pv.push(run, REPO)
    text = hub.repos[REPO].files()["README.md"].decode().split("---\n", 2)[2]
    page = markdown.render(text)
    assert "<b>" not in page
    assert "<code>a|`owns`&lt;b&gt;house&lt;/b&gt;</code>" in page
    assert "<td>category of 3 levels</td>" in page
    assert "maybe" not in page, "a level is a value"
    assert "reason" not in page
    assert "[...]" in block(text, 1)


def test_markup_is_escaped_in_text_and_code() -> None:
    from pyro_vae.report.card import _code, _sentence, _text

    assert _text("<img src=x>\n# a*b_c[d](http://e)|`f`") == (
        "\\<img src=x\\> # a\\*b\\_c\\[d\\](http:\\//e)\\|\\`f\\`"
    )
    assert _code("a``b|c\n") == "``` a``b\\|c ```"
    assert _sentence("more `num_samples` (--num-samples), <b>`") == (
        "more `num_samples` (--num-samples), \\<b\\>\\`"
    )


@pytest.mark.parametrize(
    ("source", "names", "says"),
    [
        ("people.tsv", ["age"], "columns of the same names:|--data new.tsv"),
        ("arrays.npz", [], "entries of the same shape:|--data new.npz"),
        ("mnist", [], "entries of the same shape:|--data new.npy"),
        ("faces", [], "entries of the same shape:|--data images"),
        (None, [], "entries of the same shape:|--data new.npy"),
    ],
)
def test_the_card_asks_about_data_of_the_kind_that_it_had(
    source: str | None, names: list[str], says: str, tmp_path: Path
) -> None:
    from pyro_vae.report.card import _asking

    (tmp_path / "data.json").write_text(json.dumps({"source": source, "names": names}))
    text = "".join(_asking(tmp_path, {"vae": {}}, Address(REPO)))
    assert all(each in text for each in says.split("|")), text


def test_code_of_ones_own_is_named_and_never_fetched(hub: Hub) -> None:
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)),
                 encoder=nn.Sequential(nn.Linear(4, 4), nn.Tanh()))  # fmt: skip
    pv.push(vae, REPO)
    card = hub.repos[REPO].files()["README.md"].decode()
    assert f'vae = pv.load("hf://{REPO}", encoder=encoder)' in card
    assert "encoder=Sequential(...)" in card
    with pytest.raises(ValueError, match="a network of your own"):
        pv.load(f"hf://{REPO}")
    built = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    assert np.array_equal(scores_of(pv.load(f"hf://{REPO}", encoder=built)), scores_of(vae))


def test_a_program_is_loaded_by_its_code(hub: Hub) -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            logits = z @ pyro.param("weights", lambda: torch.randn(2, 4))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = x[:, :2] - pyro.param("start", torch.zeros(2))
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    pair = pv.Program(model, guide)
    before = scores_of(pair)
    pv.push(pair, REPO)
    card = hub.repos[REPO].files()["README.md"].decode()
    with pytest.raises(ValueError, match=r"`program`: expected the pair"):
        pv.load(f"hf://{REPO}")
    pyro.clear_param_store()
    names: dict[str, Any] = {"model": model, "guide": guide}
    exec(block(card, 0), names)
    assert np.array_equal(scores_of(names["vae"]), before)


# What a stranger puts into a repository that is loaded as a model.
STRANGE = ["pickle", "torch.save", "10^12 elements", "endless header", "class os.system",
           "class eval", "class ../evil", "10^30 dimensions", "wide network", "nested lists",
           "not a number", "binary"]  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_what_a_stranger_shares_runs_nothing(name: str, hub: Hub, tmp_path: Path) -> None:
    pv.save(small(), tmp_path / "evil")
    faults(tmp_path / "evil", tmp_path)[name]()
    files = {path.name: path.read_bytes() for path in (tmp_path / "evil").iterdir()}
    hub.repos["no-one/evil"] = Repository(private=False)
    hub.repos["no-one/evil"].commit("main", files)
    with pytest.raises(ValueError, match=r"expected|valid JSON") as raised:
        pv.load("hf://no-one/evil")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_only_named_files_are_fetched(hub: Hub, tmp_path: Path) -> None:
    """Fails when a file that nobody asked for arrives, wherever its name would have it lie."""
    pv.push(small(), REPO)
    others = ["model.pkl", "pytorch_model.bin", "setup.py", "modelXjson", "../escaped.json",
              "deep/model.json", "../../model.safetensors", "model.json/x"]  # fmt: skip
    hub.repos[REPO].files().update(dict.fromkeys(others, b"evil"))
    pv.load(f"hf://{REPO}")
    assert main(f"sample hf://{REPO} -n 2 --out {tmp_path / 'x.npy'}".split()) == 0
    assert set(hub.fetched) == {"model.json", "model.safetensors"}
    for folder in _hub._copies.values():
        assert {path.name for path in folder.iterdir()} == {"model.json", "model.safetensors"}
        assert not any(path.is_symlink() for path in folder.iterdir())


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_a_repository_without_a_model_is_one_line(missing: str, hub: Hub) -> None:
    pv.push(small(), REPO)
    del hub.repos[REPO].files()[missing]
    message = r"^`folder`: expected a repository with model.json and model.safetensors, got 'hf://"
    with pytest.raises(ValueError, match=message):
        pv.load(f"hf://{REPO}")
    assert hub.fetched == []


def test_endless_text_is_not_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pv.push(small(), REPO)
    size = len(hub.repos[REPO].files()["model.json"])
    monkeypatch.setattr(_hub, "LARGEST_JSON", size - 1)
    with pytest.raises(
        ValueError, match=rf"at most {size - 1:,} bytes of model.json, got .*{size:,}"
    ):
        pv.load(f"hf://{REPO}")
    assert hub.fetched == []


def test_a_link_out_of_what_was_fetched_is_not_followed(hub: Hub, tmp_path: Path) -> None:
    pv.push(small(), REPO)
    pv.load(f"hf://{REPO}")
    (link,) = hub.cache.glob("*/snapshots/*/model.json")
    link.unlink()
    (tmp_path / "id_rsa").write_text("{}")
    link.symlink_to(tmp_path / "id_rsa")
    hub.down = True
    _hub._copies.clear()
    with pytest.raises(ValueError, match="expected a plain file model.json in hf://"):
        pv.load(f"hf://{REPO}")


def test_a_strangers_record_names_no_path(
    hub: Hub,
    run: Path,
    fails: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Fails when a command opens the file of this machine that a record says data are in."""
    monkeypatch.chdir(tmp_path)
    pv.push(run, REPO)
    record = json.loads(hub.repos[REPO].files()["data.json"])
    record["source"] = str(run.parent / "people.csv")
    record["options"]["root"] = str(run.parent)
    hub.repos[REPO].files()["data.json"] = json.dumps(record).encode()
    said = fails(f"evaluate hf://{REPO} --num-samples 5")
    assert "'people.csv'" in said
    assert str(run.parent) not in said


@pytest.mark.parametrize(
    "name",
    ["hf://", "hf://name", "hf://a/b/c", "hf://../b", "hf://a/..", "hf://a/b@", "hf://a/b@../c",
     "hf://a/b@c d", "hf://a/b.git@-x", "hf://a--b/c", "hf://a/b\n", "hf://a/b@c@d",
     "hf://datasets/a/b", "hf:///b", f"hf://a/{'b' * 96}"],
)  # fmt: skip
def test_what_is_no_address_is_one_line(name: str, hub: Hub) -> None:
    with pytest.raises(ValueError, match=r"^`folder`: expected an address as hf://owner/name"):
        pv.load(name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"repo": "name"}, "`repo`: expected the name of a repository, as owner/name"),
        ({"repo": "hf://a/b"}, "`repo`: expected the name of a repository, as owner/name"),
        ({"revision": "a b"}, "`revision`: expected a branch"),
        ({"private": "yes"}, "`private`: expected True, False or None"),
        (
            {"license": "MIT"},
            "`license`: did you mean 'mit'? expected one of apache-2.0, mit, other",
        ),
        ({"license": "mit\ntags: [x]"}, "`license`: expected one of apache-2.0, mit, other"),
        ({"license": "LicenseRef-x"}, "`license`: did you mean 'unlicense'? expected one of "),
        ({"pictures": True}, "`pictures`: expected False"),
        ({"page": True}, "`page`: expected False"),
        ({"model": 3}, "`model`: expected a path"),
        ({"model": "hf://a/b"}, "`model`: expected a model, a run or a folder of this machine"),
        ({"model": "nowhere"}, "`model`: expected a model, a run, or the folder of one"),
    ],
)
def test_what_is_no_argument_is_one_line(options: dict[str, Any], says: str, hub: Hub) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        pv.push(**({"model": small(), "repo": REPO} | options))
    assert hub.repos == {}


def test_a_folder_that_is_not_ours_is_one_line(hub: Hub, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match="expected a file model.json in it"):
        pv.push(other, REPO)
    (other / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="expected a finished run"):
        pv.push(other, REPO)
    (other / "model.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="expected a folder whose model.json is of a model"):
        pv.push(other, REPO)
    pv.save(small(), tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="expected SHA-256"):
        pv.push(tmp_path / "cut", REPO)
    pv.save(small(), tmp_path / "led")
    (tmp_path / "led" / "samples.png").symlink_to(weights)
    with pytest.raises(ValueError, match="expected a plain file inside the folder"):
        pv.push(tmp_path / "led", REPO, pictures=True)
    with pytest.raises(ValueError, match=r"`page`: expected a folder with report.html"):
        pv.push(tmp_path / "led", REPO, page=True)
    assert hub.repos == {}


def test_without_the_package_one_line_says_how_to_have_it(
    run: Path, fails: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for argv in (f"push {run} {REPO}", f"evaluate hf://{REPO}"):
        assert "expected huggingface_hub, by pip install 'pyro-vae[hub]'" in fails(argv)
    with pytest.raises(ValueError, match=r"`folder`: expected huggingface_hub, by pip install"):
        pv.load(f"hf://{REPO}")


def test_without_a_network_the_last_files_count(
    hub: Hub, run: Path, fails: Callable[[str], str]
) -> None:
    """And where there are none, one line says that the Hub cannot be reached."""
    pv.push(vae := small(), REPO)
    pv.load(f"hf://{REPO}")
    hub.down = True
    assert np.array_equal(scores_of(pv.load(f"hf://{REPO}")), scores_of(vae))
    with pytest.raises(ConnectionError, match=r"^hf://a/b: the Hub cannot be reached: Cannot find"):
        pv.load("hf://a/b")
    said = fails(f"push {run} {REPO}")
    assert said.endswith("the Hub cannot be reached: [Errno -2] Name or service not known\n")


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, ValueError, r"`repo`: .* you have access to \(log in by `hf auth login`"),
        (403, ValueError, r"`repo`: .* you have access to \(log in by `hf auth login`"),
        (400, ValueError, r"`repo`: expected what the Hub accepts \(400 Error.\), got 'hf://"),
        (429, ConnectionError, r"^hf://some-lab/people: the Hub cannot be reached: 429 Error.$"),
        (503, ConnectionError, r"^hf://some-lab/people: the Hub cannot be reached: 503 Error.$"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    status: int, kind: type[Exception], says: str, hub: Hub
) -> None:
    hub.status = status
    with pytest.raises(kind, match=says):
        pv.push(small(), REPO)


def test_a_dry_run_shows_all_and_sends_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It needs neither the package nor a network."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(f"push {run} {REPO} --dry-run --revision v2 --json".split()) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["files"]) == MODEL | RECORD
    assert f'pv.load("hf://{REPO}@v2")' in shown["card"]
    assert main(f"push {run} {REPO} --dry-run --model-only".split()) == 0
    assert capsys.readouterr().out.count(" bytes\n") == 3


def test_a_card_has_the_checks_that_were_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"push {run} {REPO} --dry-run --check".split()) == 0
    card = capsys.readouterr().out
    assert "Not checked" not in card
    assert main(f"check {run} --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["headline"].replace("[", "\\[").replace("]", "\\]") in card
