"""Callbacks that write the history of a fit to TensorBoard, Weights & Biases or MLflow.

Each is a few lines over the writer of its package: ``pip install 'pyro-vae[loggers]'`` brings the
three of them. An epoch is a step; the names are those of the history, see :class:`pyro_vae.Run`.

Example:
    >>> import pyro_vae as pv
    >>> callbacks = [pv.training.loggers.TensorBoard("logs/first")]  # doctest: +SKIP
    >>> run = pv.fit(vae, data, callbacks=callbacks)  # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pyro_vae._errors import as_path, expected
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.run import Run

__all__ = ["MLflow", "TensorBoard", "WandB"]


class TensorBoard(Callback):
    """Writes event files, by torch's own ``SummaryWriter``; ``tensorboard --logdir`` shows them.

    A run that is resumed writes to the same folder: what a process that was killed had written
    after the last checkpoint is replaced. So is all of another run in that folder.

    References:
        torch.utils.tensorboard, https://docs.pytorch.org/docs/stable/tensorboard.html

    Args:
        folder: Where to; one for each run.

    Raises:
        ValueError: If tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = as_path("folder", folder)
        self._kind = _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None

    def on_epoch(self, line: Mapping[str, float]) -> None:
        epoch = int(line["epoch"])
        if self._writer is None:
            self._writer = self._kind(self.folder, purge_step=epoch)
        for name, value in _scores(line).items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def on_end(self, run: Run[Any]) -> None:
        self._close()

    def on_error(self, error: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


class WandB(Callback):
    """Writes to a run of Weights & Biases, which begins as this object is made.

    The options of the fit become its config at the end. To go on with it in a resumed fit, give
    ``id=`` and ``resume="allow"`` both times.

    References:
        wandb.init, https://docs.wandb.ai/ref/python/init/

    Args:
        options: Of ``wandb.init``: ``project``, ``name``, ``config``, ``mode="offline"``, ...

    Attributes:
        run: The ``wandb.Run``.

    Raises:
        ValueError: If wandb is not installed.
    """

    def __init__(self, **options: Any) -> None:
        self.run = _imported("wandb", "wandb").init(**options)

    def on_epoch(self, line: Mapping[str, float]) -> None:
        self.run.log(_scores(line), step=int(line["epoch"]))

    def on_end(self, run: Run[Any]) -> None:
        self.run.config.update(_options(run), allow_val_change=True)
        self.run.summary["best_epoch"] = run.best_epoch
        self.run.finish()

    def on_error(self, error: BaseException) -> None:
        self.run.finish(exit_code=1)


class MLflow(Callback):
    """Writes to a run of MLflow, which begins as this object is made.

    The options of the fit become its parameters at the end. To go on with it in a resumed fit, give
    that one its ``run_id``.

    References:
        MlflowClient, https://mlflow.org/docs/latest/python_api/mlflow.client.html

    Args:
        experiment: Name of the experiment, made if there is none.
        tracking_uri: Of the server, data base or folder; if not given, as ``MLFLOW_TRACKING_URI``
            and ``mlflow.set_tracking_uri`` have it.
        run_id: Of a run to go on with; a new one if not given.
        run_name: Of a new run.

    Attributes:
        run_id: Of the run.

    Raises:
        ValueError: If mlflow is not installed.
    """

    def __init__(
        self,
        experiment: str = "Default",
        *,
        tracking_uri: str | None = None,
        run_id: str | None = None,
        run_name: str | None = None,
    ) -> None:
        self._client = _imported("mlflow", "mlflow").MlflowClient(tracking_uri)
        self._entities = import_module("mlflow.entities")
        if run_id is None:
            found = self._client.get_experiment_by_name(experiment)
            where = found and found.experiment_id
            where = where or self._client.create_experiment(experiment)
            run_id = self._client.create_run(where, run_name=run_name).info.run_id
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id: str = run_id

    def on_epoch(self, line: Mapping[str, float]) -> None:
        now, epoch = int(1000 * time.time()), int(line["epoch"])
        metrics = [self._entities.Metric(*item, now, epoch) for item in _scores(line).items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def on_end(self, run: Run[Any]) -> None:
        params = [self._entities.Param(name, str(each)) for name, each in _options(run).items()]
        self._client.log_batch(self.run_id, params=params)
        if run.best_epoch is not None:
            self._client.log_metric(self.run_id, "best_epoch", run.best_epoch)
        self._client.set_terminated(self.run_id)

    def on_error(self, error: BaseException) -> None:
        stopped = isinstance(error, KeyboardInterrupt)
        self._client.set_terminated(self.run_id, "KILLED" if stopped else "FAILED")


def _imported(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        what = f"the package {package}: pip install {package}"
        raise expected("callbacks", what, "none that can be imported") from None


def _scores(line: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "epoch"}


def _options(run: Run[Any]) -> dict[str, Any]:
    """How it was fitted, as ``fit.json`` records it."""
    return {} if run.recipe is None else run.recipe.recorded()
