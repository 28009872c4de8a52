"""Transitions of annealed chains along a path, compiled where there is enough work."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import pyro
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec

from pyro_vae.data.rows import Rows
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.graph import Graph, values_stay_tensors
from pyro_vae.evaluation._draws import decoder_operations, worth_compiling
from pyro_vae.evaluation._hmc import Point, transition
from pyro_vae.programs import Amortized

__all__ = ["Initial", "Transitions", "density"]

log = logging.getLogger("pyro_vae")

Initial = Literal["guide", "prior"]
_GRADIENT = 2  # times the operations of the value: a product forwards, and one back to z


def density(vae: Amortized, features: Tensor, rows: Rows, initial: Initial, z: Tensor) -> Point:
    """Evaluates the path from the initial distribution to p(x, z) at z, with its gradients."""
    # Parameters may require gradients: only those by z are computed, and none is accumulated.
    # Validation would raise where a trajectory diverges; a transition rejects that instead.
    with torch.enable_grad(), pyro.validation_enabled(False):
        z = z.detach().requires_grad_()
        guided = initial == "guide"
        prior = vae.prior_at(rows.given)
        base = (vae.guide_at(features, rows) if guided else prior).log_prob(z)
        ratio = vae.log_likelihood(z, rows)
        if guided:
            ratio = ratio + prior.log_prob(z) - base
        (base_gradient,) = torch.autograd.grad(base.sum(), z, retain_graph=True)
        (ratio_gradient,) = torch.autograd.grad(ratio.sum(), z)
    return Point(z.detach(), base.detach(), ratio.detach(), base_gradient, ratio_gradient)


class Transitions:
    """Creates what moves all chains of a batch by one transition.

    Momenta, leapfrog steps and acceptance are one graph where there is enough work for a compiler,
    with the same random numbers.

    Args:
        vae: The model, in evaluation mode.
        initial: Where the path starts.
        num_leapfrog: Leapfrog steps of a transition.
        batches: The data, as they come.
        calls: How often so many chains of each batch are moved, by the number of chains.
    """

    def __init__(
        self,
        vae: Amortized,
        initial: Initial,
        num_leapfrog: int,
        batches: Sequence[Rows],
        calls: Mapping[int, int],
    ) -> None:
        self._vae, self._initial, self._num_leapfrog = vae, initial, num_leapfrog
        each = _GRADIENT * num_leapfrog * decoder_operations(vae)
        device = batches[0].x.device
        self._graphs: dict[tuple[int, int], Graph | None] = {
            (chains, size): None
            for size, number in Counter(map(len, batches)).items()
            for chains, times in calls.items()
            if worth_compiling(each * number * times * chains * size, device)
        }

    def __call__(
        self,
        rows: Rows,
        features: Tensor,
        point: Point,
        beta: float,
        step_size: Tensor,
        scale: Tensor,
    ) -> tuple[Point, Tensor]:
        """Moves every chain; arguments and results are those of ``transition``."""
        leaves, structure = rows.flatten()
        share = point.base.new_tensor(beta)
        inputs = [*point, share, step_size, scale, features, *leaves]
        shape = (len(point.z), len(rows))
        if shape in self._graphs:
            if self._graphs[shape] is None:
                self._capture(shape, inputs, structure)
            if (graph := self._graphs.get(shape)) is not None:
                *moved, probability = graph(*inputs)
                return Point(*moved), probability
        *moved, probability = self._moved(structure, *inputs)
        return Point(*moved), probability

    def _moved(self, structure: TreeSpec, *inputs: Tensor) -> list[Tensor]:
        size = len(Point._fields)
        point = Point(*inputs[:size])
        beta, step_size, scale, features, *leaves = inputs[size:]
        rows = Rows.unflatten(leaves, structure)
        along = partial(density, self._vae, features, rows, self._initial)
        moved, probability = transition(along, point, beta, step_size, scale, self._num_leapfrog)
        return [*moved, probability]

    def _capture(self, shape: tuple[int, int], inputs: list[Tensor], structure: TreeSpec) -> None:
        def move(*inputs: Tensor) -> list[Tensor]:
            with values_stay_tensors():
                return self._moved(structure, *inputs)

        try:
            self._graphs[shape] = Graph(move, Dependencies(self._vae).tensors, inputs)
        except NotCapturable as reason:
            log.warning("annealed importance sampling runs eagerly: %s", reason)
            self._graphs.clear()
