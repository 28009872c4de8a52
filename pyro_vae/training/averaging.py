r"""Averages of the weights along the path of a fit.

Weights that a constant learning rate keeps moving lie around an optimum, and their mean is nearer
to it than any of them:

.. math:: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t)\, \theta_t,
    \qquad d_t = \min\left(0.999, \frac{1 + t}{10 + t}\right),

after each step, ``ema``; or the plain mean of the weights at the ends of the epochs of the last
quarter, ``swa``.

References:
    Acceleration of Stochastic Approximation by Averaging (Polyak and Juditsky, 1992),
    https://doi.org/10.1137/0330046
    Averaging Weights Leads to Wider Optima and Better Generalization (Izmailov et al., 2018),
    https://arxiv.org/abs/1803.05407
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from pyro_vae.programs import Amortized

__all__ = ["Average", "Averaging", "copied"]

Average: TypeAlias = Literal["ema", "swa"]

_DECAY = 0.999
_LATE = 0.75  # of the epochs, after which the plain mean begins


def copied(vae: Amortized) -> dict[str, Tensor]:
    """Returns the state of a program, in tensors of its own."""
    return {name: tensor.detach().clone() for name, tensor in vae.state_dict().items()}


class Averaging:
    """Creates a running average of what a fit moves: parameters, and statistics of batches.

    It has torch's updates of many tensors at once, and none of its ``AveragedModel``, which copies
    a module: a program of functions has no copy.

    Args:
        vae: The model.
        kind: ``ema`` or ``swa``.
        epochs: Passes over the data in all.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> average = Averaging(vae, "swa", epochs=4)
        >>> average.after_epoch(3), average.has_begun
        (None, False)
        >>> average.after_epoch(4), average.has_begun
        (None, True)
    """

    def __init__(self, vae: Amortized, kind: Average, epochs: int) -> None:
        self.vae = vae
        self.kind = kind
        self.first = int(_LATE * epochs) + 1  # epoch of the plain mean
        self.count = 0
        self._averages: list[Tensor] = []

    @property
    def has_begun(self) -> bool:
        """Whether there is an average."""
        return self.count > 0

    def after_step(self) -> None:
        """Takes in the weights after a step."""
        if self.kind == "ema":
            # The first weights are far from all others: the memory grows with the steps.
            self._take(get_ema_multi_avg_fn(min(_DECAY, (1 + self.count) / (10 + self.count))))

    def after_epoch(self, epoch: int) -> None:
        """Takes in the weights at the end of an epoch, counted from 1."""
        if self.kind == "swa" and epoch >= self.first:
            self._take(get_swa_multi_avg_fn())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside it the model has the averages; its weights then come back."""
        moving = self._moving()
        kept = [tensor.clone() for tensor in moving]
        try:
            _assign(moving, self._averages)
            yield
        finally:
            _assign(moving, kept)

    def state_dict(self) -> dict[str, Any]:
        """Returns all that :meth:`load_state_dict` needs."""
        return {"count": self.count, "averages": self._averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned."""
        self.count = int(state["count"])
        pairs = zip(state["averages"], self._moving(), strict=self.has_begun)
        self._averages = [average.to(tensor.device) for average, tensor in pairs]

    def _take(self, update: Any) -> None:
        moving = self._moving()
        if self.has_begun:
            update(self._averages, moving, self.count)
        else:
            self._averages = [tensor.clone() for tensor in moving]
        self.count += 1

    def _moving(self) -> list[Tensor]:
        found = [parameter.detach() for _, parameter in self.vae.named_parameters()]
        for module in self.vae.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                assert module.running_var is not None
                found += [module.running_mean, module.running_var]
        return found


@torch.no_grad()
def _assign(targets: list[Tensor], values: list[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
