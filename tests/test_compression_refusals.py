"""What compression refuses in one line: models, data, damage, other machines; and its verbs."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main

pytest.importorskip("constriction")
from pyro_vae.compression import codec, coding, container, same

X = np.random.default_rng(0).integers(0, 2, (40, 4)).astype(np.uint8)
BINARY = pv.likelihoods.Bernoulli((4,))


def _vae(prior: Any = None, guide: Any = None, likelihood: Any = None, **options: Any) -> pv.VAE:
    prior, guide = prior or pv.priors.Normal(2), guide or pv.guides.Normal(2)
    both = {"encoder": pv.networks.MLP((4,)), "decoder": pv.networks.MLP((4,))}
    return pv.VAE(prior, guide, likelihood or BINARY, **both, **options, seed=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _vae(likelihood=pv.likelihoods.Normal((4,))),
         "`likelihood`: expected one of binary data, levels or counts: a density gives no value a "
         "probability, got 'Normal'"),
        (lambda: _vae(likelihood=pv.likelihoods.Mixed((4,), ["Normal", *["Poisson"] * 3])),
         "a density gives no value a probability, got 'Mixed'"),
        (lambda: _vae(likelihood=pv.likelihoods.Multinomial((4,))),
         "`likelihood`: expected one whose entries are independent given z, got 'Multinomial'"),
        (lambda: _vae(likelihood=pv.likelihoods.Autoregressive((4,))),
         "`likelihood`: expected one whose entries are independent given z, got 'Autoregressive'"),
        (lambda: _vae(likelihood=pv.likelihoods.Poisson((4,), size_factor=True)),
         "without covariates, which no file holds, got 'Poisson with size_factor'"),
        (lambda: _vae(prior=pv.priors.Mixture(2, 3)), "`prior`: expected one whose entries have"),
        (lambda: _vae(prior=pv.priors.VampPrior(2, 3)), "got 'VampPrior'"),
        (lambda: _vae(prior=pv.priors.StudentT(2)), "got 'StudentT'"),
        (lambda: _vae(guide=pv.guides.Flow(2)), "`guide`: expected one whose entries have"),
        (lambda: _vae(guide=pv.guides.SemiAmortized(2)),
         "`guide`: expected one that the encoder gives at once: Normal, FullNormal or Hierarchy, "
         "got 'SemiAmortized'"),
        (lambda: _vae(pv.priors.Categorical(1, 3), pv.guides.GumbelSoftmax(1, 3)),
         "`prior`: expected one whose entries have"),
        (lambda: _vae(pv.priors.Conditional(2), cond_size=1), "`vae`: expected a model without"),
        (lambda: _vae(missingness="self-masking", likelihood=pv.likelihoods.Normal((4,))),
         "`vae`: expected a model without `missingness`, got 'SelfMasking'"),
        (lambda: pv.Program, "`vae`: expected a VAE, got"),
    ],
)  # fmt: skip
def test_models_that_cannot_code_are_refused_by_name(make: Callable[[], Any], words: str) -> None:
    vae = make()
    for verb in (pv.compression.compress, pv.compression.decompress):
        with pytest.raises(ValueError, match="expected") as caught:
            verb(vae, X)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([[0.0, 1.0, 0.5, 1.0]]), "`x`: expected whole numbers, and no -0.0"),
        (np.array([[0.0, 1.0, -0.0, 1.0]]), "`x`: expected whole numbers, and no -0.0"),
        (np.array([[0.0, 1.0, np.nan, 1.0]]), "`x`: expected data with all their entries, finite"),
        (np.array([[0, 1, 2, 1]]), "expected values in the support of Bernoulli, Boolean(), got 2"),
        (np.array([[0, 1, -1, 1]]), "`x`: expected numbers from 0 to 281,474,976,710,655, got"),
        (np.array([[0, 1, 2**60, 1]]), "`x`: expected numbers from 0 to 281,474,976,710,655, got"),
        (np.zeros((3, 5), int), "`x`: expected data of shape (N, 4), one row at least, got (3, 5)"),
        (np.zeros((0, 4), int), "`x`: expected data of shape (N, 4), one row at least, got (0, 4)"),
        (np.zeros((3, 2, 2), int), "`x`: expected data of shape (N, 4), one row at least"),
        (np.array([["a"] * 4]), "`x`: expected an array of numbers, got"),
        (np.zeros((2, 4), complex), "`x`: expected an array of numbers, got"),
        (torch.ones(2, 4).bfloat16(), "`x`: expected an array of numbers, of a dtype that NumPy"),
        ([[1], [1, 0, 1, 0]], "`x`: expected an array of numbers, of a dtype that NumPy has"),
        (np.ma.masked_equal(X, 1), "`x`: expected data with all their entries, got 'a masked"),
        (pv.data.Rows(torch.ones(2, 4), {"mask": torch.ones(2, 4).bool()}),
         "`x`: expected rows with nothing beside them, got 'mask'"),
        ("digits", "`x`: expected data; `pv.data.load('digits')` reads a file or a named set, got"),
    ],
)  # fmt: skip
def test_data_that_would_not_come_back_are_refused(x: Any, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        pv.compression.compress(_vae(), x)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_a_value_is_outside_the_support_is_said_of_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyro_vae.compression.taken._CHECKED", 8)  # two rows at a time
    x = X.copy()
    x[17, 2] = 9
    with pytest.raises(ValueError, match=r"got 9 at index \[17, 2\], 1 bad in all"):
        pv.compression.compress(_vae(), x)


def test_damage_is_refused_wherever_it_is() -> None:
    """A bit that is turned, bytes that are missing or more: none of them is decoded."""
    vae = _vae()
    content = pv.compression.compress(vae, X)
    rng = np.random.default_rng(0)
    damaged = [content[:length] for length in (0, 7, 8, 40, len(content) - 4, len(content) - 1)]
    damaged += [content + b"\0", b"PK" + content, content.replace(b"\r\n", b"\n", 1)]
    for place in [*range(12), *rng.integers(12, len(content), 40)]:
        turned = bytearray(content)
        turned[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(turned))
    for each in damaged:
        with pytest.raises(ValueError, match=r"^`content`: expected what `compress` returned"):
            pv.compression.decompress(vae, each)
    assert np.array_equal(pv.compression.decompress(vae, content), X)


def _rewritten(content: bytes, **changes: Any) -> bytes:
    """A file whose digest is right and whose header is not."""
    start = len(container._MAGIC) + 4
    length = int.from_bytes(content[start - 4 : start], "little")
    header = json.loads(content[start : start + length]) | changes
    header = {name: value for name, value in header.items() if value is not ...}
    text = json.dumps(header).encode()
    body = container._MAGIC + len(text).to_bytes(4, "little") + text
    body += content[start + length : -32]
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [2**62, 4]}, {"shape": [2**40, 4]}, {"shape": [-40, 4]}, {"shape": [0, 4]},
        {"shape": []}, {"shape": [40, 4.0]}, {"shape": [True, 4]}, {"shape": [10**400, 4]},
        {"shape": [1] * 40}, {"shape": "40"}, {"shape": [40, 5]},
        {"dtype": "|O"}, {"dtype": "<c16"}, {"dtype": "<U9"}, {"dtype": 3},
        {"words": 1}, {"words": -1}, {"words": 2**70}, {"initial": -1}, {"initial": 2**31},
        {"format": 2}, {"format": ...}, {"model": ...}, {"more": 1}, {"machine": "x" * 20_000},
        {"machine": ""}, {"machine": "torch 1.0"}, {"model": "0" * 32}, {"numbers": "0" * 32},
        {"data": "0" * 32}, {"dtype": "<f8"}, {"shape": [39, 4]}, {"shape": [41, 4]},
        {"shape": [160, 1]}, {"initial": 0}, {"dtype": "|i1"}, {"dtype": "|b1"},
        {"shape": [40, 1, 4]}, {"format": True}, {"format": 1.0},
    ],
)  # fmt: skip
def test_a_header_that_was_made_up_is_refused(changes: dict[str, Any]) -> None:
    """With a digest that is right: nothing is made as large as it says, and nothing returned."""
    vae = _vae()
    content = pv.compression.compress(vae, X)
    with pytest.raises(ValueError, match=r"^`content`: expected") as caught:
        pv.compression.decompress(vae, _rewritten(content, **changes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert np.array_equal(pv.compression.decompress(vae, _rewritten(content)), X)


def test_decoding_ends_where_the_bits_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was made up to claim many rows is refused when the stack has had its words."""
    vae, claimed = _vae(), [2**22, 4]
    content = pv.compression.compress(vae, X)
    with pytest.raises(ValueError, match="first rows have parameters") as caught:
        pv.compression.decompress(vae, _rewritten(content, shape=claimed))
    (own,) = re.findall(r"parameters (\w{32}), as here", str(caught.value))
    real, calls = codec.Codec.decode, [0]

    def decode(self: codec.Codec, stack: Any, size: int) -> np.ndarray:
        calls[0] += 1
        return real(self, stack, size)

    monkeypatch.setattr(codec.Codec, "decode", decode)
    with pytest.raises(ValueError, match=r"^`content`: expected bits for 4194304 rows, got"):
        pv.compression.decompress(vae, _rewritten(content, shape=claimed, numbers=own))
    assert calls[0] < 20
    assert 0 < next(codec.sizes_of_blocks(2**60, backwards=True)) <= 32


