"""What convolutions of images and of series have in common: how they start, and what goes in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_vae.networks.network import Network

__all__ = ["ConvolvingDecoder", "ConvolvingEncoder"]


class ConvolvingEncoder(Network):
    """Layers from channels over pixels or steps to a vector; the last one is linear."""

    roles = ("encoder",)
    layers: nn.Sequential
    out_shape: torch.Size

    @torch.no_grad()
    def start_at(self, output: Tensor) -> None:
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(0.01)
        last.bias.copy_(output.flatten())

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Returns the features, ``(B, *out_shape)``.

        Args:
            x: Images, shape ``(B, C, H, W)``, or series, ``(B, C, T)``.
            cond: What they are conditioned on, shape ``(B, cond_size)``, if it was built for that.
        """
        if cond is not None:  # the same in each pixel, or at each step
            sizes = x.shape[2:]
            everywhere = cond.reshape(*cond.shape, *[1] * len(sizes)).expand(-1, -1, *sizes)
            x = torch.cat([x, everywhere], 1)
        return self.layers(x).reshape(-1, *self.out_shape)


class ConvolvingDecoder(Network):
    """Layers from a vector to channels over pixels or steps, and a bias for each of these."""

    roles = ("decoder",)
    layers: nn.Sequential
    bias: nn.Parameter

    @torch.no_grad()
    def start_at(self, output: Tensor) -> None:
        last = self.layers[-1]
        assert isinstance(last, nn.Conv1d | nn.ConvTranspose2d)
        last.weight.mul_(0.01)
        self.bias.copy_(output)

    def forward(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Returns the parameters of images, ``(B, C, H, W)``, or of series, ``(B, C, T)``.

        Args:
            z: Latents, shape ``(B, *in_shape)``.
            cond: What they are conditioned on, shape ``(B, cond_size)``, if it was built for that.
        """
        inputs = z if cond is None else torch.cat([z.flatten(1), cond], 1)
        return self.layers(inputs) + self.bias
