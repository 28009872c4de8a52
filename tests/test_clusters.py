"""Many fits on real clusters of this machine are those of one process, to the last bit.

Each needs its package: ``pip install 'pyro-vae[ray,dask]'``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation import impute

# What others do while they start and end is theirs: sockets that are closed late, old names.
pytestmark = [pytest.mark.filterwarnings("ignore")]

_X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
_FITS: dict[str, Any] = {"folds": 3, "num_samples": 20, "epochs": 2, "batch_size": 10}


@contextmanager
def _dask() -> Iterator[Any]:
    """Two workers, each a process with one thread."""
    import distributed

    local = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with local as cluster, distributed.Client(cluster):
        yield joblib.parallel_config(backend="dask")


@contextmanager
def _ray() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.util.joblib import register_ray

    beside = {"PYTHONPATH": os.pathsep.join([str(Path(pv.__file__).parents[1])])}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": beside})
    try:
        register_ray()
        yield joblib.parallel_config(backend="ray", n_jobs=2)
    finally:
        ray.shutdown()


@pytest.mark.parametrize(("package", "cluster"), [("distributed", _dask), ("ray", _ray)])
def test_a_cluster_comes_to_the_same(package: str, cluster: Any, tmp_path: Path) -> None:
    """A selection, left and resumed, and refits. Functions of this file are found by no name."""
    pytest.importorskip(package)

    def build(dim: int) -> pv.VAE:
        normal = pv.likelihoods.Normal((3,), scale="shared")
        networks = pv.networks.MLP((4,), dropout=0.1), pv.networks.MLP((4,))
        return pv.VAE(pv.priors.Normal(dim), pv.guides.Normal(dim), normal, *networks)

    def left(done: int, total: int, what: str) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    run = pv.fit(build(1), _X, epochs=2, batch_size=20, seed=0, compile=False)
    mask = torch.rand(_X.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    options: dict[str, Any] = {"refit": run.refit, "num_fits": 3, "num_imputations": 3}
    one = pv.select(build, _X, {"dim": [1, 2]}, **_FITS)
    filled = impute(run.vae, _X, mask, num_samples=50, **options)
    with cluster() as config:
        with config, pytest.raises(KeyboardInterrupt, match=r"after \d fits?; --resume"):
            pv.select(build, _X, {"dim": [1, 2]}, **_FITS, on_fit=left, out=tmp_path / "it")
        # How many were done by then is a matter of pace: leave two, so that some are to be fitted.
        kept = sorted((tmp_path / "it" / "fits").glob("fit-*"))
        assert len(kept) >= 2
        for path in kept[2:]:
            path.unlink()
        written = [path.stat().st_mtime_ns for path in kept[:2]]
        with config:
            two = pv.select(build, _X, {"dim": [1, 2]}, **_FITS, out=tmp_path / "it", resume=True)
            other = impute(run.vae, _X, mask, num_samples=50, **options)
    assert [path.stat().st_mtime_ns for path in kept[:2]] == written
    assert np.array_equal(one.log_marginal, two.log_marginal)
    assert one.candidates == two.candidates
    assert torch.equal(filled.x, other.x)
