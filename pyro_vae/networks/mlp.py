"""Multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_vae._errors import expected, unknown_name
from pyro_vae.networks.network import Activation, Network, activation_layer
from pyro_vae.networks.norm import Norm, check_norm, norm_of_features

__all__ = ["MLP"]


class MLP(Network):
    r"""Creates a multilayer perceptron.

    .. math:: h_{i+1} = \mathrm{activation}(W_i h_i + b_i), \quad h_0 = x

    Inputs and outputs of any shape are flattened and restored. With ``input_norm`` l2,
    :math:`h_0 = x / \lVert x \rVert`, and ``input_dropout`` leaves out some of its entries, as a
    denoising autoencoder does: both together are the encoder of a recommender, whose rows differ in
    how much there is in them.

    References:
        Learning representations by back-propagating errors (Rumelhart et al., 1986),
        https://doi.org/10.1038/323533a0
        Variational Autoencoders for Collaborative Filtering (Liang et al., 2018),
        https://arxiv.org/abs/1802.05814, for norm and dropout of the inputs

    Args:
        hidden: Widths of the hidden layers; empty for one linear map.
        activation: What follows each hidden layer.
        dropout: Share of the hidden units that each training step leaves out, against overfitting
            of small data (Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html).
        norm: What normalises the inputs of each activation: ``batch``, over the rows of a batch
            (Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167), of which a batch of one row
            takes the running statistics, as evaluation does; ``layer``, over the units of each row
            (Ba et al., 2016, https://arxiv.org/abs/1607.06450); None, nothing.
        input_dropout: Share of the inputs that each training step leaves out; what is left is
            scaled up to the same mean.
        input_norm: ``l2`` divides each row of the inputs by its Euclidean norm; None, nothing.

    Raises:
        ValueError: If a width is not positive, the activation or a normalisation is unknown, or
            a dropout is not in [0, 1).

    Example:
        >>> net = MLP(hidden=(32,))
        >>> net.build((1, 8, 8), (4,))
        >>> net(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        hidden: Sequence[int] = (512, 512),
        activation: Activation = "silu",
        dropout: float = 0.0,
        norm: Norm | None = None,
        input_dropout: float = 0.0,
        input_norm: Literal["l2"] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(hidden, int):
            raise expected("hidden", f"widths of layers, such as ({hidden},)", hidden)
        if any(width < 1 for width in hidden):
            raise expected("hidden", "positive widths", hidden)
        activation_layer(activation)
        for name, share in (("dropout", dropout), ("input_dropout", input_dropout)):
            if not 0 <= share < 1:
                raise expected(name, "a number from 0 to less than 1", share)
        if input_norm not in (None, "l2"):
            raise unknown_name("input_norm", str(input_norm), ("l2",))
        self.hidden = tuple(hidden)
        self.activation = activation
        self.dropout = dropout
        self.norm = check_norm(norm)
        self.input_dropout = input_dropout
        self.input_norm = input_norm
        self.layers = nn.Sequential()
        self.out_shape = torch.Size()

    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        widths = [math.prod(in_shape) + cond_size, *self.hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            # A bias before batch normalisation is subtracted again, and has no gradient.
            layers.append(nn.Linear(before, after, bias=self.norm != "batch"))
            layers += norm_of_features(self.norm, after)
            layers.append(activation_layer(self.activation))
            if self.dropout > 0:
                layers.append(nn.Dropout(self.dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], math.prod(out_shape)))
        self.out_shape = torch.Size(out_shape)

    @torch.no_grad()
    def start_at(self, output: Tensor) -> None:
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(0.01)
        last.bias.copy_(output.flatten())

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Returns the outputs, ``(B, *out_shape)``.

        Args:
            x: Inputs, shape ``(B, *in_shape)``.
            cond: What they are conditioned on, shape ``(B, cond_size)``, if it was built for that.
        """
        return self.layers(self._inputs(x, cond)).reshape(-1, *self.out_shape)

    def first_outputs(self, count: int, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Returns the first ``count`` entries of the flattened outputs, and computes no others.

        Args:
            count: Of the entries.
            x: Inputs, shape ``(B, *in_shape)``.
            cond: What they are conditioned on, shape ``(B, cond_size)``, if it was built for that.
        """
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        hidden = self.layers[:-1](self._inputs(x, cond))
        return nn.functional.linear(hidden, last.weight[:count], last.bias[:count])

    def _inputs(self, x: Tensor, cond: Tensor | None) -> Tensor:
        """Returns what the first layer sees; of a condition nothing is left out."""
        x = x.flatten(1)
        if self.input_norm is not None:
            x = nn.functional.normalize(x, dim=1)
        if self.input_dropout > 0:
            x = nn.functional.dropout(x, self.input_dropout, self.training)
        return x if cond is None else torch.cat([x, cond], 1)
