"""What guides of discrete variables have in common: how the objective takes their gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_vae.distributions.space import Mode, Relaxation, Site, Space
from pyro_vae.guides.guide import Guide

__all__ = ["Relaxed"]


class Relaxed(Guide):
    """A discrete guide, with a request to the objective, which alone installs the relaxation.

    Args:
        shape: Of z, and of what the encoder ends in.
        mode: How the objective takes gradients.
        temperature: Temperature at the first optimiser step.
        min_temperature: Where the annealing stops.
        anneal_rate: Rate of the exponential decay per optimiser step; 0 keeps the temperature.

    Raises:
        ValueError: If a temperature is not positive, the rate is negative, or the mode is unknown.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        mode: Mode,
        temperature: float,
        min_temperature: float,
        anneal_rate: float,
    ) -> None:
        super().__init__()
        Relaxation(mode, temperature, min_temperature, anneal_rate)  # checks them
        self.mode: Mode = mode
        self.temperature = temperature
        self.min_temperature = min_temperature
        self.anneal_rate = anneal_rate
        self.event_shape = self.param_shape = torch.Size(shape)

    @property
    def space(self) -> Space:
        """The one site, with the relaxation that is asked for at this time."""
        relaxation = Relaxation(self.mode, self.temperature, self.min_temperature, self.anneal_rate)
        return Space({"z": Site(self.event_shape, self.support, relaxation=relaxation)})
