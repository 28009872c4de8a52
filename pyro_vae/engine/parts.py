"""What stochastic variational inference is made of, each of which may be assigned."""

from __future__ import annotations

from collections.abc import Callable

import pyro.optim
from pyro.infer import SVI
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.engine.optim import Optim
from pyro_vae.engine.problem import Problem, Program

__all__ = ["Parts"]


class Parts(SVI):
    """Creates what has the parts of :class:`pyro.infer.SVI` in a problem.

    Args:
        problem: What steps are taken of.
        num_chains: As in :class:`pyro.infer.SVI`.
    """

    def __init__(self, problem: Problem, num_chains: int) -> None:
        # Its own constructor takes no other optimiser than Pyro's.
        super(SVI, self).__init__(num_chains=num_chains)
        self._problem = problem
        # Which hold what they were given.
        self._optims: dict[int, Optim] = {id(problem.optim.given): problem.optim}

    @property
    def model(self) -> Program:
        """The model."""
        return self._problem.model

    @model.setter
    def model(self, model: Program) -> None:
        self._problem.exchange(model=model)

    @property
    def guide(self) -> Program:
        """The guide."""
        return self._problem.guide

    @guide.setter
    def guide(self, guide: Program) -> None:
        self._problem.exchange(guide=guide)

    @property
    def loss_and_grads(self) -> Program:
        """What a step computes: it returns the loss, and leaves gradients with the parameters."""
        return self._problem.loss_and_grads

    @loss_and_grads.setter
    def loss_and_grads(self, loss_and_grads: Program) -> None:
        self._problem.exchange(loss_and_grads=loss_and_grads)

    @property
    def optim(self) -> pyro.optim.PyroOptim | Callable[[list[Tensor]], Optimizer]:
        """The optimiser that it was given, whose state is up to date whenever it is read."""
        return self._problem.optim.given

    @optim.setter
    def optim(self, optim: pyro.optim.PyroOptim | Callable[[list[Tensor]], Optimizer]) -> None:
        known = self._optims.setdefault(id(optim), Optim(optim))
        self._problem.exchange(optim=known)
