"""The contract of a network: features in, features out, sized by the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pyro_vae._errors import expected, unknown_name
from pyro_vae.part import Part

__all__ = ["Activation", "Network", "Standardize", "activation_layer"]

Activation = Literal["elu", "gelu", "leaky_relu", "relu", "silu", "softplus", "tanh"]
_LAYERS: dict[Activation, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class Network(Part, ABC):
    """A network that :class:`pyro_vae.VAE` sizes from what the other parts declare."""

    roles: ClassVar[tuple[Literal["encoder", "decoder"], ...]] = ("encoder", "decoder")
    """What it can be, of a model."""
    levels: int | None = None
    """How many levels its inputs are, 0, 1, ..., which nobody standardises; None of numbers."""

    def check_role(self, role: Literal["encoder", "decoder"]) -> None:
        """Refuses a network in the place of the other one.

        Args:
            role: What it is to be.

        Raises:
            ValueError: If it is no encoder, or no decoder.
        """
        if role not in self.roles:
            name, other = type(self).__name__, self.roles[0]
            raise expected(role, f"a network that can be one: {name} is made for the {other}", name)

    @abstractmethod
    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        """Makes the layers, anew at each call.

        Args:
            in_shape: Shape of one input, without the batch dimension.
            out_shape: Shape of one output, likewise.
            cond_size: Entries of a condition, ``(B, cond_size)``, given as a second input.

        Raises:
            ValueError: If the network cannot map one shape to the other.
        """

    @abstractmethod
    def start_at(self, output: Tensor) -> None:
        """Sets the last layer such that the untrained network returns nearly ``output``.

        Args:
            output: What to return, of shape ``out_shape``.
        """


def activation_layer(name: Activation) -> nn.Module:
    """Returns a fresh activation layer.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in _LAYERS:
        raise unknown_name("activation", name, _LAYERS)
    return _LAYERS[name]()


class Standardize(nn.Module):
    """Shifts and scales what an encoder sees to mean zero and variance one.

    Counts go through ``log1p`` first. Vectors are scaled entry by entry; images, whose pixels
    share a unit, by one common scale, so that pixels that hardly vary stay quiet.

    Args:
        event_shape: Shape of one observation.
        counts: Whether the data are counts, or which entries are, shape ``event_shape``.
    """

    counts: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, event_shape: Sequence[int], *, counts: bool | Tensor = False) -> None:
        super().__init__()
        which = torch.as_tensor(counts).expand(*event_shape).clone()
        self._some, self._all = bool(which.any()), bool(which.all())
        self.register_buffer("counts", which, persistent=False)
        self.register_buffer("shift", torch.zeros(*event_shape))
        self.register_buffer("scale", torch.ones(*event_shape))

    @torch.no_grad()
    def fit(self, x: Tensor, done: Tensor | None = None) -> None:
        """Takes shift and scale from training data.

        Args:
            x: Shape ``(N, *event_shape)``.
            done: Which entries are standardised already, and stay as they are, ``event_shape``;
                none if not given.
        """
        done = torch.zeros_like(self.shift, dtype=torch.bool) if done is None else done
        x = self._logged(x)
        std = x.std(0, correction=0).masked_fill(x.amax(0) == x.amin(0), 0.0)
        scale = std if self.shift.ndim < 2 else std.square().mean().sqrt().expand_as(std)
        self.shift.copy_(x.mean(0).masked_fill(done, 0.0))
        # A constant column carries no information: with a scale of 1 it becomes zero.
        self.scale.copy_(torch.where((scale > 0) & ~done, scale, torch.ones_like(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the standardised batch, same shape."""
        return (self._logged(x) - self.shift) / self.scale

    def _logged(self, x: Tensor) -> Tensor:
        if not self._some:
            return x
        return x.log1p() if self._all else torch.where(self.counts, x.clamp_min(0).log1p(), x)