def test_blocks_are_the_same_from_either_end() -> None:
    for rows in (1, 7, 100, 255, 256, 260, 288, 300, 1023):
        sizes = list(codec.sizes_of_blocks(rows))
        assert sizes[::-1] == list(codec.sizes_of_blocks(rows, backwards=True))
        starts = np.cumsum([0, *sizes[:-1]])
        grown = np.minimum(np.clip(starts // 8, 1, 32), rows - starts)
        assert sum(sizes) == rows
        assert sizes == grown.tolist()


def test_a_header_that_is_no_json_is_refused() -> None:
    for text in (b"[" * 5000, b"{", b"\xff\xfe", b'{"a": 1, "a": 2}', b"NaN", b""):
        body = container._MAGIC + len(text).to_bytes(4, "little") + text
        with pytest.raises(ValueError, match=r"^`content`: expected a"):
            pv.compression.header_of(body + hashlib.sha256(body).digest())
    body = container._MAGIC + (2**32 - 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"^`content`: expected a header of at most 16,384 bytes"):
        pv.compression.header_of(body + hashlib.sha256(body).digest())


def _other_weights(vae: pv.VAE, patch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        next(vae.decoder.parameters()).view(-1)[0] += 1e-7


def _other_way(vae: pv.VAE, patch: pytest.MonkeyPatch) -> None:
    """As on a machine that rounds otherwise, whose weights and names are the same."""
    real = vae.model.params
    patch.setattr(vae.model, "params", lambda z, given={}: real(z, given) * (1 + 1e-6))


def _other_later(vae: pv.VAE, patch: pytest.MonkeyPatch) -> None:
    """The first rows are computed as they were, after two trials, and others are not."""
    real, calls = vae.model.params, [0]

    def params(z: torch.Tensor, given: Any = {}) -> torch.Tensor:  # noqa: B006
        calls[0] += 1
        return real(z, given) + (calls[0] > 4)

    patch.setattr(vae.model, "params", params)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_weights, "expected a file written by the model"),
        (_other_way, "expected a file written where the first rows have parameters"),
        (_other_later, "expected data of the digest that was written"),
        (lambda vae, patch: patch.setattr(same, "version", lambda name: "0.9"),
         "expected a file written with torch 0.9, as here, got 'torch "),
        (lambda vae, patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "VSX"),
         "expected a file written with a processor VSX"),
    ],
)  # fmt: skip
def test_what_is_decoded_otherwise_is_refused(
    change: Callable[..., None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = _vae()
    content = pv.compression.compress(vae, X)
    change(vae, monkeypatch)
    with pytest.raises(ValueError, match=r"^`content`: ") as caught:
        pv.compression.decompress(vae, content)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_a_model_that_gives_no_numbers_is_refused(network: str) -> None:
    vae = _vae()
    with torch.no_grad():
        next(getattr(vae, network).parameters()).mul_(torch.inf)
    with pytest.raises(ValueError, match=rf"^`vae`: expected its {network} to give finite numbers"):
        pv.compression.compress(vae, X)


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_a_network_with_noise_of_its_own_is_refused(network: str) -> None:
    """While the data are still there: what it compressed could not be read."""
    vae = _vae()
    getattr(vae, network).register_forward_hook(lambda _, x, y: y + torch.randn_like(y))
    with pytest.raises(ValueError, match=rf"^`vae`: expected its {network} to give the same for"):
        pv.compression.compress(vae, X)


def test_a_prior_without_finite_parameters_is_refused_in_one_line() -> None:
    vae = _vae(pv.priors.Hierarchy([2, 2]), pv.guides.Hierarchy([2, 2], "bottom-up"))
    with torch.no_grad():
        for parameter in vae.prior.parameters():
            parameter.mul_(1e38).add_(1e38)
    with pytest.raises(ValueError, match=r"^`vae`: expected its prior to have finite") as caught:
        pv.compression.compress(vae, X)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_built_otherwise_is_another() -> None:
    """The same weights, and another function between them."""
    digests = set()
    for activation in ("relu", "silu"):
        vae = _vae()
        vae.decoder.__dict__["_arguments"] = vae.decoder._arguments | {"activation": activation}
        digests.add(same.digest_of(vae))
    assert len(digests) == 2


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ValueError, match=r"pip install 'pyro-vae\[compression\]'"):
        pv.compression.compress(_vae(), X)


def test_a_file_is_read_without_its_model() -> None:
    content = pv.compression.compress(_vae(), X)
    header = pv.compression.header_of(content)
    assert (header.shape, header.dtype, header.size) == ((40, 4), "|u1", len(content))
    assert container.pack(replace(header), np.zeros(0, np.uint32)).startswith(container._MAGIC)
    assert sum(codec.sizes_of_blocks(10_000)) == 10_000
    assert coding.compress is pv.compression.compress


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pv.save(_vae(), tmp_path / "run")
    np.save(tmp_path / "x.npy", X)
    return tmp_path


def test_the_verbs_write_a_file_and_the_array_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", "run", "x.npy", "new/x.pvz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 40
    assert found["bytes"] == (folder / "new" / "x.pvz").stat().st_size
    assert found["weights_bytes"] == (folder / "run" / "model.safetensors").stat().st_size
    assert 0.3 < found["bits_per_dim"] < 2
    assert main(["decompress", "run", "new/x.pvz", "again.npy"]) == 0
    assert capsys.readouterr().out == "Wrote 40 rows to again.npy\n"
    assert (folder / "again.npy").read_bytes() == (folder / "x.npy").read_bytes()
    assert main(["compress", "run", "again.npy", "x.pvz"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Wrote 40 rows to x.pvz: ")
    assert "bits a number" in said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("compress run x.csv x.pvz", "`DATA`: expected a file that ends in .npy; `pv.compression"),
        ("compress run none.npy x.pvz", "`DATA`: expected an existing file, got 'none.npy'"),
        ("compress run x.npy x.zip", "`OUT`: expected a file that ends in .pvz, got 'x.zip'"),
        ("compress run x.npy there.pvz", "`OUT`: expected a path that does not exist yet"),
        ("compress run text.npy x.pvz", "`DATA`: expected a .npy file, as np.save writes it"),
        ("compress run short.npy x.pvz", "`DATA`: expected a .npy file, as np.save writes it"),
        (
            "compress run many.npy x.pvz",
            "`DATA`: expected a .npy file, as np.save writes it, got 'm",
        ),
        ("compress run two.npy x.pvz", "`two.npy`: expected values in the support of Bernoulli"),
        ("decompress run x.npy y.npy", "`FILE`: expected a file that ends in .pvz"),
        ("decompress run there.pvz y.npy", "`there.pvz`: expected what `compress` returned"),
        ("decompress run there.pvz x.npy", "`OUT`: expected a path that does not exist yet"),
        ("compress none x.npy x.pvz", "`folder`: expected an existing run folder"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, fails: Callable[..., str], command: str, words: str
) -> None:
    (folder / "there.pvz").write_bytes(b"something else")
    (folder / "text.npy").write_text("1,2")
    (folder / "short.npy").write_bytes((folder / "x.npy").read_bytes()[:-9])
    np.save(folder / "two.npy", X + 1)
    np.savez(folder / "many.npz", X)
    (folder / "many.npz").rename(folder / "many.npy")
    assert words in fails(*command.split())


@pytest.mark.long
def test_another_process_decodes_it(folder: Path) -> None:
    assert main(["compress", "run", "x.npy", "x.pvz"]) == 0
    command = [sys.executable, "-m", "pyro_vae.cli", "decompress", "run", "x.pvz", "y.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "y.npy").read_bytes() == (folder / "x.npy").read_bytes()
