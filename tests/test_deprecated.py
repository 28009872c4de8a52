"""Old names of methods: still called, still overridden, with a warning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_vae import likelihoods, objectives


def test_an_old_name_calls_the_method_that_replaced_it() -> None:
    objective = objectives.ELBO(label_weight=0.1)
    with pytest.warns(
        DeprecationWarning, match=r"`ELBO.told` is deprecated.*use `prepare`"
    ) as seen:
        objective.told(100, 20)
    assert objective.data_per_label == 5.0
    assert seen[0].filename == __file__  # where the old name was written
    table = likelihoods.Mixed((2,), ["Normal", {"class": "Poisson", "size_factor": True}])
    with pytest.warns(DeprecationWarning, match="use `entry`"):
        assert table.law_of((1,)) is table.entry((1,))
    x, sizes = torch.tensor([[1.0, 6.0]]), torch.tensor([2.0])
    with pytest.warns(DeprecationWarning, match="use `encoder_input`"):
        inputs = table.seen(x, size_factor=sizes)
    assert inputs.tolist() == [[1.0, 3.0]]


def test_an_override_of_an_old_name_is_called_by_the_new_one() -> None:
    """Fails when ``super()`` in the override leads back to the override."""
    with pytest.warns(DeprecationWarning, match=r"`Halved.told` is deprecated") as seen:

        class Halved(objectives.ELBO):
            def told(self, num_data: int, num_labels: int = 0) -> None:
                with pytest.warns(DeprecationWarning, match="is deprecated"):
                    super().told(num_data // 2, num_labels)

    assert seen[0].filename == __file__
    objective = Halved(label_weight=0.1)
    objective.prepare(100, 20)
    assert objective.data_per_label == 2.5
    objective.told(200, 20)
    assert objective.data_per_label == 5.0

    with pytest.warns(DeprecationWarning, match=r"`Rooted.seen` is deprecated"):

        class Rooted(likelihoods.Poisson):
            def seen(self, x: Tensor, **covariates: Tensor) -> Tensor:
                return x.sqrt()

    assert Rooted((1,)).encoder_input(torch.tensor([[4.0]])).tolist() == [[2.0]]


def test_an_override_of_the_new_name_is_called_by_the_old_one(recwarn: Any) -> None:
    class Rooted(likelihoods.Poisson):
        def encoder_input(self, x: Tensor, **covariates: Tensor) -> Tensor:
            return x.sqrt()

    assert not recwarn.list
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        assert Rooted((1,)).seen(torch.tensor([[4.0]])).tolist() == [[2.0]]
