"""What guides of discrete variables have in common: how the objective takes their gradient."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_vae._errors import expected, unknown_name
from pyro_vae.guides.guide import Guide

__all__ = ["Mode", "Relaxed"]

Mode = Literal["concrete", "enumerate", "soft", "straight-through"]


class Relaxed(Guide):
    """A discrete guide, with a request to the objective, which alone installs the relaxation.

    Args:
        mode: How the objective takes gradients.
        temperature: Temperature at the first optimiser step.
        min_temperature: Where the annealing stops.
        anneal_rate: Rate of the exponential decay per optimiser step; 0 keeps the temperature.

    Raises:
        ValueError: If a temperature is not positive, the rate is negative, or the mode is unknown.
    """

    def __init__(
        self, *, mode: Mode, temperature: float, min_temperature: float, anneal_rate: float
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise unknown_name("mode", mode, get_args(Mode))
        if not 0 < min_temperature <= temperature:
            limits = f"{min_temperature} and {temperature}"
            raise expected("temperature", "0 < min_temperature <= temperature", limits)
        if anneal_rate < 0:
            raise expected("anneal_rate", "a number >= 0", anneal_rate)
        self.mode: Mode = mode
        self.temperature = temperature
        self.min_temperature = min_temperature
        self.anneal_rate = anneal_rate

    def temperature_at(self, step: Tensor) -> Tensor:
        """Returns the temperature after ``step`` optimiser steps, both of shape ``()``."""
        annealed = self.temperature * torch.exp(-self.anneal_rate * step)
        return annealed.clamp_min(self.min_temperature)
