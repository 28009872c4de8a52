"""Data sets: what is served, what a score on it is a density of, what is refused."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import constraints
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import data as package
from pyro_vae.data import Dataset, base_measure_of, inspect, load


@pytest.fixture
def grey() -> torch.Tensor:
    """Forty observations of three grey values; the first value numbers them."""
    x = torch.rand(40, 3)
    x[:, 0] = torch.arange(40) / 40
    return x


def test_import_is_light() -> None:
    heavy = "import sys, pyro_vae.data; print({'torchvision', 'sklearn'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


# --- Base measure -------------------------------------------------------------------------------


def test_a_split_handed_on_alone_knows_its_base_measure() -> None:
    data = load("digits", binarize="none")
    measure = base_measure_of(data.test)
    assert measure == data.base_measure("test")
    assert {k: v for k, v in measure.items() if k != "fingerprint"} == {
        "data": "digits",
        "split": "test",
        "binarize": "none",
        "dequantize": "none",
        "transform": "x / 16",
        "dim": 64,
    }
    assert base_measure_of(data.validation) == data.base_measure("validation") != measure
    assert base_measure_of(data.test.clone()) is None


def test_the_base_measure_outlives_the_data_set_but_not_the_tensor() -> None:
    test = load(torch.rand(20, 2)).test
    gc.collect()
    known = len(package.dataset._descriptions)
    assert base_measure_of(test) is not None
    del test
    gc.collect()
    assert len(package.dataset._descriptions) == known - 1


def test_the_fingerprint_sees_values_shape_and_changes() -> None:
    zeros, ones = load(torch.zeros(20, 6)), load(torch.ones(20, 6))
    folded = load(torch.zeros(20, 2, 3))
    prints = {x.base_measure()["fingerprint"] for x in (zeros, ones, folded)}
    assert len(prints) == 3
    zeros.test.add_(1)
    assert zeros.base_measure()["fingerprint"] == ones.base_measure()["fingerprint"]


def test_moving_keeps_the_base_measure() -> None:
    data = load("digits")
    moved = data.to("cpu")
    assert moved.base_measure() == data.base_measure()
    assert base_measure_of(moved.test) == data.base_measure()
    assert load("digits").to("meta").labels["test"].device.type == "meta"


@pytest.mark.gpu
def test_moving_to_a_gpu_keeps_the_base_measure_and_draws_there() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    data = load("digits", binarize="stochastic")
    moved = data.to("cuda")
    assert base_measure_of(moved.test) == data.base_measure()
    assert moved.draw(moved.train[:8]).device.type == "cuda"


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`split`: .*did you mean 'validation'"):
        load("digits").base_measure("validate")  # type: ignore[arg-type]


def test_repr_is_one_line(grey: torch.Tensor) -> None:
    assert repr(load(grey)) == (
        "Dataset('array', train=32, validation=4, test=4, event_shape=(3,), binarize='none')"
    )


# --- Binarisation -------------------------------------------------------------------------------


def test_stochastic_batches_are_drawn_afresh_with_the_grey_values_as_means() -> None:
    """Fails when the draw is a threshold, is repeated, or has its probabilities inverted."""
    data = load("digits", binarize="stochastic")
    batch = data.train[:50]
    draws = torch.stack([data.draw(batch) for _ in range(400)])
    assert data.support.check(draws).all()
    assert not torch.equal(draws[0], draws[1])
    z = (draws.mean(0) - batch) / (batch * (1 - batch) / 400).sqrt().clamp(min=1e-9)
    assert z.abs().max() < 5.5  # 3,200 pixels
    assert z[(batch > 0) & (batch < 1)].std().item() == pytest.approx(1, abs=0.06)
    total = (draws.mean(0) - batch).sum() / (batch * (1 - batch) / 400).sum().sqrt()
    assert abs(total) < 4


def test_stochastic_held_out_data_are_drawn_once() -> None:
    """Fails when held-out data are drawn from other probabilities, or anew at each load."""
    first, again = (load("digits", binarize="stochastic") for _ in range(2))
    grey = load("digits", binarize="none")
    assert torch.equal(first.test, again.test)
    assert torch.equal(first.train, grey.train)
    assert torch.equal(first.draw(first.test), first.test)
    p = grey.test
    assert constraints.boolean.check(first.test).all()
    z = (first.test - p).sum() / (p * (1 - p)).sum().sqrt()
    assert abs(z) < 4
    assert torch.equal(first.test[(p == 0) | (p == 1)], p[(p == 0) | (p == 1)])


def test_a_captured_draw_still_draws(grey: torch.Tensor) -> None:
    """Fails when the draw at capture time is recorded as a constant."""
    data = load(grey, binarize="stochastic")
    captured = make_fx(lambda batch: data.draw(batch))(torch.full((200, 3), 0.5))
    first, second = (captured(torch.full((200, 3), 0.5)) for _ in range(2))
    assert constraints.boolean.check(first).all()
    assert not torch.equal(first, second)


def test_other_data_are_drawn_as_they_are(grey: torch.Tensor) -> None:
    assert load(grey).draw(grey) is grey


# --- Arrays and files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "support"),
    [
        (np.arange(40).reshape(20, 2) % 2 == 0, constraints.boolean),
        (np.arange(40).reshape(20, 2) % 2, constraints.boolean),
        (np.arange(40, dtype=np.uint16).reshape(20, 2), constraints.nonnegative_integer),
        (np.linspace(0, 1, 40).reshape(20, 2), constraints.unit_interval),
        (np.linspace(-1, 1, 40, dtype=np.float16).reshape(20, 2), constraints.real),
        (torch.arange(40).reshape(20, 2) - 1, constraints.real),
    ],
)
def test_the_support_of_an_array_is_the_narrowest(x: Any, support: object) -> None:
    data = load(x)
    assert data.support is support
    assert data.train.dtype == torch.float32
    assert [len(data.train), len(data.validation), len(data.test)] == [16, 2, 2]
    assert (data.name, data.source) == ("array", None)


def test_labels_follow_their_data(grey: torch.Tensor) -> None:
    data = load(grey, labels=np.arange(40), validation=0.25, test=0.25)
    assert [len(data.train), len(data.validation), len(data.test)] == [20, 10, 10]
    for split in ("train", "validation", "test"):
        assert torch.equal(data.split(split)[:, 0] * 40, data.labels[split].float())
    seen = torch.cat([data.labels[split] for split in data.labels])
    assert sorted(seen.tolist()) == list(range(40))


def test_nothing_held_out_keeps_order_and_copies(grey: torch.Tensor) -> None:
    before = grey.clone()
    data = load(grey, validation=0, test=0)
    assert data.test.shape == data.validation.shape == (0, 3)
    assert len(data.base_measure("test")["fingerprint"]) == 64
    assert torch.equal(data.train, grey)
    data.train.zero_()
    assert torch.equal(grey, before)
    array = np.full((4, 2), 0.5, dtype=np.float32)
    array.flags.writeable = False
    load(array, binarize="threshold").train.add_(1)
    assert (array == 0.5).all()


def test_thresholding_an_array_is_strict_at_one_half() -> None:
    x = torch.tensor([[0.0, 0.5, 0.50001, 1.0]]).repeat(3, 1)
    assert load(x, binarize="threshold").test.tolist() == [[0, 0, 1, 1]]


def test_npy_and_csv_files(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 2)).round(3)
    np.save(tmp_path / "x.npy", x)
    np.savetxt(tmp_path / "plain.csv", x, delimiter=",")
    np.savetxt(tmp_path / "named.csv", x, delimiter=",", header='a,"b, c"', comments="")
    reference = load(x)
    for name in ("x.npy", "plain.csv", "named.csv"):
        data = load(tmp_path / name, labels=np.arange(30))
        assert torch.equal(data.train, reference.train)
        assert (data.name, data.source) == (name, str((tmp_path / name).resolve()))
        assert torch.equal(load(str(tmp_path / name)).test, data.test)


@pytest.mark.parametrize("key", ["x", "data", "anything"])
def test_npz_with_one_array(tmp_path: Path, key: str) -> None:
    x = np.arange(60.0).reshape(30, 2)
    np.savez(tmp_path / "one.npz", **{key: x, "labels": np.arange(30)})
    data = load(tmp_path / "one.npz")
    assert [len(data.train), len(data.validation), len(data.test)] == [24, 3, 3]
    assert torch.equal(data.train[:, 0], 2 * data.labels["train"].float())


@pytest.mark.parametrize(
    ("keys", "sizes"),
    [
        ({"train": 20, "test": 5}, [18, 2, 5]),
        ({"train": 20, "valid": 4, "test": 5}, [20, 4, 5]),
        ({"x_train": 20, "y_train": 20, "x_test": 5, "y_test": 5}, [18, 2, 5]),
        ({"train": 20, "train_labels": 20, "test": 5}, [18, 2, 5]),
    ],
)
def test_npz_with_splits(tmp_path: Path, keys: dict[str, int], sizes: list[int]) -> None:
    arrays = {
        key: np.arange(n)
        if key.startswith("y") or "label" in key
        else np.arange(2 * n).reshape(n, 2)
        for key, n in keys.items()
    }
    np.savez(tmp_path / "splits.npz", **arrays)
    data = load(tmp_path / "splits.npz")
    assert [len(data.train), len(data.validation), len(data.test)] == sizes
    assert data.test[:, 1].tolist() == [1, 3, 5, 7, 9]
    if any("train" in key and ("y" in key or "label" in key) for key in keys):
        assert torch.equal(data.train[:, 0], 2 * data.labels["train"].float())
    else:
        assert data.labels["train"] is None


# --- Refusals -----------------------------------------------------------------------------------

_X = np.ones((10, 2))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ("digts", {}, "`data`: did you mean 'digits'.*got 'digts'"),
        ("nowhere.csv", {}, "`data`: expected an existing file, got 'nowhere.csv'"),
        ("data.pdf", {}, r"`data`: expected a file that ends in .npy"),
        ({1.0: 2.0}, {}, "`data`: expected a known name, a path, an array or a tensor"),
        ([[1.0, 2.0], [3.0]], {}, "`data`: expected rows of one length"),
        ([["a", "b"]], {}, "`data`: expected real"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), {}, r"`data`: .*finite.* \(1, 1\), got nan"),
        (torch.tensor([[1.0, float("inf")]]), {}, r"`data`: .*finite.* \(0, 1\), got inf"),
        (np.full((10, 2), 1e60), {}, r"`data`: .*finite float32.*got 1e\+60"),
        (np.full((10, 2), 2**24 + 1), {}, r"`data`: expected integers below 2\*\*24"),
        (np.ones((10, 2), dtype=complex), {}, "`data`: expected real, .*complex128"),
        (np.full((10, 2), "a", dtype=object), {}, "`data`: expected real, .*object"),
        (torch.ones(10, 2).to_sparse(), {}, "`data`: expected real"),
        (np.ones(10), {}, r"`data`: expected at least two dimensions.*shape \(10,\)"),
        (np.ones((0, 2)), {}, r"`data`: expected at least one observation.*shape \(0, 2\)"),
        (np.ones((2, 0)), {}, "`data`: expected at least one observation with at least one entry"),
        (np.ones((2, 2)), {}, "`data`: expected enough data to leave some for training"),
        (_X * 255, {"binarize": "threshold"}, r"`data`: .*\[0, 1\].*255"),
        (_X, {"binarize": "stochastc"}, "`binarize`: .*did you mean 'stochastic'"),
        (_X, {"levels": True}, "`levels`: expected False"),
        ("digits", {"levels": True, "binarize": "threshold"}, "`binarize`: expected 'none'"),
        (_X, {"labels": np.arange(9)}, r"`labels`: expected 10 integers.*shape \(9,\)"),
        (_X, {"labels": np.ones(10)}, "`labels`: expected 10 integers.*float64"),
        ("digits", {"labels": np.arange(1797)}, "`labels`: expected None"),
        (_X, {"test": 1.0}, r"`test`: expected a share in \[0, 1\), got 1.0"),
        (_X, {"validation": -0.1}, r"`validation`: expected a share in \[0, 1\), got -0.1"),
        (_X, {"validation": float("nan")}, "`validation`: expected a share"),
        (_X, {"seed": -1}, "`seed`: expected .*got -1"),
    ],
)
def test_bad_input_is_one_line(x: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load(x, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,four\n", r"a number in row 3, column 2 \(b\), got 'four'"),
        ("1,2\n\n3,\n", r"a number in row 3, column 2, got ''; `missing` \(--missing\) takes"),
        ("1,x\n3,4\n", r"a number in row 1, column 2"),
        ("1,2\n3,4,5\n", "2 cells in row 2, got 3"),
        ("a,b\n", r"at least one observation"),
        ("1,2\n3,nan\n", r"a number in row 2, column 2, got 'nan'; `missing`"),
        ("1,2\n3,inf\n", r"a finite float32 value at index \(1, 1\), got inf"),
    ],
)
def test_a_bad_cell_is_found(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"`data`: expected {message}"):
        load(path)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"a": _X, "b": _X}, {}, r"keys train \(and test\), or x, or one array, got \['a', 'b'\]"),
        ({"test": _X}, {}, "a training set under the key train"),
        ({"train": _X, "test": np.ones((4, 3))}, {}, r"test data of event shape \(2,\)"),
        ({"x": np.array([[None]])}, {}, "no pickles"),
        ({"train": _X, "test": _X}, {"test": 0.1}, "`test`: expected None"),
        ({"train": _X, "test": _X}, {"labels": np.arange(10)}, "`labels`: expected None"),
        ({"x": _X, "y": np.arange(3)}, {}, "`labels`: expected 10 integers"),
    ],
)
def test_a_bad_npz_is_refused(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "bad.npz", **options)


def test_other_files_under_a_numpy_suffix_are_refused(tmp_path: Path) -> None:
    for name in ("text.npy", "text.npz"):
        (tmp_path / name).write_text("not an array")
        with pytest.raises(ValueError, match="a NumPy file of plain arrays"):
            load(tmp_path / name)
    np.save(tmp_path / "x.npy", _X)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"an \.npz archive"):
        load(tmp_path / "x.npz")


def test_a_damaged_numpy_file_is_refused(tmp_path: Path) -> None:
    """Bytes of the data, of the directory of the archive, of a header. Fails when what zlib,
    zipfile or the tokenizer raise is let through."""
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).random((20, 4)))
    np.save(tmp_path / "x.npy", _X)
    whole = {name: (tmp_path / name).read_bytes() for name in ("x.npz", "x.npy")}
    version = whole["x.npz"].index(b"PK\x01\x02") + 6  # that is needed to read the entry
    for name, at, byte in (("x.npz", 100, 0xFF), ("x.npz", version, 200), ("x.npy", 10, 0x28)):
        content = bytearray(whole[name])
        content[at] = byte
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="a NumPy file of plain arrays"):
            load(tmp_path / name)


def test_a_name_that_two_columns_have_is_not_asked_for(tmp_path: Path) -> None:
    """Fails when the first of them is taken, and both are lost to x."""
    (tmp_path / "x.csv").write_text("a,b,b\n" + "1,2,3\n" * 20)
    assert load(tmp_path / "x.csv").event_shape == (3,)
    with pytest.raises(ValueError, match="`cond`: expected a name that one column has, got 'b'"):
        load(tmp_path / "x.csv", cond="b")


def test_a_dataset_is_frozen() -> None:
    data = load("digits")
    assert isinstance(data, Dataset)
    with pytest.raises(AttributeError, match="cannot assign"):
        data.test = data.train  # type: ignore[misc]


def test_a_report_finds_what_may_surprise() -> None:
    """Fails when a row in both splits is not counted, or -0 and 0 are distinct."""
    x = torch.randn(20, 4)
    x[:, 2] = 5.0
    x[3] = x[7]
    x[1, 0], x[2] = 0.0, x[1]
    x[2, 0] = -0.0
    held = torch.cat([x[:2], torch.randn(3, 4)])
    found = inspect(
        Dataset(
            name="made",
            train=x,
            validation=x[:0],
            test=held,
            labels={"train": torch.arange(20) % 2, "validation": None, "test": None},
            support=constraints.real,
        )
    )
    assert (found.constant, found.num_constant) == ([(2,)], 1)
    assert found.duplicates == {"train": 4, "validation": 0, "test": 0}
    assert found.in_train == {"validation": 0, "test": 2}
    assert found.classes == {"train": {0: 10, 1: 10}}
    assert found.ranges["train"] == (x.min(), x.mean(), x.max())
    text = str(found)
    assert "1 feature is constant in training: [2]" in text
    assert "2 of 5 test observations equal training observations" in text
    json.dumps(found.summary())


def test_a_report_of_the_digits() -> None:
    data = load("digits")
    found = inspect(data)
    assert found.sizes == {"train": 1257, "validation": 180, "test": 360}
    assert set(found.classes["test"]) == set(range(10))
    assert found.num_constant == int((data.train.var(0) == 0).sum()) > 0


def test_a_masked_array_is_refused() -> None:
    """Fails when what it hides is served."""
    hidden = np.ma.masked_array(np.ones((20, 3)), mask=np.eye(20, 3, dtype=bool))
    with pytest.raises(ValueError, match="`data`: expected no masked array"):
        load(hidden)


@pytest.mark.parametrize("word", ["", "w"])
def test_a_condition_of_too_many_values_is_refused(word: str, tmp_path: Path) -> None:
    """A one-hot vector of each. Fails when there is no bound, which takes all memory."""

    def write(count: int) -> str:
        rows = "".join(f"{word}{i},{i % 7}\n" for i in range(count))
        (tmp_path / "x.csv").write_text(f"id,x\n{rows}")
        return str(tmp_path / "x.csv")

    assert load(write(1000), cond="id").cond["train"].shape[1] == 1000
    message = "^`cond`: expected at most 1000 different integers or words in id, got 1001$"
    with pytest.raises(ValueError, match=message):
        load(write(1001), cond="id")
