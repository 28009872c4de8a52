"""What loggers write, read back by other means, is the history. Each needs its package."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stopping import X, build, fit, signal_at

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.training.loggers import MLflow, TensorBoard, WandB

pytestmark = [
    pytest.mark.usefixtures("interruptible"),
    pytest.mark.filterwarnings("default"),  # of packages that are not ours
]
History = dict[str, list[float]]


def _resumed(folder: Path, logger: Callable[[], Any], **options: Any) -> pv.Run:
    """A run that was stopped in its second epoch and went on, with a logger for each process."""
    options |= {"out": folder / "run", "validation": X[:6], "epochs": 3}
    with signal_at(6, 2), pytest.raises(Interrupted):
        fit(build(), X, callbacks=[logger()], **options)
    return fit(build(5), X, callbacks=[logger()], resume=True, **options)


def _scores(run: pv.Run) -> History:
    return {name: values for name, values in run.history.items() if name != "epoch"}


def _of_tensorboard(folder: Path) -> tuple[History, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    names = events.Tags()["scalars"]
    steps = [event.step for event in events.Scalars(names[0])]
    return {name: [event.value for event in events.Scalars(name)] for name in names}, steps


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = _resumed(tmp_path, lambda: TensorBoard(tmp_path / "logs"))
    read, steps = _of_tensorboard(tmp_path / "logs")
    expected = {name: np.float32(values).tolist() for name, values in _scores(run).items()}
    assert (read, steps) == (expected, [1, 2, 3])  # event files are in single precision


def test_tensorboard_forgets_what_a_killed_process_had_ahead(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    class Killed:
        def on_epoch(self, line: dict[str, float]) -> None:
            if line["epoch"] == 3:
                raise KeyError

    folder, out = tmp_path / "logs", {"out": tmp_path / "run", "checkpoint_every": 6}
    with pytest.raises(KeyError):
        fit(build(), X, callbacks=[TensorBoard(folder), Killed()], **out)
    run = fit(build(5), X, callbacks=[TensorBoard(folder)], resume=True, **out)
    read, steps = _of_tensorboard(folder)
    assert steps == [1, 2, 3, 4]
    assert read["elbo"] == np.float32(run.history["elbo"]).tolist()


def _of_wandb(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """History and summary in the records of an offline run: a log of LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, at, record = path.read_bytes(), 7, b""
    lines, summary = [], {}
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:  # no header fits into what is left of the block
            at += 2**15 - at % 2**15
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            read, record = Record.FromString(record), b""
            if read.WhichOneof("record_type") == "history":
                lines.append(_values(read.history.item))
            summary |= _values(read.summary.update)
    return lines, summary


def _values(items: Any) -> dict[str, Any]:
    return {"".join(each.nested_key) or each.key: json.loads(each.value_json) for each in items}


def test_wandb(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    # A resumed run of W&B is the server's to put together: here it is one process.
    logger = WandB(project="test", mode="offline", dir=tmp_path, settings={"console": "off"})
    run = fit(build(), X, validation=X[:6], epochs=3, callbacks=[logger])
    wandb.teardown()  # its process writes the file
    lines, summary = _of_wandb(tmp_path)
    assert [line["_step"] for line in lines] == [1, 2, 3]
    read = {name: [line[name] for line in lines] for name in _scores(run)}
    assert read == _scores(run)
    assert logger.run.config["batch_size"] == 8
    assert summary["best_epoch"] == run.best_epoch


@pytest.mark.parametrize("store", ["file", "sqlite"])
def test_mlflow(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    uri = {"file": f"file://{tmp_path}/mlruns", "sqlite": f"sqlite:///{tmp_path}/runs.db"}[store]
    client, ids = mlflow.MlflowClient(uri), []

    def logger() -> MLflow:
        if ids:
            assert client.get_run(ids[-1]).info.status == "KILLED"
        made = MLflow("digits", tracking_uri=uri, run_id=ids[-1] if ids else None)
        ids.append(made.run_id)
        return made

    run = _resumed(tmp_path, logger)
    assert ids[0] == ids[1]
    told = {name: client.get_metric_history(ids[0], name) for name in _scores(run)}
    assert {name: [each.value for each in values] for name, values in told.items()} == _scores(run)
    assert [each.step for each in told["elbo"]] == [1, 2, 3]
    found = client.get_run(ids[0])
    assert (found.info.status, found.data.params["batch_size"]) == ("FINISHED", "8")
    assert found.data.metrics["best_epoch"] == run.best_epoch
    assert client.get_experiment(found.info.experiment_id).name == "digits"


@pytest.mark.parametrize(
    ("logger", "module"), [(TensorBoard, "tensorboard"), (WandB, "wandb"), (MLflow, "mlflow")]
)
def test_a_missing_package_is_named(
    logger: Any, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    arguments = [tmp_path] if logger is TensorBoard else []
    what = rf"^`callbacks`: expected the package {module}: pip install {module}, got .*$"
    with pytest.raises(ValueError, match=what):
        logger(*arguments)
